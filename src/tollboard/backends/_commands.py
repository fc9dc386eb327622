"""Shell commands of a session: run one, keep the head and the tail of what it prints, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tollboard.backends._environment import inherited
from tollboard.backends._process import Marker, end_processes, identify
from tollboard.backends._sandbox import Sandbox
from tollboard.ids import new_ref
from tollboard.runtime.backend import NO_PROCESSES, ProcessReport

HEAD, TAIL = 16_000, 16_000
"""Bytes of output that are kept from the beginning and from the end."""
READ_WAIT_S = 1.0
COMMAND = "TOLLBOARD_COMMAND"


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
        self.output: asyncio.BaseTransport | None = None
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.output = transport

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

    def __init__(self, root: Path, marker: Marker | None, pass_env: Sequence[str] = ()) -> None:
        self._root = root
        self.sandbox: Sandbox | None = None
        self._pass_env = pass_env
        self._marker = marker
        self._running: set[str] = set()
        self._endings: set[asyncio.Task[None]] = set()

    async def run(self, command: str, timeout_s: float) -> Result:
        """Run one to its end. Raises OSError when it cannot be started; cancelling ends it and all it started."""
        mark, kept = (COMMAND, new_ref()), _Kept()
        process: asyncio.subprocess.Process | None = None
        code: int | None = None
        self._running.add(mark[1])
        try:
            process = await self._start(command, mark, kept)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    code = await process.wait()
        finally:
            # A task of its own: nothing of the command may stay, whoever cancels, however often.
            ending = asyncio.create_task(self._end(mark, process, kept))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError:
                await asyncio.wait({ending})
                raise
        return Result(kept.text(), code)

    async def _start(self, command: str, mark: Marker, kept: _Kept) -> asyncio.subprocess.Process:
        # A pipe of our own: asyncio's would have the wait for the exit last until nobody holds the pipe any more.
        reader, writer = os.pipe()
        try:
            await asyncio.get_running_loop().connect_read_pipe(lambda: kept, os.fdopen(reader, "rb", 0))
            words = ["/bin/sh", "-c", command]
            if self.sandbox is not None:
                words = self.sandbox.wrap(words, self._root)
            return await asyncio.create_subprocess_exec(
                *words, cwd=self._root, env=self._environment(mark),
                stdin=asyncio.subprocess.DEVNULL, stdout=writer, stderr=writer, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writer)

    async def _end(self, mark: Marker, process: asyncio.subprocess.Process | None, kept: _Kept) -> None:
        """End what is left of a command; then its output is whole.

        There is no process when the start failed or was cancelled; the shell may have run for a moment all the same.
        """
        root = identify(process.pid) if process is not None and process.returncode is None else None
        await end_processes(roots=[] if root is None else [root], marker=mark, term_wait_s=0.5)
        if process is not None:
            await process.wait()
        if kept.output is not None:
            # One that cleaned its environment and left may still hold the pipe.
            await asyncio.wait({kept.whole}, timeout=READ_WAIT_S)
            kept.output.close()
        self._running.discard(mark[1])

    async def close(self) -> ProcessReport:
        """End all that run. Idempotent."""
        if not self._running:
            return NO_PROCESSES
        reports = [await end_processes(marker=(COMMAND, id), term_wait_s=0.5) for id in tuple(self._running)]
        if self._endings:
            await asyncio.wait(self._endings)
        return ProcessReport(
            killed=tuple(pid for report in reports for pid in report.killed),
            unverified=tuple(left for report in reports for left in report.unverified),
        )

    def _environment(self, mark: Marker) -> dict[str, str]:
        return {
            **inherited(os.environ, self._pass_env),
            **dict([mark, *([self._marker] if self._marker else [])]),
        }
