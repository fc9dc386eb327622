"""What goes wrong around a daemon: the disk, the directories, a crowd. Nothing is lost, and each fault is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.daemon.process import DaemonProcess
from tollboard.daemon.client import Client
from tollboard.errors import (
    AgentDead,
    AgentNotFound,
    InvalidName,
    InvalidOption,
    InvalidPrompt,
    RequestNotFound,
    StoreUnavailable,
    TollboardError,
    UnknownBackend,
)
from tollboard.fleet.records import PollCompleted

pytestmark = pytest.mark.slow

SMALL_DISK_BYTES = 4 * 1024 * 1024
CROWD = 100


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """Yield a state directory on a disk of its own."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES},mode=0700", "tmpfs", str(home)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount program")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    yield home
    subprocess.run(["umount", str(home)], check=True)


async def test_a_full_disk_refuses_prompts_and_loses_none(small_disk: Path, tmp_path: Path) -> None:
    filler = small_disk / "filler"
    kept: list[str] = []
    with DaemonProcess(small_disk) as daemon:
        async with Client.connect(small_disk, start=False) as board:
            await board.start_session("api", path=tmp_path, backend="echo")
            kept.append(await board.send("api", "before"))
            await board.wait(kept)
            _fill(filler)
            kept += await _send_until_full(board)
            await board.status("api")  # what only reads is answered
            filler.unlink()
            kept.append(await board.send("api", "after", queue=True))
            assert {poll.status for poll in (await board.wait(kept, timeout=20)).done} == {"completed"}
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    with DaemonProcess(small_disk):
        async with Client.connect(small_disk, start=False) as board:
            entries = (await board.transcript("api", limit=100)).entries
            assert [entry.ref for entry in entries] == kept
            assert [entry.seq for entry in entries] == list(range(1, len(kept) + 1))


async def test_s12_a_stop_on_a_full_disk_says_so_and_is_done_once_there_is_space(
    small_disk: Path, tmp_path: Path
) -> None:
    filler = small_disk / "filler"
    with DaemonProcess(small_disk):
        async with Client.connect(small_disk, start=False) as board:
            await board.start_session("api", path=tmp_path, backend="echo", delay=600)
            ref = await board.send("api", "x")
            while (await board.poll("api", ref)).receipt.state != "started":
                pass
            _fill(filler)
            kept = await _send_until_full(board)
            with pytest.raises(StoreUnavailable, match=r"'api' is being stopped.*free some space"):
                await board.stop_session("api")
            filler.unlink()
            with contextlib.suppress(AgentNotFound):  # by now the first stop may have been written down
                await board.stop_session("api")
            assert await board.list_sessions() == ()
            ended = [(await board.poll("api", each)).receipt.outcome for each in (ref, *kept)]
            assert set(ended) == {"stopped"}


async def _send_until_full(board: Client) -> list[str]:
    """Return the refs of the prompts that were accepted until one was not."""
    accepted: list[str] = []

    async def pour() -> None:
        for _ in range(50):
            accepted.append(await board.send("api", "x" * 100_000, queue=True))

    with pytest.raises(StoreUnavailable, match="disk is full"):
        await pour()
    return accepted


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            os.fsync(file.fileno())


@pytest.mark.parametrize("size_kib", [20, 36, 64, 128, 192, 256])
def test_a_disk_that_is_too_small_is_told_to_who_starts_the_daemon(small_disk: Path, size_kib: int) -> None:
    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(small_disk)], check=True)

    resize(f"{size_kib}k")
    daemon = DaemonProcess(small_disk)
    try:
        if daemon.start() != "ready":  # however far it came: it knows what is wrong
            error = daemon.error()
            assert error["code"] in {"daemon_error", "store_unavailable"}, error
            assert "free some space" in error["message"] or "free space" in error["message"]
    finally:
        daemon.end()
    resize(str(SMALL_DISK_BYTES))
    with DaemonProcess(small_disk):  # and nothing half-written is in the way later
        pass


def test_a_read_only_disk_is_told_to_who_starts_the_daemon(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    daemon = DaemonProcess(small_disk)
    daemon.start()
    error = daemon.error()
    assert error["code"] == "daemon_error"
    assert f"{str(small_disk)!r} cannot be written" in error["message"]


async def test_a_working_directory_that_vanished_over_a_restart_is_said_and_its_prompts_wait(
    home: Path, tmp_path: Path
) -> None:
    gone, there = tmp_path / "gone", tmp_path / "there"
    gone.mkdir()
    there.mkdir()
    with DaemonProcess(home) as killed:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=gone, backend="echo", delay=600)
            await board.start_session("docs", path=there, backend="echo")
            cut = await board.send("api", "in flight")
            while (await board.poll("api", cut)).receipt.state != "started":
                pass
            queued = await board.send("api", "queued", queue=True)
        killed.signal(signal.SIGKILL)
        killed.wait()
    shutil.rmtree(gone)
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            with pytest.raises(AgentDead, match=f"'{gone}' does not exist.*resume"):
                await board.send("api", "another", queue=True)
            ref = await board.send("docs", "unharmed")
            assert (await board.wait([ref], timeout=20)).done[0].status == "completed"
            assert (await board.poll("api", cut)).receipt.outcome == "interrupted"
            assert (await board.poll("api", queued)).status == "pending"
            gone.mkdir()
            await board.resume("api")
            while (await board.poll("api", queued)).receipt.state != "started":
                pass
        assert "ERROR" not in daemon.log()


