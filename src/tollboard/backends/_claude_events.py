"""From the lines that Claude Code prints to events: pure, needs no extra, one translator a turn.

The lines are read as they are printed (plain dictionaries), not as the SDK's classes: the classes drop fields we need
(`model_usage_since_last_result`) and refuse lines they do not know, while here an unknown line is simply not an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tollboard.runtime.event import (
    ErrorCause,
    ErrorEvent,
    Event,
    NoticeEvent,
    ResultEvent,
    TextEvent,
    ToolResultEvent,
    ToolUseEvent,
    Usage,
)

Line = Mapping[str, Any]


class Translator:
    """Turn the lines of one turn into events; text arrives in pieces and, once more, whole: it is said once."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._message = ""
        self._streamed: dict[str, str] = {}

    def events(self, line: Line) -> list[Event]:
        """Return what the line means to a reader of the session, often nothing."""
        match line.get("type"):
            case "stream_event":
                return self._stream_event(line)
            case "assistant":
                return self._assistant(line)
            case "user":
                return _tool_results(line)
            case "system":
                return _notices(line, self._now())
            case "rate_limit_event":
                return _rate_limit(line)
            case _:
                return []

    def _stream_event(self, line: Line) -> list[Event]:
        if line.get("parent_tool_use_id"):
            return []  # a sub-agent's words are its parent's business
        event = _mapping(line.get("event"))
        if event.get("type") == "message_start":
            self._message = str(_mapping(event.get("message")).get("id", ""))
        delta = _mapping(event.get("delta"))
        if event.get("type") != "content_block_delta" or delta.get("type") != "text_delta":
            return []
        text = str(delta.get("text", ""))
        self._streamed[self._message] = self._streamed.get(self._message, "") + text
        return [TextEvent(text, message=self._message)] if text else []

    def _assistant(self, line: Line) -> list[Event]:
        message = _mapping(line.get("message"))
        silent = bool(
            line.get("parent_tool_use_id") or line.get("error")
        )  # an error's text comes with the result
        found: list[Event] = []
        for block in _blocks(message):
            if block.get("type") == "text" and not silent:
                found += self._whole_text(str(message.get("id", "")), str(block.get("text", "")))
            elif block.get("type") == "tool_use":
                arguments = dict(_mapping(block.get("input")))
                found.append(ToolUseEvent(str(block.get("id", "")), str(block.get("name", "")), arguments))
        return found

    def _whole_text(self, message: str, text: str) -> list[Event]:
        """Return what of a whole text block was not streamed before: all of it, its rest, or nothing."""
        streamed = self._streamed.pop(message, "")
        if streamed and not text.startswith(streamed):
            return []
        rest = text[len(streamed) :]
        return [TextEvent(rest, message=message)] if rest else []


class CallUsage:
    """Adds up what the calls of one turn have used so far: one that is cut off has paid for those that were answered.

    The result of the turn says it again, with its cost, and then that counts.
    """

    def __init__(self) -> None:
        self._total = [0, 0, 0, 0]
        self._call: Line = {}

    def usage(self, line: Line) -> Usage | None:
        """Return the sum when this line ends a call, else `None`."""
        event = _mapping(line.get("event"))
        match event.get("type"):
            case "message_start":
                self._call = _mapping(_mapping(event.get("message")).get("usage"))
            case "message_delta":
                self._call = {**self._call, **_mapping(event.get("usage"))}
            case "message_stop":
                call, self._call = [int(self._call.get(name) or 0) for name in _RECENT], {}
                self._total = [one + other for one, other in zip(self._total, call, strict=True)]
                fresh, output, read, written = self._total
                return Usage(fresh + read + written, output, read, written)
        return None


def _mapping(value: Any) -> Line:
    return value if isinstance(value, Mapping) else {}


def _blocks(message: Line) -> Iterable[Line]:
    content = message.get("content")
    return [block for block in content if isinstance(block, Mapping)] if isinstance(content, list) else []


def _tool_results(line: Line) -> list[Event]:
    return [
        ToolResultEvent(
            str(block.get("tool_use_id", "")),
            _plain(block.get("content")),
            is_error=bool(block.get("is_error")),
        )
        for block in _blocks(_mapping(line.get("message")))
        if block.get("type") == "tool_result"
    ]


def _plain(content: Any) -> str:
    """Return a tool result as text; what is not text is named."""
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
    return "\n".join(
        str(part.get("text", "")) if part.get("type") == "text" else f"[{part.get('type')}]" for part in parts
    )


def _notices(line: Line, now: float) -> list[Event]:
    match line.get("subtype"):
        case "api_retry":
            cause = line.get("error_status") or line.get("error") or "no answer"
            delay_s = float(line.get("retry_delay_ms") or 0) / 1000
            attempt = f"attempt {line.get('attempt')} of {line.get('max_retries')}"
            at = now + delay_s
            clock = time.strftime("%H:%M:%S", time.localtime(at))
            told = f"the API call failed ({cause}); {attempt} at {clock}, in {delay_s:.1f} s"
            return [NoticeEvent("api_retry", told, alarm=True, retry_at=at)]
        case "compact_boundary":
            return [NoticeEvent("compacted", "the conversation was shortened to fit the model's context")]
        case _:
            return []


