"""The bytes between a client and the socket: reads that are cancelled, peers that are gone or say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tollboard.daemon import transport
from tollboard.daemon.transport import LIMIT_BYTES, Answer, SocketTransport, Unanswered, _Line

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: begun\n\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Answers each request as it is told to, and keeps the connections."""

    def __init__(self) -> None:
        self.connections: list[asyncio.StreamWriter] = []
        self.heard: list[bytes] = []
        self.answer = HEAD
        self.rest = b""
        self.pause: asyncio.Event | None = None
        """Before the rest."""
        self.closes = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
                self.heard.append(head + await reader.readexactly(length))
                writer.write(self.answer)
                if self.pause is not None:
                    await self.pause.wait()
                writer.write(self.rest)
                if self.closes:
                    writer.close()


@pytest.fixture
async def server(home: Path) -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_unix_server(made.serve, home / "daemon.sock"):
        yield made
        for writer in made.connections:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def client(home: Path) -> AsyncIterator[SocketTransport]:
    made = SocketTransport(str(home / "daemon.sock"), {"x-name": "me"})
    try:
        yield made
    finally:
        await made.close()


async def test_a_read_that_is_cancelled_as_its_answer_arrives_is_not_complained_of(
    server: Server, home: Path
) -> None:
    begun = asyncio.Event()
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    async def follow(http: SocketTransport) -> None:
        async with http.stream("GET", "/", timeout_s=10) as stream:
            async for _ in stream.pieces(timeout_s=10):
                begun.set()

    async with client(home) as http:
        following = asyncio.create_task(follow(http))
        await begun.wait()
        for _ in range(20):
            await asyncio.sleep(0)  # until it waits for the next bytes
        # The bytes are there before the loop looks, and the cancel runs before what the loop has seen is handled.
        server.connections[0].write(b": more\n\n")
        loop.call_soon(following.cancel)
        await asyncio.wait([following])
        assert following.cancelled()
    assert complaints == []


async def test_nobody_listening_and_nobody_answering_are_told_apart(server: Server, home: Path) -> None:
    server.answer = b""
    async with client(home) as http:
        with pytest.raises(TimeoutError):
            await http.request("GET", "/", timeout_s=0.01)
    (home / "daemon.sock").unlink()
    async with client(home) as http:
        with pytest.raises(FileNotFoundError):
            await http.request("GET", "/")


