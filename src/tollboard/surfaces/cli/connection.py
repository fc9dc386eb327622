"""The one seam between the command line and the fleet: opening the board. Tests put another in its place."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Places:
    """The files of a state directory."""

    home: Path
    database: Path
    socket: Path
    token: Path
    log: Path


def places(home: Path | None) -> Places:
    """Return where things are, for those who look without a daemon."""
    if home is None:
        import os

        given = os.environ.get("TOLLBOARD_HOME")
        if given:
            home = Path(given)
        else:
            from platformdirs import user_state_path

            home = user_state_path("tollboard")
    home = home.expanduser().absolute()
    return Places(home, home / "tollboard.db", home / "daemon.sock", home / "token", home / "daemon.log")


def serve_here(home: Path | None, *, tcp: str | None) -> int:
    """Run the daemon in this process until it is told to end, and return its exit code."""
    raise NotImplementedError
