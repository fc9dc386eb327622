"""Opening the database: the file and its rights, its soundness, its schema version, its owner, its connections.

Everything here blocks and runs in a thread.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tollboard.errors import DaemonRunning, StoreTooNew, StoreUnavailable, TollboardError
from tollboard.store.faults import corrupt, translate
from tollboard.store.identity import Home, check_presence, claim_home
from tollboard.store.queries import CLAIM, EPOCH
from tollboard.store.schema import HEAD, VERSIONS

BUSY_TIMEOUT_MS = 5_000
_QUICK_CHECK_MAX_BYTES = 32 * 1024 * 1024
_WAL_PAGES = 1_000
_OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database is and how it is written."""

    path: Path
    synchronous: str = "FULL"

    def connect(self, *, mode: str = "rw") -> sqlite3.Connection:
        """Return a connection; never makes a file, so that one which vanished is noticed."""
        uri = f"file:{quote(str(self.path))}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            if mode == "rw":
                self._tune(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _tune(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")

    def reader(self) -> sqlite3.Connection:
        """Return a read-only connection."""
        return self.connect(mode="ro")


@dataclass(slots=True)
class Owner:
    """The ownership of a database: the epoch that fences writers, and the lock that tells other processes."""

    epoch: int
    lock: int | None

    def release(self) -> None:
        """Let go of the lock. Idempotent; the kernel does it too when the process dies."""
        lock, self.lock = self.lock, None
        if lock is not None:
            os.close(lock)


def prepare(place: Place, *, take_over: bool = False, home: Home | None = None) -> Owner:
    """Make or check the file, bring its schema up to date, become its owner.

    Raises DaemonRunning, StoreUnavailable, StoreMisplaced, StoreCorrupt or StoreTooNew.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreUnavailable(
            f"SQLite {sqlite3.sqlite_version} is too old; Python must come with 3.37 or newer"
        )
    if place.synchronous not in ("FULL", "NORMAL"):
        raise ValueError(f"synchronous must be FULL or NORMAL, not {place.synchronous!r}")
    try:
        check_presence(place.path, home)
        _make_file(place.path)
        with _alone(place.path.parent):
            lock = _lock(place.path, take_over=take_over)
            try:
                return Owner(_open(place, home), lock)
            except BaseException:
                os.close(lock)
                raise
    except TollboardError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise _explain(error, place.path) from error


def _explain(error: Exception, path: Path) -> TollboardError:
    if isinstance(error, OSError):
        return StoreUnavailable(
            f"the database {str(path)!r} cannot be opened: {error.strerror}; check its directory"
        )
    return translate(error, str(path))


def _make_file(path: Path) -> None:
    """Make the directory (0700) and the file (0600) before SQLite can make them with the umask's rights."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the directory's lock: two processes never migrate at once. The kernel frees it when a process dies."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, *, take_over: bool) -> int:
    """Return the locked lock file. A process never conflicts with itself: these locks belong to processes.

    To take over means a new lock file: the old owner may hold the old one for as long as it hangs.
    """
    name = path.with_name(path.name + ".lock")
    lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        if not take_over:
            raise DaemonRunning(
                f"another process has {str(path)!r} open: use it through that daemon, or stop that process"
            ) from None
        name.unlink(missing_ok=True)
        return _lock(path, take_over=True)
    return lock


def _open(place: Place, home: Home | None) -> int:
    connection = place.connect()
    try:
        _check(connection, place.path)
        version = version_of(connection, str(place.path))
        if version != HEAD:
            _migrate(place.path, version)
        return _claim(connection, place.path, home)
    finally:
        connection.close()


def checked_at_open(place: Place) -> bool:
    """Return whether the database is small enough to be checked for damage each time it is opened."""
    return place.path.stat().st_size <= _QUICK_CHECK_MAX_BYTES


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Find damage before anything is built on it, as long as that is quick."""
    if not checked_at_open(Place(path)):
        return
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise corrupt(str(path), "; ".join(found))


def find_damage(place: Place, *, deep: bool = False) -> str | None:
    """Return what SQLite finds wrong with the database, `None` when it is sound. Blocks; time grows with its size.

    `deep` also compares every index with its table and looks for rows that refer to missing ones.
    """
    try:
        connection = place.reader()
        try:
            check = "integrity_check" if deep else "quick_check"
            found = [str(row[0]) for row in connection.execute(f"PRAGMA {check}(5)")]
            orphans = connection.execute("PRAGMA foreign_key_check").fetchmany(5) if deep else []
        finally:
            connection.close()
    except sqlite3.Error as error:
        return str(error)
    wrong = [] if found == ["ok"] else found
    wrong += [f"a row of {table} refers to a missing row of {parent}" for table, _, parent, _ in orphans]
    return "; ".join(wrong) or None


def version_of(connection: sqlite3.Connection, path: str) -> str | None:
    """Return the schema's version, `None` for an empty database. Raises StoreTooNew for one we do not know."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables:
        return None
    row = (
        connection.execute("SELECT version_num FROM alembic_version").fetchone()
        if "alembic_version" in tables
        else None
    )
    if row is None:
        raise corrupt(path, "it holds tables, but none of Tollboard's; it seems to belong to another program")
    version = str(row[0])
    if version not in VERSIONS:
        raise StoreTooNew(
            f"the database {path!r} has schema {version}, this Tollboard knows up to {HEAD}: "
            "install a newer Tollboard, or use another state directory"
        )
    return version


def _migrate(path: Path, version: str | None) -> None:
    # Alembic and the ORM-less part of SQLAlchemy it needs take a third of a second to import.
    from tollboard.store.migrate import upgrade

    upgrade(path, version)


def _claim(connection: sqlite3.Connection, path: Path, home: Home | None) -> int:
    """Become the owner. From here on every other writer is stale."""
    connection.execute("BEGIN IMMEDIATE")
    if home is not None:
        claim_home(connection, path, home)
    connection.execute(CLAIM.sql)
    epoch: int = connection.execute(EPOCH.sql).fetchone()[0]
    connection.execute("COMMIT")
    return epoch
