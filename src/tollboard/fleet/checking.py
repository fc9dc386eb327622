"""What kind of value each argument of a board's verb is: checked before anything else, the same here and over a wire.

`Switchboard` and `Client` put `checked` over their verbs. So a prompt that is a number is InvalidPrompt on both, raised
before anything is looked up, changed or sent. What a value means is judged later, by the verb.
"""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from tollboard.errors import (
    AgentNotFound,
    ApprovalNotFound,
    Invalid,
    InvalidDecision,
    InvalidName,
    InvalidOption,
    InvalidPath,
    InvalidPrompt,
    RequestNotFound,
    SubAgentNotFound,
    TollboardError,
    UnknownBackend,
)
from tollboard.runtime.approval import Approve, Edit, Reject
from tollboard.runtime.question import Answer

P = ParamSpec("P")
R = TypeVar("R")
Verb = Callable[P, Coroutine[Any, Any, R]]
Rule = Callable[[str, object], None]

MAX_WORD = 200
"""Characters of a word that names something; longer ones name nothing and are not looked up."""
MAX_LIST = 10_000
MAX_KINDS, MAX_KIND = 50, 64
MAX_PATH = 4_096
MAX_TEXT = 1024 * 1024
_MAX_NUMBER = 2**62
_MAX_DEPTH = 64


def checked(verb: Verb[P, R]) -> Verb[P, R]:
    """Return the verb with its arguments checked first. Raises what the rule of one says, an Invalid or NotFound."""
    parameters = list(inspect.signature(verb).parameters.values())[1:]
    names = [one.name for one in parameters]
    starts = any(one.kind is one.VAR_KEYWORD for one in parameters)
    rules = {**RULES, **(_OF_A_START if starts else {})}
    optional = {one.name for one in parameters if one.default is None}

    @wraps(verb)
    async def check_first(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, object] = {**dict(zip(names, args[1:], strict=False)), **kwargs}
        for name, value in given.items():
            rule = rules.get(name, _option if starts else None)
            if rule is not None and not (value is None and name in optional):
                rule(name, value)
        return await verb(*args, **kwargs)

    return check_first


def _shown(value: object) -> str:
    return type(value).__name__ if not isinstance(value, str) else f"{value[:60]!r}"


def _word(error: type[TollboardError], what: str) -> Rule:
    def rule(name: str, value: object) -> None:
        if not isinstance(value, str):
            raise error(f"{name} is {_shown(value)}: it must be {what}, as text")
        if len(value) > MAX_WORD or not is_unicode(value):
            raise error(f"{_shown(value)}… is not {what}")

    return rule


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidPrompt(f"{name} is {_shown(value)}: it must be text")


def _path(name: str, value: object) -> None:
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InvalidPath(f"{name} is {_shown(value)}: it must be a path, as text")
    if len(os.fspath(value)) > MAX_PATH:
        raise InvalidPath(
            f"the path {os.fspath(value)[:60]!r}… has {len(os.fspath(value)):,} characters, {MAX_PATH:,} are allowed"
        )


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise Invalid(f"{name} is {_shown(value)}: it must be true or false")


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _MAX_NUMBER:
        raise Invalid(f"{name} is {_shown(value)}: it must be a whole number below 2**62")


def _count(name: str, value: object) -> None:
    _number(name, value)
    if cast("int", value) < 0:
        raise Invalid(f"{name} is {value!r}: it must be 0 or more")


def _seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Invalid(f"{name} is {_shown(value)}: it must be a number of seconds")


def _key(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise Invalid(f"{name} is {_shown(value)}: an idempotency key is text")


def _words(most: int, longest: int) -> Rule:
    def rule(name: str, value: object) -> None:
        if isinstance(value, str):
            raise Invalid(f"{name} is a list of {name}, not one text")
        if (
            not isinstance(value, Sequence)
            or len(value) > most
            or not all(isinstance(one, str) for one in value)
        ):
            raise Invalid(f"{name} is {_shown(value)}: it must be a list of at most {most:,} texts")
        if wrong := [one for one in value if len(one) > longest or not is_unicode(one)]:
            raise Invalid(f"{name} has {_shown(wrong[0])}…, which names nothing")

    return rule


def _mode(name: str, value: object) -> None:
    if value not in ("all", "any"):
        raise Invalid(f"{name} is {_shown(value)}: use all or any")


def _decision(name: str, value: object) -> None:
    if not isinstance(value, Mapping | Approve | Edit | Reject | Answer):
        raise InvalidDecision(f"a decision is an object with a 'type', not {type(value).__name__}")
    inner = value if isinstance(value, Mapping) else {"arguments": getattr(value, "arguments", None)}
    if not _is_json(dict(inner)):
        raise InvalidDecision(f"{name} holds what JSON has no word for")


def _option(name: str, value: object) -> None:
    if not _is_json(value):
        raise InvalidOption(f"{name} holds what JSON has no word for; options are kept in the database")


def _is_json(value: object) -> bool:
    """Whether it can be kept and sent: no NaN, no half character, not endlessly deep, keys that are text."""
    try:
        return is_unicode(json.dumps(value, allow_nan=False, ensure_ascii=False)) and _keys_are_texts(value)
    except (TypeError, ValueError, RecursionError):
        return False


def _keys_are_texts(value: object, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _keys_are_texts(one, depth + 1) for key, one in value.items())
    return not isinstance(value, list | tuple) or all(_keys_are_texts(one, depth + 1) for one in value)


def is_unicode(text: str) -> bool:
    """Whether the text can be written: JSON may hold half of a surrogate pair, UTF-8 may not."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


RULES: Mapping[str, Rule] = {
    "name": _word(AgentNotFound, "the name or id of a session"),
    "path": _path,
    "backend": _word(UnknownBackend, "the name of a backend"),
    "prompt": _text,
    "text": _text,
    "key": _key,
    "ref": _word(RequestNotFound, "the ref of a request"),
    "refs": _words(MAX_LIST, MAX_TEXT),
    "id": _word(SubAgentNotFound, "the id of a sub-agent"),
    "names": _words(MAX_LIST, MAX_WORD),
    "kinds": _words(MAX_KINDS, MAX_KIND),
    "timeout": _seconds,
    "wait": _seconds,
    "mode": _mode,
    "reader": _word(InvalidName, "the name of a reader"),
    "limit": _number,
    "before": _number,
    "seq": _number,
    "version": _count,
    "after": _count,
    "queue": _flag,
    "drain": _flag,
    "ack": _flag,
    "all": _flag,
    "approval_id": _word(ApprovalNotFound, "the id of an approval"),
    "decision": _decision,
}
_OF_A_START: Mapping[str, Rule] = {"name": _word(InvalidName, "the name of a session")}
