"""Commands for pools of workers: pool start, list, status, scale, stop, delete. Their tasks are in `pool_tasks`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tollboard.errors import Invalid
from tollboard.surfaces.cli.app import POOLS, Group, app, command, given_path, show_help
from tollboard.surfaces.cli.completion import complete_backend, complete_pool
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Cell, Column, Output
from tollboard.surfaces.cli.sessions import can_ask, parse_options
from tollboard.surfaces.cli.text import count

if TYPE_CHECKING:
    from tollboard.fleet.pools.records import PoolDeleted, PoolView

DEFAULT_ROLE = "worker"
"""That of `tollboard.pool.role`, which is not imported: help must be quick."""

PoolName = Annotated[str, typer.Argument(metavar="NAME", help="The pool.", autocompletion=complete_pool)]

group = typer.Typer(
    name="pool",
    cls=Group,
    help="""Keep a set of workers busy with a stream of independent tasks.

    \b
    Example:
      tollboard pool start reviews --size 4 --strategy shared_queue
      tollboard pool submit reviews --file tasks.jsonl
      tollboard pool wait reviews
      tollboard pool results reviews --csv
    """,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
group.callback(invoke_without_command=True)(show_help)
app.add_typer(group, rich_help_panel=POOLS)


@command(None, name="start", to=group)
def start(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 48 letters, digits, '.', '_' or '-'.")],
    size: Annotated[int | None, typer.Option("--size", "-n", metavar="N", help="How many workers.")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role", "-r", metavar="ROLE=N",
            help="Workers of a role, instead of --size; or JSON with its size, prompt, model, backend, options.",
        ),
    ] = None,
    path: Annotated[
        Path, typer.Option("--path", "-C", metavar="DIR", parser=given_path, help="Where they work.")
    ] = Path(),
    backend: Annotated[
        str,
        typer.Option("--backend", "-b", metavar="BACKEND", help="What answers.", autocompletion=complete_backend),
    ] = "claude",
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="The provider's model.")
    ] = None,
    conversation: Annotated[
        str,
        typer.Option(
            "--conversation", metavar="KIND", help="fresh: one for each task; kept: one for all of a worker's."
        ),
    ] = "fresh",
    recycle_turns: Annotated[
        int | None, typer.Option("--recycle-turns", metavar="N", help="Renew a kept one after so many turns.")
    ] = None,
    recycle_tokens: Annotated[
        int | None, typer.Option("--recycle-tokens", metavar="N", help="Renew a kept one after so many tokens.")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", "-s", metavar="S",
            help="round_robin, least_loaded, shared_queue (best for a batch) or longest_first.",
        ),
    ] = "round_robin",
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="RATE", help="At most so many submissions: 5/s, 90/min.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", metavar="N", help="How many may come at once under --rate.")
    ] = None,
    minimum: Annotated[
        int | None, typer.Option("--min", metavar="N", help="Shrink to so many workers when idle.")
    ] = None,
    maximum: Annotated[
        int | None, typer.Option("--max", metavar="N", help="Grow to so many workers when tasks wait.")
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", help="Run a task again that may succeed then, so often.")
    ] = 0,
    max_queued: Annotated[
        int, typer.Option("--max-queued", metavar="N", help="Tasks that may wait; a submission waits for room.")
    ] = 10_000,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the backend. Repeatable."),
    ] = None,
) -> int:  # fmt: skip
    """Start a pool of workers; all have started when this returns.

    \b
    Example:
      tollboard pool start trivia --size 3 --backend echo
      tollboard pool start mixed -r coder=2 -r reviewer=1 --rate 5/s
    """
    options = parse_options(option or ())
    if model is not None:
        options["model"] = model
    asked: dict[str, object] = {
        "conversation": conversation, "recycle_turns": recycle_turns, "recycle_tokens": recycle_tokens,
        "strategy": strategy, "rate": rate, "burst": burst, "min": minimum, "max": maximum, "retries": retries,
        "max_queued": max_queued, **_size_and_roles(size, role or ()), **options,
    }  # fmt: skip
    wanted = cast("int | None", asked.pop("size", None))
    view = cli.run(lambda board: board.pools.start(name, wanted, path=path, backend=backend, **asked))
    return cli.show(view, _started)


def _size_and_roles(size: int | None, roles: Sequence[str]) -> dict[str, object]:
    """Return what --size and --role say: a number, one role of that size, or each role with its own."""
    if size is not None and len(roles) == 1 and "=" not in roles[0]:
        return {"size": size, "role": roles[0]}
    if (size is None) == (not roles):
        raise Invalid("say how many workers: --size N, or --role ROLE=N for each role")
    if size is not None:
        return {"size": size}
    found: dict[str, object] = {}
    for given in roles:
        role, _, said = given.partition("=")
        if role in found:
            raise Invalid(f"role {role!r} is given twice")
        found[role] = _role(given, said) if role else _role(given, "")
    return {"roles": found}


def _role(given: str, said: str) -> object:
    """Return a role: a number of workers, or an object with what is its own."""
    if said.isdecimal():
        return int(said)
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(said), dict):
            return found
    raise Invalid(
        f"{given!r} is not ROLE=N, as in --role reviewer=2, and not ROLE={{...}} with JSON, as in "
        """--role 'reviewer={"size": 2, "prompt": "You review code."}'"""
    )


def _started(out: Output, view: PoolView) -> None:
    out.line(
        f"{view.name} is at work: {_roles(view.size)} ({view.backend}, {view.strategy}) in {view.path}",
        "green",
    )
    out.beside(f"give it tasks: tollboard pool submit {view.name} PROMPT, or --file tasks.jsonl")


@command(None, name="list", to=group)
def list_(
    cli: Cli,
    every: Annotated[bool, typer.Option("--all", "-a", help="Show stopped pools too.")] = False,
) -> int:
    """List the pools and how each stands.

    \b
    Example:
      tollboard pool list
    """
    return cli.show(cli.run(lambda board: board.pools.list(all=every)), _print_list)


COLUMNS = (
    Column("NAME"),
    Column("STATE"),
    Column("WORKERS", right=True),
    Column("QUEUED", right=True),
    Column("RUNNING", right=True),
    Column("DONE", right=True),
    Column("FAILED", right=True),
    Column("STRATEGY"),
    Column("BACKEND"),
    Column("PATH", gives="left"),
)


def _print_list(out: Output, views: Sequence[PoolView]) -> None:
    if not views:
        out.beside("no pools yet; start one: tollboard pool start NAME --size N")
        return
    out.table(COLUMNS, [_row(view) for view in views])
    for view in views:
        for said in (_problem(out, view), view.notice):
            if said:
                out.line(f"! {view.name}: {said}", "yellow")


def _row(view: PoolView) -> tuple[Cell | str, ...]:
    return (
        Cell(view.name, "bold"), state_of(view), str(len(view.workers)), str(view.queued), str(view.running),
        str(view.ok), Cell(str(view.failed), "red" if view.failed else "dim"), view.strategy, view.backend, view.path,
    )  # fmt: skip


def state_of(view: PoolView) -> Cell:
    """Return a pool's state in a word."""
    match view.life.value:
        case "dead":
            return Cell("dead", "red bold")
        case "stopped":
            return Cell("stopped", "dim")
    return Cell("idle", "green") if view.done else Cell("working", "blue")


