"""What a stand-in for a model's API is told and sees, and how Anthropic and OpenAI write it on the wire.

`tollboard.testing.model_api` serves it; import the values from there. Nothing here does any input or output.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

# --- what a test says and sees ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool the model calls. Without an id it gets a unique one."""

    tool: str
    arguments: Mapping[str, object]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answers: words, then tool calls; or a failure."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    input_tokens: int = 10
    output_tokens: int = 5
    status: int = 200
    """Other than 200: an HTTP error in the provider's shape, with `text` as its message."""
    retry: bool = False
    """Whether the client may try again after an HTTP error (at once); else it is told not to."""
    hang: bool = False
    """Send the headers and the first piece, then nothing until the client goes away or `ModelAPI.release()`."""
    cut: bool = False
    """Send the headers and the first piece, then reset the connection."""
    chunk: int = 16
    """How many characters each piece of a streamed answer has."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool gave. OpenAI's format has no mark for errors, so there `is_error` is always false."""

    id: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the conversation, the same for both providers: tool results and user text in a row are one."""

    role: str
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived."""

    provider: str
    """`anthropic` or `openai`."""
    model: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[str, ...]
    streamed: bool
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case. Out of the repr: they hold the key."""
    body: Mapping[str, Any] = field(repr=False)
    """The request as it was sent, for what the other fields leave out."""

    @property
    def last_user(self) -> str:
        """The last thing a user said; tool results may have come after it."""
        return next((m.text for m in reversed(self.messages) if m.role == "user" and m.text), "")

    @property
    def results(self) -> Mapping[str, str]:
        """The tool results in the last message, by the id of their call."""
        return {result.id: result.text for message in self.messages[-1:] for result in message.results}


# --- the two formats --------------------------------------------------------------------------------------------


class Wire(Protocol):
    """How a provider writes a request, an answer, the events of a streamed answer, and an error."""

    first: int
    """How many events of a stream have gone out with the first piece of text."""

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        """Return the request in our words; what is no request raises one of the errors of a wrong shape."""
        ...

    def plain(self, seen: Seen, reply: Reply) -> object:
        """Return the body of an answer that is not streamed."""
        ...

    def events(self, seen: Seen, reply: Reply) -> Iterator[tuple[str, object]]:
        """Yield the events of a streamed answer: a name or nothing, and the data; a string goes out as it is."""
        ...

    def error(self, status: int, message: str) -> object:
        """Return the body of an HTTP error."""
        ...


def wire_of(path: str) -> Wire | None:
    """Return the format that is spoken at a path, None for no one's."""
    path = path.partition("?")[0]
    if path in ("/v1/messages", "/v1/messages/count_tokens"):
        return Anthropic()
    return OpenAI() if path == "/v1/chat/completions" else None


