"""How sessions begin and end: start, stop, revive, delete. The Switchboard decides when; `recovery` does at start-up.

Each of these is several durable steps, so each runs as a task of its own that a caller who gives up cannot cut in
half; whoever asks for the same thing meanwhile joins it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from tollboard.errors import AgentDead, Conflict, StoreUnavailable
from tollboard.fleet import recovery
from tollboard.fleet.ledger import Ledger
from tollboard.fleet.records import Caller, Deleted, Life, SessionRecord, StopReport
from tollboard.fleet.roster import Roster
from tollboard.fleet.session_agent import LiveSession
from tollboard.fleet.tail import Tail
from tollboard.runtime.approvals import UNDECIDED, expire_unasked
from tollboard.runtime.backend import NO_PROCESSES, ProcessReport
from tollboard.runtime.results import Failed, Reason
from tollboard.runtime.runtime import Runtime

R = TypeVar("R")
STALL_S = 5.0
"""How long a stop waits before it looks whether it is the disk that keeps it."""
NOT_RECORDED = "it was stopped, but that could not be written down; stop it again, or resume it"


class Lifecycle:
    """Begins and ends sessions."""

    def __init__(self, roster: Roster, ledger: Ledger, runtime: Runtime, tail: Tail) -> None:
        self._roster = roster
        self._ledger = ledger
        self._runtime = runtime
        self._tail = tail
        self._tasks: set[asyncio.Task[Any]] = set()

    def _task(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did any more, it is not to be reported as lost

    async def settle(self, timeout_s: float) -> None:
        """Wait until what is under way is done."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout_s)

    # -- start

    async def start(self, record: SessionRecord, caller: Caller) -> LiveSession:
        """Start a session. Raises AgentExists, and whatever its backend and the ledger raise; then nothing is left."""
        self._roster.reserve(record.name)
        return await asyncio.shield(self._task(self._start(record, caller)))

    async def _start(self, record: SessionRecord, caller: Caller) -> LiveSession:
        session = LiveSession(record, self._ledger.journal(record))
        try:
            await self._roster.start(session)
            try:
                await self._ledger.create_session(record)
            except BaseException:
                _ = await self._runtime.stop(record.name)
                raise
            # Found from here on: no prompt is accepted for a session that is not durable.
            self._roster.add(session)
        finally:
            self._roster.release(record.name)
        data = {"backend": record.backend, "path": record.path, "by": str(caller)}
        self._tail.write(record.id, record.name, "session.started", data)
        return session

    # -- stop

    async def stop(self, session: LiveSession, caller: Caller, *, drain: bool) -> StopReport:
        """Stop a session, or join the stop that is under way.

        Raises StoreUnavailable when it takes long and nothing can be written: the stop itself goes on.
        """
        if session.stopping is None:
            session.stopping = self._task(self._stop(session, caller, drain))
        elif not drain and session.machine is not None:
            # It may be a drain, which waits for its turn; a stop does not. The end is one all the same.
            _ = self._task(self._runtime.stop(session.name))
        stopping = session.stopping
        self._ledger.hurry()
        while not stopping.done():
            await asyncio.wait({stopping}, timeout=STALL_S)
            if not stopping.done() and self._ledger.trouble is not None:
                raise StoreUnavailable(
                    f"session {session.name!r} is being stopped, which cannot be written down yet: "
                    f"{self._ledger.trouble}, and so does the stop"
                )
        return stopping.result()

    async def _stop(self, session: LiveSession, caller: Caller, drain: bool) -> StopReport:
        try:
            if session.reviving is not None:
                await asyncio.wait([session.reviving])
            failed, processes = await self._end_agent(session, drain)
            await self._ledger.set_life(session.id, Life.STOPPED, at=self._roster.clock.time())
            self._roster.remove(session)
        finally:
            session.stopping = None  # one that failed may be tried again
        data: dict[str, object] = {"failed": len(failed), "by": str(caller)}
        if processes.unverified:
            data["unverified"] = list(processes.unverified)
        self._tail.write(session.id, session.name, "session.stopped", data)
        return StopReport(session.name, session.id, failed, processes.killed, processes.unverified)

    async def _end_agent(self, session: LiveSession, drain: bool) -> tuple[tuple[str, ...], ProcessReport]:
        if session.machine is None:
            return await self._end_queue(session), NO_PROCESSES
        done = await (self._runtime.drain if drain else self._runtime.stop)(session.name)
        session.die(NOT_RECORDED)
        return done.failed, done.processes

    async def _end_queue(self, session: LiveSession) -> tuple[str, ...]:
        """End what waits for a session that is dead."""
        queued, session.waiting = session.waiting, []
        for request in queued:
            expire_unasked(session.journal, self._runtime.telemetry, request, UNDECIDED)
        commits = [session.journal.finished(request, Failed(Reason.STOPPED), 0.0) for request in queued]
        for commit in commits:
            if commit is not None:
                await commit
        self._roster.tell_ended()
        return tuple(request.ref for request in queued)

    # -- revive

    async def revive(self, sessions: Sequence[LiveSession]) -> list[LiveSession]:
        """Bring dead sessions back. Raises AgentDead when one of them stays dead."""
        back = await self.try_revive(sessions)
        for session in sessions:
            if session not in back:
                raise AgentDead(f"session {session.name!r} is still dead: {session.record.problem}")
        return back

    async def try_revive(self, sessions: Sequence[LiveSession]) -> list[LiveSession]:
        """Bring dead sessions back, all at once, as far as that is possible; return those that live again."""
        tasks = [self._reviving(session) for session in sessions]
        if tasks:
            await asyncio.wait(tasks)
        return [session for session in sessions if session.machine is not None]

    def _reviving(self, session: LiveSession) -> asyncio.Task[None]:
        if session.reviving is None:
            session.reviving = self._task(self._revive(session))
        return session.reviving

    async def _revive(self, session: LiveSession) -> None:
        try:
            if session.stopping is None and session.machine is None:
                stored = await self._ledger.find_session(session.id)
                if stored is not None:
                    session.record = recovery.refreshed(session.record, stored)
                await recovery.revive(self._roster, session)
        finally:
            session.reviving = None

    # -- delete

    async def delete(self, record: SessionRecord) -> Deleted:
        """Remove a stopped session with all its rows. Raises Conflict while it lives."""
        if record.life is not Life.STOPPED:
            raise Conflict(f"session {record.name!r} is {record.life.value}: stop it before you delete it")
        await self._ledger.delete_session(record.id)
        self._tail.forget()
        return Deleted(record.name, record.id, record.turns)
