"""Results cut to what a model's context can hold: long texts are shortened, and say so and how to read the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic_core import to_json

MAX_CHARS = 40_000
"""Of a whole result, as JSON: some ten thousand tokens."""
LONGEST_TEXT = 8_000
SHORTEST_TEXT = 200


def bounded(value: object, *, max_chars: int = MAX_CHARS) -> tuple[object, str]:
    """Return the plain value with its texts cut until all of it fits, and its JSON.

    Only texts are cut, so its shape stays what the schema says. Numbers of items are bounded by the operations' own
    limits; where even the shortest texts do not fit, the JSON is longer than `max_chars`.
    """
    longest = LONGEST_TEXT
    text = to_json(value).decode()
    if len(text) <= min(longest, max_chars):
        return value, text  # no text in it is longer than all of it
    while True:
        cut = _cut(value, longest)
        text = to_json(cut).decode()
        if len(text) <= max_chars or longest <= SHORTEST_TEXT:
            return cut, text
        longest = max(SHORTEST_TEXT, longest // 2)


def _cut(value: object, longest: int) -> object:
    if isinstance(value, str):
        return shorten(value, longest)
    if isinstance(value, Mapping):
        return {key: _cut(item, longest) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_cut(item, longest) for item in value]
    return value


def shorten(text: str, longest: int) -> str:
    """Return the beginning and the end of a text that is too long, and say what is missing."""
    if len(text) <= longest:
        return text
    head, tail = longest * 3 // 4, longest // 4
    return f"{text[:head]} … [{len(text) - head - tail:,} characters left out] … {text[-tail:]}"
