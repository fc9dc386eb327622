"""Tollboard's runtime, through its public verbs, by name. Nothing is switched off for the occasion."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from benchmarks.peers.base import Latch, Peer, entry
from tollboard.runtime.agent import GenAgent
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import Event, ResultEvent, TextEvent, Usage
from tollboard.runtime.response import Response
from tollboard.runtime.runtime import Runtime

_USAGE = Usage(input_tokens=1, output_tokens=1)


class ZeroBackend(Backend[None]):
    """One text and one result event, at once."""

    name = "zero"

    async def start_session(self, options: Mapping[str, object]) -> None:
        return None

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> None:
        return None

    async def prompt(self, session: None, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
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


class OursPeer(Peer):
    """The runtime without a store."""

    runs = frozenset({"w1", "w2", "w3-10k", "w3-100k", "w7", "w9"})

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
