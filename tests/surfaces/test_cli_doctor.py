"""The doctor: everything it looks at, sound and broken, and that it starts no daemon."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.surfaces.board_in_thread import BoardInThread
from tollboard.errors import DaemonUnreachable
from tollboard.fleet.records import Caller
from tollboard.operations.access import read_token
from tollboard.surfaces.cli import checks, connection, main


@pytest.fixture(autouse=True)
def no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def refuse(home: Path | None, *, start: bool = True) -> AsyncIterator[None]:
        assert not start, "the doctor starts no daemon"
        raise DaemonUnreachable("no daemon answers")
        yield

    monkeypatch.setattr(connection, "open_board", refuse)


def examine(home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", "--home", str(home)])
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is (code == 0)
    return code, {check["name"]: check for check in document["checks"]}


def make_database(home: Path) -> None:
    BoardInThread(home).close()


def test_nothing_there_yet_is_well(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examine(home / "new", capsys)
    assert code == 0
    assert {found[name]["state"] for name in ("python", "directory", "database", "daemon")} == {"ok"}
    assert found["backend echo"]["state"] == "ok"
    assert not (home / "new").exists()


def test_a_database_is_read_beside_its_owner(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = BoardInThread(home)
    monkeypatch.setattr(connection, "open_board", board)
    try:
        code, found = examine(home, capsys)
    finally:
        board.close()
    assert code == 0
    assert "sound" in found["database"]["detail"]
    assert f"pid {os.getpid()}" in found["daemon"]["detail"]
    assert board.opened == [(home, False)]


def test_another_version_of_the_daemon_is_remarked(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    board = BoardInThread(home)
    monkeypatch.setattr(connection, "open_board", board)
    monkeypatch.setattr("tollboard.surfaces.cli.daemon_cmds.own_version", lambda: "99.0")
    try:
        code, found = examine(home, capsys)
    finally:
        board.close()
    assert (code, found["daemon"]["state"], found["daemon"]["mend"]) == (
        0, "warning", "restart it: tollboard shutdown"
    )  # fmt: skip


def test_a_sound_database_without_a_daemon(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_database(home)
    before = sorted(path.name for path in home.iterdir())
    code, found = examine(home, capsys)
    assert (code, found["database"]["state"]) == (0, "ok"), found["database"]
    assert {"tollboard.db"} <= set(before)


def test_a_damaged_database(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "tollboard.db").write_bytes(b"this is no database" * 500)
    code, found = examine(home, capsys)
    assert (code, found["database"]["state"]) == (1, "broken")
    assert found["database"]["mend"]


def test_a_database_of_a_newer_program(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_database(home)
    connection_ = sqlite3.connect(home / "tollboard.db")
    connection_.execute("UPDATE alembic_version SET version_num = '9999'")
    connection_.commit()
    connection_.close()
    code, found = examine(home, capsys)
    assert (code, "newer Tollboard" in found["database"]["detail"]) == (1, True)


def test_a_directory_that_others_may_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.chmod(0o755)
    code, found = examine(home, capsys)
    assert (code, found["directory"]["mend"]) == (1, f"chmod 700 {home}")


def test_a_file_where_the_directory_should_be(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "file").write_text("")
    code, found = examine(home / "file", capsys)
    assert (code, "is not a directory" in found["directory"]["detail"]) == (1, True)


def test_little_room(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for free, state in ((10 << 20, "broken"), (500 << 20, "warning")):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _, usage=usage: usage)
        assert examine(home, capsys)[1]["directory"]["state"] == state


def test_a_socket_left_behind(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(home / "daemon.sock"))
    code, found = examine(home, capsys)
    assert (code, found["daemon"]["state"]) == (0, "warning")
    assert "left behind" in found["daemon"]["detail"]


def test_a_path_too_long_for_a_socket(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examine(home / ("x" * 100), capsys)
    assert (code, "--home" in found["daemon"]["mend"]) == (1, True)


def test_a_token_that_others_may_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "token").write_text("secret-token\n")
    (home / "token").chmod(0o644)
    code, found = examine(home, capsys)
    assert (code, "chmod 600" in found["token"]["mend"]) == (1, True)
    assert "secret-token" not in json.dumps(found)
    assert main(["token", "--home", str(home / "token")]) == 1
    assert capsys.readouterr().err.splitlines()[1].startswith("  → it is its owner's alone")
    (home / "token").chmod(0o600)
    assert examine(home, capsys)[0] == 0
    assert main(["token", "--home", str(home)]) == 0
    assert capsys.readouterr().out == "secret-token\n"


def test_a_narrow_token(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "token").write_text("secret-token\n")
    (home / "token").chmod(0o600)
    assert main(["token", "--allow", "read", "-a", "approve", "--name", "bot", "--home", str(home)]) == 0
    access = read_token("secret-token", capsys.readouterr().out.strip(), Caller("http", "liar"))
    assert (access.caller.client, sorted(access.capabilities)) == ("bot", ["approve", "read"])
    assert main(["token", "--allow", "fly", "--home", str(home)]) == 2
    assert "known are read, send, approve, configure, admin" in capsys.readouterr().err
    assert main(["token", "--name", "bot", "--home", str(home)]) == 2
    assert "--allow" in capsys.readouterr().err


def test_no_token_yet(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--home", str(home)]) == 3
    assert "no token" in capsys.readouterr().err


def test_what_a_person_sees(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.chmod(0o755)
    assert main(["doctor", "--home", str(home)]) == 1
    printed = capsys.readouterr().out
    assert f"→ chmod 700 {home}\n" in printed
    assert "1 thing is broken" in printed


def test_without_a_daemon_shutdown_has_nothing_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shutdown", "--home", str(home)]) == 0
    assert capsys.readouterr().out == "no daemon is running\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_TOLLBOARD_COMPLETE" in capsys.readouterr().out
    assert main(["completion", "csh"]) == 2


def test_settings_that_no_daemon_starts_with(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "tollboard.toml").write_text("tcp_prt = 1\n")
    code, found = examine(home, capsys)
    assert (code, found["settings"]["state"]) == (1, "broken")
    assert "unknown setting 'tcp_prt'" in found["settings"]["detail"]
    (home / "tollboard.toml").write_text("grace_s = 1\n")
    code, found = examine(home, capsys)
    assert (code, found["settings"]["state"]) == (0, "ok")


def test_a_directory_that_cannot_be_looked_into(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examine(home / ("x" * 300), capsys)
    assert code == 1
    assert {found[name]["state"] for name in ("directory", "database", "daemon")} == {"broken"}
    assert "name too long" in found["directory"]["detail"]


def test_a_database_that_may_not_be_written(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_database(home)
    database = home / "tollboard.db"
    monkeypatch.setattr(os, "access", lambda path, mode, **_: Path(path) != database)
    _, found = examine(home, capsys)
    assert found["database"]["state"] == "broken"
    assert found["database"]["mend"].startswith(f"chmod 600 {database}")
