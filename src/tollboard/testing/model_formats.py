"""How Anthropic and OpenAI write a conversation on the wire: requests, answers, events of a stream, errors.

`model_api.py` asks `wire_of` which format a path speaks; Google's is in `model_gemini.py`. Nothing here does any input
or output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tollboard.testing.model_gemini import Gemini
from tollboard.testing.model_wire import (
    Message,
    Reply,
    Seen,
    ToolCall,
    ToolResult,
    Wire,
    cut,
    merged,
    text_of,
    unique,
)

_SYSTEM = ("system", "developer")


def wire_of(path: str) -> Wire | None:
    """Return the format that is spoken at a path, None for no one's."""
    if (gemini := Gemini.at(path)) is not None:
        return gemini
    match path.partition("?")[0]:
        case "/v1/messages" | "/v1/messages/count_tokens":
            return Messages()
        case "/v1/chat/completions":
            return ChatCompletions()
        case "/v1/responses":
            return Responses()
        case _:
            return None


_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class Messages:
    """The API of Anthropic."""

    first = 3

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        """Return the request in our words."""
        return Seen(
            "anthropic",
            body.get("model", ""),
            text_of(body.get("system")),
            merged(self._message(message) for message in body.get("messages", [])),
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
            text_of(content),
            tuple(ToolCall(b["name"], b["input"], b["id"]) for b in blocks if b["type"] == "tool_use"),
            tuple(
                ToolResult(b["tool_use_id"], text_of(b.get("content")), bool(b.get("is_error")))
                for b in blocks
                if b["type"] == "tool_result"
            ),
        )

    def plain(self, seen: Seen, reply: Reply) -> object:
        """Return the whole answer."""
        text = [{"type": "text", "text": reply.text}] if reply.text else []
        calls = [
            {"type": "tool_use", "id": c.id, "name": c.tool, "input": json.loads(c.text)} for c in reply.calls
        ]
        usage = self._usage(reply, reply.output_tokens)
        return self._body(seen, usage) | {"content": text + calls, **self._ended(reply)}

    def events(self, seen: Seen, reply: Reply) -> Iterator[tuple[str, object]]:
        """Yield the events of a stream."""
        for event in self._events(seen, reply):
            yield event["type"], event

    def _events(self, seen: Seen, reply: Reply) -> Iterator[dict[str, Any]]:
        message = self._body(seen, self._usage(reply, 1))
        yield {"type": "message_start", "message": message}
        blocks: list[tuple[dict[str, Any], str, str, str]] = []
        if reply.text:
            blocks.append(({"type": "text", "text": ""}, "text_delta", "text", reply.text))
        for call in reply.calls:
            block: dict[str, Any] = {"type": "tool_use", "id": call.id, "name": call.tool, "input": {}}
            blocks.append((block, "input_json_delta", "partial_json", call.text))
        for index, (start, kind, key, content) in enumerate(blocks):
            yield {"type": "content_block_start", "index": index, "content_block": start}
            for piece in cut(content, reply.chunk):
                yield {"type": "content_block_delta", "index": index, "delta": {"type": kind, key: piece}}
            yield {"type": "content_block_stop", "index": index}
        yield {
            "type": "message_delta",
            "delta": {"stop_sequence": None, **self._ended(reply)},
            "usage": {"output_tokens": reply.output_tokens if reply.usage else 0},
        }
        yield {"type": "message_stop"}

    def _ended(self, reply: Reply) -> dict[str, Any]:
        said = reply.reason
        if said is None:
            said = "tool_use" if reply.calls else "end_turn"
        refused = {"type": "refusal", "category": None, "explanation": reply.refusal}
        return {"stop_reason": said or None, **({"stop_details": refused} if reply.refusal else {})}

    def _usage(self, reply: Reply, output_tokens: int) -> dict[str, int]:
        if not reply.usage:
            return {"input_tokens": 0, "output_tokens": 0}
        return {"input_tokens": reply.input_tokens, "output_tokens": output_tokens}

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

    def error(self, status: int, message: str, code: str = "") -> object:
        """Return the body of an error."""
        kind = code or _ANTHROPIC_ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": unique("req")}

    def failure(self, message: str) -> tuple[str, object]:
        """Return the event of an error inside a stream."""
        return "error", self.error(500, message)


