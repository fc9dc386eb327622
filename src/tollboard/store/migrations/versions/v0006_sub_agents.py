"""0006: sub-agents of sessions, with what they said."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the tables of sub-agents."""
    op.create_table(
        "sub_agents",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("instructions", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_at", sa.REAL(), nullable=False),
        sa.Column("ended_at", sa.REAL(), nullable=True),
        sa.Column("turns", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("duration_s", sa.REAL(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("cache_read_tokens", sa.Integer(), nullable=True),
        sa.Column("cache_creation_tokens", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.REAL(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("sub_agents_session_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("sub_agents_pk")),
        sqlite_strict=True,
    )
    op.create_index("sub_agents_id", "sub_agents", ["id"], unique=True)
    op.create_index("sub_agents_session", "sub_agents", ["session_id", "number"])
    op.create_index("sub_agents_open", "sub_agents", ["ref"], sqlite_where=sa.text("ended_at IS NULL"))
    op.create_table(
        "sub_agent_messages",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("sub_agent_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.REAL(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sub_agent_id"],
            ["sub_agents.id"],
            name=op.f("sub_agent_messages_sub_agent_id_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("sub_agent_messages_pk")),
        sqlite_strict=True,
    )
    op.create_index("sub_agent_messages_of", "sub_agent_messages", ["sub_agent_id", "number"])
