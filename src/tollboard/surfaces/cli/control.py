"""Commands that hold the fleet: interrupt, halt, resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import Invalid
from tollboard.surfaces.cli.app import CONTROL, AnyName, Name, command
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Output
from tollboard.surfaces.cli.text import count, one_line

if TYPE_CHECKING:
    from tollboard.fleet.records import HaltReport, Interrupted

Every = Annotated[bool, typer.Option("--all", "-a", help="The whole fleet at once.")]


@command(CONTROL)
def interrupt(
    cli: Cli,
    name: Name,
    ref: Annotated[
        str | None, typer.Option("--ref", metavar="REF", help="Only if this request is the one in flight.")
    ] = None,
) -> int:
    """End the turn in flight; the queue goes on.

    \b
    Example:
      tollboard interrupt api
    """
    return cli.show(cli.run(lambda board: board.interrupt(name, ref=ref)), _print_interrupted)


def _print_interrupted(out: Output, done: Interrupted) -> None:
    if done.acted:
        out.line(f"interrupted {done.session}: {done.ref}", "green")
    else:
        out.line(f"{done.session}: no such turn was in flight, nothing was done")


@command(CONTROL)
def halt(cli: Cli, name: AnyName = None, every: Every = False) -> int:
    """Freeze the queue after the turn in flight; nothing is lost.

    \b
    Example:
      tollboard halt api
      tollboard halt --all
    """
    _one_or_all(name, every)
    return cli.show(cli.run(lambda board: board.halt(name, all=every)), _print_halted)


@command(CONTROL)
def resume(cli: Cli, name: AnyName = None, every: Every = False) -> int:
    """Release what `halt` froze.

    \b
    Example:
      tollboard resume api
      tollboard resume --all
    """
    _one_or_all(name, every)
    return cli.show(cli.run(lambda board: board.resume(name, all=every)), _print_resumed)


def _one_or_all(name: str | None, every: bool) -> None:
    if (name is None) == (not every):
        raise Invalid("give a session, or --all for the whole fleet")


def _print_halted(out: Output, report: HaltReport) -> None:
    _print_change(out, report, "halted", "held")
    if report.sessions:
        what = report.sessions[0] if len(report.sessions) == 1 else "--all"
        out.beside(f"release: tollboard resume {what}")


def _print_resumed(out: Output, report: HaltReport) -> None:
    _print_change(out, report, "resumed", "released")


def _print_change(out: Output, report: HaltReport, done: str, requests: str) -> None:
    if not report.sessions:
        out.line(f"nothing to be {done}: it was so already")
    else:
        out.line(f"{done}: {', '.join(report.sessions)}", "green")
    if report.held:
        out.line(f"{count(len(report.held), 'queued request')} {requests}:")
    for request in report.held:
        out.line(f"  {request.session}  {request.ref}  {one_line(request.preview, 60)}")
