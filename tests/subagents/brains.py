"""Models for tests: they play a list of answers, one for each time they are asked in a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

Answer = str | ModelResponse | Exception | Callable[[list[ModelMessage]], Awaitable["Answer"]]


def calls(*wanted: tuple[str, dict[str, Any], str], text: str = "") -> ModelResponse:
    """An answer with tool calls: name, arguments, id."""
    said = [TextPart(text)] if text else []
    return ModelResponse(parts=[*said, *(ToolCallPart(name, args, id) for name, args, id in wanted)])


def task(name: str, instructions: str, id: str) -> tuple[str, dict[str, Any], str]:
    """A call of the task tool."""
    return ("task", {"task_name": name, "instructions": instructions}, id)


class Brain:
    """Plays its answers; `seen` is what it was asked with each time, `asked` counts."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.seen: list[list[ModelMessage]] = []
        self.tools: list[list[str]] = []
        self.model = FunctionModel(self._answer, model_name="brain")

    @property
    def asked(self) -> int:
        return len(self.seen)

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.seen.append(list(messages))
        self.tools.append(sorted(tool.name for tool in info.function_tools))
        step = sum(isinstance(message, ModelResponse) for message in messages)
        answer: Answer = self.answers[min(step, len(self.answers) - 1)]
        while callable(answer):
            answer = await answer(messages)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return ModelResponse(parts=[TextPart(answer)])
        return ModelResponse(parts=list(answer.parts))

    def results(self, time: int = -1) -> dict[str, str]:
        """The tool results it was shown in one of its requests, by call id."""
        return results_of(self.seen[time])


def results_of(messages: Sequence[ModelMessage]) -> dict[str, str]:
    """Every tool result of a conversation, by call id; an id that comes twice is an error of the loop (E56)."""
    found: dict[str, str] = {}
    for message in messages:
        for part in message.parts if isinstance(message, ModelRequest) else ():
            if isinstance(part, ToolReturnPart):
                assert part.tool_call_id not in found, f"{part.tool_call_id} was answered twice"
                found[part.tool_call_id] = str(part.content)
    return found


def hangs(until: asyncio.Event | None = None) -> Answer:
    """An answer that does not come, and the event that says it was asked for."""

    async def hang(messages: list[ModelMessage]) -> Answer:
        if until is not None:
            until.set()
        await asyncio.Event().wait()
        raise AssertionError

    return hang


async def until(true: Callable[[], bool]) -> None:
    """Give the loop its turns until something is so."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)
