"""The server of sub-agents: `start execute resume get_status get_subagent whereis cancel stop`, by id.

    async with SubAgentServer() as server:
        id = await server.start(SubAgent(researcher, "Who found the noble gases?"))
        outcome = await server.execute(id)
        while isinstance(outcome, Interrupted):
            outcome = await server.resume(id, [ask_a_person(request) for request in outcome.interrupt.requests])

With a memory that outlives the process, `start` with the same id takes an earlier run up where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tollboard.clock import Clock, SystemClock
from tollboard.errors import (
    InvalidDecision,
    InvalidStatus,
    SubAgentExists,
    SubAgentNotFound,
)
from tollboard.runtime.approval import Decision, parse_decision
from tollboard.runtime.memory import Memory
from tollboard.subagents.events import Observer
from tollboard.subagents.outcome import ActionRequest, Cause, Failed, Interrupted, Outcome, Status
from tollboard.subagents.run import Run
from tollboard.subagents.subagent import SubAgent

CANCEL_S = 2.0
"""How long a run may take to end once it was cancelled; then it is given up, and its caller is told."""

GivenDecision = Decision | Mapping[str, object]
Decisions = Sequence[GivenDecision] | Mapping[str, GivenDecision]
"""One decision for each action request, in their order; or some of them by tool call id or by the request's id."""


class SubAgentServer:
    """Runs sub-agents, each a blocking call for whoever started it. Belongs to one event loop."""

    def __init__(
        self, *, memory: Memory | None = None, observer: Observer | None = None, clock: Clock | None = None
    ) -> None:
        self._memory = memory
        self._observer = observer
        self._clock = clock or SystemClock()
        self._subagents: dict[str, SubAgent] = {}
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, subagent: SubAgent) -> str:
        """Register a sub-agent under its id, status `idle`, or as an earlier process left it; return the id.

        Raises SubAgentExists, SubAgentNotFound when its parent is not here, and what its model raises when it is made.
        """
        if subagent.id in self._subagents:
            raise SubAgentExists(f"there is a sub-agent {subagent.id!r} already; give each an id of its own")
        if subagent.parent is not None and subagent.parent not in self._runs:
            raise SubAgentNotFound(
                f"there is no sub-agent {subagent.parent!r} that could be the parent of this one"
            )
        run = Run(
            subagent.definition, subagent.instructions, id=subagent.id, parent=subagent.parent, memory=self._memory,
            deps=subagent.deps, model=subagent.model, clock=self._clock, observer=self._observer, known=self._runs,
        )  # fmt: skip
        self._subagents[subagent.id] = subagent
        try:
            await run.load()
        except BaseException:
            self._forget(subagent.id)
            raise
        return subagent.id

    async def execute(self, id: str) -> Outcome:
        """Run it to its end or to its first pause. Raises SubAgentNotFound, InvalidStatus unless it is idle."""
        self._expect(self._run(id), Status.IDLE)
        return await self._go(id)

    async def resume(self, id: str, decisions: Decisions) -> Outcome:
        """Apply decisions and run on. With only some of them, they are kept and what still waits is returned.

        Raises SubAgentNotFound, InvalidStatus unless it is interrupted, and InvalidDecision that names the decision;
        then nothing was changed and it still waits.
        """
        run = self._run(id)
        self._expect(run, Status.INTERRUPTED)
        given = matched(run.interrupt().requests, decisions)
        for request, decision in given:
            try:
                run.loop.check(request.id, decision)
            except InvalidDecision as wrong:
                raise InvalidDecision(
                    f"decision for {request.tool!r} ({request.tool_call_id}): {wrong}"
                ) from None
        await self._decide(run, given)
        if run.status is not Status.INTERRUPTED and run.outcome is not None:
            return run.outcome  # it was cancelled meanwhile
        if (left := run.interrupt()).requests:
            run.outcome = Interrupted(left)
            return run.outcome
        return await self._go(id)

    def get_status(self, id: str) -> Status:
        """Return how it stands; at once, also while it runs. Raises SubAgentNotFound."""
        return self._run(id).status

    def get_subagent(self, id: str) -> SubAgent:
        """Return the value it was started with. Raises SubAgentNotFound."""
        self._run(id)
        return self._subagents[id]

    def whereis(self, id: str) -> Run | None:
        """Return the run behind an id, also of one that a `task` call started, or `None`."""
        return self._runs.get(id)

    async def cancel(self, id: str) -> None:
        """End it and everything below it, also in the middle of a model call; observers hear so first. Idempotent.

        Whoever waits for it gets a `Failed` with the cause `cancelled`. Raises SubAgentNotFound.
        """
        run = self._run(id)
        run.cancelled()
        below = self._below(id)
        for child in below:
            if (found := self._runs.get(child)) is not None:
                found.cancelled()
        if at_work := [each for each in (id, *below) if each in self._tasks]:
            await asyncio.gather(*(self._end(each) for each in at_work))

    async def stop(self, id: str) -> None:
        """Cancel it if it has not ended, and forget it with everything below it. Idempotent."""
        if id not in self._runs:
            return
        await self.cancel(id)
        for each in (*self._below(id), id):
            self._forget(each)

    async def close(self) -> None:
        """Stop all there are. Idempotent."""
        await asyncio.gather(*(self.stop(id) for id in tuple(self._subagents)))

    # -- inside ------------------------------------------------------------------------------------

    def _run(self, id: str) -> Run:
        run = self._runs.get(id)
        if run is None or id not in self._subagents:
            raise SubAgentNotFound(f"there is no sub-agent {id!r}: it was never started, or it was stopped")
        return run

    def _expect(self, run: Run, wanted: Status) -> None:
        if run.status is not wanted or run.id in self._tasks:
            status = Status.RUNNING if run.id in self._tasks else run.status
            raise InvalidStatus(status.value, expected=wanted.value)

    async def _decide(self, run: Run, given: Sequence[tuple[ActionRequest, Decision]]) -> None:
        run.status = Status.RUNNING  # taken: the same decisions from somebody else come too late
        try:
            for request, decision in given:
                await run.loop.decide(request.id, decision)
                if run.status is not Status.RUNNING:
                    return
        finally:
            if run.status is Status.RUNNING:
                run.status = Status.INTERRUPTED

    async def _go(self, id: str) -> Outcome:
        run = self._runs[id]
        task = self._tasks[id] = asyncio.get_running_loop().create_task(run.go(), name=f"sub-agent {id}")
        task.add_done_callback(lambda _: self._tasks.pop(id, None))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await self._end(id)
            raise
        if task.cancelled():
            return Failed("it was cancelled", Cause.CANCELLED, usage=run.loop.total())
        return task.result()

    async def _end(self, id: str) -> None:
        """Cancel its task and wait for that, but not for ever: a tool may swallow the cancellation."""
        task = self._tasks.get(id)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_S)

    def _below(self, id: str) -> tuple[str, ...]:
        """Return the ids of those that were started with this one as their parent, and of theirs."""
        own = [run.id for run in self._runs.values() if run.parent == id]
        return tuple(own) + tuple(below for child in own for below in self._below(child))

    def _forget(self, id: str) -> None:
        self._subagents.pop(id, None)
        self._runs.pop(id, None)


