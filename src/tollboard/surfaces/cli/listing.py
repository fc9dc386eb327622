"""Commands that say how sessions stand: list, status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.surfaces.cli.app import SESSIONS, Name, command
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Cell, Column, Output
from tollboard.surfaces.cli.text import one_line

if TYPE_CHECKING:
    from tollboard.fleet.records import SessionStatus


@command(SESSIONS, name="list")
def list_(
    cli: Cli,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show stopped sessions too.")] = False,
) -> int:
    """List the sessions and how each stands.

    \b
    Example:
      tollboard list
    """

    found = cli.run(lambda board: board.list_sessions(all=every))
    return cli.show(found, _print_list)


COLUMNS = (
    Column("NAME"),
    Column("STATE"),
    Column("QUEUED", right=True),
    Column("TURNS", right=True),
    Column("UNREAD", right=True),
    Column("BACKEND"),
    Column("MODEL", gives="right"),
    Column("PATH", gives="left"),
)


def _print_list(out: Output, found: Sequence[SessionStatus]) -> None:
    if not found:
        out.beside("no sessions yet; start one: tollboard start NAME --path DIRECTORY")
        return
    rows, below = [], []
    for status in found:
        rows.append(
            (
                Cell(status.address or status.name, "bold"),
                state_of(status),
                Cell(str(status.queued), "" if status.queued else "dim"),
                str(status.turns),
                Cell(str(status.unread), "cyan bold" if status.unread else "dim"),
                status.backend,
                model_of(status),
                _short(status.path) if out.terminal else status.path,
            )
        )
        below += [(f"+ {status.name}: {line}", "dim") for line in _background(out, status)]
        below += [(f"! {status.name}: {alarm}", "yellow") for alarm in _alarms(status)]
    out.table(COLUMNS, rows)
    for line, style in below:
        out.line(line, style)


def _background(out: Output, status: SessionStatus) -> list[str]:
    """Return a line for each thing that runs beside the session's turns: what, since when."""
    return [
        f"{task.kind} in the background since {out.time(task.since)}: {one_line(task.what, 100)}"
        for task in status.background
    ]


def _alarms(status: SessionStatus) -> list[str]:
    return list(dict.fromkeys([*status.alarms, *([status.problem] if status.problem else [])]))


def _short(path: str) -> str:
    home = str(Path.home())
    return "~" + path[len(home) :] if home != "/" and (path + "/").startswith(home + "/") else path


def state_of(status: SessionStatus) -> Cell:
    """Return a session's state in a word or two: what a person must know first comes first."""
    if status.life == "dead":
        return Cell("dead", "red bold")
    if status.life == "stopped":
        return Cell("stopped", "dim")
    if status.needs_decision:
        return Cell("needs decision", "yellow bold")
    if status.phase == "processing":
        return Cell("halting" if status.halted else "working", "blue")
    return Cell("halted", "magenta") if status.halted else Cell("idle", "green")


def model_of(status: SessionStatus) -> str:
    """Return the model that really runs, else the one asked for, `-` when nobody said."""
    return status.effective.get("model") or status.asked.get("model") or "-"


@command(SESSIONS)
def status(cli: Cli, name: Name) -> int:
    """Show how one session stands.

    \b
    Example:
      tollboard status api
    """
    return cli.show(cli.run(lambda board: board.status(name)), _print_status)


def _print_status(out: Output, status: SessionStatus) -> None:
    state = state_of(status)
    out.field("name", status.name, "bold")
    out.field("state", state.text, state.style)
    if status.in_flight:
        out.field("in flight", status.in_flight)
    out.field("queued", status.queued)
    for line in _background(out, status):
        out.field("running", line)
    out.field("turns", status.turns)
    if status.unread:
        out.field("unread", status.unread)
    out.field("backend", status.backend)
    for key in sorted({*status.asked, *status.effective} - {"cwd"}):
        asked, runs = status.asked.get(key), status.effective.get(key)
        out.field(key.replace("_", " "), runs or f"{asked} (asked for; not yet reported)")
    out.field("path", status.path)
    out.field("id", status.id)
    if status.provider_session_id:
        out.field("conversation", status.provider_session_id)
    out.field("started", f"{out.time(status.created_at)}")
    if status.stopped_at is not None:
        out.field("stopped", out.time(status.stopped_at))
    for alarm in _alarms(status):
        out.field("alarm", alarm, "yellow")
    if status.needs_decision:
        out.beside("a decision is waited for: tollboard approvals")
    elif status.halted and status.life == "live":
        out.beside(f"release it: tollboard resume {status.name}")