@pytest.fixture
def full(home: Path) -> Iterator[socket.socket]:
    """Yield a listening socket that nobody accepts from, with a full queue."""
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as later:
        listening.bind(str(home / "daemon.sock"))
        listening.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                one = later.enter_context(socket.socket(socket.AF_UNIX))
                one.setblocking(False)
                one.connect(str(home / "daemon.sock"))
        yield listening


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody seems to listen then")
async def test_a_queue_that_is_full_is_waited_for(
    full: socket.socket, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for a daemon that is not there."""
    refused = asyncio.Event()
    abort = _Line.abort
    monkeypatch.setattr(_Line, "abort", lambda line: (refused.set(), abort(line)))
    made = Server()
    made.answer = OK
    async with client(home) as http:
        asking = asyncio.create_task(http.request("GET", "/"))
        await refused.wait()
        async with await asyncio.start_unix_server(made.serve, sock=full):
            assert (await asking).content == b"ok"
            for writer in made.connections:
                writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody seems to listen then")
async def test_a_queue_that_stays_full_is_a_daemon_that_says_nothing(
    full: socket.socket, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 0.05)
    async with client(home) as http:
        with pytest.raises(Unanswered) as found:
            await http.request("GET", "/")
    assert not found.value.asked


async def test_a_connection_that_ended_while_it_was_idle_is_not_used_again(
    server: Server, home: Path
) -> None:
    server.answer = OK
    async with client(home) as http:
        assert await http.request("GET", "/") == Answer(200, b"ok")
        server.connections[0].close()
        await server.connections[0].wait_closed()
        assert await http.request("GET", "/") == Answer(200, b"ok")
    assert len(server.connections) == 2


async def test_one_connection_carries_one_call_after_the_other_and_two_carry_two_at_once(
    server: Server, home: Path
) -> None:
    server.answer = OK
    async with client(home) as http:
        for _ in range(3):
            assert (await http.request("POST", "/x?a=b", b"{}")).content == b"ok"
        assert len(server.connections) == 1
        assert (
            server.heard[0]
            == b"POST /x?a=b HTTP/1.1\r\nhost: tollboard\r\nx-name: me\r\ncontent-length: 2\r\n\r\n{}"
        )
        await asyncio.gather(http.request("GET", "/"), http.request("GET", "/"))
        assert len(server.connections) == 2


async def test_an_answer_in_pieces_is_put_together(server: Server, home: Path) -> None:
    server.pause = asyncio.Event()
    server.answer = b"HTTP/1.1 404 x\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"
    server.rest = b"3\r\ntwo\r\n0\r\n\r\n"
    async with client(home) as http, http.stream("GET", "/", timeout_s=10) as stream:
        assert stream.status == 404
        pieces = aiter(stream.pieces(timeout_s=10))
        assert await anext(pieces) == b"one"
        server.pause.set()
        assert [piece async for piece in pieces] == [b"two"]
        assert await http.request("GET", "/") == Answer(404, b"onetwo")


@pytest.mark.parametrize("answer", [OK[:-1], HEAD, b"SMTP ready\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_an_answer_that_is_none_or_breaks_off(server: Server, home: Path, answer: bytes) -> None:
    server.answer, server.closes = answer, True
    async with client(home) as http:
        with pytest.raises(ConnectionError):
            await http.request("GET", "/")


async def test_who_gives_up_leaves_no_answer_to_the_next(server: Server, home: Path) -> None:
    server.answer, server.rest, server.pause = b"", OK, asyncio.Event()
    async with client(home) as http:
        asking = asyncio.create_task(http.request("GET", "/"))
        while not server.heard:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        server.pause.set()
        assert (await http.request("GET", "/")).content == b"ok"
    assert len(server.connections) == 2


async def test_what_nobody_takes_is_not_read_without_end(server: Server, home: Path) -> None:
    server.answer = HEAD
    async with client(home) as http, http.stream("GET", "/", timeout_s=10) as stream:
        (writer,) = server.connections
        writer.transport.set_write_buffer_limits(0)
        writer.write(b"x" * 64 * LIMIT_BYTES)
        pieces = aiter(stream.pieces(timeout_s=10))
        first = len(await anext(pieces))
        assert first < 2 * LIMIT_BYTES
        taken = first - len(b": begun\n\n")
        while taken < 64 * LIMIT_BYTES:
            taken += len(await anext(pieces))
        await writer.drain()


async def test_closing_ends_what_is_under_way(server: Server, home: Path) -> None:
    server.answer = b""
    async with client(home) as http:
        asking = asyncio.create_task(http.request("GET", "/"))
        while not server.heard:
            await asyncio.sleep(0)
        await http.close()
        with pytest.raises(ConnectionError):
            await asking


async def test_a_connection_that_is_closed_is_gone_at_once(server: Server, home: Path) -> None:
    """And not at the next collection of garbage, with its loop, whose destructor swallows a Ctrl-C of that moment."""
    server.answer = OK
    gc.collect()
    gc.disable()
    try:
        async with client(home) as http:
            await http.request("GET", "/")
            (line,) = (weakref.ref(line) for line in http._idle)
        await asyncio.sleep(0)
        assert line() is None
    finally:
        gc.enable()


def test_ctrl_c_in_the_middle_of_an_answer_is_no_lost_connection(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    async def calls() -> None:
        made = Server()
        made.answer = OK
        async with await asyncio.start_unix_server(made.serve, home / "daemon.sock"):
            try:
                async with client(home) as http:
                    await http.request("GET", "/")
            finally:
                for writer in made.connections:
                    writer.close()

    monkeypatch.setattr(_Line, "on_message_complete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(calls())
