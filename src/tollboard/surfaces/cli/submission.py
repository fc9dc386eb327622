"""A file of tasks on its way into a pool: checked first, then submitted in batches; when one fails, how to go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from tollboard.errors import DaemonError, Invalid, TollboardError
from tollboard.surfaces.cli.failures import DONE, FAILED, STOPPED_BY_USER
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.progress import progress
from tollboard.surfaces.cli.text import count

if TYPE_CHECKING:
    from tollboard.daemon.client import Client
    from tollboard.fleet.pools.records import Submitted
    from tollboard.pool.records import Task
    from tollboard.surfaces.cli.task_files import TaskLines

BATCH = 500
"""Tasks that are submitted at a time; progress is shown after each batch."""
SHOWN_FAULTS = 20


class Submission:
    """A file on its way into a pool."""

    def __init__(self, cli: Cli, name: str, file: Path, *, keep_going: bool, skip: int) -> None:
        self._cli = cli
        self._name = name
        self._file = file
        self._keep_going = keep_going
        self._skip = skip
        self._faults = 0
        self._done = 0
        self._total = 0
        self._refs: list[str] = []

    def run(self) -> int:
        """Check the file, submit it, say what came of it; return the exit code."""
        try:
            self._cli.run(self._work)
        except KeyboardInterrupt:
            self._tell_stopped()
            return STOPPED_BY_USER
        out = self._cli.out
        if out.json:
            out.document(
                {"pool": self._name, "submitted": self._done, "left_out": self._faults, "refs": self._refs}
            )
        else:
            left_out = f", {count(self._faults, 'faulty line')} left out" if self._faults else ""
            out.line(f"{count(self._done, 'task')} submitted to {self._name}{left_out}", "green")
        return FAILED if self._faults else DONE

    async def _work(self, board: Client) -> None:
        from tollboard.daemon.pool_client import in_pieces
        from tollboard.surfaces.cli.task_files import open_tasks

        view = await board.pools.status(self._name)
        with open_tasks(self._file, view.size.keys()) as lines:
            self._check(lines)
            if not self._total:
                raise Invalid(f"{lines.name} holds no task")
            with progress(self._cli.out, "submitting") as show:
                for batch in _batches(lines, self._skip):
                    try:
                        async with aclosing(in_pieces(board.pools, self._name, batch)) as pieces:
                            async for accepted in pieces:
                                self._note(accepted)
                                show(self._done, self._total, f"{self._done:,} submitted")
                    except TollboardError as error:
                        self._advise(error)
                        raise

    def _note(self, accepted: Sequence[Submitted]) -> None:
        self._done += len(accepted)
        if self._cli.out.json:
            self._refs += [one.ref for one in accepted]

    def _check(self, lines: TaskLines) -> None:
        """Count the tasks. Raises Invalid for faulty lines, unless they are to be left out."""
        from tollboard.pool.records import Task

        found = 0
        told: list[str] = []
        for line in lines:
            if isinstance(line, Task):
                found += 1
                continue
            self._faults += 1
            if len(told) < SHOWN_FAULTS:
                told.append(f"{lines.name}, line {line.line}: {line.why}")
        self._total = max(0, found - self._skip)
        if self._faults > len(told):
            told.append(f"and {self._faults - len(told):,} more")
        if self._faults and not self._keep_going:
            error = Invalid(f"{told[0]}: nothing was submitted")
            for why in told[1:]:
                error.add_note(why)
            error.add_note("mend the file, or leave out what is faulty with --keep-going")
            raise error
        for why in told:
            self._cli.out.beside(f"left out: {why}", "yellow")

    def _go_on(self) -> str:
        done = self._skip + self._done
        return f"tollboard pool submit {self._name} --file {self._file} --skip {done}" + (
            " --keep-going" if self._keep_going else ""
        )

    def _advise(self, error: TollboardError) -> None:
        before = f"{self._done:,} of {self._total:,} tasks were submitted before"
        if isinstance(error, DaemonError):
            error.add_note(f"{before}, up to {BATCH} more may have been taken")
            error.add_note(f"compare tollboard pool status {self._name}, then go on with: {self._go_on()}")
        elif self._done:
            error.add_note(f"{before}; go on with: {self._go_on()}")

    def _tell_stopped(self) -> None:
        # The batch that was on its way may have been taken: what is in the pool says so, not we.
        self._cli.out.beside(
            f"stopped after {self._done:,} of {self._total:,} tasks; up to {BATCH} more may have been taken: "
            f"compare tollboard pool status {self._name}, then go on with: {self._go_on()}"
        )


def _batches(lines: TaskLines, skip: int) -> Iterator[list[str | Task]]:
    from tollboard.pool.records import Task

    batch: list[str | Task] = []
    for line in lines:
        if not isinstance(line, Task):
            continue
        if skip:
            skip -= 1
            continue
        batch.append(line)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
