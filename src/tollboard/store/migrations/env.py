"""What Alembic runs to apply migrations, on the connection that `tollboard.store.migrate` gives it."""

from __future__ import annotations

from alembic import context

from tollboard.store.schema import metadata


def run() -> None:
    """Apply the migrations; the transaction belongs to the caller. Logging is left alone."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        # SQLite cannot alter most things in place; Alembic copies the table instead.
        render_as_batch=True,
        transactional_ddl=False,
    )
    context.run_migrations()


run()