class ChatCompletions:
    """The older API of OpenAI, which most compatible servers speak."""

    first = 2

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        """Return the request in our words."""
        messages = body.get("messages", [])
        system = [text_of(m.get("content")) for m in messages if m["role"] in _SYSTEM]
        return Seen(
            "openai",
            body.get("model", ""),
            "\n\n".join(system),
            merged(self._message(m) for m in messages if m["role"] not in _SYSTEM),
            tuple(tool["function"]["name"] for tool in body.get("tools") or []),
            bool(body.get("stream")),
            headers,
            body,
        )

    def _message(self, message: dict[str, Any]) -> Message:
        text = text_of(message.get("content"))
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
        message: dict[str, Any] = {
            "role": "assistant",
            "content": reply.text or None,
            "refusal": reply.refusal or None,
        }
        if reply.calls:
            message["tool_calls"] = [self._call(c, c.text) for c in reply.calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason(reply)}
        usage = self._usage(reply) if reply.usage else None
        return self._body(seen, "chat.completion", [choice]) | {"usage": usage}

    def events(self, seen: Seen, reply: Reply) -> Iterator[tuple[str, object]]:
        """Yield the events of a stream."""
        body = self._body(seen, "chat.completion.chunk", [])
        for delta in self._deltas(reply):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            yield "", body | {"choices": [choice]}
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._reason(reply)}
        yield "", body | {"choices": [last]}
        if reply.usage and (seen.body.get("stream_options") or {}).get("include_usage"):
            yield "", body | {"usage": self._usage(reply)}
        yield "", "[DONE]"

    def _deltas(self, reply: Reply) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        for piece in cut(reply.text, reply.chunk):
            yield {"content": piece}
        if reply.refusal:
            yield {"refusal": reply.refusal}
        for index, call in enumerate(reply.calls):
            yield {"tool_calls": [{"index": index, **self._call(call, "")}]}
            for piece in cut(call.text, reply.chunk):
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    def _call(self, call: ToolCall, arguments: str) -> dict[str, Any]:
        return {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": arguments}}

    def _reason(self, reply: Reply) -> str | None:
        if reply.reason is not None:
            return reply.reason or None
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

    def error(self, status: int, message: str, code: str = "") -> object:
        """Return the body of an error."""
        return _openai_error(status, message, code)

    def failure(self, message: str) -> tuple[str, object]:
        """Return the event of an error inside a stream."""
        return "", self.error(500, message)


class Responses:
    """The newer API of OpenAI, which `openai:` models of Pydantic AI speak."""

    first = 4

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        """Return the request in our words."""
        given = body.get("input", [])
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        system = [body.get("instructions") or ""]
        system += [text_of(item.get("content")) for item in items if item.get("role") in _SYSTEM]
        return Seen(
            "openai",
            body.get("model", ""),
            "\n\n".join(filter(None, system)),
            merged(self._message(item) for item in items if item.get("role") not in _SYSTEM),
            tuple(tool["name"] for tool in body.get("tools") or [] if tool["type"] == "function"),
            bool(body.get("stream")),
            headers,
            body,
        )

    def _message(self, item: dict[str, Any]) -> Message:
        match item.get("type", "message"):
            case "function_call_output":
                return Message("user", results=(ToolResult(item["call_id"], text_of(item["output"])),))
            case "function_call":
                call = ToolCall(item["name"], json.loads(item["arguments"] or "{}"), item["call_id"])
                return Message("assistant", calls=(call,))
            case "message":
                return Message(item["role"], text_of(item.get("content")))
            case other:
                raise ValueError(f"the stand-in knows no item of type {other!r}")

    def plain(self, seen: Seen, reply: Reply) -> object:
        """Return the whole answer."""
        output = [item for _, item, _ in self._items(reply)]
        return self._body(seen, "completed") | self._ended(reply) | {"output": output}

    def events(self, seen: Seen, reply: Reply) -> Iterator[tuple[str, object]]:
        """Yield the events of a stream."""
        for number, event in enumerate(self._events(seen, reply)):
            yield event["type"], event | {"sequence_number": number}

    def _events(self, seen: Seen, reply: Reply) -> Iterator[dict[str, Any]]:
        body = self._body(seen, "in_progress")
        yield {"type": "response.created", "response": body}
        items = list(self._items(reply))
        for index, (start, item, content) in enumerate(items):
            place = {"item_id": item["id"], "output_index": index}
            yield {"type": "response.output_item.added", "output_index": index, "item": start}
            yield from (
                self._text(place, item, content, reply)
                if item["type"] == "message"
                else self._call(place, content, reply)
            )
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        if reply.reason == "":
            return
        ended = self._ended(reply)
        done = {"output": [item for _, item, _ in items], **ended}
        yield {"type": f"response.{ended['status']}", "response": body | done}

    def _ended(self, reply: Reply) -> dict[str, Any]:
        usage = {"usage": self._usage(reply) if reply.usage else None}
        match reply.reason:
            case None | "completed":
                return {"status": "completed", **usage}
            case "failed":
                return {
                    "status": "failed",
                    "error": {"code": "server_error", "message": reply.refusal},
                    **usage,
                }
            case reason:
                details = {"reason": reason} if reason else None
                return {"status": "incomplete", "incomplete_details": details, **usage}

    def _items(self, reply: Reply) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
        """Yield the items of an answer: as they begin, as they end, and what is streamed in between."""
        if reply.text:
            item = {"type": "message", "id": unique("msg"), "role": "assistant", "status": "completed"}
            part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
            yield item | {"status": "in_progress", "content": []}, item | {"content": [part]}, reply.text
        for call in reply.calls:
            arguments = call.text
            item = {"type": "function_call", "id": unique("fc"), "call_id": str(call.id), "name": call.tool}
            yield (
                item | {"arguments": "", "status": "in_progress"},
                item | {"arguments": arguments, "status": "completed"},
                arguments,
            )

    def _text(
        self, place: dict[str, Any], item: dict[str, Any], content: str, reply: Reply
    ) -> Iterator[dict[str, Any]]:
        place = place | {"content_index": 0}
        (part,) = item["content"]
        yield {"type": "response.content_part.added", **place, "part": part | {"text": ""}}
        for piece in cut(content, reply.chunk):
            yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **place, "text": content, "logprobs": []}
        yield {"type": "response.content_part.done", **place, "part": part}

    def _call(self, place: dict[str, Any], content: str, reply: Reply) -> Iterator[dict[str, Any]]:
        for piece in cut(content, reply.chunk):
            yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": content}

    def _usage(self, reply: Reply) -> dict[str, Any]:
        return {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.input_tokens + reply.output_tokens,
        }

    def _body(self, seen: Seen, status: str) -> dict[str, Any]:
        return {
            "id": unique("resp"),
            "object": "response",
            "created_at": 0,
            "model": seen.model,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    def error(self, status: int, message: str, code: str = "") -> object:
        """Return the body of an error."""
        return _openai_error(status, message, code)

    def failure(self, message: str) -> tuple[str, object]:
        """Return the event of an error inside a stream."""
        event = {"type": "error", "code": "server_error", "message": message, "param": None}
        return "error", event | {"sequence_number": 99}


def _openai_error(status: int, message: str, code: str) -> object:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    named = code or {401: "invalid_api_key", 429: "rate_limit_exceeded"}.get(status)
    return {"error": {"message": message, "type": kind, "param": None, "code": named}}
