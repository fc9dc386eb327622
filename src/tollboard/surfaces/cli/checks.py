"""What `doctor` looks at, a function for each part. Only reads; starts no daemon, calls no model."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tollboard.errors import DaemonError, DaemonFrozen, DaemonUnreachable, TollboardError
from tollboard.surfaces.cli import connection
from tollboard.surfaces.cli.failures import parted
from tollboard.surfaces.cli.text import count

if TYPE_CHECKING:
    from tollboard.daemon.config import StateDirectory

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 37, 0)
LITTLE_SPACE, NO_SPACE = 1 << 30, 50 << 20
BACKEND_CHECK_S = 20.0
_RESTORE = "tollboard shutdown, then tollboard restore FILE with a backup"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `mend` says what to do; empty when nothing is wrong."""

    name: str
    state: Literal["ok", "warning", "broken"]
    detail: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the running daemon says of itself and of the backends."""

    pid: int
    version: str
    backends: tuple[Check, ...]
    problem: str | None = None
    """What keeps it from using its database."""


async def sandbox() -> Check:
    """Look whether commands of sessions can run in a sandbox here; it is tried."""
    from tollboard.backends._sandbox import INSTALL, find_sandbox

    found = await find_sandbox()
    if found.program:
        return Check(
            "sandbox", "ok", f"{found.program} works; `sandbox` in tollboard.toml or of a session uses it"
        )
    return Check("sandbox", "warning", found.why, INSTALL if "installed" in found.why else "")


def python() -> Check:
    """Look at the interpreter and the SQLite that comes with it."""
    detail = f"{platform.python_version()} ({sys.executable}), SQLite {sqlite3.sqlite_version}"
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "broken", detail, "install Python 3.11 or newer")
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        return Check("python", "broken", detail, "use a Python that comes with SQLite 3.37 or newer")
    return Check("python", "ok", detail)


def directory(places: StateDirectory) -> Check:
    """Look at the state directory: whose it is, who may enter, whether there is room."""
    home, name = places.path, "directory"
    try:
        found = home.stat()
    except FileNotFoundError:
        return Check(name, "ok", f"{home} does not exist yet; the first command makes it")
    except OSError as wrong:
        return Check(
            name, "broken", f"{home}: {wrong.strerror}", "check the directories above it, or use --home"
        )
    if not stat.S_ISDIR(found.st_mode):
        return Check(name, "broken", f"{home} is not a directory", "move it away, or use --home")
    if found.st_uid != os.getuid():
        return Check(
            name, "broken", f"{home} belongs to user {found.st_uid}, you are {os.getuid()}", f"chown -R $USER {home}"
        )  # fmt: skip
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        return Check(
            name, "broken", f"{home} is open to others (mode {0o700 | mode:04o})", f"chmod 700 {home}"
        )
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return Check(name, "broken", f"{home} cannot be written", f"chmod 700 {home}; is the disk read-only?")
    return _room(home)


def _room(home: Path) -> Check:
    free = shutil.disk_usage(home).free
    detail = f"{home}, {free / (1 << 30):,.1f} GiB free"
    if free < NO_SPACE:
        return Check("directory", "broken", detail, "free some space: nothing can be made durable without it")
    if free < LITTLE_SPACE:
        return Check("directory", "warning", detail, "free some space soon")
    return Check("directory", "ok", detail)


def database(places: StateDirectory, *, deep: bool = False) -> Check:
    """Open the database read-only beside its writer; check its schema and that it is sound, with `deep` every index."""
    from tollboard.store.opening import Place, find_damage, version_of

    path, name = places.database, "database"
    try:
        found_file = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return Check(name, "ok", f"{path} does not exist yet; the first daemon makes it")
    except OSError as wrong:
        return Check(name, "broken", f"{path}: {wrong.strerror}", "mend its directory first, or use --home")
    if not os.access(path, os.R_OK | os.W_OK):
        return Check(
            name, "broken", f"{path} cannot be read and written (mode {stat.S_IMODE(found_file.st_mode):04o})",
            f"chmod 600 {path}; is the disk read-only?",
        )  # fmt: skip
    try:
        connection = Place(path).reader()
        try:
            version = version_of(connection, str(path))
        finally:
            connection.close()
        damage = find_damage(Place(path), deep=deep)
    except TollboardError as wrong:
        return Check(name, "broken", str(wrong), _RESTORE)
    except sqlite3.Error as wrong:
        return Check(name, "broken", f"{path}: {wrong}", f"{_RESTORE}; check the disk")
    if damage:
        return Check(name, "broken", f"{path} is damaged: {damage}", _RESTORE)
    size = found_file.st_size / (1 << 20)
    return Check(name, "ok", f"{path}, schema {version or 'none yet'}, {size:,.1f} MiB, sound")


def daemon(places: StateDirectory, running: Daemon | TollboardError, version: str) -> Check:
    """Look at the socket, at who answers on it, and at the lock: who owns the directory may be there all the same."""
    from tollboard.daemon.single import owner_pid

    name = "daemon"
    if isinstance(running, Daemon):
        detail = f"running, pid {running.pid}, version {running.version}"
        if running.problem:
            return Check(name, "broken", *parted(running.problem))
        if running.version != version:
            return Check(
                name, "warning", f"{detail}; this program is {version}", "restart it: tollboard shutdown"
            )
        return Check(name, "ok", detail)
    try:
        places.check_socket_path()
    except DaemonError as wrong:
        return Check(name, "broken", str(wrong), "use a shorter directory: --home or $TOLLBOARD_HOME")
    if isinstance(running, DaemonFrozen):
        return Check(name, "broken", *parted(str(running)))
    if not isinstance(running, DaemonUnreachable):
        return Check(name, "broken", str(running), f"see {places.log}")
    if (pid := owner_pid(places)) is not None:
        return Check(
            name, "broken", f"running, pid {pid}, but nobody answers on {places.socket}",
            f"end it: tollboard shutdown (the next command starts another), or see {places.log}",
        )  # fmt: skip
    if os.path.exists(places.socket):
        detail = f"not running, but {places.socket} was left behind by one that was killed"
        return Check(name, "warning", detail, "nothing to do: the next command replaces it")
    return Check(name, "ok", "not running; any command starts it")


def settings(places: StateDirectory) -> Check | None:
    """Look at `tollboard.toml` as the daemon does when it starts; `None` when there is none."""
    from tollboard.daemon.config import read_config

    if not os.path.exists(places.config):
        return None
    try:
        read_config(places.config)
    except TollboardError as wrong:
        return Check(
            "settings", "broken", str(wrong), "mend the file, or remove it: no daemon starts with it"
        )
    return Check("settings", "ok", f"{places.config}; a running daemon has them from its start")


def token(places: StateDirectory) -> Check | None:
    """Look at who may read the token; `None` when there is none yet."""
    try:
        mode = stat.S_IMODE(places.token.stat().st_mode)
    except OSError:
        return None
    if mode & 0o077:
        return Check(
            "token", "broken", f"{places.token} is open to others (mode {mode:04o})",
            f"chmod 600 {places.token}, and make a new one if somebody may have read it",
        )  # fmt: skip
    return Check("token", "ok", f"{places.token}, yours only")


async def ask_daemon(home: Path | None) -> Daemon | TollboardError:
    """Return what a running daemon says, or why none answers. Never starts one."""
    try:
        async with connection.open_board(home, start=False) as board:
            health = await board.health()
            infos = await asyncio.wait_for(board.backends(), BACKEND_CHECK_S)
    except TollboardError as wrong:
        return wrong
    except TimeoutError:
        return DaemonError(f"the daemon has not looked at its backends within {BACKEND_CHECK_S:g} s")
    backends = tuple(_backend(one.name, one.available, one.detail, one.mend) for one in infos)
    return Daemon(health.pid, health.version, backends, health.problem)


async def own_backends() -> Sequence[Check]:
    """Look at the backends from here, when no daemon runs that could say how they look from there."""
    from tollboard.backends import known, load

    async def look(name: str) -> Check:
        try:
            health = await asyncio.wait_for(load(name).check(), BACKEND_CHECK_S)
        except (TollboardError, ImportError, OSError) as wrong:
            return _backend(name, False, str(wrong), "")
        except TimeoutError:
            return _backend(name, False, f"no answer within {count(int(BACKEND_CHECK_S), 'second')}", "")
        return _backend(name, health.ok, health.detail, health.mend)

    return await asyncio.gather(*(look(name) for name in known()))


def _backend(name: str, ready: bool, detail: str, mend: str) -> Check:
    # One does not need every backend, so one that is not ready breaks nothing.
    return Check(f"backend {name}", "ok" if ready else "warning", detail, mend)
