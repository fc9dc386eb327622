"""A start that fails is told to who started it, with what to do."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sqlite3
import stat
from pathlib import Path

import pytest

from tests.daemon.process import DaemonProcess
from tollboard.daemon.client import Client
from tollboard.daemon.config import StateDirectory
from tollboard.errors import (
    DaemonError,
    StoreCorrupt,
    StoreTooNew,
)

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
async def test_a_corrupt_database_is_told_to_the_client_that_starts_the_daemon(home: Path) -> None:
    (home / "tollboard.db").write_bytes(b"this is no database, " * 500)
    with pytest.raises(StoreCorrupt, match=r"tollboard\.db"):
        await Client.connect(home)
    assert not StateDirectory(home).socket.exists()
    assert "tollboard.db" in StateDirectory(home).log.read_text()


@pytest.mark.slow
async def test_a_database_from_the_future_is_told(home: Path) -> None:
    with sqlite3.connect(home / "tollboard.db") as database:
        database.execute("create table alembic_version (version_num text)")
        database.execute("insert into alembic_version values ('9999')")
    database.close()
    with pytest.raises(StoreTooNew):
        await Client.connect(home)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "word"),
    [
        ("grase_s = 1", "unknown setting 'grase_s'; known are agents_may, backends, feed_days"),
        ("grace_s = 'long'", "grace_s is 'long'"),
        ("tcp_host = '0.0.0.0'", "not loopback"),
        ("=", "cannot be read"),
    ],
)
def test_a_wrong_configuration_is_told(home: Path, config: str, word: str) -> None:
    daemon = DaemonProcess(home, config=config)
    daemon.start()
    error = daemon.error()
    assert error["code"] == "invalid_option"
    assert word in error["message"]


@pytest.mark.slow
def test_a_taken_tcp_port_is_told(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = DaemonProcess(home, config=f"tcp_host = '127.0.0.1'\ntcp_port = {port}")
        daemon.start()
        assert "cannot be bound" in daemon.error()["message"]
    assert not daemon.home.socket.exists()


def test_a_directory_that_cannot_be_written_is_refused(home: Path) -> None:
    home.chmod(0o500)
    root = os.geteuid() == 0
    if root:  # root can write everywhere
        os.chown(home, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        with pytest.raises(DaemonError, match="cannot be written"):
            StateDirectory(home).prepare()
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.slow
def test_a_directory_of_another_user_is_refused(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(home, NOBODY, NOBODY)
    daemon = DaemonProcess(home)
    daemon.start()
    assert "belongs to another user" in daemon.error()["message"]


@pytest.mark.slow
def test_a_full_disk_at_the_start_is_told(home: Path) -> None:
    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    daemon = DaemonProcess(home, preexec_fn=no_room)
    daemon.start()
    assert daemon.error()["code"] in {"daemon_error", "store_unavailable"}
    with DaemonProcess(home):  # nothing half-written is in the way later
        pass


def test_a_socket_path_that_is_too_long_is_refused_with_what_to_do(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with pytest.raises(DaemonError, match=r"has \d+ bytes, the system allows 10\d; set TOLLBOARD_HOME"):
        asyncio.run(_connect(deep))
    assert not deep.exists()
    daemon = DaemonProcess(deep)
    daemon.start()
    assert "TOLLBOARD_HOME" in daemon.error()["message"]


async def _connect(home: Path) -> None:
    await Client.connect(home)


@pytest.mark.parametrize("bits", [0o755, 0o750, 0o701])
def test_a_directory_that_others_can_read_is_refused(home: Path, bits: int) -> None:
    home.chmod(bits)
    with pytest.raises(DaemonError, match="chmod 700"):
        StateDirectory(home).prepare()


def test_a_state_directory_is_made_private_and_a_file_is_refused(tmp_path: Path) -> None:
    StateDirectory(tmp_path / "a" / "b").prepare()
    assert mode(tmp_path / "a" / "b") == 0o700
    (tmp_path / "file").touch()
    for place, why in (
        (tmp_path / "file", "is not a directory"),
        (tmp_path / "file" / "under", "cannot be made"),
    ):
        with pytest.raises(DaemonError, match=why):
            StateDirectory(place).prepare()
