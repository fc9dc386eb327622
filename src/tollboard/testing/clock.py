"""Time that only moves when a test says so."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

EPOCH = 1_700_000_000.0


class FakeTimer:
    """A wake-up of a FakeClock."""

    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Call the wake-up off."""
        self.cancelled = True


class FakeClock:
    """Implements `tollboard.clock.Clock`. Starts at 0; `time()` is EPOCH later."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        """Return the seconds this clock was advanced by."""
        return self._now

    def time(self) -> float:
        """Return the same as seconds since the Unix epoch."""
        return EPOCH + self._now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        """Call `callback` when the clock has been advanced by `delay_s` more seconds."""
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self._now + delay_s, next(self._order), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move on, and fire every wake-up on the way, in order, each at its own time."""
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            due, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, due)
            if not timer.cancelled:
                timer.callback()
        self._now = until

    @property
    def waiting(self) -> int:
        """How many wake-ups have neither fired nor been called off."""
        return sum(not timer.cancelled for _, _, timer in self._timers)
