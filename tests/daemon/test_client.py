"""The client and the daemon it finds, starts, waits for, or cannot reach."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import DaemonProcess
from tollboard.daemon import connection, following
from tollboard.daemon.client import Client
from tollboard.daemon.config import StateDirectory, state_directory
from tollboard.daemon.single import Ownership, owner_pid, wait_for_exit
from tollboard.errors import (
    DaemonError,
    DaemonRunning,
    DaemonUnreachable,
    Denied,
    InvalidOption,
    InvalidPath,
)
from tollboard.fleet.records import FeedItem
from tollboard.ids import SESSION_MARKER as MARKER

pytestmark = pytest.mark.slow

STARTER = (
    "import asyncio, sys\n"
    "from tollboard.daemon.client import Client\n"
    "async def main():\n"
    "    async with Client.connect(sys.argv[1]) as board:\n"
    "        print((await board.health()).pid)\n"
    "asyncio.run(main())\n"
)


@pytest.fixture
def ended(home: Path) -> Iterator[Path]:
    """Yield a state directory whose daemon is ended afterwards, whoever started it."""
    yield home
    pid = owner_pid(StateDirectory(home))
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        assert wait_for_exit(pid, 10)


async def test_several_programs_that_start_it_at_once_get_one_daemon(ended: Path) -> None:
    programs = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", STARTER, str(ended), stdout=asyncio.subprocess.PIPE
        )
        for _ in range(6)
    ]
    said = [(await program.communicate())[0] for program in programs]
    assert len(set(said)) == 1
    assert int(said[0]) == owner_pid(StateDirectory(ended))


async def test_several_clients_of_one_program_that_start_it_at_once(ended: Path) -> None:
    clients = await asyncio.gather(*(Client.connect(ended) for _ in range(5)))
    assert len({(await client.health()).pid for client in clients}) == 1
    for client in clients:
        await client.close()


async def test_it_outlives_who_started_it_and_is_nobodys_child(ended: Path) -> None:
    run = subprocess.run(  # noqa: ASYNC221 - it is short
        [sys.executable, "-c", STARTER, str(ended)], capture_output=True, text=True, timeout=60, check=True
    )
    async with Client.connect(ended, start=False) as board:
        health = await board.health()
        assert health.pid == int(run.stdout)
        assert os.getsid(health.pid) not in (os.getsid(0), 0)
        assert (health.home, health.tcp, health.stopping) == (str(ended), None, False)
        assert 0 <= health.uptime_s < 60


async def test_a_daemon_that_is_still_starting_is_waited_for(home: Path) -> None:
    daemon = DaemonProcess(home)
    starting = asyncio.create_task(asyncio.to_thread(daemon.start))
    while owner_pid(daemon.home) is None:
        await asyncio.sleep(0)
    try:
        async with Client.connect(home) as board:
            assert (await board.health()).pid == daemon.pid
        assert await starting == "ready"
    finally:
        await asyncio.wait({starting})
        daemon.end()


async def test_a_daemon_that_is_about_to_end_is_waited_for_and_followed_by_another(ended: Path) -> None:
    with DaemonProcess(ended, config="grace_s = 0.5") as old:
        async with Client.connect(ended, start=False) as board:
            await board.start_session("slow", path=ended, backend="echo", delay=600)
            await board.send("slow", "x")
        old.home.socket.unlink()  # as it is at the very end: nobody listens, and the lock is still held
        old.signal(signal.SIGTERM)
        async with Client.connect(ended) as board:
            assert (await board.health()).pid != old.pid
            assert [session.name for session in await board.list_sessions()] == ["slow"]


async def test_nobody_there(home: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="tollboard doctor"):
        await Client.connect(home, start=False)
    assert list(home.iterdir()) == []


async def test_a_daemon_that_hangs_is_named_with_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEALTH_TIMEOUT_S", 0.5)
    with DaemonProcess(home) as daemon:
        daemon.freeze()
        with pytest.raises(DaemonUnreachable, match=rf"pid {daemon.pid}\).*--take-over"):
            await Client.connect(home)


async def test_a_lock_without_a_daemon_that_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "END_TIMEOUT_S", 0.1)
    owner = Ownership.claim(StateDirectory(home))
    try:
        with pytest.raises(DaemonRunning, match=f"pid {os.getpid()}"):
            await Client.connect(home)
    finally:
        owner.release()


async def test_another_version_is_noticed(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with DaemonProcess(home) as daemon, caplog.at_level(logging.WARNING):
        async with Client.connect(home, start=False):
            assert not caplog.records
        monkeypatch.setattr("tollboard.__version__", "99.0")
        async with Client.connect(home, start=False):
            assert f"(pid {daemon.pid}) is Tollboard" in caplog.text
            assert "this is 99.0" in caplog.text


async def test_a_proxy_in_the_environment_is_not_for_us(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            assert await board.list_sessions() == ()


async def test_a_closed_client_says_so_and_closing_twice_is_fine(home: Path) -> None:
    with DaemonProcess(home):
        client = await Client.connect(home, start=False)
        await client.close()
        await client.close()
        with pytest.raises(DaemonUnreachable, match="closed"):
            await client.list_sessions()
        with pytest.raises(DaemonUnreachable, match="closed"):
            await anext(aiter(client.tail()))


async def test_a_daemon_that_dies_ends_the_wait_and_the_tail_of_a_client_that_is_closed(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("slow", path=home, backend="echo", delay=600)
            ref = await board.send("slow", "x")
            feed = aiter(board.tail(after=0))
            await anext(feed)
            waiting = asyncio.create_task(board.wait([ref]))
            await board.health()
            daemon.signal(signal.SIGKILL)
            with pytest.raises(DaemonUnreachable):
                await waiting
            with pytest.raises(DaemonUnreachable):
                await board.list_sessions()
            gone = asyncio.Event()
            board.on_notice = lambda _: gone.set()
            draining = asyncio.create_task(_drain(feed))
            await gone.wait()
            await board.close()
            with pytest.raises(DaemonUnreachable):
                await draining


async def _until(feed: AsyncIterator[FeedItem], kind: str) -> AsyncIterator[FeedItem]:
    async for item in feed:
        yield item
        if item.kind == kind:
            return


async def test_s10_a_tail_goes_on_over_restarts_without_gaps_or_repeats(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, said, seen = asyncio.Event(), list[str](), list[FeedItem]()
    notices: asyncio.Queue[str] = asyncio.Queue()
    stream = connection.Connection.stream

    async def watched(self: connection.Connection, query: Any) -> AsyncIterator[Any]:
        async with contextlib.aclosing(stream(self, query)) as events:
            async for event in events:
                begun.set()
                yield event

    async def take(feed: AsyncIterator[FeedItem]) -> None:
        async for item in feed:
            seen.append(item)
            if item.kind == "text":
                said.append(str(item.data["text"]))
            if said[-1:] == ["echo: last"] and item.kind == "turn.completed":
                return

    async with contextlib.AsyncExitStack() as later:
        with DaemonProcess(home) as daemon:
            board = await later.enter_async_context(Client.connect(home, start=False))
            await board.start_session("api", path=home, backend="echo")
            await board.send("api", "before")
            async with contextlib.aclosing(board.tail(after=0)) as feed:
                # A turn is told of after it has ended: once it is, nothing of it comes any more.
                first = [item.seq async for item in _until(feed, "turn.completed")][-1] + 1
            monkeypatch.setattr(connection.Connection, "stream", watched)
            board.on_notice = notices.put_nowait
            taking = asyncio.create_task(take(board.tail()))
            await begun.wait()  # and not one item yet
            daemon.signal(signal.SIGKILL)
            daemon.wait()
        for prompt, end in (("first", signal.SIGKILL), ("second", signal.SIGTERM), ("last", None)):
            assert await notices.get() == following.GONE
            with DaemonProcess(home) as daemon:
                assert await notices.get() == following.BACK
                ref = await board.send("api", prompt)
                await board.wait([ref])
                if end is not None:
                    daemon.signal(end)
                    daemon.wait()
                else:
                    await taking
                    wanted = (await board.events("api", after=first - 1)).items
        assert said == ["echo: first", "echo: second", "echo: last"]
        assert [item for item in seen if item.session == "api"] == list(wanted)
        assert [item.seq for item in seen] == list(range(first, first + len(seen)))
        assert notices.empty()


async def test_s10_a_tail_goes_on_in_the_daemon_that_takes_over_from_one_that_hangs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEALTH_TIMEOUT_S", 0.5)
    monkeypatch.setattr(connection, "STREAM_TIMEOUT_S", 0.5)
    notices: asyncio.Queue[str] = asyncio.Queue()
    with DaemonProcess(home) as old:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=home, backend="echo")
            board.on_notice = notices.put_nowait
            feed = aiter(board.tail(kinds=["session.started", "turn.completed"], after=0))
            assert (await anext(feed)).kind == "session.started"
            old.freeze()
            following_on = asyncio.create_task(_next(feed))
            assert await notices.get() == following.GONE
            with DaemonProcess(home, "--take-over"):
                assert await notices.get() == following.BACK
                async with Client.connect(home, start=False) as other:
                    ref = await other.send("api", "x")
                assert (await following_on).ref == ref
                await feed.aclose()  # type: ignore[attr-defined]


async def _next(feed: AsyncIterator[FeedItem]) -> FeedItem:
    return await anext(feed)


async def _drain(feed: AsyncIterator[FeedItem]) -> None:
    async for _ in feed:
        pass


async def test_a_client_that_was_there_before_finds_the_next_daemon(home: Path) -> None:
    with DaemonProcess(home) as first:
        client = await Client.connect(home, start=False)
        first.signal(signal.SIGKILL)
        first.wait()
        with DaemonProcess(home) as second:
            assert (await client.health()).pid == second.pid
        await client.close()


async def test_names_that_no_header_can_hold(home: Path) -> None:
    with DaemonProcess(home):
        async with Client.connect(home, start=False, surface="s\r\nx: y", client="J\u00fcrgen\n") as board:
            await board.start_session("api", path=home, backend="echo")
            assert (await board.summary_update("api", "x")).author == "sx y:Jrgen"
        with pytest.raises(Denied):
            Client.connect(home, start=False, token="a\r\nb")


async def test_what_json_has_no_word_for(home: Path) -> None:
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            for wrong in (object(), float("nan"), {1, 2}, b"bytes"):
                with pytest.raises(InvalidOption, match="JSON"):
                    await board.start_session("api", path=home, backend="echo", option=wrong)


def test_s26_what_a_killed_daemon_left_behind_is_ended_by_the_next_one(home: Path, tmp_path: Path) -> None:
    with DaemonProcess(home) as killed:
        identity = (home / "id").read_text().strip()
        killed.signal(signal.SIGKILL)
        killed.wait()
    with (
        subprocess.Popen(
            ["sleep", "600"], env={MARKER: f"{identity}:some-session"}, start_new_session=True
        ) as ours,
        subprocess.Popen(["sleep", "600"], env={MARKER: "other-home:some-session"}) as strange,
    ):
        try:
            with DaemonProcess(home) as daemon:
                assert ours.wait(10) == -signal.SIGTERM
                assert strange.poll() is None
                assert "ended 1 processes of a former daemon" in daemon.log()
        finally:
            for process in (ours, strange):
                process.kill()


async def test_shutdown_returns_when_the_directory_is_given_up(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        client = await Client.connect(home, start=False)
        await client.shutdown()
        assert daemon.process.wait(0.5) == 0
        Ownership.claim(StateDirectory(home)).release()


async def test_a_daemon_that_never_gets_ready(ended: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollboard.daemon.starting.START_TIMEOUT_S", 0.0)
    with pytest.raises(DaemonError, match=r"did not start within 0 s; see .*daemon\.log"):
        await Client.connect(ended)
    # It goes on all the same, and must be gone before its directory is: wait until it has the lock.
    while owner_pid(StateDirectory(ended)) is None:
        pass


def test_where_the_state_directory_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLBOARD_HOME", str(tmp_path / "env"))
    assert state_directory().path == tmp_path / "env"
    assert state_directory("here").path == tmp_path / "here"
    monkeypatch.setenv("TOLLBOARD_HOME", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_directory().path == tmp_path / "state" / "tollboard"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory("~/x").path == tmp_path / "x"
    with pytest.raises(InvalidPath, match="a user who does not exist"):
        state_directory("~nobody-of-that-name/x")


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InvalidPath, match="the directory you are in is not there any more"):
        state_directory("here")
    assert state_directory(tmp_path).path == tmp_path
