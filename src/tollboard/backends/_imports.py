"""Importing heavy packages on a thread, so that the loop is held up as little as the interpreter lets it be."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OFTEN_S = 0.0005
"""How long an importing thread may hold the interpreter while the loop wants it; the usual 5 ms add up in each call."""

_lock = threading.Lock()
_inside = 0
_usual_s = 0.0


@contextmanager
def often_switched() -> Iterator[None]:
    """Let threads take turns ten times as often as usual inside the block. Blocks of several threads may overlap."""
    global _inside, _usual_s
    with _lock:
        if _inside == 0:
            _usual_s = sys.getswitchinterval()
            sys.setswitchinterval(min(OFTEN_S, _usual_s))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                sys.setswitchinterval(_usual_s)