def _rate_limit(line: Line) -> list[Event]:
    info = _mapping(line.get("rate_limit_info"))
    status = info.get("status")
    if status in (None, "allowed"):
        return []
    told = f"{info.get('rateLimitType') or 'rate'} limit: {status}"
    resets = info.get("resetsAt")
    if isinstance(resets, int | float) and not isinstance(resets, bool) and 0 < resets < 2**33:
        told += f"; it is lifted at {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(resets))}"
    return [NoticeEvent("rate_limit", told, alarm=status == "rejected")]


def effective(line: Line) -> dict[str, str]:
    """Return what the program says it runs with, from a `system/init` line, by the option's name."""
    names = {"model": "model", "permission_mode": "permissionMode", "cwd": "cwd"}
    return {ours: str(line[theirs]) for ours, theirs in names.items() if line.get(theirs)}


def changed_mode(line: Line) -> str:
    """Return the permission mode that a `system/status` line tells of, an empty string for any other line."""
    if line.get("type") != "system" or line.get("subtype") != "status":
        return ""
    return str(line.get("permissionMode") or "")


def is_init(line: Line) -> bool:
    """Return whether the line opens a turn: the program prints it before each."""
    return line.get("type") == "system" and line.get("subtype") == "init"


def outcome(line: Line, cost_before: float) -> ResultEvent | ErrorEvent:
    """Return the terminal event of a result line. A failed API call says `success`: only `is_error` counts."""
    usage = _usage(line, cost_before)
    text = line.get("result")
    if not line.get("is_error") and str(line.get("subtype", "success")) == "success":
        return ResultEvent(text if isinstance(text, str) else None, usage)
    return ErrorEvent(_error_text(line), usage, _error_cause(line))


_LATER_STATUS = frozenset({408, 409, 429})
_TOO_LONG = "prompt is too long"


def _error_cause(line: Line) -> ErrorCause | None:
    """Return why the API failed, by its status; `None` for a failure that is not the API's."""
    status = line.get("api_error_status")
    if _TOO_LONG in str(line.get("result") or "").lower():
        return ErrorCause.OVERFLOW
    if not isinstance(status, int):
        return None
    return ErrorCause.OVERLOADED if status >= 500 or status in _LATER_STATUS else ErrorCause.REFUSED


def _error_text(line: Line) -> str:
    errors = line.get("errors")
    said = line.get("result") or (
        errors and "; ".join(map(str, errors)) if isinstance(errors, list) else errors
    )
    text = str(said or line.get("subtype") or "unknown error")
    if line.get("subtype") == "error_max_turns":
        text = f"stopped after {line.get('num_turns')} model calls, as max_turns says"
    status = line.get("api_error_status")
    return f"{text} (API status {status})" if status and str(status) not in text else text


_RECENT = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_read_input_tokens": "cacheReadInputTokens",
    "cache_creation_input_tokens": "cacheCreationInputTokens",
}


def _usage(line: Line, cost_before: float) -> Usage:
    """Return what was paid for since the result before, sub-agents in the background too, as newer programs tell it.

    `usage` of the line counts the turn's own calls only.
    """
    given = _mapping(line.get("usage"))
    recent = [_mapping(used) for used in _mapping(line.get("model_usage_since_last_result")).values()]

    def tokens(name: str) -> int | None:
        if recent:
            return sum(int(used.get(_RECENT[name]) or 0) for used in recent)
        value = given.get(name)
        return value if isinstance(value, int) else None

    # It reports what was read from the cache, and what was written to it, apart from the input (L08).
    read = [tokens(f"{kind}input_tokens") for kind in ("", "cache_read_", "cache_creation_")]
    return Usage(
        input_tokens=None if read[0] is None else sum(each or 0 for each in read),
        output_tokens=tokens("output_tokens"),
        cache_read_tokens=read[1],
        cache_creation_tokens=read[2],
        cost_usd=_cost(line, cost_before),
    )


def _cost(line: Line, cost_before: float) -> float | None:
    """Return what this turn cost.

    `total_cost_usd` is cumulative, and a resumed program may begin with what the conversation cost before or with zero;
    newer programs name the difference, for older ones it is taken from the total of the result before.
    """
    recent = line.get("model_usage_since_last_result")
    if isinstance(recent, Mapping):
        return float(sum(_mapping(used).get("costUSD") or 0 for used in recent.values()))
    total = line.get("total_cost_usd")
    if not isinstance(total, int | float):
        return None
    return float(total - cost_before if total >= cost_before else total)
