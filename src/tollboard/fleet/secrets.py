"""Secrets in plain text among the options of a session or pool: found wherever they hide, and refused.

Options are kept in the database. A secret is passed by reference: inside `env` and headers, `"$NAME"` is replaced by
the daemon's environment variable when a session starts. Called before anything is started; it changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tollboard.errors import InvalidOption

REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)\Z")
PLACES = frozenset({"env", "headers", "extra_headers", "http_headers", "default_headers"})
"""Where values are passed by name, references are replaced, and a name that sounds like a secret's is enough."""
_WORDS = frozenset({"script", "system_prompt", "description", "use_instructions", "display_text"})
"""What people and models read or play; they may say what they like."""

_SOUNDS_SECRET = re.compile(r"(?i)(key|token|secret|passw|credential|authorization|cookie)")
_IS_SECRET = re.compile(
    r"(?i)(^|[_.-])(api_?-?key|access_?-?key|auth_?-?token|token|secret|passw(or)?d|authorization|bearer)$"
)
"""Elsewhere the name must be a secret's, not only sound like it: `max_tokens` is none."""
_USER_INFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s@:]*:[^/?#\s@]+@")
_FLAG = re.compile(r"(--?[A-Za-z0-9_-]+)(?:=(.*))?\Z", re.DOTALL)
_NO_SECRET = re.compile(r"(?i)(tokens|[-_](file|path|dir|name|id|env|var|count|limit))$")
"""Flags that only sound like a secret's: what follows is a number, or says where one is."""
_HEADER = re.compile(r"(?i)\s*(authorization|proxy-authorization|x-api-key|cookie)\s*:\s*\S")
_SHAPES = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{16,}|gh[opsu]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{30,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+)"
)
"""How the keys of well-known services look."""


def refuse_secrets(options: Mapping[str, object]) -> None:
    """Raise InvalidOption, which names the place and never the value, if an option holds a secret in plain text."""
    for where in _found(options, ()):
        raise InvalidOption(
            f"{where} looks like a secret and options are kept in the database: set a variable in the daemon's "
            f"environment, and pass its name there, inside `env` or `headers`: '$NAME'"
        )


def _found(value: object, path: tuple[str, ...]) -> Iterator[str]:
    """Yield the places of secrets."""
    if path and path[-1] in _WORDS:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _found(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        yield from _in_words(value, path)
        for index, item in enumerate(value):
            yield from _found(item, (*path, str(index)))
    elif isinstance(value, str) and value and not REFERENCE.match(value) and _is_secret(value, path):
        yield ".".join(path)


def _is_secret(value: str, path: tuple[str, ...]) -> bool:
    name = path[-1] if path else ""
    passed_by_name = not PLACES.isdisjoint(path[:-1])
    return bool(
        (_SOUNDS_SECRET if passed_by_name else _IS_SECRET).search(name)
        or _USER_INFO.search(value)
        or _HEADER.match(value)
        or _SHAPES.search(value)
    )


def _in_words(words: Sequence[object], path: tuple[str, ...]) -> Iterator[str]:
    """Yield the places of flags such as `--api-key` whose value stands in the same word or the next."""
    for index, word in enumerate(words):
        flag = _FLAG.match(word) if isinstance(word, str) else None
        if flag is None or not _SOUNDS_SECRET.search(flag.group(1)) or _NO_SECRET.search(flag.group(1)):
            continue
        value = flag.group(2)
        if value is None and index + 1 < len(words):
            follows = words[index + 1]
            value = follows if isinstance(follows, str) and not follows.startswith("-") else None
        if value and not REFERENCE.match(value):
            yield f"{'.'.join((*path, str(index)))} ({flag.group(1)})"
