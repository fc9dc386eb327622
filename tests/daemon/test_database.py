"""The daemon and its database: moved away, replaced, missing at the start; backed up and restored by commands."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import DaemonProcess
from tollboard.daemon.client import Client
from tollboard.errors import StoreMisplaced

pytestmark = pytest.mark.slow


def run(home: Path, *words: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tollboard", *words, "--json", "--home", str(home)], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_nothing_is_accepted_once_the_database_was_moved_away(home: Path) -> None:
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=str(home), backend="echo")
            database = home / "tollboard.db"
            database.rename(home / "elsewhere.db")
            with pytest.raises(StoreMisplaced):
                await board.send("api", "lost?")
            assert "moved, removed or replaced" in str((await board.health()).problem)
            checks = {check["name"]: check for check in run(home, "doctor", code=1)["checks"]}
            assert "moved, removed or replaced" in checks["daemon"]["detail"]
            (home / "elsewhere.db").rename(database)
            ref = await board.send("api", "again", queue=True)
            report = await board.wait([ref], timeout=30)
            assert report.done


async def test_a_daemon_does_not_begin_anew_where_the_database_is_missing(home: Path) -> None:
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=str(home), backend="echo")
    for name in ("tollboard.db", "tollboard.db-wal", "tollboard.db-shm"):
        (home / name).unlink(missing_ok=True)
    refused = DaemonProcess(home)
    refused.start()
    assert refused.error()["code"] == "store_misplaced"
    assert not (home / "tollboard.db").exists()


async def test_backup_shutdown_restore_as_the_documentation_says(home: Path, tmp_path: Path) -> None:
    kept = tmp_path / "monday.db"
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=str(home), backend="echo")
            await board.wait([await board.send("api", "hello")], timeout=30)
            run(home, "backup", str(kept))
            await board.start_session("newer", path=str(home), backend="echo")
        assert run(home, "restore", str(kept), "--yes", code=1)["error"]["code"] == "daemon_running"
        run(home, "shutdown")
        daemon.wait()
    run(home, "restore", str(kept), "--yes")
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            (session,) = await board.list_sessions()
            assert (session.name, session.halted, session.turns) == ("api", True, 1)


def test_doctor_deep_finds_an_index_that_disagrees_with_its_table(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        run(home, "shutdown")
        daemon.wait()
    database = home / "tollboard.db"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_schema WHERE name = 'requests_ref'")
        connection.execute("UPDATE meta SET value = value + 1")
    connection.close()
    shutil.copy(database, home / "kept.db")
    checks = {check["name"]: check for check in run(home, "doctor", "--deep", code=1)["checks"]}
    assert checks["database"]["state"] == "broken"
