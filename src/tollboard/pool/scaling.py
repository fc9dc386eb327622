"""The autoscaler of one role: more workers when tasks wait, fewer when workers do (P11).

It looks whenever a task was queued, taken or ended (E50: an event for enqueueing alone would never see the queue
shrink), and once more when a cool-down ends that held it back. It asks for a size; the crew never stops a worker that
has work in it.
"""

from __future__ import annotations

import asyncio
from math import ceil
from typing import Protocol

from tollboard.clock import Clock, Timer


class Scalable(Protocol):
    """What the autoscaler sees of a crew."""

    @property
    def size(self) -> int:
        """Workers it has or is starting, without those that retire."""

    @property
    def waiting(self) -> int:
        """Tasks that no worker has begun."""

    @property
    def running(self) -> int:
        """Tasks that workers have."""

    @property
    def idle_count(self) -> int:
        """Workers without a task."""

    def resize(self, size: int) -> None:
        """Begin to grow or shrink to this size; shrinking takes idle workers only."""


class Autoscaler:
    """Keeps a crew between `minimum` and `maximum`.

    Up: at once, to as many workers as leave at most `per_worker` waiting tasks each; then not again for `cooldown_s`.
    Down: by one, when nothing waits and somebody has been idle for `cooldown_s`; then again after as long.
    """

    __slots__ = (
        "_clock",
        "_crew",
        "_idle_since",
        "_last",
        "_soon",
        "_timer",
        "cooldown_s",
        "maximum",
        "minimum",
        "per_worker",
    )

    def __init__(
        self, crew: Scalable, clock: Clock, *, minimum: int, maximum: int, cooldown_s: float, per_worker: float = 1.0
    ) -> None:  # fmt: skip
        self._crew = crew
        self._clock = clock
        self.minimum = minimum
        self.maximum = maximum
        self.cooldown_s = cooldown_s
        self.per_worker = per_worker
        self._last = float("-inf")
        self._idle_since: float | None = None
        self._timer: Timer | None = None
        self._soon: asyncio.Handle | None = None

    def look(self) -> None:
        """Decide at the end of this pass of the loop, so that a batch is seen as one."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._decide)

    def _decide(self) -> None:
        """Decide now, or when the cool-down ends."""
        self._soon = None
        now = self._clock.monotonic()
        size = self._crew.size
        wanted = self._wanted(size, now)
        if wanted == size:
            self._disarm()
            return
        held_since = (
            self._last if wanted > size or self._idle_since is None else max(self._last, self._idle_since)
        )
        delay_s = held_since + self.cooldown_s - now
        if delay_s > 0:
            if self._timer is None:
                self._timer = self._clock.call_later(delay_s, self._ring)
            return
        self._disarm()
        self._last = now
        self._crew.resize(wanted)
        self.look()

    def close(self) -> None:
        """Decide nothing any more."""
        self._disarm()
        if self._soon is not None:
            self._soon.cancel()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wanted(self, size: int, now: float) -> int:
        waiting, idle = self._crew.waiting, self._crew.idle_count
        if waiting or not idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        if size < self.minimum:
            return self.minimum
        needed = ceil((waiting + self._crew.running) / (1 + self.per_worker))
        if waiting and needed > size:
            return max(size, min(self.maximum, needed))
        if self._idle_since is not None and size > self.minimum:
            return size - 1
        return size

    def _ring(self) -> None:
        self._timer = None
        self._decide()
