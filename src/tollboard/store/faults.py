"""What went wrong with the database, as one of our errors that says what to do; sqlite3's own never leave the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from tollboard.errors import (
    AgentExists,
    KeyReused,
    PoolExists,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
    TollboardError,
)

# Primary result codes (https://sqlite.org/rescode.html): the medium failed, whatever the statement was.
_MENDS = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space, writing goes on by itself",
    sqlite3.SQLITE_IOERR: (
        "the disk failed, is full, or a size limit was reached; "
        "check the disk: its free space, its quota, and `ulimit -f`"
    ),
    sqlite3.SQLITE_READONLY: "the file or its directory is read-only; make both writable for this user",
    sqlite3.SQLITE_PERM: "access was refused; make the file and its directory writable for this user",
    sqlite3.SQLITE_CANTOPEN: "the file or its directory cannot be opened; check that both exist and are writable",
    sqlite3.SQLITE_BUSY: "another process holds the database locked; end that process",
    sqlite3.SQLITE_LOCKED: "another connection holds a table locked; try again",
    sqlite3.SQLITE_PROTOCOL: "the locks of the file system failed; keep the state directory on a local disk",
    sqlite3.SQLITE_NOMEM: "there is not enough memory",
}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_TAKEN: Sequence[tuple[str, type[TollboardError], str]] = (
    (
        "sessions.name",
        AgentExists,
        "a session of that name exists and is not stopped; stop it or choose another name",
    ),
    (
        "pools.name",
        PoolExists,
        "a pool of that name exists and is not stopped; stop it or choose another name",
    ),
    (
        "requests.key",
        KeyReused,
        "the idempotency key is in use; ask for the request that was accepted with it",
    ),
)


def code_of(error: BaseException) -> int:
    """Return SQLite's primary result code, 0 for an error that did not come from SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_storage(error: BaseException) -> bool:
    """Return whether the medium failed rather than one statement: then the whole transaction is lost."""
    return code_of(error) in _MENDS or code_of(error) in _DAMAGED


def corrupt(path: str, why: str) -> StoreCorrupt:
    """Return the error for a damaged file, with the way to recover."""
    return StoreCorrupt(
        f"the database {path!r} is damaged ({why}); stop the daemon, keep a copy of the file and of its -wal, then "
        f"either recover what can be read with `sqlite3 {path} .recover | sqlite3 recovered.db` and put the result "
        "in its place, or move the file aside to start empty"
    )


def translate(error: BaseException, path: str) -> TollboardError:
    """Return our error for whatever a statement, a commit or an open raised."""
    if isinstance(error, TollboardError):
        return error
    if code_of(error) in _DAMAGED:
        return corrupt(path, str(error))
    if mend := _MENDS.get(code_of(error)):
        return StoreUnavailable(f"the database {path!r} cannot be used ({error}): {mend}")
    if isinstance(error, sqlite3.IntegrityError):
        for column, cls, message in _TAKEN:
            if column in str(error):
                return cls(message)
        if "FOREIGN KEY" in str(error):
            return StoreError(
                "its session or pool is not in the database; it may have been deleted meanwhile"
            )
    # Only the class and SQLite's own words: parameters may hold prompts (R49).
    text = str(error) if isinstance(error, sqlite3.Error | OSError) else "the statement could not be run"
    return StoreError(f"the database refused a statement: {type(error).__name__}: {text}")


def again(error: TollboardError) -> TollboardError:
    """Return a fresh copy: an exception that several tasks raise would collect all their tracebacks."""
    copy = type(error).__new__(type(error))
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy
