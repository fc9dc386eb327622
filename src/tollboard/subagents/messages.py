"""Reading the messages of a conversation: calls, words, usage, and how long it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from pydantic_ai import UsageLimits
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.usage import RunUsage
from pydantic_core import to_jsonable_python

from tollboard.ids import new_ref
from tollboard.runtime.event import Usage

COUNTED = (
    "requests",
    "tool_calls",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
)


def tool_calls(message: ModelMessage) -> list[ToolCallPart]:
    """Return the calls of a response, none for a request."""
    if not isinstance(message, ModelResponse):
        return []
    return [part for part in message.parts if isinstance(part, ToolCallPart)]


def name_apart(parts: Sequence[ToolCallPart]) -> None:
    """Give calls of one message ids of their own: one that came twice would get the other's result."""
    seen: set[str] = set()
    for part in parts:
        given = part.tool_call_id or new_ref()
        id, number = given, 2
        while id in seen:
            id, number = f"{given}-{number}", number + 1
        part.tool_call_id = id
        seen.add(id)


def arguments_of(part: ToolCallPart) -> dict[str, object]:
    """Return what a call was made with; nothing when it is no JSON object."""
    try:
        return dict(part.args_as_dict())
    except ValueError:
        return {}


def usage_fields(usage: RunUsage) -> dict[str, Any]:
    """Return a usage as JSON holds it."""
    cost = {} if usage.cost is None else {"cost": str(usage.cost)}
    return {**{name: getattr(usage, name) for name in COUNTED}, **cost}


def usage_from(fields: Mapping[str, Any]) -> RunUsage:
    """Return the usage that `usage_fields` wrote."""
    cost = fields.get("cost")
    return RunUsage(**{**fields, **({} if cost is None else {"cost": Decimal(cost)})})


LIMITS = {
    "request_limit": "requests",
    "tool_calls_limit": "tool_calls",
    "input_tokens_limit": "input_tokens",
    "output_tokens_limit": "output_tokens",
    "total_tokens_limit": "total_tokens",
}
"""Which count each limit is for."""


def limits_after(limits: UsageLimits, used: RunUsage) -> UsageLimits:
    """Return the limits for someone who has used so much already, and may use as much again as they say."""
    given = {name: limit for name in LIMITS if (limit := getattr(limits, name)) is not None}
    more: dict[str, Any] = {name: limit + getattr(used, LIMITS[name]) for name, limit in given.items()}
    return replace(limits, **more) if more else limits


def as_usage(usage: RunUsage) -> Usage:
    """Return a usage as the runtime knows it."""
    cost = None if usage.cost is None else float(usage.cost)
    return Usage(
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens, cost
    )


def content_text(part: Any) -> str:
    """Return the words of a part: of a prompt with files among them, of a tool's result that is a value."""
    content = part.content
    if isinstance(content, str):
        return content
    if isinstance(part, UserPromptPart):
        return "\n".join(piece if isinstance(piece, str) else "[a file]" for piece in content)
    return json.dumps(to_jsonable_python(content, fallback=repr), ensure_ascii=False)


def tokens_of(message: ModelMessage) -> int:
    """Return how long the conversation was when the model answered with this; 0 for a request."""
    if not isinstance(message, ModelResponse):
        return 0
    return message.usage.input_tokens + message.usage.output_tokens
