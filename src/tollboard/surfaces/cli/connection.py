"""The one seam between the command line and the fleet: opening the board. Tests put another in its place."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tollboard.daemon.client import Client
    from tollboard.daemon.config import StateDirectory


def open_board(home: Path | None, *, start: bool = True) -> AbstractAsyncContextManager[Client]:
    """Return the board of the daemon that owns `home`; starts that daemon if none runs and `start` is true.

    Raises DaemonUnreachable when none runs and none may be started.
    """
    from tollboard.daemon.client import Client

    return Client.connect(home, start=start, surface="cli", client=user())


def user() -> str:
    """Return who types: recorded with decisions (S27)."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user id often has no name.
        return f"uid-{os.getuid()}"


def places(home: Path | None) -> StateDirectory:
    """Return where things are, for those who look without a daemon."""
    from tollboard.daemon.config import state_directory

    return state_directory(home)


def serve_here(home: Path | None, *, take_over: bool) -> NoReturn:
    """Become the daemon: this process goes on as the other program, so signals and the exit code are the daemon's."""
    where = str(places(home).path)
    command = [sys.executable, "-m", "tollboard.daemon", "--foreground", "--home", where]
    os.execv(sys.executable, [*command, *(["--take-over"] if take_over else [])])
