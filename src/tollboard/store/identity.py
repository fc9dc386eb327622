"""Whether a database is the right one: there when it must be, this directory's own, and still the file that was opened.

A database that has been moved away must never be replaced by an empty one in silence: whoever did it would find a
fleet without sessions, and SQLite would throw away the `-wal` that holds the newest commits.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from tollboard.errors import StoreMisplaced

_HOME = "home"
_RESTORE = "put the file back, or use a backup: `tollboard restore FILE`"


def wal_of(path: Path) -> Path:
    """Return the write-ahead log beside a database."""
    return path.with_name(path.name + "-wal")


@dataclass(frozen=True, slots=True)
class Home:
    """The state directory that a database belongs to."""

    id: str
    used_before: bool = False
    """Whether the directory had its id before this start: then it must have a database too."""

    @property
    def number(self) -> int:
        """Return the id as the database keeps it: the first 60 of its bits."""
        return int(self.id[:15], 16)


def check_presence(path: Path, home: Home | None) -> None:
    """Raise StoreMisplaced when a database that must exist is missing or empty; otherwise it may be made."""
    if _size(path):
        return
    missing = "is empty" if path.exists() else "is missing"
    if _size(wal_of(path)):
        raise StoreMisplaced(
            f"the database {str(path)!r} {missing}, but its write-ahead log {wal_of(path).name!r} is there and "
            f"holds its newest changes; {_RESTORE}. To begin with an empty fleet, move {wal_of(path).name!r} away"
        )
    if home is not None and home.used_before:
        raise StoreMisplaced(
            f"the database {str(path)!r} {missing}, although this state directory has been used before; {_RESTORE}. To "
            f"begin with an empty fleet, remove the file {str(path.with_name('id'))!r}"
        )


def claim_home(connection: sqlite3.Connection, path: Path, home: Home) -> None:
    """Write the directory's id into its database. Raises StoreMisplaced when it has another directory's.

    Call it inside a transaction. A directory without an id of its own takes over the database it finds.
    """
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_HOME,)).fetchone()
    if row is not None and row[0] != home.number and home.used_before:
        raise StoreMisplaced(
            f"the database {str(path)!r} belongs to another state directory; nothing was changed. To use it here run "
            "`tollboard restore FILE` with it, or put this directory's own database back"
        )
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_HOME, home.number))


class OpenFiles:
    """The files of a database as they were opened, to notice when one was moved, removed or replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = _file_id(path)
        self._wal: tuple[int, int] | None = None

    def reopened(self) -> None:
        """Forget the write-ahead log: SQLite makes a new one after the last connection was closed."""
        self._wal = None

    def check(self) -> None:
        """Raise StoreMisplaced when a file is not the one that was opened; costs two `stat` calls."""
        if _file_id(self._path) != self._database:
            raise _misplaced(self._path)
        wal = _file_id(wal_of(self._path))
        if self._wal is None:
            self._wal = wal
        elif wal != self._wal:
            raise _misplaced(wal_of(self._path))


def _misplaced(path: Path) -> StoreMisplaced:
    return StoreMisplaced(
        f"{str(path)!r} was moved, removed or replaced while the daemon has it open; nothing more is accepted. Put the "
        "very same file back, or run `tollboard shutdown`, then `tollboard restore FILE` with a backup"
    )


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
