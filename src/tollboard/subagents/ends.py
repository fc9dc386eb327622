"""How a model's response ended, read before anything of it is kept, run or shown as an answer.

Providers say why they stopped, in words of their own. A stream that breaks off can look complete in every other way:
its connection closes cleanly, and its last tool call may be whole. So the loop keeps a response, and the summary keeps
its text, only after `check_end` has found that the provider said that it ended, and that this end is a good one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart

CUT = (
    "the answer broke off: the provider's stream ended before it said that the answer was complete. "
    "Nothing of it was kept, and none of its tool calls ran; send the prompt again"
)
AT_LIMIT = "the answer was cut off at its token limit ({reason}), so its end is missing"
NOTHING_BEFORE_LIMIT = (
    "the model reached its token limit ({reason}) before it answered anything; raise `max_tokens` in the session's "
    "settings, or ask for less at once"
)
CALLS_AT_LIMIT = (
    "the answer was cut off at its token limit ({reason}) while it called tools, so none of the calls ran; raise "
    "`max_tokens` in the session's settings, or ask for less at once"
)
REFUSED = "the provider refused to answer ({reason}){said}"
ENDED_BADLY = "the provider ended the answer early ({reason}){said}"
NO_CALLS = "the provider said that the model calls tools ({reason}), but sent no call"
NOTHING = "the model answered with nothing"

_REFUSAL = re.compile(r"filter|sensitive|guardrail|refus|safety|block|moderat|prohibit|policy", re.IGNORECASE)
_LIMIT = re.compile(r"length|max|limit|trunc|exhaust|exceed", re.IGNORECASE)
_BAD = re.compile(
    r"error|abort|cancel|fail|incomplete|insufficient|interrupt|timeout|disconnect|malformed|unspecified|steered"
    r"|^other$|in_progress|queued|load",
    re.IGNORECASE,
)
"""What the words that compatible servers use of their own mean; what none of these fits is an ordinary end."""
_SAID = ("refusal", "block_reason_message", "finish_message", "refusal_category")
"""Where the providers put what they say of a refusal, the most telling first."""
_CALLING = ("tool_calls", "tool_use", "tool_call", "function_call")
_OF_THIS_PROCESS = (None, "function", "test")
"""Models that are functions of this process: what they return is whole."""
MAX_SAID = 500


class Unusable(Exception):
    """A response that is no answer; its text says why, for people."""


def check_end(response: ModelResponse, model: Any = None) -> str:
    """Return what a reader has to be told about a response, nothing when it ended well.

    Raises Unusable for one that broke off, was refused, or was cut off where no part of it can be used.
    """
    details = response.provider_details or {}
    reason = str(details.get("finish_reason") or "")
    kind = _kind(response, reason)
    calls = any(isinstance(part, ToolCallPart) for part in response.parts)
    if kind == "content_filter":
        raise Unusable(REFUSED.format(reason=_reason(response, reason), said=_said(details)))
    if response.state in ("incomplete", "interrupted", "suspended") or not _said_so(response, reason, model):
        raise Unusable(CUT)
    if kind == "error":
        raise Unusable(ENDED_BADLY.format(reason=_reason(response, reason), said=_said(details)))
    if kind == "length":
        said = reason or "length"
        if calls:
            raise Unusable(CALLS_AT_LIMIT.format(reason=said))
        if is_empty(response):
            raise Unusable(NOTHING_BEFORE_LIMIT.format(reason=said))
        return AT_LIMIT.format(reason=said)
    if not calls and (reason in _CALLING or response.finish_reason == "tool_call"):
        raise Unusable(NO_CALLS.format(reason=reason or "tool_call"))
    return ""


def is_empty(response: ModelResponse) -> bool:
    """Return whether a response has neither words nor calls nor files; thoughts alone are no answer."""
    return all(
        isinstance(part, ThinkingPart) or (isinstance(part, TextPart) and not part.content.strip())
        for part in response.parts
    )


def _kind(response: ModelResponse, reason: str) -> str | None:
    """Return how it ended as Pydantic AI says, or as the provider's own word suggests where that says nothing."""
    if response.finish_reason is not None:
        return response.finish_reason
    if _REFUSAL.search(reason):
        return "content_filter"
    if _BAD.search(reason):
        return "error"
    return "length" if _LIMIT.search(reason) else None


def _said_so(response: ModelResponse, reason: str, model: Any) -> bool:
    """Return whether the provider said that the response ended."""
    if reason or response.provider_name in _OF_THIS_PROCESS:
        return True
    if _is_chat(model):
        # Where the word is missing, Pydantic AI's Chat Completions client makes up the reason `stop`, because some
        # servers never give one; a stream that broke looks the same. It has no reason at all where the word was
        # there, but beside a null delta, and was not read.
        return response.finish_reason is None
    return response.finish_reason is not None


def _is_chat(model: Any) -> bool:
    """Return whether a model speaks Chat Completions; asked by name, so that no client is imported for it."""
    if (wrapped := getattr(model, "wrapped", None)) is not None:
        return _is_chat(wrapped)
    if isinstance(several := getattr(model, "models", None), list | tuple):
        return any(_is_chat(each) for each in several)
    return any(each.__name__ == "OpenAIChatModel" for each in type(model).__mro__)


def _reason(response: ModelResponse, reason: str) -> str:
    details = response.provider_details or {}
    return (
        reason
        or str(details.get("block_reason") or "")
        or ("refusal" if "refusal" in details else "content filter")
    )


def _said(details: Mapping[str, Any]) -> str:
    """Return what the provider said of it, after a colon."""
    for name in _SAID:
        if isinstance(said := details.get(name), str) and said.strip():
            return f": {said.strip()[:MAX_SAID]}"
    return ""
