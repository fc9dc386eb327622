"""What a stand-in for a model's API is told and sees, and what a format on the wire has to do for it.

The formats are in `model_formats.py`; `model_api.py` serves them. Import the values from there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

# --- what a test says and sees ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool the model calls. Without an id it gets a unique one."""

    tool: str
    arguments: Mapping[str, object]
    id: str | None = None
    raw: str | None = None
    """The arguments as the model writes them, where that is no JSON, or JSON of an odd kind."""

    @property
    def text(self) -> str:
        """The arguments as they go out."""
        return json.dumps(dict(self.arguments)) if self.raw is None else self.raw


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
    reason: str | None = None
    """The provider's word for how the answer ended, such as `length` or `max_tokens`; empty: it never says so. By
    default the word that fits the answer."""
    refusal: str = ""
    """What the provider says of a refusal, where its format has a place for that."""
    stop_after: int | None = None
    """End the stream cleanly after so many of its events, as a proxy does that has lost its provider."""
    fail: str = ""
    """Send the first piece, then an error of these words inside the stream."""
    usage: bool = True
    """Whether tokens are reported; many compatible servers report none when they stream."""
    code: str = ""
    """The provider's code of an HTTP error, such as `context_length_exceeded`."""


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
    """`anthropic`, `openai` or `google`."""
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


# --- what a format does  --------------------------------------------------------------------------------------------


class Wire(Protocol):
    """How a provider writes a request, an answer, the events of a streamed answer, and an error."""

    @property
    def first(self) -> int:
        """How many events of a stream have gone out with the first piece of text."""
        ...

    def read(self, body: dict[str, Any], headers: dict[str, str]) -> Seen:
        """Return the request in our words; what is no request raises one of the errors of a wrong shape."""
        ...

    def plain(self, seen: Seen, reply: Reply) -> object:
        """Return the body of an answer that is not streamed."""
        ...

    def events(self, seen: Seen, reply: Reply) -> Iterator[tuple[str, object]]:
        """Yield the events of a streamed answer: a name or nothing, and the data; a string goes out as it is."""
        ...

    def error(self, status: int, message: str, code: str = "") -> object:
        """Return the body of an HTTP error."""
        ...

    def failure(self, message: str) -> tuple[str, object]:
        """Return the event of an error inside a stream."""
        ...


def text_of(content: Any) -> str:
    """Return the words of a content that is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    kinds = ("text", "input_text", "output_text")
    return "\n".join(str(block.get("text", "")) for block in content or [] if block.get("type") in kinds)


def merged(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Return the messages with neighbours of one role made one."""
    found: list[Message] = []
    for new in messages:
        if found and new.role == found[-1].role:
            last = found.pop()
            text = "\n".join(filter(None, (last.text, new.text)))
            new = Message(new.role, text, last.calls + new.calls, last.results + new.results)
        found.append(new)
    return tuple(found)


def unique(prefix: str) -> str:
    """Return an id that nobody has."""
    return f"{prefix}_{uuid.uuid4().hex[:16]}"


def cut(text: str, size: int) -> list[str]:
    """Return the text in pieces of a size."""
    return [text[at : at + size] for at in range(0, len(text), max(1, size))]
