"""0001: the first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table, and the owner's epoch."""
    _events()
    _meta()
    _sessions()
    _approvals()
    _cursors()
    _requests()
    _summaries()
    op.execute("INSERT INTO meta (key, value) VALUES ('owner_epoch', 0)")


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.REAL(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("events_pk")),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index("events_session", "events", ["session", "seq"], unique=False)


def _meta() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("meta_pk")),
        sqlite_strict=True,
    )


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("backend", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("life", sa.Text(), nullable=False),
        sa.Column("halted", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.REAL(), nullable=False),
        sa.Column("stopped_at", sa.REAL(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("provider_session_id", sa.Text(), nullable=True),
        sa.Column("effective", sa.Text(), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("sessions_pk")),
        sqlite_strict=True,
    )
    op.create_index("sessions_name", "sessions", ["name", "stopped_at"], unique=False)
    op.create_index(
        "sessions_name_taken", "sessions", ["name"], unique=True, sqlite_where=sa.text("life != 'stopped'")
    )


def _approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("display", sa.Text(), nullable=False),
        sa.Column("allowed", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.REAL(), nullable=False),
        sa.Column("decided_at", sa.REAL(), nullable=True),
        sa.Column("decided_by", sa.Text(), nullable=True),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("approvals_session_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("approvals_pk")),
        sqlite_strict=True,
    )
    op.create_index("approvals_id", "approvals", ["id"], unique=True)
    op.create_index("approvals_session", "approvals", ["session_id", "number"], unique=False)
    op.create_index("approvals_state", "approvals", ["state", "number"], unique=False)


def _cursors() -> None:
    op.create_table(
        "cursors",
        sa.Column("reader", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("cursors_session_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("reader", "session_id", name=op.f("cursors_pk")),
        sqlite_strict=True,
    )
    op.create_index("cursors_session", "cursors", ["session_id"], unique=False)


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("accepted_at", sa.REAL(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.REAL(), nullable=True),
        sa.Column("ended_at", sa.REAL(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("duration_s", sa.REAL(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("cache_read_tokens", sa.Integer(), nullable=True),
        sa.Column("cache_creation_tokens", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.REAL(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("requests_session_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("requests_pk")),
        sqlite_strict=True,
    )
    op.create_index(
        "requests_key",
        "requests",
        ["session_id", "key"],
        unique=True,
        sqlite_where=sa.text("key IS NOT NULL"),
    )
    op.create_index("requests_ref", "requests", ["ref"], unique=True)
    op.create_index("requests_seq", "requests", ["session_id", "seq"], unique=True)


def _summaries() -> None:
    op.create_table(
        "summaries",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("at", sa.REAL(), nullable=False),
        sa.Column("at_turn", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("summaries_session_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_id", "version", name=op.f("summaries_pk")),
        sqlite_strict=True,
    )
