"""A person who types commands, each against a real Switchboard in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.surfaces.board_in_thread import BoardInThread
from tests.surfaces.person import Person
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
