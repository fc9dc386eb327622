"""The store's part about pools. The fleet calls it as `fleet.pools.ledger.PoolLedger`; rows become records here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tollboard.errors import StoreError, StoreUnavailable
from tollboard.fleet.ledger import Commit
from tollboard.fleet.pools.records import PoolLife, PoolRecord, PoolSpec, RoleSpec, TaskRecord, TaskState
from tollboard.pool.records import TaskResult, TaskStatus
from tollboard.runtime.event import Usage
from tollboard.runtime.results import Reason
from tollboard.store import pool_queries as queries
from tollboard.store.feed import to_json
from tollboard.store.queries import Query
from tollboard.store.reader import Reader
from tollboard.store.usage import usage_values
from tollboard.store.write import Start, Write

if TYPE_CHECKING:
    from tollboard.clock import Clock
    from tollboard.pool.task import PoolTask
    from tollboard.store.retries import Retries
    from tollboard.store.writer import Writer

Row = tuple[Any, ...]


class StorePools:
    """Implements PoolLedger."""

    def __init__(self, writer: Writer, reader: Reader, retries: Retries, clock: Clock) -> None:
        self._writer = writer
        self._reader = reader
        self._retries = retries
        self._clock = clock

    def _write(self, query: Query, **values: object) -> Write:
        return self._writer.submit(Write(query.sql, query.bind(**values)))

    # -- pools

    def create_pool(self, record: PoolRecord) -> Commit:
        """Remember a new pool. The commit raises PoolExists when its name is taken."""
        return self._write(
            queries.CREATE_POOL, id=record.id, name=record.name, spec=_spec_json(record.spec), life=record.life.value,
            created_at=record.created_at, created_by=record.created_by, stopped_at=record.stopped_at,
            problem=record.problem,
        )  # fmt: skip

    def pool_journal(self, record: PoolRecord) -> StorePoolJournal:
        """Return the journal of a pool's tasks."""
        return StorePoolJournal(record.id, self._writer, self._retries, self._clock)

    def set_pool_life(self, pool_id: str, life: PoolLife, *, at: float, problem: str | None = None) -> Commit:
        """Remember that a pool was stopped, is dead, or works again."""
        stopped_at = at if life is PoolLife.STOPPED else None
        return self._write(
            queries.SET_POOL_LIFE, pool_id=pool_id, new_life=life.value, new_stopped_at=stopped_at,
            new_problem=problem,
        )  # fmt: skip

    def set_pool_spec(self, pool_id: str, spec: PoolSpec) -> Commit:
        """Remember what a pool is asked to be from now on."""
        return self._write(queries.SET_POOL_SPEC, pool_id=pool_id, new_spec=_spec_json(spec))

    def end_pool_tasks(self, pool_id: str, *, at: float, reason: str, detail: str) -> Commit:
        """End every task of a pool that has not ended, as stopped."""
        return self._write(queries.END_POOL_TASKS, pool_id=pool_id, at=at, because=reason, why=detail)

    def interrupt_task(self, ref: str, *, at: float, detail: str) -> Commit:
        """End a task that was in flight when the last daemon ended; does nothing if it has ended."""
        return self._write(queries.INTERRUPT_TASK, the_ref=ref, at=at, why=f"{Reason.INTERRUPTED}: {detail}")

    def delete_pool(self, pool_id: str) -> Commit:
        """Remove a pool and its tasks."""
        return self._write(queries.DELETE_POOL, pool_id=pool_id)

    async def pools(self, *, every: bool = False) -> Sequence[PoolRecord]:
        """Return the pools that are not stopped, oldest first; with `every` the stopped ones too."""
        return await self._reader.all(queries.ALL_POOLS if every else queries.POOLS, _pool_record)

    async def find_pool(self, name_or_id: str) -> PoolRecord | None:
        """Return the pool that has the name now, else the one stopped last, else the one with that id."""
        found = await self._reader.one(queries.POOL_BY_NAME, _pool_record, name=name_or_id)
        return found or await self._reader.one(queries.POOL_BY_ID, _pool_record, id=name_or_id)

    # -- tasks

    async def pool_task(self, ref: str) -> TaskRecord | None:
        """Return one task."""
        return await self._reader.one(queries.TASK, _task_record, ref=ref)

    async def unfinished_tasks(self, pool_id: str) -> Sequence[TaskRecord]:
        """Return the tasks of a pool that have not ended, in submission order."""
        return await self._reader.all(queries.UNFINISHED_TASKS, _task_record, pool_id=pool_id)

    async def next_task_index(self, pool_id: str) -> int:
        """Return the index that the pool's next task gets."""
        return await self._reader.one(queries.NEXT_POSITION, _number, pool_id=pool_id) or 0

    async def task_results(self, pool_id: str, *, after: int, limit: int) -> Sequence[TaskResult]:
        """Return ended tasks with a greater index, in submission order."""
        return await self._reader.all(
            queries.TASK_RESULTS, _task_result, pool_id=pool_id, after=after, count=limit
        )

    def flush(self) -> Commit:
        """Return a commit that resolves when everything written so far is durable."""
        return self._writer.flush()

    @property
    def trouble(self) -> StoreUnavailable | None:
        """What keeps things from being written now."""
        return self._writer.trouble

    def hurry(self) -> None:
        """Try now to write the outcomes that wait for the trouble to go."""
        self._retries.hurry()


