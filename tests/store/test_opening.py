"""Opening: rights, versions, the owner's lock, two processes at once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.store.samples import raw, started_session, value
from tollboard.errors import DaemonRunning, StaleOwner, StoreTooNew, StoreUnavailable
from tollboard.store import opening, schema
from tollboard.store.store import Store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_files_are_for_their_owner_only(path: Path) -> None:
    before = os.umask(0)
    try:
        store = await Store.open(path)
        await started_session(store)
        assert mode(path.parent) == 0o700
        files = {p.name: oct(mode(p)) for p in path.parent.iterdir()}
        assert set(files) == {"tollboard.db", "tollboard.db-wal", "tollboard.db-shm", "tollboard.db.lock"}
        assert set(files.values()) == {"0o600"}
        await store.close()
    finally:
        os.umask(before)


async def test_each_commit_is_flushed(store: Store, path: Path) -> None:
    await started_session(store)
    assert store._writer._connection is not None
    connection = store._writer._connect()
    pragmas = ("synchronous", "journal_mode", "foreign_keys")
    assert [connection.execute(f"PRAGMA {p}").fetchone()[0] for p in pragmas] == [2, "wal", 1]
    connection.close()
    await store.close()
    relaxed = await Store.open(path, synchronous="NORMAL")
    connection = relaxed._writer._connect()
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 1
    connection.close()
    await relaxed.close()
    with pytest.raises(ValueError, match="FULL or NORMAL"):
        await Store.open(path, synchronous="OFF")


async def test_a_newer_database_is_refused_untouched(path: Path) -> None:
    await (await Store.open(path)).close()
    other = raw(path)
    other.execute("UPDATE alembic_version SET version_num = '9999'")
    other.close()
    epoch = value(path, "SELECT value FROM meta")
    with pytest.raises(StoreTooNew, match=rf"schema 9999.*up to {schema.HEAD}: install a newer"):
        await Store.open(path)
    assert value(path, "SELECT value FROM meta") == epoch


async def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 30, 0))
    with pytest.raises(StoreUnavailable, match="too old"):
        await Store.open(path)
    assert not path.exists()


async def test_each_open_raises_the_epoch(path: Path) -> None:
    epochs = []
    for _ in range(3):
        store = await Store.open(path)
        epochs.append(store.epoch)
        await store.close()
    assert epochs == [1, 2, 3]


async def test_a_directory_in_the_place_of_the_file_is_an_error(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await Store.open(path)


async def test_odd_paths_are_only_paths(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=memory#x%41" / "ü.db"
    store = await Store.open(path)
    await started_session(store)
    await store.close()
    assert value(path, "SELECT count(*) FROM sessions") == 1


HOLDER = """
    import asyncio, sys
    from tests.store.samples import started_session
    from tollboard.errors import StaleOwner
    from tollboard.store.store import Store

    async def main():
        store = await Store.open(sys.argv[1])
        _, journal = await started_session(store, "held")
        print("open", flush=True)
        sys.stdin.readline()
        try:
            await journal.halted(True)
            print("wrote", flush=True)
        except StaleOwner:
            print("stale", flush=True)
        await store.close()

    asyncio.run(main())
"""


def holder(path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


async def test_a_database_that_another_process_has_open_is_refused(path: Path) -> None:
    process = holder(path)
    with pytest.raises(DaemonRunning, match="another process"):
        await Store.open(path)
    out, _ = process.communicate("\n", timeout=30)
    assert out == "wrote\n"
    store = await Store.open(path)
    await store.close()


async def test_one_that_was_taken_over_cannot_write_when_it_comes_back(path: Path) -> None:
    process = holder(path)
    store = await Store.open(path, take_over=True)
    assert (await store.sessions())[0].halted is False
    out, _ = process.communicate("\n", timeout=30)
    assert out == "stale\n"
    assert (await store.sessions())[0].halted is False
    await started_session(store, "new")
    await store.close()


async def test_the_lock_ends_with_its_process(path: Path) -> None:
    process = holder(path)
    process.kill()
    process.communicate(timeout=30)
    store = await Store.open(path)
    assert [s.name for s in await store.sessions()] == ["held"]
    await store.close()


async def test_an_open_that_fails_frees_the_lock(path: Path) -> None:
    await (await Store.open(path)).close()
    other = raw(path)
    other.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreTooNew):
        await Store.open(path)
    other.execute("UPDATE alembic_version SET version_num = ?", (schema.HEAD,))
    other.close()
    process = holder(path)
    process.communicate("\n", timeout=30)
    assert process.returncode == 0


async def test_two_that_open_a_new_database_at_once_migrate_it_once(path: Path) -> None:
    first, second = await asyncio.gather(Store.open(path), Store.open(path))
    assert {first.epoch, second.epoch} == {1, 2}
    stale, owner = sorted((first, second), key=lambda s: s.epoch)
    await started_session(owner)
    with pytest.raises(StaleOwner):
        await started_session(stale)
    await first.close()
    await second.close()


def test_opening_a_current_database_imports_no_alembic(path: Path) -> None:
    asyncio.run(_open_and_close(path))
    root = Path(__file__).parents[2]
    script = (
        "import asyncio, sys\n"
        "from tollboard.store.store import Store\n"
        "async def main(): await (await Store.open(sys.argv[1])).close()\n"
        "asyncio.run(main())\n"
        "print(any(name.split('.')[0] in ('alembic', 'mako') for name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONPATH": str(root / "src")},
    )  # fmt: skip
    assert done.stdout == "False\n"


async def _open_and_close(path: Path) -> None:
    await (await Store.open(path)).close()


async def test_a_large_database_is_not_checked_page_by_page(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _open_and_close(path)
    seen: list[str] = []
    connection = raw(path)
    connection.set_trace_callback(seen.append)
    opening._check(connection, path)
    monkeypatch.setattr(opening, "_QUICK_CHECK_MAX_BYTES", 0)
    opening._check(connection, path)
    connection.close()
    assert [s for s in seen if "quick_check" in s] == ["PRAGMA quick_check(3)"]
