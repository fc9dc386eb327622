"""Tollboard's runtime, through its public verbs, by name. Nothing is switched off for the occasion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from benchmarks.peers.base import SLEEP, Latch, Peer, entry, seconds_of
from tollboard.pool.pool import Pool
from tollboard.pool.records import Task
from tollboard.pool.worker import PoolWorker
from tollboard.runtime.agent import GenAgent
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import Event, ResultEvent, TextEvent, Usage
from tollboard.runtime.response import Response
from tollboard.runtime.runtime import Runtime

_USAGE = Usage(input_tokens=1, output_tokens=1)


class ZeroBackend(Backend[None]):
    """One text and one result event, at once."""

    name = "zero"
    remembers = False

    async def start_session(self, options: Mapping[str, object]) -> None:
        return None

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> None:
        return None

    async def prompt(self, session: None, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        if text.startswith(SLEEP):
            await asyncio.sleep(seconds_of(text))
        yield TextEvent(text)
        yield ResultEvent(text, _USAGE)

    async def terminate_session(self, session: None) -> ProcessReport:
        return NO_PROCESSES


class Session(GenAgent):
    """Appends one history entry per turn."""

    __slots__ = ("history", "latch", "seq")

    def init_agent(self, *, history: int, latch: Latch | None) -> None:
        self.history: list[Any] = [{"seq": i} for i in range(history)]
        self.seq = history
        self.latch = latch

    def handle_response(self, ref: str, response: Response) -> None:
        self.seq += 1
        self.history.append(entry(self.seq, ref, response.text, response.usage, response.duration_s * 1e3))
        if self.latch is not None:
            self.latch.hit()


class Worker(PoolWorker):
    """Does what `Session` does, in a pool."""

    __slots__ = ("history", "latch", "seq")

    def init_agent(self, **options: object) -> Mapping[str, object]:
        self.history: list[Any] = []
        self.seq = 0
        self.latch = options.pop("latch")
        return super().init_agent(**options)

    def handle_response(self, ref: str, response: Response) -> None:
        self.seq += 1
        self.history.append(entry(self.seq, ref, response.text, response.usage, response.duration_s * 1e3))
        self.latch.hit()  # type: ignore[attr-defined] # a Latch


class OursPeer(Peer):
    """The runtime and the pool, without a store."""

    runs = frozenset({"w1", "w2", "w3-10k", "w3-100k", "w4", "w5", "w6", "w7", "w9"})
    strategies = ("round_robin", "least_loaded", "shared_queue", "longest_first")

    async def setup(self) -> None:
        self.runtime = Runtime()
        self.backend = ZeroBackend()
        self.started = 0

    async def teardown(self) -> None:
        await self.runtime.close()

    async def start_agents(self, n: int, history: int = 0) -> list[str]:
        self.started += 1
        names = [f"agent-{self.started}-{i}" for i in range(n)]
        for name in names:
            await self.runtime.start_agent(
                Session, name, backend=self.backend, history=history, latch=self.latch
            )
        return names

    async def stop_agents(self, handles: list[Any]) -> None:
        for name in handles:
            await self.runtime.stop(name)

    async def ask(self, handle: Any, prompt: str) -> object:
        return await self.runtime.ask(handle, prompt)

    def tell(self, handle: Any, prompt: str) -> None:
        self.runtime.tell(handle, prompt)

    async def status(self, handle: Any) -> object:
        status = self.runtime.status(handle)
        history = status.agent.history  # type: ignore[union-attr] # it is a Session
        return {"entries": len(history), "newest": history[-10:], "phase": status.phase}

    async def start_pool(self, workers: int, strategy: str = "round_robin") -> Pool:
        return await Pool.start(
            workers,
            backend=self.backend,
            strategy=strategy,
            worker=Worker,
            latch=self.latch,
            max_queued=50_000,
        )

    async def submit_all(self, pool: Pool, prompts: list[str], hints: list[float] | None = None) -> None:
        if hints is None:
            await pool.submit_many(prompts)
        else:
            await pool.submit_many(Task(p, hint_s=h) for p, h in zip(prompts, hints, strict=True))

    async def wait_for_all(self, pool: Pool) -> None:
        await pool.wait_for_all()

    async def stop_pool(self, pool: Pool) -> None:
        await pool.stop()
