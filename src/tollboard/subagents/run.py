"""A sub-agent at work: its status, what it tells observers, and how it ends. The loop below it does the talking."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from tollboard.clock import Clock
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
from tollboard.subagents.outcome import Cause, Completed, Failed, Interrupt, Interrupted, Outcome, Status
from tollboard.subagents.subagent import CompiledSubAgent, Definition, SubAgentConfig, tool_names

if TYPE_CHECKING:
    from pydantic_ai import UsageLimits

    from tollboard.subagents.loop import Loop

logger = logging.getLogger("tollboard.subagents")

LAST_MESSAGES = 5
ENDED = (Status.COMPLETED, Status.ERROR, Status.CANCELLED)


class Run:
    """One sub-agent, from its instructions to its outcome; also those below it."""

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
        known: dict[str, Run] | None = None,
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
        self._known = known if known is not None else {}
        self._began: float | None = None
        self._prompted = False
        self.loop = Loop(
            definition,
            id=id,
            path=(*path, definition.name),
            journal=RunJournal(memory, id),
            make_child=self._make_child,
            deps=deps,
            model=model,
            limits=limits,
            heard=self._heard if self._observer is not None else None,
        )
        self._known[id] = self

    def _make_child(self, loop: Loop, definition: Definition, id: str, instructions: str) -> Run:
        return Run(
            definition, instructions, id=id, path=loop.path, parent=self.id, memory=self._memory, deps=loop.deps,
            model=loop.model, limits=loop.limits, clock=self._clock, observer=self._observers, known=self._known,
        )  # fmt: skip

    async def load(self) -> bool:
        """Take up what an earlier process wrote down; return whether there was anything.

        One that was cut off in the middle is `idle` again, and goes on where it was without repeating a call.
        """
        if not await self.loop.load():
            return False
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

        Whatever goes wrong is a `Failed`; only cancellation goes through, and ends everything below.
        """
        if (
            self.status is Status.IDLE
            and not self._prompted
            and self.loop.head.count == 0
            and not await self.load()
        ):
            self._begin_messages()
        if self.outcome is not None and self.status in ENDED:
            return self.outcome
        self._tell_started()
        self._turn(Status.RUNNING)
        try:
            outcome = await self._go()
        except asyncio.CancelledError:
            self.cancelled()
            raise
        match outcome:
            case Interrupted():
                self._turn(Status.INTERRUPTED)
            case Completed():
                self._turn(Status.COMPLETED)
            case Failed():
                self._turn(Status.ERROR)
        self.outcome = outcome
        self.loop.head.result = _plain(outcome)
        await self.loop.save()
        self._tell_ended(outcome)
        return outcome

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

    def cancelled(self) -> None:
        """Note that it was ended from outside; told before it has ended (A06). Idempotent."""
        if self.status in ENDED:
            return
        self.loop.close()
        self._turn(Status.CANCELLED)
        self.outcome = Failed("it was cancelled", Cause.CANCELLED, usage=self.loop.total())
        self._tell(
            lambda: SubAgentCancelled(self.id, self.definition.name, tuple(self.loop.messages), self.turns)
        )
        for child in self.loop.calls.children.values():
            child.cancelled()

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
        took = self._clock.monotonic() - (self._began or self._clock.monotonic())
        match outcome:
            case Completed(result, _, usage):
                self._tell(lambda: SubAgentCompleted(self.id, self.definition.name, result, took, usage))
            case Failed(reason):
                last = tuple(self.loop.messages[-LAST_MESSAGES:])
                self._tell(lambda: SubAgentFailed(self.id, self.definition.name, reason, last, self.turns))


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
