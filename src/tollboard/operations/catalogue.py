"""The catalogue: every operation once. HTTP routes, the client's calls and MCP tools are made from it (S20).

An operation has a name, typed arguments (unknown ones are refused), a result, the capability it needs, and how it runs
on a `Board`. To add one: an entry here, and a verb on the board if the verb is new.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from tollboard.fleet import records
from tollboard.fleet.board import (
    DEFAULT_BACKEND,
    DEFAULT_READER,
    MAX_FEED_PAGE,
    MAX_PAGE,
    MAX_PROMPT_BYTES,
    MAX_SUMMARY_BYTES,
    MAX_WAIT_S,
    Board,
)
from tollboard.operations.access import Capability

READ, SEND, APPROVE, ADMIN = Capability.READ, Capability.SEND, Capability.APPROVE, Capability.ADMIN

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="A session's name, or its id.")]
Ref = Annotated[str, Field(min_length=1, max_length=64, description="What `send` returned.")]
Kinds = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=50)]


class Arguments(BaseModel):
    """Arguments of an operation: nothing unknown, nothing converted that would hide a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NoArguments(Arguments):
    """Takes nothing."""


class Start(Arguments):
    """See `Board.start_session`."""

    name: Name
    path: Annotated[str, Field(min_length=1, max_length=4096)]
    backend: Annotated[str, Field(min_length=1, max_length=64)] = DEFAULT_BACKEND
    options: dict[str, Any] = Field(default_factory=dict)


class ListSessions(Arguments):
    """See `Board.list_sessions`."""

    all: bool = False


class OfSession(Arguments):
    """Names a session."""

    name: Name


class Stop(OfSession):
    """See `Board.stop_session`."""

    drain: bool = False


class Send(OfSession):
    """See `Board.send`."""

    prompt: Annotated[str, Field(max_length=MAX_PROMPT_BYTES)]
    queue: bool = False
    key: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class OfRequest(OfSession):
    """Names a request of a session."""

    ref: Ref


class Wait(Arguments):
    """See `Board.wait`."""

    refs: Annotated[list[Ref], Field(min_length=1, max_length=10_000)]
    timeout: Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] | None = None
    mode: Literal["all", "any"] = "all"


class Broadcast(Arguments):
    """See `Board.broadcast`."""

    prompt: Annotated[str, Field(max_length=MAX_PROMPT_BYTES)]
    names: Annotated[list[Name], Field(max_length=10_000)] | None = None


class InboxArguments(Arguments):
    """See `Board.inbox`."""

    name: Name | None = None
    ack: bool = False
    reader: Name = DEFAULT_READER
    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_S, allow_inf_nan=False)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


class Ack(OfSession):
    """See `Board.ack`."""

    seq: Annotated[int, Field(ge=0, lt=2**62)]
    reader: Name = DEFAULT_READER


class TranscriptArguments(OfSession):
    """See `Board.transcript`."""

    limit: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    before: Annotated[int, Field(ge=1, lt=2**62)] | None = None


class SummaryGet(OfSession):
    """See `Board.summary_get`."""

    version: Annotated[int, Field(ge=0, lt=2**62)] | None = None


class SummaryUpdate(OfSession):
    """See `Board.summary_update`."""

    text: Annotated[str, Field(max_length=MAX_SUMMARY_BYTES)]


class Events(Arguments):
    """See `Board.events`."""

    name: Name | None = None
    kinds: Kinds = Field(default_factory=list)
    ref: Ref | None = None
    after: Annotated[int, Field(ge=0, lt=2**62)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_FEED_PAGE)] = MAX_FEED_PAGE


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


class Decide(Arguments):
    """See `Board.decide`."""

    approval_id: Annotated[str, Field(min_length=1, max_length=64)]
    decision: dict[str, Any]


A = TypeVar("A", bound=Arguments)
R = TypeVar("R")


@dataclass(frozen=True)
class Operation(Generic[A, R]):
    """One entry of the catalogue."""

    name: str
    summary: str
    arguments: type[A]
    result: TypeAdapter[R]
    needs: Capability
    run: Callable[[Board, A], Awaitable[R]]

    @property
    def mutates(self) -> bool:
        """Whether it changes anything."""
        return self.needs is not Capability.READ


AnyOperation = Operation[Any, Any]
OPERATIONS: dict[str, AnyOperation] = {}


def _add(
    name: str, summary: str, arguments: type[A], result: Any, needs: Capability,
    run: Callable[[Board, A], Awaitable[Any]],
) -> None:  # fmt: skip
    OPERATIONS[name] = Operation(name, summary, arguments, TypeAdapter(result), needs, run)


