"""The parser of scripts: from the JSON of an option to steps. Only `scripted.py`, which describes them, uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tollboard.backends import _options as check
from tollboard.backends._steps import KINDS, MODIFIERS, Step, python_step


class Script(NamedTuple):
    """A checked script: the turns to consume, and the rules (`when` text, steps) that are never consumed."""

    turns: tuple[tuple[Step, ...], ...]
    rules: tuple[tuple[str, tuple[Step, ...]], ...]


def parse_script(value: object) -> Script:
    """Return the checked script; raise ValueError naming the entry and the fault."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of turns, not {type(value).__name__}")
    turns: list[tuple[Step, ...]] = []
    rules: list[tuple[str, tuple[Step, ...]]] = []
    for number, entry in enumerate(value, 1):
        try:
            steps = tuple(_steps(entry))
            if isinstance(entry, Mapping) and "when" in entry:
                rules.append((check.text(entry["when"]), steps))
            else:
                turns.append(steps)
        except (ValueError, TypeError) as wrong:
            raise ValueError(f"entry {number}: {wrong}") from None
    return Script(tuple(turns), tuple(rules))


def _steps(entry: object) -> list[Step]:
    if isinstance(entry, str):
        return [KINDS["text"](entry, {})]
    if isinstance(entry, list | tuple):
        return [step for part in entry for step in _steps(part)]
    if isinstance(entry, Mapping):
        return _object_steps(entry)
    return [python_step(entry)]


def _object_steps(entry: Mapping[str, Any]) -> list[Step]:
    modifiers = {key: value for key, value in entry.items() if key in MODIFIERS}
    unknown = [key for key in entry if key not in KINDS and key not in MODIFIERS]
    if unknown or len(modifiers) == len(entry):
        what = f"does not know {unknown[0]!r}" if unknown else "has no step"
        raise ValueError(f"{what}; steps are {', '.join(KINDS)}; modifiers are {', '.join(MODIFIERS)}")
    return [KINDS[key](value, modifiers) for key, value in entry.items() if key in KINDS]
