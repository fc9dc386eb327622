"""One turn of a Claude Code session, from the prompt to the result, or to the last process it started being gone.

    next_event()   start the program if none runs ─► send the prompt ─► lines become events ─► the result ends the turn
    close()        called always: nothing to do after a result, else the turn is cleared away in a task of its own,
                   so that a second cancellation cannot stop half-way; the next prompt waits for that task

A turn that the program began by itself (`OwnTurn`) is followed in the same way; only nothing is sent. Which lines are a
turn's is found out in `_claude_stream.py`. A program that died is not restarted within the turn: nothing runs twice
unasked. The next prompt restarts it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil

from tollboard.backends._claude_events import (
    CallUsage,
    Line,
    Translator,
    changed_mode,
    effective,
    is_init,
)
from tollboard.backends._claude_login import in_vain, our_words, trouble
from tollboard.backends._claude_program import Program, ProgramFailed
from tollboard.backends._claude_stream import Said, Speech
from tollboard.ids import new_ref
from tollboard.runtime.approval import ApprovalRequest, Decision, Reject
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import ErrorCause, ErrorEvent, Event, ResultEvent, UsageEvent

if TYPE_CHECKING:
    from tollboard.backends.claude import ClaudeSession

_TERMINATED = "the session was terminated in the middle of the turn"
_DIED = "Claude Code ended in the middle of the turn"
_GONE = "No conversation found"
# An interrupt that arrives before the program has taken the prompt up is lost, so it is repeated before we give up.
_BEGIN_WAIT_S = 3.0
_RESULT_WAITS_S = (1.5, 3.0)


class OwnTurn:
    """A turn that the program has begun by itself, and what every turn has in common."""

    def __init__(self, session: ClaudeSession, turn: Turn, speech: Speech) -> None:
        self._session = session
        self._turn = turn
        self._speech = speech
        self._translator = Translator()
        self._calls = CallUsage()
        self._ready: deque[Event] = deque()
        self._before: list[psutil.Process] | None = None
        self._closed = asyncio.Event()
        self._ended = False
        self._given_up = False
        """The terminal event is there, and what the program still does is to be ended."""
        self._key_source = self._refusal = ""
        session.turn = self
        speech.follow()

    @property
    def ref(self) -> str:
        """Return the request that the turn belongs to."""
        return self._turn.ref

    async def next_event(self) -> Event | None:
        """Return the next event, `None` after the terminal one."""
        while not self._ready:
            if self._ended or self._given_up:
                return None
            await self._advance()
        return self._ready.popleft()

    async def _advance(self) -> None:
        """Read a line."""
        if self._before is None and (running := self._session.program) is not None:
            self._before = await running.processes()
        if (said := await self._speech.next()) is not None:
            await self._take(said)
        elif (program := self._session.program) is None:
            self._end(ErrorEvent(_TERMINATED, cause=ErrorCause.BROKEN, interrupted=True))
        else:
            failed = program.failure(_DIED)
            await self._drop_program()
            self._end(ErrorEvent(str(failed), cause=ErrorCause.BROKEN, interrupted=True))

    async def _drop_program(self) -> None:
        program = self._session.program
        if program is not None:
            await program.end(politely=False)
            # Not before: a turn that is cancelled meanwhile is only cleared away when this has ended.
            self._session.dropped()

    # --- lines --------------------------------------------------------------------------------------------------

    async def _take(self, said: Said) -> None:
        if isinstance(said, ResultEvent | ErrorEvent):
            self._finish(self._in_our_words(said))
            return
        if is_init(said):
            self._key_source = str(said.get("apiKeySource") or "")
            await self._note_effective(said, effective(said))
        elif mode := changed_mode(said):
            # By a plan that was approved, for one.
            await self._note_effective(said, {**self._session.effective, "permission_mode": mode})
        if said.get("type") == "conversation_reset":
            await self._note_id(str(said.get("new_conversation_id") or self._session.id))
        if said.get("type") == "assistant":
            self._refusal = str(said.get("error") or "")
        self._ready += self._translator.events(said)
        if (vain := in_vain(said, self._key_source)) is not None:
            self._given_up = True
            self._ready += (vain, ErrorEvent(vain.message, cause=ErrorCause.REFUSED))
        if (used := self._calls.usage(said)) is not None:
            self._ready.append(UsageEvent(used))

    async def _note_effective(self, line: Line, found: dict[str, str]) -> None:
        """Report what the program really runs with, whenever it changes (S24, B07)."""
        session = self._session
        session_id = str(line.get("session_id") or session.id)
        if found != session.effective or session_id != session.id:
            session.effective, session.id = found, session_id
            await self._turn.checkpoint(session_id, found)

    async def _note_id(self, session_id: str) -> None:
        if session_id != self._session.id:
            self._session.id = session_id
            await self._turn.checkpoint(session_id, self._session.effective)

    def _in_our_words(self, terminal: ResultEvent | ErrorEvent) -> ResultEvent | ErrorEvent:
        """Return the end of the turn; where a login or an account is what it lacks, say so and how to get it."""
        if isinstance(terminal, ResultEvent):
            return terminal
        lacks = trouble(self._refusal, None, terminal.message, self._key_source)
        if lacks is None:
            return replace(terminal, message=our_words(terminal.message))
        self._ready.append(lacks)
        return replace(terminal, message=lacks.message, cause=ErrorCause.REFUSED)

    def _finish(self, terminal: ResultEvent | ErrorEvent) -> None:
        if isinstance(terminal, ResultEvent):
            self._session.answered = True
        if terminal.usage is not None:
            self._ready.append(UsageEvent(terminal.usage))
        self._end(terminal)

    def _end(self, terminal: ResultEvent | ErrorEvent) -> None:
        self._ready.append(terminal)
        self._ended = True
        self._release()

    def _release(self) -> None:
        """Let go of the session: no more lines, no more questions."""
        self._closed.set()
        self._speech.leave()
        if self._session.turn is self:
            self._session.turn = None

    # --- questions ----------------------------------------------------------------------------------------------

    async def decide(self, request: ApprovalRequest) -> Decision:
        """Ask a person; the end of the turn answers for them."""
        asking = asyncio.ensure_future(self._turn.request_approval(request))
        over = asyncio.create_task(self._closed.wait())
        try:
            await asyncio.wait({asking, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.cancel()
            if not asking.done():
                asking.cancel()  # the program withdrew the question, or the turn is over
        if not asking.done() or asking.cancelled():
            return Reject("The turn has ended; this call was not allowed.")
        if asking.exception() is not None:
            return Reject("Nobody could be asked; this call was not allowed.")
        return asking.result()

    # --- closing early ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Begin to end everything the turn started, unless it has ended. Idempotent, never waits."""
        if not self._ended:
            self._ended = True
            self._session.closing = asyncio.create_task(self._clear_away())

    async def _clear_away(self) -> None:
        """Stop the turn and its commands; if the program does not obey, end the program."""
        self._closed.set()
        program = self._session.program
        if program is not None:
            stream = self._session.stream
            stream.interrupting = True
            try:
                if self._sent and program.alive and await self._stopped(program):
                    await self._end_background(program)
                elif not self._waits:
                    await self._drop_program()
            finally:
                stream.interrupting = False
        self._release()

    @property
    def _sent(self) -> bool:
        """Whether the program knows of the turn."""
        return True

    _waits = False
    """Whether it waits for a turn of the program's own, of which it must leave everything alone."""

    async def _end_background(self, program: Program) -> None:
        """End what the turn has left running: first by the program's own means, or it would wonder, and go on."""
        for task in tuple(self._session.stream.running.values()):
            if task.ref == self._turn.ref:
                await program.stop_task(task.id)
        if self._before is not None:
            await program.end_tools(self._before)

    async def _stopped(self, program: Program) -> bool:
        """Interrupt the program and read on to the result of this turn; return whether it came in time."""
        if not await self._read_until(_BEGIN_WAIT_S, begun=True):
            return False
        for wait_s in _RESULT_WAITS_S:
            if self._speech.over:
                return True  # it has ended by itself: an interrupt would hit what comes after it
            if not await program.interrupt():
                return False
            if await self._read_until(wait_s):
                return True
        return False

    async def _read_until(self, wait_s: float, *, begun: bool = False) -> bool:
        """Read lines up to this turn's result, or only until the program has taken the prompt up."""
        try:
            async with asyncio.timeout(wait_s):
                while not (begun and self._speech.begun):
                    said = await self._speech.next()
                    if said is None:
                        return False
                    if isinstance(said, ResultEvent | ErrorEvent):
                        if said.usage is not None:
                            self._turn.report_usage(said.usage)  # an interrupted turn was paid for too (L08)
                        return True
        except TimeoutError:
            return False
        return True


