"""The manager's hand on the fleet: interrupt, halt, resume, decide. None of it queues behind work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace

from tollboard.errors import AlreadyDecided, ApprovalNotFound, Invalid, RequestNotFound, TimedOut
from tollboard.fleet.ledger import Ledger
from tollboard.fleet.lifecycle import Lifecycle
from tollboard.fleet.prompts import forget_failures
from tollboard.fleet.records import (
    ApprovalRecord,
    ApprovalState,
    Caller,
    HaltReport,
    HeldRequest,
    Interrupted,
)
from tollboard.fleet.roster import Roster
from tollboard.fleet.session_agent import LiveSession
from tollboard.runtime import telemetry
from tollboard.runtime.approval import Asked, Decision, fit_decision, parse_decision
from tollboard.runtime.runtime import Runtime

PREVIEW = 80
INTERRUPT_WAIT_S = 10.0


class Control:
    """Carries the manager's orders out."""

    def __init__(self, roster: Roster, ledger: Ledger, runtime: Runtime, lifecycle: Lifecycle) -> None:
        self._roster = roster
        self._ledger = ledger
        self._runtime = runtime
        self._lifecycle = lifecycle

    async def interrupt(self, session: LiveSession, ref: str | None) -> Interrupted:
        """End the turn in flight, and wait until it has ended: the next prompt should find the session free."""
        in_flight = session.machine.in_flight() if session.machine is not None else None
        acted = self._runtime.interrupt(session.name, ref=ref)
        if acted and in_flight is not None and in_flight in self._runtime.refs:
            with contextlib.suppress(TimedOut, RequestNotFound):
                await self._runtime.wait(in_flight, INTERRUPT_WAIT_S)
        return Interrupted(session.name, acted, in_flight if acted else None)

    async def halt(self, name: str | None, *, all: bool) -> HaltReport:
        """Freeze one mailbox or every one, in one transaction (S23)."""
        sessions = self._meant(name, all=all)
        changed = await self._freeze(sessions, True)
        return HaltReport(tuple(session.name for session in changed), _held(sessions))

    async def resume(self, name: str | None, *, all: bool) -> HaltReport:
        """Release what was frozen; bring back what is dead, as far as that is possible."""
        sessions = self._meant(name, all=all)
        held = _held(sessions)
        dead = [session for session in sessions if session.machine is None]
        back = (
            await self._lifecycle.revive(dead) if name is not None else await self._lifecycle.try_revive(dead)
        )
        changed = await self._freeze([session for session in sessions if session.machine is not None], False)
        names = dict.fromkeys(session.name for session in (*back, *changed))
        return HaltReport(tuple(names), held)

    async def _freeze(self, sessions: Sequence[LiveSession], halted: bool) -> list[LiveSession]:
        await forget_failures(self._ledger)
        dead = [session for session in sessions if session.machine is None]
        with self._ledger.atomic():
            changed = [session for session in sessions if session.freeze(halted)]
        await self._ledger.flush()
        for session in sessions:
            # Only now: after a write that failed the same order must be written again.
            session.record = replace(
                session.record, halted=halted if session.machine is None else session.halted
            )
        # One that was brought back while this was written began as it was before.
        back = [session for session in dead if session.machine is not None and session.halted is not halted]
        if back:
            await self._freeze(back, halted)
        # Another manager may have undone it while it was written: a report never says that what runs is halted.
        return [session for session in changed if session.halted is halted]

    def _meant(self, name: str | None, *, all: bool) -> list[LiveSession]:
        if all == (name is not None):
            raise Invalid("name one session, or say all")
        return list(self._roster) if name is None else [self._roster.get(name)]

    async def decide(
        self, approval_id: str, decision: Decision | Mapping[str, object], caller: Caller
    ) -> ApprovalRecord:
        """Answer an approval; exactly one of several managers wins."""
        parsed = parse_decision(decision)
        try:
            await self._runtime.decide(approval_id, parsed, by=str(caller))
        except ApprovalNotFound:
            record = await self._ledger.approval(approval_id)
            if record is None:
                raise
            if record.state is not ApprovalState.PENDING:
                raise _decided(record) from None
            await self._decide_unasked(record, parsed, str(caller))
        record = await self._ledger.approval(approval_id)
        if record is None:
            raise ApprovalNotFound(f"approval {approval_id} was deleted with its session")
        return record

    async def _decide_unasked(self, record: ApprovalRecord, decision: Decision, by: str) -> None:
        """Answer a question that is durable but not on the board."""
        session = self._roster.find(record.session)
        request = session.asked(record.ref) if session is not None else None
        if session is None or request is None or request.asked is None:
            # It is about to be put on the board: once the ledger has told so, it is there.
            await forget_failures(self._ledger)
            await self._runtime.decide(record.id, decision, by=by)
            return
        # Its turn goes on after a restart and has not asked again yet, or its session is dead: it will find the answer.
        asked = request.asked[record.id]
        decision = fit_decision(decision, asked.approval.request)
        if asked.taken:
            raise AlreadyDecided(f"approval {record.id} was answered a moment ago by someone else")
        commit = session.journal.approval_closed(asked.approval, decision, by)
        asked.taken = True
        # As in the runtime: once it is durable it takes effect, whoever has left meanwhile.
        await asyncio.shield(self._runtime.spawn(self._take_unasked(session, asked, commit, decision, by)))

    async def _take_unasked(
        self, session: LiveSession, asked: Asked, commit: Awaitable[None] | None, decision: Decision, by: str
    ) -> None:
        approval = asked.approval
        try:
            if commit is not None:
                await commit
        except BaseException:
            asked.taken = False
            raise
        asked.decision = decision
        pending = self._runtime.approvals.get(approval.id)
        if pending is not None:
            pending.close(decision, by)
        else:
            self._runtime.telemetry.execute(
                telemetry.APPROVAL_DECIDED, {},
                {"agent": session.name, "ref": approval.ref, "approval": approval, "decision": decision, "by": by},
            )  # fmt: skip


def _decided(record: ApprovalRecord) -> AlreadyDecided:
    return AlreadyDecided(f"approval {record.id} is {record.state.value} already, by {record.decided_by}")


def _held(sessions: Sequence[LiveSession]) -> tuple[HeldRequest, ...]:
    return tuple(
        HeldRequest(request.ref, session.name, request.accepted_at, request.prompt[:PREVIEW])
        for session in sessions
        for request in session.queue
    )
