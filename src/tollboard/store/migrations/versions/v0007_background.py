"""0007: what a session runs in the background, and why it halted by itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add both to the sessions: a daemon that was killed can then say what was cut off."""
    op.add_column(
        "sessions", sa.Column("background", sa.Text(), nullable=False, server_default=sa.text("'[]'"))
    )
    op.add_column("sessions", sa.Column("notice", sa.Text()))
