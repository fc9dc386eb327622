"""What happens when the medium fails: clear errors, nothing half done, and writing goes on when it heals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
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
from tollboard.errors import StoreCorrupt, StoreError, StoreUnavailable, TollboardError
from tollboard.runtime.results import Failed, Reason
from tollboard.store import faults
from tollboard.store.store import Store
from tollboard.store.write import Write


async def pragma(store: Store, text: str) -> None:
    """Set something on the writer's own connection; SQLite then fails as the disk would."""
    await store._writer.submit(Write(f"PRAGMA {text}"))


async def fill_disk(store: Store, path: Path) -> None:
    await pragma(store, f"max_page_count = {value(path, 'PRAGMA page_count')}")


async def free_disk(store: Store) -> None:
    await pragma(store, "max_page_count = 1000000")


async def test_a_full_disk_refuses_work_and_nothing_is_lost(store: Store, path: Path) -> None:
    made, journal = await started_session(store)
    await turn(journal)
    await fill_disk(store, path)
    refused = request("x" * 100_000)
    refused.commit = accepted = journal.accepted(refused)
    start(journal, refused)
    with pytest.raises(StoreUnavailable, match="the disk is full; free some space"):
        await accepted
    assert journal.finished(refused, Failed(Reason.STORE_FAILED), 0.0) is None
    with pytest.raises(StoreUnavailable):
        await store.flush()
    assert await store.request(refused.ref) is None
    await free_disk(store)
    await turn(journal)
    assert [e.seq for e in await store.history(made.id, limit=10)] == [1, 2]


async def test_an_outcome_waits_for_the_disk_with_growing_delays(
    store: Store, path: Path, clock: ManualClock
) -> None:
    made, journal = await started_session(store)
    begun = request()
    begin(journal, begun)
    await store.flush()
    await fill_disk(store, path)
    commit = journal.finished(begun, completed("y" * 100_000), 1.0)
    assert commit is not None
    task = asyncio.ensure_future(_wait(commit))
    for _ in range(7):
        await clock.waiting()
        assert not task.done()
        clock.advance(clock.waits[-1])
    await clock.waiting()
    assert clock.waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert journal.turns == 0
    assert len(await store.unfinished()) == 1
    await free_disk(store)
    clock.advance(30)
    await task
    await turn(journal)
    assert [e.seq for e in await store.history(made.id, limit=10)] == [1, 2]
    assert journal.turns == 2
    assert clock.timers == []


async def _wait(commit: object) -> None:
    await commit  # type: ignore[misc]


async def test_a_start_that_was_not_written_leaves_no_entry_and_no_gap(
    store: Store, path: Path, clock: ManualClock
) -> None:
    made, journal = await started_session(store)
    await turn(journal)
    unlucky = request()
    await journal.accepted(unlucky)
    await pragma(store, "query_only = 1")
    unlucky.attempt, unlucky.started_at = 1, 11.0
    with pytest.raises(StoreUnavailable, match="read-only"):
        await journal.started(unlucky)
    commit = journal.finished(unlucky, Failed(Reason.STORE_FAILED, "disk"), 0.0)
    assert commit is not None
    await commit
    found = await store.request(unlucky.ref)
    assert found is not None
    assert found.entry is None
    assert found.receipt.outcome == "store_failed"
    await turn(journal)
    assert [e.seq for e in await store.history(made.id, limit=10)] == [1, 2]
    assert journal.turns == 2


async def test_a_retry_that_could_not_start_still_has_its_entry(store: Store) -> None:
    made, journal = await started_session(store)
    begun = request()
    begin(journal, begun)
    await store.flush()
    await pragma(store, "query_only = 1")
    begun.attempt = 2
    with pytest.raises(StoreUnavailable):
        await journal.started(begun)
    commit = journal.finished(begun, Failed(Reason.STORE_FAILED, "disk"), 0.0)
    assert commit is not None
    await commit
    (entry,) = await store.history(made.id, limit=10)
    assert (entry.attempt, entry.error) == (1, "store_failed: disk")


