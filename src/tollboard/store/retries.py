"""Outcomes that could not be written yet: each waits on a timer, doubling from a second to half a minute.

So do the ends of questions that nobody answered.
"""

from __future__ import annotations

from typing import Protocol

from tollboard.clock import Clock, Timer

_FIRST_S = 1.0
_LONGEST_S = 30.0


class Finish(Protocol):
    """An outcome on its way; `tries` counts how often it was tried."""

    tries: int

    def again(self) -> None:
        """Try once more."""


class Retries:
    """The outcomes of one store that wait for a better moment."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[Finish, Timer] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def later(self, finish: Finish) -> bool:
        """Try again after a while; return false when the store is closing and it has to fail."""
        if self._closed:
            return False
        delay_s = min(_LONGEST_S, _FIRST_S * 2 ** min(finish.tries, 10))
        self._waiting[finish] = self._clock.call_later(delay_s, lambda: self._now(finish))
        return True

    def _now(self, finish: Finish) -> None:
        self._waiting.pop(finish).cancel()
        finish.again()

    def hurry(self) -> None:
        """Try each of them now."""
        for finish in list(self._waiting):
            self._now(finish)

    def close(self) -> None:
        """Try each of them a last time, now. Idempotent."""
        self._closed = True
        self.hurry()
