"""OpenAI Agents SDK: `needs_approval`, and its RunState as JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents import Agent, ModelResponse, Runner, RunState, Usage, function_tool, set_tracing_disabled
from agents.models.interface import Model
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from benchmarks.peers.pausing import DONE, INSTRUCTIONS, PATH, PROMPT, PausingPeer, Wanted, look, save


class Script(Model):
    """A model without latency that plays the script."""

    def __init__(self, script: Sequence[Wanted]) -> None:
        self.script = script

    async def get_response(
        self, system_instructions: str | None, input: Any, *_: object, **more: object
    ) -> ModelResponse:
        answered = set() if isinstance(input, str) else {item.get("call_id") for item in input}
        for calls in self.script:
            if not all(id in answered for _, id in calls):
                return _response([_call(tool, id) for tool, id in calls])
        return _response([_message(DONE)])

    def stream_response(self, *_: Any, **more: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


def _response(output: list[Any]) -> ModelResponse:
    return ModelResponse(output=output, usage=Usage(requests=1), response_id=None)


def _call(tool: str, id: str) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        id=f"fc-{id}", call_id=id, type="function_call", name=tool, arguments=json.dumps({"path": PATH})
    )


def _message(text: str) -> ResponseOutputMessage:
    part = ResponseOutputText(text=text, type="output_text", annotations=[])
    return ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[part])


class OpenAiAgentsPeer(PausingPeer):
    """Tracing is off, as for everybody else."""

    runs = frozenset({"w10", "w11", "w12"})

    async def setup(self) -> None:
        set_tracing_disabled(True)

    def prepare(self, script: Sequence[Wanted]) -> None:
        tools = [function_tool(look), function_tool(save, needs_approval=True)]
        self.agent: Agent[Any] = Agent(
            name="kid", instructions=INSTRUCTIONS, tools=tools, model=Script(script)
        )

    async def run(self) -> str:
        return str((await Runner.run(self.agent, PROMPT, max_turns=50)).final_output)

    async def pause(self) -> Any:
        result = await Runner.run(self.agent, PROMPT, max_turns=50)
        assert result.interruptions
        return result.to_state()

    async def resume(self, paused: Any) -> str:
        for item in paused.get_interruptions():
            paused.approve(item)
        return str((await Runner.run(self.agent, paused, max_turns=50)).final_output)

    async def keep(self, paused: Any) -> dict[str, bytes]:
        return {"state": paused.to_string().encode()}

    async def restore(self, kept: dict[str, bytes]) -> Any:
        return await RunState.from_string(self.agent, kept["state"].decode())
