"""A tour as it is recorded: what a person saw at the prompt, what Claude Code called and was answered, as Markdown.

Everything on the page comes from the run, in the order in which it happened, but for the sentences between. What
is another at each run (refs, times, the directory) is replaced by what looks the same, and stays the same.
"""

from __future__ import annotations

import asyncio
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.acceptance.claude_host import SERVER, Host
from tests.surfaces.terminal import Terminal
from tollboard.runtime.event import Event, ToolResultEvent, ToolUseEvent
from tollboard.testing.backend_contract import RecordingTurn

PROMPT, CLAUDE = "At the prompt", "Claude Code"
_REF = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIMES = (
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "10:24:00"),
    (re.compile(r"(?<=duration_s=)[\d.e-]+"), "0.1"),
    (re.compile(r"(just now|\d+ s ago), [\d.]+ s\b"), "just now, 0.1 s"),
    (re.compile(r"\b\d{10}(\.\d+)?\b"), "1795256640.0"),
)
_TIME = re.compile(r"(^|_)at$|_s$")
WIDTH = 118
"""Of the lines of sentences and answers."""
NEW_LINE = "\n"


class Recording:
    """What has happened so far. Pieces of one side that follow each other stand in one block."""

    def __init__(self, place: Path) -> None:
        self._place = str(place)
        self._refs: dict[str, str] = {}
        self._pieces: list[tuple[str, str]] = []

    def says(self, markdown: str) -> None:
        """Add sentences of the guide: paragraphs, each in one line."""
        paragraphs = [
            textwrap.fill(one, WIDTH, break_long_words=False, break_on_hyphens=False)
            for one in markdown.split("\n\n")
        ]
        self._pieces.append(("", "\n\n".join(paragraphs)))

    def shows(self, side: str, text: str) -> None:
        """Add what one side saw."""
        text = self._plain(text)
        if self._pieces and self._pieces[-1][0] == side:
            text = f"{self._pieces.pop()[1]}\n{text}"
        self._pieces.append((side, text))

    def page(self) -> str:
        """Return the Markdown."""
        blocks = [
            f"**{side}**\n\n```text\n{text.strip(NEW_LINE)}\n```" if side else text
            for side, text in self._pieces
        ]
        return "\n\n".join(blocks) + "\n"

    def _plain(self, text: str) -> str:
        text = _REF.sub(self._numbered, text.replace(self._place, "/home/you"))
        for pattern, always in _TIMES:
            text = pattern.sub(always, text)
        return text

    def _numbered(self, ref: re.Match[str]) -> str:
        number = len(self._refs) + 1
        return self._refs.setdefault(ref[0], f"01a1fb47-0000-7000-8000-{number:012}")


class AtPrompt:
    """The person: types into the terminal and sees what it shows."""

    def __init__(self, terminal: Terminal, recording: Recording) -> None:
        self._terminal = terminal
        self._recording = recording
        self._lines = 0
        """Seen so far: up to the prompt that waits."""
        self._number = 0

    async def opens(self) -> str:
        """Wait for the first prompt."""
        self._recording.shows(PROMPT, "$ tollboard repl")
        return await self._next()

    async def types(self, line: str) -> str:
        """Type a line and return what it showed, once the next prompt is there."""
        await asyncio.to_thread(self._terminal.types, f"{line}\n")
        return await self._next()

    async def sees(self, wanted: str) -> str:
        """Wait until this is shown above the prompt that waits, and return all that is new there."""

        def shown(lines: list[str]) -> bool:
            return self._waits(lines) and any(wanted in line for line in lines[self._lines :])

        return self._new(await asyncio.to_thread(self._terminal.screen, shown))

    async def leaves(self) -> str:
        """Press Ctrl-D and return what is said at the end."""

        def left(lines: list[str]) -> bool:
            return lines[-1] == "" and any("come back" in line for line in lines)

        await asyncio.to_thread(self._terminal.types, "\x04")
        lines = await asyncio.to_thread(self._terminal.screen, left)
        assert await asyncio.to_thread(self._terminal.ended) == 0
        return self._new([*lines, ""])

    async def _next(self) -> str:
        self._number += 1
        return self._new(await asyncio.to_thread(self._terminal.screen, self._waits))

    def _waits(self, lines: list[str]) -> bool:
        return lines[-1] == f"In [{self._number}]:"

    def _new(self, lines: list[str]) -> str:
        new = "\n".join(lines[self._lines : -1]).strip("\n")
        self._lines = len(lines) - 1
        self._recording.shows(PROMPT, new + "\n")
        return new


