"""Refs (UUIDv7 strings, RFC 9562) and the rule for names. Called at every acceptance, so it is quick."""

from __future__ import annotations

import os
import random
import re
import time

from tollboard.errors import InvalidName

NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_RAND_BITS = 62
_COUNTER_MAX = 0xFFF

_random = random.Random(os.urandom(32))
_last_ms = 0
_counter = 0


def _reseed() -> None:
    _random.seed(os.urandom(32))


# A forked child would otherwise repeat its parent's refs.
os.register_at_fork(after_in_child=_reseed)


def new_ref() -> str:
    """Return a new UUIDv7 string; refs made by one process sort in the order they were made.

    The 12 bits after the millisecond are a counter (RFC 9562, method 1), the last 62 are random.
    """
    global _last_ms, _counter
    ms = time.time_ns() // 1_000_000
    if ms > _last_ms:
        _last_ms = ms
        _counter = 0
    else:
        # The clock stood still or went back: count on, and borrow the next millisecond when full.
        _counter += 1
        if _counter > _COUNTER_MAX:
            _last_ms += 1
            _counter = 0
        ms = _last_ms
    h = f"{(ms << 80) | (0x7 << 76) | (_counter << 64) | (0x2 << 62) | _random.getrandbits(_RAND_BITS):032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def check_name(name: str) -> str:
    """Return `name` unchanged if it is allowed; raise InvalidName otherwise.

    `.` and `..` are refused so that no name can ever mean another directory.
    """
    if not isinstance(name, str) or not _NAME.match(name) or name in {".", ".."}:
        shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
        raise InvalidName(f"{shown} is not a name: use 1 to 64 letters, digits, '.', '_' or '-'")
    return name