class StorePoolJournal:
    """Implements PoolJournal for one pool."""

    __slots__ = ("_clock", "_pool_id", "_retries", "_writer", "refused")

    def __init__(self, pool_id: str, writer: Writer, retries: Retries, clock: Clock) -> None:
        self._pool_id = pool_id
        self._writer = writer
        self._retries = retries
        self._clock = clock
        self.refused: set[str] = set()
        """Tasks whose acceptance failed: there is nothing whose outcome could be remembered."""

    def accepted(self, task: PoolTask) -> Write:
        """Add a task. Raises Overloaded when too much waits to be written."""
        params = (
            task.ref, self._pool_id, task.index, task.role, task.hint_s, task.prompt, task.submitted_at,
            task.attempt, task.worker,
        )  # fmt: skip
        return self._writer.submit(TaskAccept(self, params))

    def started(self, task: PoolTask, worker: str, attempt: int) -> Write:
        """Note the start; it fails when the task is not there as unfinished, so that it does not run."""
        started_at = self._clock.time() if task.started_at is None else task.started_at
        params = (attempt, worker, started_at, task.ref)
        return self._writer.submit(TaskStart(queries.START_TASK.sql, params), must=True)

    def finished(self, result: TaskResult) -> Write | None:
        """Note the outcome, and go on trying while the disk fails. `None` for a task that was never kept."""
        if result.ref in self.refused:
            self.refused.discard(result.ref)
            return None
        return self._writer.submit(TaskFinish(self, _ending(result)), must=True)


class TaskAccept(Write):
    """An acceptance on its way."""

    __slots__ = ("journal",)

    def __init__(self, journal: StorePoolJournal, params: Row) -> None:
        super().__init__(queries.ACCEPT_TASK.sql, params)
        self.journal = journal

    def settle(self) -> None:
        """Settle, and remember that there is no such task if it failed."""
        if self.error is not None:
            self.journal.refused.add(self.params[0])
        super().settle()


class TaskStart(Start):
    """The start of a task. A class of its own: it is not one of the statements that are folded together."""

    __slots__ = ()


class TaskFinish(Write):
    """An outcome on its way. A medium that fails for a while does not lose it: it is written again, later.

    A statement that can never succeed leaves a failed task in the outcome's place, and raises.
    """

    __slots__ = ("journal", "mended", "tries")

    def __init__(self, journal: StorePoolJournal, params: Row) -> None:
        super().__init__(queries.FINISH_TASK.sql, params)
        self.journal = journal
        self.tries = 0
        self.mended: StoreError | None = None

    def settle(self) -> None:
        """Settle, or come back later."""
        error, refused = self.error, self.journal.refused
        if self._ref in refused:
            refused.discard(self._ref)
            super().settle()
            return
        if isinstance(error, StoreUnavailable) and self.journal._retries.later(self):
            return
        if type(error) is StoreError and self.mended is None:
            self.mended = error
            self.params = _without_answer(self.params, str(error))
            self.again()
            return
        self.error = error or self.mended
        super().settle()

    @property
    def _ref(self) -> str:
        return str(self.params[-2])

    def again(self) -> None:
        """Submit it once more."""
        self.error = None
        self.tries += 1
        _ = self.journal._writer.submit(self, must=True)


