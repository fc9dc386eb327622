"""Backups: whole while somebody writes, private, checked; a restored one runs nothing by itself and loses nothing."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
from pathlib import Path

import pytest

from tests.store.samples import completed, record, request, started_session, turn
from tollboard.errors import StoreCorrupt, StoreUnavailable
from tollboard.fleet.records import ApprovalState
from tollboard.store.backup import back_up, export, export_to, restore
from tollboard.store.identity import Home
from tollboard.store.store import Store

HOME = Home("0123456789abcdef" * 2)


async def one_turn(store: Store, prompt: str) -> None:
    _, journal = await started_session(store)
    await turn(journal, prompt, completed(f"answer to {prompt}"))


async def test_a_backup_made_while_writing_holds_all_that_was_acknowledged(store: Store, path: Path) -> None:
    for number in range(20):
        await one_turn(store, f"before {number}")
    writing = asyncio.create_task(one_turn(store, "meanwhile"))
    made = await asyncio.to_thread(back_up, path, path.with_name("copy.db"))
    await writing
    copied = await Store.open(made.path)
    texts = [entry.text for s in await copied.sessions() for entry in await copied.history(s.id, limit=9)]
    await copied.close()
    assert {f"answer to before {number}" for number in range(20)} <= set(texts)


async def test_a_backup_is_private_and_one_file(store: Store, path: Path) -> None:
    await one_turn(store, "hello")
    made = back_up(path, path.with_name("copy.db"))
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.glob("copy.db*")] == ["copy.db"]


async def test_a_backup_replaces_nothing(store: Store, path: Path) -> None:
    taken = path.with_name("taken")
    taken.write_text("precious")
    with pytest.raises(StoreUnavailable, match="exists already"):
        back_up(path, taken)
    assert taken.read_text() == "precious"


async def test_a_restored_fleet_is_whole_and_halted(path: Path) -> None:
    store = await Store.open(path, home=HOME)
    await one_turn(store, "done")
    session, journal = await started_session(store, "waiting")
    queued = request("may have run since")
    await journal.accepted(queued)
    made = back_up(path, path.with_name("copy.db"))
    await store.create_session(record("newer"))
    await store.close()

    done = restore(made.path, path, HOME)

    again = await Store.open(path, home=Home(HOME.id, used_before=True))
    sessions = {found.name: found for found in await again.sessions()}
    assert session.name in sessions
    assert "newer" not in sessions
    assert all(found.halted for found in sessions.values())
    assert [found.ref for found in await again.unfinished()] == [queued.ref]
    assert not await again.approvals(state=ApprovalState.PENDING)
    await again.close()
    assert done.kept_as is not None
    with sqlite3.connect(done.kept_as) as kept:
        assert kept.execute("SELECT count(*) FROM sessions WHERE name = 'newer'").fetchone() == (1,)
    kept.close()


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
async def test_what_is_no_backup_changes_nothing(path: Path, content: bytes) -> None:
    store = await Store.open(path)
    await store.create_session(record("api"))
    await store.close()
    before = path.read_bytes()
    wrong = path.with_name("wrong")
    wrong.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        restore(wrong, path, HOME)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.restoring"))


async def test_an_export_has_every_row_of_one_moment(store: Store, path: Path) -> None:
    await one_turn(store, "hello \x1b[31m")
    lines = export(path)
    first = next(lines)
    await one_turn(store, "later")
    rows = [json.loads(line) for line in (first, *lines)]
    prompts = [row["prompt"] for row in rows if row["table"] == "requests"]
    assert prompts == ["hello \x1b[31m"]
    assert {"sessions", "requests", "meta"} <= {row["table"] for row in rows}


async def test_an_export_carries_no_escape_sequences_and_is_private(store: Store, path: Path) -> None:
    await one_turn(store, "red \x1b[31m \x9b31m")
    target = path.with_name("all.jsonl")
    rows = export_to(path, target)
    content = target.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert content.count(b"\n") == rows
    assert b"\x1b" not in content
    assert "\x9b".encode() not in content
