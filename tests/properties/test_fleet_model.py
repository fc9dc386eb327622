"""The Switchboard against a plain model: whatever managers do in whatever order, and however often it is killed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fleet.world import Fleet
from tollboard.errors import NotCancellable, SessionBusy, SessionHalted
from tollboard.fleet.records import PollPending

NAMES = ("a", "b")
VERBS = (
    "send", "send", "queue", "queue", "queue", "keyed", "interrupt", "halt", "resume", "cancel", "ack", "ack_back",
    "halt_all", "resume_all", "finish", "finish", "kill", "restart", "stop",
)  # fmt: skip
STEPS = st.lists(st.tuples(st.sampled_from(VERBS), st.sampled_from(NAMES), st.integers(0, 5)), max_size=40)


class Session:
    """What one session must be like."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.running: str | None = None
        self.queue: list[str] = []
        self.halted = False
        self.history: list[tuple[str, str]] = []
        self.cursor = 0
        self.keys: dict[int, str] = {}
        self.answered: dict[str, str] = {}
        """Outcomes of those that never became a turn."""


class World:
    """A fleet, and the model beside it. Turns end only when the model says so: the backend waits at its gate."""

    def __init__(self, directory: Path) -> None:
        self.fleet = Fleet(directory)
        self.sessions: dict[str, Session] = {}
        self.stopped: list[Session] = []
        self.ran: list[str] = []
        self.count = 0

    async def begin(self) -> None:
        await self.fleet.open()
        for name in NAMES:
            await self.start(name)

    async def start(self, name: str) -> None:
        self.sessions[name] = Session(await self.fleet.start(name, backend="gated"))

    def prompt(self) -> str:
        self.count += 1
        return f"p{self.count}"

    # -- what the managers do

    async def send(self, name: str, n: int) -> None:
        model = self.sessions[name]
        try:
            ref = await self.fleet.board.send(name, self.prompt())
        except SessionHalted:
            assert model.halted
        except SessionBusy:
            assert not model.halted
            assert model.running or model.queue
        else:
            assert (model.halted, model.running, model.queue) == (False, None, [])
            model.queue.append(ref)

    async def queue(self, name: str, n: int) -> None:
        self.sessions[name].queue.append(await self.fleet.board.send(name, self.prompt(), queue=True))

    async def keyed(self, name: str, n: int) -> None:
        model = self.sessions[name]
        ref = await self.fleet.board.send(name, f"key {n}", queue=True, key=str(n))
        if n in model.keys:
            assert ref == model.keys[n]
        else:
            model.keys[n] = ref
            model.queue.append(ref)

    async def interrupt(self, name: str, n: int) -> None:
        model = self.sessions[name]
        done = await self.fleet.board.interrupt(name)
        assert done.acted == (model.running is not None)
        if model.running is not None:
            assert done.ref == model.running
            self.end(model, "interrupted")

    async def finish(self, name: str, n: int) -> None:
        """Let the turn in flight end."""
        model = self.sessions[name]
        if model.running is not None:
            ref = model.running
            self.fleet.gated.let_go(ref)
            await self.fleet.done(ref)
            self.end(model, "ok")

    async def cancel(self, name: str, n: int) -> None:
        model = self.sessions[name]
        if not model.queue:
            if model.running is not None:
                try:
                    await self.fleet.board.cancel(name, model.running)
                except NotCancellable:
                    return
                raise AssertionError("a turn in flight was cancelled")
            return
        ref = model.queue.pop(n % len(model.queue))
        await self.fleet.board.cancel(name, ref)
        model.answered[ref] = "cancelled"

    async def halt(self, name: str, n: int) -> None:
        report = await self.fleet.board.halt(name)
        assert (name in report.sessions) == (not self.sessions[name].halted)
        assert [held.ref for held in report.held] == self.sessions[name].queue
        self.sessions[name].halted = True

    async def resume(self, name: str, n: int) -> None:
        report = await self.fleet.board.resume(name)
        assert (name in report.sessions) == self.sessions[name].halted
        self.sessions[name].halted = False

    async def halt_all(self, name: str, n: int) -> None:
        await self.fleet.board.halt(all=True)
        for model in self.sessions.values():
            model.halted = True

    async def resume_all(self, name: str, n: int) -> None:
        await self.fleet.board.resume(all=True)
        for model in self.sessions.values():
            model.halted = False

    async def ack(self, name: str, n: int) -> None:
        model = self.sessions[name]
        inbox = await self.fleet.board.inbox(name, ack=True, limit=n + 1)
        shown = model.history[model.cursor : model.cursor + n + 1]
        assert [entry.ref for entry in inbox.entries] == [ref for ref, _ in shown]
        assert inbox.more == (len(model.history) > model.cursor + n + 1)
        model.cursor += len(shown)

    async def ack_back(self, name: str, n: int) -> None:
        model = self.sessions[name]
        seq = min(n, len(model.history))
        part = await self.fleet.board.ack(name, seq)
        assert (part.cursor, part.acked, part.unread) == (model.cursor, seq, len(model.history) - seq)
        model.cursor = seq

    async def stop(self, name: str, n: int) -> None:
        model = self.sessions.pop(name)
        expected = [*([model.running] if model.running else []), *model.queue]
        report = await self.fleet.board.stop_session(name)
        assert list(report.failed) == expected
        if model.running is not None:
            self.end(model, "failed")
        model.answered.update(dict.fromkeys(model.queue, "stopped"))
        model.queue = []
        self.stopped.append(model)
        await self.start(name)

    async def kill(self, name: str, n: int) -> None:
        await self.again(self.fleet.kill)

    async def restart(self, name: str, n: int) -> None:
        await self.again(self.fleet.restart)

    async def again(self, how: Callable[[], Awaitable[object]]) -> None:
        self.ran += self.fleet.gated.prompts
        for model in self.sessions.values():
            if model.running is not None:
                self.end(model, "interrupted")
        await how()

    # -- what must hold

    def end(self, model: Session, status: str) -> None:
        assert model.running is not None
        model.history.append((model.running, status))
        model.running = None

    async def settle(self) -> None:
        """Let the next turn of each session begin, in the model and in the fleet."""
        for name, model in self.sessions.items():
            if model.running is None and model.queue and not model.halted:
                model.running = model.queue.pop(0)
            if model.running is not None:
                await self.fleet.gated.reached(model.running)
            status = await self.fleet.board.status(name)
            assert (status.in_flight, status.queued, status.halted) == (
                model.running,
                len(model.queue),
                model.halted,
            )
            assert status.turns == len(model.history)

    async def check(self) -> None:
        board = self.fleet.board
        for model in [*self.sessions.values(), *self.stopped]:
            entries = (await board.transcript(model.id)).entries
            assert [(e.ref, e.status.value) for e in entries] == model.history
            assert [e.seq for e in entries] == list(range(1, len(entries) + 1))
            for ref, _ in model.history:
                assert not isinstance(await board.poll(model.id, ref), PollPending)
            for ref, outcome in model.answered.items():
                assert (await board.poll(model.id, ref)).receipt.outcome == outcome
            for position, ref in enumerate(model.queue, 1):
                assert (await board.poll(model.id, ref)).receipt.position == position
            unread = [entry.ref for entry in (await board.inbox(model.id, limit=200)).entries]
            assert unread == [ref for ref, _ in model.history[model.cursor :]]
        ran = self.ran + self.fleet.gated.prompts
        started = sum(
            len(m.history) + (m.running is not None) for m in [*self.sessions.values(), *self.stopped]
        )
        assert len(ran) == started, "nothing ran twice, and nothing was said to have run that did not"


async def _play(steps: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        await world.begin()
        try:
            async with asyncio.timeout(60):
                for verb, name, n in steps:
                    await getattr(world, verb)(name, n)
                    await world.settle()
                await world.check()
        finally:
            await world.fleet.close()


@given(STEPS)
def test_s03_s12_s21_s23_the_fleet_does_what_a_plain_model_does(steps: list[tuple[str, str, int]]) -> None:
    asyncio.run(_play(steps))
