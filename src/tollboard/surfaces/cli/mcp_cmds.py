"""Commands for MCP hosts: mcp (what a host starts), mcp install."""

from __future__ import annotations

import inspect
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from tollboard.errors import BackendUnavailable, Invalid
from tollboard.surfaces.cli.app import DAEMON, Group, app, command, given_path, invocable
from tollboard.surfaces.cli.failures import DONE
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Output

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


def serve(
    cli: Cli, grant: Grants = None, root: Roots = None, allow_backend: Allowed = None, mode: Modes = None,
    any_option: AnyOption = False,
) -> int:  # fmt: skip
    """Serve MCP on standard input and output until the host closes it."""
    import asyncio

    try:
        from tollboard.surfaces.mcp.policy import GRANTED, MODES, Policy
        from tollboard.surfaces.mcp.stdio import serve_stdio
    except ModuleNotFoundError as missing:
        raise BackendUnavailable(
            f"MCP needs the package {missing.name!r}; install it: pip install 'tollboard[mcp]'"
        ) from None
    from tollboard.daemon.config import absolute
    from tollboard.operations.access import Capability

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
    asyncio.run(serve_stdio(cli.home, policy))
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, write nothing.")] = False,
) -> int:
    """Tell an MCP host about Tollboard, in its own configuration.

    \b
    Example:
      tollboard mcp install claude --dry-run
    """
    from tollboard.daemon.config import absolute
    from tollboard.surfaces.mcp.hosts import HOSTS, replace_file, written

    if host not in HOSTS:
        raise Invalid(f"host {host!r} is unknown; known are {', '.join(HOSTS)}")
    program = shutil.which("tollboard") or str(Path(sys.executable).with_name("tollboard"))
    words = [program, "mcp"]
    if cli.home is not None:
        words += ["--home", absolute(cli.home)]
    for one in grant or ():
        words += ["--grant", one]
    path, text = written(HOSTS[host], Path.home(), words)
    if not dry_run:
        replace_file(path, text)
    done = {"host": host, "file": str(path), "command": words, "written": not dry_run, "text": text}
    return cli.show(done, _print_installed)


def _print_installed(out: Output, done: dict[str, object]) -> None:
    if done["written"]:
        out.line(f"{done['host']} knows Tollboard now: {done['file']}", "green")
        out.beside(f"restart {done['host']}, then ask it: which sessions are there?")
    else:
        out.beside(f"this would be {done['file']}:")
        out.text(str(done["text"]))
