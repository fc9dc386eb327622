"""The feed on its way to the database: an item that is not numbered yet, and how numbered ones reach the callbacks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from tollboard.fleet.ledger import NewFeedItem
from tollboard.fleet.records import FeedItem
from tollboard.store.queries import FEED
from tollboard.store.write import Write


class FeedWrite(Write):
    """A feed item; the database gives it its number."""

    __slots__ = ("item", "seq")

    def __init__(self, item: NewFeedItem) -> None:
        super().__init__(
            FEED.sql,
            (item.session_id, item.session, item.ref, item.kind, item.at, to_json(item.data)),
        )
        self.item = item
        self.seq = 0

    def run(self, connection: sqlite3.Connection) -> None:
        """Add the item alone."""
        self.seq = connection.execute(self.sql, self.params).lastrowid or 0

    def numbered(self) -> FeedItem:
        """Return the item under its number; only after the commit."""
        item = self.item
        return FeedItem(self.seq, item.at, item.session, item.ref, item.kind, item.data)


def to_json(value: object) -> str:
    """Return compact JSON; what JSON does not know becomes its text, so that no odd value stops a write."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def add_many(connection: sqlite3.Connection, writes: Sequence[FeedWrite]) -> None:
    """Add items in one go. AUTOINCREMENT counts on by one, and nobody else can write meanwhile."""
    connection.executemany(FEED.sql, [write.params for write in writes])
    last: tuple[Any, ...] = connection.execute("SELECT last_insert_rowid()").fetchone()
    for seq, write in enumerate(writes, last[0] - len(writes) + 1):
        write.seq = seq
