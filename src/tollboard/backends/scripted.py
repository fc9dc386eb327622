"""The scripted backend: plays a list of turns given as an option. It is what tests and demos run instead of a model.

`options["script"]` is a list; each prompt consumes the next entry. An entry is a text (the answer), an object of steps,
or a list of those, played in order. It is plain JSON, so that it works over the command line and HTTP as well. The
keys of an object are steps and are played in the order they stand:

    {"text": "hi", "chunks": 3}      say it, in 3 pieces; each is a message of its own ("message": "id" joins)
    {"delay": 0.5}                   wait that many seconds
    {"events": [{"kind": "tool_use", "id": "t1", "tool": "ls"}, ...]}     any events, by kind and fields
    {"usage": {"input_tokens": 3, "cost_usd": 0.01}}                      a usage report
    {"approval": {"tool": "sh", "arguments": {...}, "allowed": [...], "display": "..."}}
                                     ask a person; then say what was decided and what would have run. "then": a text
                                     to say instead, with {decision} {tool} {arguments} {message} filled in
    {"approvals": [{...}, {...}]}    ask for several at once, answer in their order
    {"result": "done"}               end the turn with this answer (without it, the texts said are the answer)
    {"error": "no luck"}             end the turn with an error event
    {"crash": "boom"}                raise in mid-stream
    {"hang": true}                   wait until the turn is closed
    {"no_terminal": true}            end the stream without a terminal event
    {"lines": 1000000}               say that many lines, one event each, or in fewer pieces ("chunks": 1000)
    {"invalid_utf8": true}           say text that cannot be encoded: lone surrogates and a NUL
    {"checkpoint": "other-id"}       report another conversation id
    {"process": ["sleep", "300"]}    start a program in a session of its own, carrying the session's environment marker
    {"slow_close": 2}                from here on, closing the stream early takes that many seconds
    {"stubborn": 2}                  wait that long and swallow every cancellation meanwhile (a faulty backend)

`{prompt}` in any text said is replaced by the prompt. An object with `"when": "text"` is not consumed: it answers every
prompt that contains the text, before the list is looked at, also after a restart (which begins the list anew). With the
option `repeat` the list starts over; otherwise a prompt after its end fails with an error event that says so.

In Python a step may also be an `Event`, an exception to raise, an `asyncio.Event` to wait for, or a callable
`(prompt, turn) -> AsyncIterator[Event]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from tollboard.backends._options import Check, flag, read_options
from tollboard.backends._script import Script, parse_script
from tollboard.backends._steps import Play, Step
from tollboard.ids import new_ref
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import TERMINAL, ErrorEvent, Event, ResultEvent

if TYPE_CHECKING:
    import psutil

HEARD_S = 5.0
_OPTIONS: Mapping[str, Check] = {"script": parse_script, "repeat": flag}


@dataclass(slots=True)
class ScriptedSession:
    """One conversation: the script, where it stands, and the processes its steps started."""

    id: str
    script: Script
    repeat: bool = False
    cwd: str | None = None
    marker: tuple[str, str] | None = None
    played: int = 0
    reported: bool = False
    marks: list[tuple[str, str]] = field(default_factory=list)
    processes: list[psutil.Process] = field(default_factory=list)
    children: list[asyncio.subprocess.Process] = field(default_factory=list)


class ScriptedBackend(Backend[ScriptedSession]):
    """Play a script; options: `script` (see the top of this file) and `repeat`."""

    name: ClassVar[str] = "scripted"
    remembers: ClassVar[bool] = False
    plain_options: ClassVar[frozenset[str]] = frozenset({"repeat"})

    def powers(self, options: Mapping[str, object]) -> tuple[str, ...]:
        """Return `script` if a step of it starts a program."""
        given = {name: value for name, value in options.items() if name != "script"}
        return (*super().powers(given), *(["script"] if _runs_programs(options.get("script")) else []))

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise InvalidOption for an unknown or bad option, or a script that cannot be played."""
        read_options(self.name, options, _OPTIONS)

    async def start_session(self, options: Mapping[str, object]) -> ScriptedSession:
        """Return a session at the beginning of its script, under a new id."""
        return _session(f"scripted-{new_ref()}", options)

    async def resume_session(
        self, provider_session_id: str, options: Mapping[str, object]
    ) -> ScriptedSession:
        """Return a session under the earlier id, at the beginning of its script."""
        return _session(provider_session_id, options)

    async def prompt(self, session: ScriptedSession, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        """Play the next entry of the script."""
        if not session.reported:
            await turn.checkpoint(session.id, {"cwd": session.cwd} if session.cwd else None)
            session.reported = True
        play = Play(prompt=text, turn=turn, cwd=session.cwd, marker=session.marker)
        steps = _next_steps(session, text)
        if steps is None:
            yield ErrorEvent(f"the script has ended: its {len(session.script.turns)} turns were played")
            return
        ended = False
        try:
            for step in steps:
                async for event in step(play):
                    ended = ended or isinstance(event, TERMINAL)
                    yield event
            if not ended and play.terminal:
                yield ResultEvent()
            ended = True
        finally:
            if play.checkpointed is not None:
                session.id = play.checkpointed
            session.marks += play.marks
            session.processes += play.processes
            session.children += play.children
            if not ended:
                await _close_early(session, play)

    async def terminate_session(self, session: ScriptedSession) -> ProcessReport:
        """End what `process` steps started."""
        return await _end(session, session.processes, session.marks)

    async def reset_session(self, session: ScriptedSession) -> ScriptedSession:
        """Return the session under a new id; the script goes on where it stands."""
        return replace(session, id=f"scripted-{new_ref()}", reported=False)


def _session(session_id: str, options: Mapping[str, object]) -> ScriptedSession:
    given = read_options(ScriptedBackend.name, options, _OPTIONS)
    return ScriptedSession(
        id=session_id,
        script=given.get("script") or parse_script([]),
        repeat=given.get("repeat", False),
        cwd=given.get("cwd"),
        marker=given.get("env_marker"),
    )


def _next_steps(session: ScriptedSession, text: str) -> tuple[Step, ...] | None:
    """Return the steps that answer this prompt and move on; `None` when the script has ended."""
    script = session.script
    for words, steps in script.rules:
        if words in text:
            return steps
    if session.repeat and script.turns:
        session.played %= len(script.turns)
    if session.played >= len(script.turns):
        return None
    session.played += 1
    return script.turns[session.played - 1]


async def _close_early(session: ScriptedSession, play: Play) -> None:
    """End what this turn started, as every backend must when its stream is closed before the end."""
    await play.close()
    await _end(session, play.processes, play.marks)


async def _end(
    session: ScriptedSession, processes: list[psutil.Process], marks: list[tuple[str, str]]
) -> ProcessReport:
    if not marks:
        return NO_PROCESSES
    from tollboard.backends._process import end_processes  # psutil only where a script starts processes

    reports = [await end_processes(roots=processes, marker=mark) for mark in marks]
    session.marks = [mark for mark in session.marks if mark not in marks]
    session.processes = [process for process in session.processes if process not in processes]
    # The loop must hear of the end of each of its children too, or their transports outlive it.
    ended = {process.pid for process in processes}
    gone = [child for child in session.children if child.pid in ended]
    session.children = [child for child in session.children if child.pid not in ended]
    waiting = [asyncio.create_task(child.wait()) for child in gone]
    if waiting:
        await asyncio.wait(waiting, timeout=HEARD_S)
    return ProcessReport(
        killed=tuple(sorted({pid for report in reports for pid in report.killed})),
        unverified=tuple(dict.fromkeys(left for report in reports for left in report.unverified)),
    )


def _runs_programs(value: object) -> bool:
    if isinstance(value, Mapping):
        return "process" in value or any(map(_runs_programs, value.values()))
    return isinstance(value, list | tuple) and any(map(_runs_programs, value))
