"""The feed: numbered by the database, bounded per session, told in order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

from tests.store.samples import ManualClock, begin, item, request, started_session, turn, value
from tollboard.fleet.records import FeedItem
from tollboard.store.retention import Retention
from tollboard.store.store import Store


async def test_s10_items_are_numbered_in_order_and_told_once(store: Store) -> None:
    made, journal = await started_session(store)
    told: list[FeedItem] = []
    enough = asyncio.Event()

    def on_feed(items: Sequence[FeedItem]) -> None:
        told.extend(items)
        if len(told) == 60:
            enough.set()

    store.on_feed(on_feed)
    for n in range(30):
        store.feed(item(made, "a", data={"n": n}))
        with store.atomic():
            store.feed(item(made, "b", data={"n": n}))
            _ = journal.halted(bool(n % 2))
    await enough.wait()
    assert [(i.seq, i.kind, i.data["n"]) for i in told] == [
        (2 * n + k, kind, n) for n in range(30) for k, kind in ((1, "a"), (2, "b"))
    ]
    assert list(await store.feed_after(0, limit=100)) == told
    assert list(await store.feed_after(58, limit=100)) == told[58:]
    assert await store.feed_after(60, limit=100) == []


async def test_the_feed_is_filtered_by_session_kind_and_ref(store: Store) -> None:
    one, first = await started_session(store, "one")
    two, _ = await started_session(store, "two")
    done = await turn(first)
    store.feed(item(one, "turn.started", ref=done.ref))
    store.feed(item(two, "turn.started"))
    store.feed(item(one, "turn.ended", ref=done.ref))
    store.feed(item(one, "halted"))
    await store.flush()

    async def seqs(**how: object) -> list[int]:
        return [i.seq for i in await store.feed_after(0, limit=10, **how)]  # type: ignore[arg-type]

    assert await seqs() == [1, 2, 3, 4]
    assert await seqs(session="one") == [1, 3, 4]
    assert await seqs(session="one", kinds=["halted", "turn.ended"]) == [3, 4]
    assert await seqs(kinds=["turn.started"]) == [1, 2]
    assert await seqs(ref=done.ref) == [1, 3]
    assert await seqs(session="two", ref=done.ref) == []
    assert await seqs(ref="unknown") == []
    assert await seqs(session="unknown") == []
    assert [i.seq for i in await store.feed_after(1, session="one", limit=1)] == [3]


async def test_numbers_never_repeat_even_after_everything_was_deleted(store: Store, path: Path) -> None:
    assert await store.feed_bounds() == (0, 0)
    made, _ = await started_session(store)
    for _ in range(5):
        store.feed(item(made))
    await store.flush()
    assert await store.feed_bounds() == (1, 5)
    await store.delete_session(made.id)
    assert await store.feed_bounds() == (0, 0)
    await store.close()
    again = await Store.open(path, clock=ManualClock())
    other, _ = await started_session(again)
    again.feed(item(other))
    await again.flush()
    assert await again.feed_bounds() == (6, 6)
    await again.close()


async def test_each_session_keeps_its_newest_items(path: Path) -> None:
    store = await Store.open(path, clock=ManualClock(), retention=Retention(max_events_per_session=100))
    chatty, _ = await started_session(store, "chatty")
    quiet, _ = await started_session(store, "quiet")
    store.feed(item(quiet, "early"))
    for _ in range(40):
        for _ in range(50):
            store.feed(item(chatty, data={"text": "x" * 100}))
        await store.flush()
        assert len(await store.feed_after(0, session="chatty", limit=10_000)) <= 100 + 50 + 10
    kept = await store.feed_after(0, session="chatty", limit=10_000)
    assert 100 <= len(kept) <= 110 + 50
    assert kept[-1].seq == 2_001
    assert [i.seq for i in kept] == list(range(kept[0].seq, 2_002))
    assert [i.kind for i in await store.feed_after(0, session="quiet", limit=10)] == ["early"]
    await store.close()


async def test_a_surplus_from_before_is_pruned_in_slices(path: Path) -> None:
    store = await Store.open(path, clock=ManualClock())
    made, _ = await started_session(store, "s")
    for _ in range(1_900):
        store.feed(item(made))
    await store.close()
    store = await Store.open(path, clock=ManualClock(), retention=Retention(max_events_per_session=100))
    left = []
    for _ in range(4):
        store.feed(item(made))
        await store.flush()
        left.append(value(path, "SELECT count(*) FROM events"))
    # The first look after the start begins; each transaction takes a thousand at most.
    assert left == [901, 100, 101, 102]
    await store.close()


async def test_old_items_go_whatever_their_number(path: Path) -> None:
    clock = ManualClock(1_000_000.0)
    store = await Store.open(path, clock=clock, retention=Retention(max_age_s=100.0))
    made, journal = await started_session(store)
    done = await turn(journal)
    for n in range(10):
        store.feed(item(made, at=clock.now + n))
    await store.close()
    clock.now += 105.0
    store = await Store.open(path, clock=clock, retention=Retention(max_age_s=100.0))
    store.feed(item(made, "new", at=clock.now))
    await store.flush()
    assert [i.seq for i in await store.feed_after(0, limit=100)] == [6, 7, 8, 9, 10, 11]
    # History and requests are not the feed's business.
    assert await store.request(done.ref) is not None
    assert await store.history_size(made.id) == 1
    await store.close()


async def test_odd_data_does_not_stop_the_feed(store: Store) -> None:
    made, _ = await started_session(store)
    store.feed(item(made, data={"path": Path("/x"), "text": "lone \ud800", "nul": "\x00", "n": float("inf")}))
    await store.flush()
    (found,) = await store.feed_after(0, limit=10)
    assert found.data == {"path": "/x", "text": "lone ?", "nul": "\x00", "n": float("inf")}


async def test_a_huge_feed_is_read_in_pages(store: Store) -> None:
    made, _ = await started_session(store, "s")
    for n in range(30_000):
        store.feed(item(made, data={"n": n}))
        if store.congested:
            await store.flush()
    await store.flush()
    seen, page = 0, await store.feed_after(0, limit=500)
    while page:
        assert all(a.seq < b.seq for a, b in itertools.pairwise(page))
        seen += len(page)
        page = await store.feed_after(page[-1].seq, limit=500)
    assert 2_000 <= seen <= 2_000 + 200 + 512


async def test_the_feed_of_a_deleted_session_may_tell_of_it(store: Store) -> None:
    made, journal = await started_session(store, "s")
    begun = request()
    begin(journal, begun)
    store.feed(item(made, "started"))
    _ = store.delete_session(made.id)
    store.feed(item(made, "deleted"))
    await store.flush()
    assert [i.kind for i in await store.feed_after(0, limit=10)] == ["deleted"]
