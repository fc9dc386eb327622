"""The stage of the demo: types commands into the real program, shows them with their real output, keeps what was said.

It also ends whatever daemon the demo started, on whichever way the demo ends.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from tollboard.errors import TollboardError
from tollboard.surfaces.cli.failures import STOPPED_BY_USER
from tollboard.surfaces.cli.invocation import Cli
from tollboard.surfaces.cli.output import paint, write

if TYPE_CHECKING:
    from tollboard.daemon.client import Client

T = TypeVar("T")

HOME_VARIABLE = "TOLLBOARD_HOME"
END_WAIT_S = 10.0
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


class DoesNotHold(Exception):
    """Something the demo promises did not hold."""


@dataclass(frozen=True, slots=True)
class Typed:
    """One command of the demo and what it said."""

    command: str
    exit_code: int
    output: str


@dataclass(slots=True)
class Stage:
    """Where the demo plays: a state directory of its own, and everything shown so far."""

    home: Path
    quiet: bool = False
    typed: list[Typed] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    _daemons: list[int] = field(default_factory=list)
    _asked_to_end: bool = False

    def heading(self, text: str) -> None:
        """Begin a part."""
        self._show(f"\n{paint(text, 'bold', sys.stdout)}\n")

    def note(self, command: str) -> None:
        """Show a command of the shell."""
        self._prompt(command)

    def types(self, *words: str, expect: int = 0) -> str:
        """Type a command, show it and what it says, and return its standard output."""
        from tollboard.surfaces.cli import main

        if self._asked_to_end:
            raise KeyboardInterrupt
        self._prompt(shlex.join(("tollboard", *words)))
        out, both = _Tee(sys.stdout, show=not self.quiet), _Tee(sys.stderr, show=not self.quiet)
        with redirect_stdout(out), redirect_stderr(both):
            code = main(words)
        self.typed.append(
            Typed(shlex.join(("tollboard", *words)), code, out.kept.getvalue() + both.kept.getvalue())
        )
        if code == STOPPED_BY_USER:
            raise KeyboardInterrupt  # the command has swallowed it, the demo must not
        if code != expect:
            raise DoesNotHold(f"`{self.typed[-1].command}` ended with {code}, expected was {expect}")
        return out.kept.getvalue().strip()

    def ask(self, question: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Return what the daemon says, without showing it: for the checks."""
        return Cli(home=self.home).run(question)

    def holds(self, fact: bool, text: str) -> None:
        """Show that something holds; raise DoesNotHold if it does not."""
        if not fact:
            raise DoesNotHold(text)
        self.held.append(text)
        self._show(f"{paint('✓', 'bold green', sys.stdout)} {paint(text, 'green', sys.stdout)}\n")

    def daemon(self) -> int:
        """Return the daemon's pid, and remember it."""

        async def ask_health(board: Client) -> int:
            health = await board.health()
            return int(health.pid)

        pid = self.ask(ask_health)
        if pid not in self._daemons:
            self._daemons.append(pid)
        return pid

    def kills(self, pid: int) -> None:
        """Kill the daemon as an accident would, and wait until it is gone."""
        self._prompt(f"kill -9 {pid}")
        _end(pid, signal.SIGKILL)
        self.typed.append(Typed(f"kill -9 {pid}", 0, ""))

    def close(self) -> None:
        """End the daemon whatever has happened: politely, else by force."""
        with suppress(TollboardError, OSError):
            self._daemons.append(self.daemon_if_any())

            async def shut_down(board: Client) -> None:
                await board.shutdown()

            Cli(home=self.home).run(shut_down, start=False)
        for pid in self._daemons:
            _end(pid, None)

    def daemon_if_any(self) -> int:
        """Return the pid of the running daemon; raises DaemonUnreachable if there is none."""

        async def ask_health(board: Client) -> int:
            return int((await board.health()).pid)

        return Cli(home=self.home).run(ask_health, start=False)

    @contextmanager
    def directory_of_its_own(self) -> Iterator[None]:
        """Let every command use this state directory, and treat a request to end as Ctrl-C, so that we clean up."""

        def end(*_: object) -> None:
            # Raised inside a destructor it is lost, and a collection of garbage runs them: so it is remembered.
            self._asked_to_end = True
            raise KeyboardInterrupt

        before = os.environ.get(HOME_VARIABLE)
        handler = signal.signal(signal.SIGTERM, end)
        os.environ[HOME_VARIABLE] = str(self.home)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)
            if before is None:
                del os.environ[HOME_VARIABLE]
            else:
                os.environ[HOME_VARIABLE] = before

    def _prompt(self, command: str) -> None:
        self._show(f"{paint('$', 'dim', sys.stdout)} {paint(command, 'cyan', sys.stdout)}\n")

    def _show(self, text: str) -> None:
        if not self.quiet:
            write(sys.stdout, text)
            sys.stdout.flush()


class _Tee(io.TextIOBase):
    """Passes on what is written and keeps it, without colour; looks like the stream behind it."""

    def __init__(self, stream: TextIO, *, show: bool) -> None:
        self._stream = stream
        self._show = show
        self.kept = io.StringIO()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Return that of the stream behind."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Write to both."""
        self.kept.write(_COLOUR.sub("", text))
        return self._stream.write(text) if self._show else len(text)

    def flush(self) -> None:
        """Flush what is shown."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Tell whether what is shown is shown on a terminal."""
        return self._show and self._stream.isatty()


def _end(pid: int, with_signal: signal.Signals | None) -> None:
    """Wait until a process has ended: after a signal, else for a while on its own and then by force."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if with_signal is not None:
            process.send_signal(with_signal)
        try:
            process.wait(END_WAIT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(END_WAIT_S)
