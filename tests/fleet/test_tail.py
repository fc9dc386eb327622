"""The feed: no gaps, no repeats, whatever is filtered, restarted, slow or forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import tollboard.fleet.tail as tail_module
from tests.fleet.world import Fleet, seen
from tollboard.errors import Invalid
from tollboard.fleet.records import FeedItem, PollCompleted, PollPending
from tollboard.runtime.event import NoticeEvent
from tollboard.store.retention import Retention


async def settled(fleet: Fleet) -> int:
    """Return the newest number, once everything is committed and told."""
    await fleet.store.flush()
    await asyncio.sleep(0)
    return fleet.board._tail.last_seq


async def take(tail: AsyncIterator[FeedItem], last: int) -> list[FeedItem]:
    """Return the items up to a number."""
    items: list[FeedItem] = []
    while not items or items[-1].seq < last:
        items.append(await asyncio.wait_for(anext(tail), 20))
    return items


async def test_s10_one_line_for_everything_that_happens(fleet: Fleet) -> None:
    tail = fleet.board.tail()
    await fleet.start(backend="gated")
    fleet.gated.notice = NoticeEvent("rate_limit", "slow down")
    fleet.gated.effective = {"model": "m"}
    ref = await fleet.board.send("api", "x")
    queued = await fleet.board.send("api", "y", queue=True)
    gone = await fleet.board.send("api", "z", queue=True)
    await fleet.board.cancel("api", gone)
    await fleet.board.halt("api")
    fleet.gated.gate.set()
    await fleet.done(ref)
    await fleet.board.resume("api")
    await fleet.done(queued)
    await fleet.board.stop_session("api")
    kinds = []
    while "session.stopped" not in kinds:
        kinds.append((await anext(tail)).kind)
    for kind in (
        "session.started",
        "turn.started",
        "settings",
        "queued",
        "notice",
        "cancelled",
        "halted",
        "resumed",
        "turn.completed",
    ):
        assert kind in kinds, kind
    assert kinds.index("turn.started") < kinds.index("turn.completed") < kinds.index("resumed")


async def test_s10_what_a_follower_sees_can_be_polled(fleet: Fleet) -> None:
    await fleet.start(backend="echo", fail_on="bad")
    tail = fleet.board.tail(kinds=["turn.completed", "turn.failed"])
    for n in range(20):
        await fleet.board.send("api", "bad" if n % 3 else "good", queue=True)
    for n in range(20):
        item = await anext(tail)
        assert item.ref is not None
        poll = await fleet.board.poll("api", item.ref)
        assert not isinstance(poll, PollPending)
        assert item.kind == ("turn.failed" if n % 3 else "turn.completed")


@pytest.mark.parametrize("ring", [3, 5_000])
async def test_s10_numbers_go_on_across_store_ring_and_restart(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, ring: int
) -> None:
    monkeypatch.setattr(tail_module, "RING_SIZE", ring)
    monkeypatch.setattr(tail_module, "PAGE", 2)
    board = await fleet.restart()
    await fleet.start()
    follower = board.tail(after=0)
    for n in range(5):
        await fleet.run("api", f"p{n}")
    items = await take(follower, await settled(fleet))
    board = await fleet.kill()
    follower = board.tail(after=items[-1].seq)
    for n in range(5):
        await fleet.run("api", f"q{n}")
        items += await take(follower, await settled(fleet))
    assert [item.seq for item in items] == list(range(1, items[-1].seq + 1))
    everything = [item async for item in aiter_until(board.tail(after=0), items[-1].seq)]
    assert [item.seq for item in everything] == [item.seq for item in items]


async def aiter_until(tail: AsyncIterator[FeedItem], last: int) -> AsyncIterator[FeedItem]:
    for item in await take(tail, last):
        yield item


@pytest.mark.parametrize("ring", [3, 5_000])
async def test_s10_filters_hide_but_lose_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, ring: int
) -> None:
    monkeypatch.setattr(tail_module, "RING_SIZE", ring)
    monkeypatch.setattr(tail_module, "PAGE", 2)
    board = await fleet.restart()
    for name in ("a", "b"):
        await fleet.start(name)
    refs = [await fleet.run("ab"[n % 2], f"p{n}") for n in range(8)]
    await settled(fleet)

    async def some(count: int, **filters: object) -> list[FeedItem]:
        tail = board.tail(after=0, **filters)  # type: ignore[arg-type]
        return [await asyncio.wait_for(anext(tail), 10) for _ in range(count)]

    assert [i.ref for i in await some(8, kinds=["turn.completed"])] == refs
    assert [i.ref for i in await some(4, name="a", kinds=["turn.completed"])] == refs[::2]
    kinds = [i.kind for i in await some(3, ref=refs[3])]
    assert set(kinds) <= {"turn.started", "text", "settings", "turn.completed"}
    assert {i.session for i in await some(8, name="b")} == {"b"}
    live = board.tail("a", kinds=["turn.completed"])
    await fleet.run("b", "x")
    ref = await fleet.run("a", "y")
    assert (await anext(live)).ref == ref


async def test_s10_from_now_on_means_from_the_call(fleet: Fleet) -> None:
    await fleet.start()
    await fleet.run("api", "before")
    await settled(fleet)
    tail = fleet.board.tail(kinds=["turn.completed"])
    ref = await fleet.run("api", "after")
    assert (await anext(tail)).ref == ref


async def test_s10_a_number_of_another_database_hides_nothing(fleet: Fleet) -> None:
    await fleet.start()
    tail = fleet.board.tail(after=10**9)
    ref = await fleet.run("api", "x")
    assert (await seen(tail, "turn.completed", ref)).seq < 100


async def test_s10_many_followers_at_their_own_pace(fleet: Fleet) -> None:
    await fleet.start()
    followers = [fleet.board.tail(after=0) for _ in range(20)]
    slow = fleet.board.tail(after=0)
    first = await anext(slow)
    for n in range(10):
        await fleet.run("api", f"p{n}")
    last = await settled(fleet)
    all_items = await asyncio.gather(*(take(follower, last) for follower in followers))
    rest = [first, *await take(slow, last)]
    assert all([i.seq for i in items] == [i.seq for i in rest] for items in all_items)


@pytest.mark.parametrize("filters", [{}, {"kinds": ["text"]}, {"name": "api"}])
async def test_s10_what_retention_took_is_said(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, filters: dict[str, object]
) -> None:
    monkeypatch.setattr(tail_module, "RING_SIZE", 5)
    fleet.retention = Retention(max_events_per_session=10)
    board = await fleet.restart()
    await fleet.start("old")  # its oldest item stays: the gap is in the middle of the numbers
    await fleet.start()
    slow = board.tail(after=0, **filters)  # type: ignore[arg-type]
    for n in range(30):
        await fleet.run("api", f"p{n}")
    last = await settled(fleet)
    items = await take(slow, last - 1)
    missed = [item for item in items if item.kind == "missed"]
    assert missed
    assert missed[0].data["oldest"] > 2  # type: ignore[operator]
    seqs = [item.seq for item in items]
    assert seqs == sorted(set(seqs))
    assert (await board.events("api", after=1)).missed
    assert (await board.events(after=1)).missed
    assert not (await board.events(after=last - 2)).missed
    assert not (await board.events("old", after=0)).missed


async def test_s10_pages_continue_where_the_last_ended(fleet: Fleet) -> None:
    for name in ("a", "b"):
        await fleet.start(name)
    for n in range(6):
        await fleet.run("ab"[n % 2], f"p{n}")
    last = await settled(fleet)
    after, seqs = 0, []
    while after < last:
        page = await fleet.board.events(after=after, limit=4)
        seqs += [item.seq for item in page.items]
        assert not page.missed
        after = page.last_seq
    assert seqs == list(range(1, last + 1))
    page = await fleet.board.events("a", kinds=["turn.completed"])
    assert (len(page.items), page.last_seq) == (3, last)
    assert (await fleet.board.events(after=last)).items == ()
    for options in (
        {"limit": 0},
        {"limit": 1.5},
        {"limit": 1001},
        {"after": "1"},
        {"after": True},
        {"kinds": "text"},
    ):
        with pytest.raises(Invalid):
            await fleet.board.events(**options)  # type: ignore[arg-type]


async def test_s10_a_follower_that_was_given_up_leaves_nothing(fleet: Fleet) -> None:
    await fleet.start()
    before = len(asyncio.all_tasks())
    for _ in range(10):
        tail = fleet.board.tail(after=0)
        await anext(tail)
        await tail.aclose()  # type: ignore[attr-defined]
        waiting = asyncio.ensure_future(anext(fleet.board.tail()))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert len(asyncio.all_tasks()) == before


async def test_s10_a_deleted_session_leaves_the_feed(fleet: Fleet) -> None:
    await fleet.start("gone")
    await fleet.run("gone", "secret words")
    await fleet.board.stop_session("gone")
    await fleet.start("stays")
    await settled(fleet)
    await fleet.board.delete_session("gone")
    ref = await fleet.run("stays", "x")
    last = await settled(fleet)
    items = await take(fleet.board.tail(after=0), last)
    assert {item.session for item in items} == {"", "stays"}
    assert items[-1].ref == ref


async def test_l02_what_is_wrong_with_an_answer_is_said_in_its_entry_and_in_the_feed(fleet: Fleet) -> None:
    cut = {"events": [{"kind": "result", "text": "the first of the", "note": "its end is missing"}]}
    await fleet.start(backend="scripted", script=[cut, "whole"])
    ref = await fleet.run("api", "x")
    whole = await fleet.run("api", "y")
    last = await settled(fleet)
    ends = [item for item in await take(fleet.board.tail(after=0), last) if item.kind == "turn.completed"]
    assert [item.data.get("note") for item in ends] == ["its end is missing", None]
    polls = [await fleet.board.poll("api", each) for each in (ref, whole)]
    assert [poll.entry.note for poll in polls if isinstance(poll, PollCompleted)] == [
        "its end is missing",
        None,
    ]
    assert [poll.entry.error for poll in polls if isinstance(poll, PollCompleted)] == [None, None]


async def test_s10_odd_events_do_not_silence_the_feed(fleet: Fleet) -> None:
    script = [[{"events": [
        {"kind": "tool_use", "id": "1", "tool": "t", "arguments": {"a": "x" * 20_000}},
        {"kind": "tool_use", "id": "2", "tool": "t", "arguments": 7},
        {"kind": "tool_result", "id": "1", "content": "y" * 20_000, "is_error": False},
        {"kind": "notice", "name": "n", "message": "z" * 20_000},
        {"kind": "text", "text": "é" * 20_000},
    ]}, {"error": "e" * 20_000}], "fine"]  # fmt: skip
    tail = fleet.board.tail()
    await fleet.start(backend="scripted", script=script)
    ref = await fleet.run("api", "x")
    items = []
    while not items or items[-1].kind != "turn.failed":
        items.append(await anext(tail))
    assert all(len(str(value)) <= tail_module.PIECE + 1 for item in items for value in item.data.values())
    assert "".join(str(i.data["text"]) for i in items if i.kind == "text") == "é" * 20_000
    (result,) = [item for item in items if item.kind == "tool_result"]
    assert result.data["length"] == 20_000
    assert items[-1].ref == ref
    await fleet.run("api", "y")
    await seen(tail, "turn.completed")


@pytest.mark.slow
async def test_s10_a_flood_of_output_stays_bounded_and_the_tail_usable(fleet: Fleet) -> None:
    flood = {"lines": 1_000_000, "chunks": 200_000}
    await fleet.start(backend="scripted", script=[flood, "fine"])
    tail = fleet.board.tail()
    deepest = 0
    ref = await fleet.board.send("api", "x")
    while (await fleet.board.wait([ref], timeout=0.02)).pending:
        deepest = max(deepest, fleet.store._writer._queued)
        assert (await fleet.board.status("api")).in_flight in (ref, None)
    assert deepest <= 21_000
    assert len(fleet.board._tail._ring) <= tail_module.RING_SIZE
    kinds = {(await anext(tail)).kind for _ in range(1_000)}
    assert "missed" in kinds
    poll = await fleet.board.poll("api", ref)
    assert len(repr(poll)) < 2_000
    await fleet.run("api", "y")
