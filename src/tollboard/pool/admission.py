"""Who may submit now: the bound on waiting tasks and the rate limit, with one line of submitters for both (P10, P13).

Submitters stand in one line, first come first served, and the one in front is let in as soon as there is room *and* a
token. What lets it in is the event it waits for: a task that leaves the queue, or one timer for the next token.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tollboard.clock import Clock, Timer
from tollboard.errors import Overloaded, PoolStopped, RateLimited
from tollboard.pool.rate import TokenBucket


class Admission:
    """Counts what waits in a pool and holds back whoever would pass its bounds."""

    __slots__ = (
        "_bucket", "_clock", "_max_bytes", "_max_items", "_reserved", "_reserved_bytes", "_timer",
        "line", "on_gone", "waiting", "waiting_bytes",
    )  # fmt: skip

    def __init__(self, clock: Clock, *, max_items: int, max_bytes: int, bucket: TokenBucket | None) -> None:
        self._clock = clock
        self._bucket = bucket
        self._max_items = max_items
        self._max_bytes = max_bytes
        self.line: deque[tuple[asyncio.Future[None], int]] = deque()
        self._timer: Timer | None = None
        self._reserved = 0
        self._reserved_bytes = 0
        self.waiting = 0
        self.waiting_bytes = 0
        self.on_gone: Callable[[], None] | None = None
        """Called when a submitter has given up: whoever waits for all tasks need not wait for that one."""

    @property
    def expected(self) -> int:
        """Return how many submitters wait or have just been let in."""
        return len(self.line) + self._reserved

    @property
    def in_line(self) -> int:
        """Return how many submitters wait."""
        return len(self.line)

    def try_enter(self, size: int) -> bool:
        """Let a task of this many bytes in, if it need not wait; its token is taken then."""
        if (
            self.line
            or self.waiting + self._reserved >= self._max_items
            or self.waiting_bytes + self._reserved_bytes + size > self._max_bytes
        ):
            return False
        return self._bucket is None or self._bucket.take()

    def refusal(self, size: int) -> Overloaded | RateLimited:
        """Return the error for a submitter that does not want to wait."""
        if self._bucket is not None and self._room(size):
            # Those in line take the next tokens.
            return RateLimited(self._bucket.delay_s() + len(self.line) / self._bucket.rate)
        if self.waiting + self._reserved >= self._max_items or self.line:
            size = self.waiting + self._reserved + len(self.line) + 1
            return Overloaded("pool", limit=self._max_items, size=size, unit="tasks")
        return Overloaded("pool", limit=self._max_bytes, size=self.waiting_bytes + size, unit="bytes")

    def check(self, size: int) -> None:
        """Raise Overloaded for a task that would never get in."""
        if size > self._max_bytes:
            raise Overloaded("pool", limit=self._max_bytes, size=size, unit="bytes")

    async def enter(self, size: int) -> None:
        """Wait until a task of this many bytes may be submitted; it must be submitted before the next await.

        A submitter that is cancelled gives its place back. Raises PoolStopped when the pool is stopped meanwhile.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.line.append((turn, size))
        self.pump()
        try:
            await turn
        except asyncio.CancelledError:
            if (turn, size) in self.line:
                self.line.remove((turn, size))
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release(size)
                if self._bucket is not None:
                    self._bucket.give_back()
            self.pump()
            if self.on_gone is not None:
                self.on_gone()
            raise
        self._release(size)

    def left(self, size: int) -> None:
        """Note that a waiting task has left the queue."""
        self.waiting -= 1
        self.waiting_bytes -= size
        if self.line:
            self.pump()

    def pump(self) -> None:
        """Let in whoever stands in front and may go; called whenever that may have changed."""
        line = self.line
        while line:
            turn, size = line[0]
            if turn.done():  # cancelled; it leaves the line itself in a moment
                line.popleft()
                continue
            if not self._room(size):
                return
            if self._bucket is not None and not self._bucket.take():
                if self._timer is None:
                    self._timer = self._clock.call_later(self._bucket.delay_s(), self._ring)
                return
            line.popleft()
            self._reserved += 1
            self._reserved_bytes += size
            turn.set_result(None)

    def close(self, name: str) -> None:
        """Turn everybody in line away: the pool is stopped."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.line:
            turn, _size = self.line.popleft()
            if not turn.done():
                turn.set_exception(PoolStopped(f"pool {name!r} was stopped before this task was accepted"))

    def _room(self, size: int) -> bool:
        if self.waiting + self._reserved >= self._max_items:
            return False
        return self.waiting_bytes + self._reserved_bytes + size <= self._max_bytes

    def _release(self, size: int) -> None:
        self._reserved -= 1
        self._reserved_bytes -= size

    def _ring(self) -> None:
        self._timer = None
        self.pump()
