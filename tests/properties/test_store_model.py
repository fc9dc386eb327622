"""The ledger against a plain model: whatever happens in whatever order, histories have no gaps and outcomes are one."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.store.samples import ManualClock, completed, failed, request, started_session
from tollboard.errors import StoreUnavailable
from tollboard.fleet.records import RequestState
from tollboard.runtime.request import Request
from tollboard.runtime.results import Failed, Reason
from tollboard.store.journal import StoreJournal
from tollboard.store.store import Store
from tollboard.store.write import Write

SESSIONS = 3
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["accept", "accept", "start", "finish", "fail", "withdraw", "crash", "restart", "breakage"]
        ),
        st.integers(0, SESSIONS - 1),
        st.booleans(),
    ),
    max_size=60,
)


class Model:
    """What must be in the store: per session the queue, the request in flight, and the history."""

    def __init__(self) -> None:
        self.queues: list[list[Request]] = [[] for _ in range(SESSIONS)]
        self.running: list[Request | None] = [None] * SESSIONS
        self.history: list[list[str]] = [[] for _ in range(SESSIONS)]
        self.outcomes: dict[str, str] = {}
        self.accepted: list[str] = []


class World:
    """The store, and the model beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = Model()
        self.clock = ManualClock()
        self.broken = False
        """Whether the next write meets a disk that cannot be written; after that one it can."""

    async def begin(self) -> None:
        self.store = await Store.open(self.path, clock=self.clock)
        self.sessions = [await started_session(self.store) for _ in range(SESSIONS)]
        self.journals: list[StoreJournal] = [journal for _, journal in self.sessions]

    async def accept(self, n: int, wait: bool) -> None:
        made = request("p")
        made.commit = commit = self.journals[n].accepted(made)
        if await self.succeeds(commit, wait):
            self.model.queues[n].append(made)
            self.model.accepted.append(made.ref)

    async def succeeds(self, commit: Write, wait: bool) -> bool:
        if self.broken:
            self.broken = False
            with pytest.raises(StoreUnavailable):
                await commit
            return False
        if wait:
            await commit
        return True

    async def start(self, n: int, wait: bool) -> None:
        model = self.model
        if model.running[n] is not None or not model.queues[n]:
            return
        made = model.queues[n].pop(0)
        made.attempt, made.started_at = 1, 11.0
        if await self.succeeds(self.journals[n].started(made), wait):
            model.running[n] = made
        else:
            await self.end(n, made, "store_failed", Failed(Reason.STORE_FAILED), wait)

    async def finish(self, n: int, wait: bool) -> None:
        made, self.model.running[n] = self.model.running[n], None
        if made is not None:
            self.model.history[n].append(made.ref)
            await self.end(n, made, "completed", completed("t"), wait)

    async def fail(self, n: int, wait: bool) -> None:
        made, self.model.running[n] = self.model.running[n], None
        if made is not None:
            self.model.history[n].append(made.ref)
            await self.end(n, made, "backend_error", failed(), wait)

    async def withdraw(self, n: int, wait: bool) -> None:
        if self.model.queues[n]:
            made = self.model.queues[n].pop()
            await self.end(n, made, "cancelled", Failed(Reason.CANCELLED), wait)

    async def end(self, n: int, made: Request, outcome: str, value: object, wait: bool) -> None:
        commit = self.journals[n].finished(made, value, 1.0)  # type: ignore[arg-type]
        assert commit is not None
        self.model.outcomes[made.ref] = outcome
        if self.broken:
            self.broken = False
            await self.clock.waiting()
            self.clock.advance(1.0)
            wait = True
        if wait:
            await commit

    async def breakage(self, n: int, wait: bool) -> None:
        if not self.broken:
            await self.settle()
            await self.store._writer.submit(Write("PRAGMA query_only = 1"))
            self.broken = True

    async def settle(self) -> None:
        try:
            await self.store.flush()
        except StoreUnavailable:
            await self.store.flush()  # that was an earlier breakage, which its own caller has seen

    async def reopen(self, *, cleanly: bool) -> None:
        await self.settle()
        self.broken = False
        old = self.store
        if cleanly:
            await old.close()
        self.store = await Store.open(self.path, clock=self.clock, take_over=True)
        if not cleanly:
            await old.close()
        await self.recover()

    async def recover(self) -> None:
        """Do what the fleet does at its start, then compare."""
        left = await self.store.unfinished()
        for found in left:
            if found.receipt.state is RequestState.STARTED:
                n = next(i for i, (record, _) in enumerate(self.sessions) if record.id == found.session_id)
                running = self.model.running[n]
                assert running is not None
                assert running.ref == found.ref
                self.model.running[n] = None
                self.model.history[n].append(found.ref)
                self.model.outcomes[found.ref] = "interrupted"
                seq = await self.store.history_size(found.session_id) + 1
                await self.store.mark_interrupted(found, seq=seq, at=12.0, detail="crash")
        records = {record.id: record for record in await self.store.sessions()}
        self.journals = [self.store.journal(records[record.id]) for record, _ in self.sessions]

    async def check(self) -> None:
        await self.settle()
        model = self.model
        for n, (record, _) in enumerate(self.sessions):
            history = await self.store.history(record.id, limit=1_000)
            assert [e.ref for e in history] == model.history[n]
            assert [e.seq for e in history] == list(range(1, len(history) + 1))
            assert self.journals[n].turns == len(history)
        found = await self.store.requests(model.accepted)
        assert [r.ref for r in found] == model.accepted
        assert {r.ref: r.receipt.outcome for r in found if r.receipt.outcome} == model.outcomes
        unfinished = [r.ref for r in await self.store.unfinished()]
        assert unfinished == [ref for ref in model.accepted if ref not in model.outcomes]
        for n, (record, _) in enumerate(self.sessions):
            queued = [r.ref for r in await self.store.unfinished() if r.session_id == record.id]
            running = model.running[n]
            assert queued == ([running.ref] if running else []) + [r.ref for r in model.queues[n]]


async def _play(steps: list[tuple[str, int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory) / "t.db")
        await world.begin()
        for name, n, wait in steps:
            if name in ("crash", "restart"):
                await world.reopen(cleanly=name == "restart")
            else:
                await getattr(world, name)(n, wait)
        await world.check()
        await world.store.close()


@given(STEPS)
def test_s03_s11_s12_the_ledger_keeps_what_a_plain_model_keeps(steps: list[tuple[str, int, bool]]) -> None:
    asyncio.run(_play(steps))
