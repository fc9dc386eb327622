"""The one seam between the command line and the fleet: opening the board. Tests put another in its place."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tollboard.daemon.client import Client


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
        import os

        return f"uid-{os.getuid()}"
