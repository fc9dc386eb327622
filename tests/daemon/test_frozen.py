"""A real daemon that stands still (SIGSTOP): what each call says and when, and that it goes on when the daemon does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import DaemonProcess
from tollboard.daemon import connection, pulse
from tollboard.daemon.client import Client
from tollboard.daemon.config import StateDirectory
from tollboard.daemon.single import START_TIMEOUT_S, may_be_starting, owner_pid
from tollboard.errors import DaemonFrozen
from tollboard.testing.clock import FakeClock

pytestmark = pytest.mark.slow

FATE = "what was asked may have been done, or may be done yet"


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[None]:
    """Return a queue that gets something whenever it begins to be looked whether a daemon lives."""
    looks: asyncio.Queue[None] = asyncio.Queue()
    look = pulse.Pulse._look

    async def heard(self: pulse.Pulse) -> None:
        looks.put_nowait(None)
        await look(self)

    monkeypatch.setattr(pulse.Pulse, "_look", heard)
    monkeypatch.setattr(connection, "SILENCE_S", 0.05)
    return looks


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a daemon little time: it stands still, more would change nothing."""
    monkeypatch.setattr(connection, "SILENCE_S", 0.05)
    monkeypatch.setattr(connection, "LOOK_S", 0.2)
    monkeypatch.setattr(connection, "HEALTH_TIMEOUT_S", 0.2)


@pytest.fixture
def daemon(home: Path) -> Iterator[DaemonProcess]:
    with DaemonProcess(home) as running:
        yield running


@pytest.fixture
async def board(daemon: DaemonProcess, home: Path) -> AsyncIterator[Client]:
    async with Client.connect(home, start=False) as client:
        await client.start_session("api", path=home, backend="echo")
        await client.start_session("slow", path=home, backend="echo", delay=600)
        yield client