def _text(content: Any) -> str:
    """Return the words of a content that is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text", "")) for block in content or [] if block.get("type") == "text")


_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class Anthropic:
    """The Messages API."""

    first = 3

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        """Return the request in our words."""
        return Seen(
            "anthropic",
            body.get("model", ""),
            _text(body.get("system")),
            tuple(self._message(message) for message in body.get("messages", [])),
            tuple(tool["name"] for tool in body.get("tools") or []),
            bool(body.get("stream")),
            headers,
            body,
        )

    def _message(self, message: dict[str, Any]) -> Message:
        content = message["content"]
        blocks = content if isinstance(content, list) else []
        return Message(
            message["role"],
            _text(content),
            tuple(ToolCall(b["name"], b["input"], b["id"]) for b in blocks if b["type"] == "tool_use"),
            tuple(
                ToolResult(b["tool_use_id"], _text(b.get("content")), bool(b.get("is_error")))
                for b in blocks
                if b["type"] == "tool_result"
            ),
        )

    def plain(self, seen: Seen, reply: Reply) -> object:
        """Return the whole answer."""
        text = [{"type": "text", "text": reply.text}] if reply.text else []
        calls = [
            {"type": "tool_use", "id": c.id, "name": c.tool, "input": dict(c.arguments)} for c in reply.calls
        ]
        usage = {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
        return self._body(seen, usage) | {"content": text + calls, "stop_reason": self._reason(reply)}

    def events(self, seen: Seen, reply: Reply) -> Iterator[tuple[str, object]]:
        """Yield the events of a stream."""
        for event in self._events(seen, reply):
            yield event["type"], event

    def _events(self, seen: Seen, reply: Reply) -> Iterator[dict[str, Any]]:
        message = self._body(seen, {"input_tokens": reply.input_tokens, "output_tokens": 1})
        yield {"type": "message_start", "message": message}
        blocks: list[tuple[dict[str, Any], str, str, str]] = []
        if reply.text:
            blocks.append(({"type": "text", "text": ""}, "text_delta", "text", reply.text))
        for call in reply.calls:
            block: dict[str, Any] = {"type": "tool_use", "id": call.id, "name": call.tool, "input": {}}
            blocks.append((block, "input_json_delta", "partial_json", json.dumps(dict(call.arguments))))
        for index, (start, kind, key, content) in enumerate(blocks):
            yield {"type": "content_block_start", "index": index, "content_block": start}
            for piece in _cut(content, reply.chunk):
                yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, key: piece}}
            yield {"type": "content_block_stop", "index": index}
        yield {
            "type": "message_delta",
            "delta": {"stop_reason": self._reason(reply), "stop_sequence": None},
            "usage": {"output_tokens": reply.output_tokens},
        }
        yield {"type": "message_stop"}

    def _reason(self, reply: Reply) -> str:
        return "tool_use" if reply.calls else "end_turn"

    def _body(self, seen: Seen, usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": unique("msg"),
            "type": "message",
            "role": "assistant",
            "model": seen.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def error(self, status: int, message: str) -> object:
        """Return the body of an error."""
        kind = _ANTHROPIC_ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": unique("req")}


class OpenAI:
    """The Chat Completions API."""

    first = 2

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        """Return the request in our words."""
        messages = body.get("messages", [])
        system = [_text(m.get("content")) for m in messages if m["role"] in ("system", "developer")]
        return Seen(
            "openai",
            body.get("model", ""),
            "\n\n".join(system),
            self._messages(m for m in messages if m["role"] not in ("system", "developer")),
            tuple(tool["function"]["name"] for tool in body.get("tools") or []),
            bool(body.get("stream")),
            headers,
            body,
        )

    def _messages(self, messages: Iterator[dict[str, Any]]) -> tuple[Message, ...]:
        found: list[Message] = []
        for message in messages:
            new = self._message(message)
            if found and new.role == found[-1].role == "user":
                last = found.pop()
                new = Message("user", last.text + new.text, (), last.results + new.results)
            found.append(new)
        return tuple(found)

    def _message(self, message: dict[str, Any]) -> Message:
        text = _text(message.get("content"))
        if message["role"] == "tool":
            return Message("user", results=(ToolResult(message["tool_call_id"], text),))
        calls = [(c["function"], c["id"]) for c in message.get("tool_calls") or []]
        return Message(
            message["role"],
            text,
            tuple(ToolCall(f["name"], json.loads(f["arguments"] or "{}"), id_) for f, id_ in calls),
        )

    def plain(self, seen: Seen, reply: Reply) -> object:
        """Return the whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": None}
        if reply.calls:
            message["tool_calls"] = [self._call(c, json.dumps(dict(c.arguments))) for c in reply.calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(reply)}
        return self._body(seen, "chat.completion", [choice]) | {"usage": self._usage(reply)}

    def events(self, seen: Seen, reply: Reply) -> Iterator[tuple[str, object]]:
        """Yield the events of a stream."""
        body = self._body(seen, "chat.completion.chunk", [])
        for delta in self._deltas(reply):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            yield "", body | {"choices": [choice]}
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._reason(reply)}
        yield "", body | {"choices": [last]}
        if (seen.body.get("stream_options") or {}).get("include_usage"):
            yield "", body | {"usage": self._usage(reply)}
        yield "", "[DONE]"

    def _deltas(self, reply: Reply) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        for piece in _cut(reply.text, reply.chunk):
            yield {"content": piece}
        for index, call in enumerate(reply.calls):
            yield {"tool_calls": [{"index": index, **self._call(call, "")}]}
            for piece in _cut(json.dumps(dict(call.arguments)), reply.chunk):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _call(self, call: ToolCall, arguments: str) -> dict[str, Any]:
        return {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": arguments}}

    def _reason(self, reply: Reply) -> str:
        return "tool_calls" if reply.calls else "stop"

    def _usage(self, reply: Reply) -> dict[str, int]:
        total = reply.input_tokens + reply.output_tokens
        return {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": total,
        }

    def _body(self, seen: Seen, kind: str, choices: list[Any]) -> dict[str, Any]:
        # A fixed time of creation: nothing here depends on the clock.
        return {
            "id": unique("chatcmpl"),
            "object": kind,
            "created": 0,
            "model": seen.model,
            "choices": choices,
        }

    def error(self, status: int, message: str) -> object:
        """Return the body of an error."""
        kind, code = {
            401: ("invalid_request_error", "invalid_api_key"),
            429: ("requests", "rate_limit_exceeded"),
        }.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def unique(prefix: str) -> str:
    """Return an id that nobody has."""
    return f"{prefix}_{uuid.uuid4().hex[:16]}"


def _cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), max(1, size))]
