"""The Switchboard: every verb of the manager, in this process. Decides when a verb is legal, and what must be durable
before it returns; the runtime runs the agents, the ledger remembers.

    store = await Store.open(path)
    async with await Switchboard.open(store) as board:
        await board.start_session("api", path="/src/api", backend="echo")
        ref = await board.send("api", "what files are here?")
        report = await board.wait([ref])
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self

import tollboard.fleet.board as limits
from tollboard.clock import Clock
from tollboard.errors import (
    AgentDead,
    AlreadyDecided,
    ApprovalNotFound,
    Conflict,
    DaemonError,
    Invalid,
    KeyReused,
    RequestNotFound,
    SessionBusy,
    SessionHalted,
    StoreError,
    TimedOut,
    TollboardError,
)
from tollboard.fleet import receipts, recovery
from tollboard.fleet.board import DEFAULT_BACKEND, DEFAULT_READER, MAX_FEED_PAGE, MAX_WAIT_S
from tollboard.fleet.ledger import Ledger
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
    HeldRequest,
    Inbox,
    InboxSession,
    Interrupted,
    Life,
    Poll,
    PollPending,
    Receipt,
    SessionRecord,
    SessionStatus,
    StopReport,
    Summary,
    Transcript,
    WaitReport,
)
from tollboard.fleet.roster import BackendDirectory, Roster
from tollboard.fleet.session_agent import LiveSession, status_of
from tollboard.fleet.settings import FleetSettings, refuse_secrets
from tollboard.fleet.tail import Tail
from tollboard.ids import check_name, new_ref
from tollboard.runtime.approval import Decision, parse_decision
from tollboard.runtime.options import split_options
from tollboard.runtime.results import Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase

PREVIEW = 80
INTERRUPT_WAIT_S = 10.0
MAX_KEY = 200
MAX_REFS = 10_000
LOCAL = Caller()


class Switchboard:
    """Implements `Board`. Belongs to one event loop; make it with `open`."""

    def __init__(
        self, ledger: Ledger, runtime: Runtime, backends: BackendDirectory, settings: FleetSettings
    ) -> None:
        self.caller = LOCAL
        self.settings = settings
        self._ledger = ledger
        self._runtime = runtime
        self._clock: Clock = runtime.clock
        self._roster = Roster(ledger, runtime, backends, settings)
        self._tail = Tail(ledger, runtime.clock, self._roster.id_of)
        self._reading = Reading(ledger, runtime.clock)
        self._tail.on_items = self._reading.heard
        self._keys: dict[tuple[str, str], tuple[str, str, asyncio.Future[None]]] = {}
        self._state = _State()

    @classmethod
    async def open(
        cls, ledger: Ledger, *, backends: BackendDirectory, settings: FleetSettings | None = None,
        clock: Clock | None = None,
    ) -> Switchboard:  # fmt: skip
        """Bring the fleet back as the ledger remembers it (S12) and return its switchboard."""
        runtime = Runtime(clock=clock, pressure=_LedgerPressure(ledger))
        board = cls(ledger, runtime, backends, settings or FleetSettings())
        await board._tail.open(runtime.telemetry)
        await recovery.recover(board._roster, ledger)
        return board

    def on_behalf_of(self, caller: Caller) -> Switchboard:
        """Return the same switchboard with another caller, who is recorded with what it does (S27)."""
        view = copy.copy(self)
        view.caller = caller
        return view

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, grace_s: float = 5.0) -> tuple[str, ...]:
        """Accept nothing more, give turns in flight `grace_s` seconds, then mark them interrupted. Idempotent.

        What is queued stays queued in the ledger and runs after the next start. Returns the names of sessions that
        did not end in time. The ledger is the caller's to close.
        """
        if self._state.closing:
            return ()
        self._state.closing = True
        machines = [session.machine for session in self._roster if session.machine is not None]
        for machine in machines:
            machine.suspend()
        await self._settle_turns(grace_s)
        for machine in machines:
            if machine.phase is Phase.PROCESSING:
                machine.interrupt(None)
        await self._settle_turns(INTERRUPT_WAIT_S)
        late = await self._runtime.close()
        await self._ledger.flush()
        return late

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
        if self._state.closing:
            raise DaemonError("the fleet is shutting down and accepts nothing more; try again in a moment")

    # -- sessions ---------------------------------------------------------------------------------------------------

    async def start_session(
        self, name: str, *, path: str | os.PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionStatus:
        """See `Board.start_session`."""
        self._open()
        check_name(name)
        self.settings.check_backend(backend)
        self._roster.backend(backend)
        real = self.settings.check_path(path)
        if taken := {"cwd", "env_marker"} & options.keys():
            raise Invalid(f"{min(taken)} is not an option: the session's directory is its path")
        refuse_secrets(options)
        split_options(dict(options))
        self._roster.reserve(name)
        try:
            record = SessionRecord(
                id=new_ref(), name=name, path=real, backend=backend, options=dict(options), life=Life.LIVE,
                halted=False, created_at=self._clock.time(),
            )  # fmt: skip
            session = await self._roster.start(record)
            try:
                await self._ledger.create_session(record)
            except BaseException:
                await self._runtime.stop(name)
                self._roster.remove(session)
                raise
        finally:
            self._roster.release(name)
        self._tail.write(
            record.id, name, "session.started", {"backend": backend, "path": real, "by": str(self.caller)}
        )
        return session.status()

    async def list_sessions(self, *, all: bool = False) -> tuple[SessionStatus, ...]:
        """See `Board.list_sessions`."""
        live = [session.status() for session in self._roster]
        if not all:
            return tuple(live)
        known = {status.id for status in live}
        stopped = [status_of(r) for r in await self._ledger.sessions(every=True) if r.id not in known]
        return tuple(sorted([*stopped, *live], key=lambda status: status.created_at))

    async def status(self, name: str) -> SessionStatus:
        """See `Board.status`."""
        session = self._roster.find(name)
        return session.status() if session is not None else status_of(await self._roster.record(name))

    async def stop_session(self, name: str, *, drain: bool = False) -> StopReport:
        """See `Board.stop_session`."""
        session = self._roster.get(name)
        failed: tuple[str, ...] = ()
        killed: tuple[int, ...] = ()
        unverified: tuple[str, ...] = ()
        if session.machine is not None:
            verb = self._runtime.drain if drain else self._runtime.stop
            done = await verb(session.name)
            failed, killed, unverified = done.failed, done.processes.killed, done.processes.unverified
        else:
            failed = await self._end_queue_of_dead(session)
        at = self._clock.time()
        await self._ledger.set_life(session.id, Life.STOPPED, at=at)
        self._roster.remove(session)
        self._tail.write(
            session.id, session.name, "session.stopped", {"failed": len(failed), "by": str(self.caller)}
        )
        return StopReport(session.name, session.id, failed, killed, unverified)

    async def _end_queue_of_dead(self, session: LiveSession) -> tuple[str, ...]:
        queued = [stored for stored in await self._ledger.unfinished() if stored.session_id == session.id]
        for stored in queued:
            commit = session.journal.finished(recovery.as_request(stored), Failed(Reason.STOPPED), 0.0)
            if commit is not None:
                await commit
        return tuple(stored.ref for stored in queued)

    async def delete_session(self, name: str) -> Deleted:
        """See `Board.delete_session`."""
        record = await self._roster.record(name)
        if record.life is not Life.STOPPED:
            raise Conflict(f"session {record.name!r} is {record.life.value}: stop it before you delete it")
        await self._ledger.delete_session(record.id)
        return Deleted(record.name, record.id, record.turns)

    async def backends(self) -> tuple[BackendInfo, ...]:
        """See `Board.backends`."""
        names = self._roster.known_backends()
        found = await asyncio.gather(*(self._roster.backend(name).check() for name in names))
        return tuple(
            BackendInfo(name, health.ok, health.detail, health.mend)
            for name, health in zip(names, found, strict=True)
        )

    # -- prompts ----------------------------------------------------------------------------------------------------

    async def send(self, name: str, prompt: str, *, queue: bool = False, key: str | None = None) -> str:
        """See `Board.send`."""
        self._open()
        session = self._roster.live(name)
        self.settings.check_prompt(prompt)
        if key is not None:
            known = await self._known(session, key, prompt)
            if known is not None:
                return known
        self._open()
        if not queue:
            self._refuse_busy(session)
        return await self._accept(session, prompt, key)

    def _refuse_busy(self, session: LiveSession) -> None:
        machine = session.machine
        assert machine is not None
        if machine.halted:
            raise SessionHalted(
                f"session {session.name!r} is halted; resume it, or queue the prompt (--queue) for when it is resumed"
            )
        if machine.phase is not Phase.IDLE or machine.mailbox:
            waiting = " and waits for a decision" if machine.approvals else ""
            raise SessionBusy(
                f"session {session.name!r} is working on {machine.in_flight()}{waiting}; "
                "wait for it, interrupt it, or queue the prompt (--queue)"
            )

    async def _accept(self, session: LiveSession, prompt: str, key: str | None) -> str:
        """Accept and make durable. Nothing is awaited between the checks before this and the acceptance (E35)."""
        machine = session.machine
        if machine is None:
            raise AgentDead(f"session {session.name!r} is dead: {session.record.problem}")
        self.settings.check_path(session.record.path)
        ref = new_ref()
        if key is not None:
            session.journal.keyed(ref, key)
        request = self._runtime.accept(machine, prompt, ref=ref)
        commit = asyncio.ensure_future(_resolved(request.commit))
        if key is not None:
            slot = (session.id, key)
            self._keys[slot] = (ref, prompt, commit)
            commit.add_done_callback(lambda _: self._keys.pop(slot, None))
        try:
            await asyncio.shield(commit)
        except StoreError:
            self._runtime.withdraw(ref, Reason.STORE_FAILED)
            raise
        return ref

    async def _known(self, session: LiveSession, key: str, prompt: str) -> str | None:
        """Return the ref that this idempotency key stands for (S18). Raises KeyReused for another prompt."""
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or not key.isprintable():
            raise Invalid(f"an idempotency key is 1 to {MAX_KEY} printable characters")
        stored = await self._ledger.request_by_key(session.id, key)
        under_way = self._keys.get((session.id, key))
        if stored is not None:
            ref, before = stored.ref, stored.prompt
        elif under_way is not None:
            ref, before, commit = under_way
            await asyncio.shield(commit)
        else:
            return None
        if before != prompt:
            raise KeyReused(f"the key {key!r} was used with another prompt, as request {ref}")
        return ref

    async def poll(self, name: str, ref: str) -> Poll:
        """See `Board.poll`."""
        record = await self._roster.record(name)
        found = receipts.pending(self._roster, ref)
        if found is not None and found.receipt.session == record.name:
            return found
        stored = await self._ledger.request(ref)
        if stored is None or record.name not in (stored.session, stored.session_id):
            raise RequestNotFound(f"session {record.name!r} has no request {ref!r}")
        return receipts.of_stored(stored)

    async def wait(
        self, refs: Sequence[str], *, timeout: float | None = None, mode: Literal["all", "any"] = "all"
    ) -> WaitReport:
        """See `Board.wait`."""
        _check_wait(refs, timeout, mode)
        polled = await receipts.poll_all(self._roster, self._ledger, refs)
        waiting = [ref for ref in refs if receipts.pending(self._roster, ref) is not None]
        timed_out = False
        if waiting and (mode == "all" or all(isinstance(poll, PollPending) for poll in polled)):
            try:
                if mode == "all":
                    await self._runtime.wait_all(waiting, timeout)
                else:
                    await self._runtime.wait_any(waiting, timeout)
            except TimedOut:
                timed_out = True
        polled = await receipts.poll_all(self._roster, self._ledger, refs)
        done = tuple(poll for poll in polled if not isinstance(poll, PollPending))
        pending = tuple(poll for poll in polled if isinstance(poll, PollPending))
        return WaitReport(done, pending, timed_out and bool(pending))

    async def broadcast(
        self, prompt: str, *, names: Sequence[str] | None = None
    ) -> tuple[BroadcastItem, ...]:
        """See `Board.broadcast`."""
        self._open()
        self.settings.check_prompt(prompt)
        targets = [session.name for session in self._roster] if names is None else list(dict.fromkeys(names))
        return tuple(await asyncio.gather(*(self._broadcast_to(name, prompt) for name in targets)))

    async def _broadcast_to(self, name: str, prompt: str) -> BroadcastItem:
        try:
            ref = await self._accept(self._roster.live(name), prompt, None)
        except TollboardError as exc:
            return BroadcastItem(name, None, exc.code, str(exc))
        return BroadcastItem(name, ref, None, None)

    async def cancel(self, name: str, ref: str) -> Receipt:
        """See `Board.cancel`."""
        session = self._roster.live(name)
        machine = session.machine
        assert machine is not None
        if self._runtime.refs.get(ref) is not machine:
            poll = await self.poll(name, ref)
            raise Conflict(f"request {ref} is {poll.receipt.outcome or poll.receipt.state.value}")
        machine.cancel(ref)
        await self._ledger.flush()
        self._tail.write(session.id, session.name, "cancelled", {"by": str(self.caller)}, ref)
        return (await self.poll(name, ref)).receipt

    # -- reading ----------------------------------------------------------------------------------------------------

    async def inbox(
        self, name: str | None = None, *, ack: bool = False, reader: str = DEFAULT_READER,
        wait: float | None = None, limit: int = 100,
    ) -> Inbox:  # fmt: skip
        """See `Board.inbox`."""
        record = await self._roster.record(name) if name is not None else None
        return await self._reading.inbox(record, ack=ack, reader=reader, wait_s=wait, limit=limit)

    async def ack(self, name: str, seq: int, *, reader: str = DEFAULT_READER) -> InboxSession:
        """See `Board.ack`."""
        record = await self._roster.record(name)
        return await self._reading.ack(record, record.turns, seq, reader)

    async def transcript(
        self, name: str, *, limit: int | None = None, before: int | None = None
    ) -> Transcript:
        """See `Board.transcript`."""
        return await self._reading.transcript(await self._roster.record(name), limit, before)

    async def summary_get(self, name: str, *, version: int | None = None) -> Summary:
        """See `Board.summary_get`."""
        return await self._reading.summary(await self._roster.record(name), version)

    async def summary_update(self, name: str, text: str) -> Summary:
        """See `Board.summary_update`."""
        self.settings.check_summary(text)
        return await self._reading.update_summary(await self._roster.record(name), text, self.caller)

    async def summary_versions(self, name: str) -> tuple[Summary, ...]:
        """See `Board.summary_versions`."""
        return await self._reading.summary_versions(await self._roster.record(name))

    async def events(
        self, name: str | None = None, *, kinds: Sequence[str] = (), ref: str | None = None, after: int = 0,
        limit: int = MAX_FEED_PAGE,
    ) -> FeedPage:  # fmt: skip
        """See `Board.events`."""
        session = (await self._roster.record(name)).name if name is not None else None
        if isinstance(limit, bool) or not 1 <= limit <= MAX_FEED_PAGE:
            raise Invalid(f"limit is {limit!r}: it must be between 1 and {MAX_FEED_PAGE:,}")
        return await self._tail.page(session, kinds, ref, max(0, after), limit)

    async def tail(
        self,
        name: str | None = None,
        *,
        kinds: Sequence[str] = (),
        ref: str | None = None,
        after: int | None = None,
    ) -> AsyncIterator[FeedItem]:
        """See `Board.tail`."""
        session = (await self._roster.record(name)).name if name is not None else None
        async for item in self._tail.follow(session, kinds, ref, after):
            yield item

    # -- control ----------------------------------------------------------------------------------------------------

    async def interrupt(self, name: str, *, ref: str | None = None) -> Interrupted:
        """See `Board.interrupt`."""
        session = self._roster.live(name)
        in_flight = session.machine.in_flight() if session.machine is not None else None
        acted = self._runtime.interrupt(session.name, ref=ref)
        if acted and in_flight is not None and in_flight in self._runtime.refs:
            # The next prompt should find the session free, so wait for the turn to have ended.
            try:
                await self._runtime.wait(in_flight, INTERRUPT_WAIT_S)
            except (TimedOut, RequestNotFound):
                pass
        return Interrupted(session.name, acted, in_flight if acted else None)

    async def halt(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """See `Board.halt`."""
        sessions = self._meant(name, all=all)
        changed = []
        with self._ledger.atomic():
            for session in sessions:
                if session.machine is not None and self._runtime.halt(session.name):
                    changed.append(session)
                    session.record = replace(session.record, halted=True)
        await self._ledger.flush()
        return HaltReport(tuple(s.name for s in changed), _held(sessions))

    async def resume(self, name: str | None = None, *, all: bool = False) -> HaltReport:
        """See `Board.resume`. A dead session is brought back if what it missed is there again."""
        self._open()
        sessions = self._meant(name, all=all)
        held = _held(sessions)
        changed = []
        for session in [s for s in sessions if s.machine is None]:
            changed.append((await self._revive(session)).name)
        with self._ledger.atomic():
            for session in sessions:
                if session.machine is not None and self._runtime.resume(session.name):
                    changed.append(session.name)
                    session.record = replace(session.record, halted=False)
        await self._ledger.flush()
        return HaltReport(tuple(changed), held)

    def _meant(self, name: str | None, *, all: bool) -> list[LiveSession]:
        if all == (name is not None):
            raise Invalid("name one session, or say all")
        return list(self._roster) if name is None else [self._roster.get(name)]

    async def _revive(self, session: LiveSession) -> LiveSession:
        record = replace(session.record, halted=False, turns=session.journal.turns)
        queued = [
            recovery.as_request(stored)
            for stored in await self._ledger.unfinished()
            if stored.session_id == session.id
        ]
        self._roster.remove(session)
        revived = await recovery.revive(self._roster, record, queued)
        if revived.machine is None:
            raise AgentDead(f"session {record.name!r} is still dead: {revived.record.problem}")
        return revived

    async def approvals(self, name: str | None = None, *, all: bool = False) -> tuple[ApprovalRecord, ...]:
        """See `Board.approvals`."""
        session_id = (await self._roster.record(name)).id if name is not None else None
        state = None if all else ApprovalState.PENDING
        return tuple(await self._ledger.approvals(session_id=session_id, state=state))

    async def decide(self, approval_id: str, decision: Decision | Mapping[str, object]) -> ApprovalRecord:
        """See `Board.decide`."""
        parsed = parse_decision(decision)
        try:
            await self._runtime.decide(approval_id, parsed, by=str(self.caller))
        except ApprovalNotFound:
            record = await self._ledger.approval(approval_id)
            if record is None or record.state is ApprovalState.PENDING:
                raise
            raise AlreadyDecided(
                f"approval {approval_id} is {record.state.value} already, by {record.decided_by}"
            ) from None
        record = await self._ledger.approval(approval_id)
        if record is None:
            raise ApprovalNotFound(f"approval {approval_id} was deleted with its session")
        return record


class _State:
    """What all views of one switchboard share and may change."""

    __slots__ = ("closing",)

    def __init__(self) -> None:
        self.closing = False


class _LedgerPressure:
    """Lets turns wait for the ledger rather than flood it."""

    __slots__ = ("_ledger",)

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def congested(self) -> bool:
        """Whether a turn should wait before it takes the next event."""
        return self._ledger.congested

    async def relieved(self) -> None:
        """Wait until what is written so far is durable, or has failed: a full disk must not hang a turn."""
        try:
            await self._ledger.flush()
        except StoreError:
            pass


async def _resolved(commit: object) -> None:
    if commit is not None:
        await commit  # type: ignore[misc] # a Commit


def _held(sessions: Sequence[LiveSession]) -> tuple[HeldRequest, ...]:
    return tuple(
        HeldRequest(request.ref, session.name, request.accepted_at, request.prompt[:PREVIEW])
        for session in sessions
        if session.machine is not None
        for request in session.machine.mailbox or ()
    )


def _check_wait(refs: Sequence[str], timeout: float | None, mode: str) -> None:
    if isinstance(refs, str) or not refs or len(refs) > MAX_REFS:
        raise Invalid(f"wait takes a list of 1 to {MAX_REFS:,} refs")
    if mode not in ("all", "any"):
        raise Invalid(f"mode is {mode!r}: use all or any")
    if timeout is not None and not 0 <= timeout <= MAX_WAIT_S:
        raise Invalid(f"timeout is {timeout!r}: it must be between 0 and {MAX_WAIT_S:g} seconds")


__all__ = ["LOCAL", "SessionRecord", "Switchboard", "limits"]
