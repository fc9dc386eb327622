"""A fresh conversation in a Claude Code program that runs: its `/clear`, sent as a prompt.

Measured with Claude Code 2.1.329: it calls no model, takes 0.1 to 0.3 s, gives the conversation a new id (that of the
next `init` line; the one in `conversation_reset` is not used afterwards) and begins the cost anew at zero. What works
in the background is not ended by it and would report into the next conversation, so such a program is not kept.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tollboard.backends._claude_events import is_init
from tollboard.backends._claude_program import Program, ProgramFailed
from tollboard.backends._claude_stream import Stream
from tollboard.ids import new_ref
from tollboard.runtime.event import ErrorEvent, ResultEvent

if TYPE_CHECKING:
    from tollboard.backends.claude import ClaudeSession

CLEAR_WAIT_S = 10.0


async def clear(session: ClaudeSession) -> None:
    """Give a session that is between two turns a fresh conversation; the program is ended if it cannot."""
    program = session.program
    new_id = None
    if program is not None and program.alive:
        new_id = await _cleared(program, session.stream)
    if new_id is None:
        if program is not None:
            await program.end(politely=program.alive)
            session.dropped()
        new_id, session.begun = new_ref(), False
    session.id = new_id
    session.effective = {}
    session.answered = session.reported = False


async def _cleared(program: Program, stream: Stream) -> str | None:
    """Return the id of the program's new conversation, `None` if it has none, or if something works in it still."""
    uuid = new_ref()
    reset, new_id = False, None
    try:
        async with asyncio.timeout(CLEAR_WAIT_S):
            await stream.quiet()
            if stream.running:
                return None
            speech = stream.ask(uuid)
            await program.send("/clear", uuid)
            while (said := await speech.next()) is not None:
                if isinstance(said, ResultEvent | ErrorEvent):
                    return new_id if reset and not stream.running else None
                if said.get("type") == "conversation_reset":
                    reset = True
                elif is_init(said) and reset:
                    new_id = str(said.get("session_id") or "") or None
    except (TimeoutError, ProgramFailed):
        return None
    finally:
        stream.forget(uuid)
    return None
