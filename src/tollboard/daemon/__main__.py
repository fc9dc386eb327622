"""`python -m tollboard.daemon`: what a client starts when no daemon runs."""

from __future__ import annotations

import argparse
import os
import sys

from tollboard.daemon.config import StateDirectory, state_directory
from tollboard.ids import SESSION_MARKER


def main(arguments: list[str] | None = None) -> int:
    """Serve a state directory until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tollboard.daemon", description="Serve a Tollboard state directory."
    )
    parser.add_argument("--home", help="the state directory (default: $TOLLBOARD_HOME, else the platform's)")
    parser.add_argument(
        "--take-over", action="store_true", help="take the directory from a daemon that hangs"
    )
    parser.add_argument("--foreground", action="store_true", help="log to the terminal too")
    parser.add_argument("--ready-fd", type=int, help="a pipe to say `ready` or the error to")
    parser.add_argument("--detach", action="store_true", help="go into the background at once")
    given = parser.parse_args(arguments)
    home = state_directory(given.home)
    by_agent = _is_agents(home)  # looked at before: who detaches itself loses those above it
    if given.detach:
        _detach()
    from tollboard.daemon.app import Serve, serve

    return serve(Serve(home, given.take_over, given.ready_fd, given.foreground, by_agent))


def _is_agents(home: StateDirectory) -> bool:
    """Whether a process of one of this directory's own sessions starts us."""
    try:
        home_id = home.identity.read_text().strip()
    except (OSError, ValueError):
        return False
    from tollboard.daemon.peers import started_by_agent

    return bool(home_id) and started_by_agent(SESSION_MARKER, home_id)


def _detach() -> None:
    """Leave the process that started us: it ends here, we go on in a session of our own."""
    if os.fork():
        os._exit(0)
    os.setsid()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # Ctrl-C before it listened to signals: nothing had begun.
        sys.exit(130)
