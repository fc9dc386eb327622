"""Results as text to read, and as HTML for a notebook. What agents wrote is data: made safe for a terminal, escaped in
HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from html import escape
from typing import Any

from tollboard.fleet import records
from tollboard.fleet.pools import records as pools
from tollboard.pool.records import TaskResult
from tollboard.surfaces.cli.text import ago, cells, count, cut, one_line, safe, span

WIDEST = 60
"""Columns of a field in a table."""
COLUMNS: Mapping[type, tuple[str, ...]] = {
    records.SessionStatus: (
        "name",
        "phase",
        "halted",
        "queued",
        "turns",
        "needs_decision",
        "backend",
        "path",
    ),
    records.Entry: ("session", "seq", "status", "prompt", "text"),
    records.ApprovalRecord: ("id", "session", "tool", "arguments", "state"),
    records.BroadcastItem: ("session", "ref", "error", "message"),
    records.BackendInfo: ("name", "available", "detail"),
    records.Summary: ("session", "version", "text", "author"),
    pools.PoolView: ("name", "life", "queued", "running", "ok", "failed", "strategy", "backend"),
    pools.Submitted: ("ref", "worker"),
    TaskResult: ("index", "status", "worker", "prompt", "text"),
}
"""What a table of these shows."""


def text_of(value: object) -> str | None:
    """Return a result as text to read, `None` for what is not ours."""
    match value:
        case records.Inbox(entries=entries):
            return _entries(entries, "nothing new") + ("\nthere is more: ask again" if value.more else "")
        case records.Transcript(entries=entries):
            return _entries(entries, "no turns yet")
        case records.PollCompleted(text=text, entry=entry):
            return safe(f"{text}\n({entry.note})" if entry.note else text)
        case records.PollFailed(reason=reason, detail=detail):
            return safe(f"failed: {reason}" + (f": {detail}" if detail else ""))
        case records.PollPending(receipt=receipt):
            return f"{receipt.state.value}" + (
                "" if receipt.position is None else f", {receipt.position} before it"
            )
        case records.WaitReport(done=done, pending=pending):
            said = [f"{one.receipt.session}: {text_of(one)}" for one in (*done, *pending)]
            return "\n".join(said) + ("\ntime ran out; the work goes on" if value.timed_out else "")
        case records.Summary(version=version, text=text):
            return safe(text) if version else f"nobody has written a summary of {value.session} yet"
        case pools.ResultsPage(results=results):
            return _table(results) if results else "nothing yet"
        case tuple() if value and type(value[0]) in COLUMNS and len({type(one) for one in value}) == 1:
            return _table(value)
    if (
        is_dataclass(value)
        and not isinstance(value, type)
        and type(value).__module__.startswith("tollboard.")
    ):
        return _fields(value)
    return None


def _entries(entries: Sequence[records.Entry], nothing: str) -> str:
    return "\n".join(_entry(entry) for entry in entries) or nothing


def _entry(entry: records.Entry) -> str:
    mark = "✓" if entry.status is records.TurnStatus.OK else "✗"
    when = f"{ago(entry.completed_at)}, {span(entry.duration_s)}"
    head = f"{mark} {entry.session} #{entry.seq} {entry.status.value}, {when}"
    said = entry.text if entry.text is not None else entry.error or ""
    if entry.note:
        said = f"{said}\n({entry.note})"
    return "\n".join(
        (head, *(f"  > {line}" for line in _lines(entry.prompt)), *(f"  {line}" for line in _lines(said)))
    )


def _lines(text: str) -> list[str]:
    return safe(text).splitlines()


def _fields(value: Any) -> str:
    shown = [(field.name, _plain(getattr(value, field.name))) for field in fields(value)]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in shown if text)


def _table(rows: Sequence[Any]) -> str:
    names = COLUMNS[type(rows[0])]
    lines = [[name.upper() for name in names]]
    lines += [[cut(_plain(getattr(row, name)), WIDEST) for name in names] for row in rows]
    widths = [max(cells(line[n]) for line in lines) for n in range(len(names))]
    return "\n".join(
        "  ".join(
            text + " " * (width - cells(text)) for text, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _plain(value: object) -> str:
    match value:
        case None | () | {}:
            return ""
        case Enum():
            return str(value.value)
        case Mapping():
            return one_line(", ".join(f"{key}={_plain(item)}" for key, item in value.items()))
        case tuple() if value and is_dataclass(value[0]):
            return count(len(value), type(value[0]).__name__)
        case tuple():
            return one_line(", ".join(_plain(item) for item in value))
    return one_line(str(value))


def html_of(value: object) -> str | None:
    """Return a result as HTML, everything in it escaped; `None` for what is not ours."""
    rows = value.results if isinstance(value, pools.ResultsPage) else value
    if isinstance(rows, tuple) and rows and type(rows[0]) in COLUMNS:
        names = COLUMNS[type(rows[0])]
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_plain(getattr(row, name)))}</td>" for name in names) + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    text = text_of(value)
    return None if text is None else f"<pre>{escape(text)}</pre>"


def register(shell: Any) -> None:
    """Let an IPython shell show our results so."""
    kinds = [
        kind for module in (records, pools) for kind in vars(module).values()
        if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
    ]  # fmt: skip
    plain = shell.display_formatter.formatters["text/plain"]
    html = shell.display_formatter.formatters["text/html"]
    for kind in (*kinds, TaskResult):
        plain.for_type(kind, _pretty(None))
        html.for_type(kind, html_of)
    plain.for_type(tuple, _pretty(plain.lookup_by_type(tuple)))
    html.for_type(tuple, html_of)


def _pretty(otherwise: Callable[..., None] | None) -> Callable[..., None]:
    """Return what IPython's pretty printer calls for a value."""

    def show(value: object, printer: Any, cycle: bool) -> None:
        text = text_of(value)
        if text is not None:
            for number, line in enumerate(text.split("\n")):
                if number:
                    printer.break_()
                printer.text(line)
        elif otherwise is not None:
            otherwise(value, printer, cycle)
        else:
            printer.text(repr(value))

    return show
