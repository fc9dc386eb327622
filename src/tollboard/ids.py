"""Refs (UUIDv7 strings, RFC 9562) and the rule for names. Called at every acceptance, so it is quick."""

from __future__ import annotations

import os
import random
import re
import time

from tollboard.errors import InvalidName

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
_RAND_BITS = 62
_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
_COUNTER_MAX = 0xFFF

_random = random.Random(os.urandom(32))
_getrandbits = _random.getrandbits
_last_ms = 0
_counter = 0
_prefix = ""
"""The first half of a ref, the same for every ref of one millisecond."""


def _reseed() -> None:
    _random.seed(os.urandom(32))


# A forked child would otherwise repeat its parent's refs.
os.register_at_fork(after_in_child=_reseed)


def new_ref() -> str:
    """Return a new UUIDv7 string; refs made by one process sort in the order they were made.

    The 12 bits after the millisecond are a counter (RFC 9562, method 1), the last 62 are random.
    """
    global _counter
    ms = time.time_ns() // 1_000_000
    _counter += 1
    if ms > _last_ms:
        _begin(ms)
    elif _counter > _COUNTER_MAX:
        # The clock stood still or went back for so long that the counter is full: borrow the next millisecond.
        _begin(_last_ms + 1)
    digits = hex(_VERSION_AND_VARIANT | _counter << 64 | _getrandbits(_RAND_BITS))  # with 0x in front
    return f"{_prefix}{digits[2:6]}-{digits[6:10]}-{digits[10:]}"


def _begin(ms: int) -> None:
    """Begin a millisecond: the counter starts anew."""
    global _last_ms, _counter, _prefix
    _last_ms = ms
    _counter = 0
    _prefix = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-"


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
