"""The verbs without asyncio: the same as the client's, from any thread, against a real daemon."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.process import DaemonProcess
from tollboard import sync
from tollboard.errors import AgentNotFound, DaemonUnreachable, Invalid, SessionBusy
from tollboard.fleet import board as fleet
from tollboard.fleet.pools import board as pools

pytestmark = pytest.mark.slow


@pytest.fixture
def board(home: Path) -> Iterator[sync.Board]:
    with DaemonProcess(home), sync.connect(home, start=False, client="test") as connected:
        yield connected


def test_s16_it_has_every_verb_with_the_same_arguments() -> None:
    for protocol, ours in ((fleet.Board, sync.Board), (pools.PoolBoard, sync.Pools)):
        for name, verb in vars(protocol).items():
            if not name.startswith("_"):
                wanted = [str(one) for one in inspect.signature(verb).parameters.values()]
                found = [str(one) for one in inspect.signature(getattr(ours, name)).parameters.values()]
                assert [one.replace("os.PathLike", "PathLike") for one in found] == wanted, name


def test_s16_the_tour(board: sync.Board, tmp_path: Path) -> None:
    board.start_session("api", path=tmp_path, backend="echo")
    ref = board.send("api", "what files are here?")
    assert board.wait([ref], timeout=20).done[0].text == "echo: what files are here?"
    assert [entry.ref for entry in board.inbox(ack=True).entries] == [ref]
    assert not board.inbox().entries
    board.summary_update("api", "notes")
    assert board.summary_get("api").text == "notes"
    board.pools.start("p", 2, path=tmp_path, backend="echo")
    board.pools.submit("p", ["a", "b"])
    assert board.pools.wait("p", timeout=20).ok == 2
    assert [one.text for one in board.pools.results("p").results] == ["echo: a", "echo: b"]
    with pytest.raises(AgentNotFound):
        board.send("nobody", "x")
    board.stop_session("api")
    assert board.list_sessions() == ()


def test_s10_the_feed_is_an_iterator(board: sync.Board, tmp_path: Path) -> None:
    board.start_session("api", path=tmp_path, backend="echo")
    ref = board.send("api", "x")
    feed = board.tail("api", after=0)
    kinds = []
    for item in feed:
        kinds.append(item.kind)
        if item.kind == "turn.completed":
            break
    assert (item.ref, kinds[0]) == (ref, "session.started")
    feed.close()  # type: ignore[attr-defined] # a generator
    assert board.status("api").turns == 1


def test_many_threads_at_once(board: sync.Board, tmp_path: Path) -> None:
    board.start_session("api", path=tmp_path, backend="echo")
    refs: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: refs.append(board.send("api", f"p{n}", queue=True)))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = board.wait(refs, timeout=20)
    assert sorted(one.text for one in report.done) == sorted(f"echo: p{n}" for n in range(20))


def test_errors_are_the_clients(board: sync.Board, tmp_path: Path) -> None:
    board.start_session("slow", path=tmp_path, backend="echo", delay=60)
    board.send("slow", "x")
    with pytest.raises(SessionBusy):
        board.send("slow", "y")


def test_after_the_close_it_says_so(board: sync.Board) -> None:
    board.close()
    board.close()
    with pytest.raises(DaemonUnreachable, match="closed; connect again"):
        board.list_sessions()


async def test_beside_an_event_loop_it_refuses_to_stand_still(home: Path) -> None:
    with pytest.raises(Invalid, match="use `Client` with await"):
        sync.connect(home, start=False)
    await asyncio.sleep(0)


def test_no_daemon_and_none_wanted(home: Path) -> None:
    with pytest.raises(DaemonUnreachable):
        sync.connect(home, start=False)


SCRIPT = """
import sys
from tollboard.sync import connect
with connect(sys.argv[1], start=False) as board:
    board.start_session("slow", path=".", backend="echo", delay=60)
    ref = board.send("slow", "x")
    try:
        print("waiting", flush=True)
        board.wait([ref], timeout=60)
    except KeyboardInterrupt:
        print("stopped", board.status("slow").phase, flush=True)
"""


def test_ctrl_c_stops_waiting_and_the_connection_goes_on(home: Path, tmp_path: Path) -> None:
    with DaemonProcess(home):
        command = [sys.executable, "-c", SCRIPT, str(home)]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as script:
            assert script.stdout is not None
            assert script.stdout.readline() == "waiting\n"
            script.send_signal(signal.SIGINT)
            assert script.stdout.readline() == "stopped processing\n"
            assert script.wait(20) == 0
