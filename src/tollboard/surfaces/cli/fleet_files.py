"""Commands for fleets that are written down in a file: up, down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import DaemonFrozen, DaemonUnreachable
from tollboard.surfaces.cli.app import SESSIONS, command
from tollboard.surfaces.cli.connection import places
from tollboard.surfaces.cli.failures import DONE, FAILED
from tollboard.surfaces.cli.fleet_trust import ask_once, powers_of, show_powers
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Cell, Column, Output
from tollboard.surfaces.cli.sessions import can_ask
from tollboard.surfaces.cli.text import count, one_line

if TYPE_CHECKING:
    from tollboard.daemon.client import Client
    from tollboard.fleetfile import Difference, Downed, Fleet, Step

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="The fleet file (otherwise ./fleet.toml).", show_default=False)
]
DEFAULT = Path("fleet.toml")
MAX_VALUE = 30
"""Characters of a value that is shown; longer ones are only named."""

WORDS = {
    # action: what was done, what would be done, in which colour
    "start": ("started", "would start", "green"),
    "resume": ("brought back", "would bring back", "green"),
    "scale": ("scaled", "would scale", "green"),
    "keep": ("unchanged", "unchanged", "dim"),
    "leave": ("differs", "differs", "yellow"),
    "replace": ("replaced", "would replace", "green"),
}


@command(SESSIONS)
def up(
    cli: Cli,
    file: File = DEFAULT,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say what would be done.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Stop and start anew what runs otherwise than the file says.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Agree to the file's content; do not ask.")
    ] = False,
) -> int:
    """Start what a fleet file names and does not run yet.

    A pool that differs in its size alone is scaled; what else differs is named and left, unless --replace. A file that
    runs programs, names addresses or lifts guards is shown and asked about, once for each content.

    \b
    Example:
      tollboard up
      tollboard up ~/fleets/night.toml --check
    """
    from tollboard.fleetfile import Fleet

    fleet = Fleet.read(file)
    if check:
        return _show_plan(cli, fleet, replace)
    ask_once(cli.out, places(cli.home), fleet, yes=yes, can_ask=can_ask(cli.out))
    steps = cli.run(lambda board: _carry_out(cli, board, fleet, replace))
    if cli.out.json:
        cli.out.document({"file": fleet.file, "done": True, "steps": steps})
    else:
        _print_steps(cli.out, fleet, steps, 0)
    return FAILED if any(_is_down(step) for step in steps) else DONE


async def _carry_out(cli: Cli, board: Client, fleet: Fleet, replace: bool) -> Sequence[Step]:
    from tollboard.fleetfile import carry_out, plan

    steps = await plan(board, fleet, replace=replace)
    _say_who_is_busy(cli.out, [step.name for step in steps if step.action == "replace" and step.in_flight])
    return await carry_out(board, fleet, steps)


def _say_who_is_busy(out: Output, names: Sequence[str]) -> None:
    for name in names:
        out.beside(f"{name} ends its turn first; see whether it waits for you: tollboard approvals {name}")


def _show_plan(cli: Cli, fleet: Fleet, replace: bool) -> int:
    from tollboard.fleetfile import Action, Step, plan

    steps: Sequence[Step]
    try:
        steps = cli.run(lambda board: plan(board, fleet, replace=replace), start=False)
    except DaemonFrozen:
        raise  # one is there
    except DaemonUnreachable:
        cli.out.beside("no daemon runs: what it remembers comes back when it starts, and is not seen here;")
        cli.out.beside("keys, models and programs are looked at by `tollboard up`, before it starts anything")
        steps = [
            *(Step("session", name, Action.START) for name in fleet.sessions),
            *(Step("pool", name, Action.START) for name in fleet.pools),
        ]
    if cli.out.json:
        cli.out.document({"file": fleet.file, "done": False, "steps": steps, "powers": powers_of(fleet)})
    else:
        show_powers(cli.out, powers_of(fleet))
        _print_steps(cli.out, fleet, steps, 1)
    return DONE


def _is_down(step: Step) -> bool:
    """Return whether it is dead, and stays so."""
    return step.problem is not None and step.action in ("keep", "leave")


COLUMNS = (Column("NAME"), Column("KIND"), Column("STATE"), Column("DETAIL", gives="right"))


def _print_steps(out: Output, fleet: Fleet, steps: Sequence[Step], word: int) -> None:
    out.table(COLUMNS, [_row(fleet, step, word) for step in steps])
    for step in steps:
        if _is_down(step):
            out.line(f"! {step.name}: {step.problem}", "yellow")
    if any(step.action == "leave" for step in steps):
        out.beside("start anew what differs, with a new conversation: tollboard up --replace")
    elif word == 0 and any(step.kind == "session" for step in steps):
        out.beside("send one a prompt: tollboard send NAME PROMPT --wait")


def _row(fleet: Fleet, step: Step, word: int) -> tuple[Cell | str, ...]:
    said = WORDS[step.action]
    if step.differences:
        detail = ", ".join(_difference(one) for one in step.differences)
    else:
        one = fleet.sessions[step.name] if step.kind == "session" else fleet.pools[step.name]
        detail = f"{one.backend} in {one.path}"
    return Cell(step.name, "bold"), step.kind, Cell(said[word], said[2]), detail


def _difference(one: Difference) -> str:
    if one.key == "size" and isinstance(one.running, Mapping) and isinstance(one.wanted, Mapping):
        return f"size: {_sizes(one.running, one.wanted)}"
    shown = [_value(value) for value in (one.running, one.wanted)]
    return one.key if None in shown else f"{one.key}: {shown[0]} → {shown[1]}"


def _sizes(running: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """Return the sizes that differ, with their roles unless there is only one."""
    changed = {
        role: f"{running.get(role, 'none')} → {wanted.get(role, 'none')}"
        for role in dict.fromkeys((*wanted, *running))
        if running.get(role) != wanted.get(role)
    }
    if running.keys() == wanted.keys() and len(wanted) == 1:
        return changed.popitem()[1]
    return ", ".join(f"{one_line(role)} {change}" for role, change in changed.items())


def _value(value: object) -> str | None:
    """Return a value that is short enough to be shown; `None` for one that is not."""
    if value is None:
        return "none"
    if not isinstance(value, str | int | float):
        return None
    text = one_line(str(value))
    return text if len(text) <= MAX_VALUE else None


@command(SESSIONS)
def down(
    cli: Cli,
    file: File = DEFAULT,
    now: Annotated[
        bool, typer.Option("--now", help="At once: what is queued or in flight ends with `stopped`.")
    ] = False,
) -> int:
    """Stop what a fleet file names, after the turns in flight.

    Refused while prompts are queued or tasks are not done, unless --now. Histories and results stay.

    \b
    Example:
      tollboard down
      tollboard down ~/fleets/night.toml --now
    """
    from tollboard.fleetfile import Fleet, down

    fleet = Fleet.read(file)

    async def work(board: Client) -> Sequence[Downed]:
        if not now:
            live = await board.list_sessions()
            busy = [one.name for one in live if one.name in fleet.sessions and one.in_flight is not None]
            _say_who_is_busy(cli.out, busy)
        return await down(board, fleet, now=now)

    done = cli.run(work)
    if cli.out.json:
        cli.out.document({"file": fleet.file, "steps": done})
    else:
        _print_downed(cli.out, done)
    return DONE


def _print_downed(out: Output, done: Sequence[Downed]) -> None:
    rows: list[tuple[Cell | str, ...]] = []
    for one in done:
        if one.stopped:
            what = "prompt" if one.kind == "session" else "task"
            state = Cell("stopped", "green")
            detail = f"{count(one.lost, what)} ended with it" if one.lost else ""
        elif one.elsewhere is not None:
            state, detail = Cell("left", "yellow"), f"works in {one.elsewhere}: not that of the file"
        else:
            state, detail = Cell("not running", "dim"), ""
        rows.append((Cell(one.name, "bold"), one.kind, state, detail))
    out.table(COLUMNS, rows)
    for one in done:
        for ref in one.failed:
            out.line(f"  request {ref} of {one.name} ended with: stopped")
        for doubt in one.unverified:
            out.line(f"! {one.name}: could not make sure: {doubt}", "yellow")
