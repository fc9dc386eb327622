"""One turn of a Claude Code session, from the prompt to the result, or to the last process it started being gone.

    next_event()   start the program if none runs ─► send the prompt ─► lines become events ─► the result ends the turn
    close()        called always: nothing to do after a result, else the turn is cleared away in a task of its own,
                   so that a second cancellation cannot stop half-way; the next prompt waits for that task

A program that died is not restarted within the turn: nothing runs twice unasked. The next prompt restarts it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import psutil

from tollboard.backends._claude_events import (
    Line,
    Translator,
    answers,
    changed_mode,
    effective,
    is_init,
    outcome,
)
from tollboard.backends._claude_login import in_vain, our_words, trouble
from tollboard.backends._claude_program import Program, ProgramFailed
from tollboard.ids import new_ref
from tollboard.runtime.approval import ApprovalRequest, Decision, Reject
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import ErrorCause, ErrorEvent, Event, ResultEvent, UsageEvent

if TYPE_CHECKING:
    from tollboard.backends.claude import ClaudeSession

_TERMINATED = "the session was terminated in the middle of the turn"
_GONE = "No conversation found"
# An interrupt that arrives before the program has taken the prompt up is lost, so it is repeated before we give up.
_BEGIN_WAIT_S = 3.0
_RESULT_WAITS_S = (1.5, 3.0)


class ClaudeTurn:
    """The state of one turn. Used by `ClaudeBackend.prompt` alone."""

    def __init__(self, session: ClaudeSession, text: str, turn: Turn) -> None:
        self._session = session
        self._text = text
        self._turn = turn
        self._uuid = new_ref()
        self._translator = Translator()
        self._ready: deque[Event] = deque()
        self._before: list[psutil.Process] = []
        self._closed = asyncio.Event()
        self._sent = False
        self._begun = False
        self._ended = False
        self._given_up = False
        """The terminal event is there, and what the program still does is to be ended."""
        self._key_source = self._refusal = ""
        session.turn = self

    async def next_event(self) -> Event | None:
        """Return the next event, `None` after the terminal one."""
        while not self._ready:
            if self._ended or self._given_up:
                return None
            await self._advance()
        return self._ready.popleft()

    async def _advance(self) -> None:
        """Take one step: start, send, or read a line."""
        session = self._session
        try:
            if not self._sent:
                started = await self._running_program()
                self._sent = self._session.begun = True
                await started.send(self._text, self._uuid)
            elif (program := session.program) is not None:
                if (line := await program.receive()) is None:
                    raise program.failure("Claude Code ended in the middle of the turn")
                await self._take(line)
            else:
                self._end(ErrorEvent(_TERMINATED))
        except ProgramFailed as failed:
            await self._program_failed(failed)

    # --- the program --------------------------------------------------------------------------------------------

    async def _running_program(self) -> Program:
        """Return the session's program, started or restarted if needed."""
        session = self._session
        if session.program is not None and not session.program.alive:
            await self._drop_program()  # it died between two turns: nothing was running, so nothing is lost
        if session.program is None:
            session.program = Program(
                session.options, session.id, resume=session.begun, marker=session.marker, ask=session.ask
            )
            await session.program.start()
        self._before = await session.program.processes()
        session.program.listen(True)
        return session.program

    async def _drop_program(self) -> None:
        program = self._session.program
        if program is not None:
            await program.end(politely=False)
            # Not before: a turn that is cancelled meanwhile is only cleared away when this has ended.
            self._session.program = None

    async def _program_failed(self, failed: ProgramFailed) -> None:
        """End what is left of the program, then begin anew if that is harmless, else end the turn with the failure."""
        session = self._session
        if session.program is None and self._sent:
            self._end(ErrorEvent(_TERMINATED))
            return
        await self._drop_program()
        if self._begun or _GONE not in failed.stderr:
            hint = "; the conversation goes on with the next prompt" if self._begun else ""
            self._end(ErrorEvent(f"{failed}{hint}", cause=ErrorCause.BROKEN))
        elif session.answered:
            self._end(
                ErrorEvent(
                    f"the conversation {session.id} is gone: Claude Code has no transcript of it. Nothing was started "
                    "in its place; start a new session, or reset this one, to go on without what was said"
                )
            )
        else:
            # No turn of it ever completed, so there is nothing to lose: begin it again under the same id.
            session.begun = self._sent = False

    # --- lines --------------------------------------------------------------------------------------------------

    async def _take(self, line: Line) -> None:
        if is_init(line):
            self._begun = True
            self._key_source = str(line.get("apiKeySource") or "")
            await self._note_effective(line, effective(line))
        elif mode := changed_mode(line):
            # By a plan that was approved, for one.
            await self._note_effective(line, {**self._session.effective, "permission_mode": mode})
        if line.get("type") == "conversation_reset":
            await self._note_id(str(line.get("new_conversation_id") or self._session.id))
        if line.get("type") == "assistant":
            self._refusal = str(line.get("error") or "")
        if line.get("type") != "result":
            self._ready += self._translator.events(line)
            if (vain := in_vain(line, self._key_source)) is not None:
                self._given_up = True
                self._ready += (vain, ErrorEvent(vain.message))
            return
        program = self._session.program
        cost_before = program.cost_usd if program is not None else 0.0
        if program is not None:
            program.note_cost(line)
        if answers(line, self._uuid):
            self._finish(self._in_our_words(line, outcome(line, cost_before)))

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

    def _in_our_words(self, line: Line, terminal: ResultEvent | ErrorEvent) -> ResultEvent | ErrorEvent:
        """Return the end of the turn; where a login or an account is what it lacks, say so and how to get it."""
        if isinstance(terminal, ResultEvent):
            return terminal
        status = line.get("api_error_status")
        lacks = trouble(self._refusal, status, terminal.message, self._key_source)
        if lacks is None:
            return ErrorEvent(our_words(terminal.message), terminal.usage)
        self._ready.append(lacks)
        return ErrorEvent(lacks.message, terminal.usage)

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
        if self._session.turn is self:
            self._session.turn = None
        if self._session.program is not None:
            self._session.program.listen(False)

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
            if self._sent and program.alive and await self._stopped(program):
                await program.end_tools(self._before)
            else:
                await self._drop_program()
        self._release()

    async def _stopped(self, program: Program) -> bool:
        """Interrupt the program and read on to the result of this turn; return whether it came in time."""
        if not await self._read_until(program, _BEGIN_WAIT_S, begun=True):
            return False
        for wait_s in _RESULT_WAITS_S:
            if not await program.interrupt():
                return False
            if await self._read_until(program, wait_s):
                return True
        return False

    async def _read_until(self, program: Program, wait_s: float, *, begun: bool = False) -> bool:
        """Read lines up to this turn's result, or only until the program has taken the prompt up."""
        try:
            async with asyncio.timeout(wait_s):
                while not (begun and self._begun):
                    if (line := await program.receive()) is None:
                        return False
                    self._begun = self._begun or is_init(line)
                    if line.get("type") == "result":
                        cost_before = program.cost_usd
                        program.note_cost(line)
                        if answers(line, self._uuid):
                            if (usage := outcome(line, cost_before).usage) is not None:
                                self._turn.report_usage(usage)  # an interrupted turn was paid for too (L08)
                            return True
        except TimeoutError:
            return False
        return True
