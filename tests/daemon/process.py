"""A real daemon process for tests: started on a state directory, told apart from all others, never left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tollboard.daemon.config import StateDirectory


class DaemonProcess:
    """One daemon. Enter it to have it started, and ended afterwards whatever happened."""

    def __init__(self, home: Path, *arguments: str, config: str = "", **popen: Any) -> None:
        self.home = StateDirectory(home)
        self.arguments = arguments
        self.popen = popen
        self.said = ""
        if config:
            self.home.config.write_text(config)

    def __enter__(self) -> Self:
        self.start()
        assert self.said == "ready", self.said
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.end()

    def start(self) -> str:
        """Start it and return what it says: `ready`, or an error as JSON."""
        ready, theirs = os.pipe()
        command = [sys.executable, "-m", "tollboard.daemon", "--home", str(self.home.path)]
        self.process = subprocess.Popen(
            [*command, "--ready-fd", str(theirs), *self.arguments], pass_fds=[theirs], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self.popen,
        )  # fmt: skip
        os.close(theirs)
        with os.fdopen(ready) as pipe:
            self.said = pipe.read().strip()
        return self.said

    def error(self) -> dict[str, Any]:
        """Return the error that it said instead of `ready`, once it has ended."""
        assert self.process.wait(30) == 1
        found: dict[str, Any] = json.loads(self.said)["error"]
        return found

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop it, as a debugger or a suspended machine does, and return once it has stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def wait(self) -> int:
        """Wait until it has ended and return its exit code."""
        return self.process.wait(30)

    def log(self) -> str:
        """Return its log."""
        return self.home.log.read_text() if self.home.log.exists() else ""

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
