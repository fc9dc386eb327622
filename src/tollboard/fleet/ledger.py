"""What the fleet needs remembered: the contract between the Switchboard and the store.

Writes are synchronous calls that return a commit to await; they become durable in the order they were called. Reads
are awaited and see everything whose commit has resolved. One ledger belongs to one daemon: a writer whose ownership
was taken over gets StaleOwner from every commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tollboard.errors import StoreUnavailable
from tollboard.fleet.records import (
    ApprovalRecord,
    ApprovalState,
    Entry,
    FeedItem,
    Life,
    Receipt,
    SessionRecord,
    SubAgentMessage,
    SubAgentRecord,
    Summary,
)
from tollboard.runtime.journal import Journal
from tollboard.runtime.request import Origin

Commit = Awaitable[None]


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request as the store keeps it, with its session's id."""

    ref: str
    session_id: str
    session: str
    prompt: str
    key: str | None
    receipt: Receipt
    entry: Entry | None
    reason: str | None
    detail: str | None
    origin: Origin = Origin.TELL


@dataclass(frozen=True, slots=True)
class NewFeedItem:
    """A feed item before the store has numbered it."""

    at: float
    session_id: str
    session: str
    ref: str | None
    kind: str
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Unread:
    """How far a reader is behind in one session."""

    session_id: str
    session: str
    turns: int
    cursor: int


class SessionJournal(Journal, Protocol):
    """The journal of one session. `turns` is the seq of its newest history entry."""

    turns: int

    delegating: set[str]
    """Refs whose turns may have sub-agents that have not ended; a restart adds those that go on."""

    def keyed(self, ref: str, key: str) -> None:
        """Give the next accepted request with this ref an idempotency key; called just before `accepted`."""


