"""0002: pools and their tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables of pools."""
    op.create_table(
        "pools",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("life", sa.Text(), nullable=False),
        sa.Column("created_at", sa.REAL(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("stopped_at", sa.REAL(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pools_pk")),
        sqlite_strict=True,
    )
    op.create_index(
        "pools_name_taken", "pools", ["name"], unique=True, sqlite_where=sa.text("life != 'stopped'")
    )
    op.create_table(
        "pool_tasks",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("hint_s", sa.REAL(), nullable=True),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.REAL(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("started_at", sa.REAL(), nullable=True),
        sa.Column("ended_at", sa.REAL(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("duration_s", sa.REAL(), nullable=True),
        sa.Column("input_tokens", sa.Integer(), nullable=True),
        sa.Column("output_tokens", sa.Integer(), nullable=True),
        sa.Column("cache_read_tokens", sa.Integer(), nullable=True),
        sa.Column("cache_creation_tokens", sa.Integer(), nullable=True),
        sa.Column("cost_usd", sa.REAL(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["pool_id"], ["pools.id"], name=op.f("pool_tasks_pool_id_fk"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pool_tasks_pk")),
        sqlite_strict=True,
    )
    op.create_index("pool_tasks_ref", "pool_tasks", ["ref"], unique=True)
    op.create_index("pool_tasks_position", "pool_tasks", ["pool_id", "position"], unique=True)
