"""What a pool keeps of its ended tasks, bounded by count and bytes: the oldest end goes first."""

from __future__ import annotations

from collections import deque

from tollboard.pool.records import PoolResults
from tollboard.pool.task import PoolTask


class Keeper:
    """All tasks by ref: those that have not ended, and of those that have as many as fit."""

    __slots__ = ("_bytes", "_max_bytes", "_max_items", "ended", "evicted", "tasks")

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self.tasks: dict[str, PoolTask] = {}
        self.ended: deque[PoolTask] = deque()
        """In the order they ended."""
        self.evicted = 0
        self._bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes

    def keep(self, task: PoolTask) -> None:
        """Keep a task that has ended; older ones make room."""
        ended = self.ended
        ended.append(task)
        self._bytes += task.size + len(task.text)
        while len(ended) > self._max_items or (self._bytes > self._max_bytes and ended):
            oldest = ended.popleft()
            del self.tasks[oldest.ref]
            self._bytes -= oldest.size + len(oldest.text)
            self.evicted += 1

    def results(self) -> PoolResults:
        """Return what is kept, in submission order."""
        ended = sorted(self.ended, key=lambda task: task.index)
        return PoolResults(tuple(task.result() for task in ended), self.evicted)
