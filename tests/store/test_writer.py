"""The one writer: group commit, order, isolation of bad statements, ownership, bounds, an orderly end."""

from __future__ import annotations

import asyncio
import gc
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.store.samples import (
    ManualClock,
    begin,
    completed,
    item,
    raw,
    record,
    request,
    start,
    started_session,
    turn,
    value,
)
from tollboard.errors import AgentExists, Overloaded, StaleOwner, StoreError, StoreUnavailable
from tollboard.fleet.records import FeedItem, Life
from tollboard.store import writer as writer_module
from tollboard.store.store import Store


class Gate:
    """Holds the database's write lock, so that the writer waits in its first transaction and a batch gathers."""

    def __init__(self, path: Path) -> None:
        self.connection = raw(path)
        self.connection.execute("BEGIN IMMEDIATE")

    def open(self) -> None:
        self.connection.execute("ROLLBACK")
        self.connection.close()


async def gathered(store: Store) -> None:
    """Give the writer something to wait with, until it has taken it: what follows becomes one batch."""
    _ = store.set_cursor("nobody", "me", 1)  # fails later, alone
    while not store._writer._queue.empty():
        await asyncio.sleep(0)


async def test_what_gathers_is_committed_in_one_transaction(store: Store, path: Path) -> None:
    _, journal = await started_session(store)
    before = value(path, "PRAGMA data_version")
    watcher = raw(path)
    version = watcher.execute("PRAGMA data_version").fetchone()
    gate = Gate(path)
    await gathered(store)
    commits = [journal.accepted(request(str(n))) for n in range(300)]
    seen: list[int] = []
    gate.open()
    for commit in commits:
        await commit
        seen.append(watcher.execute("SELECT count(*) FROM requests").fetchone()[0])
    assert set(seen) == {300}
    assert watcher.execute("PRAGMA data_version").fetchone() != version
    assert before is not None
    watcher.close()


async def test_one_bad_statement_fails_its_own_caller(store: Store, path: Path) -> None:
    made, journal = await started_session(store)
    taken = await turn(journal)
    gate = Gate(path)
    await gathered(store)
    good = [journal.accepted(request(str(n))) for n in range(3)]
    bad = [
        journal.accepted(request("again", ref=taken.ref)),
        store.create_session(record(made.name)),
        store.set_cursor("no such session", "me", 1),
    ]
    odd = journal.accepted(request("odd \udc80"))
    store.feed(item(made))
    last = journal.accepted(request("last"))
    gate.open()
    for commit in (*good, odd, last):
        await commit
    for refused, error in zip(bad, (StoreError, AgentExists, StoreError), strict=True):
        with pytest.raises(error):
            await refused
    prompts = [r.prompt for r in await store.unfinished()]
    assert prompts == ["0", "1", "2", "odd ?", "last"]
    assert len(await store.feed_after(0, limit=10)) == 1


async def test_a_start_in_the_same_batch_is_folded_into_its_acceptance(store: Store, path: Path) -> None:
    made, journal = await started_session(store)
    gate = Gate(path)
    await gathered(store)
    first, second = request(), request()
    begin(journal, first, at=21.0)
    begin(journal, second, at=22.0)
    start(journal, second, at=23.0)
    commit = journal.finished(first, completed(), 1.0)
    gate.open()
    assert commit is not None
    await commit
    found = await store.requests([first.ref, second.ref])
    assert [(r.receipt.started_at, r.receipt.state.value) for r in found] == [
        (21.0, "ended"),
        (23.0, "started"),
    ]
    assert journal.turns == 1 == await store.history_size(made.id)


async def test_commit_then_resolve_then_emit(store: Store) -> None:
    made, journal = await started_session(store)
    order: list[str] = []
    told = asyncio.Event()

    def on_feed(items: Sequence[FeedItem]) -> None:
        order.append("emitted")
        told.set()

    store.on_feed(on_feed)
    waiting = request()
    store.feed(item(made))
    commit = journal.accepted(waiting)

    async def caller() -> None:
        await commit
        order.append("resolved")
        assert await store.request(waiting.ref) is not None

    await asyncio.gather(caller(), told.wait())
    assert order == ["resolved", "emitted"]


