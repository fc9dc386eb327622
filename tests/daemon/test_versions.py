"""A client and a daemon of different versions: said, with what to do; the old one can always be ended."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tollboard.daemon.client import Client
from tollboard.errors import AgentNotFound, DaemonError

HEALTH = {"version": "0.0.1", "pid": 7, "serving_since": "noon"}
ADVICE = r"\(pid 7\) is Tollboard 0\.0\.1, this is .*`tollboard shutdown` and try again"


class Other:
    """A daemon of another version: answers what it is told to."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {"/v1/health": (200, HEALTH)}
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        if path == "/v1/shutdown":
            self.ended.set()
        status, answer = self.answers.get(path, (404, error("not_found", "Not Found")))
        body = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 %d x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
        )
        await writer.drain()
        writer.close()


def error(code: str, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message, "data": {}}}


@pytest.fixture
async def other(home: Path) -> AsyncIterator[Other]:
    made = Other()
    async with await asyncio.start_unix_server(made.serve, home / "daemon.sock"):
        yield made


async def test_what_only_one_version_knows_is_an_error_that_says_what_to_do(
    other: Other, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other.answers |= {
        "/v1/list_sessions": (200, [{"called": "api"}]),
        "/v1/status": (422, error("bad_request", "status: queue: there is no such argument")),
        "/v1/send": (418, error("teapot", "an error that is not known here")),
    }
    with caplog.at_level(logging.WARNING, "tollboard.client"):
        async with Client.connect(home, start=False) as board:
            with pytest.raises(DaemonError, match=ADVICE):
                await board.list_sessions()
            with pytest.raises(DaemonError, match=ADVICE):
                await board.status("api")
            with pytest.raises(DaemonError, match=ADVICE):
                await board.send("api", "hi")
            with pytest.raises(DaemonError, match=ADVICE):
                await board.approvals()
            with pytest.raises(DaemonError, match=ADVICE):
                await anext(board.tail())
    assert "(pid 7) is Tollboard 0.0.1, this is" in caplog.text


async def test_what_both_versions_know_goes_on(other: Other, home: Path) -> None:
    other.answers |= {
        "/v1/list_sessions": (200, []),
        "/v1/status": (404, error("agent_not_found", "there is no session 'api'")),
    }
    async with Client.connect(home, start=False) as board:
        assert await board.list_sessions() == ()
        with pytest.raises(AgentNotFound, match="no session 'api'"):
            await board.status("api")


async def test_a_daemon_of_another_version_can_be_ended(other: Other, home: Path) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        other.answers |= {"/v1/health": (200, {**HEALTH, "pid": process.pid}), "/v1/shutdown": (200, {})}
        async with Client.connect(home, start=False) as board:
            ending = asyncio.create_task(board.shutdown())
            await other.ended.wait()
            assert not ending.done()
            process.kill()
            await ending
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_something_else_on_the_socket_is_told(other: Other, home: Path) -> None:
    other.answers["/v1/health"] = (200, ["hello"])
    with pytest.raises(DaemonError, match="is no Tollboard daemon; end that program"):
        await Client.connect(home, start=False)
