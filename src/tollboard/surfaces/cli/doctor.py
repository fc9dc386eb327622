"""The command `doctor`: looks at everything Tollboard stands on and says how to mend what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.surfaces.cli.app import DAEMON, command
from tollboard.surfaces.cli.failures import DONE, FAILED
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Output
from tollboard.surfaces.cli.text import count

if TYPE_CHECKING:
    from tollboard.surfaces.cli.checks import Check

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "broken": ("✗", "red")}


@command(DAEMON)
def doctor(
    cli: Cli,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Check every index and reference of the database too; takes longer."),
    ] = False,
) -> int:
    """Check the installation and say how to mend what is wrong.

    \b
    Example:
      tollboard doctor
    """
    found = examine(cli, deep=deep)
    broken = any(check.state == "broken" for check in found)
    if cli.out.json:
        cli.out.document({"ok": not broken, "checks": found})
    else:
        _print(cli.out, found)
    return FAILED if broken else DONE


def examine(cli: Cli, *, deep: bool = False) -> list[Check]:
    """Return everything that was looked at. Starts no daemon."""
    import asyncio

    from tollboard.surfaces.cli import checks
    from tollboard.surfaces.cli.connection import places
    from tollboard.surfaces.cli.daemon_cmds import own_version

    where = places(cli.home)
    running = asyncio.run(checks.ask_daemon(cli.home))
    backends: Sequence[Check] = (
        running.backends if isinstance(running, checks.Daemon) else asyncio.run(checks.own_backends())
    )
    settings, token = checks.settings(where), checks.token(where)
    return [
        checks.python(),
        checks.directory(where),
        *([settings] if settings else []),
        checks.database(where, deep=deep),
        checks.daemon(where, running, own_version()),
        asyncio.run(checks.sandbox()),
        *([token] if token else []),
        *backends,
    ]


def _print(out: Output, found: Sequence[Check]) -> None:
    width = max(len(check.name) for check in found)
    for check in found:
        mark, style = _MARKS[check.state]
        out.line(f"{mark} {check.name:<{width}}  {check.detail}", "" if check.state == "ok" else style)
        if check.mend:
            out.line(f"  {'':<{width}}  → {check.mend}")
    broken = sum(check.state == "broken" for check in found)
    warnings = sum(check.state == "warning" for check in found)
    if broken:
        out.line(f"{count(broken, 'thing is', 'things are')} broken", "red bold")
    elif warnings:
        out.line(f"works; {count(warnings, 'remark')}", "yellow")
    else:
        out.line("all is well", "green")
