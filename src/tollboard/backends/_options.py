"""Checks of backend options: each turns the given value into the one to use. Called by every backend here."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from tollboard.errors import InvalidOption

Check = Callable[[object], Any]

_SHOWN_CHARS = 60
_MARKER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*\Z")


def read_options(backend: str, given: Mapping[str, object], known: Mapping[str, Check]) -> dict[str, Any]:
    """Return the checked options that were given; `None` counts as not given.

    Every backend also takes what the fleet adds: see `Backend.start_session`. Raises InvalidOption: an unknown name is
    answered with the known ones, a bad value with what it should have been.
    """
    checks = {"cwd": directory, "env_marker": env_marker, "answered": flag, "private": texts,
              "pass_env": texts, "sandbox_default": text, **known}  # fmt: skip
    if unknown := sorted(str(name) for name in given if name not in checks):
        raise InvalidOption(
            f"backend {backend!r} does not know {', '.join(map(repr, unknown))}; "
            f"its options are: {', '.join(sorted(known)) or 'none'}"
        )
    return {
        name: _checked(backend, name, checks[name], value)
        for name, value in given.items()
        if value is not None
    }


def _checked(backend: str, name: str, check: Check, value: object) -> Any:
    try:
        return check(value)
    except ValueError as wrong:
        raise InvalidOption(f"backend {backend!r}, option {name!r}: {wrong}") from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


def text(value: object) -> str:
    """Accept text without NUL characters."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"must be text, not {_shown(value)}")
    return value


def name(value: object) -> str:
    """Accept text that is not empty and does not look like a command line option."""
    if not text(value).strip() or str(value).startswith("-"):
        raise ValueError(f"must be text that is not empty and does not start with '-', not {_shown(value)}")
    return str(value)


def flag(value: object) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_shown(value)}")
    return value


def seconds(value: object) -> float:
    """Accept a number of seconds, zero or more."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"must be a number of seconds, 0 or more, not {_shown(value)}")
    return float(value)


def whole(minimum: int) -> Check:
    """Return a check that accepts a whole number not below `minimum`."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"must be a whole number, {minimum} or more, not {_shown(value)}")
        return value

    return check


def one_of(*choices: str) -> Check:
    """Return a check that accepts one of the given words."""

    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {_shown(value)}")
        return str(value)

    return check


def texts(value: object) -> list[str]:
    """Accept a list of non-empty texts; a single text counts as a list of one."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"must be a list of texts, not {_shown(value)}")
    return [text(item) for item in value]


def variables(value: object) -> dict[str, str]:
    """Accept an object of environment variables, names to texts."""
    if not isinstance(value, Mapping) or not all(
        isinstance(v, str) and "\0" not in v for v in value.values()
    ):
        raise ValueError("must be an object of environment variables with text values")
    if bad := [n for n in value if not isinstance(n, str) or not n or "=" in n or "\0" in n]:
        raise ValueError(f"{_shown(bad[0])} is not the name of an environment variable")
    return dict(value)


def table(value: object) -> dict[str, Any]:
    """Accept an object with text keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"must be an object, not {_shown(value)}")
    return dict(value)


def directory(value: object) -> str:
    """Accept a path of a directory; whether it exists is looked at when a program starts there."""
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"must be a path, not {_shown(value)}")
    return text(os.fspath(value))


def env_marker(value: object) -> tuple[str, str]:
    """Accept `NAME=VALUE`; return it as a pair."""
    if not isinstance(value, str) or not _MARKER.match(value):
        raise ValueError(f"must be NAME=VALUE, not {_shown(value)}")
    marker, _, content = value.partition("=")
    return marker, content
