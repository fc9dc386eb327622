"""Commands for MCP hosts: mcp (what a host starts), mcp install."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import BackendUnavailable, Invalid
from tollboard.surfaces.cli.app import DAEMON, Group, app, command, given_path, invocable
from tollboard.surfaces.cli.failures import DONE
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Output

if TYPE_CHECKING:
    from tollboard.surfaces.mcp.greeting import Greeted
    from tollboard.surfaces.mcp.policy import Policy

Grants = Annotated[
    list[str] | None,
    typer.Option("--grant", metavar="CAPABILITY", help="Allow more than read and send: approve. Repeatable."),
]
Roots = Annotated[
    list[Path] | None,
    typer.Option(
        "--root", metavar="DIR", parser=given_path, help="Sessions only below this directory. Repeatable."
    ),
]
Allowed = Annotated[
    list[str] | None, typer.Option("--allow-backend", metavar="B", help="Only this backend. Repeatable.")
]
Modes = Annotated[
    list[str] | None,
    typer.Option(
        "--mode", metavar="MODE", help="A permission mode it may give, beside default and plan. Repeatable."
    ),
]
AnyOption = Annotated[
    bool, typer.Option("--any-option", help="Any option of a backend: pre-approved tools, other programs.")
]

Reader = Annotated[
    str | None,
    typer.Option("--reader", metavar="NAME", help="Whose inbox cursor it moves: `mcp-` and the host's name."),
]


def serve(
    cli: Cli, grant: Grants = None, root: Roots = None, allow_backend: Allowed = None, mode: Modes = None,
    any_option: AnyOption = False, reader: Reader = None,
) -> int:  # fmt: skip
    """Serve MCP on standard input and output until the host closes it."""
    from importlib.util import find_spec

    from tollboard.daemon.config import absolute
    from tollboard.ids import check_name
    from tollboard.operations.access import Capability
    from tollboard.surfaces.mcp.greeting import greet
    from tollboard.surfaces.mcp.policy import GRANTED, MODES, Policy

    if find_spec("mcp") is None:
        raise BackendUnavailable("MCP needs the package 'mcp'; install it: pip install 'tollboard[mcp]'")
    known = [str(one) for one in (*GRANTED, Capability.APPROVE)]
    if unknown := [one for one in grant or () if one not in known]:
        raise Invalid(f"{unknown[0]!r} cannot be granted; known are {', '.join(known)}")
    # A mode in which less is asked is an option like others to the daemon; which modes is for the bridge to hold.
    configures = {Capability.CONFIGURE} if any_option or mode else frozenset[Capability]()
    policy = Policy(
        capabilities=GRANTED | {Capability(one) for one in grant or ()} | configures,
        roots=tuple(absolute(one) for one in root or ()),
        backends=tuple(allow_backend or ()), modes=(*MODES, *(mode or ())), options=any_option,
    )  # fmt: skip
    if sys.stdin.isatty():
        cli.out.beside("speaking MCP; a host starts this (tollboard mcp install HOST). Ctrl-C ends it.")
    return _speak(cli.home, policy, greet(), None if reader is None else check_name(reader))


def _speak(home: Path | None, policy: Policy, greeted: Greeted, reader: str | None) -> int:
    """Load what takes long, now that the host has its first answer, and serve."""
    import asyncio

    from tollboard.surfaces.mcp.stdio import serve_stdio

    asyncio.run(serve_stdio(home, policy, greeted, reader=reader))
    return DONE


group = typer.Typer(
    name="mcp",
    cls=Group,
    help="""Let an MCP host such as Claude Code be the manager.

    Without a command this serves MCP on standard input and output: a host starts it. The daemon is started if none
    runs, and outlives the host. A model may read and send; to answer approvals for a person it needs --grant approve.

    \b
    Example:
      tollboard mcp install claude
      tollboard mcp --root ~/src --grant approve
    """,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_serve = invocable(serve)


def _root(context: typer.Context, **given: object) -> None:
    """Serve, unless another command was named."""
    if context.invoked_subcommand is None:
        raise typer.Exit(_serve(context, **given))


_root.__signature__ = inspect.signature(_serve)  # type: ignore[attr-defined]
_root.__annotations__ = dict(_serve.__annotations__)
group.callback(invoke_without_command=True)(_root)
app.add_typer(group, rich_help_panel=DAEMON)


@command(None, name="install", to=group)
def install(
    cli: Cli,
    host: Annotated[
        str, typer.Argument(metavar="HOST", help="claude, codex, gemini, opencode, cursor or vscode.")
    ],
    grant: Grants = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the entry, write nothing.")] = False,
) -> int:
    """Tell an MCP host about Tollboard, in its own configuration.

    \b
    Example:
      tollboard mcp install claude --dry-run
    """
    from tollboard.daemon.config import HOME_VARIABLE, absolute
    from tollboard.surfaces.mcp.hosts import HOSTS, replace_file, shown, written

    if host not in HOSTS:
        raise Invalid(f"host {host!r} is unknown; known are {', '.join(HOSTS)}")
    program = shutil.which("tollboard") or str(Path(sys.executable).with_name("tollboard"))
    words = [program, "mcp"]
    # The host starts the bridge in an environment of its own: what this shell says of the home must be written down.
    if home := cli.home or os.environ.get(HOME_VARIABLE):
        words += ["--home", absolute(home)]
    for one in grant or ():
        words += ["--grant", one]
    path = HOSTS[host].path(Path.home(), os.environ)
    text = written(HOSTS[host], path, words)
    if not dry_run:
        replace_file(path, text)
    # The entry alone: the rest of the file is the host's, and may hold its secrets.
    entry = shown(HOSTS[host], words)
    done = {"host": host, "file": str(path), "command": words, "written": not dry_run, "entry": entry}
    return cli.show(done, _print_installed)


def _print_installed(out: Output, done: dict[str, object]) -> None:
    if done["written"]:
        out.line(f"{done['host']} knows Tollboard now: {done['file']}", "green")
        out.beside(f"restart {done['host']}, then ask it: which sessions are there?")
    else:
        out.beside(f"this would be added to {done['file']}:")
        out.text(str(done["entry"]))
