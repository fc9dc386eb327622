"""Bring a database's schema up to date with Alembic. Imported only when that is needed."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, create_engine
from sqlalchemy.pool import NullPool

from tollboard.store.schema import HEAD

_log = logging.getLogger(__name__)


def upgrade(path: Path, version: str | None, *, to: str = HEAD) -> None:
    """Run the migrations between `version` (`None`: empty) and `to`, all in one transaction."""
    _log.info("migrating the database from schema %s to %s", version or "none", to)
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            # The driver must not begin on its own: DDL would run outside the transaction.
            connection.connection.driver_connection.isolation_level = None  # type: ignore[union-attr]
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                command.upgrade(config(connection), to)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
    finally:
        engine.dispose()


def config(connection: object) -> Config:
    """Return Alembic's configuration for our migrations, without an ini file and without touching logging."""
    settings = Config()
    settings.set_main_option("script_location", "tollboard.store:migrations")
    settings.attributes["connection"] = connection
    return settings
