"""Somebody who types commands, and what they leave behind. The fixture `person` gives one a real Switchboard."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.surfaces.board_in_thread import BoardInThread
from tollboard.surfaces.cli import main

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the one document on standard output; nothing may stand beside it."""
        assert self.err == ""
        return json.loads(self.out)


class Person:
    """Types commands."""

    def __init__(
        self, board: BoardInThread, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.board = board
        self._capsys = capsys
        self._patch = patch

    def types(self, *words: str, stdin: str | bytes = "") -> Said:
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        with self._patch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
            code = main(words)
        printed = self._capsys.readouterr()
        return Said(code, printed.out, printed.err)

    def does(self, *words: str) -> str:
        said = self.types(*words)
        assert said.code == 0, said
        return said.out

    def sends(self, *words: str) -> str:
        ref = self.does("send", *words).strip()
        assert UUID.fullmatch(ref)
        return ref
