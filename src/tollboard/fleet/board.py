"""The verbs of the manager: what `Switchboard` (in this process) and `Client` (over the daemon's socket) both are.

Same names, arguments, results and errors on both; the operations of HTTP, the CLI and MCP are made from them. Names
are session names; wherever a name is taken, a session's id is too. A stopped session whose name was used again is
reached, to be read or deleted, by its id or as `NAME@N`: the N-th session that had the name. Seconds everywhere, Unix
seconds for points in time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from os import PathLike
from typing import Literal, Protocol

import tollboard.backends as built_in
from tollboard.fleet.records import (
    ApprovalRecord,
    BackendInfo,
    BroadcastItem,
    Deleted,
    FeedItem,
    FeedPage,
    HaltReport,
    Inbox,
    InboxSession,
    Interrupted,
    Poll,
    Receipt,
    SessionDefinition,
    SessionStatus,
    StopReport,
    SubAgentCancelled,
    SubAgentMessages,
    SubAgentRecord,
    Summary,
    Transcript,
    WaitReport,
)
from tollboard.runtime.approval import Decision

DEFAULT_BACKEND = built_in.DEFAULT_BACKEND
DEFAULT_READER = "me"
MAX_PAGE = 200
"""Entries of one transcript or inbox page."""
MAX_FEED_PAGE = 1_000
MAX_WAIT_S = 3_600.0
MAX_PROMPT_BYTES = 1024 * 1024
MAX_SUMMARY_BYTES = 1024 * 1024


class Board(Protocol):
    """Drives a fleet of sessions."""

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def start_session(
        self, name: str, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionStatus:
        """Start a session on an existing directory (S01).

        `options` go to the backend untouched, except those of the runtime (`watchdog_s`, `silence_s`,
        `approval_timeout_s`, `max_queued`, ...). Raises AgentExists, InvalidName, InvalidPath, InvalidOption,
        UnknownBackend, BackendUnavailable, StoreError.
        """

    async def check_session(
        self, name: str, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionDefinition:
        """Raise what `start_session` would raise, and start nothing; whether the name is taken does not matter.

        Whoever starts several sessions asks for each first. Returns the definition as it would be kept.
        """

    async def list_sessions(
        self, *, all: bool = False, reader: str = DEFAULT_READER
    ) -> tuple[SessionStatus, ...]:
        """Return the sessions of the fleet, oldest first; with `all` the stopped ones too (S08).

        `unread` is what this reader has not acknowledged, of each session by itself. Raises InvalidName.
        """

    async def status(self, name: str, *, reader: str = DEFAULT_READER) -> SessionStatus:
        """Return how a session stands; `unread` is this reader's. Raises AgentNotFound, InvalidName."""

    async def definition(self, name: str) -> SessionDefinition:
        """Return what a session was started with. Raises AgentNotFound."""

    async def stop_session(self, name: str, *, drain: bool = False) -> StopReport:
        """End a session and its whole process tree; its history stays (S08, S26).

        What is queued or in flight ends with `stopped`; with `drain` the turn in flight finishes first.
        """

    async def delete_session(self, name: str) -> Deleted:
        """Remove a stopped session with all its rows. Raises Conflict while it lives, AgentNotFound."""

    async def backends(self) -> tuple[BackendInfo, ...]:
        """Return the known backends and whether each could work here."""

    # -- prompts ----------------------------------------------------------------------------------------------------

    async def send(self, name: str, prompt: str, *, queue: bool = False, key: str | None = None) -> str:
        """Accept a prompt and return its ref; it is durable when this returns (S02, S18).

        Raises SessionBusy or SessionHalted unless `queue`, Overloaded, InvalidPrompt, AgentNotFound, StoreError.
        `key` is an idempotency key: the same key with the same prompt returns the same ref, also after a restart;
        with another prompt it raises KeyReused.
        """

    async def poll(self, name: str, ref: str) -> Poll:
        """Return how a request stands, repeatably. Raises RequestNotFound, also for a ref of another session."""

    async def wait(
        self, refs: Sequence[str], *, timeout: float | None = None, mode: Literal["all", "any"] = "all"
    ) -> WaitReport:
        """Wait until all (or any) of the requests have ended, of any sessions, at most `timeout` seconds.

        Returns what is done and what is not; running out of time is not an error. Raises RequestNotFound.
        """

    async def broadcast(
        self, prompt: str, *, names: Sequence[str] | None = None
    ) -> tuple[BroadcastItem, ...]:
        """Queue a prompt on every live session, or on those named; one ref or one error for each (S09)."""

    async def cancel(self, name: str, ref: str) -> Receipt:
        """Withdraw a queued request. Raises NotCancellable if it is in flight or done, RequestNotFound."""

    # -- reading ----------------------------------------------------------------------------------------------------

    async def inbox(
        self, name: str | None = None, *, ack: bool = False, reader: str = DEFAULT_READER,
        wait: float | None = None, limit: int = 100,
    ) -> Inbox:  # fmt: skip
        """Return the finished turns this reader has not acknowledged, of one session or of the fleet (S04, S05).

        Moves nothing unless `ack`; then each session's cursor moves to exactly the last turn shown. `wait`: if
        nothing is new, wait up to that many seconds for the first thing that is.
        """

    async def ack(self, name: str, seq: int, *, reader: str = DEFAULT_READER) -> InboxSession:
        """Set the reader's cursor to exactly `seq`, forward or back; idempotent (S21). Invalid beyond the end."""

    async def transcript(
        self, name: str, *, limit: int | None = None, before: int | None = None
    ) -> Transcript:
        """Return the last `limit` turns; `None` or 0: all, in pages of at most MAX_PAGE, continued with `before`."""

    async def summary_get(self, name: str, *, version: int | None = None) -> Summary:
        """Return the manager's summary of a session, or an earlier version of it."""

    async def summary_update(self, name: str, text: str) -> Summary:
        """Write a new version of the summary (markdown); works while a turn runs, earlier ones are kept (S06, S25)."""

    async def summary_versions(self, name: str) -> tuple[Summary, ...]:
        """Return every version of the summary, oldest first."""

    async def events(
        self, name: str | None = None, *, kinds: Sequence[str] = (), ref: str | None = None, after: int = 0,
        limit: int = MAX_FEED_PAGE,
    ) -> FeedPage:  # fmt: skip
        """Return one page of the feed after a number (S10)."""

    def tail(
        self,
        name: str | None = None,
        *,
        kinds: Sequence[str] = (),
        ref: str | None = None,
        after: int | None = None,
    ) -> AsyncIterator[FeedItem]:
        """Follow the feed from after a number, or from now on, without gaps or repeats, until closed."""

    # -- control ----------------------------------------------------------------------------------------------------

    async def interrupt(self, name: str, *, ref: str | None = None) -> Interrupted:
        """End the turn in flight, only that of `ref` if given; the mailbox goes on (S08)."""

    async def halt(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """Freeze a session's mailbox after the turn in flight, or with `all` the whole fleet's at once (S23)."""

    async def resume(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """Release what `halt` froze; never answers approvals."""

    async def approvals(self, name: str | None = None, *, all: bool = False) -> tuple[ApprovalRecord, ...]:
        """Return the approvals that wait, oldest first; with `all` the answered and expired ones too (S14)."""

    async def subagents(
        self, name: str, *, all: bool = False, limit: int = MAX_PAGE
    ) -> tuple[SubAgentRecord, ...]:
        """Return the sub-agents of a session that have not ended, oldest first (A31).

        With `all` the newest `limit` of those that have ended too. Raises AgentNotFound, Invalid.
        """

    async def subagent_messages(self, id: str, *, after: int = 0, limit: int = MAX_PAGE) -> SubAgentMessages:
        """Return a page of what a sub-agent was told and said, oldest first. Raises SubAgentNotFound, Invalid."""

    async def cancel_subagent(self, id: str) -> SubAgentCancelled:
        """End one sub-agent and all below it; the one above is told and goes on (A27, A31).

        One that is unknown, gone or ending is no error: `acted` and `status` say how it is.
        """

    async def decide(self, approval_id: str, decision: Decision | Mapping[str, object]) -> ApprovalRecord:
        """Decide an approval: approve, edit or reject a call, answer or reject a question (S14, B06).

        Who decided is recorded (S27); exactly one of several managers wins. Raises ApprovalNotFound, AlreadyDecided,
        InvalidDecision, AnswerNeeded for a question that was to be approved (the approval still waits after both).
        """
