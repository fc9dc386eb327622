"""Which conversation a worker's next task runs in: one of its own, or the one that is kept until it is used up (P15).

A worker's machine calls `Renewal.renew` in each turn, before the backend gets the prompt. So what a fresh conversation
costs is part of the task that gets it: its time, its interrupt, its failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tollboard.errors import Unsupported
from tollboard.pool import telemetry as events
from tollboard.runtime.event import ErrorCause, Usage
from tollboard.runtime.results import Completed, Failed, Outcome

if TYPE_CHECKING:
    from tollboard.pool.worker import Worker


class Conversation(StrEnum):
    """Whether the tasks of a worker know each other."""

    FRESH = "fresh"
    """Each task runs in a conversation of its own."""
    KEPT = "kept"
    """A worker's tasks share one conversation until it is recycled."""


@dataclass(frozen=True, slots=True)
class ConversationPolicy:
    """The setting of a pool. The limits are those of a kept conversation; `None` is none."""

    kind: Conversation = Conversation.FRESH
    max_turns: int | None = None
    max_tokens: int | None = None
    """What its turns may have used together, input and output."""


class Renewal:
    """Gives one worker's turns their conversation."""

    __slots__ = ("_fallback", "_options", "_policy", "_spent", "_worker", "tokens", "turns")

    def __init__(self, worker: Worker, policy: ConversationPolicy, options: Mapping[str, object]) -> None:
        self._worker = worker
        self._policy = policy
        self._options = options
        self._fallback = False
        self._spent: str | None = None
        self.turns = 0
        """How many turns the conversation has had, with the one that runs."""
        self.tokens = 0

    async def renew(self) -> None:
        """See to the conversation of the turn that begins. Raises what the backend raises if it cannot start one."""
        why = self._due()
        if why is not None:
            await self._begin()
            if self._policy.kind is Conversation.KEPT:
                self._worker.crew.emit_worker(events.WORKER_RECYCLED, self._worker, reason=why)
            self._spent = None
            self.turns = self.tokens = 0
        self.turns += 1

    def ended(self, outcome: Outcome) -> None:
        """Note how the turn ended: what it used, and whether the conversation is too long for the model now."""
        if isinstance(outcome, Completed):
            self.tokens += _tokens(outcome.response.usage)
        elif outcome.cause is ErrorCause.OVERFLOW:
            self._spent = "its conversation was too long for the model"

    def blames_others(self, outcome: Failed) -> bool:
        """Return whether a task failed only because of the tasks before it, and nothing that it did is repeated."""
        return outcome.cause is ErrorCause.OVERFLOW and self.turns > 1 and not outcome.acted

    def _due(self) -> str | None:
        policy = self._policy
        if not self.turns:
            return None
        if policy.kind is Conversation.FRESH:
            return "each task has its own"
        if policy.max_turns is not None and self.turns >= policy.max_turns:
            return f"its conversation had {self.turns:,} turns"
        if policy.max_tokens is not None and self.tokens >= policy.max_tokens:
            return f"its conversation had used {self.tokens:,} tokens"
        return self._spent

    async def _begin(self) -> None:
        machine = self._worker.machine
        backend = machine.backend
        if not self._fallback:
            try:
                machine.session = await backend.reset_session(machine.session)
            except Unsupported:
                self._fallback = True
        if self._fallback:
            # A backend that knows no other way: what is left of the old one ends first, as at a stop.
            await backend.terminate_session(machine.session)
            machine.session = await backend.start_session(self._options)
        machine.provider_session_id = None


def _tokens(usage: Usage | None) -> int:
    return 0 if usage is None else (usage.input_tokens or 0) + (usage.output_tokens or 0)
