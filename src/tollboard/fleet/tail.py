"""The feed: telemetry of the whole fleet as numbered rows that anyone can follow and resume (S10).

An item gets its number when it is committed, so whoever sees one sees what is durable, and a number never comes
twice. A follower is only a number: it reads the newest items from a ring in memory and older ones from the store, at
its own pace, so a slow one costs nothing and misses nothing that retention still keeps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

from tollboard.clock import Clock
from tollboard.fleet.ledger import Ledger, NewFeedItem
from tollboard.fleet.records import FeedItem, FeedPage
from tollboard.runtime import event as events
from tollboard.runtime import telemetry
from tollboard.runtime.approval import Approval
from tollboard.runtime.telemetry import EventName, Measurements, Metadata, Telemetry

RING_SIZE = 5_000
PAGE = 500
PIECE = 8 * 1024
"""Longer texts are split into several items, longer tool results are cut and say so (characters)."""
MISSED = "missed"

Data = Mapping[str, object]


class Tail:
    """Writes the feed and lets it be followed."""

    def __init__(self, ledger: Ledger, clock: Clock, session_id: Callable[[str], str | None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._session_id = session_id
        self._ring: deque[FeedItem] = deque(maxlen=RING_SIZE)
        self._news = asyncio.Event()
        self.last_seq = 0
        self.on_items: Callable[[Sequence[FeedItem]], None] | None = None

    async def open(self, tell: Telemetry) -> None:
        """Begin: number on from where the feed ended, and listen."""
        _, self.last_seq = await self._ledger.feed_bounds()
        self._ledger.on_feed(self._committed)
        tell.attach("fleet.tail", tuple(_ROWS), self._heard)

    def write(self, session_id: str, session: str, kind: str, data: Data, ref: str | None = None) -> None:
        """Append an item of the fleet's own."""
        self._ledger.feed(NewFeedItem(self._clock.time(), session_id, session, ref, kind, data))

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
        news, self._news = self._news, asyncio.Event()
        news.set()
        if self.on_items is not None:
            self.on_items(items)

    async def wait_for_news(self) -> None:
        """Wait until at least one more item is committed."""
        await self._news.wait()

    async def page(
        self, session: str | None, kinds: Sequence[str], ref: str | None, after: int, limit: int
    ) -> FeedPage:
        """Return one page after a number."""
        newest = self.last_seq
        oldest, _ = await self._ledger.feed_bounds()
        items = await self._ledger.feed_after(after, session=session, kinds=kinds, ref=ref, limit=limit)
        last = items[-1].seq if len(items) == limit else max(newest, after, items[-1].seq if items else 0)
        return FeedPage(
            tuple(items), last, missed=oldest > after + 1 and session is None and not kinds and ref is None
        )

    async def follow(
        self, session: str | None, kinds: Sequence[str], ref: str | None, after: int | None
    ) -> AsyncIterator[FeedItem]:
        """Yield items after a number, or from now on, in order; never ends by itself."""
        seq = self.last_seq if after is None else after
        wanted = frozenset(kinds)
        oldest, _ = await self._ledger.feed_bounds()
        if after is not None and oldest > after + 1 and session is None and ref is None:
            yield FeedItem(
                oldest - 1, self._clock.time(), "", None, MISSED, {"after": after, "oldest": oldest}
            )
        while True:
            news = self._news
            batch = self._from_ring(seq)
            if batch is None:
                newest = self.last_seq
                found = await self._ledger.feed_after(seq, session=session, kinds=kinds, ref=ref, limit=PAGE)
                for item in found:
                    yield item
                # A short page means that everything up to what was newest before the read has been seen.
                seq = found[-1].seq if len(found) == PAGE else max(newest, found[-1].seq if found else seq)
                continue
            for item in batch:
                seq = item.seq
                if (
                    (session is None or item.session == session)
                    and (not wanted or item.kind in wanted)
                    and (ref is None or item.ref == ref)
                ):
                    yield item
            if not batch:
                await news.wait()

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
    yield "turn.started", {"attempt": metadata["attempt"]}


def _completed(measurements: Measurements, metadata: Metadata) -> Rows:
    yield "turn.completed", {"duration_s": round(measurements["duration_s"], 6)}


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
        yield "approval.requested", {"approval": approval.id, "tool": approval.request.tool}


def _decided(measurements: Measurements, metadata: Metadata) -> Rows:
    approval = metadata["approval"]
    if isinstance(approval, Approval):
        decision = getattr(metadata["decision"], "type", "")
        yield "approval.decided", {"approval": approval.id, "decision": decision, "by": str(metadata["by"])}


def _crashed(_: Measurements, metadata: Metadata) -> Rows:
    yield "session.died", {"reason": str(metadata["reason"])}


def _checkpointed(_: Measurements, metadata: Metadata) -> Rows:
    effective = metadata["effective"]
    if isinstance(effective, Mapping):
        yield "settings", dict(effective)


def _received(_: Measurements, metadata: Metadata) -> Rows:
    match metadata["event"]:
        case events.TextEvent(text, message):
            for start in range(0, len(text), PIECE):
                yield "text", {"text": text[start : start + PIECE], "message": message}
        case events.ToolUseEvent(id, tool, arguments):
            yield "tool_use", {"id": id, "tool": tool, "arguments": _cut(repr(dict(arguments)))}
        case events.ToolResultEvent(id, content, is_error):
            yield "tool_result", {"id": id, "is_error": is_error, **_cut_field("content", content)}
        case events.NoticeEvent(name, message):
            yield "notice", {"name": name, "message": _cut(message)}


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
    telemetry.CHECKPOINTED: _checkpointed,
    telemetry.EVENT_RECEIVED: _received,
}
