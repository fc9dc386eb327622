"""A real pseudo-terminal with a program on it: type, and wait until something is shown."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.surfaces.screen import screen

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07|\x1b[=>]")
WAIT_S = 30.0
ROWS = 50


class Terminal:
    """Enter it to have the program started; it is ended afterwards whatever happened."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, columns: int = 140) -> None:
        self._main, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        size = {
            "COLUMNS": str(columns),
            "LINES": str(ROWS),
        }  # a test worker may have others in its environment
        self._process = subprocess.Popen(
            command,
            stdin=its,
            stdout=its,
            stderr=its,
            env={**os.environ, **size, **env},
            start_new_session=True,
        )
        os.close(its)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = ""
        self._read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._main)

    def types(self, text: str) -> None:
        """Type; a newline is the return key."""
        os.write(self._main, text.replace("\n", "\r").encode())

    def interrupt(self) -> None:
        """Press Ctrl-C while no prompt reads keys: the terminal makes a signal of it."""
        self._process.send_signal(signal.SIGINT)

    def shows(self, wanted: str) -> str:
        """Wait until something is shown after what was waited for last; return all up to it, without escapes."""
        while (at := self._plain().find(wanted, self._read)) < 0:
            self._reads_more(repr(wanted))
        found = self._plain()[self._read : at]
        self._read = at + len(wanted)
        return found

    def screen(self, until: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the screen satisfies a condition; return its lines from the beginning, as a person sees them."""
        while not until(lines := screen(self._seen)):
            self._reads_more(until.__name__)
        return lines

    def _reads_more(self, wanted: str) -> None:
        assert select.select([self._main], [], [], WAIT_S)[0], (
            f"{wanted} is not shown:\n{self._plain()[-3000:]}"
        )
        try:
            self._seen += self._decoder.decode(os.read(self._main, 65_536))
        except OSError:  # the program has ended
            raise AssertionError(f"{wanted} was not shown:\n{self._plain()[-3000:]}") from None

    def _plain(self) -> str:
        return _ESCAPES.sub("", self._seen)

    def ended(self) -> int:
        """Wait until the program has ended and return its exit code."""
        return self._process.wait(WAIT_S)
