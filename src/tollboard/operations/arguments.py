"""What each operation takes, as JSON. Types and sizes are checked here; what a value means is the board's to judge.

So that a client gets the same error as a caller in the same process, a limit that the board checks itself is only
described here (`described`), for the schema. What the board need not know is refused here: unknown arguments,
conversions that would hide a mistake, text that is not Unicode, sizes that nobody means.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tollboard.errors import (
    ApprovalNotFound,
    InvalidOption,
    InvalidPath,
    RequestNotFound,
    SubAgentNotFound,
    TollboardError,
)
from tollboard.fleet.board import (
    DEFAULT_BACKEND,
    DEFAULT_READER,
    MAX_FEED_PAGE,
    MAX_PAGE,
    MAX_PROMPT_BYTES,
    MAX_SUMMARY_BYTES,
    MAX_WAIT_S,
)
from tollboard.ids import NAME_PATTERN, check_name

MAX_PATH = 4_096
MAX_LIST = 10_000
MAX_KINDS = 50
MAX_WORD = 200
"""Characters of a word that names something; longer ones name nothing and are not looked up."""
MAX_DEPTH = 64
_MAX_NUMBER = 2**62
_TAKEN = frozenset({"self", "name", "path", "backend"})


def described(**schema: Any) -> Any:
    """Return a field with a limit that the board checks itself: it is only shown in the schema."""
    return Field(json_schema_extra=schema)


def is_unicode(text: str) -> bool:
    """Whether the text can be written: JSON may hold half of a surrogate pair, UTF-8 may not."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _is_word(text: str) -> bool:
    return len(text) <= MAX_WORD and is_unicode(text)


def check_word(text: str) -> str:
    """Return a name that may be looked up. Raises InvalidName for what can be none."""
    return text if _is_word(text) else check_name(text)


