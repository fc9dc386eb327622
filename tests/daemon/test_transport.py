"""The bytes between a client and the socket: reads that are cancelled, peers that are gone or say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tollboard.daemon.transport import SocketTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: begun\n\n"


class Server:
    """Answers each request with the head of a stream, and keeps the connections."""

    def __init__(self) -> None:
        self.connections: list[asyncio.StreamWriter] = []
        self.answer = HEAD

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)


@pytest.fixture
async def server(home: Path) -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_unix_server(made.serve, home / "daemon.sock"):
        yield made
        for writer in made.connections:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def client(home: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = SocketTransport(str(home / "daemon.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://tollboard") as http:
        yield http


async def test_a_read_that_is_cancelled_as_its_answer_arrives_is_not_complained_of(
    server: Server, home: Path
) -> None:
    begun = asyncio.Event()
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))

    async def follow(http: httpx.AsyncClient) -> None:
        async with http.stream("GET", "/") as response:
            async for _ in response.aiter_lines():
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
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/", timeout=httpx.Timeout(None, read=0.01))
    (home / "daemon.sock").unlink()
    async with client(home) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/")


async def test_a_connection_that_ended_while_it_was_idle_is_not_used_again(
    server: Server, home: Path
) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    async with client(home) as http:
        assert (await http.get("/")).text == "ok"
        server.connections[0].close()
        await server.connections[0].wait_closed()
        assert (await http.get("/")).text == "ok"
    assert len(server.connections) == 2
