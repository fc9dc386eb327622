"""Making a conversation shorter that is too long for its model: long results are cut, the past is summarised.

Nothing here decides when. The loop tries what it gets from here, and keeps it only if the model then answers, so a
prompt that can never fit costs the conversation nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.usage import RunUsage

from tollboard.subagents.messages import content_text
from tollboard.subagents.summaries import CALLED, excerpt, summary_message, transcript_of, try_summary

CHARS_PER_TOKEN = 4
"""How many characters a token has, roughly; only where a provider reports nothing."""
LEAST_RESULT_CHARS = 2_000
"""What a tool's result is not cut below, as long as anything else can be made shorter."""
LEAST_PAST_CHARS = 1_000
"""What is left of the past where even a summary of it is too long."""
NOT_SUMMARISED = (
    "(The conversation so far was too long, and could not be summarised. Parts of it are left out.)\n\n"
)


def size_of(messages: Sequence[ModelMessage]) -> int:
    """Return how many characters a conversation has, of those that a provider counts."""
    return sum(_part_size(part) for message in messages for part in message.parts)


def tokens_about(messages: Sequence[ModelMessage]) -> int:
    """Return roughly how many tokens a conversation has."""
    return size_of(messages) // CHARS_PER_TOKEN


def _part_size(part: Any) -> int:
    match part:
        case ToolReturnPart() | RetryPromptPart() | UserPromptPart():
            return len(content_text(part))
        case TextPart() | ThinkingPart():
            return len(part.content)
        case ToolCallPart():
            return len(part.tool_name) + (
                len(part.args) if isinstance(part.args, str) else len(str(part.args or ""))
            )
    return 0


def cut_results(messages: Sequence[ModelMessage], target: int, least: int) -> list[ModelMessage] | None:
    """Return the conversation with long results of tools cut so that it has `target` characters at most.

    `None` where that is not enough with `least` characters left of each.
    """
    sizes = sorted(_part_size(part) for message in messages for part in message.parts if _is_result(part))
    excess = size_of(messages) - target
    limit = _level(sizes, sum(sizes) - excess)
    if limit < least:
        return None
    return [_cut(message, limit) for message in messages]


def _level(sizes: Sequence[int], room: int) -> int:
    """Return the longest length to cut to, so that all together have that much room; `sizes` ascend."""
    left = len(sizes)
    for size in sizes:
        if size * left > room:
            return max(room, 0) // left
        room -= size
        left -= 1
    return sizes[-1] if sizes else 0


def _is_result(part: object) -> bool:
    return isinstance(part, ToolReturnPart | RetryPromptPart)


def _cut(message: ModelMessage, limit: int) -> ModelMessage:
    if isinstance(message, ModelResponse) or not any(map(_is_result, message.parts)):
        return message
    parts: list[ModelRequestPart] = [
        replace(part, content=excerpt(content_text(part), limit))  # type: ignore[arg-type] # of no tool of ours
        if isinstance(part, ToolReturnPart | RetryPromptPart) and _part_size(part) > limit
        else part
        for part in message.parts
    ]
    return replace(message, parts=parts)


async def shortened(
    model: Any, messages: Sequence[ModelMessage], usage: RunUsage, *, todos: str | None
) -> list[ModelMessage] | None:
    """Return a conversation that was too long at half its length, or near it; `None` if that cannot be done.

    Long results of tools are cut first, which costs nothing. Else a summary takes the place of the past; what that
    costs is added to `usage`. The newest prompt is never touched.
    """
    target = size_of(messages) // 2
    if (cut := cut_results(messages, target, LEAST_RESULT_CHARS)) is not None:
        return cut
    past, prompt = split_prompt(messages)
    if size_of(past) > LEAST_PAST_CHARS:
        room = max((target - size_of(prompt)) // 2, LEAST_PAST_CHARS)
        return [await _instead_of(model, past, usage, target, room, todos), *prompt]
    return cut_results(messages, target, LEAST_RESULT_CHARS // 10)


async def _instead_of(
    model: Any, past: Sequence[ModelMessage], usage: RunUsage, piece: int, room: int, todos: str | None
) -> ModelMessage:
    """Return what takes the past's place: a summary, or parts of it, of `room` characters or little more."""
    if (earlier := _earlier(past)) is not None:
        return ModelRequest(parts=[UserPromptPart(excerpt(earlier, room))])
    text, _ = await try_summary(model, past, usage, piece=piece)
    if not text:
        # Without the past made shorter, every later prompt would fail as well.
        return ModelRequest(parts=[UserPromptPart(NOT_SUMMARISED + excerpt(transcript_of(past), room))])
    return summary_message(excerpt(text, room), todos)


def _earlier(past: Sequence[ModelMessage]) -> str | None:
    """Return the text of a past that is a summary already, or what was made in its place."""
    if len(past) != 1 or isinstance(past[0], ModelResponse):
        return None
    text = "".join(content_text(part) for part in past[0].parts if isinstance(part, UserPromptPart))
    return text if text.startswith((CALLED, NOT_SUMMARISED)) else None


def split_prompt(messages: Sequence[ModelMessage]) -> tuple[Sequence[ModelMessage], Sequence[ModelMessage]]:
    """Return the past and the newest prompt, which is nothing between two steps of a turn."""
    newest = messages[-1]
    if isinstance(newest, ModelRequest) and not any(map(_is_result, newest.parts)):
        return messages[:-1], messages[-1:]
    return messages, ()