@command(None, name="status", to=group)
def status(cli: Cli, name: PoolName) -> int:
    """Show one pool and each of its workers.

    \b
    Example:
      tollboard pool status reviews
    """
    return cli.show(cli.run(lambda board: board.pools.status(name)), _print_status)


WORKER_COLUMNS = (
    Column("WORKER"),
    Column("ROLE"),
    Column("STATE"),
    Column("QUEUED", right=True),
    Column("DONE", right=True),
    Column("FAILED", right=True),
    Column("RUNNING"),
)


def _print_status(out: Output, view: PoolView) -> None:
    state = state_of(view)
    out.field("name", view.name, "bold")
    out.field("state", state.text, state.style)
    if problem := _problem(out, view):
        out.field("problem", problem, "yellow")
    if view.notice:
        out.field("notice", view.notice, "yellow")
    out.field("tasks", f"{view.submitted:,} submitted, {view.running:,} running, {view.queued:,} queued")
    out.field("ended", f"{view.ok:,} done, {view.failed:,} failed")
    out.field("workers", _workers(view))
    out.field("strategy", view.strategy)
    out.field("backend", view.backend)
    out.field("path", view.path)
    if view.rate is not None:
        out.field("rate", f"{view.rate:g}/s, burst {view.burst}")
    out.field("retries", view.retries)
    out.field("conversation", view.conversation)
    out.field("started", f"{out.time(view.created_at)} by {view.created_by}")
    if view.stopped_at is not None:
        out.field("stopped", out.time(view.stopped_at))
    if view.workers:
        out.line()
        out.table(
            WORKER_COLUMNS,
            [(Cell(w.name, "bold"), w.role, w.state.value, str(w.queued), str(w.ok), str(w.failed), w.running or "-")
             for w in view.workers],
        )  # fmt: skip


