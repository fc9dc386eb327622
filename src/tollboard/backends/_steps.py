"""The steps of a script: how each is checked and what it does. `_script.py` parses them, `scripted.py` plays them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from tollboard.backends import _options as check
from tollboard.backends._environment import inherited
from tollboard.errors import BackendError
from tollboard.runtime import event as events
from tollboard.runtime.approval import ALL_DECISIONS, ApprovalRequest, Approve, Decision, Edit, Reject, ask
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import Event, TextEvent, ToolResultEvent, ToolUseEvent, Usage
from tollboard.runtime.question import Answer, Question, read_question

if TYPE_CHECKING:
    import psutil

UNENCODABLE = "caf\udce9 \ud83d broken \0 text"
"""What `invalid_utf8` says: what a careless decoder makes of Latin-1 bytes, half an emoji, and a NUL."""

TURN = "TOLLBOARD_TURN"
_PIECES_PER_PAUSE = 200
_NOTHING: tuple[Event, ...] = ()


@dataclass(slots=True)
class Play:
    """One turn being played: what its steps read and write."""

    prompt: str
    turn: Turn
    cwd: str | None
    marker: tuple[str, str] | None
    messages: int = 0
    terminal: bool = True
    checkpointed: str | None = None
    close_s: float = 0.0
    marks: list[tuple[str, str]] = field(default_factory=list)
    """What the processes of this turn carry, once one may have been started."""
    processes: list[psutil.Process] = field(default_factory=list)
    children: list[asyncio.subprocess.Process] = field(default_factory=list)

    def fill(self, template: str, **values: str) -> str:
        """Return the template with `{prompt}` and the given names replaced; other braces stay."""
        for name, value in {"prompt": self.prompt, **values}.items():
            template = template.replace("{" + name + "}", value)
        return template

    def message(self, modifiers: Mapping[str, Any]) -> str:
        """Return the id of the message the next text belongs to."""
        self.messages += 1
        return str(modifiers.get("message", f"m{self.messages}"))

    async def close(self) -> None:
        """Take as long as `slow_close` said."""
        if self.close_s:
            await asyncio.sleep(self.close_s)


Step = Callable[[Play], AsyncIterator[Event]]
Maker = Callable[[Any, Mapping[str, Any]], Step]


def python_step(value: object) -> Step:
    """Return the step for an Event, an exception, an `asyncio.Event` or a callable."""
    if isinstance(value, Event):
        return _emit([value])
    if isinstance(value, BaseException):
        return _raise(value)
    if isinstance(value, asyncio.Event):
        return _wait_for(value)
    if callable(value):
        return lambda play: value(play.prompt, play.turn)
    raise ValueError(f"must be a text, an object or a list of steps, not {type(value).__name__}")


def _silent(action: Callable[[Play], Awaitable[None]]) -> Step:
    """Return the step that does something and says nothing."""

    async def step(play: Play) -> AsyncIterator[Event]:
        await action(play)
        for event in _NOTHING:
            yield event

    return step


def _emit(given: list[Event]) -> Step:
    async def step(play: Play) -> AsyncIterator[Event]:
        for event in given:
            yield event

    return step


def _raise(error: BaseException) -> Step:
    async def action(play: Play) -> None:
        raise error

    return _silent(action)


def _wait_for(gate: asyncio.Event) -> Step:
    async def action(play: Play) -> None:
        await gate.wait()

    return _silent(action)


def _text(value: Any, modifiers: Mapping[str, Any]) -> Step:
    said = check.text(value)
    chunks = check.whole(1)(modifiers.get("chunks", 1))

    async def step(play: Play) -> AsyncIterator[Event]:
        whole = play.fill(said)
        message = play.message(modifiers)
        size = max(1, -(-len(whole) // chunks))
        for start in range(0, max(1, len(whole)), size):
            yield TextEvent(whole[start : start + size], message=message)

    return step


def _delay(value: Any, modifiers: Mapping[str, Any]) -> Step:
    delay_s = check.seconds(value)

    async def action(play: Play) -> None:
        await asyncio.sleep(delay_s)

    return _silent(action)


def _hang(value: Any, modifiers: Mapping[str, Any]) -> Step:
    check.flag(value)

    async def action(play: Play) -> None:
        await asyncio.get_running_loop().create_future()

    return _silent(action)


def _stubborn(value: Any, modifiers: Mapping[str, Any]) -> Step:
    stubborn_s = check.seconds(value)

    async def action(play: Play) -> None:
        until = time.monotonic() + stubborn_s
        while (left := until - time.monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue  # the fault this step plays

    return _silent(action)


def _events(value: Any, modifiers: Mapping[str, Any]) -> Step:
    if not isinstance(value, list | tuple):
        raise ValueError("'events' must be a list")
    return _emit([item if isinstance(item, Event) else _event(item) for item in value])


def _event(spec: Any) -> Event:
    given = check.table(spec)
    kind = given.pop("kind", None)
    cls = _EVENTS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ValueError(f"event kind {kind!r} is unknown; kinds are {', '.join(_EVENTS)}")
    if isinstance(given.get("usage"), Mapping):
        given["usage"] = _usage_of(given["usage"])
    made: Event = cls(**given)
    return made


def _usage_of(value: Any) -> Usage:
    given = check.table(value)
    if unknown := given.keys() - {f.name for f in fields(Usage)}:
        raise ValueError(f"usage does not know {', '.join(sorted(unknown))}")
    return Usage(**given)


def _usage(value: Any, modifiers: Mapping[str, Any]) -> Step:
    return _emit([events.UsageEvent(_usage_of(value))])


def _approval(value: Any, modifiers: Mapping[str, Any]) -> Step:
    return _approvals([value], modifiers)


def _approvals(value: Any, modifiers: Mapping[str, Any]) -> Step:
    requests = [_request(item, number) for number, item in enumerate(value, 1)]
    then = modifiers.get("then")
    if then is not None:
        check.text(then)

    async def step(play: Play) -> AsyncIterator[Event]:
        for request in requests:
            yield ToolUseEvent(request.tool_call_id, request.tool, request.arguments)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(play.turn.request_approval(request)) for request in requests]
        for request, task in zip(requests, asked, strict=True):
            answer = _answer(play, request, task.result(), then)
            yield ToolResultEvent(request.tool_call_id, answer, is_error=isinstance(task.result(), Reject))
            yield TextEvent(answer, message=play.message(modifiers))

    return step


def _request(value: Any, number: int) -> ApprovalRequest:
    given = check.table(value)
    if unknown := given.keys() - {"tool", "arguments", "allowed", "display", "id", "questions"}:
        raise ValueError(f"an approval does not know {', '.join(sorted(unknown))}")
    if "questions" in given:
        return _ask(given, number)
    return ApprovalRequest(
        tool=check.name(given.get("tool")),
        arguments=check.table(given.get("arguments", {})),
        tool_call_id=str(given.get("id", f"call-{number}")),
        display=check.text(given.get("display", "")),
        allowed=tuple(check.one_of(*ALL_DECISIONS)(kind) for kind in given.get("allowed", ALL_DECISIONS)),
    )


def _ask(given: Mapping[str, Any], number: int) -> ApprovalRequest:
    asked = given["questions"]
    if not isinstance(asked, list) or not asked:
        raise ValueError("questions must be a list with at least one question")
    return ask(
        check.name(given.get("tool", "ask")),
        tuple(read_question(check.table(each)) for each in asked),
        arguments=check.table(given.get("arguments", {})),
        tool_call_id=str(given.get("id", f"call-{number}")),
        display=check.text(given.get("display", "")),
    )


def _answer(play: Play, request: ApprovalRequest, decision: Decision, then: str | None) -> str:
    """Return what to say about a decision: what was decided and the arguments that would have run."""
    message, arguments = "", request.arguments
    match decision:
        case Approve():
            word = "approved"
        case Edit(arguments=changed):
            word, arguments = "edited", changed
        case Reject(message=message):
            word = "rejected"
        case Answer():
            word = "answered"
            arguments = {each.id: _said(each, decision) for each in request.questions}
    shown = json.dumps(dict(arguments), ensure_ascii=False, default=str)
    default = "{decision}: {tool} {arguments}" + (": {message}" if message else "")
    return play.fill(then or default, decision=word, tool=request.tool, arguments=shown, message=message)


def _said(question: Question, answer: Answer) -> str:
    values = answer.reply(question.id).values
    return "*" * len(values) if question.secret else ", ".join(values)


def _result(value: Any, modifiers: Mapping[str, Any]) -> Step:
    said = None if value is None else check.text(value)

    async def step(play: Play) -> AsyncIterator[Event]:
        yield events.ResultEvent(None if said is None else play.fill(said))

    return step


def _error(value: Any, modifiers: Mapping[str, Any]) -> Step:
    said = check.text(value)

    async def step(play: Play) -> AsyncIterator[Event]:
        yield events.ErrorEvent(play.fill(said))

    return step


def _crash(value: Any, modifiers: Mapping[str, Any]) -> Step:
    said = check.text(value)

    async def action(play: Play) -> None:
        raise BackendError(said)  # a new one each time: a shared exception would collect tracebacks

    return _silent(action)


def _no_terminal(value: Any, modifiers: Mapping[str, Any]) -> Step:
    missing = check.flag(value)

    async def action(play: Play) -> None:
        play.terminal = not missing

    return _silent(action)


def _lines(value: Any, modifiers: Mapping[str, Any]) -> Step:
    count = check.whole(0)(value)
    size = max(1, -(-count // check.whole(1)(modifiers.get("chunks", max(1, count)))))

    async def step(play: Play) -> AsyncIterator[Event]:
        message = play.message(modifiers)
        for piece, first in enumerate(range(1, count + 1, size), 1):
            if piece % _PIECES_PER_PAUSE == 0:
                await asyncio.sleep(0)  # a real program's output lets others run too
            lines = range(first, min(first + size, count + 1))
            yield TextEvent("".join(f"line {number}\n" for number in lines), message=message)

    return step


def _invalid_utf8(value: Any, modifiers: Mapping[str, Any]) -> Step:
    check.flag(value)

    async def step(play: Play) -> AsyncIterator[Event]:
        yield TextEvent(UNENCODABLE, message=play.message(modifiers))

    return step


def _checkpoint(value: Any, modifiers: Mapping[str, Any]) -> Step:
    session_id = check.name(value)

    async def action(play: Play) -> None:
        await play.turn.checkpoint(session_id)
        play.checkpointed = session_id

    return _silent(action)


def _slow_close(value: Any, modifiers: Mapping[str, Any]) -> Step:
    close_s = check.seconds(value)

    async def action(play: Play) -> None:
        play.close_s = close_s

    return _silent(action)


def _process(value: Any, modifiers: Mapping[str, Any]) -> Step:
    argv = check.texts(value)
    if not argv:
        raise ValueError("a process needs a program")
    from tollboard.backends._process import identify  # psutil only where a script starts processes

    async def step(play: Play) -> AsyncIterator[Event]:
        env = inherited(os.environ)
        if play.marker is not None:
            env[play.marker[0]] = play.marker[1]
        # Noted first: a start that is cancelled after the fork gives no process, and what it began goes on.
        env[TURN] = f"{play.turn.ref}/{play.turn.attempt}"
        play.marks = [(TURN, env[TURN])]
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=play.cwd, env=env, stdin=null, stdout=null, stderr=null, start_new_session=True
        )
        if (started := identify(process.pid)) is not None:
            play.processes.append(started)
            play.children.append(process)
        yield events.NoticeEvent("process", str(process.pid))

    return step


KINDS: dict[str, Maker] = {
    "text": _text,
    "delay": _delay,
    "events": _events,
    "usage": _usage,
    "approval": _approval,
    "approvals": _approvals,
    "result": _result,
    "error": _error,
    "crash": _crash,
    "hang": _hang,
    "no_terminal": _no_terminal,
    "lines": _lines,
    "invalid_utf8": _invalid_utf8,
    "checkpoint": _checkpoint,
    "process": _process,
    "slow_close": _slow_close,
    "stubborn": _stubborn,
}
MODIFIERS = ("when", "chunks", "message", "then")
_EVENTS: dict[str, Any] = {
    cls.kind: cls
    for cls in (
        events.TextEvent,
        events.ToolUseEvent,
        events.ToolResultEvent,
        events.UsageEvent,
        events.NoticeEvent,
        events.ResultEvent,
        events.ErrorEvent,
    )
}
