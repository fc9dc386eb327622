"""Whose a line is: one `Stream` for each running program, from its first line to its last.

A program prints one stream for everything it does: the prompt it was sent, turns that it begins by itself when
something in the background has ended, and what background sub-agents do meanwhile. Each turn gets its own lines, as a
`Speech`:

    command_lifecycle "started", with our uuid     from here on the lines are that prompt's
    system/init, and none of our prompts started   the program has begun a turn by itself
    result that names prompts                      ends those, and never another one (a merged turn ends several)
    result that names none                         ends the turn that the program began by itself
    lines of a background sub-agent                belong to no turn

A prompt that was sent into a running turn of the program's own may be taken up inside of it; its result then names the
prompt, so the rest of that turn is the prompt's. Programs that name nothing (before 2.1.3) are believed: theirs is the
one prompt that is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tollboard.backends._claude_events import Line, is_init, outcome
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.event import ErrorEvent, ResultEvent

Terminal = ResultEvent | ErrorEvent
Said = Line | Terminal

_LINES_WAITING = 256
_AGENTS_REMEMBERED = 1_000
_CAUSES = 20
_ABOUT_TO_BEGIN_S = 2.0
UNASKED = "the agent went on by itself"
INTERRUPTED = "cut off by an interrupt"
MERGED = "a prompt that came meanwhile was taken up inside of this turn; its answer has the rest"
ENDED = "cut off when Claude Code ended"
_KINDS = {"local_bash": "command", "local_agent": "agent"}


class Speech:
    """The lines of one turn, on their way to whoever follows it, its terminal event last.

    A slow follower holds the program up. While nobody follows, only so many lines are kept: holding up the program
    would keep the result of another turn from ever being read, and the terminal event has the whole text.
    """

    def __init__(self, *, followed: bool) -> None:
        self._said: deque[Said] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._followed = followed
        self.begun = False
        """Whether the program has taken the turn up."""
        self.spoke = False
        """Whether the agent has said something in it."""
        self.over = False
        """Whether its terminal event has come."""
        self.cut = False
        """Whether the program ended first."""

    def follow(self) -> None:
        """Hold the program up from now on rather than lose a line."""
        self._followed = True

    def leave(self) -> None:
        """Note that nobody follows any more."""
        self._followed = False
        self._said.clear()
        self._room.set()

    async def put(self, said: Said) -> None:
        """Add a line."""
        if isinstance(said, Mapping) and said.get("type") == "assistant":
            self.spoke = True
        while self._followed and len(self._said) >= _LINES_WAITING:
            self._room.clear()
            await self._room.wait()
        if len(self._said) < _LINES_WAITING:
            self._said.append(said)
            self._news.set()

    def end(self, terminal: Terminal) -> None:
        """Add the terminal event, unless there is one."""
        if not self.over:
            self.over = True
            self._said.append(terminal)
            self._news.set()

    def cut_off(self) -> None:
        """Note that nothing more will come."""
        self.cut = True
        self._news.set()

    async def next(self) -> Said | None:
        """Return the next line or the terminal event, `None` when the program has ended before that."""
        while not self._said:
            if self.cut:
                return None
            self._news.clear()
            await self._news.wait()
        said = self._said.popleft()
        self._room.set()
        return said


class Stream:
    """Gives each line to the turn it belongs to, and keeps what runs in the background.

    `begin` announces a turn of the program's own; `tell` is told what runs in the background, and why what is missing
    was cut off, if it was; `ref` is that of the turn in flight.
    """

    def __init__(
        self, begin: Callable[[Speech, str], None], tell: Callable[[Sequence[BackgroundTask], str], None],
        ref: Callable[[], str],
    ) -> None:  # fmt: skip
        self._begin = begin
        self._tell = tell
        self._ref = ref
        self._asked: dict[str, Speech] = {}
        self._speaking: Speech | None = None
        self._names_prompts = False
        self._causes: deque[str] = deque(maxlen=_CAUSES)
        self._agents: deque[str] = deque(maxlen=_AGENTS_REMEMBERED)
        self._stopped: set[str] = set()
        self._cost_usd = 0.0
        self._closed = False
        self._moved = asyncio.Event()
        self.running: dict[str, BackgroundTask] = {}
        self.agents: dict[str, str] = {}
        """The type of each background sub-agent, by its id."""
        self.interrupting = False
        """Whether what is stopped now is stopped because somebody interrupts."""

    def ask(self, uuid: str) -> Speech:
        """Return what will be said to the prompt that is about to be sent under this id."""
        speech = Speech(followed=True)
        if self._closed:
            speech.cut_off()
        else:
            self._asked[uuid] = speech
        return speech

    async def quiet(self) -> None:
        """Wait until no turn of the program's own runs or is about to begin.

        A prompt sent into one may be taken up inside of it, and then nobody can tell where the one ends.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ABOUT_TO_BEGIN_S):
                while self._causes and self._speaking is None and not self._closed:
                    await self._change()
        while self._speaking is not None and not self._closed:
            await self._change()

    async def _change(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def forget(self, uuid: str) -> None:
        """Note that nobody waits for the answer to this prompt any more."""
        self._asked.pop(uuid, None)

    def close(self) -> None:
        """Note that the program has ended: nothing more will come."""
        for speech in (*self._asked.values(), *((self._speaking,) if self._speaking is not None else ())):
            speech.cut_off()
        self._asked.clear()
        self._speaking = None
        self._closed = True
        self._moved.set()
        self.running = {}
        self._tell((), ENDED)

    async def take(self, line: Line) -> None:
        """Give a line to the turn it belongs to."""
        await self._take(line)
        self._moved.set()

    async def _take(self, line: Line) -> None:
        kind = line.get("type")
        if kind == "command_lifecycle":
            self._taken_up(line)
            return
        if kind == "result":
            await self._ended(line)
            return
        if kind == "system":
            self._note_task(line)
        if self._is_of_background(line):
            return
        self._note_turn(line)
        speech = self._speaking or next(reversed(self._asked.values()), None)
        if speech is not None:
            await speech.put(line)

    # --- whose turn it is ---------------------------------------------------------------------------------------

    def _taken_up(self, line: Line) -> None:
        self._names_prompts = True
        speech = self._asked.get(str(line.get("command_uuid")))
        if line.get("state") != "started" or speech is None:
            return
        if self._speaking is not None and self._speaking not in self._asked.values():
            # Taken up inside of a turn of the program's own: what follows answers the prompt, and its result says so.
            self._speaking.end(_merged(self._speaking))
        self._speaking = speech

    def _note_turn(self, line: Line) -> None:
        """Find out whether a turn begins with this line, and whose."""
        kind = line.get("type")
        if is_init(line):
            if self._speaking is None and self._asked and not self._names_prompts:
                self._speaking = next(reversed(self._asked.values()))
            if self._speaking is None and self._causes:
                self._begin_own()
            if self._speaking is not None:
                self._speaking.begun = True
        elif kind in ("assistant", "stream_event") and not line.get("parent_tool_use_id"):
            # An init without a cause may be what a resumed program says of what was lost: no turn, so wait for words.
            if self._speaking is None and (self._names_prompts or not self._asked):
                self._begin_own()
            if _mapping(line.get("event")).get("type") == "message_start":
                self._causes.clear()  # whatever ended before this call is told in it

    def _begin_own(self) -> Speech:
        speech = Speech(followed=False)
        speech.begun = True
        cause = "\n".join(self._causes) or UNASKED
        self._causes.clear()
        self._speaking = speech
        self._begin(speech, cause)
        return speech

    async def _ended(self, line: Line) -> None:
        """End the turns that a result names, or the program's own when it names none."""
        end, named = self._outcome(line), line.get("user_message_uuids")
        names = [str(name) for name in named] if isinstance(named, list) else []
        speaking, self._speaking = self._speaking, None
        mine = [self._asked.pop(name) for name in names if name in self._asked]
        own = speaking if speaking is not None and speaking not in (*mine, *self._asked.values()) else None
        if not names and not line.get("origin") and own is None:
            mine = self._unnamed(speaking)
        for speech in mine:
            speech.end(end)
            end = _without_usage(end)  # a merged turn was paid for once
        if mine or names:
            if own is not None:
                own.end(_merged(own))
        elif own is not None or _says_something(line):
            (own or self._begin_own()).end(end)
            self._speaking = None

    def _unnamed(self, speaking: Speech | None) -> list[Speech]:
        """Return the prompt that a result without any name ends: the one that is in flight."""
        found = next(
            (uuid for uuid, speech in reversed(self._asked.items()) if speaking in (speech, None)), None
        )
        return [] if found is None else [self._asked.pop(found)]

    def _outcome(self, line: Line) -> Terminal:
        before = self._cost_usd
        total = line.get("total_cost_usd")
        if isinstance(total, int | float):
            self._cost_usd = float(total)
        return outcome(line, before)

    # --- the background -----------------------------------------------------------------------------------------

    def _is_of_background(self, line: Line) -> bool:
        return line.get("agent_id") in self._agents or line.get("parent_tool_use_id") in self._agents

    def _note_task(self, line: Line) -> None:
        task = str(line.get("task_id", ""))
        match line.get("subtype"):
            case "task_started" if line.get("is_backgrounded"):
                self._agents.append(str(line.get("tool_use_id") or task))
            case "background_tasks_changed":
                self._changed([each for each in line.get("tasks") or () if isinstance(each, Mapping)])
            case "task_notification" if task in self.running:
                if line.get("status") == "stopped":
                    self._stopped.add(task)
                else:
                    self._causes.append(_cause(self.running[task], line))

    def _changed(self, tasks: Sequence[Mapping[str, Any]]) -> None:
        before = self.running
        self.running = {str(task.get("task_id")): self._task(task) for task in tasks}
        gone = before.keys() - self.running.keys()
        cut = {task: before[task] for task in gone & self._stopped} if self.interrupting else {}
        self._stopped -= gone
        if cut:
            self._tell([task for name, task in before.items() if name not in cut], INTERRUPTED)
        self._tell(list(self.running.values()), "")

    def _task(self, task: Mapping[str, Any]) -> BackgroundTask:
        id, kind = str(task.get("task_id")), str(task.get("task_type") or "task")
        if id in self.running:
            return self.running[id]
        self._agents.append(id)
        if kind == "local_agent":
            self.agents[id] = str(task.get("subagent_type") or id)
        what = str(task.get("description") or id)
        return BackgroundTask(id, _KINDS.get(kind, kind), what, time.time(), self._ref())


def _cause(task: BackgroundTask, line: Line) -> str:
    """Return in a line why the program goes on: what has ended, and how."""
    summary = str(line.get("summary") or "")
    if summary and not line.get("summary_is_report"):
        return summary
    return f"{task.kind} in the background {line.get('status')}: {task.what}" + (
        f"\n{summary}" if summary else ""
    )


def _says_something(line: Line) -> bool:
    """Tell a turn from the empty result that a resumed program prints of what an earlier one left behind."""
    return bool(line.get("num_turns") or line.get("result") or line.get("is_error"))


def _merged(own: Speech) -> Terminal:
    """Return how a turn of the program's own ends that a prompt was taken up in: with what it had said, if anything."""
    return ResultEvent(None) if own.spoke else ErrorEvent(MERGED, interrupted=True)


def _without_usage(end: Terminal) -> Terminal:
    return ResultEvent(end.text) if isinstance(end, ResultEvent) else ErrorEvent(end.message, cause=end.cause)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
