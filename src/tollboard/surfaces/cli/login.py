"""The command `login`: runs the login of a backend's own program at the terminal."""

from __future__ import annotations

import subprocess
from typing import Annotated

import typer

from tollboard.errors import BackendUnavailable
from tollboard.surfaces.cli.app import DAEMON, command
from tollboard.surfaces.cli.completion import complete_backend
from tollboard.surfaces.cli.failures import DONE, FAILED
from tollboard.surfaces.cli.invocation import Cli


@command(DAEMON)
def login(
    cli: Cli,
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", help="claude.", autocompletion=complete_backend)
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENTS]", help="For the program's own login.", show_default=False),
    ] = None,
) -> int:
    """Log in with the program of a backend.

    \b
    Example:
      tollboard login claude
      tollboard login claude -- --console
    """
    from tollboard.backends import load

    program = [*load(backend).login_command(), *(arguments or ())]
    try:
        code = subprocess.run(program, check=False).returncode
    except OSError as wrong:
        raise BackendUnavailable(f"{program[0]} does not run: {wrong.strerror}") from None
    if not cli.out.json and code == 0:
        cli.out.beside("sessions use the login from their next prompt on")
    return DONE if code == 0 else FAILED