def matched(requests: Sequence[ActionRequest], decisions: Decisions) -> list[tuple[ActionRequest, Decision]]:
    """Return each decision with the request it is meant for. Raises InvalidDecision that names the one at fault."""
    if isinstance(decisions, Mapping):
        given = [(_meant(requests, key), _parsed(key, decision)) for key, decision in decisions.items()]
        ids = [request.id for request, _ in given]
        if doubled := next((request for request, _ in given if ids.count(request.id) > 1), None):
            raise InvalidDecision(
                f"two decisions were given for {doubled.tool!r} ({doubled.tool_call_id}): by the id of its call and by "
                "the id of its request; give one"
            )
        return given
    if len(decisions) != len(requests):
        raise InvalidDecision(f"{len(decisions)} decisions were given, {len(requests)} calls wait for one")
    return [
        (request, _parsed(request.tool_call_id, decision))
        for request, decision in zip(requests, decisions, strict=True)
    ]


def _meant(requests: Sequence[ActionRequest], key: str) -> ActionRequest:
    """Return the request that an id stands for: its own, or that of its call unless two calls have it (L07)."""
    by_own = [request for request in requests if request.id == key]
    found = by_own or [request for request in requests if request.tool_call_id == key]
    if len(found) > 1:
        choices = "; ".join(f"{each.id} ({' › '.join(each.path)}: {each.tool})" for each in found)
        raise InvalidDecision(
            f"{len(found)} calls wait under the id {key!r}; name each by the id of its request: {choices}"
        )
    if not found:
        raise InvalidDecision(
            f"no call waits under the id {key!r}; waiting are: "
            f"{', '.join(request.tool_call_id for request in requests)}"
        )
    return found[0]


def _parsed(name: str, decision: GivenDecision) -> Decision:
    try:
        return parse_decision(decision)
    except InvalidDecision as wrong:
        raise InvalidDecision(f"decision for {name}: {wrong}") from None
