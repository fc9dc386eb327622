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
from tollboard.ids import check_name, looks_like_id
from tollboard.runtime.approval import Decision, parse_decision
from tollboard.runtime.memory import Memory
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.telemetry import AGENT_CRASHED, AGENT_STOPPED, EventName, Measurements, Metadata
from tollboard.subagents.events import Observer
from tollboard.subagents.outcome import ENDED, ActionRequest, Interrupted, Outcome, Status
from tollboard.subagents.run import Run
from tollboard.subagents.subagent import SubAgent
from tollboard.subagents.tree import Tree

KEPT_FINISHED = 100
"""How many sub-agents that have a parent and have ended can still be looked at; the oldest are let go."""

GivenDecision = Decision | Mapping[str, object]
Decisions = Sequence[GivenDecision] | Mapping[str, GivenDecision]
"""One decision for each action request, in their order; or some of them by tool call id or by the request's id."""


class SubAgentServer:
    """Runs sub-agents, each a blocking call for whoever started it. Belongs to one event loop.

    `parent` names the agent or session that hosts them, for those that are started without a parent of their own. With
    a `runtime` such a name must be that of one of its agents, and when that agent ends, so do those below it.
    """

    def __init__(
        self, *, parent: str | None = None, runtime: Runtime | None = None, memory: Memory | None = None,
        observer: Observer | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._parent = parent
        self._runtime = runtime
        self._memory = memory
        self._observer = observer
        self._clock = clock or SystemClock()
        self._subagents: dict[str, SubAgent] = {}
        self._tree = Tree()
        self._finished: dict[str, None] = {}
        """Those with a parent that have ended, oldest first."""
        self._gone: dict[str, None] = {}
        """Ids that were stopped, oldest first: none of them is the name of a host."""
        if parent is not None:
            self._check_host(parent)
        if runtime is not None:
            runtime.telemetry.attach(self._listener, (AGENT_STOPPED, AGENT_CRASHED), self._host_ended)

    @property
    def _listener(self) -> str:
        return f"subagents.{id(self)}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self, subagent: SubAgent) -> str:
        """Register a sub-agent under its id, status `idle`, or as an earlier process left it; return the id.

        Raises SubAgentExists, SubAgentNotFound when its parent is not here or it is stopped meanwhile, InvalidStatus
        when its parent has ended, InvalidName for a parent that can be no name, and what its model raises when it is
        made.
        """
        if subagent.id in self._subagents:
            raise SubAgentExists(f"there is a sub-agent {subagent.id!r} already; give each an id of its own")
        parent = subagent.parent if subagent.parent is not None else self._parent
        if parent is not None:
            self._check_parent(parent)
        run = Run(
            subagent.config, subagent.instructions, id=subagent.id, parent=parent, memory=self._memory,
            deps=subagent.deps, model=subagent.model, clock=self._clock, observer=self._observer, tree=self._tree,
        )  # fmt: skip
        self._subagents[subagent.id] = subagent
        try:
            await run.load()
        except BaseException:
            self._forget(subagent.id)
            raise
        if self._tree.runs.get(subagent.id) is not run:
            raise _not_here(subagent.id)
        return subagent.id

    async def execute(self, id: str) -> Outcome:
        """Run it to its end or to its first pause. Raises SubAgentNotFound, InvalidStatus unless it is idle.

        Returns a `Failed` with the cause `cancelled` within 2.5 seconds after `cancel` or `stop`, whatever a tool does.
        """
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
        return self._tree.runs.get(id)

    async def cancel(self, id: str) -> None:
        """End it and everything below it, also in the middle of a model call; observers hear so first.

        Also one that a `task` call started: its parent is told and goes on. Whoever waits for it gets a `Failed` with
        the cause `cancelled`. Given the name of a host, it ends all that were started under that. With a memory
        a later process finds it cancelled. Idempotent: one that is unknown, gone or ending is no error.
        """
        runs = self._tree.with_below(id)
        for run in runs:
            run.cancel()
            self._note_finished(run)
        await _ended(runs)

    async def stop(self, id: str) -> None:
        """End it if it has not ended, and forget it with everything below it. Idempotent, like `cancel`.

        With a memory, `start` with the same id takes it up again where it was.
        """
        runs = self._tree.with_below(id)
        for run in runs:
            run.cancelled()
        try:
            await _ended(runs)
        finally:
            for run in runs:
                self._forget(run.id)

    async def close(self) -> None:
        """Stop all there are. Idempotent."""
        if self._runtime is not None:
            self._runtime.telemetry.detach(self._listener)
        await asyncio.gather(*(self.stop(id) for id in tuple(self._subagents)))

    # -- inside ------------------------------------------------------------------------------------

    def _run(self, id: str) -> Run:
        run = self._tree.runs.get(id)
        if run is None or id not in self._subagents:
            raise _not_here(id)
        return run

    def _check_parent(self, parent: str) -> None:
        """Raise unless something may be started under this parent: a sub-agent, or the name of its host."""
        run = self._tree.runs.get(parent)
        if run is None:
            self._check_host(parent)
        elif run.status in ENDED:
            raise InvalidStatus(
                run.status.value, expected="idle, running or interrupted", who=f"the parent {parent!r}"
            )

    def _check_host(self, name: str) -> None:
        if name in self._gone or looks_like_id(name):
            raise SubAgentNotFound(
                f"there is no sub-agent {name!r} that could be the parent of this one: it has ended, or never was"
            )
        check_name(name)
        if self._runtime is not None and self._runtime.whereis(name) is None:
            raise SubAgentNotFound(
                f"there is neither a sub-agent nor an agent {name!r} to be the parent of this one"
            )

    def _host_ended(self, event: EventName, measurements: Measurements, metadata: Metadata) -> None:
        for run in self._tree.with_below(str(metadata["agent"])):
            run.cancelled()
            self._note_finished(run)

    def _expect(self, run: Run, wanted: Status) -> None:
        if run.status is not wanted or run.at_work:
            status = Status.RUNNING if run.at_work and run.status not in ENDED else run.status
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
        run = self._tree.runs[id]
        try:
            return await run.go()
        finally:
            if run.status in ENDED:
                for below in self._tree.with_below(id):
                    below.cancelled()  # those that were started with this one as their parent (A29)
                    self._note_finished(below)

    def _note_finished(self, run: Run) -> None:
        """Let go of those with a parent that ended long ago: a parent may have any number of them (A29)."""
        if run.parent is None or run.id not in self._subagents:
            return
        self._finished[run.id] = None
        while len(self._finished) > KEPT_FINISHED:
            self._forget(next(iter(self._finished)))

    def _forget(self, id: str) -> None:
        self._finished.pop(id, None)
        self._tree.drop(id)
        if self._subagents.pop(id, None) is not None and not looks_like_id(id):
            self._gone[id] = None
            while len(self._gone) > KEPT_FINISHED:
                del self._gone[next(iter(self._gone))]


async def _ended(runs: Sequence[Run]) -> None:
    if at_work := [run for run in runs if run.at_work]:
        await asyncio.gather(*(run.ended() for run in at_work))


def _not_here(id: str) -> SubAgentNotFound:
    return SubAgentNotFound(f"there is no sub-agent {id!r}: it was never started, or it was stopped")


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
