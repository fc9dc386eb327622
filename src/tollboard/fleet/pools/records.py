"""The values of durable pools: what one was asked to be, how it stands, its tasks. Frozen; `repr` shows no content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tollboard.pool.records import TaskResult, WorkerStatus
from tollboard.pool.role import Role


class PoolLife(StrEnum):
    """Whether a pool works."""

    LIVE = "live"
    DEAD = "dead"
    """It could not be brought back; `problem` says why, its tasks wait in the store."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """What a role was asked to be besides its size; see `tollboard.pool.role.Role`."""

    prompt: str | None = field(default=None, repr=False)
    model: str | None = None
    backend: str | None = None
    options: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """What a pool was asked to be. `path` is where its workers work; `size` is by role.

    `min` and `max` are too, both of each role whose size changes by itself; `None` if there is none. `roles` has those
    of which more was said than their size.
    """

    size: Mapping[str, int]
    path: str
    backend: str
    strategy: str
    rate: float | None = None
    burst: int | None = None
    min: Mapping[str, int] | None = None
    max: Mapping[str, int] | None = None
    retries: int = 0
    max_queued: int
    roles: Mapping[str, RoleSpec] = field(default_factory=dict)
    conversation: str = "fresh"
    recycle_turns: int | None = None
    recycle_tokens: int | None = None
    options: Mapping[str, object] = field(default_factory=dict, repr=False)

    def backend_of(self, role: str) -> str:
        """Return the backend of a role's workers."""
        said = self.roles.get(role)
        return self.backend if said is None or said.backend is None else said.backend

    def role(self, role: str) -> Role:
        """Return a role as the library takes it."""
        said = self.roles.get(role, RoleSpec())
        return Role(
            size=self.size[role],
            prompt=said.prompt,
            model=said.model,
            backend=said.backend,
            options=said.options,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecord:
    """A pool as the store keeps it. `ok` and `failed` count the tasks that have ended, `submitted` all of them."""

    id: str
    name: str
    spec: PoolSpec
    life: PoolLife
    created_at: float
    created_by: str
    stopped_at: float | None = None
    problem: str | None = None
    submitted: int = 0
    ok: int = 0
    failed: int = 0


class TaskState(StrEnum):
    """Where a task is."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task of a pool as the store keeps it; `result` is there once it has ended."""

    pool: str
    pool_id: str
    ref: str
    index: int
    role: str
    prompt: str = field(repr=False)
    hint_s: float | None
    state: TaskState
    attempt: int
    worker: str | None
    submitted_at: float
    started_at: float | None
    result: TaskResult | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task that was accepted. `worker` is `None` while nobody can say, as where idle workers pull."""

    ref: str
    worker: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """How a pool stands. Counts are since it was first started, over every restart; `rate` is per second."""

    id: str
    name: str
    life: PoolLife
    problem: str | None
    done: bool
    """Nothing is queued or running, and nobody waits to submit."""
    submitted: int
    queued: int
    running: int
    ok: int
    failed: int
    waiting_submitters: int
    workers: tuple[WorkerStatus, ...]
    starting: int
    size: Mapping[str, int]
    min: Mapping[str, int] | None
    max: Mapping[str, int] | None
    backend: str
    path: str
    strategy: str
    rate: float | None
    burst: int | None
    retries: int
    max_queued: int
    conversation: str
    notice: str | None
    """The last thing that a person should know of its workers."""
    retry_at: float | None
    """When a dead pool is tried again."""
    created_at: float
    created_by: str
    stopped_at: float | None


@dataclass(frozen=True, slots=True)
class ResultsPage:
    """Ended tasks of a pool in submission order. `next` continues with `after=`; `None`: that was all for now."""

    pool: str
    results: tuple[TaskResult, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class PoolDeleted:
    """A pool whose rows were removed, with how many tasks it had."""

    name: str
    id: str
    tasks: int
