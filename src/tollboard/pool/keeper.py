"""What a pool keeps of its ended tasks, bounded by count and bytes: the oldest end goes first."""

from __future__ import annotations

from tollboard.pool.records import PoolResults
from tollboard.pool.task import PoolTask


class Keeper:
    """Ended tasks by ref, in the order they ended."""

    __slots__ = ("_bytes", "_max_bytes", "_max_items", "evicted", "tasks")

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self.tasks: dict[str, PoolTask] = {}
        self.evicted = 0
        self._bytes = 0
        self._max_items = max_items
        self._max_bytes = max_bytes

    def keep(self, task: PoolTask) -> None:
        """Keep a task that has ended; older ones make room."""
        tasks = self.tasks
        tasks[task.ref] = task
        self._bytes += task.weight()
        while len(tasks) > self._max_items or (self._bytes > self._max_bytes and tasks):
            oldest = tasks.pop(next(iter(tasks)))
            self._bytes -= oldest.weight()
            self.evicted += 1

    def results(self) -> PoolResults:
        """Return what is kept, in submission order."""
        ended = sorted(self.tasks.values(), key=lambda task: task.index)
        return PoolResults(tuple(task.result() for task in ended), self.evicted)
