"""What the Switchboard's verbs return: frozen values, the same in Python, over HTTP, in the CLI's JSON and in MCP.

Times are Unix seconds, durations seconds. Text that an agent or a tool wrote is data and is never interpreted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from tollboard.runtime import outcome
from tollboard.runtime.approval import ApprovalKind
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.event import Usage
from tollboard.runtime.question import Question
from tollboard.runtime.request import Origin


class Life(StrEnum):
    """Whether a session is part of the fleet."""

    LIVE = "live"
    STOPPED = "stopped"
    """Its history can still be read; its name is free."""
    DEAD = "dead"
    """It crashed and was not restarted, or could not be brought back at start-up; see `problem`."""


class TurnStatus(StrEnum):
    """How a turn of the history ended."""

    OK = "ok"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class RequestState(StrEnum):
    """How far a request has come."""

    QUEUED = "queued"
    STARTED = "started"
    ENDED = "ended"


class ApprovalState(StrEnum):
    """How an approval stands."""

    PENDING = "pending"
    APPROVED = "approved"
    EDITED = "edited"
    REJECTED = "rejected"
    ANSWERED = "answered"
    EXPIRED = "expired"
    """Its turn ended first: interrupted, timed out, stopped, or the daemon ended."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as the store keeps it."""

    id: str
    name: str
    path: str
    backend: str
    options: Mapping[str, object] = field(repr=False)
    life: Life
    halted: bool
    created_at: float
    stopped_at: float | None = None
    problem: str | None = None
    provider_session_id: str | None = None
    effective: Mapping[str, str] = field(default_factory=dict)
    turns: int = 0
    """The seq of the newest history entry; entries are numbered from 1 without gaps."""
    answered: bool = False
    """Whether a turn of it ever completed: only then is there a conversation that must not begin anew."""
    notice: str | None = None
    """Why it halted by itself."""
    background: tuple[BackgroundTask, ...] = ()
    """What ran in the background when this was read; of a live session the agent knows better."""


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """A session as it stands now. Costs the same whatever the length of its history."""

    id: str
    name: str
    path: str
    backend: str
    life: Life
    phase: Literal["idle", "processing", "stopped", "dead"]
    halted: bool
    needs_decision: bool
    queued: int
    in_flight: str | None
    turns: int
    created_at: float
    stopped_at: float | None
    provider_session_id: str | None
    asked: Mapping[str, str]
    """Model, permission mode and directory as they were asked for."""
    effective: Mapping[str, str]
    """The same as the provider reported them last, before a restart too; empty until it did."""
    alarms: tuple[str, ...]
    """Each difference between `asked` and `effective`, and whatever else a person should look at."""
    problem: str | None
    background: tuple[BackgroundTask, ...] = ()
    """What runs beside its turns, commands and sub-agents, each with the time it began."""
    unread: int = 0
    """Turns that the reader who asked has not acknowledged, of this session, whatever others have had its name."""
    address: str = ""
    """What names this session now: its name, or `NAME@N` for a stopped one whose name was used again."""


@dataclass(frozen=True, slots=True)
class SessionDefinition:
    """What a session was asked to be. A secret in `options` is a reference such as `$NAME`."""

    session: str
    path: str
    backend: str
    options: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished turn of a session's history.

    With the origin `agent` nobody asked: the agent began the turn by itself, because something in the background ended
    or was cut off, and `prompt` says what.
    """

    session: str
    session_id: str
    seq: int
    ref: str
    status: TurnStatus
    prompt: str = field(repr=False)
    text: str | None = field(repr=False)
    error: str | None = field(repr=False)
    """A short reason code and, after a colon, what happened; `None` when the turn is ok."""
    usage: Usage | None
    duration_s: float
    attempt: int
    started_at: float
    completed_at: float
    origin: Origin = Origin.TELL
    note: str | None = None
    """What is wrong with an answer that is ok otherwise, such as that its end is missing; `None`: nothing."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a request is on its way. `inferred` is true when the state was concluded, not reported (S22)."""

    ref: str
    session: str
    state: RequestState
    position: int | None
    """1 for the next in the mailbox; `None` unless queued."""
    accepted_at: float
    started_at: float | None
    ended_at: float | None
    outcome: str | None
    """`completed`, or the reason it ended with; `None` until it ended."""
    inferred: bool = False


@dataclass(frozen=True, slots=True)
class PollPending(outcome.Pending):
    """Queued or in flight."""

    receipt: Receipt
    status: Literal["pending"] = "pending"


@dataclass(frozen=True, slots=True)
class PollCompleted(outcome.Completed):
    """The turn completed."""

    receipt: Receipt
    text: str = field(repr=False)
    entry: Entry
    status: Literal["completed"] = "completed"

    @property
    def response(self) -> Entry:
        """Return what the turn came to: `text`, `usage`, `duration_s`, as a runtime's response has them."""
        return self.entry


@dataclass(frozen=True, slots=True)
class PollFailed(outcome.Failed):
    """The request ended without a response. `entry` is `None` if it never became a turn (cancelled, stopped)."""

    receipt: Receipt
    reason: str
    detail: str = field(repr=False)
    entry: Entry | None
    status: Literal["failed"] = "failed"


Poll = PollPending | PollCompleted | PollFailed


@dataclass(frozen=True, slots=True)
class WaitReport:
    """What is done and what is not. `timed_out` says that the limit came first."""

    done: tuple[Poll, ...]
    pending: tuple[Poll, ...]
    timed_out: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """One version of the manager's text on a session. Version 0 with empty text: nobody has written one."""

    session: str
    version: int
    text: str = field(repr=False)
    author: str
    at: float | None
    turns_since: int
    """How many turns have ended since it was written."""


