"""Reads: each in a small pool of threads, on that thread's own read-only connection, so that none blocks the loop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tollboard.errors import StoreUnavailable
from tollboard.store.faults import translate
from tollboard.store.queries import Query
from tollboard.store.write import storable

T = TypeVar("T")
Row = tuple[Any, ...]

MAX_READERS = 4


class Reader:
    """Runs queries on committed data. A read sees every write whose commit has resolved before it began."""

    def __init__(self, path: str, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path = path
        self._connect = connect
        self._pool = ThreadPoolExecutor(MAX_READERS, thread_name_prefix="tollboard-reader")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False

    async def all(self, query: Query, convert: Callable[[Row], T], **values: object) -> list[T]:
        """Return every row, each converted in the thread."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._fetch, query.sql, query.bind(**values), convert)

    async def one(self, query: Query, convert: Callable[[Row], T], **values: object) -> T | None:
        """Return the first row, `None` when there is none."""
        rows = await self.all(query, convert, **values)
        return rows[0] if rows else None

    def _fetch(self, sql: str, params: Row, convert: Callable[[Row], T]) -> list[T]:
        try:
            return [convert(row) for row in self._execute(sql, params)]
        except sqlite3.Error as error:
            raise translate(error, self._path) from None

    def _execute(self, sql: str, params: Row) -> sqlite3.Cursor:
        try:
            return self._connection().execute(sql, params)
        except UnicodeEncodeError:
            # As when it was written: what was asked for is found under the text that was kept.
            return self._connection().execute(sql, storable(params))

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
            self._connections.append(connection)
        return connection

    async def close(self, deadline: asyncio.Future[None]) -> None:
        """Let running reads end, then close the connections; give up when `deadline` is done. Idempotent."""
        if self._closed:
            return
        self._closed = True
        ended = asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
        await asyncio.wait({ended, deadline}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            for connection in self._connections:
                connection.close()
