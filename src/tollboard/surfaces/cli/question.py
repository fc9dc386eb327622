"""An approval as a person reads it: who wants to do what, with every argument in full, and changes of files as diffs;
or who asks what, with every option.

Everything here is an agent's and is data: control characters are shown, and no line of an argument can pass for a line
of ours, because it never begins where our names stand.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tollboard.runtime.question import Question, as_reply
from tollboard.surfaces.cli.output import GAP, LABEL, Output, plain
from tollboard.surfaces.cli.text import cells, one_line, wrapped

if TYPE_CHECKING:
    from tollboard.fleet.records import ApprovalRecord

WRAPPED = "↳"
"""Stands before what is still the same line."""
NARROWEST = 20
MAX_DIFF_LINES = 1_000
"""Of both texts together: to compare longer ones may take seconds."""
MAX_FILE_BYTES = 1_000_000
CONTEXT = 3

_OLD_AND_NEW = (
    ("old", "new"),
    ("old_string", "new_string"),
    ("old_str", "new_str"),
    ("old_text", "new_text"),
)
_PATHS = ("path", "file_path")
_CONTENT = "content"
_STATE_STYLES = {"pending": "yellow", "rejected": "red", "expired": "dim"}
_DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}


class Line(NamedTuple):
    """One line of a description: what stands behind a name, or, with `None` for the name, a line by itself."""

    name: str | None
    text: str
    style: str = ""


def title(record: ApprovalRecord) -> Line:
    """Return the line that says who wants to use what, or who asks."""
    tool = one_line(record.tool)
    said = f"{record.session} asks ({tool})" if record.questions else f"{record.session} wants to use {tool}"
    return Line(None, said, "bold")


def question(
    record: ApprovalRecord, time: Callable[[float | None], str], arguments: Sequence[Line]
) -> Iterator[Line]:
    """Yield what a person must know to decide."""
    yield title(record)
    yield Line("id", record.id)
    yield Line("asked", time(record.requested_at))
    yield from _origin(record)
    yield from arguments


def approval(record: ApprovalRecord, time: Callable[[float | None], str]) -> Iterator[Line]:
    """Yield all there is to say of an approval, one that was decided too."""
    yield title(record)
    yield Line("id", record.id)
    yield Line("state", record.state, _STATE_STYLES.get(record.state, "green"))
    yield Line("asked", time(record.requested_at))
    yield from _origin(record)
    yield from question_lines(record) if record.questions else argument_lines(record.arguments)
    if record.state == "pending":
        yield Line("allowed", ", ".join(record.allowed))
        if record.questions:
            yield Line("answer", f"tollboard answer {record.id} {how_to_answer(record.questions)}")
    elif record.decided_by:
        yield Line("decided", f"{record.decided_by}, {time(record.decided_at)}")
    for key, value in (record.decision or {}).items():
        if key == "answers" and isinstance(value, Mapping):
            for name, reply in value.items():
                yield from _block(str(name), _said(reply))
        elif key != "type" and value:
            yield from _block(key, _shown(value))


def question_lines(record: ApprovalRecord) -> Iterator[Line]:
    """Yield every question with its options, which are numbered from 1."""
    for question in record.questions:
        several = len(record.questions) > 1
        yield from _block(question.id if several else "question", _headed(question))
        for number, option in enumerate(question.options, 1):
            told = f": {option.description}" if option.description else ""
            yield from _block("", f"{number}  {option.label}{told}")
        yield Line("", _takes(question), "dim")


def _headed(question: Question) -> str:
    known = question.header in ("", question.id) or question.header.casefold() in question.text.casefold()
    return question.text if known else f"{question.header}: {question.text}"


def _takes(question: Question) -> str:
    takes = [
        *(["several of these"] if question.multiple else ["one of these"] if question.options else []),
        *(["your own words"] if question.free_text else []),
    ]
    told = " or ".join(takes)
    return "".join(
        (told, "" if question.required else "; may be left out", "; kept nowhere" if question.secret else "")
    )


def how_to_answer(questions: Sequence[Question]) -> str:
    """Return what stands behind `tollboard answer ID`."""
    if len(questions) > 1:
        return " ".join(
            f"--choose {shlex.quote(each.id)}=N" if each.options else f"--reply {shlex.quote(each.id)}=TEXT"
            for each in questions
        )
    (only,) = questions
    ways = ("--choose N" if only.options else "", "TEXT" if only.free_text else "")
    return " | ".join(way for way in ways if way)


def _said(reply: object) -> str:
    if isinstance(reply, Mapping) and reply.get("secret"):
        return "(kept nowhere)"
    return ", ".join(as_reply(reply).values)


def _origin(record: ApprovalRecord) -> Iterator[Line]:
    if record.path != record.session:
        yield Line("by", record.path)
    if record.display:
        yield from _block("shown as", record.display)


def argument_lines(arguments: Mapping[str, object]) -> Iterator[Line]:
    """Yield every argument in full."""
    for name, value in arguments.items():
        yield from _block(name, _shown(value))
    if not arguments:
        yield Line("arguments", "none")


def changed_lines(arguments: Mapping[str, object], root: Path | None) -> Iterator[Line]:
    """Yield every argument; those that change a text as the change they make. Relative paths begin at `root`."""
    for name, value in arguments.items():
        change = _change(arguments, name, root)
        yield from _block(name, _shown(value)) if change is None else change
    if not arguments:
        yield Line("arguments", "none")


def _change(arguments: Mapping[str, object], name: str, root: Path | None) -> list[Line] | None:
    """Return what is shown instead of this argument, `None` if it is no part of a change."""
    value = arguments[name]
    for old, new in _OLD_AND_NEW:
        before, after = arguments.get(old), arguments.get(new)
        if name in (old, new) and isinstance(before, str) and isinstance(after, str):
            diff = _diff(before, after, whole=True)
            if diff is None or name == old:
                return diff and [Line(f"{old} → {new}", ""), *diff]
            return []  # both stand where the first one was
    if name == _CONTENT and isinstance(value, str) and (now := _file(arguments, root)) is not None:
        diff = _diff(now, value, whole=False)
        return diff and [Line(name, "as a change of the file that is there now:", "dim"), *diff]
    return None


def needs_root(arguments: Mapping[str, object]) -> bool:
    """Return whether a file may have to be read to show the change."""
    return isinstance(arguments.get(_CONTENT), str) and any(name in arguments for name in _PATHS)


def _diff(before: str, after: str, *, whole: bool) -> list[Line] | None:
    """Return the change as a unified diff, with all of both texts or only what is near; `None` if they are too long."""
    old, new = before.split("\n"), after.split("\n")
    if len(old) + len(new) > MAX_DIFF_LINES:
        return None
    context = len(old) + len(new) if whole else CONTEXT
    lines = list(difflib.unified_diff(old, new, lineterm="", n=context))[2:]
    shown = lines[1:] if whole else lines
    return [Line("", line, _DIFF_STYLES.get(line[:1], "")) for line in shown] or [Line("", "no difference")]


def _file(arguments: Mapping[str, object], root: Path | None) -> str | None:
    """Return what the file holds that the call would write; `None` when there is none that can be compared."""
    given = next((arguments[name] for name in _PATHS if isinstance(arguments.get(name), str)), None)
    if root is None or not isinstance(given, str) or "\0" in given:
        return None
    try:
        # An agent chose the path: a FIFO would make the open wait for ever, a device may never end.
        descriptor = os.open(root / given, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(descriptor)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value), indent=2, ensure_ascii=False)


def _block(name: str, text: str) -> Iterator[Line]:
    """Yield a text of any length behind its name: nothing of what somebody decides on is cut."""
    first, *rest = text.rstrip("\n").split("\n")
    yield Line(name, first)
    for line in rest:
        yield Line("", line)


def fitted(lines: Iterator[Line], columns: int) -> Iterator[Line]:
    """Yield the lines broken so that none is wider than the terminal, which would break it where our names stand."""
    for line in lines:
        if line.name is None:
            yield from _broken(line, columns)
            continue
        name = one_line(line.name)
        if cells(name) > LABEL:
            yield from _broken(Line(None, name, "dim"), columns)
            name = ""
        yield from _broken(Line(name, line.text, line.style), columns)


def _broken(line: Line, columns: int) -> Iterator[Line]:
    first, *rest = wrapped(line.text, max(NARROWEST, columns - LABEL - len(GAP)))
    yield Line(line.name, first, line.style)
    for part in rest:
        yield Line(WRAPPED, part, line.style)


def print_lines(out: Output, lines: Iterator[Line] | Sequence[Line]) -> None:
    """Print a description."""
    for line in lines:
        if line.name is None:
            out.line(line.text, line.style)
        else:
            out.field(line.name, line.text, line.style)