@dataclass(frozen=True, slots=True)
class InboxSession:
    """One session's part of an inbox: what is new for this reader, with the summary."""

    session: str
    unread: int
    cursor: int
    """The seq this reader had acknowledged before this call."""
    acked: int
    """The seq after this call; the same as `cursor` unless `ack` was given."""
    summary: Summary
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Inbox:
    """New finished turns, newest last. `more` is true when there are more than were shown; ask again after an ack."""

    reader: str
    entries: tuple[Entry, ...]
    sessions: tuple[InboxSession, ...]
    approvals: int
    """How many approvals wait for a decision."""
    more: bool


@dataclass(frozen=True, slots=True)
class Transcript:
    """Turns of a session, oldest first. `next_before` continues towards older turns; `None` when there are none."""

    session: str
    session_id: str
    entries: tuple[Entry, ...]
    total: int
    next_before: int | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """What deleting a stopped session removed."""

    session: str
    id: str
    turns: int


@dataclass(frozen=True, slots=True)
class BroadcastItem:
    """One session's part of a broadcast: a ref, or the error's code and message."""

    session: str
    ref: str | None
    error: str | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Whether a turn was in flight and was ended."""

    session: str
    acted: bool
    ref: str | None


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """A queued request."""

    ref: str
    session: str
    accepted_at: float
    preview: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HaltReport:
    """What a halt froze or a resume released: the sessions it changed, and the queued requests."""

    sessions: tuple[str, ...]
    held: tuple[HeldRequest, ...]


@dataclass(frozen=True, slots=True)
class StopReport:
    """What stopping a session did. `unverified`: what could not be made sure of, in words."""

    session: str
    id: str
    failed: tuple[str, ...]
    """Refs that were queued or in flight and ended with `stopped`."""
    killed: tuple[int, ...]
    unverified: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """What waits, or waited, for a person: a guarded call, or questions to answer; `kind` says which."""

    id: str
    session: str
    ref: str
    path: str
    """Where in the tree of sub-agents it was asked; the session's name when the session itself asked."""
    tool: str
    arguments: Mapping[str, object] = field(repr=False)
    display: str = field(repr=False)
    allowed: tuple[str, ...]
    state: ApprovalState
    requested_at: float
    decided_at: float | None = None
    decided_by: str | None = None
    """Which surface and which client answered, e.g. `cli:alice`; for an expired one, why it expired."""
    decision: Mapping[str, object] | None = field(repr=False, default=None)
    kind: ApprovalKind = ApprovalKind.CALL
    questions: tuple[Question, ...] = field(repr=False, default=())
    """What is asked; empty for a call."""


class SubAgentState(StrEnum):
    """How a sub-agent of a session stands."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """It waits for a person's decision."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Somebody cancelled it, or the turn it worked for ended first: interrupted, stopped, or with the daemon."""


@dataclass(frozen=True, slots=True)
class SubAgentRecord:
    """One sub-agent of a session, from the moment it was announced. Texts are cut where they are long."""

    id: str
    session: str
    ref: str
    """The request whose turn it works for."""
    parent: str | None
    """The id of the sub-agent that started it; `None` when the session did."""
    name: str
    path: str
    """Where it is in the tree: `session/researcher/reader`, as in approvals."""
    model: str
    status: SubAgentState
    turns: int
    """How often it called its model."""
    started_at: float
    ended_at: float | None
    duration_s: float | None
    usage: Usage | None
    """What it and those below it used; `None` until it has ended, and where nobody knows."""
    instructions: str = field(repr=False)
    result: str | None = field(repr=False)
    error: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SubAgentMessage:
    """One message of a sub-agent, or one tool call: `user`, `assistant`, `tool_use` (its arguments), `tool_result`."""

    number: int
    at: float
    role: str
    text: str = field(repr=False)
    tool: str = ""
    call: str = ""


@dataclass(frozen=True, slots=True)
class SubAgentMessages:
    """What a sub-agent was told and said, oldest first. `next_after` continues; `None` when there is no more now."""

    sub_agent: SubAgentRecord
    messages: tuple[SubAgentMessage, ...]
    next_after: int | None


@dataclass(frozen=True, slots=True)
class SubAgentCancelled:
    """Whether a sub-agent was at work and was ended; one that is gone or unknown is no error."""

    id: str
    acted: bool
    status: SubAgentState | None
    """How it stands now; `None` when no sub-agent has that id."""


FEED_KINDS = (
    "session.started", "session.stopped", "session.died", "settings", "queued", "cancelled", "turn.started",
    "turn.rejected", "turn.completed", "turn.failed", "text", "tool_use", "tool_result", "notice",
    "approval.requested", "approval.decided", "subagent.started", "subagent.completed", "subagent.failed",
    "subagent.cancelled", "background", "halted", "resumed", "missed",
)  # fmt: skip
"""What a FeedItem can be."""


@dataclass(frozen=True, slots=True)
class FeedItem:
    """One numbered row of the tail. `data` is small and depends on `kind`; see docs/reference/feed.md."""

    seq: int
    at: float
    session: str
    ref: str | None
    kind: str
    data: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Feed items after a number. `missed`: retention dropped items between that number and the first one shown."""

    items: tuple[FeedItem, ...]
    last_seq: int
    """Continue after this number; it may be beyond the last item shown when a filter hid some."""
    missed: bool = False


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """A backend and whether it could work here."""

    name: str
    available: bool
    detail: str
    mend: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called: the surface and the client's own name, e.g. `cli` and `alice`. Recorded with decisions (S27)."""

    surface: str = "python"
    client: str = "local"

    def __str__(self) -> str:
        return f"{self.surface}:{self.client}"
