"""HTTP/1.1 over the daemon's socket, as much of it as the daemon speaks. `connection` is what uses it.

A library for the whole of HTTP took 0.6 ms a call here, and was most of what a tool call over MCP cost. Parsing is
llhttp's (httptools), the parser that the daemon uses too.

What goes wrong is an OSError: ConnectionError for a daemon that is gone, FileNotFoundError or ConnectionRefusedError
where none was, TimeoutError for one that says nothing.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import httptools

HOST = "tollboard"
CONNECT_TIMEOUT_S = 10.0
IDLE_S = 5.0
"""How long a connection may have been idle and is used again: well below the time after which the daemon closes it."""
LIMIT_BYTES = 256 * 1024
"""How much of a stream may be read ahead of whoever takes it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon answered."""

    status: int
    content: bytes


class Stream:
    """An answer whose body is read as it comes."""

    def __init__(self, line: _Line) -> None:
        self.status = line.status
        self._line = line

    async def pieces(self, *, timeout_s: float) -> AsyncIterator[bytes]:
        """Yield the body; between two pieces may be so much time."""
        while piece := await self._line.piece(timeout_s):
            yield piece

    async def read(self, *, timeout_s: float) -> bytes:
        """Return the whole body."""
        return b"".join([piece async for piece in self.pieces(timeout_s=timeout_s)])


class SocketTransport:
    """Carries requests over one unix socket, on as many connections as are needed."""

    def __init__(self, path: str, headers: Mapping[str, str]) -> None:
        self._path = path
        self._head = "".join(f"{name}: {value}\r\n" for name, value in {"host": HOST, **headers}.items())
        self._idle: list[_Line] = []
        self._used: set[_Line] = set()

    async def request(
        self, method: str, target: str, content: bytes = b"", *, timeout_s: float | None = None
    ) -> Answer:
        """Return the whole answer."""
        async with self._asked(method, target, content, timeout_s) as line:
            return Answer(line.status, await line.rest(timeout_s))

    @asynccontextmanager
    async def stream(self, method: str, target: str, *, timeout_s: float) -> AsyncGenerator[Stream]:
        """Enter it once the answer has begun."""
        async with self._asked(method, target, b"", timeout_s) as line:
            yield Stream(line)

    async def close(self) -> None:
        """Close every connection; what is under way fails. Idempotent."""
        for line in (*self._idle, *self._used):
            line.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # the sockets are closed one step later

    @asynccontextmanager
    async def _asked(
        self, method: str, target: str, content: bytes, timeout_s: float | None
    ) -> AsyncGenerator[_Line]:
        """Enter it once the answer has begun; the connection is used again if the answer was taken to its end."""
        line = self._idle_line() or await self._connect()
        self._used.add(line)
        try:
            head = f"{method} {target} HTTP/1.1\r\n{self._head}content-length: {len(content)}\r\n\r\n"
            await line.ask(head.encode() + content, timeout_s)
            yield line
        finally:
            self._used.discard(line)
            if line.reusable:
                self._idle.append(line)
            else:
                line.abort()

    def _idle_line(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.is_well():
                return line
            line.abort()
        return None

    async def _connect(self) -> _Line:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, line = await loop.create_unix_connection(_Line, self._path)
        return line


class _Line(asyncio.Protocol):
    """One connection: one request, its answer, then the next."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser | None = None
        self.status = 0
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: deque[bytes] = deque()
        self._ahead_bytes = 0
        self._begun = self._complete = self._kept = False
        self._lost: OSError | None = None
        self._since = 0.0

    # -- for the transport

    @property
    def reusable(self) -> bool:
        return self._complete and self._kept and self._lost is None

    def is_well(self) -> bool:
        """Whether an idle connection can be used again.

        One that the daemon has ended is readable: the loop may not have come to see that yet.
        """
        if self._lost is not None or self._loop.time() - self._since > IDLE_S:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return not poll.poll(0)

    async def ask(self, request: bytes, timeout_s: float | None) -> None:
        """Send a request and wait until its answer has begun."""
        self._parser = httptools.HttpResponseParser(self)
        self._begun = self._complete = False
        self._pieces.clear()
        self._transport.write(request)
        while not self._begun:
            await self._news(timeout_s)

    async def piece(self, timeout_s: float | None) -> bytes:
        """Return what has come of the body, nothing at its end."""
        while not self._pieces and not self._complete:
            await self._news(timeout_s)
        found = b"".join(self._pieces)
        self._pieces.clear()
        self._ahead_bytes = 0
        self._transport.resume_reading()
        return found

    async def rest(self, timeout_s: float | None) -> bytes:
        """Return the whole body."""
        pieces = []
        while piece := await self.piece(timeout_s):
            pieces.append(piece)
        return b"".join(pieces)

    def abort(self) -> None:
        """Close it now: nothing that was written matters, and waiting for it would wait for a daemon that hangs."""
        self._transport.abort()

    async def _news(self, timeout_s: float | None) -> None:
        if self._lost is not None:
            raise self._lost
        self._waiter = self._loop.create_future()
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._too_late, self._waiter)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _too_late(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError("nothing was answered in time"))

    def _wake(self) -> None:
        # A waiter that was cancelled in this very pass of the loop is done already.
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, why: OSError) -> None:
        self._lost = self._lost or why
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._lost)

    # -- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._transport.abort()  # nothing was asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as exc:
            raise exc.__context__ or exc from None  # such as Ctrl-C, which the parser has wrapped
        except httptools.HttpParserError as exc:
            self._end(ConnectionError(f"that was no HTTP: {exc}"))
            self._transport.abort()
            return
        if self._ahead_bytes > LIMIT_BYTES:
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._parser = None  # it holds us: the loop would stay until a collection finds the two
        self._end(exc if isinstance(exc, OSError) else ConnectionResetError("the connection has ended"))

    # -- called by the parser

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._begun = True
        self.status = self._parser.get_status_code()
        self._kept = self._parser.should_keep_alive()  # known only now: at the end it is forgotten

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._ahead_bytes += len(body)

    def on_message_complete(self) -> None:
        self._complete = True
        self._since = self._loop.time()
