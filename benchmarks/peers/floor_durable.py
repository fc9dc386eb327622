"""The least that durability costs: one row per turn in a plain table, one thread that commits what has gathered."""

from __future__ import annotations

import asyncio
import queue
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Latch, Peer
from benchmarks.peers.floor import ProtoPeer

RESULTS = Path(__file__).resolve().parents[1] / "results"
"""On the checkout's own disk: a temporary directory is often in memory, where a flush costs nothing."""

MAX_GROUP = 512
_TABLE = """create table turns(id integer primary key, agent text, seq integer, status text, text text, usage text,
 duration_ms real, completed_at integer)"""
_INSERT = "insert into turns(agent,seq,status,text,usage,duration_ms,completed_at) values(?,?,?,?,?,?,?)"
_ROW = ("agent-1", 1, "ok", "x" * 200, '{"input_tokens":1,"output_tokens":1}', 1.5, 1_700_000_000_000)


def scratch() -> Path:
    """Return a new directory for a database."""
    RESULTS.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(dir=RESULTS, prefix="scratch-"))


class RawWriter:
    """A thread that inserts rows with synchronous=FULL and calls back on the loop after each commit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def put(self, done: Callable[[], None]) -> None:
        self.queue.put(done)

    def close(self) -> None:
        self.queue.put(None)
        self.thread.join()

    def settle(self, batch: list[Callable[[], None]]) -> None:
        for done in batch:
            done()

    def run(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        connection.execute(_TABLE)
        while (first := self.queue.get()) is not None:
            batch = [first]
            while len(batch) < MAX_GROUP and not self.queue.empty():
                following = self.queue.get()
                if following is None:
                    self.queue.put(None)
                    break
                batch.append(following)
            connection.execute("begin")
            connection.executemany(_INSERT, [_ROW] * len(batch))
            connection.execute("commit")
            self.loop.call_soon_threadsafe(self.settle, batch)
        connection.close()


class DurableLatch(Latch):
    """Hit when a turn ends; counts it when its row is on the disk."""

    def __init__(self, inner: Latch, writer: RawWriter) -> None:
        super().__init__()
        self.inner = inner
        self.writer = writer

    def hit(self) -> None:
        self.writer.put(self.inner.hit)


class DurablePeer(ProtoPeer):
    """The floor, every turn durable. It only writes how turns end, never that they were accepted or began."""

    runs = frozenset({"w2", "w8-acked"})

    async def setup(self) -> None:
        self.directory = scratch()
        self.writer = RawWriter(self.directory / "raw.db")
        self.durable = DurableLatch(self.latch, self.writer)

    async def teardown(self) -> None:
        self.writer.close()
        shutil.rmtree(self.directory)

    async def start_agents(self, n: int, history: int = 0) -> list[Any]:
        agents = await super().start_agents(n, history)
        for agent in agents:
            agent.latch = self.durable
        return agents

    async def acked_turn(self, handle: Any, prompt: str) -> None:
        self.latch.arm(1, self.new_signal())
        handle.submit(prompt, False)
        await self.latch.signal


class RawWriterPeer(Peer):
    """The writer alone."""

    runs = frozenset({"w8-writer"})

    async def setup(self) -> None:
        self.directory = scratch()
        self.writer = RawWriter(self.directory / "raw.db")

    async def teardown(self) -> None:
        self.writer.close()
        shutil.rmtree(self.directory)

    async def write(self, number: int) -> None:
        future = asyncio.get_running_loop().create_future()
        self.writer.put(lambda: future.set_result(None))
        await future
