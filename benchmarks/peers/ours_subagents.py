"""Tollboard's sub-agents: without a memory, as the bare agent has none, and with one that keeps every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.pausing import INSTRUCTIONS, PROMPT, PausingPeer, Wanted, look, save
from benchmarks.peers.pydantic_ai_bare import model_of
from tollboard.runtime.approval import Approve
from tollboard.runtime.memory import DictMemory
from tollboard.subagents import Completed, Interrupted, SubAgent, SubAgentConfig, SubAgentServer


class SubAgentPeer(PausingPeer):
    """One server for all runs, as a program has; each run is started, executed, resumed and forgotten."""

    runs = frozenset({"w10", "w11"})

    async def setup(self) -> None:
        self.server = self.new_server()

    async def teardown(self) -> None:
        await self.server.close()

    def new_server(self) -> SubAgentServer:
        """Return a server."""
        return SubAgentServer()

    def prepare(self, script: Sequence[Wanted]) -> None:
        self.config = SubAgentConfig(
            name="kid",
            description="Does things.",
            system_prompt=INSTRUCTIONS,
            tools=(look, save),
            interrupt_on={"save": True},
            model=model_of(script),
        )

    async def run(self) -> str:
        id = await self.server.start(SubAgent(self.config, PROMPT))
        return await self._ended(id, await self.server.execute(id))

    async def pause(self) -> Any:
        id = await self.server.start(SubAgent(self.config, PROMPT))
        outcome = await self.server.execute(id)
        assert isinstance(outcome, Interrupted)
        return id, outcome.interrupt.requests

    async def resume(self, paused: Any) -> str:
        id, requests = paused
        return await self._ended(id, await self.server.resume(id, [Approve()] * len(requests)))

    async def _ended(self, id: str, outcome: object) -> str:
        assert isinstance(outcome, Completed)
        await self.server.stop(id)
        return outcome.result


class KeptPeer(SubAgentPeer):
    """The same with a memory: every response, every call and every outcome is written down before it is used."""

    runs = frozenset({"w10", "w11", "w12"})

    def new_server(self) -> SubAgentServer:
        self.memory = DictMemory()
        return SubAgentServer(memory=self.memory)

    async def keep(self, paused: Any) -> dict[str, bytes]:
        id, _ = paused
        await self.server.stop(id)
        return {name: text.encode() for name, text in (await self._forget(id)).items()}

    async def restore(self, kept: dict[str, bytes]) -> Any:
        self.memory.save({name: data.decode() for name, data in kept.items()})
        id = next(iter(kept)).partition(":")[0]
        await self.server.start(SubAgent(self.config, PROMPT, id=id))
        run = self.server.whereis(id)
        assert run is not None
        return id, run.interrupt().requests

    async def _ended(self, id: str, outcome: object) -> str:
        result = await super()._ended(id, outcome)
        await self._forget(id)  # else the memory would be longer for every run
        return result

    async def _forget(self, id: str) -> Mapping[str, str]:
        texts = await self.memory.load(f"{id}:")
        self.memory.save(dict.fromkeys(texts))
        return texts
