"""The feed as server-sent events, and calls that wait: streams that break, clients that hang up, daemons that end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.daemon.process import DaemonProcess
from tests.surfaces.served import Served, serving
from tollboard.daemon.client import Client
from tollboard.errors import DaemonError
from tollboard.fleet.records import FeedItem
from tollboard.surfaces import http as http_surface
from tollboard.surfaces.gate import Door

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("h")) as server:
        yield server


# -- the feed ---------------------------------------------------------------------------------------------------------


class Stream:
    """Server-sent events as they are on the wire."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response

    async def items(self) -> AsyncIterator[tuple[str, str, Any]]:
        fields: dict[str, str] = {}
        async for line in self.response.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}
            else:
                assert "" in fields  # a comment
                fields = {}


@contextlib.asynccontextmanager
async def stream(
    served: Served, headers: dict[str, str] | None = None, **query: Any
) -> AsyncIterator[Stream]:
    transport = httpx.AsyncHTTPTransport(uds=str(served.home.socket))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http,
        http.stream("GET", "/v1/events/stream", params=query, headers=headers) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


async def say(served: Served, *prompts: str) -> str:
    async with Client.connect(served.home.path, start=False) as board:
        ref = ""
        for prompt in prompts:
            ref = await board.send("api", prompt, queue=True)
        await board.wait([ref])
        return ref


async def test_s10_a_stream_that_breaks_anywhere_goes_on_without_gaps_or_repeats(served: Served) -> None:
    await say(served, *(f"p{n}" for n in range(20)))
    async with Client.connect(served.home.path, start=False) as board:
        wanted = [item.seq for item in (await board.events("api")).items]
    seen: list[int] = []
    while len(seen) < len(wanted):
        headers = {"last-event-id": str(seen[-1])} if seen else {}
        async with stream(served, headers, name="api", after=0) as feed:
            taken = 0
            async for id, kind, row in feed.items():
                assert (id, kind, row["session"]) == (str(row["seq"]), row["kind"], "api")
                seen.append(row["seq"])
                taken += 1
                if taken == 7 or len(seen) == len(wanted):
                    break
    assert seen == wanted


async def test_s10_a_stream_shows_what_happens_after_it_began_and_only_what_was_asked_for(
    served: Served,
) -> None:
    async with stream(served, name="api", kind=["turn.completed", "text"]) as feed:
        items = feed.items()
        first = asyncio.ensure_future(anext(items))
        ref = await say(served, "line \u2028 and \x85 end")
        _, kind, row = await first
        assert (kind, row["ref"], row["data"]["text"]) == ("text", ref, "echo: line \u2028 and \x85 end")
        _, kind, row = await anext(items)
        assert (kind, row["ref"]) == ("turn.completed", ref)


async def test_s10_the_clients_tail_keeps_every_kind_of_line_end(served: Served) -> None:
    prompt = "a\u2028b\x85c\x0bd\x1ce\r\nf"
    ref = await say(served, prompt)
    async with (
        Client.connect(served.home.path, start=False) as board,
        contextlib.aclosing(board.tail("api", ref=ref, after=0)) as feed,  # type: ignore[type-var]
    ):
        texts = [item.data["text"] async for item in _until_done(feed) if item.kind == "text"]
    assert "".join(map(str, texts)) == f"echo: {prompt}"


async def _until_done(feed: Any) -> AsyncIterator[Any]:
    async for item in feed:
        yield item
        if item.kind == "turn.completed":
            return


async def test_s10_a_reader_that_reads_nothing_holds_nobody_up(served: Served) -> None:
    async with stream(served, after=0):
        ref = await asyncio.wait_for(say(served, *("x" * 50_000 for _ in range(40))), 30)
        with served.unix() as http:
            poll = http.post("/v1/poll", json={"name": "api", "ref": ref}).json()
            assert poll["status"] == "completed"


