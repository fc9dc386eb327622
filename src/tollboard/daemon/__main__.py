"""`python -m tollboard.daemon`: what a client starts when no daemon runs."""

from __future__ import annotations

import argparse
import os
import sys

from tollboard.daemon.config import state_directory


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
    if given.detach:
        _detach()
    from tollboard.daemon.app import Serve, serve

    return serve(Serve(state_directory(given.home), given.take_over, given.ready_fd, given.foreground))


def _detach() -> None:
    """Leave the process that started us: it ends here, we go on in a session of our own. Nothing is imported yet."""
    if os.fork():
        os._exit(0)
    os.setsid()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        # Ctrl-C before it listened to signals: nothing had begun.
        sys.exit(130)
