"""How a batch of writes runs inside one transaction: quickly when all is well, singly when one of them is bad.

The quick way gathers the statements of the hot path into lanes and runs each lane at once: acceptances first, then
starts, outcomes, feed items. That keeps the order of everything that touches the same request or the same feed. Any
other write is a barrier: the lanes are emptied before it runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from tollboard.errors import StoreError
from tollboard.store.faults import is_storage, translate
from tollboard.store.feed import FeedWrite, add_many
from tollboard.store.queries import ACCEPT, FINISH
from tollboard.store.write import Start, Write, storable


class _Lanes:
    """The gathered statements of the hot path."""

    __slots__ = ("_accepted", "_accepts", "_connection", "_feed", "_finishes", "_starts")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._reset()

    def _reset(self) -> None:
        self._accepts: list[Sequence[Any]] = []
        self._accepted: dict[str, int] = {}
        self._starts: list[Start] = []
        self._finishes: list[Write] = []
        self._feed: list[FeedWrite] = []

    def take(self, write: Write) -> bool:
        """Put a write of the hot path into its lane; return whether it was one."""
        sql = write.sql
        if sql is ACCEPT.sql:
            self._accepted[write.params[0]] = len(self._accepts)
            self._accepts.append(write.params)
        elif sql is FINISH.sql:
            self._finishes.append(write)
        elif isinstance(write, FeedWrite):
            self._feed.append(write)
        elif isinstance(write, Start):
            self._start(write)
        else:
            return False
        return True

    def _start(self, start: Start) -> None:
        """Fold a start into the acceptance of the same batch: one statement and one row version less."""
        attempt, started_at, ref = start.params
        index = self._accepted.get(ref)
        if index is None:
            self._starts.append(start)
        else:
            self._accepts[index] = (*self._accepts[index][:-2], attempt, started_at)

    def empty(self) -> None:
        """Run what was gathered."""
        if self._accepts:
            self._connection.executemany(ACCEPT.sql, self._accepts)
        for write in (*self._starts, *self._finishes):
            write.run(self._connection)
        if self._feed:
            add_many(self._connection, self._feed)
        self._reset()


def run_quickly(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    """Run all writes; the first error is raised and leaves the transaction for the caller to roll back."""
    lanes = _Lanes(connection)
    for write in writes:
        if not lanes.take(write):
            lanes.empty()
            write.run(connection)
    lanes.empty()


def run_singly(connection: sqlite3.Connection, writes: Sequence[Write], path: str) -> None:
    """Run each write in a savepoint: a bad one keeps its error and leaves no trace, the others go on.

    Raises only what is not the fault of a single statement, such as a full disk.
    """
    for write in writes:
        connection.execute("SAVEPOINT one")
        try:
            _run_cleaned(connection, write)
        except (sqlite3.Error, StoreError, ValueError, OverflowError) as error:
            if is_storage(error):
                raise
            connection.execute("ROLLBACK TO one")
            write.error = translate(error, path)
        connection.execute("RELEASE one")


def _run_cleaned(connection: sqlite3.Connection, write: Write) -> None:
    """Run a write; text with lone surrogates, which no UTF-8 can hold, is run again with `?` in their place."""
    try:
        write.run(connection)
    except UnicodeEncodeError:
        connection.execute("ROLLBACK TO one")
        for part in write.flatten():
            part.params = storable(part.params)
        write.run(connection)
