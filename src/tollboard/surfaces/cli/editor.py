"""Editing in the person's own editor: a text, and the arguments of a call until they are taken or left as they were."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tollboard.errors import Invalid, InvalidDecision, WireError
from tollboard.surfaces.cli.output import plain
from tollboard.surfaces.cli.text import one_line, safe_json

T = TypeVar("T")

COMMENT = "//"
ADVICE = (
    "Save and leave: the call runs with what stands here. Unchanged or empty: nothing is decided.",
    f"Lines above the arguments that begin with {COMMENT} are left out.",
)


async def edit_text(text: str, *, suffix: str) -> str | None:
    """Return the text as it was saved in $VISUAL or $EDITOR (else vi); `None` if the editor reported a failure.

    The file is private to its owner and removed afterwards. Ctrl-C is the editor's meanwhile.
    """
    import asyncio

    command = _command()
    with tempfile.TemporaryDirectory(prefix="tollboard-") as directory, _deaf_to_interrupts():
        file = Path(directory) / f"text{suffix}"
        file.write_text(text, encoding="utf-8")
        try:
            process = await asyncio.create_subprocess_exec(*command, str(file))
        except OSError as wrong:
            raise Invalid(
                f"the editor {command[0]!r} cannot be started: {wrong.strerror}; set $EDITOR"
            ) from None
        if await process.wait() != 0:
            return None
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as wrong:
            raise Invalid(f"what the editor left is no UTF-8 text: {type(wrong).__name__}") from None


def _command() -> list[str]:
    given = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        return shlex.split(given) or ["vi"]
    except ValueError as wrong:
        raise Invalid(f"the editor {given!r} is no command: {wrong}; set $EDITOR") from None


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let Ctrl-C reach the editor alone; a handler, unlike ignoring, is not inherited by the program it starts."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def edit_arguments(
    arguments: Mapping[str, object],
    head: Sequence[str],
    take: Callable[[dict[str, object]], Awaitable[T]],
) -> T | None:
    """Have the arguments edited as JSON until `take` accepts them, and return what it returned.

    What is wrong with them stands on top when the editor opens again. Returns `None` when nothing was changed, all was
    removed, or the editor failed. Without a person at a terminal a fault is raised at once: nobody could mend it.
    """
    text, fault = arguments_text(arguments), ""
    while True:
        lines = [*head, *ADVICE, *([f"NOT TAKEN: {one_line(fault)}"] if fault else [])]
        comment = "".join(f"{COMMENT} {one_line(line)}\n" for line in lines)
        saved = await edit_text(comment + text, suffix=".jsonc")
        body = "" if saved is None else _without_comment(saved)
        if not body.strip() or body.strip() == text.strip():
            return None
        text = body
        try:
            changed = parse_arguments(body)
            return None if changed == dict(arguments) else await take(changed)
        except (InvalidDecision, WireError) as wrong:
            if not sys.stdin.isatty():
                raise
            fault = str(wrong)


def arguments_text(arguments: Mapping[str, object]) -> str:
    """Return the arguments as JSON for an editor: what could turn or hide text there stands as an escape."""
    return safe_json(json.dumps(plain(arguments), indent=2, ensure_ascii=False)) + "\n"


def _without_comment(text: str) -> str:
    """Return the text without the comment on top of it; behind the first line of JSON nothing is a comment."""
    lines = text.split("\n")
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith(COMMENT)):
        del lines[0]
    return "\n".join(lines)


def parse_arguments(text: str) -> dict[str, object]:
    """Return the arguments that a JSON object means. Raises InvalidDecision that says where it is none."""
    try:
        value = json.loads(text, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as wrong:
        raise InvalidDecision(f"the arguments are not JSON: {wrong}") from None
    if not isinstance(value, dict):
        raise InvalidDecision(f"the arguments must be a JSON object, not {type(value).__name__}")
    return value


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the object. Raises InvalidDecision for a name that stands twice: which one was meant?"""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise InvalidDecision(f"{twice!r} stands twice in the arguments")
    return found
