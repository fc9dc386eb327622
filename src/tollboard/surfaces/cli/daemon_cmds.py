"""Commands for the daemon itself: serve, shutdown, token, completion, version."""

from __future__ import annotations

from tollboard.surfaces.cli.app import DAEMON, command
from tollboard.surfaces.cli.invocation import Cli


def version_text() -> str:
    """Return the program's name and version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"tollboard {version('tollboard')}"
    except PackageNotFoundError:
        return "tollboard (not installed)"


@command(DAEMON)
def version(cli: Cli) -> int:
    """Print the version.

    \b
    Example:
      tollboard version
    """
    text = version_text()
    return cli.show({"version": text.partition(" ")[2]}, lambda out, _: out.line(text))