async def test_s10_a_stream_goes_on_in_the_next_daemon_without_gaps_or_repeats(home: Path) -> None:
    seen: list[int] = []
    with DaemonProcess(home) as killed:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=home, backend="echo")
            await board.wait([await board.send("api", f"p{n}", queue=True) for n in range(5)])
            cut = await board.send("api", "never answered", queue=True)

            async def follow() -> None:
                async for item in board.tail(after=0):
                    seen.append(item.seq)
                    if len(seen) == 12:
                        killed.signal(signal.SIGKILL)

            await _until_gone(board, follow())
        killed.wait()
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            last = await board.send("api", "the last one", queue=True)
            await board.wait([cut, last])
            async with contextlib.aclosing(board.tail(after=seen[-1])) as feed:  # type: ignore[type-var]
                async for item in feed:
                    seen.append(item.seq)
                    if (item.kind, item.ref) == ("turn.completed", last):
                        break
            assert seen == [item.seq for item in (await board.events(after=0)).items if item.seq <= seen[-1]]


async def test_s10_a_silent_feed_says_now_and_then_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> AsyncIterator[FeedItem]:
        await asyncio.Event().wait()
        yield FeedItem(1, 0.0, None, None, "never", {})

    monkeypatch.setattr(http_surface, "HEARTBEAT_S", 0.001)
    door = Door(None, None, "", frozenset(), shutdown=lambda: None, health=lambda: None)  # type: ignore[arg-type, return-value]
    before = asyncio.all_tasks()
    async with contextlib.aclosing(http_surface._sse(nothing(), door, 7)) as feed:  # type: ignore[type-var]
        assert [await anext(feed) for _ in range(4)] == [b": following\nid: 7\n\n", *[b": waiting\n\n"] * 3]
    assert asyncio.all_tasks() == before
    door.closing.set()
    assert [part async for part in http_surface._sse(nothing(), door, 7)] == [b": following\nid: 7\n\n"]
    assert asyncio.all_tasks() == before


# -- waiting ----------------------------------------------------------------------------------------------------------


async def test_who_waits_and_hangs_up_leaves_nothing_behind(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("slow", path=home, backend="echo", delay=600)
            ref = await board.send("slow", "x")
            for _ in range(50):
                async with Client.connect(home, start=False) as other:
                    waiting = [
                        asyncio.ensure_future(other.wait([ref])),
                        asyncio.ensure_future(other.inbox(wait=3600)),
                    ]
                    await other.health()
                    for task in waiting:
                        task.cancel()
                    await asyncio.gather(*waiting, return_exceptions=True)
            # What was left behind would now hold the end up, or be logged when it is destroyed.
            await board.interrupt("slow")
            await board.shutdown()
        assert daemon.wait() == 0
        assert "ERROR" not in daemon.log()


async def test_what_changes_something_is_carried_out_when_the_client_hangs_up(home: Path) -> None:
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            await board.start_session("slow", path=home, backend="echo", delay=600)
            await board.send("slow", "x")
            body = b'{"name": "slow"}'
            head = f"POST /v1/stop_session HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(home / "daemon.sock"))
                connection.sendall(head.encode() + body)
            async with contextlib.aclosing(board.tail(after=0)) as feed:  # type: ignore[type-var]
                async for item in feed:
                    if item.kind == "session.stopped":
                        break
            assert await board.list_sessions() == ()


async def test_shutting_down_sends_home_who_waits_and_who_follows(home: Path) -> None:
    with DaemonProcess(home, config="grace_s = 0.0") as daemon:
        async with Client.connect(home, start=False) as board, Client.connect(home, start=False) as other:
            await board.start_session("api", path=home, backend="echo")
            reading = asyncio.ensure_future(other.inbox(wait=3600))
            following = asyncio.ensure_future(_until_gone(other, _drain(other)))
            async with contextlib.aclosing(board.tail(after=0)) as feed:  # type: ignore[type-var]
                await anext(feed)
            await board.shutdown()
            with contextlib.suppress(DaemonError):
                assert (await reading).entries == ()
            await following
        assert daemon.wait() == 0
        assert "ERROR" not in daemon.log()


async def _drain(board: Client) -> None:
    async for _ in board.tail(after=0):
        pass


async def _until_gone(board: Client, following: Coroutine[Any, Any, None]) -> None:
    """Follow until the daemon is gone."""
    gone = asyncio.Event()
    board.on_notice = lambda _: gone.set()
    task = asyncio.create_task(following)
    await gone.wait()
    task.cancel()
    await asyncio.wait([task])
