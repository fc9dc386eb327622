"""A person who types commands, each against a real Switchboard in a thread; a fleet for an MCP host, in this loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import tollboard.backends as backends
from tests.surfaces.board_in_thread import BoardInThread
from tests.surfaces.person import Person
from tollboard.fleet.pools.pools import Pools
from tollboard.fleet.records import Caller
from tollboard.fleet.switchboard import Switchboard
from tollboard.operations.boards import Boards
from tollboard.store.store import Store
from tollboard.surfaces.cli import connection


@pytest.fixture
def board(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BoardInThread]:
    made = BoardInThread(home)
    monkeypatch.setattr(connection, "open_board", made)
    (home / "src").mkdir()
    monkeypatch.chdir(home / "src")
    yield made
    made.close()


@pytest.fixture
def person(
    board: BoardInThread, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Person:
    return Person(board, capsys, monkeypatch)


@pytest.fixture
async def boards(tmp_path: Path) -> AsyncIterator[Boards]:
    store = await Store.open(tmp_path / "state" / "tollboard.db")
    pools = await Pools.open(store.pools, backends=backends)
    board = await Switchboard.open(store, backends=backends)
    caller = Caller("mcp", "host")
    yield Boards(board.on_behalf_of(caller), pools.on_behalf_of(caller))
    await pools.close(grace_s=0)
    await board.close(grace_s=0)
    await store.close()