FLOOD = {"lines": 1_000_000, "chunks": 100_000}
GROWTH_BYTES = 250 * 1024 * 1024


async def test_s10_a_million_lines_leave_the_daemon_small_and_answering(home: Path, tmp_path: Path) -> None:
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=tmp_path, backend="scripted", script=[FLOOD, "fine"])
            process = psutil.Process(daemon.pid)
            before = largest = process.memory_info().rss
            ref = await board.send("api", "x")
            while (await board.wait([ref], timeout=0.1)).pending:
                assert (await board.status("api")).in_flight in (ref, None)
                largest = max(largest, process.memory_info().rss)
            assert largest - before < GROWTH_BYTES
            poll = await board.poll("api", ref)
            assert isinstance(poll, PollCompleted)
            assert poll.text.startswith("line 1\nline 2\n")
            assert len(poll.text) <= 8 * 1024 * 1024
            assert (await board.events("api")).missed
            await board.wait([await board.send("api", "y")], timeout=20)
            assert [entry.status for entry in (await board.transcript("api")).entries] == ["ok", "ok"]
        assert "ERROR" not in daemon.log()


ODD = "a\0b\x1b[31m\x07\u202e\ud800"


async def test_bad_input_is_refused_with_what_to_do_and_odd_input_is_kept(home: Path, tmp_path: Path) -> None:
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:

            async def start(name: str = "new", backend: str = "echo", **options: object) -> object:
                return await board.start_session(name, path=tmp_path, backend=backend, **options)

            await start("api")
            await start("odd", "scripted", script=[{"invalid_utf8": True}, "fine"])
            theirs = await board.send("odd", "x")
            refused: list[tuple[type[TollboardError], str, Callable[[], Awaitable[object]]]] = [
                (InvalidPrompt, "the prompt is empty", lambda: board.send("api", "")),
                (
                    InvalidPrompt,
                    "are allowed; put long text into a file",
                    lambda: board.send("api", "x" * 10_485_760),
                ),
                (InvalidPrompt, "half a character|surrogate|not text", lambda: board.send("api", ODD)),
                (UnknownBackend, r"'nobody' \(known are: .*echo", lambda: start(backend="nobody")),
                (
                    InvalidOption,
                    "does not know 'colour'; its options are: chunks",
                    lambda: start(colour="red"),
                ),
                (InvalidOption, "chunks", lambda: start(chunks="many")),
                (
                    RequestNotFound,
                    f"session 'api' has no request '{theirs}'",
                    lambda: board.poll("api", theirs),
                ),
                (RequestNotFound, theirs, lambda: board.cancel("api", theirs)),
                *(
                    (InvalidName, "use 1 to 64 letters", lambda name=name: start(name))  # type: ignore[misc]
                    for name in ("", "a b", "a/b", "..", "ä", "x" * 65, "a\n")
                ),
            ]
            for error, said, call in refused:
                with pytest.raises(error, match=said):
                    await call()
            assert not (await board.interrupt("api", ref=theirs)).acted
            kept = await board.send("api", ODD[:-1])
            report = await board.wait([kept, theirs], timeout=20)
            assert {poll.status for poll in report.done} == {"completed"}
            polled = await board.poll("api", kept)
            assert isinstance(polled, PollCompleted)
            assert polled.text == f"echo: {ODD[:-1]}"
            assert (await board.transcript("odd")).total == 1
            assert [session.name for session in await board.list_sessions()] == ["api", "odd"]
        assert "ERROR" not in daemon.log()


async def test_a_hundred_clients_at_once(home: Path) -> None:
    async def work(number: int) -> str:
        async with Client.connect(home, start=False, client=f"c{number}") as board:
            ref = await board.send("api", f"from {number}", queue=True)
            report = await board.wait([ref], timeout=60)
            assert [poll.status for poll in report.done] == ["completed"]
            return ref

    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=home, backend="echo")
            refs = await asyncio.gather(*(work(number) for number in range(CROWD)))
            entries = (await board.transcript("api", limit=CROWD)).entries
            assert {entry.ref for entry in entries} == set(refs)
            assert {entry.prompt for entry in entries} == {f"from {number}" for number in range(CROWD)}
            assert [entry.seq for entry in entries] == list(range(1, CROWD + 1))
        assert "ERROR" not in daemon.log()
