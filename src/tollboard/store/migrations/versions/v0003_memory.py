"""0003: what backends remember of their sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table of memories, and let approvals be found by the request they belong to."""
    op.create_table(
        "memory",
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("memory_session_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("session_id", "name", name=op.f("memory_pk")),
        sqlite_strict=True,
    )
    op.create_index("approvals_ref", "approvals", ["ref"])
