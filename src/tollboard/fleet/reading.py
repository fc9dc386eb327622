"""Reading what the fleet has done: inboxes with a cursor per reader, transcripts, summaries (S04-S07, S21, S25)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from tollboard.clock import Clock
from tollboard.errors import Invalid, NotFound
from tollboard.fleet.board import MAX_PAGE, MAX_WAIT_S
from tollboard.fleet.ledger import Ledger, Unread
from tollboard.fleet.records import (
    ApprovalState,
    Caller,
    Entry,
    FeedItem,
    Inbox,
    InboxSession,
    SessionRecord,
    Summary,
    Transcript,
)
from tollboard.ids import check_name

_ENDINGS = frozenset({"turn.completed", "turn.failed", "session.died", "session.stopped"})
"""Kinds of feed items after which an inbox may hold something new."""


class Reading:
    """Answers questions about finished turns; changes nothing but cursors and summaries."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._news = asyncio.Event()
        self._closed = False
        self._writing = asyncio.Lock()

    def close(self) -> None:
        """Send home whoever waits for an inbox."""
        self._closed = True
        self._news.set()

    def heard(self, items: Sequence[FeedItem]) -> None:
        """Wake whoever waits for an inbox; called with each batch of the feed."""
        if any(item.kind in _ENDINGS for item in items):
            news, self._news = self._news, asyncio.Event()
            news.set()

    # -- inbox

    async def inbox(
        self, record: SessionRecord | None, *, ack: bool, reader: str, wait_s: float | None, limit: int
    ) -> Inbox:
        """Return what is new for the reader, of one session or of the fleet, newest last."""
        check_name(reader)
        limit = whole("limit", limit, 1, MAX_PAGE)
        if wait_s is not None:
            _within("wait", wait_s, 0, MAX_WAIT_S)
        session_id = record.id if record is not None else None
        news = self._news
        entries = await self._ledger.unread(reader, session_id=session_id, limit=limit + 1)
        if not entries and wait_s:
            entries = await self._wait(news, reader, session_id, wait_s, limit)
        behind = await self._ledger.unread_counts(reader, session_id=session_id)
        shown = await self._without_gaps(entries[:limit], behind)
        acked = await self._ack(behind, shown, reader) if ack else {}
        summaries = await self._ledger.summaries([unread.session_id for unread in behind])
        pending = await self._ledger.approvals(session_id=session_id, state=ApprovalState.PENDING)
        return Inbox(
            reader=reader,
            entries=tuple(shown),
            sessions=tuple(_inbox_session(unread, acked, summaries) for unread in behind),
            approvals=len(pending),
            more=len(entries) > limit,
        )

    async def _wait(
        self, news: asyncio.Event, reader: str, session_id: str | None, wait_s: float, limit: int
    ) -> Sequence[Entry]:
        try:
            async with asyncio.timeout(wait_s):
                while not self._closed:
                    await news.wait()
                    news = self._news
                    entries = await self._ledger.unread(reader, session_id=session_id, limit=limit + 1)
                    if entries:
                        return entries
        except TimeoutError:
            pass
        return ()

    async def _without_gaps(self, entries: Sequence[Entry], behind: Sequence[Unread]) -> list[Entry]:
        """Return as many entries of each session, its oldest unread ones, so that a cursor skips nothing.

        They come in the order of the time they ended, and when the clock was set back a later turn may seem earlier.
        """
        cursors = {unread.session_id: unread.cursor for unread in behind}
        seen: dict[str, list[int]] = {}
        for entry in entries:
            seen.setdefault(entry.session_id, []).append(entry.seq)
        wrong = [id for id, seqs in seen.items() if seqs != _counted(cursors.get(id, seqs[0] - 1), len(seqs))]
        right = {
            id: iter(await self._ledger.history(id, after=cursors.get(id, 0), limit=len(seen[id])))
            for id in wrong
        }
        shown = (next(right[e.session_id], None) if e.session_id in right else e for e in entries)
        return [entry for entry in shown if entry is not None]

    async def _ack(self, behind: Sequence[Unread], shown: Sequence[Entry], reader: str) -> dict[str, int]:
        """Move each cursor to exactly the last turn shown: never past one that ended in between (S04, E05)."""
        last = {entry.session_id: entry.seq for entry in shown}
        commits = [
            self._ledger.advance_cursor(unread.session_id, reader, last[unread.session_id])
            for unread in behind
            if unread.session_id in last
        ]
        for commit in commits:
            await commit
        return last

    async def ack(self, record: SessionRecord, turns: int, seq: int, reader: str) -> InboxSession:
        """Set one cursor, forward or back."""
        check_name(reader)
        if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq <= turns:
            raise Invalid(
                f"seq is {seq!r}: session {record.name!r} has turns 1 to {turns}, and 0 means none read"
            )
        before = (await self._ledger.cursors(reader)).get(record.id, 0)
        await self._ledger.set_cursor(record.id, reader, seq)
        summary = await self._ledger.summary(record.id) or _no_summary(record.name, turns)
        return InboxSession(record.name, turns - seq, before, seq, summary)

    # -- transcript

    async def transcript(self, record: SessionRecord, limit: int | None, before: int | None) -> Transcript:
        """Return the last `limit` turns before a number; without a limit pages of MAX_PAGE, newest page first."""
        count = MAX_PAGE if limit is None else min(whole("limit", limit, 0, 1_000_000) or MAX_PAGE, MAX_PAGE)
        if before is not None:
            whole("before", before, 1, 2**62)
        entries = await self._ledger.history(record.id, before=before, limit=count, newest=True)
        total = await self._ledger.history_size(record.id)
        wanted_more = not limit or limit > len(entries)
        older = entries[0].seq if entries and entries[0].seq > 1 and wanted_more else None
        return Transcript(record.name, record.id, tuple(entries), total, older)

    # -- summaries

    async def summary(self, record: SessionRecord, version: int | None) -> Summary:
        """Return a version of the summary; without one, an empty version 0."""
        found = await self._ledger.summary(record.id, version=version)
        if found is not None:
            return found
        if version is not None and version != 0:
            raise NotFound(f"the summary of {record.name!r} has no version {version}")
        return _no_summary(record.name, await self._ledger.history_size(record.id))

    async def update_summary(self, record: SessionRecord, text: str, caller: Caller) -> Summary:
        """Append a version and return it; two managers at once take turns, so that each gets its own back."""
        async with self._writing:
            at_turn = await self._ledger.history_size(record.id)
            await self._ledger.add_summary(
                record.id, text=text, author=str(caller), at=self._clock.time(), at_turn=at_turn
            )
            return await self.summary(record, None)

    async def summary_versions(self, record: SessionRecord) -> tuple[Summary, ...]:
        """Return every version, oldest first."""
        return tuple(await self._ledger.summary_versions(record.id))


def _inbox_session(
    unread: Unread, acked: Mapping[str, int], summaries: Mapping[str, Summary]
) -> InboxSession:
    summary = summaries.get(unread.session_id) or _no_summary(unread.session, unread.turns)
    now = acked.get(unread.session_id, unread.cursor)
    return InboxSession(
        unread.session, unread.turns - unread.cursor, unread.cursor, now, summary, unread.session_id
    )


def _no_summary(session: str, turns: int) -> Summary:
    return Summary(session=session, version=0, text="", author="", at=None, turns_since=turns)


def _counted(cursor: int, count: int) -> list[int]:
    return list(range(cursor + 1, cursor + 1 + count))


def whole(name: str, value: int, low: int, high: int) -> int:
    """Return a whole number within bounds. Raises Invalid."""
    if not isinstance(value, int):
        raise Invalid(f"{name} is {value!r}: it must be a whole number")
    _within(name, value, low, high)
    return value


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Invalid(f"{name} is {value!r}: it must be between {low} and {high:,}")
