"""Looking at processes from outside, as every test does it."""

from __future__ import annotations

import psutil

ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def gone(pid: int) -> bool:
    """Return whether nothing of the process runs any more; a zombie only waits for its parent, which may be slow."""
    try:
        return psutil.Process(pid).status() in ENDED
    except psutil.NoSuchProcess:
        return True
