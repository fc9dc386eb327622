"""The tables, once: queries and migrations are checked against this file; nothing else names a column's type.

Times are Unix seconds, texts are UTF-8, `data`, `options` and the like are JSON. Tables are STRICT, so a wrong type is
refused by SQLite itself. A change here needs a migration in `migrations/versions` and a new `HEAD`.
"""

from __future__ import annotations

from sqlalchemy import REAL, Column, ForeignKey, Index, Integer, MetaData, Table, Text, text

VERSIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
"""Every schema version this program knows, oldest first."""
HEAD = VERSIONS[-1]

NAMING = {
    "pk": "%(table_name)s_pk",
    "fk": "%(table_name)s_%(column_0_name)s_fk",
    "uq": "%(table_name)s_%(column_0_name)s",
}

metadata = MetaData(naming_convention=NAMING)

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Integer, nullable=False),
    sqlite_strict=True,
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("life", Text, nullable=False),
    Column("halted", Integer, nullable=False),
    Column("created_at", REAL, nullable=False),
    Column("stopped_at", REAL),
    Column("problem", Text),
    Column("provider_session_id", Text),
    Column("effective", Text, nullable=False, server_default=text("'{}'")),
    Column("background", Text, nullable=False, server_default=text("'[]'")),
    Column("notice", Text),
    # A dead session keeps its name until somebody stops it: its manager must look first.
    Index("sessions_name_taken", "name", unique=True, sqlite_where=text("life != 'stopped'")),
    Index("sessions_name", "name", "stopped_at"),
    sqlite_strict=True,
)

requests = Table(
    "requests",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("ref", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("key", Text),
    Column("origin", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("accepted_at", REAL, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_at", REAL),
    Column("ended_at", REAL),
    Column("seq", Integer),
    Column("status", Text),
    Column("reason", Text),
    Column("detail", Text),
    Column("duration_s", REAL),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cache_read_tokens", Integer),
    Column("cache_creation_tokens", Integer),
    Column("cost_usd", REAL),
    Column("text", Text),
    Index("requests_ref", "ref", unique=True),
    # Also finds what is unfinished, which has no seq: each further index is one more page to flush per commit.
    Index("requests_seq", "session_id", "seq", unique=True),
    Index("requests_key", "session_id", "key", unique=True, sqlite_where=text("key IS NOT NULL")),
    sqlite_strict=True,
)
"""Every accepted prompt. Those with a `seq` are the session's history, numbered from 1 without gaps."""

events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("ref", Text),
    Column("kind", Text, nullable=False),
    Column("at", REAL, nullable=False),
    Column("data", Text, nullable=False),
    Index("events_session", "session", "seq"),
    # AUTOINCREMENT: a number that a client has seen is never given to another item, even when all were deleted.
    sqlite_autoincrement=True,
    sqlite_strict=True,
)
"""The feed. No foreign key: an item may tell of the deletion of its own session."""

summaries = Table(
    "summaries",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("at", REAL, nullable=False),
    Column("at_turn", Integer, nullable=False),
    sqlite_strict=True,
)

approvals = Table(
    "approvals",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("ref", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("display", Text, nullable=False),
    Column("allowed", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("requested_at", REAL, nullable=False),
    Column("decided_at", REAL),
    Column("decided_by", Text),
    Column("decision", Text),
    Column("kind", Text, nullable=False, server_default=text("'call'")),
    Column("questions", Text, nullable=False, server_default=text("'[]'")),
    Index("approvals_id", "id", unique=True),
    Index("approvals_session", "session_id", "number"),
    Index("approvals_ref", "ref"),
    Index("approvals_state", "state", "number"),
    sqlite_strict=True,
)

cursors = Table(
    "cursors",
    metadata,
    Column("reader", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, nullable=False),
    Index("cursors_session", "session_id"),
    sqlite_strict=True,
)

pools = Table(
    "pools",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("life", Text, nullable=False),
    Column("created_at", REAL, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("stopped_at", REAL),
    Column("problem", Text),
    Index("pools_name_taken", "name", unique=True, sqlite_where=text("life != 'stopped'")),
    sqlite_strict=True,
)

pool_tasks = Table(
    "pool_tasks",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("ref", Text, nullable=False),
    Column("pool_id", Text, ForeignKey("pools.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("hint_s", REAL),
    Column("prompt", Text, nullable=False),
    Column("submitted_at", REAL, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", Text),
    Column("started_at", REAL),
    Column("ended_at", REAL),
    Column("status", Text),
    Column("reason", Text),
    Column("error", Text),
    Column("duration_s", REAL),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cache_read_tokens", Integer),
    Column("cache_creation_tokens", Integer),
    Column("cost_usd", REAL),
    Column("text", Text),
    Index("pool_tasks_ref", "ref", unique=True),
    Index("pool_tasks_position", "pool_id", "position", unique=True),
    sqlite_strict=True,
)
"""Every accepted task of a pool. `position` counts a pool's submissions from 0."""

memory = Table(
    "memory",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("text", Text, nullable=False),
    sqlite_strict=True,
)
"""What backends remember of their sessions: messages, tool calls with their outcomes. The texts are their own."""

sub_agents = Table(
    "sub_agents",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("ref", Text, nullable=False),
    Column("parent", Text),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("instructions", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started_at", REAL, nullable=False),
    Column("ended_at", REAL),
    Column("turns", Integer, nullable=False, server_default=text("0")),
    Column("duration_s", REAL),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("cache_read_tokens", Integer),
    Column("cache_creation_tokens", Integer),
    Column("cost_usd", REAL),
    Column("result", Text),
    Column("error", Text),
    Index("sub_agents_id", "id", unique=True),
    Index("sub_agents_session", "session_id", "number"),
    Index("sub_agents_open", "ref", sqlite_where=text("ended_at IS NULL")),
    sqlite_strict=True,
)
"""Every sub-agent that was announced in a session. It has ended, and the feed says so, when `ended_at` is set."""

sub_agent_messages = Table(
    "sub_agent_messages",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("sub_agent_id", Text, ForeignKey("sub_agents.id", ondelete="CASCADE"), nullable=False),
    Column("role", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("call_id", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("at", REAL, nullable=False),
    Index("sub_agent_messages_of", "sub_agent_id", "number"),
    sqlite_strict=True,
)
"""What they said, cut where it is long: to be read by people, not to be sent to a model."""
