"""How Google writes a conversation on the wire: `generateContent` of the Gemini API, also streamed.

`model_formats.py` picks it by the path, which also names the model. Nothing here does any input or output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tollboard.testing.model_wire import Message, Reply, Seen, ToolCall, ToolResult, cut, merged, unique

_PATH = re.compile(
    r"^/(?:v1|v1beta|v1beta1)/models/([^/:?]+):(generateContent|streamGenerateContent)(?:\?|$)"
)
_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
           429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gemini:
    """The API of Google."""

    model: str
    streamed: bool
    first: ClassVar[int] = 1

    @classmethod
    def at(cls, path: str) -> Gemini | None:
        """Return the format for a path, None where another one is spoken."""
        found = _PATH.match(path)
        return None if found is None else cls(found[1], found[2].startswith("stream"))

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        """Return the request in our words."""
        system = (body.get("systemInstruction") or {}).get("parts") or []
        declared = [
            each for tool in body.get("tools") or [] for each in tool.get("functionDeclarations") or []
        ]
        return Seen(
            "google",
            self.model,
            "\n".join(str(part.get("text", "")) for part in system),
            merged(self._message(content) for content in body.get("contents") or []),
            tuple(each["name"] for each in declared),
            self.streamed,
            headers,
            body,
        )

    def _message(self, content: dict[str, Any]) -> Message:
        parts = content.get("parts") or []
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        results = [part["functionResponse"] for part in parts if "functionResponse" in part]
        return Message(
            "assistant" if content.get("role") == "model" else "user",
            "\n".join(str(part["text"]) for part in parts if part.get("text")),
            tuple(ToolCall(c["name"], c.get("args") or {}, c.get("id") or c["name"]) for c in calls),
            tuple(ToolResult(r.get("id") or r["name"], _words(r.get("response"))) for r in results),
        )

    def plain(self, seen: Seen, reply: Reply) -> object:
        """Return the whole answer."""
        text = [{"text": reply.text}] if reply.text else []
        return self._body([*text, *self._calls(reply)], reply, unique("resp"), last=True)

    def events(self, seen: Seen, reply: Reply) -> Iterator[tuple[str, object]]:
        """Yield the events of a stream: the last one says how it ended."""
        pieces: list[list[dict[str, Any]]] = [[{"text": piece}] for piece in cut(reply.text, reply.chunk)]
        pieces.extend([call] for call in self._calls(reply))
        id = unique("resp")  # another id in the same stream means that the client's library resumed it
        for parts in pieces:
            yield "", self._body(parts, reply, id, last=False)
        yield "", self._body([], reply, id, last=True)

    def _calls(self, reply: Reply) -> list[dict[str, Any]]:
        return [
            {"functionCall": {"id": c.id, "name": c.tool, "args": json.loads(c.text)}} for c in reply.calls
        ]

    def _body(self, parts: list[dict[str, Any]], reply: Reply, id: str, *, last: bool) -> dict[str, Any]:
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": parts}}
        reason = "STOP" if reply.reason is None else reply.reason
        if last and reason:
            candidate["finishReason"] = reason
        if last and reply.refusal:
            candidate["finishMessage"] = reply.refusal
        body: dict[str, Any] = {
            "candidates": [candidate], "modelVersion": self.model, "responseId": id
        }  # fmt: skip
        if last and reply.usage:
            body["usageMetadata"] = {
                "promptTokenCount": reply.input_tokens,
                "candidatesTokenCount": reply.output_tokens,
                "totalTokenCount": reply.input_tokens + reply.output_tokens,
            }
        return body

    def error(self, status: int, message: str, code: str = "") -> object:
        """Return the body of an error."""
        named = code or _STATUS.get(status, "INTERNAL")
        return {"error": {"code": status, "message": message, "status": named}}

    def failure(self, message: str) -> tuple[str, object]:
        """Return the event of an error inside a stream."""
        return "", self.error(500, message)


def _words(response: Any) -> str:
    """Return what a tool gave: clients wrap texts into an object."""
    if isinstance(response, dict) and len(response) == 1:
        (value,) = response.values()
        if isinstance(value, str):
            return value
    return json.dumps(response, ensure_ascii=False)