class ClaudeTurn(OwnTurn):
    """The turn of a prompt."""

    def __init__(self, session: ClaudeSession, text: str, turn: Turn) -> None:
        super().__init__(session, turn, Speech(followed=True))
        self._text = text
        self._uuid = new_ref()
        self._was_sent = self._waits = False

    @property
    def _sent(self) -> bool:
        return self._was_sent

    async def _advance(self) -> None:
        """Take one step: start, send, or read a line."""
        session = self._session
        try:
            if not self._was_sent:
                started = await self._running_program()
                self._waits = True
                await session.stream.quiet()
                self._waits = False
                self._speech = session.stream.ask(self._uuid)
                self._was_sent = session.begun = True
                await started.send(self._text, self._uuid)
            elif session.program is None:
                self._end(ErrorEvent(_TERMINATED, cause=ErrorCause.BROKEN, interrupted=True))
            elif (said := await self._speech.next()) is not None:
                await self._take(said)
            elif (program := session.program) is not None:
                raise program.failure(_DIED)
        except ProgramFailed as failed:
            await self._program_failed(failed)

    async def _running_program(self) -> Program:
        """Return the session's program, started or restarted if needed."""
        session = self._session
        if session.program is not None and not session.program.alive:
            await (
                self._drop_program()
            )  # it died between two turns; what it ran in the background is said to be lost
        if session.program is None:
            session.program = Program(
                session.options,
                session.id,
                resume=session.begun,
                marker=session.marker,
                ask=session.ask,
                stream=session.new_stream(),
            )
            await session.program.start()
        self._before = await session.program.processes()
        return session.program

    async def _program_failed(self, failed: ProgramFailed) -> None:
        """End what is left of the program, then begin anew if that is harmless, else end the turn with the failure."""
        session = self._session
        if session.program is None and self._was_sent:
            self._end(ErrorEvent(_TERMINATED, cause=ErrorCause.BROKEN, interrupted=True))
            return
        await self._drop_program()
        begun = self._speech.begun
        if begun or _GONE not in failed.stderr:
            hint = "; the conversation goes on with the next prompt" if begun else ""
            self._end(ErrorEvent(f"{failed}{hint}", cause=ErrorCause.BROKEN, interrupted=begun))
        elif session.answered:
            self._end(
                ErrorEvent(
                    f"the conversation {session.id} is gone: Claude Code has no transcript of it. Nothing was started "
                    "in its place; start a new session, or reset this one, to go on without what was said"
                )
            )
        else:
            # No turn of it ever completed, so there is nothing to lose: begin it again under the same id.
            session.begun = self._was_sent = False

    def _release(self) -> None:
        if self._was_sent:
            self._session.stream.forget(self._uuid)
        super()._release()
