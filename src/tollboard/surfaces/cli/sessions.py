"""Commands for sessions: start, list, status, stop, delete, backends."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import Invalid
from tollboard.surfaces.cli.app import SESSIONS, Name, command
from tollboard.surfaces.cli.completion import complete_backend
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Cell, Column, Output, plain
from tollboard.surfaces.cli.text import count, one_line

if TYPE_CHECKING:
    from tollboard.fleet.board import Board
    from tollboard.fleet.records import BackendInfo, Deleted, SessionStatus, StopReport


@command(SESSIONS)
def start(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 64 letters, digits, '.', '_' or '-'.")],
    path: Annotated[
        Path, typer.Option("--path", "-C", metavar="DIR", help="The working directory.")
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
    where = path.expanduser().absolute()
    status = cli.run(lambda board: board.start_session(name, path=str(where), backend=backend, **options))
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
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def _started(out: Output, status: SessionStatus) -> None:
    out.line(f"{status.name} is {state_of(status).text}: {status.backend} in {status.path}", "green")
    out.beside(f"send it a prompt: tollboard send {status.name} PROMPT --wait")


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

    async def read(board: Board) -> list[dict[str, object]]:
        statuses = await board.list_sessions(all=every)
        inbox = await board.inbox(limit=1)
        unread = {part.session: part.unread for part in inbox.sessions}
        # A stopped session may carry the name of a live one: only the live one's turns are in the inbox.
        return [
            {"status": s, "unread": unread.get(s.name, 0) if s.life != "stopped" else 0} for s in statuses
        ]

    found = cli.run(read)
    if cli.out.json:
        cli.out.document([_flat(row) for row in found])
        return 0
    _print_list(cli.out, found)
    return 0


def _flat(row: Mapping[str, object]) -> dict[str, object]:
    status = plain(row["status"])
    assert isinstance(status, dict)
    return {**status, "unread": row["unread"]}


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


def _print_list(out: Output, found: Sequence[Mapping[str, object]]) -> None:
    if not found:
        out.beside("no sessions yet; start one: tollboard start NAME --path DIRECTORY")
        return
    rows, alarms = [], []
    for row in found:
        status: SessionStatus = row["status"]  # type: ignore[assignment]
        unread = int(str(row["unread"]))
        rows.append(
            (
                Cell(status.name, "bold"),
                state_of(status),
                Cell(str(status.queued), "" if status.queued else "dim"),
                str(status.turns),
                Cell(str(unread), "cyan bold" if unread else "dim"),
                status.backend,
                model_of(status),
                _short(status.path) if out.terminal else status.path,
            )
        )
        alarms += [f"! {status.name}: {alarm}" for alarm in _alarms(status)]
    out.table(COLUMNS, rows)
    for alarm in alarms:
        out.line(alarm, "yellow")


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
    out.field("turns", status.turns)
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
    return cli.show(cli.run(lambda board: board.stop_session(name, drain=drain)), _print_stopped)


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
        if cli.out.json or not (sys.stdin.isatty() and cli.out.terminal_beside):
            raise Invalid("this removes the history for good; add --yes")
        found = cli.run(lambda board: board.status(name))
        typer.confirm(
            f"Remove {found.name} and its {count(found.turns, 'turn')} for good?", abort=True, err=True
        )
    return cli.show(cli.run(lambda board: board.delete_session(name)), _print_deleted)


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