async def test_commits_resolve_in_the_order_they_were_written(store: Store) -> None:
    _, journal = await started_session(store)
    order: list[int] = []

    async def wait(number: int, commit: object) -> None:
        await commit  # type: ignore[misc]
        order.append(number)

    tasks = [asyncio.ensure_future(wait(n, journal.accepted(request()))) for n in range(50)]
    await asyncio.gather(*tasks)
    assert order == list(range(50))


async def test_a_cancelled_waiter_disturbs_neither_the_write_nor_the_others(store: Store, path: Path) -> None:
    _, journal = await started_session(store)
    gate = Gate(path)
    made = request()
    commit = journal.accepted(made)

    async def wait() -> None:
        await commit

    first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.open()
    await second
    await commit
    assert await store.request(made.ref) is not None


async def test_a_failure_nobody_awaits_is_silent_until_the_next_flush(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = await started_session(store)
    _ = store.create_session(record(made.name))
    flushes = [store.flush(), store.flush()]
    for flush in flushes:
        with pytest.raises(AgentExists):
            await flush
    await store.flush()
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_two_tasks_that_await_a_failure_get_an_error_each(store: Store) -> None:
    made, _ = await started_session(store)
    commit = store.create_session(record(made.name))
    errors: list[BaseException] = []
    for _ in range(2):
        with pytest.raises(AgentExists) as caught:
            await commit
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    assert errors[0].args == errors[1].args


async def test_s23_atomic_is_all_or_nothing(store: Store) -> None:
    one, first = await started_session(store)
    _, second = await started_session(store)
    with store.atomic():
        commits = [first.halted(True), second.halted(True)]
        store.feed(item(one, "halted"))
        with store.atomic():
            commits.append(store.set_cursor(one.id, "me", 1))  # type: ignore[arg-type]
    for commit in commits:
        await commit
    assert [s.halted for s in await store.sessions()] == [True, True]
    with store.atomic():
        undone = [first.halted(False), store.set_cursor("no such session", "me", 1), second.halted(False)]
        store.feed(item(one, "resumed"))
    beside = store.set_cursor(one.id, "me", 2)
    for commit in undone:
        with pytest.raises(StoreError, match="deleted"):
            await commit
    await beside
    assert [s.halted for s in await store.sessions()] == [True, True]
    assert [i.kind for i in await store.feed_after(0, limit=10)] == ["halted"]


async def test_an_exception_in_an_atomic_block_withdraws_it(store: Store) -> None:
    _, journal = await started_session(store)
    commit = None

    def broken() -> None:
        nonlocal commit
        with store.atomic():
            commit = journal.halted(True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert commit is not None
    with pytest.raises(StoreUnavailable, match="withdrawn"):
        await commit
    with store.atomic():
        pass
    await store.flush()
    assert [s.halted for s in await store.sessions()] == [False]


async def test_an_outcome_in_a_group_that_was_refused_is_written_alone(
    store: Store, clock: ManualClock
) -> None:
    made, journal = await started_session(store)
    begun = request()
    begin(journal, begun)
    with store.atomic():
        commit = journal.finished(begun, completed(), 1.0)
        _ = store.set_cursor("no such session", "me", 1)
    assert commit is not None
    with pytest.raises(StoreError):
        await commit
    (entry,) = await store.history(made.id, limit=10)
    assert entry.error is not None
    assert entry.error.startswith("store_failed")


async def test_a_stale_owner_can_never_write_again(store: Store, path: Path) -> None:
    made, journal = await started_session(store)
    begun = request()
    begin(journal, begun)
    await store.flush()
    newer = await Store.open(path, take_over=True)
    assert newer.epoch > store.epoch
    late = journal.finished(begun, completed(), 1.0)
    assert late is not None
    for commit in (journal.halted(True), late, store.create_session(record())):
        with pytest.raises(StaleOwner, match="taken over"):
            await commit
    with pytest.raises(StaleOwner):
        await store.flush()
    await newer.set_life(made.id, Life.DEAD, at=1.0)
    with pytest.raises(StaleOwner):
        await journal.halted(True)
    assert [s.life for s in await store.sessions()] == [Life.DEAD]
    assert journal.turns == 0
    await newer.close()


async def test_the_queue_is_bounded(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, journal = await started_session(store)
    begun = request()
    begin(journal, begun)
    await store.flush()
    monkeypatch.setattr(writer_module, "CONGESTED_AT", 3)
    monkeypatch.setattr(writer_module, "MAX_QUEUED", 5)
    gate = Gate(path)
    accepted = [journal.accepted(request()) for _ in range(3)]
    assert store.congested
    accepted += [journal.accepted(request()) for _ in range(2)]
    with pytest.raises(Overloaded, match="store queue is full: 5 of 5"):
        _ = journal.accepted(request())
    withdrawn = None
    with pytest.raises(Overloaded), store.atomic():
        withdrawn = store.set_cursor(made.id, "me", 9)
    assert withdrawn is not None
    with pytest.raises(StoreUnavailable, match="withdrawn"):
        await withdrawn
    store.feed(item(made, "dropped"))
    done = journal.finished(begun, completed(), 1.0)
    flush = store.flush()
    gate.open()
    assert done is not None
    await done
    for commit in accepted:
        await commit
    with pytest.raises(Overloaded):
        await flush
    await store.flush()
    assert not store.congested
    assert len(await store.unfinished()) == 5
    assert await store.cursors("me") == {}
    assert await store.feed_bounds() == (0, 0)


async def test_a_batch_has_a_limit(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_BATCH", 4)
    _, journal = await started_session(store)
    gate = Gate(path)
    commits = [journal.accepted(request(str(n))) for n in range(10)]
    gate.open()
    for commit in commits:
        await commit
    assert [r.prompt for r in await store.unfinished()] == [str(n) for n in range(10)]


async def test_a_feed_callback_that_raises_is_reported_and_called_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = await started_session(store)
    calls: list[int] = []
    done = asyncio.Event()

    def bad(items: Sequence[FeedItem]) -> None:
        calls.append(len(items))
        raise RuntimeError("oops")

    def good(items: Sequence[FeedItem]) -> None:
        if items[-1].kind == "last":
            done.set()

    store.on_feed(bad)
    store.on_feed(good)
    store.feed(item(made, "first"))
    await store.flush()
    store.feed(item(made, "last"))
    await done.wait()
    assert calls == [1, 1]
    assert "feed callback raised" in caplog.text


async def test_closing_drains_what_waits(store: Store, path: Path) -> None:
    _, journal = await started_session(store)
    for n in range(1_500):
        _ = journal.accepted(request(str(n)))
    await store.close()
    assert value(path, "SELECT count(*) FROM requests") == 1_500
    assert not path.with_name(path.name + "-wal").exists()


async def test_closing_gives_up_on_a_disk_that_does_not_answer(path: Path) -> None:
    clock = ManualClock()
    store = await Store.open(path, clock=clock)
    _, journal = await started_session(store)
    gate = Gate(path)
    _ = journal.halted(True)
    closing = asyncio.ensure_future(store.close())
    await clock.waiting()
    clock.advance(60.0)
    with pytest.raises(StoreUnavailable, match="does not answer; 1 writes are not durable"):
        await closing
    gate.open()
    await store.close()
    assert value(path, "SELECT halted FROM sessions") == 1


def test_a_loop_that_ended_first_is_no_disaster(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="tollboard")

    async def leave() -> tuple[Store, Gate]:
        store = await Store.open(path)
        gate = Gate(path)
        _ = store.create_session(record())
        return store, gate

    store, gate = asyncio.run(leave())
    gate.open()
    store._writer._queue.put(None)
    store._writer._thread.join(10)
    assert not store._writer._thread.is_alive()
    assert value(path, "SELECT count(*) FROM sessions") == 1
    assert "loop ended before" in caplog.text
    for connection in store._reader._connections:
        connection.close()
    store._owner.release()


def test_sqlite_is_safe_to_hand_between_threads() -> None:
    """The readers' connections are closed by the loop's thread, after their own threads have ended."""
    assert sqlite3.threadsafety == 3
