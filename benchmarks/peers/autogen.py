"""AutoGen Core's SingleThreadedAgentRuntime. It has no mailbox per agent: two messages of one agent may overlap."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TopicId,
    TypeSubscription,
    message_handler,
)

from benchmarks.peers.base import Latch, Peer, ZeroBackend, consume, entry

for _name in ("autogen_core", "autogen_core.events"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass
class Prompt:
    text: str


@dataclass
class Reply:
    text: str


class Session(RoutedAgent):
    def __init__(self, latch: Latch) -> None:
        super().__init__("session")
        self.backend = ZeroBackend()
        self.history: list[Any] = []
        self.latch = latch

    @message_handler
    async def on_prompt(self, message: Prompt, ctx: MessageContext) -> Reply:
        r = await consume(self.backend, message.text)
        self.history.append(entry(len(self.history) + 1, ctx.message_id, r.text, r.usage, r.duration_ms))
        self.latch.hit()
        return Reply(r.text)


# The decorator reads the annotations at run time, by this module's names.
class AutogenPeer(Peer):
    """`ask` is send_message, `tell` is publish_message to the agent's topic."""

    runs = frozenset({"w1", "w2", "w3-10k", "w3-100k", "w4", "w6", "w9"})

    async def setup(self) -> None:
        self.runtime = SingleThreadedAgentRuntime()
        await Session.register(self.runtime, "session", lambda: Session(self.latch))
        await self.runtime.add_subscription(TypeSubscription("session", "session"))
        self.runtime.start()
        self.started = 0

    async def teardown(self) -> None:
        await self.runtime.stop()

    async def start_agents(self, n: int, history: int = 0) -> list[Any]:
        self.started += 1
        ids = [AgentId("session", f"a{self.started}-{i}") for i in range(n)]
        for agent in ids:  # AutoGen makes an agent at its first message otherwise
            await self.runtime.try_get_underlying_agent_instance(agent)
        return ids

    async def ask(self, handle: Any, prompt: str) -> object:
        return await self.runtime.send_message(Prompt(prompt), handle)

    def tell(self, handle: Any, prompt: str) -> Awaitable[object]:
        return self.runtime.publish_message(Prompt(prompt), TopicId("session", handle.key))

    async def wait_for_all(self, pool: Any) -> None:
        await self.runtime.stop_when_idle()
        self.runtime.start()
