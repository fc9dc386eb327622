"""How the command line prints: one JSON document, or tables and lines. Colour only on a terminal; nothing else does it.

Documents go to standard output. What is said beside them (progress, hints, errors) goes to standard error, so that
output can always be piped. On a pipe tables are plain: the same columns, no colour, nothing cut, exact times.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Literal, NamedTuple, TextIO

from tollboard.surfaces.cli.text import ago, cells, cut, exact, one_line, safe

GAP = "  "
LABEL = 12
"""Columns for the names in a description."""
_NARROWEST = 8
STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


class Cell(NamedTuple):
    """One field of a table with the colour it has on a terminal."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. `gives`: on which side it is cut when the terminal is too narrow for everything."""

    title: str
    right: bool = False
    gives: Literal["left", "right"] | None = None


class Output:
    """Where one command prints."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    # The streams are looked up late: tests and the demo put others in their place.
    @property
    def terminal(self) -> bool:
        """Whether standard output is a terminal."""
        return sys.stdout.isatty()

    @property
    def terminal_beside(self) -> bool:
        """Whether standard error is a terminal."""
        return sys.stderr.isatty()

    def document(self, value: object) -> None:
        """Print one JSON document."""
        indent = 2 if self.terminal else None
        write(sys.stdout, json.dumps(plain(value), indent=indent) + "\n")

    def json_line(self, value: object) -> None:
        """Print one JSON document on a line of its own, at once."""
        write(sys.stdout, json.dumps(plain(value)) + "\n")
        sys.stdout.flush()

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line of ours or, made safe, of an agent."""
        write(sys.stdout, paint(safe(text), style, sys.stdout) + "\n")

    def labelled(self, label: str, text: str) -> None:
        """Print a line that begins with a label of ours, painted already."""
        write(sys.stdout, f"{label}{safe(text)}".rstrip() + "\n")

    def text(self, text: str) -> None:
        """Print a piece of an agent's text as it arrives."""
        write(sys.stdout, safe(text))
        sys.stdout.flush()

    def beside(self, text: str, style: str = "dim") -> None:
        """Say something beside the document: progress, what to do next."""
        if not self.json:
            write_beside(paint(safe(text), style, sys.stderr) + "\n")

    def notice(self, text: str) -> None:
        """Say on standard error what a person should know, whatever form the output has."""
        write_beside(paint(safe(f"tollboard: {text}"), "yellow", sys.stderr) + "\n")

    def time(self, at: float | None) -> str:
        """Return a point in time: for a person on a terminal, exact on a pipe."""
        return ago(at) if self.terminal else exact(at)

    def field(self, name: str, value: object, style: str = "") -> None:
        """Print one `name  value` line of a description; the name may be an agent's."""
        title = paint(f"{one_line(name):<{LABEL}}", "dim", sys.stdout)
        write(sys.stdout, f"{title}{GAP}{paint(safe(str(value)), style, sys.stdout)}\n")

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]]) -> None:
        """Print a table with a heading, as wide as the terminal allows."""
        made = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
        _print_table(columns, made, shutil.get_terminal_size().columns if self.terminal else None)


def paint(text: str, style: str, stream: TextIO) -> str:
    """Return the text in a style (words of `STYLES`), unchanged where colour is not wanted."""
    if not style or not text or not wants_colour(stream):
        return text
    codes = ";".join(STYLES[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m"


def wants_colour(stream: TextIO) -> bool:
    """Whether colour may be used: on a terminal that can, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write(stream: TextIO, text: str) -> None:
    """Write to a stream; what its encoding does not know is shown as an escape instead of failing."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def write_beside(text: str) -> None:
    """Write to standard error. Where that cannot be written it is left out: what is said beside changes no outcome."""
    with suppress(OSError):
        write(sys.stderr, text)
        sys.stderr.flush()


def plain(value: object) -> object:
    """Return the value as JSON knows it: records become objects with exact numbers and times."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _print_table(columns: Sequence[Column], rows: list[list[Cell]], limit: int | None) -> None:
    titles = [Cell(column.title, "dim") for column in columns]
    lines = [titles, *([Cell(safe(text).replace("\n", " "), style) for text, style in row] for row in rows)]
    widths = [max(cells(line[number].text) for line in lines) for number in range(len(columns))]
    if limit is not None:
        _narrow(columns, widths, limit)
    for line in lines:
        fields = [
            _fit(cell, width, column, last=number == len(columns))
            for number, (cell, width, column) in enumerate(zip(line, widths, columns, strict=True), 1)
        ]
        write(sys.stdout, GAP.join(fields).rstrip() + "\n")


def _narrow(columns: Sequence[Column], widths: list[int], limit: int) -> None:
    """Take from the columns that may give way, the widest first, until the table fits or nothing is left to take."""
    while sum(widths) + len(GAP) * (len(widths) - 1) > limit:
        giving = [n for n, column in enumerate(columns) if column.gives and widths[n] > _NARROWEST]
        if not giving:
            return
        widths[max(giving, key=widths.__getitem__)] -= 1


def _fit(cell: Cell, width: int, column: Column, *, last: bool) -> str:
    text = cut(cell.text, width, left=column.gives == "left")
    space = "" if last and not column.right else " " * (width - cells(text))
    painted = paint(text, cell.style, sys.stdout)
    return space + painted if column.right else painted + space
