"""What a person types at a terminal, line by line, as something one can wait for beside other things."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

PIECE = 4096
END = b""


class Keyboard:
    """Reads lines of standard input on the loop: no thread waits, so whatever else happens can come first."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._typed = b""

    async def line(self) -> str | None:
        """Return the next line without its end; `None` when the input ends (Ctrl-D)."""
        while b"\n" not in self._typed:
            piece = await self._piece()
            if piece == END:
                rest, self._typed = self._typed, b""
                return rest.decode(errors="replace") if rest else None
            self._typed += piece
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    async def _piece(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._fd)
        try:
            return os.read(self._fd, PIECE)
        except OSError:  # the terminal is gone
            return END

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Have another program use the terminal; whatever state it leaves that in, it is as before afterwards."""
        before = termios.tcgetattr(self._fd)
        try:
            yield
        finally:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, before)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Show nothing of what is typed meanwhile."""
        with self.lent():
            silent = termios.tcgetattr(self._fd)
            silent[3] &= ~termios.ECHO
            termios.tcsetattr(self._fd, termios.TCSADRAIN, silent)
            yield

    def forget(self) -> None:
        """Drop what was typed so far: it was meant for something that is no longer asked."""
        self._typed = b""
        termios.tcflush(self._fd, termios.TCIFLUSH)
