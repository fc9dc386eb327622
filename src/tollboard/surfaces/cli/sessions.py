"""Commands that change who is in the fleet: start, stop, delete; and backends."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import Invalid
from tollboard.surfaces.cli.app import SESSIONS, Name, command, given_path
from tollboard.surfaces.cli.completion import complete_backend
from tollboard.surfaces.cli.failures import stopped
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.listing import state_of
from tollboard.surfaces.cli.output import Cell, Column, Output
from tollboard.surfaces.cli.text import count, one_line

if TYPE_CHECKING:
    from tollboard.fleet.records import BackendInfo, Deleted, SessionStatus, StopReport


@command(SESSIONS)
def start(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 64 letters, digits, '.', '_' or '-'.")],
    path: Annotated[
        Path, typer.Option("--path", "-C", metavar="DIR", parser=given_path, help="The working directory.")
    ] = Path(),
    backend: Annotated[
        str,
        typer.Option(
            "--backend", "-b", metavar="BACKEND", help="What answers.", autocompletion=complete_backend
        ),
    ] = "claude",
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="The provider's model.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            metavar="KEY=VALUE",
            help="An option of the backend: JSON, else text. Repeatable.",
        ),
    ] = None,
) -> int:
    """Start a session on a working directory.

    \b
    Example:
      tollboard start api --path ~/src/api --model sonnet
      tollboard start toy --backend echo --option delay=2
    """
    options = parse_options(option or ())
    if model is not None:
        options["model"] = model
    status = cli.run(lambda board: board.start_session(name, path=path, backend=backend, **options))
    return cli.show(status, _started)


def parse_options(given: Sequence[str]) -> dict[str, object]:
    """Return `KEY=VALUE` texts as a mapping; a value that is JSON is taken as such, any other as text."""
    options: dict[str, object] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise Invalid(f"{item!r} is not KEY=VALUE, as in --option delay=2")
        if key in ("name", "path", "backend", "model"):
            raise Invalid(f"{key!r} is not an option of a backend; `tollboard start` has an argument for it")
        try:
            options[key] = json.loads(value, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            options[key] = value
    return options


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


def _started(out: Output, status: SessionStatus) -> None:
    out.line(f"{status.name} is {state_of(status).text}: {status.backend} in {status.path}", "green")
    out.beside(f"send it a prompt: tollboard send {status.name} PROMPT --wait")


@command(SESSIONS)
def stop(
    cli: Cli,
    name: Name,
    drain: Annotated[bool, typer.Option("--drain", help="Let the turn in flight finish first.")] = False,
) -> int:
    """End a session and all its processes; its history stays.

    \b
    Example:
      tollboard stop api --drain
    """
    try:
        report = cli.run(lambda board: board.stop_session(name, drain=drain))
    except KeyboardInterrupt:
        cli.out.beside(f"stopped waiting; {name} ends all the same", "yellow")
        if drain:
            cli.out.beside(f"  → now, not after its turn: tollboard stop {name}")
        return stopped(cli.out, f"{name} ends all the same")
    return cli.show(report, _print_stopped)


def _print_stopped(out: Output, report: StopReport) -> None:
    ended = [count(len(report.failed), "request") + " ended with it" if report.failed else ""]
    ended.append(count(len(report.killed), "process", "processes") + " ended" if report.killed else "")
    out.line(f"{report.session} is stopped" + "".join(f", {part}" for part in ended if part), "green")
    for ref in report.failed:
        out.line(f"  request {ref} ended with: stopped")
    if report.killed:
        out.line(f"  processes: {', '.join(map(str, report.killed))}")
    for doubt in report.unverified:
        out.line(f"! could not make sure: {doubt}", "yellow")
    out.beside(f"its history stays: tollboard transcript {report.session}")


@command(SESSIONS)
def delete(
    cli: Cli,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove a stopped session with its whole history.

    \b
    Example:
      tollboard delete api --yes
    """
    if not yes:
        if not can_ask(cli.out):
            raise Invalid("this removes the history for good; add --yes")
        found = cli.run(lambda board: board.status(name))
        typer.confirm(
            f"Remove {found.name} and its {count(found.turns, 'turn')} for good?", abort=True, err=True
        )
    return cli.show(cli.run(lambda board: board.delete_session(name)), _print_deleted)


def can_ask(out: Output) -> bool:
    """Whether a person is there who could be asked."""
    return not out.json and sys.stdin.isatty() and out.terminal_beside


def _print_deleted(out: Output, deleted: Deleted) -> None:
    out.line(f"{deleted.session} is deleted, with {count(deleted.turns, 'turn')}", "green")


@command(SESSIONS)
def backends(cli: Cli) -> int:
    """List the backends and whether each could work here.

    \b
    Example:
      tollboard backends
    """
    return cli.show(cli.run(lambda board: board.backends()), _print_backends)


def _print_backends(out: Output, found: Sequence[BackendInfo]) -> None:
    out.table(
        (Column("BACKEND"), Column("READY"), Column("DETAIL", gives="right")),
        [
            (
                Cell(one.name, "bold"),
                Cell("yes", "green") if one.available else Cell("no", "red"),
                one_line(one.detail),
            )
            for one in found
        ],
    )
    for one in found:
        if one.mend:
            out.line(f"! {one.name}: {one.mend}", "yellow")
