"""Which worker runs which task: one small class per strategy behind one contract (P04, P08).

A crew (the workers of one role) has one strategy instance. It calls `put` for each accepted task and `take` whenever a
worker is free; there are no other threads and no awaits. Two kinds exist: `Assigned` gives a task to a worker at once,
where it waits in that worker's queue; `Pulled` keeps tasks until an idle worker takes one.

    strategy         a task goes to                            use it for
    round_robin      worker i mod N, whatever it is doing      even tasks; when it must be known at once who runs what
    least_loaded     the worker with the least waiting         tasks that arrive one by one (a batch: round robin)
    shared_queue     whoever is idle first                     batches, uneven tasks
    longest_first    as shared_queue, longest hint first       batches whose durations can be guessed

`longest_first` must see a batch before it says which task is the longest: idle workers are offered what it keeps at the
end of the pass of the loop in which the tasks came (`gathers`).

Your own is a subclass of `Assigned` with a `choose`, passed as `strategy=`:

    class ByCustomer(Assigned):
        name = "by_customer"

        def choose(self, task, workers):
            return workers[hash(customer_of(task.prompt)) % len(workers)]
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from tollboard.errors import InvalidOption

if TYPE_CHECKING:
    from tollboard.pool.task import PoolTask
    from tollboard.pool.worker import Worker


class Strategy(ABC):
    """Where the tasks of one role wait. One that raises in `put` refuses that task; nothing else is touched."""

    name: ClassVar[str]
    gathers: ClassVar[bool] = False
    """Whether tasks that any worker may take are offered only when this pass of the loop ends, all that came in it."""

    @abstractmethod
    def put(self, task: PoolTask, workers: Sequence[Worker]) -> Worker | None:
        """Keep an accepted task; return the worker it waits for, `None` if any may take it. `workers` is not empty."""

    @abstractmethod
    def take(self, worker: Worker) -> PoolTask | None:
        """Return the next task for a free worker and forget it, or `None`."""

    @abstractmethod
    def lost(self, worker: Worker) -> Sequence[PoolTask]:
        """Return what waited for this worker alone, in order, and forget it: the worker takes no more tasks."""

    @abstractmethod
    def drain(self) -> Sequence[PoolTask]:
        """Return what waits for no one in particular, and forget it."""

    def grown(self, worker: Worker, workers: Sequence[Worker]) -> None:
        """Take note that the crew has grown by `worker`, which is one of `workers`."""
        return


class Assigned(Strategy):
    """Gives each task to a worker at once; subclasses say to which."""

    @abstractmethod
    def choose(self, task: PoolTask, workers: Sequence[Worker]) -> Worker:
        """Return one of `workers`: they are in the order they were started, and none is dead, halted or retiring."""

    def put(self, task: PoolTask, workers: Sequence[Worker]) -> Worker:
        """Put the task at the end of the chosen worker's queue."""
        worker = self.choose(task, workers)
        if worker not in workers:
            raise InvalidOption(
                f"strategy {self.name!r} chose {worker!r}, which is not one of the workers given"
            )
        worker.queue.append(task)
        return worker

    def take(self, worker: Worker) -> PoolTask | None:
        """Return the first task of the worker's queue."""
        return worker.queue.popleft() if worker.queue else None

    def lost(self, worker: Worker) -> Sequence[PoolTask]:
        """Return the worker's queue."""
        orphans = list(worker.queue)
        worker.queue.clear()
        return orphans

    def drain(self) -> Sequence[PoolTask]:
        """Return nothing: every task waits for somebody."""
        return ()

    def grown(self, worker: Worker, workers: Sequence[Worker]) -> None:
        """Give the new worker its share, from the back of the longest queues; otherwise it would help nobody."""
        share = sum(len(other.queue) for other in workers) // len(workers)
        while len(worker.queue) < share:
            longest = max(workers, key=lambda other: len(other.queue))
            task = longest.queue.pop()
            task.worker = worker.name
            worker.queue.appendleft(task)


class RoundRobin(Assigned):
    """Task i goes to worker i mod N, exactly (P04)."""

    name = "round_robin"

    def __init__(self) -> None:
        self._next = 0

    def choose(self, task: PoolTask, workers: Sequence[Worker]) -> Worker:
        """Return the next in turn."""
        # E37: read and counted in one step of the loop, so that two submitters never get the same number.
        at = self._next
        self._next = at + 1
        return workers[at % len(workers)]

    def put(self, task: PoolTask, workers: Sequence[Worker]) -> Worker:
        """Put the task at the end of the queue whose turn it is; the base class's check would cost more than this."""
        at = self._next
        self._next = at + 1
        worker = workers[at % len(workers)]
        worker.queue.append(task)
        return worker


class LeastLoaded(Assigned):
    """The worker with the least to do; among equals the one whose turn it is, so that no one is spared (E40)."""

    name = "least_loaded"

    def __init__(self) -> None:
        self._next = 0

    def choose(self, task: PoolTask, workers: Sequence[Worker]) -> Worker:
        """Return the least loaded."""
        first = self._next % len(workers)
        at = min(range(len(workers)), key=lambda i: (workers[i].load, (i - first) % len(workers)))
        self._next = at + 1
        return workers[at]


class SharedQueue(Strategy):
    """One queue; idle workers pull, the one that has been idle longest first (E40)."""

    name = "shared_queue"

    def __init__(self) -> None:
        self._queue: deque[PoolTask] = deque()

    def put(self, task: PoolTask, workers: Sequence[Worker]) -> None:
        """Put the task at the end."""
        self._queue.append(task)

    def take(self, worker: Worker) -> PoolTask | None:
        """Return the oldest task."""
        return self._queue.popleft() if self._queue else None

    def lost(self, worker: Worker) -> Sequence[PoolTask]:
        """Return nothing: no task waits for one worker alone."""
        return ()

    def drain(self) -> Sequence[PoolTask]:
        """Return the queue."""
        tasks, self._queue = self._queue, deque()
        return tasks


class LongestFirst(Strategy):
    """Idle workers pull the task with the longest hint; equal hints in order, tasks without a hint last."""

    name = "longest_first"
    gathers = True

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PoolTask]] = []
        self._order = count()

    def put(self, task: PoolTask, workers: Sequence[Worker]) -> None:
        """Put the task where its hint belongs."""
        hint_s = -1.0 if task.hint_s is None else task.hint_s
        heapq.heappush(self._heap, (-hint_s, next(self._order), task))

    def take(self, worker: Worker) -> PoolTask | None:
        """Return the task with the longest hint."""
        return heapq.heappop(self._heap)[2] if self._heap else None

    def lost(self, worker: Worker) -> Sequence[PoolTask]:
        """Return nothing: no task waits for one worker alone."""
        return ()

    def drain(self) -> Sequence[PoolTask]:
        """Return all of them, oldest first."""
        tasks = [task for _, _, task in sorted(self._heap, key=lambda entry: entry[1])]
        self._heap = []
        return tasks


# To add a strategy: one class above, one line here.
STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    cls.name: cls for cls in (RoundRobin, LeastLoaded, SharedQueue, LongestFirst)
}


def strategy_named(strategy: str | Callable[[], Strategy]) -> Callable[[], Strategy]:
    """Return what makes strategies, from a name or from what makes them already. Raises InvalidOption."""
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy]
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        return strategy
    if callable(strategy) and not isinstance(strategy, type):
        return strategy
    known = ", ".join(STRATEGIES)
    raise InvalidOption(
        f"there is no strategy {strategy!r}; use one of {known}, or your own subclass of Assigned"
    )
