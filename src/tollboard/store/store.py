"""The store: one SQLite file that holds everything the fleet remembers. The fleet calls it as `fleet.ledger.Ledger`.

It wires the writer, the readers and the journals together and says which query answers which question; it never
decides anything about sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tollboard.clock import Clock, SystemClock
from tollboard.errors import Overloaded, StoreUnavailable
from tollboard.fleet.ledger import Commit, NewFeedItem, StoredRequest, Unread
from tollboard.fleet.records import (
    ApprovalRecord,
    ApprovalState,
    Entry,
    FeedItem,
    Life,
    SessionRecord,
    SubAgentMessage,
    SubAgentRecord,
    Summary,
)
from tollboard.store import queries, rows
from tollboard.store.feed import FeedWrite
from tollboard.store.identity import Home, OpenFiles
from tollboard.store.journal import StoreJournal
from tollboard.store.opening import Owner, Place, checked_at_open, find_damage, prepare
from tollboard.store.pools import StorePools
from tollboard.store.queries import Query
from tollboard.store.reader import Reader
from tollboard.store.retention import Pruner, Retention
from tollboard.store.retries import Retries
from tollboard.store.sub_agents import End
from tollboard.store.write import Group, Write
from tollboard.store.writer import Writer

CLOSE_DEADLINE_S = 10.0
_ENDLESS = 2**63 - 1


class Store:
    """Implements `Ledger`. Belongs to the event loop it was opened on; open it with `await Store.open(path)`."""

    def __init__(self, place: Place, owner: Owner, clock: Clock, retention: Retention) -> None:
        self.path = place.path
        self.epoch = owner.epoch
        self._owner = owner
        self._clock = clock
        self._retries = Retries(clock)
        self._files = OpenFiles(place.path)
        self._writer = Writer(
            str(place.path), place.connect, epoch=owner.epoch, pruner=Pruner(retention, clock.time),
            files=self._files,
        )  # fmt: skip
        self._reader = Reader(str(place.path), self._read_connection)
        self._place = place
        self.pools = StorePools(self._writer, self._reader, self._retries, clock)

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str], *, clock: Clock | None = None, take_over: bool = False,
        retention: Retention | None = None, synchronous: str = "FULL", home: Home | None = None,
    ) -> Store:  # fmt: skip
        """Open the database, making or migrating it as needed, and become its owner.

        Whoever opened it before can no longer write. While another process has it open that is refused with
        DaemonRunning, unless `take_over` says that the other one has lost it. With `home` the database must be that
        state directory's own. Raises StoreUnavailable, StoreMisplaced, StoreCorrupt or StoreTooNew.
        """
        place = Place(Path(path).absolute(), synchronous)
        owner = await asyncio.to_thread(prepare, place, take_over=take_over, home=home)
        store = cls(place, owner, clock or SystemClock(), retention or Retention())
        store._writer.start()
        return store

    def __repr__(self) -> str:
        return f"<Store {str(self.path)!r} epoch={self.epoch}>"

    def _read_connection(self) -> sqlite3.Connection:
        self._files.check()
        return self._place.reader()

    def _write(self, query: Query, **values: object) -> Write:
        return self._writer.submit(Write(query.sql, query.bind(**values)))

    # -- sessions

    def create_session(self, record: SessionRecord) -> Commit:
        """Remember a new session. The commit raises AgentExists when its name is taken."""
        return self._write(queries.CREATE_SESSION, **rows.session_values(record))

    def journal(self, record: SessionRecord) -> StoreJournal:
        """Return the journal of a session."""
        return StoreJournal(
            record.id, record.name, record.turns, self._writer, self._reader, self._retries, self._clock
        )

    def set_life(self, session_id: str, life: Life, *, at: float, problem: str | None = None) -> Commit:
        """Remember that a session was stopped, died, or lives again."""
        stopped_at = at if life is Life.STOPPED else None
        return self._write(
            queries.SET_LIFE,
            session_id=session_id,
            new_life=life.value,
            new_stopped_at=stopped_at,
            new_problem=problem,
        )

    def set_notice(self, session_id: str, notice: str | None) -> Commit:
        """Remember why a session halted by itself, or with `None` that this is over."""
        return self._write(queries.SET_NOTICE, session_id=session_id, new_notice=notice)

    def delete_session(self, session_id: str) -> Commit:
        """Remove a session with its requests, summaries, approvals, cursors and feed items."""
        parts = [
            Write(query.sql, query.bind(session_id=session_id))
            for query in (queries.DELETE_SESSION_EVENTS, queries.DELETE_SESSION)
        ]
        return self._writer.submit(Group(parts))

    async def sessions(self, *, every: bool = False) -> Sequence[SessionRecord]:
        """Return the sessions of the fleet, oldest first; with `every` the stopped ones too."""
        return await self._reader.all(
            queries.ALL_SESSIONS if every else queries.SESSIONS, rows.session_record
        )

    async def find_session(self, name_or_id: str) -> SessionRecord | None:
        """Return the session that has the name now, else the one stopped last, else the one with that id."""
        found = await self._reader.one(queries.SESSION_BY_NAME, rows.session_record, name=name_or_id)
        return found or await self._reader.one(queries.SESSION_BY_ID, rows.session_record, id=name_or_id)

    async def named(self, name: str | None = None) -> Sequence[tuple[str, str]]:
        """Return the id and name of all sessions, or of those that have had this name, in the order of their start."""
        return await self._reader.all(queries.NAMED, rows.id_and_name, name=name)

    # -- requests and history

    async def request(self, ref: str) -> StoredRequest | None:
        """Return one request."""
        return await self._reader.one(queries.REQUEST, rows.stored_request, ref=ref)

    async def requests(self, refs: Sequence[str]) -> Sequence[StoredRequest]:
        """Return those of the refs that exist, in the order given."""
        found = await self._reader.all(queries.REQUESTS, rows.stored_request, refs=json.dumps(list(refs)))
        by_ref = {request.ref: request for request in found}
        return [by_ref[ref] for ref in refs if ref in by_ref]

    async def request_by_key(self, session_id: str, key: str) -> StoredRequest | None:
        """Return the request that was accepted with this idempotency key."""
        return await self._reader.one(
            queries.REQUEST_BY_KEY, rows.stored_request, session_id=session_id, key=key
        )

    async def unfinished(self) -> Sequence[StoredRequest]:
        """Return every request of a live session without an outcome, in the order of acceptance."""
        return await self._reader.all(queries.UNFINISHED, rows.stored_request)

    def mark_interrupted(self, request: StoredRequest, *, seq: int, at: float, detail: str) -> Commit:
        """End a request that was in flight when the last daemon ended; does nothing if it has ended."""
        return self._write(queries.MARK_INTERRUPTED, the_ref=request.ref, new_seq=seq, at=at, why=detail)

    async def history(
        self, session_id: str, *, after: int = 0, before: int | None = None, limit: int, newest: bool = False
    ) -> Sequence[Entry]:
        """Return entries with `after < seq < before`, oldest first; with `newest` the last `limit` of them."""
        query = queries.NEWEST_HISTORY if newest else queries.HISTORY
        found = await self._reader.all(
            query, rows.history_entry, session_id=session_id, after=after,
            before=_ENDLESS if before is None else before, count=limit,
        )  # fmt: skip
        return found[::-1] if newest else found

    async def history_size(self, session_id: str) -> int:
        """Return how many entries a session has; constant time."""
        return await self._reader.one(queries.HISTORY_SIZE, _number, session_id=session_id) or 0

    # -- inbox

    async def cursors(self, reader: str) -> Mapping[str, int]:
        """Return the reader's cursor for each session id that it has acknowledged."""
        return dict(await self._reader.all(queries.CURSORS, _pair, reader=reader))

    def set_cursor(self, session_id: str, reader: str, seq: int) -> Commit:
        """Move the reader's cursor, forward or back."""
        return self._write(queries.SET_CURSOR, session_id=session_id, reader=reader, seq=seq)

    def advance_cursor(self, session_id: str, reader: str, seq: int) -> Commit:
        """Move the reader's cursor forward; one that is further already stays."""
        return self._write(queries.ADVANCE_CURSOR, session_id=session_id, reader=reader, seq=seq)

    async def unread(self, reader: str, *, session_id: str | None = None, limit: int) -> Sequence[Entry]:
        """Return the oldest entries after the reader's cursors, of one session or of all, by the time they ended."""
        return await self._reader.all(
            queries.UNREAD, rows.history_entry, reader=reader, session_id=session_id, count=limit
        )

    async def unread_counts(self, reader: str, *, session_id: str | None = None) -> Sequence[Unread]:
        """Return each session that has entries after the reader's cursor, or the one named, oldest session first."""
        return await self._reader.all(
            queries.UNREAD_COUNTS, rows.unread, reader=reader, session_id=session_id
        )

    # -- summaries

    def add_summary(self, session_id: str, *, text: str, author: str, at: float, at_turn: int) -> Commit:
        """Append a version of the session's summary."""
        return self._write(
            queries.ADD_SUMMARY, session_id=session_id, text=text, author=author, at=at, at_turn=at_turn
        )

    async def summary(self, session_id: str, *, version: int | None = None) -> Summary | None:
        """Return a version of the summary, the newest by default."""
        return await self._reader.one(
            queries.SUMMARY, rows.summary_record, session_id=session_id, version=version
        )

    async def summaries(self, session_ids: Sequence[str]) -> Mapping[str, Summary]:
        """Return the newest summary of each of these sessions that has one, by session id."""
        wanted = json.dumps(list(session_ids))
        return dict(await self._reader.all(queries.NEWEST_SUMMARIES, _keyed_summary, session_ids=wanted))

    async def summary_versions(self, session_id: str) -> Sequence[Summary]:
        """Return all versions, oldest first."""
        return await self._reader.all(queries.SUMMARY_VERSIONS, rows.summary_record, session_id=session_id)

    # -- approvals

    async def approvals(
        self, *, session_id: str | None = None, state: ApprovalState | None
    ) -> Sequence[ApprovalRecord]:
        """Return approvals, oldest first; the newest 500 of every state when `state` is `None`."""
        convert = rows.approval_record
        if state is not None:
            if session_id is None:
                return await self._reader.all(queries.STATE_APPROVALS, convert, state=state.value)
            query = queries.SESSION_STATE_APPROVALS
            return await self._reader.all(query, convert, session_id=session_id, state=state.value)
        if session_id is None:
            return (await self._reader.all(queries.LAST_APPROVALS, convert))[::-1]
        return (await self._reader.all(queries.SESSION_LAST_APPROVALS, convert, session_id=session_id))[::-1]

    async def approval(self, approval_id: str) -> ApprovalRecord | None:
        """Return one approval."""
        return await self._reader.one(queries.APPROVAL, rows.approval_record, id=approval_id)

    async def approvals_of(self, ref: str) -> Sequence[ApprovalRecord]:
        """Return what a request asked people, oldest first."""
        return await self._reader.all(queries.REF_APPROVALS, rows.approval_record, ref=ref)

    def expire_approvals(self, *, at: float, why: str, keep: Sequence[str] = ()) -> Commit:
        """Expire every approval that waits, but not those of the refs to keep."""
        return self._write(queries.EXPIRE_APPROVALS, kept=json.dumps(list(keep)), at=at, why=why)

    # -- sub-agents

    async def sub_agents(
        self, session_id: str, *, every: bool = False, limit: int
    ) -> Sequence[SubAgentRecord]:
        """Return the newest sub-agents of a session that have not ended, with `every` all, oldest first."""
        query = queries.SUB_AGENTS_OF if every else queries.OPEN_SUB_AGENTS_OF
        found = await self._reader.all(query, rows.sub_agent_record, session_id=session_id, count=limit)
        return sorted(found, key=lambda record: record.started_at)

    async def sub_agent(self, id: str) -> SubAgentRecord | None:
        """Return one sub-agent."""
        return await self._reader.one(queries.SUB_AGENT, rows.sub_agent_record, id=id)

    async def sub_agent_messages(self, id: str, *, after: int, limit: int) -> Sequence[SubAgentMessage]:
        """Return what a sub-agent said after a number, oldest first."""
        return await self._reader.all(
            queries.SUB_AGENT_MESSAGES, rows.sub_agent_message, id=id, after=after, count=limit
        )

    async def delegating(self) -> Sequence[str]:
        """Return the refs below which sub-agents are left open."""
        return await self._reader.all(queries.DELEGATING, _name)

    def end_sub_agents(self, ref: str, *, at: float, why: str) -> Commit:
        """End what is left open below a request, with its feed items."""
        return self._writer.submit(End.below(ref, why, at, self._writer, self._retries), must=True)

    # -- feed

    def feed(self, item: NewFeedItem) -> None:
        """Append an item to the feed. One that cannot be taken is dropped, and the next `flush` says so."""
        try:
            _ = self._writer.submit(FeedWrite(item))
        except Overloaded as error:
            self._writer.note_failure(error)

    def on_feed(self, callback: Callable[[Sequence[FeedItem]], None]) -> None:
        """Call back on the loop with each batch of items, once it is committed and numbered."""
        self._writer.on_feed(callback)

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
        if session is None and ref is not None:
            # The items of one ref are found through its session; only events have no index on refs.
            session = await self._reader.one(queries.SESSION_OF_REF, _name, ref=ref)
        wanted = json.dumps(list(kinds)) if kinds else None
        if session is None:
            return await self._reader.all(
                queries.FEED_AFTER, rows.feed_item, after=seq, kinds=wanted, ref=ref, count=limit
            )
        return await self._reader.all(
            queries.SESSION_FEED_AFTER,
            rows.feed_item,
            after=seq,
            kinds=wanted,
            ref=ref,
            session=session,
            count=limit,
        )

    async def feed_bounds(self) -> tuple[int, int]:
        """Return the numbers of the oldest and the newest item that are kept; (0, 0) when there are none."""
        return (await self._reader.all(queries.FEED_BOUNDS, _bounds))[0]

    # -- as a whole

    def atomic(self) -> AbstractContextManager[None]:
        """Make everything written inside one transaction. An outcome in a group that fails is tried again alone."""
        return self._writer.group()

    def flush(self) -> Commit:
        """Return a commit that resolves when everything written so far is durable.

        It raises the newest error of what failed since the last flush that had settled when this one was called.
        """
        return self._writer.flush()

    def problem(self) -> str | None:
        """Return why the database cannot be used now: moved, replaced, or not writable. `None` when all is well."""
        try:
            self._files.check()
        except StoreUnavailable as error:
            return str(error)
        return str(self.trouble) if self.trouble else None

    async def damage(self) -> str | None:
        """Look for damage if the database was too large to check when it was opened; return what was found.

        It takes a thread of its own, which nobody waits for at the end: on a large database it runs for minutes.
        """
        if checked_at_open(self._place):
            return None
        loop = asyncio.get_running_loop()
        found: asyncio.Future[str | None] = loop.create_future()

        def tell(damage: str | None) -> None:
            if not found.done():
                found.set_result(damage)

        def look() -> None:
            damage = find_damage(self._place)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, damage)

        threading.Thread(target=look, name="tollboard-check", daemon=True).start()
        return await found

    @property
    def congested(self) -> bool:
        """Whether so much waits to be written that producers should await `flush` before they go on."""
        return self._writer.congested

    @property
    def trouble(self) -> StoreUnavailable | None:
        """What keeps things from being written now: a full disk, most often. Outcomes wait until it has gone."""
        return self._writer.trouble

    def hurry(self) -> None:
        """Try now to write the outcomes that wait for the trouble to go."""
        self._retries.hurry()

    async def close(self) -> None:
        """Commit what waits, then close; raises StoreUnavailable when the disk does not answer in time. Idempotent."""
        self._retries.close()
        deadline: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(CLOSE_DEADLINE_S, lambda: _end(deadline))
        try:
            # The readers first: the last connection that closes folds the write-ahead log into the file.
            await self._reader.close(deadline)
            await self._writer.close(deadline)
        finally:
            timer.cancel()
            self._owner.release()


def _end(deadline: asyncio.Future[None]) -> None:
    if not deadline.done():
        deadline.set_result(None)


def _number(row: rows.Row) -> int:
    return int(row[0])


def _name(row: rows.Row) -> str:
    return str(row[0])


def _bounds(row: rows.Row) -> tuple[int, int]:
    return row[0] or 0, row[1] or 0


def _pair(row: rows.Row) -> tuple[str, int]:
    return row[0], row[1]


def _keyed_summary(row: rows.Row) -> tuple[str, Summary]:
    return row[0], rows.summary_record(row)