async def _said(work: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(DaemonFrozen) as found:
        await work
    return str(found.value)


async def test_each_call_on_an_open_connection_says_what_happened_and_what_is_known(
    daemon: DaemonProcess, board: Client
) -> None:
    ref = await board.send("slow", "x")
    _stand_still(daemon, board)
    first, read, sent, keyed = await asyncio.gather(
        _said(board.wait([ref])),
        _said(board.list_sessions()),
        _said(board.send("api", "x")),
        _said(board.send("api", "x", key="k")),
    )
    stopped = f"the daemon (pid {daemon.pid}) is stopped and has not answered for "
    for said in (first, read, sent, keyed):
        assert said.startswith(stopped)
        assert f"let it go on with `kill -CONT {daemon.pid}`, " in said
        assert f"end it with `kill -KILL {daemon.pid}` (what it had accepted is kept" in said
        assert "`tollboard serve --take-over`" in said
    assert FATE not in read
    assert FATE not in first
    assert f" s: {FATE}; let it" in sent
    assert f" s: {FATE} (sent again with the same key, the prompt runs once); let it" in keyed


def _stand_still(daemon: DaemonProcess, board: Client) -> pulse.Pulse:
    """Stop it, and leave its client little time to find that out; return the pulse with more."""
    http, patient = board._connection._opened()
    daemon.freeze()
    board._connection._pulse = pulse.Pulse(http, silence_s=0.05, look_s=0.2)
    return patient


async def test_a_prompt_sent_again_with_its_key_runs_once(daemon: DaemonProcess, board: Client) -> None:
    patient = _stand_still(daemon, board)
    assert "same key" in await _said(board.send("api", "once", key="k", queue=True))
    daemon.signal(signal.SIGCONT)
    board._connection._pulse = patient
    ref = await board.send("api", "once", key="k", queue=True)
    await board.wait([ref])
    assert [entry.ref for entry in (await board.transcript("api")).entries] == [ref]


@pytest.mark.parametrize("verb", ["list_sessions", "send"])
async def test_a_call_goes_on_when_the_daemon_does(
    daemon: DaemonProcess, looked: asyncio.Queue[None], home: Path, verb: str
) -> None:
    async with Client.connect(home, start=False) as board:
        await board.start_session("api", path=home, backend="echo")
        daemon.freeze()
        work: Callable[..., Coroutine[Any, Any, Any]] = getattr(board, verb)
        calling = asyncio.create_task(work() if verb == "list_sessions" else work("api", "x"))
        await looked.get()
        assert not calling.done()
        daemon.signal(signal.SIGCONT)
        assert await calling


async def test_a_wait_without_a_limit_is_looked_into_and_never_cut(
    daemon: DaemonProcess, looked: asyncio.Queue[None], home: Path
) -> None:
    async with Client.connect(home, start=False) as board:
        await board.start_session("slow", path=home, backend="echo", delay=600)
        ref = await board.send("slow", "x")
        waits = [asyncio.create_task(board.wait([ref])) for _ in range(3)]
        inbox = asyncio.create_task(board.inbox(wait=600, limit=1))
        for _ in range(5):
            await looked.get()
        assert not any(one.done() for one in (*waits, inbox))
        await board.interrupt("slow", ref=ref)
        assert [(await one).done[0].receipt.ref for one in waits] == [ref] * 3
        await inbox


async def test_a_call_to_a_daemon_that_was_taken_over_from_ends(daemon: DaemonProcess, home: Path) -> None:
    """The other one answers every look, and knows nothing of the call."""
    clock = FakeClock()
    async with Client.connect(home, start=False) as board:
        http, _ = board._connection._opened()
        beating = board._connection._pulse = pulse.Pulse(http, silence_s=4, look_s=60, clock=clock)
        # Nothing is written meanwhile: whoever stands still in the middle of a write is killed.
        waiting = asyncio.create_task(_said(board.inbox(wait=600)))
        await board.list_sessions()
        while not beating._waiting:
            await asyncio.sleep(0)
        for line in http._idle:
            line.abort()  # as after a while
        http._idle.clear()
        daemon.freeze()
        with DaemonProcess(home, "--take-over") as other:
            clock.advance(4)
            said = await waiting
            assert said.startswith(
                f"the daemon (pid {daemon.pid}) has not answered for 4 s, and another (pid "
            )
            assert f"{other.pid}) has taken its place; that one answers" in said
            assert await board.list_sessions() == ()


@pytest.mark.usefixtures("hurried")
async def test_whoever_comes_finds_out_and_starts_no_second_one(daemon: DaemonProcess, home: Path) -> None:
    daemon.freeze()
    for start in (True, False):
        said = await _said(Client.connect(home, start=start)._client._open(start=start))
        assert said.startswith(
            f"the daemon (pid {daemon.pid}) is stopped and has not answered for 0.2 s, so nothing"
        )
    assert owner_pid(StateDirectory(home)) == daemon.pid


async def test_a_daemon_that_cannot_be_starting_is_given_less_time(
    daemon: DaemonProcess, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOOK_S", 0.125)
    assert may_be_starting(StateDirectory(home))
    pid, _, since = (home / "daemon.lock").read_text().partition(" ")
    (home / "daemon.lock").write_text(f"{pid} {float(since) - START_TIMEOUT_S}\n")
    daemon.freeze()
    assert "for 0.125 s" in await _said(Client.connect(home)._client._open(start=True))


async def test_a_daemon_that_hangs_without_being_stopped(
    home: Path, monkeypatch: pytest.MonkeyPatch, hurried: None
) -> None:
    monkeypatch.setattr(pulse, "is_stopped", lambda pid: False)
    with DaemonProcess(home) as daemon:
        daemon.freeze()
        said = await _said(Client.connect(home)._client._open(start=True))
        assert (
            f"it may be starting, see its log {str(home / 'daemon.log')!r}; if it hangs, end it with" in said
        )
        monkeypatch.setattr(pulse, "may_be_starting", lambda _: False)
        said = await _said(Client.connect(home)._client._open(start=True))
        assert f"; see its log {str(home / 'daemon.log')!r}; if it hangs, end it with" in said


async def test_shutdown_asks_nothing_of_it_and_it_goes_on(
    daemon: DaemonProcess, board: Client, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEALTH_TIMEOUT_S", 0.2)
    daemon.freeze()
    assert "kill -CONT" in await _said(board.shutdown())
    daemon.signal(signal.SIGCONT)
    monkeypatch.undo()
    assert len(await board.list_sessions()) == 2
