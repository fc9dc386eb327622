"""Tasks from a file of JSON lines: each line a text, or an object with `prompt` and, if wanted, `role` and `hint_s`.

A file is read twice, line by line: first to find every fault, so that nothing of a faulty file is submitted; then to
submit it. Memory is bounded by the longest line. Blank lines are skipped.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from tollboard.errors import Invalid
from tollboard.fleet.board import MAX_PROMPT_BYTES
from tollboard.pool.records import Task

KNOWN = ("prompt", "role", "hint_s")
SPOOL_BYTES = 8 * 1024 * 1024
MAX_LINE_BYTES = 8 * MAX_PROMPT_BYTES
"""A prompt of full length with every character escaped, and room for the rest."""


class Fault(NamedTuple):
    """What is wrong with a line."""

    line: int
    why: str


class TaskLines:
    """An opened file of tasks; `name` is for people. Every walk over it begins at its beginning."""

    def __init__(self, stream: IO[bytes], name: str, roles: Collection[str]) -> None:
        self.name = name
        self._stream = stream
        self._roles = roles

    def __iter__(self) -> Iterator[Task | Fault]:
        self._stream.seek(0)
        number = 0
        while line := self._stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                yield Fault(number, f"it is longer than {MAX_LINE_BYTES:,} bytes")
                while line and not line.endswith(b"\n"):
                    line = self._stream.readline(MAX_LINE_BYTES)
            elif not line.isspace():
                yield self._read(number, line)

    def _read(self, number: int, line: bytes) -> Task | Fault:
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            return Fault(number, "it is not UTF-8")
        except (ValueError, RecursionError):
            return Fault(number, 'it is not JSON (write "a text" or {"prompt": "a text"})')
        given = {"prompt": value} if isinstance(value, str) else value
        if not isinstance(given, dict):
            return Fault(number, 'it is neither a text nor an object with "prompt"')
        why = self._fault(given)
        return Fault(number, why) if why else Task(given["prompt"], given.get("role"), given.get("hint_s"))

    def _fault(self, given: dict[str, Any]) -> str | None:
        if unknown := [key for key in given if key not in KNOWN]:
            return f"{unknown[0]!r} is unknown (known are {', '.join(KNOWN)})"
        prompt, role, hint = given.get("prompt"), given.get("role"), given.get("hint_s")
        if not isinstance(prompt, str) or not prompt.strip():
            return '"prompt" must be text that is not empty'
        if len(prompt.encode("utf-8", "replace")) > MAX_PROMPT_BYTES:
            return f'"prompt" is longer than {MAX_PROMPT_BYTES:,} bytes'
        if role is None and len(self._roles) > 1:
            return f'"role" is missing (the pool has {", ".join(map(repr, self._roles))})'
        if role is not None and role not in self._roles:
            return f"role {role!r} is unknown (the pool has {', '.join(map(repr, self._roles))})"
        if hint is not None and (
            isinstance(hint, bool) or not isinstance(hint, int | float) or not 0 <= hint < 1e12
        ):
            return '"hint_s" must be a number of seconds, 0 or more'
        return None


@contextmanager
def open_tasks(file: Path, roles: Collection[str]) -> Iterator[TaskLines]:
    """Open a file of tasks, `-` for standard input, which is kept meanwhile so that it can be read twice."""
    if str(file) == "-":
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as kept:
            shutil.copyfileobj(sys.stdin.buffer, kept)
            yield TaskLines(kept, "standard input", roles)
        return
    try:
        stream = file.open("rb")
    except OSError as wrong:
        raise Invalid(f"the file {str(file)!r} cannot be read: {wrong.strerror}") from None
    with stream:
        if not stream.seekable():
            raise Invalid(f"{str(file)!r} can be read only once: pass it on standard input, with `-`")
        yield TaskLines(stream, str(file), roles)
