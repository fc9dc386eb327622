"""Tollboard's runtime on its real store: SQLite, one writer, group commit, synchronous=FULL.

`ours-durable`  what the product does: acceptance, start and outcome of every turn are on the disk before anyone relies
                on them. The client does not wait for each acceptance (a thousand clients would not either).
`ours-one-row`  one row per turn, when it ends, as the floor writes it: like for like.
`ours-writer`   the writer alone, fed with rows of the real table.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

from benchmarks.peers.base import Peer
from benchmarks.peers.floor_durable import scratch
from benchmarks.peers.ours import OursPeer, Session
from tollboard.fleet.records import Life, SessionRecord
from tollboard.ids import new_ref
from tollboard.runtime.journal import Journal, NullJournal
from tollboard.runtime.request import Request
from tollboard.runtime.results import Outcome
from tollboard.store.queries import ACCEPT
from tollboard.store.store import Store
from tollboard.store.write import Write
from tollboard.store.writer import Writer


async def open_store(directory: Any) -> Store:
    return await Store.open(directory / "tollboard.db")


def record(name: str) -> SessionRecord:
    return SessionRecord(new_ref(), name, "/", "zero", {}, Life.LIVE, False, time.time())


class DurablePeer(OursPeer):
    """Everything durable."""

    runs = frozenset({"w2", "w8-acked"})

    async def setup(self) -> None:
        await super().setup()
        self.directory = scratch()
        self.store = await open_store(self.directory)

    async def teardown(self) -> None:
        await super().teardown()
        await self.store.close()
        shutil.rmtree(self.directory)

    async def start_agents(self, n: int, history: int = 0) -> list[str]:
        self.started += 1
        names = [f"agent-{self.started}-{i}" for i in range(n)]
        for name in names:
            session = record(name)
            self.store.create_session(session)
            await self.runtime.start_agent(
                Session,
                name,
                backend=self.backend,
                journal=self.journal(session),
                history=history,
                latch=None,
            )
        await self.store.flush()
        return names

    def journal(self, session: SessionRecord) -> Journal:
        return self.store.journal(session)

    def tell(self, handle: Any, prompt: str) -> None:
        # Called when the outcome is resolved, which is after its commit.
        self.runtime.tell(handle, prompt, on_complete=self._ended)

    def _ended(self, ref: str, outcome: Outcome) -> None:
        self.latch.hit()

    async def acked_turn(self, handle: Any, prompt: str) -> None:
        machine = self.runtime.whereis(handle)
        assert machine is not None
        request = self.runtime.accept(machine, prompt)
        if request.commit is not None:
            await request.commit
        await self.runtime.wait(request.ref)


class OneRowJournal(NullJournal):
    """Writes a turn when it ends, once."""

    def __init__(self, writer: Writer, session_id: str) -> None:
        self.writer = writer
        self.session_id = session_id

    def finished(self, request: Request, outcome: Outcome, duration_s: float) -> Write:  # type: ignore[override]
        params = (
            request.ref, self.session_id, None, request.origin.value, request.prompt, request.accepted_at,
            request.attempt, request.started_at,
        )  # fmt: skip
        return self.writer.submit(Write(ACCEPT.sql, params), must=True)


class OneRowPeer(DurablePeer):
    """One row per turn."""

    runs = frozenset({"w2"})

    def journal(self, session: SessionRecord) -> Journal:
        return OneRowJournal(self.store._writer, session.id)


class WriterPeer(Peer):
    """The writer alone."""

    runs = frozenset({"w8-writer"})

    async def setup(self) -> None:
        self.directory = scratch()
        self.store = await open_store(self.directory)
        session = record("writer")
        await self.store.create_session(session)
        self.session_id = session.id

    async def teardown(self) -> None:
        await self.store.close()
        shutil.rmtree(self.directory)

    async def write(self, number: int) -> None:
        params = (f"{number:036}", self.session_id, None, "tell", "x" * 200, 1.5, 0, None)
        await self.store._writer.submit(Write(ACCEPT.sql, params))
