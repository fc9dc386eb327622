"""Commands for the daemon itself: serve, shutdown, token; and completion, version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tollboard.errors import DaemonFrozen, DaemonRunning, DaemonUnreachable, Invalid
from tollboard.surfaces.cli import PROGRAM
from tollboard.surfaces.cli.app import DAEMON, command
from tollboard.surfaces.cli.connection import places, serve_here
from tollboard.surfaces.cli.invocation import Cli

if TYPE_CHECKING:
    from tollboard.daemon.client import Client


def own_version() -> str:
    """Return the version of this program."""
    import tollboard

    return tollboard.__version__


@command(DAEMON)
def serve(
    cli: Cli,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the state directory from a daemon that hangs.")
    ] = False,
) -> int:
    """Run the daemon in front, until Ctrl-C.

    \b
    Example:
      tollboard serve
    """
    if not take_over:
        try:
            pid = cli.run(_pid, start=False)
            raise DaemonRunning(f"a daemon (pid {pid}) serves {str(places(cli.home).path)!r} already")
        except DaemonFrozen:
            raise
        except DaemonUnreachable:
            pass
    serve_here(cli.home, take_over=take_over)


async def _pid(board: Client) -> int:
    return (await board.health()).pid


@command(DAEMON)
def shutdown(cli: Cli) -> int:
    """End the daemon; queued prompts run after the next start.

    \b
    Example:
      tollboard shutdown
    """
    try:
        cli.run(lambda board: board.shutdown(), start=False)
    except DaemonFrozen:
        raise  # one is there: it hears of its end when it goes on, if at all
    except DaemonUnreachable:
        from tollboard.daemon.connection import END_TIMEOUT_S
        from tollboard.daemon.single import end_owner

        # Nobody answers; the lock knows whether somebody is there all the same.
        if end_owner(places(cli.home), END_TIMEOUT_S) is None:
            return cli.show(
                {"running": False, "ended": False}, lambda out, _: out.line("no daemon is running")
            )
    return cli.show(
        {"running": False, "ended": True}, lambda out, _: out.line("the daemon has ended", "green")
    )


@command(DAEMON)
def token(
    cli: Cli,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow", "-a", metavar="WHAT", help="Make a narrower token: read, send, approve. Repeatable."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="WHO", help="Who gets it; recorded with what they do.")
    ] = None,
) -> int:
    """Print the token that clients over TCP need. Keep it secret.

    Without --allow it may do everything. A narrower one holds until the file `token` is removed and the daemon is
    started anew.

    \b
    Example:
      curl -H "Authorization: Bearer $(tollboard token)" ...
      tollboard token --allow read --name dashboard
    """
    from tollboard.daemon.tokens import admin_token, narrow_token

    home = places(cli.home)
    if not allow:
        if name is not None:
            raise Invalid("--name needs --allow: the token that may do everything has no name")
        text = admin_token(home)
    else:
        text = narrow_token(home, allow, name or "narrow")
    return cli.show({"token": text}, lambda out, _: out.line(text))


@command(DAEMON)
def completion(
    cli: Cli,
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")
    ],
) -> int:
    """Print the completion script of a shell.

    \b
    Example:
      source <(tollboard completion bash)
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    script = get_completion_script(
        prog_name=PROGRAM, complete_var=f"_{PROGRAM.upper()}_COMPLETE", shell=shell
    )
    return cli.show({"shell": shell, "script": script}, lambda out, _: out.line(script))


@command(DAEMON)
def version(cli: Cli) -> int:
    """Print the version.

    \b
    Example:
      tollboard version
    """
    return cli.show({"version": own_version()}, lambda out, _: out.line(f"{PROGRAM} {own_version()}"))
