"""The daemon with the witness backend, as the chaos tests start and kill it, and what the witness saw."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

PROGRAM = Path(__file__).with_name("witness_daemon.py")


class WitnessDaemon:
    """One daemon after another on one state directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the daemon and wait until it says that it is ready."""
        ready, theirs = os.pipe()
        self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [sys.executable, str(PROGRAM), "--home", str(self.home), "--ready-fd", str(theirs)],
            pass_fds=[theirs], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        said = await asyncio.to_thread(_read_all, ready)
        assert b"ready" in said, f"the daemon did not start: {said!r}"

    async def kill(self) -> None:
        """Kill the daemon without a word."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> None:
        """Wait until it has ended."""
        assert self._process is not None
        await asyncio.to_thread(self._process.wait)

    def end(self) -> None:
        """Leave no daemon behind, however the test went."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read()


def witnessed(directory: Path) -> list[str]:
    """Return every token that was really run in a directory, as often as it was."""
    log = directory / "witness.log"
    return log.read_text().split() if log.exists() else []


def left_of(home: Path) -> list[psutil.Process]:
    """Return the processes that serve this state directory, or were started by those that did (CHAOS_HOME)."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join(process.cmdline()) or str(home) in process.environ().get(
                "CHAOS_HOME", ""
            ):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]
