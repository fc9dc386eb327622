"""The command repl: the fleet at a Python prompt."""

from __future__ import annotations

from tollboard.errors import BackendUnavailable
from tollboard.surfaces.cli.app import SESSIONS, command
from tollboard.surfaces.cli.failures import DONE
from tollboard.surfaces.cli.invocation import Cli


@command(SESSIONS)
def repl(cli: Cli) -> int:
    """Drive the fleet from a Python prompt, with await.

    \b
    Example:
      tollboard repl
    """
    try:
        from tollboard.surfaces.repl.shell import run
    except ModuleNotFoundError as missing:
        raise BackendUnavailable(
            f"the prompt needs the package {missing.name!r}; install it: pip install 'tollboard[repl]'"
        ) from None
    run(cli.home)
    return DONE
