"""Results as they come: of everything a pool runs, or of one iterable of tasks that is read as it is worked off.

Both are bounded: `Follower` by what the pool itself keeps, `Feed` by its window, which counts a task from its
submission until its result was taken. So a file of any length goes through in constant memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sized
from typing import Protocol

from tollboard.errors import Overloaded
from tollboard.pool.records import Progress, Task, TaskResult
from tollboard.pool.task import ENDED, PoolTask
from tollboard.runtime.results import Reason

OnProgress = Callable[[Progress], None]


class Source(Protocol):
    """What a stream needs of a pool."""

    @property
    def running(self) -> int:
        """How many tasks workers have."""

    async def submit_for(self, task: str | Task, listener: Callable[[PoolTask], None]) -> PoolTask:
        """Submit a task whose end the listener is told; waits while the pool is full."""

    def abandon(self, ref: str, reason: Reason) -> bool:
        """Withdraw a task that waits."""


class Follower:
    """Every result of a pool in the order they end: those it has kept already, then the new ones."""

    __slots__ = ("_ended", "_limit", "_more", "lagged")

    def __init__(self, kept: Iterable[PoolTask], limit: int) -> None:
        self._ended = deque(kept)
        self._limit = limit
        self._more: asyncio.Future[None] | None = None
        self.lagged = False

    def ended(self, task: PoolTask) -> None:
        """Take the next one; a reader that is too slow is told so instead of filling the memory."""
        if len(self._ended) >= self._limit:
            self.lagged = True
        else:
            self._ended.append(task)
        self.wake()

    def wake(self) -> None:
        """Let the reader look again."""
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def take(self) -> TaskResult | None:
        """Return the next result, `None` if there is none yet. Raises Overloaded if one was dropped."""
        if self._ended:
            return self._ended.popleft().result()
        if self.lagged:
            raise Overloaded("stream of results", limit=self._limit, size=self._limit + 1, unit="results")
        return None

    async def wait(self) -> None:
        """Wait until there may be something to take."""
        self._more = asyncio.get_running_loop().create_future()
        await self._more


class Feed:
    """One iterable of tasks going through a pool, at most `window` of them at a time."""

    __slots__ = ("_done", "_ended", "_failed", "_live", "_more", "_pool", "_room", "_submitted", "_tasks", "_total",
                 "_window")  # fmt: skip

    def __init__(self, pool: Source, tasks: Iterable[str | Task], window: int) -> None:
        self._pool = pool
        self._tasks = tasks
        self._window = window
        self._total = len(tasks) if isinstance(tasks, Sized) else None
        self._live: dict[str, PoolTask] = {}
        self._ended: deque[PoolTask] = deque()
        self._more: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._submitted = 0
        self._done = 0
        self._failed = 0

    async def results(self, progress: OnProgress | None) -> AsyncGenerator[TaskResult, None]:
        """Yield results as they end. Closing it early withdraws what still waits; what runs goes on."""
        loop = asyncio.get_running_loop()
        reader = loop.create_task(self._submit_all())
        reader.add_done_callback(self._read)
        try:
            while True:
                while self._ended:
                    task = self._ended.popleft()
                    self._count(task)
                    if progress is not None:
                        progress(self._progress())
                    yield task.result()
                if reader.done() and not self._live:
                    await reader  # raises what the iterable or a task in it raised
                    return
                if reader.done() and not reader.cancelled() and reader.exception() is not None:
                    await reader
                self._more = loop.create_future()
                await self._more
        finally:
            reader.cancel()
            for ref in tuple(self._live):
                self._pool.abandon(ref, Reason.ABANDONED)
            _ = await asyncio.wait([reader])
            if not reader.cancelled():
                _ = reader.exception()  # raised above, or its reader has gone

    async def _submit_all(self) -> None:
        for task in self._tasks:
            while self._submitted - self._done >= self._window:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            accepted = await self._pool.submit_for(task, self._on_end)
            self._submitted += 1
            if accepted.place is not ENDED:
                self._live[accepted.ref] = accepted

    def _on_end(self, task: PoolTask) -> None:
        self._live.pop(task.ref, None)
        self._ended.append(task)
        self._wake(self._more)

    def _read(self, reader: asyncio.Task[None]) -> None:
        self._total = self._submitted
        self._wake(self._more)

    def _count(self, task: PoolTask) -> None:
        self._done += 1
        self._failed += not task.ok
        self._wake(self._room)

    def _progress(self) -> Progress:
        # Others' tasks run in the pool too; at most this many are ours. Counting ours would cost a pass each time.
        running = min(self._pool.running, len(self._live))
        return Progress(self._total, self._done, self._failed, running, len(self._live) - running)

    def _wake(self, waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
