"""Summaries of conversations that came near their model's limit, and the message that takes a conversation's place.

The model is asked with the conversation written out as text. Messages with tool calls would have to be sent with the
same tools again, which some providers demand, and then it may call them instead of summarising.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_ai import Agent
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
from pydantic_ai.usage import RunUsage

from tollboard.subagents.ends import Unusable, check_end, is_empty
from tollboard.subagents.failures import is_overflow, reason_of
from tollboard.subagents.hygiene import encodable
from tollboard.subagents.messages import content_text, tool_calls

SUMMARISE = (
    "Summarise the conversation you are given so that the work can continue from your summary alone: the goal, what "
    "was decided and why, what was done (files, commands, results), what is open, and every name, path and number "
    "still needed. Answer with the summary only."
)
ASK = "Summarise this conversation:\n\n<conversation>\n{text}\n</conversation>"
ASK_MORE = (
    "This is the summary of the conversation so far:\n\n<summary>\n{before}\n</summary>\n\nWrite one summary of it and "
    "of what followed:\n\n<conversation>\n{text}\n</conversation>"
)
CALLED = "Summary of the conversation so far, which is no longer shown:\n\n"
EMPTY_SUMMARY = "the summary is empty"
CUT_SUMMARY = "the summary was cut off at its token limit"
RESULT_CHARS = 8_000
"""How much of one tool result the summary is made from; the ends of long ones tell most."""
FEWEST_CHARS = 2_000
"""What a piece of a conversation is never made shorter than, to be summarised."""


async def summary_of(
    model: Any, messages: Sequence[ModelMessage], usage: RunUsage, *, piece: int | None = None
) -> str:
    """Return a summary of a conversation, made in pieces of so many characters where that is given or needed.

    What it costs is added to `usage`. Raises Unusable for a summary that was cut off, is empty or was refused, and
    whatever the model's client raises.
    """
    text = transcript_of(messages)
    size = max(FEWEST_CHARS, len(text) if piece is None else piece)
    while True:
        try:
            return await _in_pieces(model, text, size, usage)
        except Exception as failure:
            # A client may raise anything; what is an overflow is asked for again in smaller pieces.
            if not is_overflow(failure) or size <= FEWEST_CHARS:
                raise
            size = max(FEWEST_CHARS, size // 2)


async def try_summary(
    model: Any, messages: Sequence[ModelMessage], usage: RunUsage, *, piece: int | None = None
) -> tuple[str, str]:
    """Return a summary, or nothing and why there is none; whatever it was, the conversation is still whole."""
    try:
        return await summary_of(model, messages, usage, piece=piece), ""
    except Exception as failure:
        return "", reason_of(failure)


async def _in_pieces(model: Any, text: str, size: int, usage: RunUsage) -> str:
    summary = ""
    for start in range(0, max(len(text), 1), size):
        piece = text[start : start + size]
        asked = ASK_MORE.format(before=summary, text=piece) if summary else ASK.format(text=piece)
        summary = await _asked(model, asked, usage)
    return summary


async def _asked(model: Any, text: str, usage: RunUsage) -> str:
    async with Agent(model, instructions=SUMMARISE).iter(text, usage=usage) as run:
        node: Any = run.next_node
        while not Agent.is_call_tools_node(node):
            node = await run.next(node)
        response = node.model_response
    if check_end(response, model):
        raise Unusable(CUT_SUMMARY)
    if is_empty(response) or tool_calls(response):
        raise Unusable(EMPTY_SUMMARY)
    return str(encodable("".join(part.content for part in response.parts if isinstance(part, TextPart))))


def summary_message(text: str, todos: str | None) -> ModelMessage:
    """Return the message that takes the place of what was summarised, with the todo list as it is."""
    listed = f"\n\nThe todo list: {todos}" if todos else ""
    return ModelRequest(parts=[UserPromptPart(encodable(f"{CALLED}{text}{listed}"))])


def transcript_of(messages: Sequence[ModelMessage]) -> str:
    """Return a conversation as text: who said what, which tools were called with what, and what they gave."""
    return "\n\n".join(line for message in messages for line in _lines(message))


def _lines(message: ModelMessage) -> Iterator[str]:
    if isinstance(message, ModelResponse):
        for said in message.parts:
            if isinstance(said, TextPart) and said.content.strip():
                yield f"Assistant: {said.content}"
            elif isinstance(said, ToolCallPart):
                yield f"Assistant called {said.tool_name}: {excerpt(said.args_as_json_str(), RESULT_CHARS)}"
        return
    for part in message.parts:
        if isinstance(part, ToolReturnPart | RetryPromptPart) and part.tool_name:
            yield f"Result of {part.tool_name}: {excerpt(content_text(part), RESULT_CHARS)}"
        elif isinstance(part, UserPromptPart):
            yield f"User: {content_text(part)}"


def excerpt(text: str, size: int) -> str:
    """Return a text with its middle left out, where it is longer than so many characters."""
    if len(text) <= size:
        return text
    half = max(size // 2, 1)
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out:,} characters are left out here ...]\n{text[-half:]}"
