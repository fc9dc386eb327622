"""Commands for the tasks of a pool: pool submit, wait, results, poll, cancel."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tollboard.errors import Invalid
from tollboard.surfaces.cli.app import command
from tollboard.surfaces.cli.failures import DONE, FAILED, STOPPED_BY_USER, TIMED_OUT
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import Cell, Column, Output, plain, write
from tollboard.surfaces.cli.pools import PoolName, group
from tollboard.surfaces.cli.progress import progress
from tollboard.surfaces.cli.prompts import Ref, Timeout
from tollboard.surfaces.cli.submission import Submission
from tollboard.surfaces.cli.text import one_line, safe, span

if TYPE_CHECKING:
    from tollboard.daemon.client import Client
    from tollboard.fleet.pools.records import PoolView, Submitted, TaskRecord
    from tollboard.pool.records import TaskResult

PAGE = 500
"""Results that are asked for at a time."""
REFRESH_S = 0.5
"""How long one look at a pool waits for its end, while a bar is shown."""
LOOK_S = 30.0
"""The same where nobody watches."""


@command(None, name="submit", to=group)
def submit(
    cli: Cli,
    name: PoolName,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="One task; `-` reads JSON lines from standard input.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="JSON lines: one task each.")
    ] = None,
    role: Annotated[str | None, typer.Option("--role", "-r", metavar="ROLE", help="Who is to run PROMPT.")] = None,
    hint: Annotated[
        float | None, typer.Option("--hint", metavar="SECONDS", help="How long PROMPT may take (longest_first).")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", "-k", help="Leave out lines that are not valid, submit the others.")
    ] = False,
    skip: Annotated[
        int, typer.Option("--skip", metavar="N", min=0, help="Leave out the first N tasks of the file.")
    ] = 0,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until the pool has done everything.")] = False,
) -> int:  # fmt: skip
    """Submit one task, or every line of a file.

    Waits for room when the pool is full. A line is a text in quotes, or an object: {"prompt": "...", "role": "...",
    "hint_s": 12}. Nothing of a file with a faulty line is submitted, unless --keep-going.

    \b
    Example:
      tollboard pool submit reviews "review src/api.py"
      tollboard pool submit reviews --file tasks.jsonl --wait
    """
    if prompt == "-" and file is None:
        prompt, file = None, Path("-")
    if (prompt is None) == (file is None):
        raise Invalid("give one task as an argument, or JSON lines with --file FILE or `-`")
    if file is None:
        assert prompt is not None
        code = _submit_one(cli, name, prompt, role, hint)
    else:
        if role is not None or hint is not None:
            raise Invalid("--role and --hint go with one task; in a file each line has its own")
        code = Submission(cli, name, file, keep_going=keep_going, skip=skip).run()
    return wait_for(cli, name, None) or code if wait and code in (DONE, FAILED) else code


def _submit_one(cli: Cli, name: str, prompt: str, role: str | None, hint: float | None) -> int:
    from tollboard.pool.records import Task

    accepted = cli.run(lambda board: board.pools.submit(name, Task(prompt, role, hint)))
    return cli.show(accepted[0], _print_ref)


def _print_ref(out: Output, accepted: Submitted) -> None:
    out.line(accepted.ref)
    if accepted.worker:
        out.beside(f"for {accepted.worker}")


@command(None, name="wait", to=group)
def wait(cli: Cli, name: PoolName, timeout: Timeout = None) -> int:
    """Wait until a pool has done everything; shows how far it is.

    \b
    Example:
      tollboard pool wait reviews --timeout 600
    """
    return wait_for(cli, name, timeout)


def wait_for(cli: Cli, name: str, timeout: float | None) -> int:
    """Wait for a pool and say how it stands then; return the exit code."""
    try:
        view = cli.run(lambda board: _watch(board, name, timeout, cli.out))
    except KeyboardInterrupt:
        cli.out.beside(f"stopped waiting, the pool goes on: tollboard pool status {name}")
        return STOPPED_BY_USER
    return cli.show(view, _print_waited, exit_with=DONE if view.done else TIMED_OUT)


async def _watch(board: Client, name: str, timeout: float | None, out: Output) -> PoolView:
    until = None if timeout is None else time.monotonic() + timeout
    look_s = REFRESH_S if out.terminal_beside and not out.json else LOOK_S
    view = await board.pools.status(name)
    before, began = view.ok + view.failed, time.monotonic()
    with progress(out, name) as show:
        while not view.done:
            rest_s = look_s if until is None else min(look_s, until - time.monotonic())
            if rest_s <= 0:
                break
            view = await board.pools.wait(name, timeout=rest_s)
            ended = view.ok + view.failed
            rate = (ended - before) / max(1e-9, time.monotonic() - began)
            show(ended, view.submitted, _detail(view, rate))
    return view


def _detail(view: PoolView, rate: float) -> str:
    return f"{view.running:,} running, {view.queued:,} queued, {view.failed:,} failed, {rate:.1f}/s"


def _print_waited(out: Output, view: PoolView) -> None:
    if view.done:
        out.line(
            f"{view.name} is done: {view.ok:,} ok, {view.failed:,} failed", "green" if not view.failed else ""
        )
        out.beside(f"read them: tollboard pool results {view.name}" + (" --failed" if view.failed else ""))
        return
    out.line(
        f"{view.name} is not done: {view.ok:,} ok, {view.failed:,} failed, {view.running:,} running, "
        f"{view.queued:,} queued", "yellow",
    )  # fmt: skip
    out.beside(f"it goes on; wait longer: tollboard pool wait {view.name}")


@command(None, name="results", to=group)
def results(
    cli: Cli,
    name: PoolName,
    failed: Annotated[bool, typer.Option("--failed", help="Only those without an answer.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values with a heading.")] = False,
    after: Annotated[
        int, typer.Option("--after", metavar="INDEX", min=-1, help="Only those submitted after this one.")
    ] = -1,
) -> int:  # fmt: skip
    """Show what the tasks came to, in the order of submission.

    \b
    Example:
      tollboard pool results reviews --failed
      tollboard pool results reviews --csv > results.csv
    """
    if as_csv and cli.out.json:
        raise Invalid("--csv and --json cannot both be had: give one of them")

    async def work(board: Client) -> int:
        found = _results(board, name, after, failed=failed)
        if cli.out.json:
            await _print_json(found)
        elif as_csv:
            await _print_csv(found)
        else:
            await _print_results(cli.out, name, found)
        return DONE

    return cli.run(work)


async def _results(board: Client, name: str, after: int, *, failed: bool) -> AsyncIterator[TaskResult]:
    """Yield the results page by page, so that any number of them fits."""
    while True:
        page = await board.pools.results(name, after=after, limit=PAGE)
        for result in page.results:
            if not failed or not result.ok:
                yield result
        if page.next is None:
            return
        after = page.next


async def _print_json(found: AsyncIterator[TaskResult]) -> None:
    """Print one JSON document, a list, without holding it."""
    between = "["
    async for result in found:
        write(sys.stdout, between + "\n" + json.dumps(plain(result)))
        between = ","
    write(sys.stdout, ("[" if between == "[" else "\n") + "]\n")


CSV_FIELDS = (
    "index", "ref", "status", "worker", "role", "attempt", "submitted_at", "started_at", "completed_at", "duration_s",
    "input_tokens", "output_tokens", "cost_usd", "prompt", "text", "error",
)  # fmt: skip


class _Written:
    """Standard output for the csv module: on a terminal agents' words are made safe, a pipe gets them as they are."""

    def write(self, text: str) -> None:
        write(sys.stdout, safe(text) if sys.stdout.isatty() else text)


