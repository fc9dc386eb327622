"""What the runs below a `model` session tell, in the words of the runtime: ids of ours, plain texts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)

from tollboard.runtime.sub_agents import (
    Said,
    SubAgentBegan,
    SubAgentEnded,
    SubAgentNews,
    SubAgentSaid,
    SubAgentWaits,
)
from tollboard.subagents.building import to_text
from tollboard.subagents.events import (
    LLMMessage,
    Started,
    StatusChanged,
    SubAgentCancelled,
    SubAgentCompleted,
    SubAgentEvent,
    SubAgentFailed,
)
from tollboard.subagents.outcome import CANCELLED, Status
from tollboard.subagents.run import Run

_IDS = uuid.UUID("6f1d3a52-7c0e-4b8e-9d53-0a2f5c1be7a4")


def public_id(key: str) -> str:
    """Return the id under which people know a run: the same after a restart, and no longer than other ids."""
    return str(uuid.uuid5(_IDS, key))


def news_of(event: SubAgentEvent, run: Run | None, session: str) -> SubAgentNews | None:
    """Return what the runtime is to know of this event, if anything.

    `run` is the one that told it, `session` the key of the conversation that all of them are below.
    """
    id = public_id(event.id)
    match event:
        case Started() if run is not None:
            parent = None if run.parent in (None, session) else public_id(run.parent or "")
            path = "/".join(run.loop.path[1:])
            return SubAgentBegan(id, parent, event.name, path, event.model, run.instructions)
        case LLMMessage(message=message) if run is not None and isinstance(
            message, ModelRequest | ModelResponse
        ):
            return SubAgentSaid(id, run.turns, tuple(_said(message)))
        case StatusChanged(status=(Status.RUNNING | Status.INTERRUPTED) as status):
            return SubAgentWaits(id, status == Status.INTERRUPTED)
        case SubAgentCompleted(result=result, duration_s=took, usage=usage):
            turns = 0 if run is None else run.turns
            return SubAgentEnded(id, "completed", result, turns, took, usage)
        case SubAgentFailed(error=error, turns=turns, duration_s=took, usage=usage):
            return SubAgentEnded(id, "failed", error, turns, took, usage)
        case SubAgentCancelled(turns=turns, duration_s=took, usage=usage):
            return SubAgentEnded(id, "cancelled", CANCELLED, turns, took, usage)
    return None


def _said(message: ModelMessage) -> Iterator[Said]:
    if isinstance(message, ModelRequest):
        for part in message.parts:
            match part:
                case UserPromptPart(content=content):
                    yield Said("user", content if isinstance(content, str) else to_text(content))
                case ToolReturnPart(tool_name=tool, content=content, tool_call_id=call):
                    yield Said("tool_result", to_text(content), tool, call)
                case RetryPromptPart(tool_name=tool, tool_call_id=call):
                    yield Said("tool_result", to_text(part.content), tool or "", call)
        return
    for answered in message.parts:
        match answered:
            case TextPart(content=text) if text:
                yield Said("assistant", text)
            case ToolCallPart(tool_name=tool, tool_call_id=call):
                yield Said("tool_use", to_text(answered.args), tool, call)
