"""What the store promises about pools: the medium may fail, a statement may fail, a name is taken once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.store.samples import ManualClock, raw
from tests.store.test_faults import pragma
from tollboard.errors import PoolExists, StoreError, StoreUnavailable
from tollboard.fleet.pools.records import PoolLife, PoolRecord, PoolSpec, TaskState
from tollboard.ids import new_ref
from tollboard.pool.crew import Crew
from tollboard.pool.records import TaskResult, TaskStatus
from tollboard.pool.task import PoolTask
from tollboard.runtime.event import Usage
from tollboard.runtime.results import Reason
from tollboard.store.store import Store
from tollboard.store.write import Write

SPEC = PoolSpec(size={"worker": 2}, path="/tmp", backend="echo", strategy="round_robin", max_queued=10)
RESULT = TaskResult(
    ref="", prompt="do it", worker="p-0", role="worker", status=TaskStatus.OK, text="done", reason=None, error=None,
    usage=Usage(1, 2, 3, 4, 0.5), duration_s=1.5, submitted_at=1.0, started_at=2.0, completed_at=3.5, attempt=1,
    index=0,
)  # fmt: skip


def pool(name: str = "p") -> PoolRecord:
    return PoolRecord(
        id=new_ref(), name=name, spec=SPEC, life=PoolLife.LIVE, created_at=1.0, created_by="test"
    )


def task(index: int = 0, prompt: str = "do it") -> PoolTask:
    made = PoolTask(new_ref(), prompt, 1.0, _CREW)
    made.index = index
    return made


_CREW = Crew.__new__(Crew)
_CREW.role = "worker"


async def test_a_task_and_all_that_is_known_of_it(store: Store) -> None:
    made, one = pool(), task()
    await store.pools.create_pool(made)
    journal = store.pools.pool_journal(made)
    await journal.accepted(one)
    found = await store.pools.pool_task(one.ref)
    assert found is not None
    assert (found.state, found.pool, found.prompt, found.attempt) == (TaskState.QUEUED, "p", "do it", 0)
    await journal.started(one, "p-1", 1)
    found = await store.pools.pool_task(one.ref)
    assert found is not None
    assert (found.state, found.worker, found.attempt) == (TaskState.RUNNING, "p-1", 1)
    ended = replace(RESULT, ref=one.ref)
    await settled(journal.finished(ended))
    assert list(await store.pools.task_results(made.id, after=-1, limit=9)) == [ended]
    assert await store.pools.next_task_index(made.id) == 1


async def test_what_was_not_accepted_must_not_run(store: Store) -> None:
    made = pool()
    await store.pools.create_pool(made)
    with pytest.raises(StoreError, match="must not run"):
        await store.pools.pool_journal(made).started(task(), "p-0", 1)


async def test_what_has_ended_does_not_end_otherwise(store: Store) -> None:
    made, one = pool(), task()
    await store.pools.create_pool(made)
    journal = store.pools.pool_journal(made)
    _ = journal.accepted(one)
    _ = journal.finished(replace(RESULT, ref=one.ref))
    _ = journal.finished(replace(RESULT, ref=one.ref, text="other", completed_at=9.0))
    await store.pools.interrupt_task(one.ref, at=9.0, detail="late")
    [kept] = await store.pools.task_results(made.id, after=-1, limit=9)
    assert (kept.text, kept.completed_at) == ("done", 3.5)


async def test_an_answer_is_written_again_when_the_disk_heals(store: Store, clock: ManualClock) -> None:
    made, one = pool(), task()
    await store.pools.create_pool(made)
    journal = store.pools.pool_journal(made)
    await journal.accepted(one)
    await pragma(store, "query_only = 1")
    waiting = asyncio.ensure_future(settled(journal.finished(replace(RESULT, ref=one.ref))))
    with pytest.raises(StoreUnavailable):
        await store.flush()
    assert not waiting.done()
    await pragma(store, "query_only = 0")
    clock.advance(1.0)
    await waiting
    assert [r.text for r in await store.pools.task_results(made.id, after=-1, limit=9)] == ["done"]


async def test_an_answer_that_can_never_be_stored_leaves_a_failed_task(store: Store) -> None:
    made, one = pool(), task()
    await store.pools.create_pool(made)
    journal = store.pools.pool_journal(made)
    await journal.accepted(one)
    with pytest.raises(StoreError):
        await settled(
            journal.finished(
                replace(RESULT, ref=one.ref, error=object())  # type: ignore[arg-type] # no column takes that
            )
        )
    [left] = await store.pools.task_results(made.id, after=-1, limit=9)
    assert (left.status, left.reason, left.text) == (TaskStatus.FAILED, Reason.STORE_FAILED, "")


async def test_what_was_refused_has_no_outcome_to_wait_for(store: Store) -> None:
    made, early, late = pool(), task(0), task(1)
    await store.pools.create_pool(made)
    journal = store.pools.pool_journal(made)
    await pragma(store, "query_only = 1")
    refused = journal.accepted(early)
    together = journal.finished(replace(RESULT, ref=early.ref))
    with pytest.raises(StoreUnavailable):
        await refused
    with pytest.raises(StoreUnavailable):
        await settled(together)
    await pragma(store, "query_only = 1")  # the writer has opened its connection anew
    with pytest.raises(StoreUnavailable):
        await journal.accepted(late)
    assert journal.finished(replace(RESULT, ref=late.ref)) is None
    assert not journal.refused
    await pragma(store, "query_only = 0")


async def test_a_name_is_taken_once_until_it_is_stopped(store: Store) -> None:
    first, second = pool(), pool()
    await store.pools.create_pool(first)
    with pytest.raises(PoolExists, match="stop it or choose another name"):
        await store.pools.create_pool(second)
    await store.pools.set_pool_life(first.id, PoolLife.STOPPED, at=2.0)
    await store.pools.create_pool(second)
    found = await store.pools.find_pool("p")
    assert found is not None
    assert found.id == second.id
    assert [one.id for one in await store.pools.pools(every=True)] == [first.id, second.id]
    await store.pools.set_pool_life(second.id, PoolLife.STOPPED, at=1.0)
    found = await store.pools.find_pool("p")
    assert found is not None
    assert found.id == second.id, "stopped last, whatever the clock said"


async def test_tasks_need_their_pool_and_go_with_it(store: Store, path: Path) -> None:
    made, one = pool(), task()
    with pytest.raises(StoreError, match="its session or pool is not in the database"):
        await store.pools.pool_journal(made).accepted(one)
    await store.pools.create_pool(made)
    await store.pools.pool_journal(made).accepted(task())
    await store.pools.delete_pool(made.id)
    assert raw(path).execute("SELECT count(*) FROM pool_tasks").fetchone() == (0,)


async def test_counts_are_per_pool(store: Store) -> None:
    one, two = pool("one"), pool("two")
    for made, endings in ((one, ("ok", "failed", None)), (two, ("ok",))):
        await store.pools.create_pool(made)
        journal = store.pools.pool_journal(made)
        for index, status in enumerate(endings):
            new = task(index)
            await journal.accepted(new)
            if status is not None:
                await settled(journal.finished(replace(RESULT, ref=new.ref, status=TaskStatus(status))))
    assert [(p.submitted, p.ok, p.failed) for p in await store.pools.pools()] == [(3, 1, 1), (1, 1, 0)]


async def settled(write: Write | None) -> None:
    assert write is not None
    await write
