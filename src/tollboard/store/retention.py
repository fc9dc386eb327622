"""How much of the feed is kept. History and requests are never thrown away; only `delete_session` removes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from tollboard.store.feed import FeedWrite
from tollboard.store.queries import PRUNE_AGE, PRUNE_SESSION
from tollboard.store.write import Write

_SLICE_ROWS = 1_000
_SESSIONS_AT_ONCE = 16
_AGE_EVERY_ITEMS = 1_000


@dataclass(frozen=True, slots=True)
class Retention:
    """Bounds of the feed, per session name and for all of it."""

    max_events_per_session: int = 2_000
    max_age_s: float = 14 * 86_400.0


class Pruner:
    """Deletes surplus feed items in small slices, inside transactions that write feed items anyway.

    A session is looked at when it has written a tenth of its allowance since the last look, and at its first item
    after the start; so it holds at most a tenth more than allowed. Only the writer's thread calls this.
    """

    def __init__(self, retention: Retention, now: Callable[[], float]) -> None:
        self._keep = retention.max_events_per_session
        self._max_age_s = retention.max_age_s
        self._now = now
        self._slack = max(1, self._keep // 10)
        self._written: dict[str, int] = {}
        self._due: dict[str, None] = {}
        self._items = _AGE_EVERY_ITEMS

    def run(self, connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
        """Count what a batch adds and delete a bounded slice of what has become too much or too old."""
        items = [part for write in writes for part in write.flatten() if isinstance(part, FeedWrite)]
        if not items:
            return
        for item in items:
            self._count(item.item.session)
        for session in tuple(islice(self._due, _SESSIONS_AT_ONCE)):
            self._prune(connection, session)
        if self._items >= _AGE_EVERY_ITEMS:
            self._prune_old(connection)

    def _count(self, session: str) -> None:
        self._items += 1
        written = self._written.get(session, self._slack) + 1
        if written >= self._slack:
            self._due[session] = None
            written = 0
        self._written[session] = written

    def _prune(self, connection: sqlite3.Connection, session: str) -> None:
        params = PRUNE_SESSION.bind(session=session, keep=self._keep, slice=_SLICE_ROWS)
        if connection.execute(PRUNE_SESSION.sql, params).rowcount < _SLICE_ROWS:
            del self._due[session]

    def _prune_old(self, connection: sqlite3.Connection) -> None:
        params = PRUNE_AGE.bind(slice=_SLICE_ROWS, older_than=self._now() - self._max_age_s)
        if connection.execute(PRUNE_AGE.sql, params).rowcount < _SLICE_ROWS:
            self._items = 0
