"""The seam for durability: commit, then resolve, then emit; and a pool that is brought back."""

from __future__ import annotations

import asyncio

import pytest

from tests.pool.fakes import GateBackend, RecordingJournal, settle
from tollboard.errors import NotCancellable, StoreUnavailable
from tollboard.pool import telemetry
from tollboard.pool.pool import Pool
from tollboard.pool.records import Backlog, TaskStatus
from tollboard.runtime.results import Reason
from tollboard.runtime.runtime import Runtime


async def test_commit_then_resolve_then_emit() -> None:
    journal, backend = RecordingJournal(slow=True), GateBackend(open=True)
    async with Runtime() as runtime:
        seen: list[str] = []
        runtime.telemetry.attach("t", telemetry.ALL_EVENTS, lambda event, _, __: seen.append(".".join(event)))
        pool = await Pool.start(1, backend=backend, journal=journal, runtime=runtime)
        submit = asyncio.ensure_future(pool.submit("a"))
        await settle()
        assert not submit.done()  # the ref is handed out when it is durable
        accepted, started = journal.commits
        accepted.set_result(None)
        _, ref = await submit
        await settle()
        assert backend.prompts == []  # and the backend sees nothing before the start is
        started.set_result(None)
        journal.commits.clear()
        await settle()
        assert backend.prompts == ["a"]
        assert pool.poll(ref) is None
        assert "pool.task.finished" not in seen
        journal.flush()
        assert (await pool.wait(ref)).ok
        assert seen[-1] == "pool.task.finished"
        assert journal.entries == [("accepted", "a"), ("started", "a", 1), ("finished", "a", "ok")]
        journal.slow = False
        await pool.stop()


async def test_submit_many_waits_for_all_commits() -> None:
    journal = RecordingJournal(slow=True)
    pool = await Pool.start(1, backend=GateBackend(open=True), journal=journal)
    submit = asyncio.ensure_future(pool.submit_many(["a", "b", "c"]))
    await settle()
    assert not submit.done()
    assert journal.entries[:3] == [("accepted", "a"), ("accepted", "b"), ("accepted", "c")]
    journal.slow = False
    journal.flush()
    assert len(await submit) == 3
    await pool.wait_for_all()
    await pool.stop()


async def test_what_could_not_be_kept_was_not_accepted() -> None:
    journal, backend = RecordingJournal(fails=frozenset({"accepted"})), GateBackend()
    async with Pool.start(1, backend=backend, journal=journal) as pool:
        with pytest.raises(StoreUnavailable):
            await pool.submit("a")
        with pytest.raises(StoreUnavailable):
            await pool.submit_many(["b", "c"])
        await pool.wait_for_all()
        assert [r.reason for r in pool.results()] == [Reason.STORE_FAILED] * 3
        assert backend.prompts == []


async def test_a_result_that_could_not_be_kept_is_not_shown_as_one() -> None:
    journal = RecordingJournal(fails=frozenset({"finished"}))
    async with Pool.start(1, backend=GateBackend(open=True), journal=journal) as pool:
        _, ref = await pool.submit("a")
        assert (await pool.wait(ref)).reason is Reason.STORE_FAILED


async def test_each_task_is_finished_once_through_retries_moves_and_stop() -> None:
    journal, backend = RecordingJournal(), GateBackend()
    pool = await Pool.start(2, backend=backend, journal=journal, retries=1)
    await pool.submit_many(["a", "b", "c", "d", "e"])
    await backend.wait_begun(2)
    backend.let("a", "crash")
    await backend.wait_begun(3)
    await settle()
    backend.let("b")
    await settle()
    pool.cancel(next(t.ref for t in pool._desk.keeper.tasks.values() if t.prompt == "e"))
    await pool.stop()
    finished = [entry[1:] for entry in journal.entries if entry[0] == "finished"]
    assert sorted(text for text, _ in finished) == ["a", "b", "c", "d", "e"]
    assert dict(finished)["b"] == "ok"
    assert dict(finished)["e"] == "cancelled"
    assert ("started", "a", 1) in journal.entries
    assert ("started", "a", 2) in journal.entries


async def test_suspend_leaves_what_has_not_ended_to_the_journal() -> None:
    journal, backend = RecordingJournal(), GateBackend()
    pool = await Pool.start(1, backend=backend, journal=journal)
    await pool.submit_many(["a", "b", "c"])
    await backend.wait_begun(1)
    backend.let("a")
    await backend.wait_begun(2)
    await asyncio.wait_for(pool.suspend(), 1)
    assert [entry for entry in journal.entries if entry[0] == "finished"] == [("finished", "a", "ok")]


@pytest.mark.parametrize("strategy", ["round_robin", "shared_queue"])
async def test_a_pool_is_brought_back_with_its_backlog(strategy: str) -> None:
    journal, backend = RecordingJournal(), GateBackend(open=True)
    backlog = [
        Backlog(ref="r7", prompt="seven", role="worker", index=7, submitted_at=5.0),
        Backlog(ref="r4", prompt="four", role="worker", index=4, submitted_at=3.0, attempt=1),
    ]
    async with Pool.start(
        1, backend=backend, journal=journal, backlog=backlog, first_index=6, max_queued=1, strategy=strategy
    ) as pool:
        result = await pool.wait("r4")
        assert (result.attempt, result.index, result.submitted_at) == (2, 4, 3.0)
        _, ref = await pool.submit("new")
        assert (await pool.wait(ref)).index == 8
        assert backend.prompts == ["four", "seven", "new"]
        assert ("accepted", "four") not in journal.entries
        assert [r.status for r in pool.results()] == [TaskStatus.OK] * 3


async def test_a_task_whose_end_is_being_written_cannot_end_again() -> None:
    # Found by the property test: a cancel while the commit of its end was under way ended the task twice.
    journal, backend = RecordingJournal(), GateBackend()
    async with Pool.start(1, backend=backend, journal=journal) as pool:
        refs = [s.ref for s in await pool.submit_many(["a", "b"])]
        journal.slow = True
        pool.cancel(refs[1])
        with pytest.raises(NotCancellable):
            pool.cancel(refs[1])
        journal.slow = False
        journal.flush()
        assert (await pool.wait(refs[1])).status is TaskStatus.CANCELLED
        await backend.wait_begun(1)
        backend.let("a")
        await pool.wait_for_all()
        assert [entry for entry in journal.entries if entry[:2] == ("finished", "b")] == [
            ("finished", "b", "cancelled")
        ]
