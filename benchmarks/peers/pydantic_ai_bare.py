"""Pydantic AI alone: `Agent.run` and deferred tools. It keeps nothing itself; its user writes two texts down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelMessagesTypeAdapter,
    Tool,
)
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from benchmarks.peers.pausing import DONE, INSTRUCTIONS, PATH, PROMPT, PausingPeer, Wanted, look, save

REQUESTS = TypeAdapter(DeferredToolRequests)


def model_of(script: Sequence[Wanted]) -> FunctionModel:
    """Return a model without latency that plays the script; ours and the bare agent have the same."""

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        step = sum(isinstance(message, ModelResponse) for message in messages)
        if step >= len(script):
            return ModelResponse(parts=[TextPart(DONE)])
        return ModelResponse(parts=[ToolCallPart(tool, {"path": PATH}, id) for tool, id in script[step]])

    return FunctionModel(answer)


class PydanticAiPeer(PausingPeer):
    """The reference of W10 to W12."""

    runs = frozenset({"w10", "w11", "w12"})
    agent: Callable[..., Any]

    def prepare(self, script: Sequence[Wanted]) -> None:
        self.agent = Agent(
            model_of(script),
            instructions=INSTRUCTIONS,
            output_type=[str, DeferredToolRequests],
            tools=[look, Tool(save, requires_approval=True)],
        ).run

    async def run(self) -> str:
        return str((await self.agent(PROMPT)).output)

    async def pause(self) -> Any:
        result = await self.agent(PROMPT)
        assert isinstance(result.output, DeferredToolRequests)
        return result.all_messages(), result.output

    async def resume(self, paused: Any) -> str:
        messages, requests = paused
        approved = DeferredToolResults(approvals={call.tool_call_id: True for call in requests.approvals})
        result = await self.agent(message_history=messages, deferred_tool_results=approved)
        return str(result.output)

    async def keep(self, paused: Any) -> dict[str, bytes]:
        messages, requests = paused
        return {
            "messages": ModelMessagesTypeAdapter.dump_json(messages),
            "requests": REQUESTS.dump_json(requests),
        }

    async def restore(self, kept: dict[str, bytes]) -> Any:
        messages = ModelMessagesTypeAdapter.validate_json(kept["messages"])
        return messages, REQUESTS.validate_json(kept["requests"])
