"""Copies of a whole database: made while a daemon writes it, put back while none runs, written out as JSON lines.

Everything here blocks. What a backup holds may have been run since it was made, so nothing in a restored one runs by
itself: sessions are halted with their queues, and questions and tasks that were open have ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tollboard.errors import StoreCorrupt, StoreUnavailable, TollboardError
from tollboard.store.faults import translate
from tollboard.store.identity import Home
from tollboard.store.opening import Place, find_damage, version_of

_PAGES_AT_ONCE = 1_024
_HELD = "restored from a backup; it may have run since the backup was made"
_HOLD = (
    "UPDATE sessions SET halted = 1 WHERE life = 'live'",
    "UPDATE approvals SET state = 'expired', decided_at = :at WHERE state = 'pending'",
    "UPDATE pool_tasks SET ended_at = :at, status = 'interrupted', reason = 'interrupted', error = :why "
    "WHERE ended_at IS NULL",
)
"""What keeps a restored database from running anything a second time."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A backup that was made or put back."""

    path: Path
    bytes: int
    schema: str
    kept_as: Path | None = None
    """Where the database is that a restore replaced."""


def back_up(database: Path, target: Path) -> Copied:
    """Copy the database to a new private file, consistent while it is being written; return what was made.

    Raises StoreUnavailable when there is no database, the target exists or cannot be written, and StoreCorrupt when
    the copy turns out to be damaged.
    """
    if not database.exists():
        raise StoreUnavailable(f"there is no database at {str(database)!r}; nothing was copied")
    if target.exists():
        raise StoreUnavailable(f"{str(target)!r} exists already; choose another name, or remove it first")
    fresh = target.with_name(target.name + ".part")
    with _explained(target):
        try:
            _copy(Place(database), fresh)
            version = _checked(fresh)
            fresh.rename(target)
            _sync_directory(target.parent)
        finally:
            fresh.unlink(missing_ok=True)
    return Copied(target, target.stat().st_size, version)


def restore(backup: Path, database: Path, home: Home) -> Copied:
    """Put a backup in the place of a database; call it only while holding the state directory's lock.

    The database it replaces is kept beside it. Raises StoreUnavailable, StoreCorrupt or StoreTooNew before anything is
    changed.
    """
    if not backup.is_file():
        raise StoreUnavailable(f"there is no backup at {str(backup)!r}; nothing was changed")
    fresh = database.with_name(database.name + ".restoring")
    with _explained(database):
        try:
            _copy(Place(backup), fresh)
            version = _checked(fresh)
            _hold(fresh, home)
            kept = _set_aside(database)
            fresh.rename(database)
            _sync_directory(database.parent)
        finally:
            fresh.unlink(missing_ok=True)
    return Copied(database, database.stat().st_size, version, kept)


def export(database: Path) -> Iterator[str]:
    """Yield every row of every table as a JSON object on a line: `{"table": ..., column: value, ...}`.

    All lines show one moment. Raises StoreUnavailable when there is no database, StoreCorrupt when it cannot be read.
    """
    if not database.exists():
        raise StoreUnavailable(f"there is no database at {str(database)!r}; nothing was exported")
    with _explained(database), contextlib.closing(Place(database).reader()) as connection:
        connection.execute("BEGIN")
        connection.row_factory = sqlite3.Row
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        ).fetchall()
        for (table,) in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 (the name is the schema's own)
                yield json.dumps({"table": table, **dict(row)})


def export_to(database: Path, target: Path) -> int:
    """Write the export to a new private file; return how many rows it holds. Raises as `export` and `back_up` do."""
    lines = export(database)
    with _explained(target):
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise StoreUnavailable(
                f"{str(target)!r} exists already; choose another name, or remove it first"
            ) from None
        with open(descriptor, "w", encoding="utf-8") as out:
            return sum(1 for line in lines if out.write(line + "\n"))


def _copy(place: Place, target: Path) -> None:
    """Copy page by page into a new file that only this user can read, then flush it to the disk."""
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(place.reader()) as source, contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy, pages=_PAGES_AT_ONCE)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with no log beside it
    with open(target, "rb") as written:
        os.fsync(written.fileno())


def _checked(copy: Path) -> str:
    """Return the schema's version of a sound copy."""
    with contextlib.closing(Place(copy).reader()) as connection:
        version = version_of(connection, str(copy))
    if version is None:
        raise StoreCorrupt(f"{str(copy)!r} holds no tables: it is not a database of Tollboard")
    if damage := find_damage(Place(copy)):
        raise StoreCorrupt(f"the copy {str(copy)!r} is damaged ({damage}); use another backup")
    return version


def _hold(copy: Path, home: Home) -> None:
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        for statement in _HOLD:
            connection.execute(statement, {"at": time.time(), "why": _HELD})
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('home', ?)", (home.number,))


def _set_aside(database: Path) -> Path | None:
    """Move the database out of the way, with its log, under a name that says when; return the new name.

    The database goes first: after a crash in between, a log without its database is refused at the next start, while
    a database without its log would have lost its newest changes in silence.
    """
    if not database.exists():
        return None
    kept = database.with_name(f"{database.name}.before-restore-{time.strftime('%Y%m%d-%H%M%S')}")
    database.rename(kept)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            database.with_name(database.name + suffix).rename(kept.with_name(kept.name + suffix))
    return kept


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except TollboardError:
        raise
    except sqlite3.Error as error:
        raise translate(error, str(path)) from error
    except OSError as error:
        raise StoreUnavailable(
            f"{str(path)!r} cannot be written: {error.strerror}; check its directory and the free space"
        ) from error
