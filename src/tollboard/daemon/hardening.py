"""What the daemon asks of its own process on Linux: it stays above all it starts, and shows its secrets to nobody.

`app` calls it before anything is started. Elsewhere these do nothing, and docs/explanation/security.md says what is
then not known.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

from tollboard.daemon.peers import zombies

LOOK_S = 3.0
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36


def become_subreaper() -> bool:
    """Have everything below this process stay below it when its own parent ends; return whether that is so."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> bool:
    """Close /proc/PID/environ, /proc/PID/mem and ptrace to other processes of the same user; return whether it is so.

    There is no core dump any more either. Programs that are started are dumpable again: it ends with `exec`.
    """
    return _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


class Adopted:
    """Takes leave of ended processes that became ours because their parent ended; else they stay as zombies.

    asyncio waits for what it started itself and does so at once, so a zombie that is still there at the next look is
    nobody's. Call `look` from the event loop: while that stands still, asyncio may be late, and so is the look.
    """

    def __init__(self, *, every_s: float = LOOK_S) -> None:
        self._every_s = every_s
        self._next = 0.0
        self._seen: frozenset[tuple[int, float]] = frozenset()

    def look(self) -> int:
        """Take leave of those that were seen the last time too; return how many. Does not block.

        Called too soon it does nothing: an asyncio that is about to wait for its own must have had the time.
        """
        if time.monotonic() < self._next:
            return 0
        self._next = time.monotonic() + self._every_s
        if not _any_zombie():
            self._seen = frozenset()
            return 0
        now = frozenset((link.pid, link.started) for link in zombies(os.getpid()))
        left = now & self._seen
        self._seen = now - left
        return sum(_reap(pid) for pid, _ in left)


def _any_zombie() -> bool:
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


def _reap(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False  # its waiter was late after all
