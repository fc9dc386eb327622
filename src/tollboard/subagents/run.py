"""A sub-agent at work: its status, what it tells observers, and how it ends. The loop below it does the talking."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from tollboard.clock import Clock, Timer
from tollboard.errors import StoreError
from tollboard.runtime.event import Usage
from tollboard.runtime.memory import Memory
from tollboard.subagents.events import (
    LLMMessage,
    Observer,
    Started,
    StatusChanged,
    SubAgentCancelled,
    SubAgentCompleted,
    SubAgentEvent,
    SubAgentFailed,
)
from tollboard.subagents.journal import RunJournal
from tollboard.subagents.outcome import (
    CANCELLED,
    ENDED,
    Cause,
    Completed,
    Failed,
    Interrupt,
    Interrupted,
    Outcome,
    Status,
)
from tollboard.subagents.subagent import CompiledSubAgent, Definition, SubAgentConfig, tool_names
from tollboard.subagents.tree import Tree

if TYPE_CHECKING:
    from pydantic_ai import UsageLimits

    from tollboard.subagents.loop import Loop

logger = logging.getLogger("tollboard.subagents")

CANCEL_S = 2.0
"""How long a run may take to end once it was cancelled; then it is given up, and its caller is told."""
LAST_MESSAGES = 5


class Run:
    """One sub-agent, from its instructions to its outcome; also those below it.

    It works in a task of its own, so that one can be cancelled without its parent, and so that a tool that swallows its
    cancellation, blocks in a thread or hangs while it cleans up cannot hold whoever waits for it (A28).
    """

    def __init__(
        self,
        definition: Definition,
        instructions: str,
        *,
        id: str,
        path: tuple[str, ...] = (),
        parent: str | None = None,
        memory: Memory | None = None,
        deps: Any = None,
        model: Any = None,
        limits: UsageLimits | None = None,
        clock: Clock,
        observer: Observer | None = None,
        tree: Tree | None = None,
        nested: bool = False,
    ) -> None:
        from tollboard.subagents.loop import Loop  # Pydantic AI takes most of a second to import

        if not isinstance(definition, SubAgentConfig | CompiledSubAgent):
            raise TypeError(
                f"a definition is a SubAgentConfig or a CompiledSubAgent, not {type(definition).__name__}"
            )
        self.id = id
        self.parent = parent
        self.definition = definition
        self.instructions = instructions
        self.status = Status.IDLE
        self.outcome: Outcome | None = None
        self._memory = memory
        self._clock = clock
        self._observer = None if definition.suppress_events else observer
        self._observers = observer
        self._tree = tree if tree is not None else Tree()
        self._nested = nested
        """Whether a `task` call started it."""
        self._began: float | None = None
        self._prompted = False
        self._told = False
        self._task: asyncio.Task[Outcome] | None = None
        self._released: asyncio.Future[None] | None = None
        """Done when nobody is to wait for the task any longer."""
        self._timer: Timer | None = None
        self._journal = RunJournal(memory, id)
        self.loop = Loop(
            definition,
            id=id,
            path=(*path, definition.name),
            journal=self._journal,
            make_child=self._make_child,
            deps=deps,
            model=model,
            limits=limits,
            heard=self._heard if self._observer is not None else None,
        )
        self._tree.add(self)

    def _make_child(self, loop: Loop, definition: Definition, id: str, instructions: str) -> Run:
        if self.status in ENDED:
            raise asyncio.CancelledError  # a tool that swallowed its own: nothing begins under what has ended (A29)
        return Run(
            definition, instructions, id=id, path=loop.path, parent=self.id, memory=self._memory, deps=loop.deps,
            model=loop.model, limits=loop.limits, clock=self._clock, observer=self._observers, tree=self._tree,
            nested=True,
        )  # fmt: skip

    async def load(self) -> bool:
        """Take up what an earlier process wrote down; return whether there was anything.

        One that was cut off in the middle is `idle` again, and goes on where it was without repeating a call.
        """
        if not await self.loop.load() or self.status in ENDED:
            return False  # also one that was cancelled meanwhile: it stays so
        self._prompted = bool(self.loop.messages)
        stored = Status(self.loop.head.status)
        self.status = Status.IDLE if stored is Status.RUNNING else stored
        self.outcome = _outcome(self.loop.head.result, self.loop.total())
        if self.status is Status.INTERRUPTED:
            self.outcome = Interrupted(self.interrupt())
        return True

    def interrupt(self) -> Interrupt:
        """Return what waits for people now."""
        return Interrupt(self.id, self.definition.name, self.loop.questions())

    async def go(self) -> Outcome:
        """Run to the end or to the next pause; what has ended gives its outcome again.

        Whatever goes wrong is a `Failed`, also that it was cancelled: then this returns within `CANCEL_S` seconds, even
        if a tool goes on. Cancelling the caller goes through, and ends the run and everything below.
        """
        loop = asyncio.get_running_loop()
        task = self._task = loop.create_task(self._work(), name=f"sub-agent {self.id}")
        released = self._released = loop.create_future()
        task.add_done_callback(self._worked)
        try:
            await asyncio.wait({task, released}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.cancelled()
            await self.ended()
            raise
        if self.outcome is not None and (not task.done() or task.cancelled()):
            return self.outcome
        return task.result()

    def _worked(self, task: asyncio.Task[Outcome]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._release()
        if self._task is task:
            self._task = None

    def _release(self) -> None:
        if self._released is not None and not self._released.done():
            self._released.set_result(None)

    @property
    def at_work(self) -> bool:
        """Return whether somebody waits for it, and it has not been given up."""
        return self._released is not None and not self._released.done()

    async def ended(self) -> None:
        """Wait until it has ended, at most `CANCEL_S` seconds after it was cancelled."""
        if self._released is not None:
            await asyncio.wait({self._released})

    async def _work(self) -> Outcome:
        try:
            return await self._to_the_next_pause()
        except asyncio.CancelledError:
            self.cancelled()
            raise

    async def _to_the_next_pause(self) -> Outcome:
        if (
            self.status is Status.IDLE
            and not self._prompted
            and self.loop.head.count == 0
            and not await self.load()
        ):
            self._begin_messages()
        if self.outcome is not None and self.status in ENDED:
            self._tell_ended(self.outcome)
            return self.outcome
        self._tell_started()
        self._turn(Status.RUNNING)
        outcome = await self._go()
        if self.outcome is not None and self.status in ENDED:
            return self.outcome  # it was cancelled, and something swallowed that
        return await self._conclude(outcome)

    async def _conclude(self, outcome: Outcome) -> Outcome:
        """Write down how it ended or paused, and tell. What cannot be written down is a failure."""
        self._turn(_STATUS[type(outcome)])
        self.outcome = outcome
        self.loop.head.result = _plain(outcome)
        try:
            await self.loop.save()
        except StoreError as wrong:
            self._turn(Status.ERROR)
            self.outcome = Failed(
                f"how it ended could not be written down: {wrong}", Cause.CRASHED, usage=self.loop.total()
            )
        finally:
            self._tell_ended(self.outcome)  # also when it is cancelled in this moment: it has ended
        return self.outcome

    async def _go(self) -> Outcome:
        try:
            if self._prompted:
                outcome = await self.loop.go()
            else:
                self._prompted = True
                outcome = await self.loop.go(self.instructions)
        except Exception as exc:
            # A model's client may raise anything; the parent goes on, and is told (A07).
            logger.warning("sub-agent %s (%s) failed: %s", self.definition.name, self.id, type(exc).__name__)
            from tollboard.subagents.failures import cause_of, reason_of

            outcome = Failed(reason_of(exc), cause_of(exc))
        usage = self.loop.total()
        match outcome:
            case Completed(result, extra, note=note):
                return Completed(result, extra, usage, note)
            case Failed(reason, cause, by):
                return Failed(reason, cause, by, usage)
        return outcome

    def _begin_messages(self) -> None:
        from pydantic_ai.messages import ModelRequest, UserPromptPart

        for message in self.definition.initial_messages:
            if isinstance(message, str):
                message = ModelRequest(parts=[UserPromptPart(message)])
            self.loop.messages.append(message)

    def cancel(self) -> None:
        """End it, and let a later process know that it was ended. Idempotent."""
        if self.status in ENDED:
            return
        self.loop.head.status = Status.CANCELLED.value
        self.loop.head.result = _plain(Failed(CANCELLED, Cause.CANCELLED))
        # The newest messages may be missing from it: what it was ended in the middle of is not of use any more.
        if (commit := self._journal.submit(self.loop.head)) is not None:
            self._tree.hold(commit)
        self.cancelled()

    def cancelled(self) -> None:
        """End it, and all below it; told before it has ended (A06). Idempotent."""
        if self.status in ENDED:
            return
        self._turn(Status.CANCELLED)
        self.outcome = Failed(CANCELLED, Cause.CANCELLED, usage=self.loop.total())
        self._tell_ended(self.outcome)
        self.loop.close()
        self._end_task()

    def _end_task(self) -> None:
        """Cancel the task, and wait for it no longer than `CANCEL_S`: a tool may swallow that, or block a thread."""
        task = self._task
        if task is not None and not task.done():
            self._tree.hold(task)
            task.cancel()
            self._timer = self._clock.call_later(CANCEL_S, self._release)

    def _forget(self) -> None:
        """Leave nothing behind of a run that a `task` call started (A29): its parent has its usage and its result."""
        if self._nested and self._tree.runs.get(self.id) is self:
            self._tree.drop(self.id)

    @property
    def turns(self) -> int:
        """How many times it called its model."""
        return self.loop.head.step

    def _turn(self, status: Status) -> None:
        if status is not self.status:
            self.status = status
            self.loop.head.status = status.value
            self._tell(lambda: StatusChanged(self.id, self.definition.name, status.value))

    def _tell(self, make: Any) -> None:
        if self._observer is not None:
            event: SubAgentEvent = make()
            try:
                self._observer(event)
            except Exception as exc:
                logger.warning("an observer of sub-agents failed: %s", type(exc).__name__)
                self._observer = None

    def _heard(self, message: object) -> None:
        self._tell(lambda: LLMMessage(self.id, self.definition.name, message))

    def _tell_started(self) -> None:
        if self._began is not None:
            return
        self._began = self._clock.monotonic()
        tools = tool_names(getattr(self.definition, "tools", ()))
        self._tell(
            lambda: Started(
                self.id, self.parent, self.definition.name, tuple(tools),
                str(getattr(self.loop.model, "model_name", self.loop.model)),
                (self.instructions, *self.loop.messages),
            )
        )  # fmt: skip

    def _tell_ended(self, outcome: Outcome) -> None:
        """Tell how it ended, once; a pause is no end."""
        if isinstance(outcome, Interrupted) or self._told:
            return
        self._told = True
        now = self._clock.monotonic()
        took = now - (now if self._began is None else self._began)
        name, messages = self.definition.name, self.loop.messages
        match outcome:
            case Completed(result, _, usage):
                self._tell(lambda: SubAgentCompleted(self.id, name, result, took, usage))
            case Failed(_, Cause.CANCELLED, _, usage):
                self._tell(lambda: SubAgentCancelled(self.id, name, tuple(messages), self.turns, took, usage))
            case Failed(reason, _, _, usage):
                last = tuple(messages[-LAST_MESSAGES:])
                self._tell(lambda: SubAgentFailed(self.id, name, reason, last, self.turns, took, usage))
        self._forget()


_STATUS: dict[type[Outcome], Status] = {
    Completed: Status.COMPLETED,
    Failed: Status.ERROR,
    Interrupted: Status.INTERRUPTED,
}


def _plain(outcome: Outcome) -> dict[str, Any] | None:
    match outcome:
        case Completed(result, extra, note=note):
            return {"result": result, "extra": extra, "note": note}
        case Failed(reason, cause, by):
            return {"reason": reason, "cause": cause.value, "halted_by": by}
    return None


def _outcome(plain: dict[str, Any] | None, usage: Usage) -> Outcome | None:
    if plain is None:
        return None
    if "result" in plain:
        return Completed(plain["result"], plain["extra"], usage, plain.get("note", ""))
    return Failed(plain["reason"], Cause(plain["cause"]), plain["halted_by"], usage)
