"""The echo backend: answers `echo: <prompt>`. It starts no process and no task, so ten thousand sessions are cheap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from tollboard.backends._options import Check, read_options, seconds, text, whole
from tollboard.ids import new_ref
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import ErrorEvent, Event, ResultEvent, TextEvent

_OPTIONS: Mapping[str, Check] = {"delay": seconds, "chunks": whole(1), "fail": text, "fail_on": text}


@dataclass(slots=True)
class EchoSession:
    """One conversation with an echo: its id, its options, and whether the id was reported already."""

    id: str
    cwd: str | None
    delay_s: float
    chunks: int
    fail: str | None
    fail_on: str | None
    reported: bool = False


class EchoBackend(Backend[EchoSession]):
    """Answer every prompt with itself.

    Options: `delay` (seconds a turn takes, spread over its chunks), `chunks` (how many pieces the answer comes in),
    `fail` (every turn fails with this message), `fail_on` (only turns whose prompt contains this text fail).
    """

    name: ClassVar[str] = "echo"
    plain_options: ClassVar[frozenset[str]] = frozenset(_OPTIONS)
    remembers: ClassVar[bool] = False

    def check_options(self, options: Mapping[str, object]) -> None:
        """Raise InvalidOption for an unknown or bad option."""
        read_options(self.name, options, _OPTIONS)

    async def start_session(self, options: Mapping[str, object]) -> EchoSession:
        """Return a session under a new id."""
        return _session(new_ref(), options)

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> EchoSession:
        """Return a session under the earlier id; an echo remembers nothing, so nothing can be gone."""
        return _session(provider_session_id, options)

    async def prompt(self, session: EchoSession, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        """Yield the answer in `chunks` pieces, or the failure the options ask for."""
        if not session.reported:
            await turn.checkpoint(session.id, {"cwd": session.cwd} if session.cwd else None)
            session.reported = True
        if (failure := _failure(session, text)) is not None:
            await asyncio.sleep(session.delay_s)
            yield ErrorEvent(failure)
            return
        answer = f"echo: {text}"
        pause_s = session.delay_s / session.chunks
        for piece in _pieces(answer, session.chunks):
            if pause_s:
                await asyncio.sleep(pause_s)
            yield TextEvent(piece, message="1")
        yield ResultEvent(answer)

    async def terminate_session(self, session: EchoSession) -> ProcessReport:
        """End nothing: an echo has no process."""
        return NO_PROCESSES

    async def reset_session(self, session: EchoSession) -> EchoSession:
        """Return the same session under a new id."""
        return EchoSession(
            new_ref(), session.cwd, session.delay_s, session.chunks, session.fail, session.fail_on
        )


def _session(session_id: str, options: Mapping[str, object]) -> EchoSession:
    given = read_options(EchoBackend.name, options, _OPTIONS)
    return EchoSession(
        id=session_id,
        cwd=given.get("cwd"),
        delay_s=given.get("delay", 0.0),
        chunks=given.get("chunks", 1),
        fail=given.get("fail"),
        fail_on=given.get("fail_on"),
    )


def _failure(session: EchoSession, text: str) -> str | None:
    """Return the message this turn fails with, `None` if it does not fail."""
    if session.fail_on is not None:
        return (session.fail or f"told to fail on {session.fail_on!r}") if session.fail_on in text else None
    return session.fail


def _pieces(answer: str, count: int) -> list[str]:
    """Return the answer cut into at most `count` pieces of nearly equal length, none of them empty."""
    count = min(count, len(answer))
    cuts = [len(answer) * n // count for n in range(count + 1)]
    return [answer[a:b] for a, b in pairwise(cuts)]
