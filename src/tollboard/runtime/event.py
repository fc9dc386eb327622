"""The items of a backend's stream. Values only; `repr` never shows content (R49)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar


def slot_setters(cls: type[Any]) -> list[Callable[[object, object], None]]:
    """Return what writes each field of a frozen, slotted dataclass, for the `__init__` of one that every turn makes.

    The one that `dataclass` writes calls `object.__setattr__`, which looks each slot up again: twice the time.
    """
    return [cls.__dict__[each.name].__set__ for each in fields(cls)]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and cost of one turn as the provider reported them; `None` means not reported, never zero.

    `input_tokens` counts everything the model read: also what came from a cache and what was written to one. Those are
    in `cache_read_tokens` and `cache_creation_tokens` besides.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_creation_tokens: int | None = None
    cost_usd: float | None = None

    def plus(self, other: Usage | None) -> Usage:
        """Return the sum; what only one of them reports is counted as it is."""
        if other is None:
            return self
        pairs = [(getattr(self, each), getattr(other, each)) for each in USAGE_FIELDS]
        return Usage(*(mine if theirs is None else theirs + (mine or 0) for mine, theirs in pairs))


USAGE_FIELDS = tuple(each.name for each in fields(Usage))


@dataclass(frozen=True, slots=True, init=False)
class TextEvent:
    """A piece of the agent's text. Pieces with the same `message` belong to one message."""

    kind: ClassVar[str] = "text"
    text: str = field(repr=False)
    message: str = ""

    def __init__(self, text: str, message: str = "") -> None:
        _set_text(self, text)
        _set_message(self, message)

    def size(self) -> int:
        """Return roughly how many bytes of content this carries."""
        return len(self.text)


@dataclass(frozen=True, slots=True)
class ToolUseEvent:
    """The agent calls a tool."""

    kind: ClassVar[str] = "tool_use"
    id: str
    tool: str
    arguments: Mapping[str, object] = field(repr=False, default_factory=dict)

    def size(self) -> int:
        """Return roughly how many bytes of content this carries."""
        return len(repr(self.arguments))


@dataclass(frozen=True, slots=True)
class ToolResultEvent:
    """What a tool answered."""

    kind: ClassVar[str] = "tool_result"
    id: str
    content: str = field(repr=False)
    is_error: bool = False

    def size(self) -> int:
        """Return roughly how many bytes of content this carries."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """A usage report inside the turn; the last one counts."""

    kind: ClassVar[str] = "usage"
    usage: Usage

    def size(self) -> int:
        """Return roughly how many bytes of content this carries."""
        return 0


@dataclass(frozen=True, slots=True)
class NoticeEvent:
    """Something the backend wants a person to know: a retry, a rate limit, a changed setting.

    An `alarm` keeps the agent from its work: it is shown beside the session until the agent speaks again, or a turn of
    it completes. `retry_at` is when the next attempt is made, in Unix seconds.
    """

    kind: ClassVar[str] = "notice"
    name: str
    message: str = field(repr=False, default="")
    alarm: bool = False
    retry_at: float | None = None

    def size(self) -> int:
        """Return roughly how many bytes of content this carries."""
        return len(self.message)


@dataclass(frozen=True, slots=True, init=False)
class ResultEvent:
    """The successful end of the stream. `text` is the final answer; `None` means: join the text events.

    `session`, if given, replaces the backend session, and only on success (E18). `note` tells a reader of the answer
    what is wrong with it, such as that its end is missing; empty: nothing.
    """

    kind: ClassVar[str] = "result"
    text: str | None = field(repr=False, default=None)
    usage: Usage | None = None
    session: object | None = field(repr=False, default=None)
    note: str = ""

    def __init__(
        self, text: str | None = None, usage: Usage | None = None, session: object = None, note: str = ""
    ) -> None:
        _set_result_text(self, text)
        _set_result_usage(self, usage)
        _set_result_session(self, session)
        _set_result_note(self, note)

    def size(self) -> int:
        """Return roughly how many bytes of content this carries."""
        return 0 if self.text is None else len(self.text)


class ErrorCause(StrEnum):
    """What a failed turn failed for, as far as the backend can tell: whether the same prompt may succeed follows."""

    REFUSED = "refused"
    """The provider refused the key, the quota, the model or the request: the same again is refused again."""
    OVERLOADED = "overloaded"
    """The provider is overloaded, limits the rate, failed, or could not be reached: later it may succeed."""
    OVERFLOW = "overflow"
    """The conversation is longer than the model takes: in a new conversation the prompt may succeed."""
    BROKEN = "broken"
    """The session's own program or connection failed: another session may succeed."""


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The failed end of the stream. `message` is for people and may quote the provider.

    `cause` is `None` where the backend cannot tell; `retry_after_s` is how long the provider asks to wait.
    """

    kind: ClassVar[str] = "error"
    message: str = field(repr=False)
    usage: Usage | None = None
    cause: ErrorCause | None = None
    retry_after_s: float | None = None
    interrupted: bool = False
    """Whether what worked on it ended in the middle, rather than that it failed."""

    def size(self) -> int:
        """Return roughly how many bytes of content this carries."""
        return len(self.message)


_set_text, _set_message = slot_setters(TextEvent)
_set_result_text, _set_result_usage, _set_result_session, _set_result_note = slot_setters(ResultEvent)

Event = TextEvent | ToolUseEvent | ToolResultEvent | UsageEvent | NoticeEvent | ResultEvent | ErrorEvent
TERMINAL = (ResultEvent, ErrorEvent)
