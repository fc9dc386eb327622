"""What a sub-agent did before it was ended, in words for the model above it. Reads a loop, changes nothing.

A parent that is told "not run" of a file that was written writes it again, or believes that it is not there (L09).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic_ai.messages import ModelRequest, ModelResponse, ToolReturnPart

from tollboard.subagents.building import to_text
from tollboard.subagents.journal import Call
from tollboard.subagents.messages import arguments_of, tool_calls

if TYPE_CHECKING:
    from tollboard.subagents.loop import Loop

MAX_DEEDS = 50
"""How many calls are listed; the newest ones, for the earlier ones are what most of the later ones build on."""
MAX_CHARACTERS = 200
"""How much of a call's arguments, and of its result, is quoted."""
ENDED_EARLY = "The sub-agent {name!r} was ended before it had a result."
NOTHING_DONE = "It had called no tool."
DID = "Its tool calls, in order:"
FORGOTTEN = "- {count} earlier calls, which are not listed"
SUMMARISED = "- earlier calls, of which only a summary is left: {summary}"
WAITED = "did not happen: the turn ended before a person decided"
NEVER_BEGUN = "did not happen: it had not begun when the turn ended"
IN_THE_MIDDLE = "nobody knows whether it took effect: it had begun, and was cut off in the middle"


def account_of(loop: Loop, *, why: str = "") -> str:
    """Return what became of each call of a sub-agent, here and below; `why` says how it ended."""
    deeds = _deeds(loop)
    if left_out := len(deeds) - MAX_DEEDS:
        deeds = deeds if left_out < 0 else [FORGOTTEN.format(count=left_out), *deeds[left_out:]]
    if loop.head.first > 0 and loop.messages:
        deeds.insert(0, SUMMARISED.format(summary=_first_words(loop)))
    opening = why or ENDED_EARLY.format(name=loop.definition.name)
    return "\n".join([f"{opening} {DID}", *deeds]) if deeds else f"{opening} {NOTHING_DONE}"


def did_something(loop: Loop) -> bool:
    """Return whether a sub-agent called any tool."""
    return loop.head.first > 0 or any(tool_calls(message) for message in loop.messages)


def _deeds(loop: Loop) -> list[str]:
    return [line for index in range(len(loop.messages)) for line in _step(loop, index)]


def _step(loop: Loop, index: int) -> Iterator[str]:
    """Say what became of the calls of one response; their results are in the request after it."""
    after = loop.messages[index + 1] if index + 1 < len(loop.messages) else None
    told = {part.tool_call_id: part for part in _returns(after)}
    for part in tool_calls(loop.messages[index]):
        if (result := told.get(part.tool_call_id)) is not None:
            became = _result(result.outcome == "success", result.content)
        elif after is None:
            became = _now(loop, part.tool_call_id)
        else:
            became = IN_THE_MIDDLE
        yield f"- {part.tool_name} {_short(to_text(arguments_of(part)))}: {became}"


def _returns(message: object) -> Sequence[ToolReturnPart]:
    parts = message.parts if isinstance(message, ModelRequest) else ()
    return [part for part in parts if isinstance(part, ToolReturnPart)]


def _now(loop: Loop, call_id: str) -> str:
    """Say how a call of the newest response has come, the results of which nobody has seen yet."""
    if (child := loop.calls.children.get(call_id)) is not None:
        return account_of(child.loop).replace("\n", "\n  ")
    return became_of(loop.calls.get(call_id))


def became_of(call: Call | None) -> str:
    """Say how far a call has come."""
    if call is None:
        return NEVER_BEGUN
    if call.outcome is not None:
        return _result(call.outcome.kind == "ok", call.outcome.value)
    if call.started:
        return IN_THE_MIDDLE
    return WAITED if call.waits else NEVER_BEGUN


def _result(ok: bool, value: object) -> str:
    return f"{'done' if ok else 'failed'}: {_short(to_text(value))}"


def _first_words(loop: Loop) -> str:
    first = loop.messages[0]
    if isinstance(first, ModelResponse):
        return ""
    return _short(" ".join(str(part.content) for part in first.parts if hasattr(part, "content")))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
