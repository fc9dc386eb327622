"""Sub-agents on their way to the database: announced, heard, ended; each with its feed item in the same transaction.

What makes the feed right is here, not in who tells: one that is announced twice (it goes on after a restart) has one
`subagent.started`, and one that ends twice (cancelled by a person, then swept with its turn) has one terminal item.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Self

from tollboard.errors import StoreUnavailable
from tollboard.fleet.ledger import NewFeedItem
from tollboard.runtime.sub_agents import Said, SubAgentBegan, SubAgentEnded, SubAgentSaid, SubAgentWaits
from tollboard.store.feed import FeedWrite
from tollboard.store.queries import (
    ADD_SUB_AGENT,
    ADD_SUB_AGENT_MESSAGE,
    COUNT_SUB_AGENT_TURNS,
    END_SUB_AGENT,
    LAST_SUB_AGENT_MESSAGES,
    OPEN_SUB_AGENT,
    OPEN_SUB_AGENTS_BELOW,
    SET_SUB_AGENT_STATUS,
    Query,
)
from tollboard.store.retries import Retries
from tollboard.store.usage import usage_values
from tollboard.store.write import Write, storable
from tollboard.store.writer import Writer

MAX_TEXT = 8 * 1024
"""Characters that are kept of each message, and shown of a result."""
LAST_TEXT = 1_000
"""Characters of each of the last messages that a terminal item carries."""
INTERRUPTED, RUNNING = "interrupted", "running"


class Begin(Write):
    """The announcement of a sub-agent; one that is known already is not announced again."""

    __slots__ = ("item",)

    def __init__(self, session_id: str, session: str, ref: str, news: SubAgentBegan, at: float) -> None:
        path = f"{session}/{news.path}"
        values = ADD_SUB_AGENT.bind(
            id=news.id, session_id=session_id, ref=ref, parent=news.parent, name=news.name, path=path,
            model=news.model, instructions=_cut(news.instructions, MAX_TEXT), status=RUNNING, started_at=at,
        )  # fmt: skip
        super().__init__(ADD_SUB_AGENT.sql, storable(values))
        data = {
            "id": news.id, "parent": news.parent, "name": news.name, "path": path, "model": news.model,
        }  # fmt: skip
        self.item = FeedWrite(NewFeedItem(at, session_id, session, ref, "subagent.started", data))

    def run(self, connection: sqlite3.Connection) -> None:
        """Add the row, and the feed item with it."""
        self.item.seq = 0
        if connection.execute(self.sql, self.params).rowcount == 1:
            self.item.run(connection)

    def flatten(self) -> Sequence[Write]:
        """Return this, and the feed item if it was written."""
        return (self, self.item) if self.item.seq else (self,)


class Say(Write):
    """New messages of a sub-agent."""

    __slots__ = ("rows",)

    def __init__(self, news: SubAgentSaid, at: float) -> None:
        super().__init__(
            COUNT_SUB_AGENT_TURNS.sql, COUNT_SUB_AGENT_TURNS.bind(the_id=news.id, new_turns=news.turns)
        )
        self.rows = [storable(_message(news.id, said, at)) for said in news.messages]

    def run(self, connection: sqlite3.Connection) -> None:
        """Add the messages, unless it is gone with its session."""
        if connection.execute(self.sql, self.params).rowcount == 1:
            connection.executemany(ADD_SUB_AGENT_MESSAGE.sql, self.rows)


class End(Write):
    """The end of one sub-agent, or of all below a request; what has ended already is left as it ended.

    Nobody awaits it, and a sub-agent whose turn is over must not stay open: it is tried again while the disk fails.
    """

    __slots__ = ("at", "found", "items", "news", "retries", "tries", "why", "writer")

    @classmethod
    def of(cls, news: SubAgentEnded, at: float, writer: Writer, retries: Retries) -> Self:
        """Return the end of one, as it was told."""
        return cls(OPEN_SUB_AGENT, news.id, at, writer, retries, news=news)

    @classmethod
    def below(cls, ref: str, why: str, at: float, writer: Writer, retries: Retries) -> Self:
        """Return the end of all that are left open below a request."""
        return cls(OPEN_SUB_AGENTS_BELOW, ref, at, writer, retries, why=why)

    def __init__(
        self, query: Query, found: str, at: float, writer: Writer, retries: Retries, *,
        news: SubAgentEnded | None = None, why: str = "",
    ) -> None:  # fmt: skip
        super().__init__(query.sql, query.bind(found=found))
        self.at = at
        self.news = news
        self.why = why
        self.writer = writer
        self.retries = retries
        self.tries = 0
        self.items: list[FeedWrite] = []

    def run(self, connection: sqlite3.Connection) -> None:
        """End each that is open, with its feed item."""
        self.items = []
        for row in connection.execute(self.sql, self.params).fetchall():
            id, session_id, session, ref, name, turns, started_at = row
            took = max(0.0, self.at - started_at)
            news = self.news or SubAgentEnded(id, "cancelled", self.why, turns, took)
            done = news.ending == "completed"
            values = END_SUB_AGENT.bind(
                the_id=id, new_status=news.ending, at=self.at, new_turns=news.turns, new_duration_s=news.duration_s,
                new_result=_cut(news.text, MAX_TEXT) if done else None,
                new_error=None if done else _cut(news.text, MAX_TEXT),
                **dict(zip(_USAGE, usage_values(news.usage), strict=True)),
            )  # fmt: skip
            connection.execute(END_SUB_AGENT.sql, storable(values))
            last = connection.execute(
                LAST_SUB_AGENT_MESSAGES.sql, LAST_SUB_AGENT_MESSAGES.bind(id=id)
            ).fetchall()
            data = {
                "id": id, "name": name, "turns": news.turns, "duration_s": round(news.duration_s, 6),
                ("result" if done else "error"): _cut(news.text, LAST_TEXT),
                "messages": [_shown(*row) for row in reversed(last)],
            }  # fmt: skip
            item = FeedWrite(NewFeedItem(self.at, session_id, session, ref, f"subagent.{news.ending}", data))
            item.params = storable(item.params)
            item.run(connection)
            self.items.append(item)

    def flatten(self) -> Sequence[Write]:
        """Return this, and the feed items it wrote."""
        return (self, *self.items)

    def settle(self) -> None:
        """Settle, or come back later."""
        if not (isinstance(self.error, StoreUnavailable) and self.retries.later(self)):
            super().settle()

    def again(self) -> None:
        """Submit it once more."""
        self.error = None
        self.tries += 1
        _ = self.writer.submit(self, must=True)


def set_status(news: SubAgentWaits) -> Write:
    """Return the write that notes whether a sub-agent waits for a person."""
    status = INTERRUPTED if news.waits else RUNNING
    return Write(SET_SUB_AGENT_STATUS.sql, SET_SUB_AGENT_STATUS.bind(the_id=news.id, new_status=status))


_USAGE = (
    "new_input_tokens", "new_output_tokens", "new_cache_read_tokens", "new_cache_creation_tokens", "new_cost_usd",
)  # fmt: skip


def _message(id: str, said: Said, at: float) -> tuple[Any, ...]:
    return ADD_SUB_AGENT_MESSAGE.bind(
        sub_agent_id=id,
        role=said.role,
        tool=said.tool,
        call_id=said.call,
        text=_cut(said.text, MAX_TEXT),
        at=at,
    )


def _shown(role: str, tool: str, text: str) -> dict[str, str]:
    shown = {"role": role, "text": _cut(text, LAST_TEXT)}
    return {**shown, "tool": tool} if tool else shown


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