Poll = Annotated[records.Poll, Field(discriminator="status")]

# -- sessions
_add("start_session", "Start a session on a directory.", Start, records.SessionStatus, SEND,
     lambda b, a: b.start_session(a.name, path=a.path, backend=a.backend, **a.options))  # fmt: skip
_add("list_sessions", "List the sessions of the fleet.", ListSessions, tuple[records.SessionStatus, ...], READ,
     lambda b, a: b.list_sessions(all=a.all))  # fmt: skip
_add("status", "How a session stands.", OfSession, records.SessionStatus, READ, lambda b, a: b.status(a.name))
_add("stop_session", "End a session and its processes; its history stays.", Stop, records.StopReport, SEND,
     lambda b, a: b.stop_session(a.name, drain=a.drain))  # fmt: skip
_add("delete_session", "Remove a stopped session with its history.", OfSession, records.Deleted, ADMIN,
     lambda b, a: b.delete_session(a.name))  # fmt: skip
_add("backends", "List backends and whether each could work here.", NoArguments, tuple[records.BackendInfo, ...], READ,
     lambda b, _: b.backends())  # fmt: skip
# -- prompts
_add("send", "Accept a prompt; its ref is durable when this returns.", Send, str, SEND,
     lambda b, a: b.send(a.name, a.prompt, queue=a.queue, key=a.key))  # fmt: skip
_add("poll", "How a request stands.", OfRequest, Poll, READ, lambda b, a: b.poll(a.name, a.ref))
_add("wait", "Wait until requests have ended.", Wait, records.WaitReport, READ,
     lambda b, a: b.wait(a.refs, timeout=a.timeout, mode=a.mode))  # fmt: skip
_add("broadcast", "Queue a prompt on many sessions.", Broadcast, tuple[records.BroadcastItem, ...], SEND,
     lambda b, a: b.broadcast(a.prompt, names=a.names))  # fmt: skip
_add(
    "cancel",
    "Withdraw a queued request.",
    OfRequest,
    records.Receipt,
    SEND,
    lambda b, a: b.cancel(a.name, a.ref),
)
# -- reading
_add("inbox", "Finished turns that a reader has not acknowledged.", InboxArguments, records.Inbox, READ,
     lambda b, a: b.inbox(a.name, ack=a.ack, reader=a.reader, wait=a.wait, limit=a.limit))  # fmt: skip
_add("ack", "Set a reader's cursor.", Ack, records.InboxSession, READ,
     lambda b, a: b.ack(a.name, a.seq, reader=a.reader))  # fmt: skip
_add("transcript", "The turns of a session.", TranscriptArguments, records.Transcript, READ,
     lambda b, a: b.transcript(a.name, limit=a.limit, before=a.before))  # fmt: skip
_add("summary_get", "The manager's summary of a session.", SummaryGet, records.Summary, READ,
     lambda b, a: b.summary_get(a.name, version=a.version))  # fmt: skip
_add("summary_update", "Write a new version of the summary.", SummaryUpdate, records.Summary, SEND,
     lambda b, a: b.summary_update(a.name, a.text))  # fmt: skip
_add("summary_versions", "Every version of the summary.", OfSession, tuple[records.Summary, ...], READ,
     lambda b, a: b.summary_versions(a.name))  # fmt: skip
_add("events", "One page of the feed.", Events, records.FeedPage, READ,
     lambda b, a: b.events(a.name, kinds=a.kinds, ref=a.ref, after=a.after, limit=a.limit))  # fmt: skip
# -- control
_add("interrupt", "End the turn in flight.", Interrupt, records.Interrupted, SEND,
     lambda b, a: b.interrupt(a.name, ref=a.ref))  # fmt: skip
_add(
    "halt",
    "Freeze a mailbox, or all.",
    HaltOrResume,
    records.HaltReport,
    SEND,
    lambda b, a: b.halt(a.name, all=a.all),
)
_add("resume", "Release what was frozen.", HaltOrResume, records.HaltReport, SEND,
     lambda b, a: b.resume(a.name, all=a.all))  # fmt: skip
_add("approvals", "Guarded calls that wait for a person.", Approvals, tuple[records.ApprovalRecord, ...], READ,
     lambda b, a: b.approvals(a.name, all=a.all))  # fmt: skip
_add("decide", "Answer an approval.", Decide, records.ApprovalRecord, APPROVE,
     lambda b, a: b.decide(a.approval_id, a.decision))  # fmt: skip
