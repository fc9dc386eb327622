"""Bring a database's schema up to date with Alembic. Imported only when that is needed."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tollboard.store.schema import HEAD

_log = logging.getLogger(__name__)


def upgrade(path: Path, version: str | None, *, to: str = HEAD) -> None:
    """Run the migrations between `version` (`None`: empty) and `to`, all in one transaction."""
    _log.info("migrating the database from schema %s to %s", version or "none", to)
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            # The driver must not begin on its own: DDL would run outside the transaction.
            driver.isolation_level = None
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                command.upgrade(config(connection), to)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                if driver.in_transaction:  # on a full disk SQLite has rolled back by itself
                    driver.execute("ROLLBACK")
                raise
    except DBAPIError as error:
        # The store's other statements raise what sqlite3 does; who explains errors knows no other.
        raise error.orig or error from None
    finally:
        engine.dispose()


def config(connection: object) -> Config:
    """Return Alembic's configuration for our migrations, without an ini file and without touching logging."""
    settings = Config()
    settings.set_main_option("script_location", "tollboard.store:migrations")
    settings.attributes["connection"] = connection
    return settings
