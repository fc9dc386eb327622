"""The log: private, rotated, and silent about what people and agents said."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tollboard.daemon import log
from tollboard.errors import DaemonError, StoreError


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers[:] = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, logging.raiseExceptions = before


def test_every_file_is_private_also_after_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LOG_BYTES", 200)
    log.log_to(tmp_path / "daemon.log", "INFO", terminal=False)
    for n in range(20):
        logging.getLogger("tollboard.test").warning("line %d of many", n)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["daemon.log", *(f"daemon.log.{n}" for n in (1, 2, 3))]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert "line 19 of many" in files[0].read_text()


def test_e30_foreign_messages_stay_out_and_our_own_stay_in(tmp_path: Path) -> None:
    log.log_to(tmp_path / "daemon.log", "INFO", terminal=False)
    quoted = "a secret"  # its line of source is shown, what it holds is not
    try:
        try:
            raise ValueError(f"cannot parse {quoted!r}")
        except ValueError as exc:
            raise StoreError("the database refused a statement") from exc
    except StoreError:
        logging.getLogger("tollboard.test").exception("it failed")
    said = (tmp_path / "daemon.log").read_text()
    assert "parse 'a" not in said
    assert "ValueError\n" in said
    assert "StoreError: the database refused a statement" in said
    assert "test_log.py" in said


def test_text_that_is_no_unicode_is_logged_all_the_same(tmp_path: Path) -> None:
    log.log_to(tmp_path / "daemon.log", "INFO", terminal=False)
    logging.getLogger("tollboard.test").warning("half of \ud800")
    assert "half of \\ud800" in (tmp_path / "daemon.log").read_text()


def test_a_log_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "daemon.log").mkdir()
    with pytest.raises(DaemonError, match="cannot be written"):
        log.log_to(tmp_path / "daemon.log", "INFO", terminal=False)


def test_what_others_say_about_their_steps_is_not_for_the_log(tmp_path: Path) -> None:
    log.log_to(tmp_path / "log", "INFO", terminal=False)
    logging.getLogger("alembic.runtime.plugins").info("setup plugin")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").error("a fault")
    assert (tmp_path / "log").read_text().splitlines()[0].endswith("ERROR uvicorn.error: a fault")
    log.log_to(tmp_path / "log", "DEBUG", terminal=False)
    logging.getLogger("uvicorn.error").debug("connected")
    assert "connected" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_clients_of_models_write_no_requests_into_the_log(tmp_path: Path, level: str) -> None:
    log.log_to(tmp_path / "daemon.log", level, terminal=False)
    for name in ("openai._base_client", "anthropic._base_client", "httpx", "httpcore.http11", "mcp.client"):
        logging.getLogger(name).debug("Request options: %s", {"json": "what somebody said"})
        logging.getLogger(name).info("HTTP Request: POST http://somewhere")
        logging.getLogger(name).warning("retrying")
    said = (tmp_path / "daemon.log").read_text()
    assert "what somebody said" not in said
    assert "somewhere" not in said
    assert said.count("retrying") == 5
