"""The feed: telemetry of the whole fleet as numbered rows that anyone can follow and resume (S10).

An item gets its number when it is committed, so whoever sees one sees what is durable, and a number never comes
twice. A follower is only a number: it reads the newest items from a ring in memory and older ones from the store, at
its own pace, so a slow one costs nothing and misses nothing that retention still keeps.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence

from tollboard.clock import Clock
from tollboard.fleet.ledger import Ledger, NewFeedItem
from tollboard.fleet.records import ApprovalState, FeedItem, FeedPage
from tollboard.runtime import event as events
from tollboard.runtime import telemetry
from tollboard.runtime.approval import Approval
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.request import Origin
from tollboard.runtime.response import Response
from tollboard.runtime.telemetry import EventName, Measurements, Metadata, Telemetry

RING_SIZE = 5_000
PAGE = 500
PIECE = 8 * 1024
"""Longer texts are split into several items, longer tool results are cut and say so (characters)."""
MISSED = "missed"
FIRST = "session.started"
"""The kind of every session's first item."""

Data = Mapping[str, object]


class Tail:
    """Writes the feed and lets it be followed."""

    def __init__(self, ledger: Ledger, clock: Clock, session_id: Callable[[str], str | None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._session_id = session_id
        self._ring: deque[FeedItem] = deque(maxlen=RING_SIZE)
        self.news = asyncio.Event()
        """Set, and replaced by a new one, when at least one more item is committed."""
        self.last_seq = 0
        self.on_items: Callable[[Sequence[FeedItem]], None] | None = None
        self._closed = False

    async def open(self, tell: Telemetry) -> None:
        """Begin: number on from where the feed ended, and listen."""
        _, self.last_seq = await self._ledger.feed_bounds()
        self._ledger.on_feed(self._committed)
        tell.attach("fleet.tail", tuple(_ROWS), self._heard)

    def write(self, session_id: str, session: str, kind: str, data: Data, ref: str | None = None) -> None:
        """Append an item of the fleet's own."""
        clean = {key: storable(value) if isinstance(value, str) else value for key, value in data.items()}
        self._ledger.feed(NewFeedItem(self._clock.time(), session_id, session, ref, kind, clean))

    def forget(self) -> None:
        """Forget what is in memory: a session was deleted, and what the store has deleted is not to be shown."""
        self._ring.clear()

    def close(self) -> None:
        """Let every follower end once it has seen what is committed."""
        self._closed = True
        self.news.set()

    def _heard(self, event: EventName, measurements: Measurements, metadata: Metadata) -> None:
        name = str(metadata["agent"])
        session_id = self._session_id(name)
        if session_id is None:
            return
        ref = metadata.get("ref")
        for kind, data in _ROWS[event](measurements, metadata):
            self.write(session_id, name, kind, data, str(ref) if ref is not None else None)

    def _committed(self, items: Sequence[FeedItem]) -> None:
        self._ring.extend(items)
        self.last_seq = items[-1].seq
        news, self.news = self.news, asyncio.Event()
        news.set()
        if self.on_items is not None:
            self.on_items(items)

    async def page(
        self, session: str | None, kinds: Sequence[str], ref: str | None, after: int, limit: int
    ) -> FeedPage:
        """Return one page after a number."""
        newest = self.last_seq
        items = await self._ledger.feed_after(after, session=session, kinds=kinds, ref=ref, limit=limit)
        last = items[-1].seq if len(items) == limit else max(newest, after, items[-1].seq if items else 0)
        whole = session is None and ref is None and not kinds
        missed = await self._oldest_after_gap(session, ref, after) is not None or (
            whole and _gap(after, items)
        )
        return FeedPage(tuple(items), last, missed=missed)

    async def _oldest_after_gap(self, session: str | None, ref: str | None, after: int) -> int | None:
        """Return the oldest number that is kept, if items between `after` and it are gone.

        A session's feed begins with `session.started`; when its oldest kept item is another one, retention took some.
        """
        if ref is not None:
            return None
        kept = await self._ledger.feed_after(0, session=session, limit=1)
        if not kept:
            return None
        gone = kept[0].seq > after + 1 and (session is None or kept[0].kind != FIRST)
        return kept[0].seq if gone else None

    async def follow(
        self, session: str | None, kinds: Sequence[str], ref: str | None, after: int, now: int
    ) -> AsyncGenerator[FeedItem, None]:
        """Yield items after a number, in order, until the fleet is closed. `now`: the newest when it was asked for."""
        wanted = frozenset(kinds)
        whole = session is None and ref is None
        _, newest = await self._ledger.feed_bounds()
        seq = (
            after if after <= max(newest, now) else now
        )  # a number of another database would hide everything
        checked = whole
        while True:
            news = self.news
            batch: Sequence[FeedItem] | None = self._from_ring(seq)
            last = batch[-1].seq if batch else seq
            if batch is not None:
                checked = whole
            else:
                if not checked and (oldest := await self._oldest_after_gap(session, ref, seq)) is not None:
                    yield self._missed(seq, oldest)
                    seq = oldest - 1
                checked = True
                batch, last = await self._from_store(session, () if whole else kinds, ref, seq)
            for item in batch:
                if whole and item.seq > seq + 1:
                    # The numbers of the whole feed have no gaps but those that retention leaves.
                    yield self._missed(seq, item.seq)
                seq = item.seq
                if (
                    (session is None or item.session == session)
                    and (not wanted or item.kind in wanted)
                    and (ref is None or item.ref == ref)
                ):
                    yield item
            if seq == last and not batch:
                if self._closed:
                    return
                await news.wait()
            seq = max(seq, last)

    async def _from_store(
        self, session: str | None, kinds: Sequence[str], ref: str | None, seq: int
    ) -> tuple[Sequence[FeedItem], int]:
        """Return a page of older items, and the number up to which everything has been seen."""
        newest = self.last_seq
        found = await self._ledger.feed_after(seq, session=session, kinds=kinds, ref=ref, limit=PAGE)
        # A short page means that everything up to what was newest before the read has been seen.
        last = found[-1].seq if len(found) == PAGE else max(newest, found[-1].seq if found else seq)
        return found, last

    def _missed(self, after: int, oldest: int) -> FeedItem:
        return FeedItem(oldest - 1, self._clock.time(), "", None, MISSED, {"after": after, "oldest": oldest})

    def _from_ring(self, seq: int) -> list[FeedItem] | None:
        """Return up to a page of items after a number, or `None` when the ring does not reach back that far."""
        if seq >= self.last_seq:
            return []
        if not self._ring or self._ring[0].seq > seq + 1:
            return None
        found: list[FeedItem] = []
        for item in reversed(self._ring):
            if item.seq <= seq:
                break
            found.append(item)
        found.reverse()
        return found[:PAGE]


# -- what each telemetry event becomes ---------------------------------------------------------------------------------

Rows = Iterator[tuple[str, Data]]
Row = Callable[[Measurements, Metadata], Rows]


def _started(_: Measurements, metadata: Metadata) -> Rows:
    own = metadata["origin"] is Origin.AGENT
    cause = {"origin": Origin.AGENT.value, "cause": _cut(str(metadata["prompt"]))} if own else {}
    yield "turn.started", {"attempt": metadata["attempt"], **cause}


def _completed(measurements: Measurements, metadata: Metadata) -> Rows:
    took = round(measurements["duration_s"], 6)
    response = metadata.get("response")
    note = response.note if isinstance(response, Response) else ""
    yield "turn.completed", {"duration_s": took, "note": note} if note else {"duration_s": took}


def _failed(measurements: Measurements, metadata: Metadata) -> Rows:
    detail = str(metadata["detail"])
    yield (
        "turn.failed",
        {
            "reason": str(metadata["reason"]),
            "detail": detail[:PIECE],
            "duration_s": round(measurements["duration_s"], 6),
        },
    )


def _rejected(_: Measurements, metadata: Metadata) -> Rows:
    yield "turn.rejected", {"reason": str(metadata["reason"])}


def _queued(measurements: Measurements, _: Metadata) -> Rows:
    yield "queued", {"depth": int(measurements["depth"])}


def _halted(measurements: Measurements, _: Metadata) -> Rows:
    yield "halted", {"queued": int(measurements["queued"])}


def _resumed(measurements: Measurements, _: Metadata) -> Rows:
    yield "resumed", {"queued": int(measurements["queued"])}


def _asked(_: Measurements, metadata: Metadata) -> Rows:
    approval = metadata["approval"]
    if isinstance(approval, Approval):
        request = approval.request
        yield (
            "approval.requested",
            {"approval": approval.id, "tool": request.tool, "kind": request.kind.value},
        )


def _decided(measurements: Measurements, metadata: Metadata) -> Rows:
    approval = metadata["approval"]
    if isinstance(approval, Approval):
        decision = getattr(metadata["decision"], "type", ApprovalState.EXPIRED.value)
        yield "approval.decided", {"approval": approval.id, "decision": decision, "by": str(metadata["by"])}


def _crashed(_: Measurements, metadata: Metadata) -> Rows:
    yield "session.died", {"reason": str(metadata["reason"])}


def _checkpointed(_: Measurements, metadata: Metadata) -> Rows:
    effective = metadata["effective"]
    if isinstance(effective, Mapping):
        yield "settings", dict(effective)


def _background(_: Measurements, metadata: Metadata) -> Rows:
    running = metadata["running"]
    if isinstance(running, tuple):
        tasks = [task for task in running if isinstance(task, BackgroundTask)]
        yield (
            "background",
            {
                "running": [
                    {"id": t.id, "kind": t.kind, "what": _cut(t.what), "since": t.since} for t in tasks
                ]
            },
        )


def _received(_: Measurements, metadata: Metadata) -> Rows:
    match metadata["event"]:
        case events.TextEvent(text, message):
            for start in range(0, len(text), PIECE):
                yield "text", {"text": text[start : start + PIECE], "message": message}
        case events.ToolUseEvent(id, tool, arguments):
            yield "tool_use", {"id": id, "tool": tool, "arguments": _cut(_json(arguments))}
        case events.ToolResultEvent(id, content, is_error):
            yield "tool_result", {"id": id, "is_error": is_error, **_cut_field("content", content)}
        case events.NoticeEvent(name, message, _, retry_at):
            when = {} if retry_at is None else {"retry_at": round(retry_at, 3)}
            yield "notice", {"name": name, "message": _cut(message), **when}


def _json(arguments: Mapping[str, object]) -> str:
    return json.dumps(arguments, ensure_ascii=False, default=repr)


def _gap(after: int, items: Sequence[FeedItem]) -> bool:
    return any(item.seq != seq for seq, item in enumerate(items, after + 1))


def storable(text: str) -> str:
    """Return the text with `?` for each lone surrogate: neither a database nor JSON on a wire can hold those."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


def _cut(text: str) -> str:
    return text if len(text) <= PIECE else text[:PIECE] + "…"


def _cut_field(name: str, text: str) -> dict[str, object]:
    return {name: _cut(text), **({"length": len(text)} if len(text) > PIECE else {})}


_ROWS: dict[EventName, Row] = {
    telemetry.PROMPT_START: _started,
    telemetry.PROMPT_STOP: _completed,
    telemetry.PROMPT_ERROR: _failed,
    telemetry.TURN_REJECTED: _rejected,
    telemetry.MAILBOX_QUEUED: _queued,
    telemetry.HALTED: _halted,
    telemetry.RESUMED: _resumed,
    telemetry.APPROVAL_REQUESTED: _asked,
    telemetry.APPROVAL_DECIDED: _decided,
    telemetry.AGENT_CRASHED: _crashed,
    telemetry.BACKGROUND_CHANGED: _background,
    telemetry.CHECKPOINTED: _checkpointed,
    telemetry.EVENT_RECEIVED: _received,
}
