"""LangGraph: LangChain's `create_agent` with its middleware for approvals, and deepagents' `create_deep_agent`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("LANGSMITH_TRACING", "false")

from deepagents import create_deep_agent
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from benchmarks.peers.pausing import DONE, INSTRUCTIONS, PATH, PROMPT, PausingPeer, Wanted, look, save


class Script(BaseChatModel):
    """A model without latency that plays the script."""

    script: Any

    @property
    def _llm_type(self) -> str:
        return "script"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **_: Any,
    ) -> ChatResult:  # fmt: skip
        step = sum(isinstance(message, AIMessage) for message in messages)
        calls = self.script[step] if step < len(self.script) else ()
        answer = AIMessage(
            "" if calls else DONE,
            tool_calls=[{"name": tool, "args": {"path": PATH}, "id": id} for tool, id in calls],
        )
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None, **_: Any,
    ) -> ChatResult:  # fmt: skip
        return self._generate(messages)  # its own default would go to a thread


class LangGraphPeer(PausingPeer):
    """A checkpointer is what its interrupts need; without them there is none."""

    runs = frozenset({"w10", "w11", "w12"})

    async def setup(self) -> None:
        self.threads = 0

    def prepare(self, script: Sequence[Wanted]) -> None:
        guarded = any(tool == "save" for calls in script for tool, _ in calls)
        self.saver = InMemorySaver() if guarded else None
        self.graph = self.compile(Script(script=script))

    def compile(self, model: Script) -> Any:
        """Return the graph."""
        return create_agent(
            model,
            [look, save],
            system_prompt=INSTRUCTIONS,
            middleware=[HumanInTheLoopMiddleware(interrupt_on={"save": True})],
            checkpointer=self.saver,
        )

    async def run(self) -> str:
        self.threads += 1
        return str((await self.graph.ainvoke({"messages": [("user", PROMPT)]}))["messages"][-1].text)

    async def pause(self) -> Any:
        self.threads += 1
        config = {"configurable": {"thread_id": str(self.threads)}}
        result = await self.graph.ainvoke({"messages": [("user", PROMPT)]}, config)
        return config, len(result["__interrupt__"][0].value["action_requests"])

    async def resume(self, paused: Any) -> str:
        config, waiting = paused
        command = Command(resume={"decisions": [{"type": "approve"}] * waiting})
        result = await self.graph.ainvoke(command, config)
        await self.saver.adelete_thread(config["configurable"]["thread_id"])
        return str(result["messages"][-1].text)

    async def keep(self, paused: Any) -> dict[str, bytes]:
        """Its saver has every checkpoint of the thread as bytes already; they are taken out with their keys."""
        config, waiting = paused
        thread = config["configurable"]["thread_id"]
        kept = {"waiting": str(waiting).encode()}
        for ns, found in self.saver.storage[thread].items():
            for checkpoint, (state, metadata, parent) in found.items():
                kept |= _named(("s", thread, ns, checkpoint, parent), state, metadata)
        for (owner, *at), found in self.saver.writes.items():
            for key, (task, channel, value, path) in found.items() if owner == thread else ():
                kept |= _named(("w", thread, *at, *key, task, channel, path), value)
        for (owner, *at), value in self.saver.blobs.items():
            if owner == thread:
                kept |= _named(("b", thread, *at), value)
        await self.saver.adelete_thread(thread)
        return kept

    async def restore(self, kept: dict[str, bytes]) -> Any:
        saver = self.saver
        waiting = int(kept.pop("waiting"))
        for name, data in kept.items():
            kind, thread, *at, types = json.loads(name)
            values = [(type, data[begin:end]) for type, begin, end in types]
            if kind == "s":
                saver.storage[thread][at[0]][at[1]] = (*values, at[2])
            elif kind == "w":
                saver.writes[thread, *at[:2]][at[2], at[3]] = (at[4], at[5], values[0], at[6])
            else:
                saver.blobs[thread, *at] = values[0]
        return {"configurable": {"thread_id": thread}}, waiting


def _named(key: tuple[Any, ...], *values: tuple[str, bytes]) -> dict[str, bytes]:
    """Return serialised values under their key, with the type and the place of each."""
    types, end = [], 0
    for type, data in values:
        types.append((type, end, end := end + len(data)))
    return {json.dumps([*key, types]): b"".join(data for _, data in values)}


class DeepAgentsPeer(LangGraphPeer):
    """The same with all that a deep agent has: a todo list, a file system, sub-agents, summaries."""

    def compile(self, model: Script) -> Any:
        return create_deep_agent(
            model,
            [look, save],
            system_prompt=INSTRUCTIONS,
            interrupt_on={"save": True},
            checkpointer=self.saver,
        )
