"""Text for people: agents' words made safe to print, points in time and lengths made readable. Pure functions."""

from __future__ import annotations

import re
import time
import unicodedata
from datetime import UTC, datetime

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400

# C0 without tab and newline, DEL, C1, lone surrogates, and what turns or hides text: zero-width characters, the
# marks and overrides of writing direction, the line and paragraph separators, the byte order mark.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ud800-\udfff]"
)


def safe(text: str) -> str:
    """Return the text with control characters shown as escapes: agents' words never drive the terminal.

    Character by character, so that a sequence which was cut between two pieces of a stream is caught too.
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def safe_json(text: str) -> str:
    """Return JSON that means the same, with the same characters as escapes of its own."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str, width: int | None = None) -> str:
    """Return the text safe and on one line, cut to a width with an ellipsis."""
    flat = " ".join(safe(text).split())
    return flat if width is None else cut(flat, width)


def cells(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def cut(text: str, width: int, *, left: bool = False) -> str:
    """Return the text cut to so many columns, with an ellipsis where something is missing."""
    if cells(text) <= width:
        return text
    kept, room = "", width - 1
    for character in reversed(text) if left else text:
        room -= cells(character)
        if room < 0:
            break
        kept += character
    return "…" + kept[::-1] if left else kept + "…"


def wrapped(text: str, width: int) -> list[str]:
    """Return one line of text, made safe, as lines that fit into so many columns; nothing of it is left out."""
    lines, line, room = [], "", width
    for character in safe(text).expandtabs(8):
        taken = cells(character)
        if taken > room and line:
            lines.append(line)
            line, room = "", width
        line, room = line + character, room - taken
    return [*lines, line]


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return `1 turn`, `2 turns`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def span(seconds: float) -> str:
    """Return a length of time: `0.3 s`, `42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    for size, unit, below, small in ((_DAY_S, "d", _HOUR_S, "h"), (_HOUR_S, "h", _MINUTE_S, "min")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    if whole >= _MINUTE_S:
        rest = whole % _MINUTE_S
        return f"{whole // _MINUTE_S} min" + (f" {rest} s" if rest else "")
    return f"{whole} s"


def ago(at: float | None, *, now: float | None = None) -> str:
    """Return how long ago a point in time was: `just now`, `2 min ago`; `-` for none."""
    if at is None:
        return "-"
    passed = (time.time() if now is None else now) - at
    if passed < 2:
        return "just now"
    for size, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if passed >= size:
            return f"{int(passed // size)} {unit} ago"
    return f"{int(passed)} s ago"


def exact(at: float | None) -> str:
    """Return a point in time in UTC, to the millisecond, `-` for none."""
    if at is None:
        return "-"
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: float) -> str:
    """Return the time of day where the reader is."""
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
