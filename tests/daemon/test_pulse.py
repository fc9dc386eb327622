"""Calls that are silent: when it is looked whether the daemon lives, and what is found; quick calls pay nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tollboard.daemon.config import StateDirectory
from tollboard.daemon.pulse import KEYED, UNSURE, Pulse, fate, frozen
from tollboard.daemon.transport import Answer, SocketTransport, Unanswered
from tollboard.operations.catalogue import OPERATIONS
from tollboard.testing.clock import FakeClock

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CALL, LOOK = "/v1/wait", "/v1/health"
SILENCE_S, AT_ONCE_S, PATIENT_S = 4.0, 0.02, 60.0


class Daemon:
    """Accepts, hears, and answers only what it is told to."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self.connections = 0
        self.writers: dict[str, asyncio.StreamWriter] = {}
        self.answers: set[str] = set()
        self._news = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                self.writers[path] = writer
                if path in self.answers:
                    writer.write(OK)
                async with self._news:
                    self.heard[path] += 1
                    self._news.notify_all()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def hears(self, path: str, times: int = 1) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self.heard[path] >= times)

    def answer(self, path: str = CALL, content: bytes = OK) -> None:
        self.writers[path].write(content)


@pytest.fixture
async def daemon(home: Path) -> AsyncIterator[Daemon]:
    made = Daemon()
    async with await asyncio.start_unix_server(made.serve, home / "daemon.sock"):
        yield made
        for writer in made.writers.values():
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def http(home: Path) -> AsyncIterator[SocketTransport]:
    transport = SocketTransport(str(home / "daemon.sock"), {})
    yield transport
    await transport.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def watched(http: SocketTransport, clock: FakeClock, look_s: float) -> Pulse:
    return Pulse(http, silence_s=SILENCE_S, look_s=look_s, clock=clock)


def call(http: SocketTransport, pulse: Pulse) -> asyncio.Task[Answer]:
    return asyncio.create_task(http.request("POST", CALL, watch=pulse))


async def test_quick_calls_share_one_timer_and_are_never_looked_into(
    daemon: Daemon, http: SocketTransport, clock: FakeClock
) -> None:
    daemon.answers.add(CALL)
    pulse = watched(http, clock, AT_ONCE_S)
    for _ in range(50):
        await call(http, pulse)
        clock.advance(SILENCE_S / 60)
    assert clock.waiting == 1
    clock.advance(SILENCE_S)
    assert clock.waiting == 0  # who calls nothing is left alone
    assert daemon.heard == {CALL: 50}


async def test_a_long_call_is_looked_into_at_each_silence_and_goes_on(
    daemon: Daemon, http: SocketTransport, clock: FakeClock
) -> None:
    daemon.answers.add(LOOK)
    pulse = watched(http, clock, PATIENT_S)
    waiting = call(http, pulse)
    await daemon.hears(CALL)
    clock.advance(SILENCE_S - 0.1)
    assert daemon.heard[LOOK] == 0
    clock.advance(0.1)
    for times in range(1, 4):
        await daemon.hears(LOOK, times)
        while not clock.waiting:
            await asyncio.sleep(0)  # until the look's answer has come, and it waits again
        assert daemon.heard[LOOK] == times
        clock.advance(SILENCE_S)
    await daemon.hears(LOOK, 4)
    daemon.answer()
    assert (await waiting).content == b"ok"
    assert daemon.connections == 2  # the looks took one, time and again


async def test_each_piece_of_an_answer_ends_a_silence(
    daemon: Daemon, http: SocketTransport, clock: FakeClock
) -> None:
    pulse = watched(http, clock, AT_ONCE_S)
    waiting = call(http, pulse)
    await daemon.hears(CALL)
    clock.advance(SILENCE_S - 0.1)
    daemon.answer(content=OK[:-2])
    while not (line := next(iter(http._used)))._begun or not pulse._waiting:
        await asyncio.sleep(0)
    clock.advance(SILENCE_S - 0.1)
    assert line in pulse._waiting
    assert daemon.heard[LOOK] == 0
    daemon.answer(content=b"ok")
    assert (await waiting).content == b"ok"


