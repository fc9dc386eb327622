"""Inboxes, cursors, transcripts and summaries."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from tests.fleet.world import Fleet
from tests.store.samples import ManualClock
from tollboard.errors import Invalid, InvalidPrompt, NotFound
from tollboard.fleet.records import Caller, TurnStatus


async def test_s03_every_turn_is_in_the_history_whatever_became_of_it(fleet: Fleet) -> None:
    await fleet.start(backend="scripted", script=[
        [{"usage": {"input_tokens": 3, "cost_usd": 0.5}}, "fine"], {"error": "no luck"}, {"hang": True}, "after",
    ])  # fmt: skip
    refs = [await fleet.run("api", "one"), await fleet.run("api", "two")]
    tail = fleet.board.tail(kinds=["turn.started"])
    refs.append(await fleet.board.send("api", "three"))
    await anext(tail)
    assert (await fleet.board.interrupt("api")).acted
    refs.append(await fleet.run("api", "four"))
    entries = (await fleet.board.transcript("api")).entries
    assert [e.seq for e in entries] == [1, 2, 3, 4]
    assert [e.ref for e in entries] == refs
    assert [e.prompt for e in entries] == ["one", "two", "three", "four"]
    assert [e.status.value for e in entries] == ["ok", "failed", "interrupted", "ok"]
    assert [e.text for e in entries] == ["fine", None, None, "after"]
    assert entries[1].error == "backend_error: no luck"
    assert entries[0].usage is not None
    assert entries[0].usage.cost_usd == 0.5
    assert all(e.started_at <= e.completed_at and e.duration_s >= 0 for e in entries)


async def test_s04_peeking_moves_nothing_and_an_ack_moves_to_the_last_one_shown(fleet: Fleet) -> None:
    await fleet.start()
    await fleet.board.summary_update("api", "about it")
    for n in range(3):
        await fleet.run("api", f"p{n}")
    for _ in range(2):
        inbox = await fleet.board.inbox("api")
        assert [e.seq for e in inbox.entries] == [1, 2, 3]
        (part,) = inbox.sessions
        assert (part.unread, part.cursor, part.acked, part.summary.text) == (3, 0, 0, "about it")
    inbox = await fleet.board.inbox("api", ack=True)
    assert inbox.sessions[0].acked == 3
    assert (await fleet.board.inbox("api")).entries == ()
    assert (await fleet.board.inbox("api")).sessions[0].cursor == 3
    assert (await fleet.board.inbox()).sessions == ()


async def test_s04_of_several_acks_at_once_none_moves_the_cursor_back(fleet: Fleet) -> None:
    await fleet.start()
    for n in range(3):
        await fleet.run("api", f"{n}")
    await asyncio.gather(*(fleet.board.inbox("api", ack=True, limit=limit) for limit in (3, 1, 3, 2, 1)))
    assert (await fleet.board.inbox("api")).entries == ()


async def test_e05_an_ack_during_a_turn_does_not_skip_it(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    fleet.gated.gate.set()
    await fleet.run("api", "one")
    fleet.gated.gate.clear()
    ref = await fleet.board.send("api", "two")
    inbox, _ = await asyncio.gather(fleet.board.inbox("api", ack=True), asyncio.to_thread(int))
    assert inbox.sessions[0].acked == 1
    fleet.gated.gate.set()
    await fleet.done(ref)
    assert [e.ref for e in (await fleet.board.inbox("api")).entries] == [ref]


async def test_s04_paging_with_acks_shows_everything_exactly_once(fleet: Fleet) -> None:
    for name in ("a", "b", "c"):
        await fleet.start(name)
    refs = []
    for n in range(4):
        items = await fleet.board.broadcast(f"p{n}")
        refs += [item.ref for item in items if item.ref]
        await fleet.done(*refs)
    shown: list[str] = []
    more = True
    while more:
        inbox = await fleet.board.inbox(ack=True, limit=5)
        shown += [entry.ref for entry in inbox.entries]
        more = inbox.more
    assert sorted(shown) == sorted(refs)
    assert len(shown) == 12


async def test_s04_a_clock_that_is_set_back_makes_nobody_skip_a_turn(fleet: Fleet) -> None:
    clock = fleet.clock = ManualClock()
    board = await fleet.restart()
    await fleet.start("a")
    await fleet.start("b")
    first = await fleet.run("a", "one")
    clock.now -= 500
    second = await fleet.run("a", "two")
    other = await fleet.run("b", "other")
    shown: list[str] = []
    for _ in range(3):
        inbox = await board.inbox(ack=True, limit=1)
        shown += [entry.ref for entry in inbox.entries]
    assert sorted(shown) == sorted([first, second, other])
    assert shown.index(first) < shown.index(second)
    assert (await board.inbox()).entries == ()


async def test_s05_the_fleets_inbox_has_counts_and_is_ordered_by_time(fleet: Fleet) -> None:
    for name in ("a", "b", "quiet"):
        await fleet.start(name)
    refs = [await fleet.run("a", "1"), await fleet.run("b", "2"), await fleet.run("a", "3")]
    inbox = await fleet.board.inbox()
    assert [e.ref for e in inbox.entries] == refs
    assert [(s.session, s.unread) for s in inbox.sessions] == [("a", 2), ("b", 1)]
    assert (inbox.reader, inbox.more, inbox.approvals) == ("me", False, 0)


async def test_s05_waiting_ends_as_soon_as_something_is_new(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    waiting = [asyncio.ensure_future(fleet.board.inbox(wait=30)) for _ in range(3)]
    waiting.append(asyncio.ensure_future(fleet.board.inbox("api", wait=30)))
    ref = await fleet.board.send("api", "x")
    fleet.gated.gate.set()
    for inbox in await asyncio.gather(*waiting):
        assert [e.ref for e in inbox.entries] == [ref]
    assert (await fleet.board.inbox(wait=30)).entries, "what is unread already is returned at once"


async def test_s05_waiting_for_one_session_is_not_ended_by_another(fleet: Fleet) -> None:
    await fleet.start("a")
    await fleet.start("b")
    waiting = asyncio.ensure_future(fleet.board.inbox("a", wait=30))
    await fleet.run("b", "x")
    ref = await fleet.run("a", "y")
    assert [e.ref for e in (await waiting).entries] == [ref]
    assert (await fleet.board.inbox("a", ack=True)).entries
    assert (await fleet.board.inbox("a", wait=0.01)).entries == ()


async def test_s05_no_wake_up_is_lost_under_load(fleet: Fleet) -> None:
    await fleet.start()
    seen = 0

    async def reader() -> None:
        nonlocal seen
        while seen < 40:
            seen += len((await fleet.board.inbox(wait=30, ack=True, limit=3)).entries)

    reading = asyncio.ensure_future(reader())
    for n in range(40):
        await fleet.board.send("api", f"p{n}", queue=True)
    await asyncio.wait_for(reading, 20)
    assert seen == 40


async def test_s08_unread_turns_of_a_stopped_session_still_show(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    await fleet.board.send("api", "x")
    await fleet.gated.running.wait()
    await fleet.board.stop_session("api")
    inbox = await fleet.board.inbox(ack=True)
    assert [(e.status, e.error) for e in inbox.entries] == [(TurnStatus.FAILED, "stopped")]
    assert (await fleet.board.inbox()).entries == ()


async def test_s21_readers_have_their_own_cursors_and_can_go_back(fleet: Fleet) -> None:
    await fleet.start()
    for n in range(4):
        await fleet.run("api", f"p{n}")
    await fleet.board.inbox("api", ack=True, reader="me")
    assert len((await fleet.board.inbox("api", reader="script")).entries) == 4
    for _ in range(2):
        part = await fleet.board.ack("api", 2, reader="script")
        assert (part.unread, part.acked) == (2, 2)
    back = await fleet.board.ack("api", 1)
    assert (back.cursor, back.acked, back.unread) == (4, 1, 3)
    board = await fleet.kill()
    assert [e.seq for e in (await board.inbox("api")).entries] == [2, 3, 4]
    assert [e.seq for e in (await board.inbox("api", reader="script")).entries] == [3, 4]
    assert (await board.ack("api", 0)).unread == 4


@pytest.mark.parametrize("seq", [-1, 3, True, "1", 1.0])
async def test_s21_a_cursor_cannot_be_where_no_turn_is(fleet: Fleet, seq: int) -> None:
    await fleet.start()
    await fleet.run("api", "x")
    with pytest.raises(Invalid, match="turns 1 to 1" if type(seq) is int else "whole number"):
        await fleet.board.ack("api", seq)


async def test_s05_bad_arguments_are_refused(fleet: Fleet) -> None:
    await fleet.start()
    for options in (
        {"limit": 0},
        {"limit": 201},
        {"limit": 1.5},
        {"limit": True},
        {"wait": -1},
        {"wait": 1e9},
    ):
        with pytest.raises(Invalid):
            await fleet.board.inbox(**options)  # type: ignore[arg-type]
    for options in ({"limit": -1}, {"limit": 2.5}, {"before": 0}):
        with pytest.raises(Invalid):
            await fleet.board.transcript("api", **options)  # type: ignore[arg-type]


async def test_s07_a_transcript_is_the_last_turns_or_all_of_them_in_pages(fleet: Fleet) -> None:
    await fleet.start()
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(205)]
    await fleet.done(*refs)
    last = await fleet.board.transcript("api", limit=3)
    assert [e.seq for e in last.entries] == [203, 204, 205]
    assert (last.total, last.next_before) == (205, None)
    for limit in (None, 0):
        page = await fleet.board.transcript("api", limit=limit)
        assert [page.entries[0].seq, page.entries[-1].seq, page.next_before] == [6, 205, 6]
        older = await fleet.board.transcript("api", limit=limit, before=page.next_before)
        assert [older.entries[0].seq, older.entries[-1].seq, older.next_before] == [1, 5, None]
    assert [e.ref for e in (*older.entries, *page.entries)] == refs


async def test_s06_summaries_work_while_a_turn_runs_and_keep_their_versions(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    empty = await fleet.board.summary_get("api")
    assert (empty.version, empty.text, empty.at, empty.turns_since) == (0, "", None, 0)
    await fleet.board.send("api", "x")
    await fleet.gated.running.wait()
    board = fleet.board.on_behalf_of(Caller("cli", "alice"))
    first = await board.summary_update("api", "# one")
    assert (first.version, first.text, first.author, first.turns_since) == (1, "# one", "cli:alice", 0)
    fleet.gated.gate.set()
    await fleet.run("api", "y")
    assert (await board.summary_get("api")).turns_since == 2
    assert (await fleet.board.summary_update("api", "")).version == 2
    board = await fleet.kill()
    assert [s.text for s in await board.summary_versions("api")] == ["# one", ""]
    assert (await board.summary_get("api", version=1)).author == "cli:alice"
    with pytest.raises(NotFound):
        await board.summary_get("api", version=3)


async def test_s25_two_managers_at_once_each_get_their_own_version(fleet: Fleet) -> None:
    await fleet.start()
    made = await asyncio.gather(*(fleet.board.summary_update("api", f"s{n}") for n in range(6)))
    assert [s.text for s in made] == [f"s{n}" for n in range(6)]
    assert [s.version for s in made] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("text", ["x" * (1024 * 1024 + 1), "\ud800", 5])
async def test_s06_summaries_are_bounded(fleet: Fleet, text: str) -> None:
    await fleet.start()
    with pytest.raises(InvalidPrompt):
        await fleet.board.summary_update("api", text)
    assert (await fleet.board.summary_update("api", "x" * 1024 * 1024)).version == 1


@pytest.mark.slow
async def test_e36_nothing_costs_more_with_a_long_history(fleet: Fleet) -> None:
    await fleet.start()
    await fleet.run("api", "x")
    await fleet.board.inbox(ack=True)

    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    connect = fleet.store._reader._connect

    def counting() -> sqlite3.Connection:
        connection = connect()
        connection.set_progress_handler(tick, 10)
        return connection

    fleet.store._reader._connect = counting
    for connection in fleet.store._reader._connections:
        connection.set_progress_handler(tick, 10)

    async def cost() -> int:
        """Return how much work the readers have with the everyday verbs, in SQLite's own steps."""
        before = ticks
        ref = await fleet.run("api", "y")
        await fleet.board.poll("api", ref)
        await fleet.board.status("api")
        await fleet.board.inbox(ack=True)
        await fleet.board.transcript("api", limit=1)
        return ticks - before

    few = await cost()
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(900)]
    await fleet.done(*refs)
    await fleet.board.ack("api", (await fleet.board.status("api")).turns)
    assert few > 0
    assert await cost() <= 2 * few + 20
