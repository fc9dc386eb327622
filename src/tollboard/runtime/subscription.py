"""Live events for someone who watches: bounded, told what it missed, never in the turn's way (R39, R47)."""

from __future__ import annotations

from asyncio import Event as Signal
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tollboard.runtime.event import Event
from tollboard.runtime.results import Outcome

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine

DEFAULT_BUFFER = 1_000


@dataclass(frozen=True, slots=True)
class Live:
    """One event of a turn."""

    ref: str
    attempt: int
    event: Event


@dataclass(frozen=True, slots=True)
class Missed:
    """The reader was too slow: this many items were dropped here."""

    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The request's outcome; a subscription to one ref ends with it."""

    ref: str
    outcome: Outcome


Item = Live | Missed | Ended


class Subscription:
    """An async iterator of items, for one agent or for one ref of it. Close it, or use it as a context manager."""

    __slots__ = ("_buffer", "_closed", "_limit", "_machine", "_missed", "_signal", "ref")

    def __init__(self, machine: Machine, ref: str | None, limit: int = DEFAULT_BUFFER) -> None:
        self.ref = ref
        self._machine = machine
        self._limit = limit
        self._buffer: deque[Item] = deque()
        self._missed = 0
        self._signal = Signal()
        self._closed = False

    def event(self, ref: str, attempt: int, event: Event) -> None:
        """Take an event of the turn; called in the turn, so it only appends."""
        if self.ref is not None and ref != self.ref:
            return
        if len(self._buffer) >= self._limit:
            self._missed += 1
            return
        self._note_missed()
        self._buffer.append(Live(ref, attempt, event))
        self._signal.set()

    def ended(self, ref: str, outcome: Outcome) -> None:
        """Take an outcome: never dropped, and the last item, when the subscription is to that ref."""
        if self.ref is None:
            # E22: whoever watches a whole agent and never reads must not collect its outcomes for ever. They have as
            # much room again as everything else, so that events alone never push one out.
            if len(self._buffer) >= 2 * self._limit:
                self._missed += 1
                return
        elif ref != self.ref:
            return
        self._note_missed()
        self._buffer.append(Ended(ref, outcome))
        self._signal.set()
        if self.ref is not None:
            self.close()

    def _note_missed(self) -> None:
        if self._missed:
            self._buffer.append(Missed(self._missed))
            self._missed = 0

    def close(self) -> None:
        """Stop listening; what is buffered can still be read. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._note_missed()
        listeners = self._machine.subscriptions
        if listeners is not None and self in listeners:
            listeners.remove(self)
            if not listeners:
                self._machine.subscriptions = None
        self._signal.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            self._signal.clear()
            await self._signal.wait()
        return self._buffer.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