async def _print_csv(found: AsyncIterator[TaskResult]) -> None:
    rows = csv.writer(_Written())
    rows.writerow(CSV_FIELDS)
    async for result in found:
        usage = result.usage
        rows.writerow(
            (result.index, result.ref, result.status.value, result.worker, result.role, result.attempt,
             result.submitted_at, result.started_at, result.completed_at, result.duration_s,
             usage and usage.input_tokens, usage and usage.output_tokens, usage and usage.cost_usd,
             result.prompt, result.text, result.error)
        )  # fmt: skip


COLUMNS = (
    Column("INDEX", right=True),
    Column("STATUS"),
    Column("WORKER"),
    Column("TOOK", right=True),
    Column("PROMPT", gives="right"),
    Column("ANSWER", gives="right"),
)
_STYLES = {"ok": "green", "failed": "red", "interrupted": "yellow"}


async def _print_results(out: Output, name: str, found: AsyncIterator[TaskResult]) -> None:
    """Print a table for each page: the columns are as wide as a page needs."""
    rows: list[Sequence[Cell | str]] = []
    some = False
    async for result in found:
        some = True
        rows.append(_row(result))
        if len(rows) >= PAGE:
            out.table(COLUMNS, rows)
            rows = []
    if rows:
        out.table(COLUMNS, rows)
    if not some:
        out.beside(f"nothing yet; wait for it: tollboard pool wait {name}")


def _row(result: TaskResult) -> Sequence[Cell | str]:
    status = result.status.value
    said = result.text if result.ok else result.error or ""
    return (
        str(result.index), Cell(status, _STYLES.get(status, "dim")), result.worker or "-", span(result.duration_s),
        one_line(result.prompt), one_line(said),
    )  # fmt: skip


@command(None, name="poll", to=group)
def poll(cli: Cli, name: PoolName, ref: Ref) -> int:
    """Show one task: where it is, or its answer.

    \b
    Example:
      tollboard pool poll reviews 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b
    """
    task = cli.run(lambda board: board.pools.poll(name, ref))
    return cli.show(task, _print_task, exit_with=FAILED if task.result and not task.result.ok else DONE)


def _print_task(out: Output, task: TaskRecord) -> None:
    result = task.result
    if result is None:
        by = f" on {task.worker}" if task.worker else ""
        out.line(f"{task.state.value}{by}", "blue")
        return
    if result.ok:
        out.text(result.text if result.text.endswith("\n") else result.text + "\n")
    else:
        out.line(f"{result.status.value}: {result.error or ''}", "red")
    out.beside(f"{result.worker or 'nobody'}, {span(result.duration_s)}, attempt {result.attempt}")


@command(None, name="cancel", to=group)
def cancel(cli: Cli, name: PoolName, ref: Ref) -> int:
    """Withdraw a task that waits.

    \b
    Example:
      tollboard pool cancel reviews 019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b
    """
    task = cli.run(lambda board: board.pools.cancel(name, ref))
    return cli.show(task, lambda out, t: out.line(f"task {t.ref} is withdrawn", "green"))
