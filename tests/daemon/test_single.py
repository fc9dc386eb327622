"""One daemon for a state directory: the lock, stale files, take-over, signals, and how a failed start is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.process import DaemonProcess
from tollboard.daemon.client import Client
from tollboard.daemon.config import StateDirectory
from tollboard.daemon.single import (
    Ownership,
    Starter,
    bind_socket,
    bind_tcp,
    owner_pid,
    private_text,
    wait_for_exit,
)
from tollboard.errors import (
    DaemonError,
    DaemonRunning,
    TollboardError,
)
from tollboard.surfaces.cli import main

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- without a process ------------------------------------------------------------------------------------------------


def test_the_lock_names_its_owner_and_is_given_up(home: Path) -> None:
    directory = StateDirectory(home)
    assert owner_pid(directory) is None
    owner = Ownership.claim(directory)
    assert owner_pid(directory) == os.getpid()
    with pytest.raises(DaemonRunning, match=f"pid {os.getpid()}"):
        Ownership.claim(directory)
    owner.release()
    assert owner_pid(directory) is None
    Ownership.claim(directory).release()


def test_asking_who_owns_it_never_gets_in_the_way_of_a_claim(home: Path) -> None:
    directory, done = StateDirectory(home), threading.Event()

    def ask() -> None:
        while not done.is_set():
            owner_pid(directory)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(300):
            Ownership.claim(directory).release()
    finally:
        done.set()
        asking.join()


def test_taking_over_leaves_the_old_owner_without_the_directory(home: Path) -> None:
    directory = StateDirectory(home)
    old = Ownership.claim(directory)
    new = Ownership.claim(directory, take_over=True)
    assert not old.still_ours()
    assert new.still_ours()
    old.release()
    with pytest.raises(DaemonRunning):
        Ownership.claim(directory)
    new.release()
    assert sorted(p.name for p in home.iterdir()) == ["daemon.lock"]


def test_a_lock_file_that_was_removed_is_nobodys(home: Path) -> None:
    directory = StateDirectory(home)
    owner = Ownership.claim(directory)
    directory.lock.unlink()
    assert not owner.still_ours()
    owner.release()


def test_the_socket_is_private_and_replaces_a_stale_file(home: Path) -> None:
    directory = StateDirectory(home)
    directory.socket.write_text("left by a crash")
    before = os.umask(0)
    try:
        bound = bind_socket(directory)
    finally:
        assert os.umask(before) == 0
    assert mode(directory.socket) == 0o600
    bound.close()


def test_a_private_text_is_made_once_with_mode_0600(home: Path) -> None:
    path = home / "token"
    assert private_text(path, lambda: "first") == "first"
    assert mode(path) == 0o600
    path.chmod(0o644)
    assert private_text(path, lambda: "second") == "first"
    assert mode(path) == 0o600
    path.write_text("")
    assert private_text(path, lambda: "third") == "third"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DaemonError, match="not text"):
        private_text(path, lambda: "fourth")


def test_a_private_text_is_whole_or_not_there(home: Path) -> None:
    path = home / "token"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(DaemonError, match="cannot be written"):
            private_text(path, lambda: "x" * 40)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not path.exists()


def test_the_starter_is_told_once() -> None:
    ready, theirs = os.pipe()
    starter = Starter(theirs)
    starter.tell("ready")
    # The number of the closed pipe is taken by another file at once; a second word must not end up in it.
    read, write = os.pipe()
    assert theirs in (read, write)
    starter.tell("an error")
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        os.read(read, 100)
    assert os.read(ready, 100) == b"ready\n"
    for fd in (ready, read, write):
        os.close(fd)
    Starter(None).tell("ready")


def test_waiting_for_a_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not wait_for_exit(process.pid, 0)
        process.communicate(b"\n")
    assert wait_for_exit(process.pid, 10)


# -- a real daemon ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_its_files_are_private_and_the_socket_goes_with_it(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        files = {path.name: mode(path) for path in home.iterdir()}
        assert set(files.values()) == {0o600}, files
        assert {"daemon.sock", "daemon.lock", "daemon.log", "token", "id", "tollboard.db"} <= files.keys()
        assert mode(home) == 0o700
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert not daemon.home.socket.exists()
        assert owner_pid(daemon.home) is None


@pytest.mark.slow
async def test_a_second_daemon_is_refused_and_names_the_first(home: Path) -> None:
    with DaemonProcess(home) as first:
        second = DaemonProcess(home)
        second.start()
        error = second.error()
        assert error["code"] == "daemon_running"
        assert f"pid {first.pid}" in error["message"]
        async with Client.connect(home, start=False) as board:
            assert (await board.health()).pid == first.pid


@pytest.mark.slow
async def test_a_stale_socket_and_lock_are_no_obstacle(home: Path) -> None:
    with DaemonProcess(home) as killed:
        killed.signal(signal.SIGKILL)
        killed.wait()
        assert killed.home.socket.exists()
    with DaemonProcess(home) as next_one:
        async with Client.connect(home, start=False) as board:
            assert (await board.health()).pid == next_one.pid


@pytest.mark.slow
async def test_a_daemon_that_was_taken_over_while_it_was_stopped_cannot_write(home: Path) -> None:
    with DaemonProcess(home) as old, socket.socket(socket.AF_UNIX) as late:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=home, backend="echo")
            async with contextlib.aclosing(board.tail(after=0)) as feed:  # type: ignore[type-var]
                await anext(feed)  # the last thing that it has to write
        late.connect(str(old.home.socket))
        old.freeze()
        # What it finds once it goes on: a prompt that it must not accept any more.
        late.sendall(_post("send", {"name": "api", "prompt": "from the dead", "queue": True}))
        with DaemonProcess(home, "--take-over") as new:
            async with Client.connect(home, start=False) as board:
                ref = await board.send("api", "from the living")
                await board.wait([ref], timeout=20)
                old.signal(signal.SIGCONT)
                assert b" 200 " not in await asyncio.to_thread(_read_all, late)
                assert old.wait() == 1
                assert "not this daemon's any more" in old.log()
                entries = (await board.transcript("api")).entries
                assert [entry.prompt for entry in entries] == ["from the living"]
                assert (await board.health()).pid == new.pid
                assert owner_pid(new.home) == new.pid
                assert await board.send("api", "still here")


def _post(operation: str, arguments: dict[str, object]) -> bytes:
    body = json.dumps(arguments).encode()
    head = f"POST /v1/{operation} HTTP/1.1\r\nHost: tollboard\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _read_all(connection: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            said += part
    return said


@pytest.mark.slow
async def test_a_daemon_that_hangs_in_the_middle_of_a_write_is_killed_by_the_take_over(home: Path) -> None:
    async def keep_writing(board: Client) -> None:
        while True:
            await board.summary_update("api", "x" * 1000)

    with DaemonProcess(home) as old, sqlite3.connect(home / "tollboard.db", isolation_level=None) as database:
        database.execute("pragma busy_timeout = 0")
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=home, backend="echo")
            writers = [asyncio.create_task(keep_writing(board)) for _ in range(4)]
            while not await _stopped_in_a_write(old, database):
                pass
            with DaemonProcess(home, "--take-over") as new:
                assert old.wait() == -signal.SIGKILL
                assert f"(pid {old.pid}) holds the database locked" in new.log()
                for writer in writers:
                    writer.cancel()
                await asyncio.gather(*writers, return_exceptions=True)
                async with Client.connect(home, start=False) as after:
                    assert (await after.summary_update("api", "mine")).text == "mine"
    database.close()


async def _stopped_in_a_write(daemon: DaemonProcess, database: sqlite3.Connection) -> bool:
    """Stop the daemon; return whether that left the database locked, else let it go on."""
    await asyncio.sleep(0)
    daemon.freeze()
    try:
        database.execute("begin immediate")
    except sqlite3.OperationalError:
        return True
    database.execute("rollback")
    daemon.signal(signal.SIGCONT)
    return False


@pytest.mark.slow
async def test_a_healthy_daemon_ends_when_it_is_taken_over(home: Path) -> None:
    with DaemonProcess(home) as old, DaemonProcess(home, "--take-over") as new:
        old.signal(signal.SIGCONT)
        assert old.wait() == 1
        async with Client.connect(home, start=False) as board:
            assert (await board.health()).pid == new.pid


@pytest.mark.slow
async def test_a_daemon_whose_directory_is_gone_ends(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        for path in home.iterdir():
            path.unlink()
        daemon.signal(signal.SIGCONT)
        assert daemon.wait() == 1


def _remove(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    path.unlink()
    path.write_text("something else")


@pytest.mark.slow
@pytest.mark.parametrize(
    "harms",
    [
        {"daemon.sock": _remove},
        {"daemon.sock": _replace},
        {"daemon.lock": _remove},
        {"daemon.sock": _remove, "daemon.lock": _remove, "token": _remove},
    ],
    ids=lambda harms: " ".join(f"{harm.__name__[1:]} {name}" for name, harm in harms.items()),
)
async def test_what_a_cleaner_took_from_a_living_daemon_is_put_back(
    home: Path, tmp_path: Path, harms: dict[str, Callable[[Path], None]]
) -> None:
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=tmp_path, backend="echo")
        for name, harm in harms.items():
            harm(home / name)
        daemon.signal(signal.SIGCONT)
        async with Client.connect(home) as board:
            assert [one.name for one in await board.list_sessions()] == ["api"]
            assert (await board.health()).pid == daemon.pid
            assert owner_pid(daemon.home) == daemon.pid
            await board.shutdown()
        assert not (home / "daemon.sock").exists()


@pytest.mark.slow
async def test_a_client_that_finds_no_socket_makes_the_daemon_look(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        for _ in range(2):
            daemon.home.socket.unlink()
            async with Client.connect(home, start=False) as board:
                assert (await board.health()).pid == daemon.pid


@pytest.mark.slow
def test_a_daemon_whose_directory_was_moved_ends_and_keeps_its_hands_off_the_new_one(
    home: Path, tmp_path: Path
) -> None:
    with DaemonProcess(home) as daemon:
        home.rename(tmp_path / "moved")
        home.mkdir(mode=0o700)
        daemon.signal(signal.SIGCONT)
        assert daemon.wait() == 1
        assert list(home.iterdir()) == []


@pytest.mark.slow
def test_a_daemon_that_cannot_be_reached_is_seen_and_ended_all_the_same(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DaemonProcess(home) as daemon:
        daemon.home.socket.unlink()
        daemon.home.socket.mkdir()  # nothing can be put back here
        (daemon.home.socket / "x").write_text("")
        assert main(["doctor", "--home", str(home)]) == 1
        assert f"running, pid {daemon.pid}, but nobody answers" in capsys.readouterr().out
        assert main(["shutdown", "--home", str(home)]) == 0
        assert capsys.readouterr().out == "the daemon has ended\n"
        assert daemon.wait() == 0


@pytest.mark.slow
async def test_the_second_signal_ends_it_at_once(home: Path) -> None:
    with DaemonProcess(home, config="grace_s = 600.0") as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("slow", path=home, backend="echo", delay=600)
            await board.send("slow", "x")
            daemon.signal(signal.SIGTERM)
            while not (await board.health()).stopping:
                pass
            daemon.signal(signal.SIGTERM)
            assert await asyncio.to_thread(daemon.wait) == 1


@pytest.mark.slow
async def test_s12_shutting_down_marks_turns_that_do_not_end_in_time(home: Path) -> None:
    with DaemonProcess(home, config="grace_s = 0.1") as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("slow", path=home, backend="echo", delay=600)
            cut = await board.send("slow", "in flight")
            queued = await board.send("slow", "queued", queue=True)
            async with Client.connect(home, start=False) as other:
                waiting = asyncio.create_task(other.wait([cut, queued]))
                await other.health()
                await board.shutdown()
                report = await waiting  # who waits is sent home with what is known
            assert [poll.receipt.ref for poll in report.done] == [cut]
        assert daemon.wait() == 0
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            poll = await board.poll("slow", cut)
            assert (poll.status, poll.receipt.outcome) == ("failed", "interrupted")
            assert (await board.poll("slow", queued)).status == "pending"
            assert [entry.ref for entry in (await board.inbox()).entries] == [cut]


@pytest.mark.slow
async def test_s12_shutting_down_lets_a_turn_finish_within_its_grace(home: Path) -> None:
    with DaemonProcess(home, config="grace_s = 30") as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=home, backend="echo", delay=0.3)
            ref = await board.send("api", "last words")
            daemon.signal(signal.SIGTERM)
            assert (await board.wait([ref])).done[0].status == "completed"
            with pytest.raises(TollboardError):
                await board.send("api", "too late")
        assert daemon.wait() == 0


@pytest.mark.slow
def test_the_log_names_no_prompt(home: Path) -> None:
    async def talk() -> None:
        async with Client.connect(home, start=False) as board:
            await board.start_session("api", path=home, backend="echo")
            ref = await board.send("api", "the secret of the prompt")
            await board.wait([ref])

    with DaemonProcess(home, config="log_level = 'DEBUG'") as daemon:
        asyncio.run(talk())
        assert "secret of the prompt" not in daemon.log()


def test_accepted_connections_send_small_pieces_at_once() -> None:
    """Without it each piece of a stream over TCP waited 40 ms for an acknowledgement."""
    with bind_tcp("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
