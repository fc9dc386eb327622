"""The schema's history: its steps add up to schema.py, each is named in VERSIONS, none touches the logging."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tests.store.samples import raw
from tollboard.store import migrate, schema


def shape(path: Path) -> dict[str, object]:
    """Return every table's columns, STRICT and AUTOINCREMENT, and every index's columns and condition."""
    connection = raw(path)
    found: dict[str, object] = {}
    names = connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'alembic%'"
    )
    for kind, name, _, sql in names.fetchall():
        if kind == "table" and not name.startswith("sqlite"):
            columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
            strict = sql.rstrip().endswith("STRICT")
            keys = connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
            found[name] = (columns, strict, "AUTOINCREMENT" in sql, keys)
        elif kind == "index" and sql is not None:
            found[name] = " ".join(sql.split())
    connection.close()
    return found


def test_the_migrations_add_up_to_the_schema(tmp_path: Path) -> None:
    migrated, made = tmp_path / "migrated.db", tmp_path / "made.db"
    migrate.upgrade(migrated, None)
    engine = create_engine(f"sqlite:///{made}", poolclass=NullPool)
    schema.metadata.create_all(engine)
    engine.dispose()
    assert shape(migrated) == shape(made)
    assert all(what[1] for what in shape(migrated).values() if isinstance(what, tuple)), (
        "every table is STRICT"
    )


def test_alembic_sees_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    migrate.upgrade(path, None)
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_versions_names_every_step_in_order() -> None:
    scripts = ScriptDirectory.from_config(migrate.config(None))
    steps = [script.revision for script in scripts.walk_revisions()][::-1]
    assert tuple(steps) == schema.VERSIONS
    assert scripts.get_current_head() == schema.HEAD == schema.VERSIONS[-1]


def test_each_step_runs_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    before: str | None = None
    for version in schema.VERSIONS:
        migrate.upgrade(path, before, to=version)
        connection = raw(path)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(version,)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        before = version
    connection = raw(path)
    assert connection.execute("SELECT key, value FROM meta").fetchall() == [("owner_epoch", 0)]
    connection.close()


def test_a_step_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.db"

    def halfway(settings: object, to: str) -> None:
        connection = settings.attributes["connection"]  # type: ignore[attr-defined]
        connection.exec_driver_sql("CREATE TABLE half (x)")
        raise sqlite3.OperationalError("no more")

    monkeypatch.setattr(migrate.command, "upgrade", halfway)
    with pytest.raises(sqlite3.OperationalError):
        migrate.upgrade(path, None)
    connection = raw(path)
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    connection.close()


def test_migrating_leaves_the_logging_alone(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("alembic").level)
    migrate.upgrade(tmp_path / "t.db", None)
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level) == before


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_migration_that_fails_leaves_nothing_and_raises_what_sqlite_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_itself: bool
) -> None:
    def fail(settings: Config, to: str) -> None:
        connection = settings.attributes["connection"]
        connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
        if by_itself:  # as SQLite does on a full disk
            connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("CREATE TABLE")

    monkeypatch.setattr(migrate.command, "upgrade", fail)
    path = tmp_path / "tollboard.db"
    with pytest.raises(sqlite3.OperationalError, match="incomplete input"):
        migrate.upgrade(path, None)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM sqlite_schema").fetchall() == []


def test_l08_input_tokens_of_old_rows_count_what_was_cached(tmp_path: Path) -> None:
    path = tmp_path / "tollboard.db"
    migrate.upgrade(path, None, to="0004")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for backend in ("claude", "model"):
            connection.execute(
                "INSERT INTO sessions (id, name, path, backend, options, life, halted, created_at)"
                " VALUES (?, ?, '/', ?, '{}', 'live', 0, 1.0)",
                (backend, backend, backend),
            )
        rows = [("c1", "claude", 4, 10, 1000, 200), ("c2", "claude", None, None, None, None),
                ("c3", "claude", 7, 1, None, 3),
                ("m1", "model", 1204, 10, 1000, 200), ("m2", "model", -4880, -488, 0, 0)]  # fmt: skip
        connection.executemany(
            "INSERT INTO requests (ref, session_id, origin, prompt, accepted_at, attempt, input_tokens, output_tokens,"
            " cache_read_tokens, cache_creation_tokens) VALUES (?, ?, 'tell', '', 1.0, 1, ?, ?, ?, ?)",
            rows,
        )
        connection.commit()
    migrate.upgrade(path, "0004", to="0005")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT ref, input_tokens, output_tokens FROM requests ORDER BY ref"
        ).fetchall()
    assert found == [
        ("c1", 1204, 10),
        ("c2", None, None),
        ("c3", 10, 1),
        ("m1", 1204, 10),
        ("m2", None, None),
    ]