class Ledger(Protocol):
    """Everything the fleet remembers."""

    # -- sessions
    def create_session(self, record: SessionRecord) -> Commit:
        """Remember a new session. Its name is unique among those that are not stopped."""

    def journal(self, record: SessionRecord) -> SessionJournal:
        """Return the journal of a session."""

    def set_life(self, session_id: str, life: Life, *, at: float, problem: str | None = None) -> Commit:
        """Remember that a session was stopped, or died."""

    def set_notice(self, session_id: str, notice: str | None) -> Commit:
        """Remember why a session halted by itself, or with `None` that this is over."""

    def delete_session(self, session_id: str) -> Commit:
        """Remove a session and everything that belongs to it."""

    async def sessions(self, *, every: bool = False) -> Sequence[SessionRecord]:
        """Return the sessions of the fleet, oldest first; with `every` the stopped ones too."""

    async def find_session(self, name_or_id: str) -> SessionRecord | None:
        """Return the live session of that name, else the one stopped last, else the one with that id."""

    async def named(self, name: str | None = None) -> Sequence[tuple[str, str]]:
        """Return the id and name of all sessions, or of those that have had this name, in the order of their start."""

    # -- requests and history
    async def request(self, ref: str) -> StoredRequest | None:
        """Return one request."""

    async def requests(self, refs: Sequence[str]) -> Sequence[StoredRequest]:
        """Return those of the refs that exist, in the order given."""

    async def request_by_key(self, session_id: str, key: str) -> StoredRequest | None:
        """Return the request that was accepted with this idempotency key."""

    async def unfinished(self) -> Sequence[StoredRequest]:
        """Return every request of a session that is not stopped without an outcome, in the order of acceptance."""

    def mark_interrupted(self, request: StoredRequest, *, seq: int, at: float, detail: str) -> Commit:
        """End a request that was in flight when the last daemon ended, as history entry `seq`."""

    async def history(
        self, session_id: str, *, after: int = 0, before: int | None = None, limit: int, newest: bool = False
    ) -> Sequence[Entry]:
        """Return entries with `after < seq < before`, oldest first; with `newest` the last `limit` of them."""

    async def history_size(self, session_id: str) -> int:
        """Return how many entries a session has; constant time."""

    # -- inbox
    async def cursors(self, reader: str) -> Mapping[str, int]:
        """Return the reader's cursor for each session id; sessions never acknowledged are absent (cursor 0)."""

    def set_cursor(self, session_id: str, reader: str, seq: int) -> Commit:
        """Move the reader's cursor, forward or back."""

    def advance_cursor(self, session_id: str, reader: str, seq: int) -> Commit:
        """Move the reader's cursor forward; one that is further already stays."""

    async def unread(self, reader: str, *, session_id: str | None = None, limit: int) -> Sequence[Entry]:
        """Return the oldest entries after the reader's cursors, of one session or of all, by the time they ended."""

    async def unread_counts(self, reader: str, *, session_id: str | None = None) -> Sequence[Unread]:
        """Return each session that has entries after the reader's cursor, or the one named, oldest session first."""

    # -- summaries
    def add_summary(self, session_id: str, *, text: str, author: str, at: float, at_turn: int) -> Commit:
        """Append a version of the session's summary."""

    async def summary(self, session_id: str, *, version: int | None = None) -> Summary | None:
        """Return a version of the summary, the newest by default."""

    async def summaries(self, session_ids: Sequence[str]) -> Mapping[str, Summary]:
        """Return the newest summary of each of these sessions that has one."""

    async def summary_versions(self, session_id: str) -> Sequence[Summary]:
        """Return all versions, oldest first."""

    # -- approvals
    async def approvals(
        self, *, session_id: str | None = None, state: ApprovalState | None
    ) -> Sequence[ApprovalRecord]:
        """Return approvals, oldest first; of every state when `state` is `None` (then the newest 500)."""

    async def approval(self, approval_id: str) -> ApprovalRecord | None:
        """Return one approval."""

    async def approvals_of(self, ref: str) -> Sequence[ApprovalRecord]:
        """Return what a request asked people, in every state, oldest first."""

    def expire_approvals(self, *, at: float, why: str, keep: Sequence[str] = ()) -> Commit:
        """Expire every pending approval, but not those of the refs to keep."""

    # -- sub-agents
    async def sub_agents(
        self, session_id: str, *, every: bool = False, limit: int
    ) -> Sequence[SubAgentRecord]:
        """Return the newest sub-agents of a session that have not ended, with `every` all, oldest first."""

    async def sub_agent(self, id: str) -> SubAgentRecord | None:
        """Return one sub-agent."""

    async def sub_agent_messages(self, id: str, *, after: int, limit: int) -> Sequence[SubAgentMessage]:
        """Return what a sub-agent said after a number, oldest first."""

    async def delegating(self) -> Sequence[str]:
        """Return the refs below which sub-agents are left open."""

    def end_sub_agents(self, ref: str, *, at: float, why: str) -> Commit:
        """End what is left open below a request that was cut off, with its feed items (A30)."""

    # -- feed
    def feed(self, item: NewFeedItem) -> None:
        """Append an item to the feed. Not awaited; it is committed in order with everything else."""

    def on_feed(self, callback: Callable[[Sequence[FeedItem]], None]) -> None:
        """Call back on the loop with each batch of items, once it is committed and numbered."""

    async def feed_after(
        self,
        seq: int,
        *,
        session: str | None = None,
        kinds: Sequence[str] = (),
        ref: str | None = None,
        limit: int,
    ) -> Sequence[FeedItem]:
        """Return committed items with a greater number, in order."""

    async def feed_bounds(self) -> tuple[int, int]:
        """Return the numbers of the oldest and the newest item that are kept; (0, 0) when there are none."""

    # -- as a whole
    def atomic(self) -> AbstractContextManager[None]:
        """Make everything written inside one transaction: all of it or nothing. Holds no lock; do not await inside."""

    def flush(self) -> Commit:
        """Return a commit that resolves when everything written so far is durable, and raises if some of it failed."""

    @property
    def congested(self) -> bool:
        """Whether so much waits to be written that producers should await `flush` before they go on."""

    @property
    def trouble(self) -> StoreUnavailable | None:
        """What keeps things from being written now: a full disk, most often. Outcomes wait until it has gone."""

    def hurry(self) -> None:
        """Try now to write the outcomes that wait for the trouble to go; otherwise they are tried now and then."""

    async def close(self) -> None:
        """Commit what waits, then close. Idempotent."""