def _names(cls: type[TollboardError], what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not _is_word(text):
            raise cls(f"{text[:60]!r}… is not {what}")
        return text

    return AfterValidator(check)


def check_path(text: str) -> str:
    """Return a path that is not too long to be looked at. Raises InvalidPath."""
    if len(text) > MAX_PATH:
        raise InvalidPath(f"the path {text[:60]!r}… has {len(text):,} characters, {MAX_PATH:,} are allowed")
    return text


def _json(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what JSON can say in Python but nobody can keep or send back: NaN, half characters, endless depth."""
    todo: list[tuple[Any, int]] = [(value, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        match item:
            case dict():
                todo.extend((part, depth + 1) for pair in item.items() for part in pair)
            case list():
                todo.extend((part, depth + 1) for part in item)
            case str() if not is_unicode(item):
                raise ValueError("it holds text that is not valid Unicode (a lone surrogate)")
            case float() if not math.isfinite(item):
                raise ValueError("it holds a number that is not finite")
    return value


def _options(value: dict[str, Any]) -> dict[str, Any]:
    if taken := _TAKEN & value.keys():
        raise InvalidOption(f"{min(taken)} is not an option: give it beside the options")
    return value


NAMES_A_SESSION = NAME_PATTERN.replace("$", "(@[0-9]{1,6})?$")
Name = Annotated[
    str, AfterValidator(check_word), described(pattern=NAMES_A_SESSION),
    Field(description="A session's name, its id, or NAME@N for the N-th session that had the name."),
]  # fmt: skip
Ref = Annotated[
    str, _names(RequestNotFound, "the ref of a request"), described(maxLength=MAX_WORD),
    Field(description="What `send` returned."),
]  # fmt: skip
ApprovalId = Annotated[str, _names(ApprovalNotFound, "the id of an approval"), described(maxLength=MAX_WORD)]
SubAgentId = Annotated[str, _names(SubAgentNotFound, "the id of a sub-agent"), described(maxLength=MAX_WORD)]
Reader = Annotated[
    str, AfterValidator(check_word), described(pattern=NAME_PATTERN), Field(description="Who reads.")
]
Kinds = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=MAX_KINDS)]
Names = Annotated[list[Name], Field(max_length=MAX_LIST)]
Seconds = Annotated[float, described(minimum=0, maximum=MAX_WAIT_S)]
PromptText = Annotated[str, described(minLength=1, maxLength=MAX_PROMPT_BYTES)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json)]
FeedNumber = Annotated[int, Field(ge=0, lt=_MAX_NUMBER)]
Version = Annotated[int, Field(ge=0, lt=_MAX_NUMBER)]


class Arguments(BaseModel):
    """Arguments of an operation: nothing unknown, nothing converted that would hide a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NoArguments(Arguments):
    """Takes nothing."""


class Start(Arguments):
    """See `Board.start_session`."""

    name: Annotated[str, AfterValidator(check_word), described(pattern=NAME_PATTERN)]
    path: Annotated[str, AfterValidator(check_path), described(minLength=1, maxLength=MAX_PATH)]
    backend: Annotated[str, Field(max_length=MAX_WORD)] = DEFAULT_BACKEND
    options: Annotated[JsonObject, AfterValidator(_options)] = Field(
        default_factory=dict, description="The backend's own options and the runtime's."
    )


class ListSessions(Arguments):
    """See `Board.list_sessions`."""

    all: bool = False
    reader: Reader = DEFAULT_READER


class OfSession(Arguments):
    """Names a session."""

    name: Name


class Status(OfSession):
    """See `Board.status`."""

    reader: Reader = DEFAULT_READER


class Stop(OfSession):
    """See `Board.stop_session`."""

    drain: bool = False


class Send(OfSession):
    """See `Board.send`."""

    prompt: PromptText
    queue: bool = False
    key: Annotated[str, described(minLength=1, maxLength=200)] | None = None


class OfRequest(OfSession):
    """Names a request of a session."""

    ref: Ref


class Wait(Arguments):
    """See `Board.wait`."""

    refs: Annotated[list[Ref], described(minItems=1, maxItems=MAX_LIST)]
    timeout: Seconds | None = None
    mode: Literal["all", "any"] = "all"


class Broadcast(Arguments):
    """See `Board.broadcast`."""

    prompt: PromptText
    names: Names | None = None


class InboxArguments(Arguments):
    """See `Board.inbox`."""

    name: Name | None = None
    ack: bool = False
    reader: Reader = DEFAULT_READER
    wait: Seconds | None = None
    limit: Annotated[int, described(minimum=1, maximum=MAX_PAGE)] = 100


class Ack(OfSession):
    """See `Board.ack`."""

    seq: Annotated[int, described(minimum=0)]
    reader: Reader = DEFAULT_READER


class TranscriptArguments(OfSession):
    """See `Board.transcript`."""

    limit: Annotated[int, described(minimum=0, maximum=1_000_000)] | None = None
    before: Annotated[int, described(minimum=1)] | None = None


class SummaryGet(OfSession):
    """See `Board.summary_get`."""

    version: Version | None = None


class SummaryUpdate(OfSession):
    """See `Board.summary_update`."""

    text: Annotated[str, described(maxLength=MAX_SUMMARY_BYTES)]


class Events(Arguments):
    """See `Board.events`."""

    name: Name | None = None
    kinds: Kinds = Field(default_factory=list)
    ref: Ref | None = None
    after: FeedNumber = 0
    limit: Annotated[int, described(minimum=1, maximum=MAX_FEED_PAGE)] = MAX_FEED_PAGE


class Follow(BaseModel):
    """See `Board.tail`; as the query of an address, so numbers come as text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = None
    kind: Kinds = Field(default_factory=list)
    ref: Ref | None = None
    after: FeedNumber | None = None


class Interrupt(OfSession):
    """See `Board.interrupt`."""

    ref: Ref | None = None


class HaltOrResume(Arguments):
    """One session, or `all` of them."""

    name: Name | None = None
    all: bool = False


class Approvals(Arguments):
    """See `Board.approvals`."""

    name: Name | None = None
    all: bool = False


class SubAgents(OfSession):
    """See `Board.subagents`."""

    all: bool = False
    limit: Annotated[int, described(minimum=1, maximum=MAX_PAGE)] = MAX_PAGE


class OfSubAgent(Arguments):
    """Names a sub-agent."""

    id: SubAgentId


class SubAgentMessages(OfSubAgent):
    """See `Board.subagent_messages`."""

    after: FeedNumber = 0
    limit: Annotated[int, described(minimum=1, maximum=MAX_PAGE)] = MAX_PAGE


class Decide(Arguments):
    """See `Board.decide`."""

    approval_id: ApprovalId
    decision: Annotated[
        JsonObject,
        Field(
            description="`type` approve, edit (with `arguments`), reject (with `message`), or, for a question, answer "
            "(with `text`, `choose`, or `answers` by question)."
        ),
    ]