def _problem(out: Output, view: PoolView) -> str | None:
    if view.problem is None or view.retry_at is None:
        return view.problem
    return f"{view.problem}; it is tried again at {out.time(view.retry_at)}"


def _roles(size: Mapping[str, int]) -> str:
    from tollboard.pool.role import DEFAULT_ROLE  # `--help` must not pay for asyncio

    if size.keys() == {DEFAULT_ROLE}:
        return count(size[DEFAULT_ROLE], DEFAULT_ROLE)
    return ", ".join(f"{number} {role}" for role, number in size.items())


def _workers(view: PoolView) -> str:
    wanted = _roles(view.size)
    if view.min is None or view.max is None:
        return wanted
    bounds = {role: f"{least} to {view.max[role]}" for role, least in view.min.items()}
    if bounds.keys() == view.size.keys() and len(set(bounds.values())) == 1:
        return f"{wanted} (scales by itself: {bounds.popitem()[1]})"
    return f"{wanted} (scales by itself: {', '.join(f'{role} {bound}' for role, bound in bounds.items())})"


@command(None, name="scale", to=group)
def scale(
    cli: Cli,
    name: PoolName,
    size: Annotated[int, typer.Argument(metavar="N", help="How many workers there are to be.")],
    role: Annotated[
        str | None, typer.Option("--role", "-r", metavar="ROLE", help="Which, if there are several.")
    ] = None,
) -> int:
    """Grow or shrink a pool; busy workers end their task first.

    \b
    Example:
      tollboard pool scale reviews 8
    """
    view = cli.run(lambda board: board.pools.scale(name, size, role=role))
    return cli.show(view, lambda out, v: out.line(f"{v.name} has {_workers(v)}", "green"))


@command(None, name="stop", to=group)
def stop(cli: Cli, name: PoolName) -> int:
    """End a pool; its results stay, what had not ended is `stopped`.

    \b
    Example:
      tollboard pool stop reviews
    """
    return cli.show(cli.run(lambda board: board.pools.stop(name)), _print_stopped)


def _print_stopped(out: Output, view: PoolView) -> None:
    out.line(f"{view.name} is stopped: {view.ok:,} done, {view.failed:,} without an answer", "green")
    out.beside(f"its results stay: tollboard pool results {view.name}")


@command(None, name="delete", to=group)
def delete(
    cli: Cli,
    name: PoolName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove a stopped pool with its tasks and results, for good.

    \b
    Example:
      tollboard pool delete reviews
    """
    if not yes:
        if not can_ask(cli.out):
            raise Invalid("this removes its tasks and results for good; add --yes")
        typer.confirm(f"Remove pool {name} with all its tasks and results?", abort=True, err=True)
    return cli.show(cli.run(lambda board: board.pools.delete(name)), _print_deleted)


def _print_deleted(out: Output, gone: PoolDeleted) -> None:
    out.line(f"{gone.name} is gone, with {count(gone.tasks, 'task')}", "green")
