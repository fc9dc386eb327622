"""The Switchboard: every verb of the manager, in this process. Decides when a verb is legal, and what must be durable
before it returns; the runtime runs the agents, the ledger remembers.

    store = await Store.open(path)
    async with await Switchboard.open(store, backends=tollboard.backends) as board:
        await board.start_session("api", path="/src/api", backend="echo")
        ref = await board.send("api", "what files are here?")
        report = await board.wait([ref])

The work is done next door: `lifecycle` (start, stop), `prompts` (send, poll, wait), `control` (halt, decide), `reading`
(inbox, transcript, summaries), `tail` (the feed), `recovery` (what happens at a restart).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

from tollboard.clock import Clock
from tollboard.errors import DaemonError, Invalid, StoreError
from tollboard.fleet import receipts, recovery
from tollboard.fleet.board import DEFAULT_BACKEND, DEFAULT_READER, MAX_FEED_PAGE, MAX_PAGE
from tollboard.fleet.checking import checked
from tollboard.fleet.control import Control
from tollboard.fleet.ledger import Ledger
from tollboard.fleet.lifecycle import Lifecycle
from tollboard.fleet.prompts import Prompts, forget_failures
from tollboard.fleet.reading import Reading
from tollboard.fleet.records import (
    ApprovalRecord,
    ApprovalState,
    BackendInfo,
    BroadcastItem,
    Caller,
    Deleted,
    FeedItem,
    FeedPage,
    HaltReport,
    Inbox,
    InboxSession,
    Interrupted,
    Life,
    Poll,
    Receipt,
    SessionDefinition,
    SessionRecord,
    SessionStatus,
    StopReport,
    SubAgentCancelled,
    SubAgentMessages,
    SubAgentRecord,
    Summary,
    Transcript,
    WaitReport,
)
from tollboard.fleet.roster import BackendDirectory, Roster
from tollboard.fleet.session_agent import addressed, status_of
from tollboard.fleet.settings import FleetSettings, check_options, check_session_name
from tollboard.fleet.sub_agents import SubAgents
from tollboard.fleet.tail import Tail
from tollboard.ids import check_name, new_ref
from tollboard.runtime.approval import Decision
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase

logger = logging.getLogger("tollboard.fleet")

INTERRUPTED_S = 10.0
"""How long the turns that a close interrupts may take to end."""
STOP_S = 10.0
"""How long the agents may take to stop after that."""
LOCAL = Caller()


class Switchboard:
    """Implements `Board`. Belongs to one event loop; make it with `open`."""

    def __init__(
        self, ledger: Ledger, runtime: Runtime, backends: BackendDirectory, settings: FleetSettings
    ) -> None:
        self.caller = LOCAL
        self.configures = True
        self.settings = settings
        self._ledger = ledger
        self._runtime = runtime
        self._clock: Clock = runtime.clock
        self._roster = Roster(ledger, runtime, backends, settings)
        self._tail = Tail(ledger, runtime.clock, self._roster.id_of)
        self._reading = Reading(ledger, runtime.clock)
        self._tail.on_items = self._reading.heard
        self._lifecycle = Lifecycle(self._roster, ledger, runtime, self._tail)
        self._prompts = Prompts(self._roster, ledger, runtime)
        self._control = Control(self._roster, ledger, runtime, self._lifecycle)
        self._sub_agents = SubAgents(self._roster, ledger, runtime)
        self._state = _State()

    @classmethod
    async def open(
        cls, ledger: Ledger, *, backends: BackendDirectory, settings: FleetSettings | None = None,
        clock: Clock | None = None,
    ) -> Switchboard:  # fmt: skip
        """Bring the fleet back as the ledger remembers it (S12) and return its switchboard."""
        runtime = Runtime(clock=clock, pressure=LedgerPressure(ledger))
        board = cls(ledger, runtime, backends, settings or FleetSettings())
        try:
            await board._tail.open(runtime.telemetry)
            await recovery.recover(board._roster, ledger, board._tail)
        except BaseException:
            await board.close(grace_s=0)
            raise
        return board

    def on_behalf_of(self, caller: Caller, *, configures: bool = True) -> Switchboard:
        """Return the same switchboard with another caller, who is recorded with what it does (S27).

        One that does not configure may only start sessions with plain options (`FleetSettings.check_powers`).
        """
        view = copy.copy(self)
        view.caller = caller
        view.configures = configures
        return view

    def name_of(self, session_id: str) -> str | None:
        """Return the name of a session of the fleet by its id, `None` if there is none."""
        found = self._roster.find(session_id) if session_id else None
        return None if found is None else found.name

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, grace_s: float = 5.0) -> tuple[str, ...]:
        """Accept nothing more, give turns in flight `grace_s` seconds, then mark them interrupted. Idempotent.

        What is queued stays queued in the ledger and runs after the next start; whoever waits is sent home. Returns the
        names of sessions that did not end in time. The ledger is the caller's to close. A caller that gives up does not
        undo it; whoever calls it again waits for the same end.
        """
        if self._state.ending is None:
            self._state.ending = asyncio.get_running_loop().create_task(self._end(grace_s))
        return await asyncio.shield(self._state.ending)

    async def _end(self, grace_s: float) -> tuple[str, ...]:
        try:
            return await self._close(grace_s)
        finally:
            self._state.closed.set()
            self._reading.close()
            self._tail.close()

    async def _close(self, grace_s: float) -> tuple[str, ...]:
        # From here on: a session brought back meanwhile would begin what is left to the next start.
        self._runtime.closing = True
        self._suspend()
        await forget_failures(self._ledger)
        await self._settle_turns(grace_s)
        for session in self._roster:
            machine = session.machine
            if machine is None or machine.phase is not Phase.PROCESSING:
                continue
            if session.stopping is None and machine.leave():
                continue  # it has asked people only now
            machine.interrupt(None)
        await self._settle_turns(INTERRUPTED_S)
        late = await self._runtime.close(deadline_s=STOP_S)
        await self._lifecycle.settle(STOP_S)
        try:
            await self._ledger.flush()
        except StoreError as exc:
            # What could not be written stays as it was: a turn in flight will count as interrupted.
            logger.error("closing the fleet: %s", exc)
        return late

    def _suspend(self) -> None:
        for session in self._roster:
            if session.machine is None or session.stopping is not None:
                continue  # the queue of one that is being stopped ends with it: there is no next start for it
            session.machine.suspend()
            # What waits for people waits on: it goes on in the next life of the fleet.
            session.machine.leave()

    async def _settle_turns(self, timeout_s: float) -> None:
        waiting = [
            session.machine.rested
            for session in self._roster
            if session.machine is not None
            and session.machine.rested is not None
            and not session.machine.rested.done()
        ]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)

    def _open(self) -> None:
        if self._state.ending is not None:
            raise DaemonError("the fleet is shutting down and accepts nothing more; try again in a moment")

    # -- sessions ---------------------------------------------------------------------------------------------------

    @checked
    async def start_session(
        self, name: str, *, path: str | os.PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionStatus:
        """See `Board.start_session`."""
        self._open()
        asked = self._define(name, path, backend, options)
        record = SessionRecord(
            id=new_ref(), name=name, path=asked.path, backend=backend, options=asked.options, life=Life.LIVE,
            halted=False, created_at=self._clock.time(),
        )  # fmt: skip
        return (await self._lifecycle.start(record, self.caller)).status()

    def _define(
        self, name: str, path: str | os.PathLike[str], backend: str, options: Mapping[str, object]
    ) -> SessionDefinition:
        check_session_name(name)
        self.settings.check_backend(backend)
        self._roster.backend(backend)
        real = self.settings.check_path(path)
        if not self.configures:
            self.settings.check_powers(self._roster.backend(backend), real, options)
        check_options(options)
        return SessionDefinition(name, real, backend, dict(options))

    @checked
    async def check_session(
        self, name: str, *, path: str | os.PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionDefinition:
        """See `Board.check_session`."""
        self._open()
        asked = self._define(name, path, backend, options)
        await self._roster.check(asked)
        return asked

    @checked
    async def list_sessions(
        self, *, all: bool = False, reader: str = DEFAULT_READER
    ) -> tuple[SessionStatus, ...]:
        """See `Board.list_sessions`."""
        check_name(reader)
        stored = await self._ledger.sessions(every=True) if all else ()
        named = await self._ledger.named() if all else None
        cursors = await self._ledger.cursors(reader)
        shown = [session.status() for session in self._roster]
        known = {status.id for status in shown}
        shown += [status_of(record) for record in stored if record.id not in known]
        shown.sort(key=lambda status: (status.created_at, status.id))
        return tuple(addressed(status, cursors, named) for status in shown)

    @checked
    async def status(self, name: str, *, reader: str = DEFAULT_READER) -> SessionStatus:
        """See `Board.status`."""
        check_name(reader)
        record = await self._roster.record(name)
        named = await self._ledger.named(record.name) if record.life is Life.STOPPED else None
        cursors = await self._ledger.cursors(reader)
        session = self._roster.find(record.id)
        return addressed(session.status() if session is not None else status_of(record), cursors, named)

    @checked
    async def definition(self, name: str) -> SessionDefinition:
        """See `Board.definition`."""
        record = await self._roster.record(name)
        return SessionDefinition(record.name, record.path, record.backend, record.options)

    @checked
    async def stop_session(self, name: str, *, drain: bool = False) -> StopReport:
        """See `Board.stop_session`."""
        # Not while closing: what is queued was left to the next start, and one that is stopped has none.
        self._open()
        return await self._lifecycle.stop(self._roster.get(name), self.caller, drain=drain)

    @checked
    async def delete_session(self, name: str) -> Deleted:
        """See `Board.delete_session`."""
        return await self._lifecycle.delete(await self._roster.record(name))

    async def backends(self) -> tuple[BackendInfo, ...]:
        """See `Board.backends`."""
        names = self._roster.known_backends()
        found = await asyncio.gather(*(self._roster.backend(name).check() for name in names))
        return tuple(
            BackendInfo(name, health.ok, health.detail, health.mend)
            for name, health in zip(names, found, strict=True)
        )

    # -- prompts ----------------------------------------------------------------------------------------------------

    @checked
    async def send(self, name: str, prompt: str, *, queue: bool = False, key: str | None = None) -> str:
        """See `Board.send`."""
        self._open()
        return await self._prompts.send(name, prompt, queue, key, self._open)

    @checked
    async def poll(self, name: str, ref: str) -> Poll:
        """See `Board.poll`."""
        record = await self._roster.record(name)
        return await receipts.poll_one(self._roster, self._ledger, record.id, record.name, ref)

    @checked
    async def wait(
        self, refs: Sequence[str], *, timeout: float | None = None, mode: Literal["all", "any"] = "all"
    ) -> WaitReport:
        """See `Board.wait`."""
        return await self._prompts.wait(refs, timeout, mode, self._state.closed)

    @checked
    async def broadcast(
        self, prompt: str, *, names: Sequence[str] | None = None
    ) -> tuple[BroadcastItem, ...]:
        """See `Board.broadcast`."""
        self._open()
        return await self._prompts.broadcast(prompt, names)

    @checked
    async def cancel(self, name: str, ref: str) -> Receipt:
        """See `Board.cancel`."""
        self._open()
        session = self._roster.get(name)
        await self._prompts.cancel(session, ref)
        self._tail.write(session.id, session.name, "cancelled", {"by": str(self.caller)}, ref)
        return (await self.poll(session.id, ref)).receipt

    # -- reading ----------------------------------------------------------------------------------------------------

    @checked
    async def inbox(
        self, name: str | None = None, *, ack: bool = False, reader: str = DEFAULT_READER,
        wait: float | None = None, limit: int = 100,
    ) -> Inbox:  # fmt: skip
        """See `Board.inbox`."""
        record = await self._roster.record(name) if name is not None else None
        return await self._reading.inbox(record, ack=ack, reader=reader, wait_s=wait, limit=limit)

    @checked
    async def ack(self, name: str, seq: int, *, reader: str = DEFAULT_READER) -> InboxSession:
        """See `Board.ack`."""
        record = await self._roster.record(name)
        return await self._reading.ack(record, record.turns, seq, reader)

    @checked
    async def transcript(
        self, name: str, *, limit: int | None = None, before: int | None = None
    ) -> Transcript:
        """See `Board.transcript`."""
        return await self._reading.transcript(await self._roster.record(name), limit, before)

    @checked
    async def summary_get(self, name: str, *, version: int | None = None) -> Summary:
        """See `Board.summary_get`."""
        return await self._reading.summary(await self._roster.record(name), version)

    @checked
    async def summary_update(self, name: str, text: str) -> Summary:
        """See `Board.summary_update`."""
        self.settings.check_summary(text)
        return await self._reading.update_summary(await self._roster.record(name), text, self.caller)

    @checked
    async def summary_versions(self, name: str) -> tuple[Summary, ...]:
        """See `Board.summary_versions`."""
        return await self._reading.summary_versions(await self._roster.record(name))

    @checked
    async def events(
        self, name: str | None = None, *, kinds: Sequence[str] = (), ref: str | None = None, after: int = 0,
        limit: int = MAX_FEED_PAGE,
    ) -> FeedPage:  # fmt: skip
        """See `Board.events`."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_FEED_PAGE:
            raise Invalid(f"limit is {limit!r}: it must be a whole number between 1 and {MAX_FEED_PAGE:,}")
        first = _after(after)
        session = (await self._roster.record(name)).name if name is not None else None
        return await self._tail.page(session, _kinds(kinds), ref, first, limit)

    @property
    def newest_item(self) -> int:
        """Return the number of the newest item of the feed: where `tail` begins if it is not told."""
        return self._tail.last_seq

    def tail(
        self,
        name: str | None = None,
        *,
        kinds: Sequence[str] = (),
        ref: str | None = None,
        after: int | None = None,
    ) -> AsyncIterator[FeedItem]:
        """See `Board.tail`. From now on means from this call on, not from the first item asked for."""
        now = self._tail.last_seq
        return self._follow(name, _kinds(kinds), ref, now if after is None else _after(after), now)

    async def _follow(
        self, name: str | None, kinds: Sequence[str], ref: str | None, after: int, now: int
    ) -> AsyncIterator[FeedItem]:
        session = (await self._roster.record(name)).name if name is not None else None
        async with contextlib.aclosing(self._tail.follow(session, kinds, ref, after, now)) as items:
            async for item in items:
                yield item

    # -- control ----------------------------------------------------------------------------------------------------

    @checked
    async def interrupt(self, name: str, *, ref: str | None = None) -> Interrupted:
        """See `Board.interrupt`."""
        return await self._control.interrupt(self._roster.live(name), ref)

    @checked
    async def halt(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """See `Board.halt`."""
        self._open()
        return await self._control.halt(name, all=all)

    @checked
    async def resume(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """See `Board.resume`. A dead session is brought back if what it missed is there again."""
        self._open()
        return await self._control.resume(name, all=all)

    @checked
    async def approvals(self, name: str | None = None, *, all: bool = False) -> tuple[ApprovalRecord, ...]:
        """See `Board.approvals`."""
        session_id = (await self._roster.record(name)).id if name is not None else None
        state = None if all else ApprovalState.PENDING
        return tuple(await self._ledger.approvals(session_id=session_id, state=state))

    @checked
    async def subagents(
        self, name: str, *, all: bool = False, limit: int = MAX_PAGE
    ) -> tuple[SubAgentRecord, ...]:
        """See `Board.subagents`."""
        return await self._sub_agents.list(await self._roster.record(name), all=all, limit=limit)

    @checked
    async def subagent_messages(self, id: str, *, after: int = 0, limit: int = MAX_PAGE) -> SubAgentMessages:
        """See `Board.subagent_messages`."""
        return await self._sub_agents.messages(id, after=after, limit=limit)

    @checked
    async def cancel_subagent(self, id: str) -> SubAgentCancelled:
        """See `Board.cancel_subagent`."""
        self._open()
        return await self._sub_agents.cancel(id)

    @checked
    async def decide(self, approval_id: str, decision: Decision | Mapping[str, object]) -> ApprovalRecord:
        """See `Board.decide`."""
        return await self._control.decide(approval_id, decision, self.caller)


class _State:
    """What all views of one switchboard share and may change."""

    __slots__ = ("closed", "ending")

    def __init__(self) -> None:
        self.ending: asyncio.Task[tuple[str, ...]] | None = None
        self.closed = asyncio.Event()


class LedgerPressure:
    """Lets turns wait for the ledger rather than flood it. For every runtime whose turns are written down."""

    __slots__ = ("_ledger",)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def congested(self) -> bool:
        """Whether a turn should wait before it takes the next event."""
        return self._ledger.congested

    async def relieved(self) -> None:
        """Wait until what is written so far is durable, or has failed: a full disk must not hang a turn."""
        with contextlib.suppress(StoreError):
            await self._ledger.flush()


def _after(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid(f"after is {value!r}: it is the number of a feed item")
    return max(0, value)


def _kinds(value: Sequence[str]) -> Sequence[str]:
    if isinstance(value, str):
        raise Invalid("kinds is a list of kinds, not one text")
    return value