async def test_closing_tries_waiting_outcomes_a_last_time(
    store: Store, path: Path, clock: ManualClock
) -> None:
    _, journal = await started_session(store)
    lucky, unlucky = request(), request()
    for made in (lucky, unlucky):
        begin(journal, made)
    await store.flush()
    await fill_disk(store, path)
    saved = journal.finished(lucky, completed("y" * 100_000), 1.0)
    await clock.waiting()
    await free_disk(store)
    await store.close()
    assert saved is not None
    await saved
    assert value(path, "SELECT status FROM requests WHERE ref = ?", lucky.ref) == "ok"


async def test_an_outcome_that_cannot_be_saved_before_the_close_says_so(
    store: Store, path: Path, clock: ManualClock
) -> None:
    made, journal = await started_session(store)
    begun = request()
    begin(journal, begun)
    await store.flush()
    await fill_disk(store, path)
    lost = journal.finished(begun, completed("y" * 100_000), 1.0)
    await clock.waiting()
    await store.close()
    assert lost is not None
    with pytest.raises(StoreUnavailable, match="full"):
        await lost
    again = await Store.open(path)
    (left,) = await again.unfinished()
    assert left.ref == begun.ref
    assert await again.history_size(made.id) == 0
    await again.close()


async def test_an_outcome_whose_acceptance_failed_meanwhile_does_not_wait(
    store: Store, clock: ManualClock
) -> None:
    _, journal = await started_session(store)
    await pragma(store, "query_only = 1")
    made = request()
    made.commit = accepted = journal.accepted(made)
    commit = journal.finished(made, Failed(Reason.CANCELLED), 0.0)
    assert commit is not None
    with pytest.raises(StoreUnavailable):
        await accepted
    # In the same batch as the acceptance or later: there is nothing to remember, and nothing to wait for.
    with contextlib.suppress(StoreUnavailable):
        await commit
    assert clock.timers == []


