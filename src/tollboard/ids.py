"""Refs (UUIDv7 strings, RFC 9562), the rule for names, and the mark of our processes. Called at every acceptance, so it
is quick."""

from __future__ import annotations

import os
import random
import re
import time

from tollboard.errors import InvalidName

SESSION_MARKER = "TOLLBOARD_SESSION"
"""The environment variable that every process of a session carries: `<home id>:<session id>`, with `:<worker>` for a
worker of a pool."""
NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
_STEP_BITS = 32
_TAIL_MIN, _TAIL_MAX = 0x1000_0000_0000, 0xFFFF_FFFF_FFFF
"""So that it always has twelve digits: filling it up would cost as much as all the rest."""

_random = random.Random(os.urandom(32))
_getrandbits = _random.getrandbits
_last_ms = 0
_tail = 0
_prefix = ""
"""Everything but the last twelve digits: the same for every ref of one millisecond."""


def _reseed() -> None:
    global _last_ms
    _random.seed(os.urandom(32))
    _last_ms = 0


# A forked child would otherwise repeat its parent's refs.
os.register_at_fork(after_in_child=_reseed)


def new_ref() -> str:
    """Return a new UUIDv7 string; refs made by one process sort in the order they were made.

    All that follows the millisecond is random; within it the last 48 bits go up by a random step (RFC 9562, method 2).
    """
    global _tail
    ms = time.time_ns() // 1_000_000
    _tail += 1 + _getrandbits(_STEP_BITS)
    if ms > _last_ms:
        _begin(ms)
    elif _tail > _TAIL_MAX:
        # The clock stood still or went back for so long that the tail is full: borrow the next millisecond.
        _begin(_last_ms + 1)
    return f"{_prefix}{_tail:x}"


def _begin(ms: int) -> None:
    """Begin a millisecond: everything is drawn anew, the tail from its lower half so that it has room to grow."""
    global _last_ms, _tail, _prefix
    _last_ms = ms
    _tail = _TAIL_MIN + _getrandbits(47)
    version = 0x7000 | _getrandbits(12)
    variant = 0x8000 | _getrandbits(14)
    _prefix = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-{version:x}-{variant:x}-"


def check_name(name: str) -> str:
    """Return `name` unchanged if it is allowed; raise InvalidName otherwise.

    `.` and `..` are refused so that no name can ever mean another directory.
    """
    if not isinstance(name, str) or not _NAME.match(name) or name in {".", ".."}:
        shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
        raise InvalidName(f"{shown} is not a name: use 1 to 64 letters, digits, '.', '_' or '-'")
    return name


def looks_like_id(name: str) -> bool:
    """Return whether a name could be taken for an id: wherever a name is taken, an id is too."""
    return _ID.match(name) is not None