async def test_a_daemon_that_answers_nothing_is_given_up(
    daemon: Daemon, http: SocketTransport, clock: FakeClock
) -> None:
    pulse = watched(http, clock, AT_ONCE_S)
    waiting = [call(http, pulse) for _ in range(20)]
    await daemon.hears(CALL, 20)
    clock.advance(SILENCE_S)
    await daemon.hears(LOOK)
    clock.advance(10)
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, Unanswered) and one.silent_s == SILENCE_S + 10 for one in found), found
    assert daemon.heard[LOOK] == 1  # one look is enough for all who wait for the same
    assert clock.waiting == 0


async def test_who_falls_silent_later_has_it_looked_anew(
    daemon: Daemon, http: SocketTransport, clock: FakeClock
) -> None:
    pulse = watched(http, clock, AT_ONCE_S)
    for times in (1, 2):
        waiting = call(http, pulse)
        await daemon.hears(CALL, times)
        clock.advance(SILENCE_S)
        with pytest.raises(Unanswered):
            await waiting
        assert daemon.heard[LOOK] == times


async def test_an_answer_that_comes_while_it_is_looked_counts(
    daemon: Daemon, http: SocketTransport, clock: FakeClock
) -> None:
    """A daemon with too many open files accepts nobody, and answers all the same who is there."""
    waiting = call(http, watched(http, clock, 0.1))
    await daemon.hears(CALL)
    clock.advance(SILENCE_S)
    await daemon.hears(LOOK)
    daemon.answer()
    assert (await waiting).content == b"ok"


async def test_nobody_to_be_looked_at_proves_nothing(
    daemon: Daemon, http: SocketTransport, clock: FakeClock, home: Path
) -> None:
    """A daemon that is about to end listens no more, and answers what is under way."""
    pulse = watched(http, clock, AT_ONCE_S)
    waiting = call(http, pulse)
    await daemon.hears(CALL)
    (home / "daemon.sock").unlink()
    clock.advance(SILENCE_S)
    while not clock.waiting:
        await asyncio.sleep(0)
    assert not waiting.done()
    daemon.answer()
    assert (await waiting).content == b"ok"


async def test_a_connection_that_ends_while_it_is_looked_is_what_is_told(
    daemon: Daemon, http: SocketTransport, clock: FakeClock
) -> None:
    waiting = call(http, watched(http, clock, PATIENT_S))
    await daemon.hears(CALL)
    clock.advance(SILENCE_S)
    await daemon.hears(LOOK)
    for path in (CALL, LOOK):
        daemon.writers[path].close()
    with pytest.raises(ConnectionError):
        await waiting


async def test_who_leaves_in_the_middle_of_a_look_leaves_it_to_the_next(
    daemon: Daemon, http: SocketTransport, clock: FakeClock
) -> None:
    pulse = watched(http, clock, PATIENT_S)
    first, second = call(http, pulse), call(http, pulse)
    await daemon.hears(CALL, 2)
    clock.advance(SILENCE_S)
    await daemon.hears(LOOK)
    daemon.answers.add(LOOK)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    await daemon.hears(LOOK, 2)
    while not clock.waiting:
        await asyncio.sleep(0)
    assert not second.done()
    await http.close()
    with pytest.raises(ConnectionError):
        await second


async def test_closing_sets_the_timer_off(daemon: Daemon, http: SocketTransport, clock: FakeClock) -> None:
    daemon.answers.add(CALL)
    pulse = watched(http, clock, AT_ONCE_S)
    await call(http, pulse)
    pulse.close()
    pulse.close()
    assert clock.waiting == 0


@pytest.mark.parametrize(
    ("operation", "given", "known"),
    [
        ("list_sessions", {}, ""),
        ("wait", {"refs": ["x"]}, ""),
        ("inbox", {}, ""),
        ("inbox", {"ack": True}, UNSURE),
        ("interrupt", {"name": "api"}, UNSURE),
        ("send", {"name": "api", "prompt": "x"}, UNSURE),
        ("send", {"name": "api", "prompt": "x", "key": "k"}, KEYED),
    ],
)
def test_what_is_known_of_a_call(operation: str, given: dict[str, object], known: str) -> None:
    assert fate(OPERATIONS[operation], given) == known


def test_nobody_knows_the_process(home: Path) -> None:
    said = str(frozen(StateDirectory(home), Unanswered(14.0), UNSURE))
    assert said.startswith(
        "the daemon (pid unknown) has not answered for 14 s: what was asked may have been done, "
    )
    assert "end that process (what it had accepted is kept" in said
    assert "--take-over" in said
    assert "nothing was asked of it; " in str(
        frozen(StateDirectory(home), Unanswered(10.0, asked=False), UNSURE)
    )
