"""What must be remembered of a pool's tasks, and when: the contract between a pool and whatever keeps its tasks.

The pool calls these methods synchronously, from the loop, in the order things happen. Each returns something to await
until it is durable, or `None` when there is nothing to wait for. The rule is the runtime's: commit, then resolve, then
emit. `submit` returns after `accepted` is durable, a backend sees the prompt after `started` is, and a result is shown
after `finished` is.

A pool is brought back with `Pool.start(..., backlog=[Backlog(...), ...], first_index=n)`: the tasks that have not
ended, in the order they were accepted. What was started and not finished was in flight; whoever recovers decides
whether it ended as interrupted or goes into the backlog with its attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Protocol

from tollboard.pool.records import TaskResult
from tollboard.runtime.journal import Commit, NullJournal
from tollboard.runtime.request import Request
from tollboard.runtime.results import Outcome

if TYPE_CHECKING:
    from tollboard.pool.task import PoolTask
    from tollboard.pool.worker import Worker


class PoolJournal(Protocol):
    """Remembers the tasks of one pool. A commit raises StoreError when the write failed."""

    def accepted(self, task: PoolTask) -> Commit | None:
        """Remember a task before its ref is handed out; read `ref prompt role hint_s index submitted_at`."""

    def started(self, task: PoolTask, worker: str, attempt: int) -> Commit | None:
        """Remember that a worker is about to run it. Called again, with the next attempt, for each retry."""

    def finished(self, result: TaskResult) -> Commit | None:
        """Remember how it ended. Called once for each accepted task, also for those that never ran."""


class NullPoolJournal:
    """Remembers nothing."""

    def accepted(self, task: PoolTask) -> None:
        """Do nothing."""

    def started(self, task: PoolTask, worker: str, attempt: int) -> None:
        """Do nothing."""

    def finished(self, result: TaskResult) -> None:
        """Do nothing."""


class WorkerJournal(NullJournal):
    """Hands one agent's journal entries on to its pool's journal, as entries of the task that the agent has."""

    def __init__(self, journal: PoolJournal, worker: Worker) -> None:
        self._journal = journal
        self._worker = worker

    def started(self, request: Request) -> Awaitable[None] | None:  # type: ignore[override] # a journal, not a null one
        """Remember that this worker begins the task."""
        task = self._worker.task
        return None if task is not request else self._journal.started(task, self._worker.name, task.attempt)

    def finished(self, request: Request, outcome: Outcome, duration_s: float) -> Awaitable[None] | None:  # type: ignore[override]
        """Remember how the task ended, unless it goes on elsewhere."""
        worker = self._worker
        task = worker.task
        if task is not request or worker.crew.muted or worker.goes_on(outcome):
            return None
        task.close(outcome, worker.crew.clock.time())
        task.recorded = True
        return self._journal.finished(task.result())

    def checkpointed(self, provider_session_id: str, effective: Mapping[str, str] | None) -> None:
        """Do nothing: a worker's conversation ends with the worker."""
