"""How far something long has come, on standard error: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tollboard.surfaces.cli.output import Output
from tollboard.surfaces.cli.text import span

LINE_S = 10.0
"""How often a line is written where there is no terminal."""


class Show(Protocol):
    """Shows how far it has come. Called as often as one likes."""

    def __call__(self, done: int, total: int, detail: str) -> None:
        """Show that `done` of `total` are done; `detail` says more in a few words."""


@contextmanager
def progress(out: Output, what: str) -> Iterator[Show]:
    """Yield what shows the progress of `what`; nothing is shown with --json."""
    if out.json:
        yield _nothing
    elif out.terminal_beside:
        with _bar(what) as show:
            yield show
    else:
        yield _Lines(out, what)


def _nothing(done: int, total: int, detail: str) -> None:
    """Show nothing."""


@contextmanager
def _bar(what: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None, detail="")

        def show(done: int, total: int, detail: str) -> None:
            bar.update(task, completed=done, total=total, detail=detail)

        yield show


class _Lines:
    """Writes a line now and then."""

    def __init__(self, out: Output, what: str) -> None:
        self._out = out
        self._what = what
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int, detail: str) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_S:
            self._last = now
            self._out.beside(f"{self._what}: {done:,} of {total:,}, {detail} ({span(now - self._began)})")