def _ending(result: TaskResult) -> Row:
    return (
        result.attempt, result.worker, result.started_at, result.completed_at, result.status.value,
        None if result.reason is None else result.reason.value, result.error, result.duration_s,
        *usage_values(result.usage), result.text, result.ref, result.completed_at,
    )  # fmt: skip


def _without_answer(params: Sequence[Any], why: str) -> Row:
    attempt, worker, started_at, ended_at, _, _, _, duration_s, *_, ref, same = params
    reason = Reason.STORE_FAILED.value
    return (
        attempt, worker, started_at, ended_at, TaskStatus.FAILED.value, reason, f"{reason}: {why}", duration_s,
        *usage_values(None), "", ref, same,
    )  # fmt: skip


def _spec_json(spec: PoolSpec) -> str:
    return to_json(
        {
            "size": dict(spec.size), "path": spec.path, "backend": spec.backend, "strategy": spec.strategy,
            "rate": spec.rate, "burst": spec.burst, "min": _plain(spec.min), "max": _plain(spec.max),
            "retries": spec.retries, "max_queued": spec.max_queued, "options": dict(spec.options),
            "roles": {role: asdict(said) for role, said in spec.roles.items()}, "conversation": spec.conversation,
            "recycle_turns": spec.recycle_turns, "recycle_tokens": spec.recycle_tokens,
        }
    )  # fmt: skip


def _spec(kept: str) -> PoolSpec:
    """Return what was kept; what an older version did not keep is as it was then, or as it is usual now."""
    given = json.loads(kept)
    roles = {role: RoleSpec(**said) for role, said in given.pop("roles", {}).items()}
    return PoolSpec(**given, roles=roles)


def _plain(sizes: Mapping[str, int] | None) -> dict[str, int] | None:
    return None if sizes is None else dict(sizes)


def _pool_record(row: Row) -> PoolRecord:
    id_, name, spec, life, created_at, created_by, stopped_at, problem, submitted, ok, failed = row
    return PoolRecord(
        id=id_, name=name, spec=_spec(spec), life=PoolLife(life), created_at=created_at,
        created_by=created_by, stopped_at=stopped_at, problem=problem, submitted=submitted, ok=ok, failed=failed,
    )  # fmt: skip


_NO_USAGE = [None] * 5


def _task_record(row: Row) -> TaskRecord:
    (_, ref, pool_id, position, role, hint_s, prompt, submitted_at, attempt, worker, started_at, ended_at, status,
     reason, error, duration_s, *usage, text, pool) = row  # fmt: skip
    result = None
    if ended_at is not None:
        result = TaskResult(
            ref=ref, prompt=prompt, worker=worker, role=role, status=TaskStatus(status), text=text or "",
            reason=None if reason is None else Reason(reason), error=error,
            usage=None if usage == _NO_USAGE else Usage(*usage), duration_s=duration_s, submitted_at=submitted_at,
            started_at=started_at, completed_at=ended_at, attempt=attempt, index=position,
        )  # fmt: skip
    begun = TaskState.QUEUED if started_at is None else TaskState.RUNNING
    return TaskRecord(
        pool=pool, pool_id=pool_id, ref=ref, index=position, role=role, prompt=prompt, hint_s=hint_s,
        state=begun if result is None else TaskState.ENDED, attempt=attempt, worker=worker,
        submitted_at=submitted_at, started_at=started_at, result=result,
    )  # fmt: skip


def _task_result(row: Row) -> TaskResult:
    result = _task_record(row).result
    assert result is not None  # the query asks for those that have ended
    return result


def _number(row: Row) -> int:
    return int(row[0])
