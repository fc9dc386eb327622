"""The values a pool takes and gives: tasks, results, progress, status. Frozen; `repr` never shows content (R49)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tollboard.runtime.event import Usage
from tollboard.runtime.results import Reason


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt for a pool, with the role that is to run it and how long it is expected to take.

    `role` may be left out where the pool has one role. Only `longest_first` looks at `hint_s`.
    """

    prompt: str = field(repr=False)
    role: str | None = None
    hint_s: float | None = None


class Submission(NamedTuple):
    """What `submit` returns. `worker` is `None` while nobody can say: where idle workers pull, until one has pulled."""

    worker: str | None
    ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """A task that was accepted before, for a pool that is brought back: it keeps its ref and its place.

    `attempt` counts how often it was started already; the next start is one more.
    """

    ref: str
    prompt: str = field(repr=False)
    role: str
    index: int
    submitted_at: float
    hint_s: float | None = None
    attempt: int = 0


class TaskStatus(StrEnum):
    """How a task ended."""

    OK = "ok"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Somebody interrupted the turn, or the process ended in the middle of it."""
    CANCELLED = "cancelled"
    """It was withdrawn before it ran."""
    STOPPED = "stopped"
    """The pool was stopped before it ended."""


STATUS_OF: Mapping[Reason, TaskStatus] = {
    Reason.INTERRUPTED: TaskStatus.INTERRUPTED,
    Reason.CANCELLED: TaskStatus.CANCELLED,
    Reason.ABANDONED: TaskStatus.CANCELLED,
    Reason.STOPPED: TaskStatus.STOPPED,
}
"""The status that goes with a reason; every other reason is FAILED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One ended task. Times are Unix seconds; `duration_s` is what its last attempt took, by the monotonic clock.

    `worker` is the one that ran it last, `None` if none did. `error` is the reason and, where there is one, its
    detail; failed tasks are results like the others. `index` counts submissions from 0.
    """

    ref: str
    prompt: str = field(repr=False)
    worker: str | None
    role: str
    status: TaskStatus
    text: str = field(repr=False)
    reason: Reason | None
    error: str | None = field(repr=False)
    usage: Usage | None
    duration_s: float
    submitted_at: float
    started_at: float | None
    completed_at: float
    attempt: int
    index: int

    @property
    def ok(self) -> bool:
        """Return whether the task has an answer."""
        return self.status is TaskStatus.OK


@dataclass(frozen=True, slots=True)
class WorkerResults:
    """What one worker has done, in submission order."""

    worker: str
    results: tuple[TaskResult, ...]

    @property
    def ok(self) -> int:
        """Return how many tasks have an answer."""
        return sum(result.ok for result in self.results)

    @property
    def failed(self) -> int:
        """Return how many tasks ended without one."""
        return len(self.results) - self.ok


@dataclass(frozen=True, slots=True)
class PoolResults:
    """What a pool has kept of its ended tasks, in submission order. `evicted` older ones are not kept any more.

    results = pool.results()
    print(results.ok, "of", len(results))
    for result in results: ...
    for worker in results.by_worker.values(): print(worker.worker, worker.ok, worker.failed)
    """

    results: tuple[TaskResult, ...]
    evicted: int = 0

    def __iter__(self) -> Iterator[TaskResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, at: int) -> TaskResult:
        return self.results[at]

    @property
    def ok(self) -> int:
        """Return how many tasks have an answer."""
        return sum(result.ok for result in self.results)

    @property
    def failed(self) -> int:
        """Return how many tasks ended without one."""
        return len(self.results) - self.ok

    @property
    def by_worker(self) -> Mapping[str, WorkerResults]:
        """Return the results of each worker that ran anything, dead ones too."""
        found: dict[str, list[TaskResult]] = {}
        for result in self.results:
            if result.worker is not None:
                found.setdefault(result.worker, []).append(result)
        return {name: WorkerResults(name, tuple(results)) for name, results in sorted(found.items())}


class WorkerState(StrEnum):
    """What a worker is doing."""

    IDLE = "idle"
    PROCESSING = "processing"
    HALTED = "halted"
    """Somebody halted its agent; the others take its tasks until it is resumed."""
    RETIRING = "retiring"
    """It ends with the task it has."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as it stands. `queued` are tasks that wait for it and nobody else, `running` is a ref."""

    name: str
    role: str
    state: WorkerState
    queued: int
    running: str | None
    ok: int
    failed: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stream of tasks has come. `total` is `None` while it is still being read."""

    total: int | None
    done: int
    failed: int
    running: int
    queued: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """A pool as it stands; cheap, whatever it has done. Counts are since it was started."""

    name: str
    strategy: str
    workers: tuple[WorkerStatus, ...]
    starting: int
    submitted: int
    queued: int
    running: int
    ok: int
    failed: int
    waiting_submitters: int
    rate: float | None
    burst: int | None
    stopped: bool
    problem: str | None
    """Why a role has no workers left; `None` when all is well."""
    replaced: int = 0
    """How many workers were replaced because they failed again and again."""
    notice: str | None = None
    """The last thing that a person should know of the workers, such as why one was replaced."""

    @property
    def progress(self) -> Progress:
        """Return the pool's progress over everything submitted so far."""
        return Progress(self.submitted, self.ok + self.failed, self.failed, self.running, self.queued)
