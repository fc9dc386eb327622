"""0004: approvals that ask a person something."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Say of each approval what kind it is; every one so far is about a call."""
    op.add_column("approvals", sa.Column("kind", sa.Text(), nullable=False, server_default=sa.text("'call'")))
    op.add_column(
        "approvals", sa.Column("questions", sa.Text(), nullable=False, server_default=sa.text("'[]'"))
    )
