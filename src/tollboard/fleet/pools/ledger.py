"""What durable pools need remembered: the contract between `Pools` and the store. The rules are those of `Ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tollboard.errors import StoreUnavailable
from tollboard.fleet.ledger import Commit
from tollboard.fleet.pools.records import PoolLife, PoolRecord, PoolSpec, TaskRecord
from tollboard.pool.journal import PoolJournal
from tollboard.pool.records import TaskResult


class PoolLedger(Protocol):
    """Everything that is remembered of pools."""

    def flush(self) -> Commit:
        """Return a commit that resolves when everything written so far is durable."""

    def create_pool(self, record: PoolRecord) -> Commit:
        """Remember a new pool. The commit raises PoolExists when its name is taken."""

    def pool_journal(self, record: PoolRecord) -> PoolJournal:
        """Return the journal of a pool's tasks."""

    def set_pool_life(self, pool_id: str, life: PoolLife, *, at: float, problem: str | None = None) -> Commit:
        """Remember that a pool was stopped, is dead, or works again."""

    def set_pool_spec(self, pool_id: str, spec: PoolSpec) -> Commit:
        """Remember what a pool is asked to be from now on."""

    def end_pool_tasks(self, pool_id: str, *, at: float, reason: str, detail: str) -> Commit:
        """End every task of a pool that has not ended, as stopped."""

    def interrupt_task(self, ref: str, *, at: float, detail: str) -> Commit:
        """End a task that was in flight when the last daemon ended; does nothing if it has ended."""

    def delete_pool(self, pool_id: str) -> Commit:
        """Remove a pool and its tasks."""

    async def pools(self, *, every: bool = False) -> Sequence[PoolRecord]:
        """Return the pools that are not stopped, oldest first; with `every` the stopped ones too."""

    async def find_pool(self, name_or_id: str) -> PoolRecord | None:
        """Return the pool that has the name now, else the one stopped last, else the one with that id."""

    async def pool_task(self, ref: str) -> TaskRecord | None:
        """Return one task."""

    async def unfinished_tasks(self, pool_id: str) -> Sequence[TaskRecord]:
        """Return the tasks of a pool that have not ended, in submission order."""

    async def next_task_index(self, pool_id: str) -> int:
        """Return the index that the pool's next task gets."""

    async def task_results(self, pool_id: str, *, after: int, limit: int) -> Sequence[TaskResult]:
        """Return ended tasks with a greater index, in submission order."""

    @property
    def trouble(self) -> StoreUnavailable | None:
        """What keeps things from being written now: a full disk, most often. Outcomes wait until it has gone."""

    def hurry(self) -> None:
        """Try now to write the outcomes that wait for the trouble to go; otherwise they are tried now and then."""