async def test_a_locked_database_is_unavailable_and_heals(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = await started_session(store)
    await pragma(store, "busy_timeout = 1")
    other = raw(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another process holds the database locked"):
        await store.set_cursor(made.id, "me", 1)
    store.feed(item(made))
    other.execute("ROLLBACK")
    other.close()
    await store.set_cursor(made.id, "me", 2)
    assert await store.cursors("me") == {made.id: 2}


async def test_a_file_that_vanished_is_not_made_anew(store: Store, path: Path) -> None:
    made, _ = await started_session(store)
    await pragma(store, "query_only = 1")
    for name in path.parent.iterdir():
        name.rename(name.with_name("moved-" + name.name))
    with pytest.raises(StoreUnavailable):
        await store.set_cursor(made.id, "me", 1)
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await store.set_cursor(made.id, "me", 1)
    assert not path.exists()
    for name in path.parent.iterdir():
        name.rename(name.with_name(name.name.removeprefix("moved-")))
    await store.set_cursor(made.id, "me", 1)


async def test_a_damaged_file_is_told_apart(store: Store, path: Path) -> None:
    made, journal = await started_session(store)
    for _ in range(60):
        await turn(journal, "x" * 3_000)
    await store.close()
    _damage(path)
    with pytest.raises(StoreCorrupt, match=r"\.recover") as caught:
        await Store.open(path)
    assert str(path) in str(caught.value)
    assert "move the file aside" in str(caught.value)
    assert made


def _damage(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(2, size // 4096):
            file.seek(page * 4096)
            file.write(b"\x55" * 512)


async def test_damage_found_later_is_told_and_an_outcome_does_not_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollboard.store.opening._QUICK_CHECK_MAX_BYTES", 0)
    clock = ManualClock()
    store = await Store.open(path, clock=clock)
    made, journal = await started_session(store)
    for _ in range(60):
        await turn(journal, "x" * 3_000)
    begun = request()
    begin(journal, begun)
    await store.flush()
    await store.close()
    _damage(path)
    try:
        store = await Store.open(path, clock=clock)
    except StoreCorrupt:
        return  # the damage hit the pages that opening reads
    with pytest.raises(StoreCorrupt):
        await store.history(made.id, limit=100)
    commit = store.journal(made).finished(begun, completed(), 1.0)
    assert commit is not None
    with pytest.raises(TollboardError):
        await commit
    assert clock.timers == []
    await store.close()


@pytest.mark.parametrize(
    "content", [b"this is not a database at all" * 400, b"SQLite format 3\x00" + b"\xff" * 9_000]
)
async def test_a_file_that_is_no_database_is_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        await Store.open(path)
    assert path.read_bytes() == content


async def test_somebody_elses_database_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    other = raw(path)
    other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    with pytest.raises(StoreCorrupt, match="another program"):
        await Store.open(path)


def test_a_file_size_limit_fails_writes_and_nothing_else(path: Path) -> None:
    """A real failing write(2): the kernel refuses to let the log grow, then allows it again."""
    script = """
        import asyncio, resource, signal, sys
        from pathlib import Path
        from tests.store.samples import started_session, turn, request
        from tollboard.errors import StoreUnavailable
        from tollboard.store.store import Store

        async def main():
            store = await Store.open(Path(sys.argv[1]))
            made, journal = await started_session(store)
            await turn(journal)
            used = Path(sys.argv[1] + "-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (used + 8192, resource.RLIM_INFINITY))
            refused = request("x" * 1_000_000)
            try:
                await journal.accepted(refused)
            except StoreUnavailable as error:
                print(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await turn(journal)
            assert [e.seq for e in await store.history(made.id, limit=5)] == [1, 2]
            assert await store.request(refused.ref) is None
            await store.close()
            print("went on")

        asyncio.run(main())
    """
    done = _python(script, str(path))
    assert "cannot be used" in done.stdout, done.stderr
    assert "went on" in done.stdout, done.stderr
    assert value(path, "PRAGMA integrity_check") == "ok"


def _python(script: str, *args: str, **more: object) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args],
        capture_output=True, text=True, timeout=60, env=environment, cwd=root, check=False, **more,  # type: ignore[call-overload]
    )  # fmt: skip


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_is_read_only_is_refused_clearly(what: str) -> None:
    script = """
        import asyncio, os, sys
        from pathlib import Path
        from tests.store.samples import started_session
        from tollboard.errors import StoreUnavailable
        from tollboard.store.store import Store

        async def use():
            store = await Store.open(path)
            await started_session(store)
            await store.sessions()
            await store.close()

        path = Path(sys.argv[1]) / "state" / "tollboard.db"
        asyncio.run(use())
        lock = path.with_name(path.name + ".lock")
        lock.unlink()
        target = path if sys.argv[2] == "file" else path.parent
        if os.getuid() == 0:  # root may write anywhere, so the test goes on as somebody else
            for name in (path.parent, path):
                os.chown(name, 65534, 65534)
            os.setegid(65534)
            os.seteuid(65534)
        mode = target.stat().st_mode
        target.chmod(0o400 if target is path else 0o500)
        try:
            asyncio.run(use())
        except StoreUnavailable as error:
            print(error)
        target.chmod(mode)
        asyncio.run(use())
        print("went on")
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        done = _python(script, name, what)
    assert "cannot be" in done.stdout, done.stderr
    assert "went on" in done.stdout, done.stderr


def test_errors_say_what_to_do_and_never_show_content() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR | (3 << 8)  # an extended code
    told = faults.translate(error, "/x.db")
    assert isinstance(told, StoreUnavailable)
    assert "check the disk" in str(told)
    assert faults.translate(told, "/x.db") is told
    odd = faults.translate(ValueError("the secret prompt"), "/x.db")
    assert type(odd) is StoreError
    assert "secret" not in str(odd)


async def test_a_connection_that_cannot_roll_back_or_close_is_replaced(store: Store) -> None:
    made, _ = await started_session(store)
    writer = store._writer

    class Broken:
        in_transaction = True

        def execute(self, sql: str, params: object = ()) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

        def close(self) -> None:
            raise sqlite3.OperationalError("cannot close either")

    await store.flush()
    real, writer._connection = writer._connection, Broken()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        await store.set_cursor(made.id, "me", 1)
    await store.set_cursor(made.id, "me", 2)
    assert real is not None
    real.close()
    assert record().options == {}
