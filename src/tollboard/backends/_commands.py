"""Shell commands of a session: run one, keep the head and the tail of what it prints, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tollboard.backends._process import Marker, end_processes, identify
from tollboard.ids import new_ref
from tollboard.runtime.backend import NO_PROCESSES, ProcessReport

HEAD, TAIL = 16_000, 16_000
"""Bytes of output that are kept from the beginning and from the end."""
READ_WAIT_S = 1.0
COMMAND = "TOLLBOARD_COMMAND"
SECRET = re.compile(r"key|token|secret|passw|credential|authorization|cookie", re.IGNORECASE)
"""Names of variables that no command needs to see: an agent writes commands, and reads what they print."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command printed, and its exit code; `None` when it was ended."""

    output: str
    exit_code: int | None


class _Kept(asyncio.Protocol):
    """The head and the tail of an output."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.tail = bytearray()
        self.dropped = 0
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        room = HEAD - len(self.head)
        self.head += data[:room]
        self.tail += data[room:]
        if (over := len(self.tail) - TAIL) > 0:
            del self.tail[:over]
            self.dropped += over

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.whole.done():
            self.whole.set_result(None)

    def text(self) -> str:
        cut = f"\n[... {self.dropped:,} bytes left out ...]\n".encode() if self.dropped else b""
        return bytes(self.head + cut + self.tail).decode("utf-8", "replace")


class Commands:
    """Runs commands in one directory."""

    def __init__(self, root: Path, marker: Marker | None) -> None:
        self._root = root
        self._marker = marker
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def run(self, command: str, timeout_s: float) -> Result:
        """Run one to its end. Raises OSError when it cannot be started; cancelling ends it and all it started."""
        mark, kept = (COMMAND, new_ref()), _Kept()
        # A pipe of our own: asyncio's would have the wait for the exit last until nobody holds the pipe any more.
        reader, writer = os.pipe()
        process: asyncio.subprocess.Process | None = None
        pipe = os.fdopen(reader, "rb", 0)
        output, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: kept, pipe)
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", command, cwd=self._root, env=self._environment(mark),
                stdin=asyncio.subprocess.DEVNULL, stdout=writer, stderr=writer, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writer)
            if process is None:
                output.close()
        self._running[mark[1]] = process
        try:
            code: int | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    code = await process.wait()
        finally:
            # Shielded: nothing of the command may stay, whoever cancels.
            ending = asyncio.ensure_future(self._end(mark, process, kept, output))
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                await ending
                raise
        return Result(kept.text(), code)

    async def _end(
        self, mark: Marker, process: asyncio.subprocess.Process, kept: _Kept, output: asyncio.ReadTransport
    ) -> None:
        """End what is left of a command; then its output is whole."""
        root = identify(process.pid) if process.returncode is None else None
        await end_processes(roots=[] if root is None else [root], marker=mark, term_wait_s=0.5)
        await process.wait()
        # One that cleaned its environment and left may still hold the pipe.
        await asyncio.wait({kept.whole}, timeout=READ_WAIT_S)
        output.close()
        del self._running[mark[1]]

    async def close(self) -> ProcessReport:
        """End all that run. Idempotent."""
        if not self._running:
            return NO_PROCESSES
        reports = [await end_processes(marker=(COMMAND, id), term_wait_s=0.5) for id in tuple(self._running)]
        return ProcessReport(
            killed=tuple(pid for report in reports for pid in report.killed),
            unverified=tuple(left for report in reports for left in report.unverified),
        )

    def _environment(self, mark: Marker) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if not SECRET.search(name)}
        return {**env, **dict([mark, *([self._marker] if self._marker else [])])}
