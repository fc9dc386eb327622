"""Starting a daemon in the background: the process, and the word it sends once it is ready or has failed."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import time

from tollboard.daemon.config import StateDirectory
from tollboard.daemon.single import START_TIMEOUT_S
from tollboard.errors import DaemonError

READY = "ready"


async def start_daemon(home: StateDirectory) -> None:
    """Start the daemon of a state directory, in the background, and wait until it is ready.

    Raises the error that kept it from starting.
    """
    ready, theirs = os.pipe()
    # -P: what lies in the working directory is never taken for a module of ours.
    command = [sys.executable, "-P", "-m", "tollboard.daemon", "--home", str(home.path)]
    try:
        try:
            starter = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [*command, "--ready-fd", str(theirs), "--detach"], pass_fds=[theirs], cwd="/",
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            os.close(theirs)
        # The daemon detaches itself: what we started ends at once, and no child of ours is left to be waited for.
        await asyncio.to_thread(starter.wait)
        word = await asyncio.to_thread(_read_word, ready, START_TIMEOUT_S)
    finally:
        os.close(ready)
    if word == READY:
        return
    if word is None:
        raise DaemonError(f"the daemon did not start within {START_TIMEOUT_S:g} s; see {str(home.log)!r}")
    if not word:
        raise DaemonError(f"the daemon ended while it started; see {str(home.log)!r}")
    from tollboard.operations.wire import rebuild_error

    raise rebuild_error(json.loads(word))


def _read_word(fd: int, timeout_s: float) -> str | None:
    """Return what is said until the pipe is closed, `None` when that takes too long."""
    until, said = time.monotonic() + timeout_s, b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll(max(0.0, until - time.monotonic()) * 1000):
        part = os.read(fd, 65536)
        if not part:
            return said.decode().strip()
        said += part
    return None
