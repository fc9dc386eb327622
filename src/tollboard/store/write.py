"""One write on its way through the writer: what it does to the database, and the commit that its caller awaits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from tollboard.errors import StoreError, TollboardError
from tollboard.store.faults import again


class Write:
    """A statement and its commit. Awaiting it returns once it is durable, or raises the StoreError.

    Any number of tasks may await it, and cancelling one disturbs neither the others nor the write: an
    `asyncio.Future` would be cancelled for everyone. Nobody has to await it.
    """

    __slots__ = ("_waiters", "error", "params", "row", "settled", "sql")

    def __init__(self, sql: str, params: Sequence[object] = ()) -> None:
        self.sql = sql
        self.params: Sequence[Any] = params
        self.row: tuple[Any, ...] | None = None
        self.error: TollboardError | None = None
        self.settled = False
        self._waiters: list[asyncio.Future[None]] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        if not self.settled:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = [waiter]
            else:
                self._waiters.append(waiter)
            yield from waiter
        if self.error is not None:
            raise again(self.error)

    def run(self, connection: sqlite3.Connection) -> None:
        """Run the statement; called in the writer's thread, inside a transaction, perhaps a second time."""
        cursor = connection.execute(self.sql, self.params)
        # A statement that returns rows has done its work only when they were fetched.
        self.row = cursor.fetchone() if cursor.description else None
        cursor.close()

    def flatten(self) -> Sequence[Write]:
        """Return the writes that this one consists of."""
        return (self,)

    def settle(self) -> None:
        """Wake whoever waits; called on the loop, once, after the commit or the failure."""
        self.settled = True
        if self._waiters is not None:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters = None


class Start(Write):
    """The start of a turn. It fails when there is nothing to start: nothing may run that is not remembered."""

    __slots__ = ()

    def run(self, connection: sqlite3.Connection) -> None:
        """Note the start; raises StoreError when the request was never accepted, was deleted, or has ended."""
        if connection.execute(self.sql, self.params).rowcount != 1:
            raise StoreError("the request is not in the database as unfinished, so it must not run")


class Group(Write):
    """Several writes that become durable together or not at all."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Write]) -> None:
        super().__init__("")
        self.parts = tuple(parts)

    def run(self, connection: sqlite3.Connection) -> None:
        """Run each part, in order."""
        for part in self.parts:
            part.run(connection)

    def flatten(self) -> Sequence[Write]:
        """Return the parts, and what those consist of."""
        return tuple(piece for part in self.parts for piece in part.flatten())

    def settle(self) -> None:
        """Settle each part with the group's error."""
        for part in self.parts:
            part.error = self.error
            part.settle()
        super().settle()


class Flush(Write):
    """A barrier: it settles after everything that was written before it, and fails if some of that failed."""

    __slots__ = ("since",)

    def __init__(self, since: int) -> None:
        super().__init__("")
        self.since = since
        """The number of the last write that an earlier flush has answered for."""

    def run(self, connection: sqlite3.Connection) -> None:
        """Do nothing."""


def storable(values: Iterable[object]) -> tuple[object, ...]:
    """Return parameters in which `?` stands for each lone surrogate: no UTF-8, so no database, can hold those."""
    return tuple(v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values)