class ByClaude(RecordingTurn):
    """A turn of Claude Code: what its model calls and what the tools answer is recorded as it happens.

    With `until`, what comes after the call of that tool is held back until `goes_on`: the person acts meanwhile, and
    which of the two is seen first would be chance.
    """

    def __init__(self, recording: Recording, *, until: str = "") -> None:
        super().__init__()
        self.called = asyncio.Event()
        """Set when that tool is called."""
        self._until = until
        self._recording = recording
        self._held: list[str] = []

    def saw(self, event: Event) -> None:
        """Record an event."""
        super().saw(event)
        match event:
            case ToolUseEvent(tool=tool, arguments=arguments) if tool.startswith(f"mcp__{SERVER}__"):
                name = tool.removeprefix(f"mcp__{SERVER}__")
                self._show(f"● {name} {_compact(arguments)}")
                if name == self._until:
                    self.called.set()
            case ToolResultEvent(content=content):
                self._show(_indented(answer(content)))

    def goes_on(self) -> None:
        """Record what was held back, and what comes from now on."""
        self.called.clear()
        for text in self._held:
            self._show(text)

    def _show(self, text: str) -> None:
        if self.called.is_set():
            self._held.append(text)
        else:
            self._recording.shows(CLAUDE, text)


class Claude:
    """Claude Code, asked by the person at its own terminal."""

    def __init__(self, host: Host, recording: Recording) -> None:
        self._host = host
        self._recording = recording

    async def does(self, prompt: str, *calls: Any, turn: ByClaude | None = None) -> list[str]:
        """Ask it; its model makes these calls. Return what the tools answered."""
        self._recording.shows(CLAUDE, f"> {prompt}\n")
        done = await self._host.turn(prompt, *calls, seen=turn or ByClaude(self._recording))
        return [event.content for event in done.events if isinstance(event, ToolResultEvent)]


def answer(content: str) -> str:
    """Return an answer of a tool for reading: its words, and its JSON without times and empty fields."""
    at = content.find("{")
    if at < 0:
        return content
    return "\n".join(
        part for part in (content[:at].strip(), _folded(_kept(json.loads(content[at:])))) if part
    )


def _kept(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _kept(item)
            for key, item in value.items()
            if item not in (None, [], {}, False) and not _TIME.search(key)
        }
    return [_kept(item) for item in value] if isinstance(value, list) else value


def _folded(value: Any, indent: str = "") -> str:
    """Return JSON with as much on a line as fits."""
    flat = _compact(value)
    if len(indent + flat) <= WIDTH or not isinstance(value, dict | list):
        return flat
    deeper = indent + "  "
    if isinstance(value, list):
        items = [_folded(item, deeper) for item in value]
    else:
        items = [f"{json.dumps(key)}: {_folded(item, deeper)}" for key, item in value.items()]
    opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}")
    lines, line = [], ""
    for item in items:
        if line and ("\n" in item or "\n" in line or len(deeper + line + item) + 3 > WIDTH):
            lines.append(f"{line},")
            line = item
        else:
            line = f"{line}, {item}" if line else item
    return "\n".join([opening, *(f"{deeper}{one}" for one in (*lines, line)), f"{indent}{closing}"])


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _indented(text: str) -> str:
    first, *rest = text.splitlines()
    return "\n".join([f"  ⎿ {first}", *(f"    {line}" for line in rest), ""])
