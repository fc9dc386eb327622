"""HTTP/1.1 over the daemon's socket, as much of it as the daemon speaks. `connection` is what uses it.

A library for the whole of HTTP took 0.6 ms a call here, and was most of what a tool call over MCP cost. Parsing is
llhttp's (httptools), the parser that the daemon uses too.

What goes wrong is an OSError: ConnectionError for a daemon that is gone, FileNotFoundError or ConnectionRefusedError
where none was, Unanswered for one that says nothing.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

HOST = "tollboard"
CONNECT_TIMEOUT_S = 10.0
FIRST_TRY_S, LONGEST_TRY_S = 0.01, 1.0
"""How often it is tried to connect to a daemon with a full queue: at first, and after a while."""
IDLE_S = 5.0
"""How long a connection may have been idle and is used again: well below the time after which the daemon closes it."""
LIMIT_BYTES = 256 * 1024
"""How much of a stream may be read ahead of whoever takes it."""


class Call(Protocol):
    """A call that waits for something to come."""

    def fall_silent(self) -> None:
        """Hear that nothing has come for too long."""


class Watch(Protocol):
    """Sees to calls that may take as long as they take, and knows after a while of silence whether more may come."""

    def begin(self, call: Call) -> None:
        """Watch a call that waits: tell it when it falls silent."""

    def end(self, call: Call) -> None:
        """Watch it no more."""

    async def doubt(self, pid: int | None) -> None:
        """Return if it may be waited for further. Raises Unanswered. `pid` is who was asked, if the system says."""


class Unanswered(TimeoutError):
    """Nothing was answered in time."""

    def __init__(
        self, silent_s: float, pid: int | None = None, successor: int | None = None, *, asked: bool = True
    ) -> None:
        super().__init__(f"nothing was answered for {silent_s:.3g} s")
        self.silent_s = silent_s
        self.pid = pid
        """The process that was asked, if the system says."""
        self.successor = successor
        """The process that has taken its place."""
        self.asked = asked
        """Whether it was asked at all: else it did not even accept the connection."""


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

    @property
    def pid(self) -> int | None:
        """Return the process that answers, if the system says."""
        return self._line.pid

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
        self._head = _head(headers)
        self._idle: list[_Line] = []
        self._used: set[_Line] = set()

    def identify(self, headers: Mapping[str, str]) -> None:
        """Send these headers from now on: who asks, and the token."""
        self._head = _head(headers)

    async def request(
        self, method: str, target: str, content: bytes = b"", *, timeout_s: float | None = None,
        watch: Watch | None = None,
    ) -> Answer:  # fmt: skip
        """Return the whole answer. It may be silent for `timeout_s`, or for as long as the watch allows."""
        line = await self._line()
        try:
            await line.ask(self._request(method, target, content), timeout_s, watch)
            return Answer(line.status, await line.rest(timeout_s, watch))
        finally:
            self._give_back(line)

    @asynccontextmanager
    async def stream(self, method: str, target: str, *, timeout_s: float) -> AsyncGenerator[Stream]:
        """Enter it once the answer has begun."""
        line = await self._line()
        try:
            await line.ask(self._request(method, target, b""), timeout_s, None)
            yield Stream(line)
        finally:
            self._give_back(line)

    async def close(self) -> None:
        """Close every connection; what is under way fails. Idempotent."""
        for line in (*self._idle, *self._used):
            line.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # the sockets are closed one step later

    def _request(self, method: str, target: str, content: bytes) -> bytes:
        head = f"{method} {target} HTTP/1.1\r\n{self._head}content-length: {len(content)}\r\n\r\n"
        return head.encode() + content

    async def _line(self) -> _Line:
        line = self._idle_line() or await self._connect()
        self._used.add(line)
        return line

    def _give_back(self, line: _Line) -> None:
        """Keep a connection for the next request if its answer was taken to its end."""
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
        """Return a new connection. A daemon whose queue is full is asked again: nothing tells when there is room."""
        loop = asyncio.get_running_loop()
        pause_s = FIRST_TRY_S
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                while True:
                    _, line = await loop.create_unix_connection(_Line, self._path)
                    if line.is_connected():
                        return line
                    line.abort()
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_TRY_S)
        except TimeoutError:
            raise Unanswered(CONNECT_TIMEOUT_S, asked=False) from None


def _head(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in {"host": HOST, **headers}.items())


class _Line(asyncio.Protocol):
    """One connection: one request, its answer, then the next."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser | None = None
        self.status = 0
        self._waiter: asyncio.Future[bool] | None = None
        """Its result is whether anything came; that its time ran out is the other."""
        self._pieces: deque[bytes] = deque()
        self._ahead_bytes = 0
        self._begun = self._complete = self._kept = self._heard = False
        self._lost: OSError | None = None
        self._since = 0.0

    # -- for the transport

    @property
    def reusable(self) -> bool:
        return self._complete and self._kept and self._lost is None

    @property
    def pid(self) -> int | None:
        """Return the process that listened when this was connected, if the system says and it is one of ours."""
        sock = self._transport.get_extra_info("socket")
        if not hasattr(socket, "SO_PEERCRED") or sock.fileno() == -1:
            return None
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid or None

    def is_connected(self) -> bool:
        """Whether there is anyone at the other end: where the queue is full, Linux says "later" and asyncio "done"."""
        return self._transport.get_extra_info("peername") is not None

    def is_well(self) -> bool:
        """Whether an idle connection can be used again.

        One that the daemon has ended is readable: the loop may not have come to see that yet.
        """
        if self._lost is not None or self._loop.time() - self._since > IDLE_S:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return not poll.poll(0)

    async def ask(self, request: bytes, timeout_s: float | None, watch: Watch | None) -> None:
        """Send a request and wait until its answer has begun."""
        self._parser = httptools.HttpResponseParser(self)
        self._begun = self._complete = False
        self._pieces.clear()
        self._transport.write(request)
        while not self._begun:
            await self._news(timeout_s, watch)

    async def piece(self, timeout_s: float | None, watch: Watch | None = None) -> bytes:
        """Return what has come of the body, nothing at its end."""
        while not self._pieces and not self._complete:
            await self._news(timeout_s, watch)
        found = b"".join(self._pieces)
        self._pieces.clear()
        self._ahead_bytes = 0
        self._transport.resume_reading()
        return found

    async def rest(self, timeout_s: float | None, watch: Watch | None) -> bytes:
        """Return the whole body."""
        pieces = []
        while piece := await self.piece(timeout_s, watch):
            pieces.append(piece)
        return b"".join(pieces)

    def abort(self) -> None:
        """Close it now: nothing that was written matters, and waiting for it would wait for a daemon that hangs."""
        self._transport.abort()

    async def _news(self, timeout_s: float | None, watch: Watch | None) -> None:
        """Wait until something comes, or until it was found out that more may come."""
        if self._lost is not None:
            raise self._lost
        self._waiter = self._loop.create_future()
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self.fall_silent)
        if watch is not None:
            watch.begin(self)
        try:
            heard = await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
            if watch is not None:
                watch.end(self)
        if not heard:
            await self._doubted(timeout_s, watch)

    async def _doubted(self, timeout_s: float | None, watch: Watch | None) -> None:
        if watch is None:
            raise Unanswered(timeout_s or 0.0, self.pid)
        self._heard = False
        try:
            await watch.doubt(self.pid)
        except Unanswered:
            if not self._heard:  # else it came while that was found out
                raise

    def fall_silent(self) -> None:
        """Hear that nothing has come for too long; whoever waits goes on with that."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(False)

    def _wake(self) -> None:
        self._heard = True
        # A waiter that was cancelled in this very pass of the loop is done already.
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

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
