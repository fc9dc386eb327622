"""Questions of a turn that wait for a person: asked once, answered once, ended with the turn (R16, S14)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from tollboard.errors import AlreadyDecided, ApprovalNotFound
from tollboard.runtime.approval import Approval, ApprovalRequest, Asked, Decision, Reject, fit_decision
from tollboard.runtime.results import Reason
from tollboard.runtime.telemetry import APPROVAL_DECIDED, APPROVAL_REQUESTED, Telemetry

if TYPE_CHECKING:
    from tollboard.clock import Timer
    from tollboard.runtime.journal import Journal
    from tollboard.runtime.machine import Machine
    from tollboard.runtime.request import Request
    from tollboard.runtime.runtime import Runtime
    from tollboard.runtime.turn import Turn

UNDECIDED = "the turn ended before anyone decided"
ENDED = Reject(UNDECIDED)


class PendingApproval:
    """One question that waits."""

    __slots__ = ("answer", "approval", "asked", "expired", "machine", "taken", "timer", "turn")

    def __init__(self, machine: Machine, approval: Approval, turn: Turn | None) -> None:
        self.machine = machine
        self.turn = turn
        """The turn it belongs to; `None` when it was asked outside of any, as a background sub-agent does."""
        self.approval = approval
        self.asked = machine.clock.monotonic()
        self.answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self.taken = False
        """A decision is being written: it stands as soon as it is, whatever happens meanwhile."""
        self.expired: str | None = None
        """Why the question would have expired, had it not been taken."""
        self.timer: Timer | None = None

    def forget(self) -> None:
        """Take the question off the board."""
        self.machine.runtime.approvals.pop(self.approval.id, None)
        mine = self.machine.approvals
        if mine is not None and mine.pop(self.approval.id, None) is not None:
            self.machine.approvals = mine or None
            if self.turn is not None and not asks(self.turn):
                self.turn.go_on()
        if self.timer is not None:
            self.timer.cancel()

    def close(self, decision: Decision | None, by: str) -> None:
        """Take the question off the board, answer whoever asked, emit. `None`: it expired, `by` says why."""
        self.forget()
        if not self.answer.done():
            self.answer.set_result(Reject(by) if decision is None else decision)
        self.machine.telemetry.execute(
            APPROVAL_DECIDED,
            {"waited_s": self.machine.clock.monotonic() - self.asked},
            {"agent": self.machine.name, "ref": self.approval.ref, "approval": self.approval,
             "decision": decision, "by": by},
        )  # fmt: skip


async def ask_person(turn: Turn, request: ApprovalRequest) -> Decision:
    """Put a question on the board and wait for the decision. The watchdog of the turn stands still meanwhile."""
    machine = turn.machine
    if turn.over:
        return ENDED
    earlier = (turn.request.asked or {}).get(request.id)
    if earlier is not None and earlier.decision is not None:
        return earlier.decision
    return await _ask(machine, turn, request, turn.ref, earlier)


async def ask_outside(machine: Machine, request: ApprovalRequest, ref: str) -> Decision:
    """Put a question of no turn on the board and wait for the decision. Turns begin and end meanwhile."""
    return await _ask(machine, None, request, ref, None)


def asks(turn: Turn) -> bool:
    """Return whether a question of this turn waits."""
    return any(pending.turn is turn for pending in (turn.machine.approvals or {}).values())


async def _ask(
    machine: Machine, turn: Turn | None, request: ApprovalRequest, ref: str, earlier: Asked | None
) -> Decision:
    now = machine.clock.time()
    asked_at = now if earlier is None else earlier.approval.requested_at
    approval = Approval(request.id or machine.runtime.new_ref(), machine.name, ref, request, asked_at)
    pending = PendingApproval(machine, approval, turn)
    if turn is not None and not asks(turn):
        turn.stand_still()
    machine.approvals = machine.approvals or {}
    machine.approvals[approval.id] = pending
    try:
        # Durable before anyone can see it: an answer to a question that a crash forgot would go nowhere.
        commit = machine.journal.approval_requested(approval) if earlier is None else None
        if commit is not None:
            await commit
        if (turn is not None and turn.over) or pending.answer.done():
            return ENDED
        machine.runtime.approvals[approval.id] = pending
        if earlier is not None:
            earlier.again = True
        limit = machine.options.approval_timeout_s
        if limit is not None:
            pending.timer = machine.clock.call_later(
                max(0.0, asked_at + limit - now),
                lambda: _overdue(pending, f"nobody decided within {limit:g} s"),
            )
        if earlier is None:
            machine.telemetry.execute(
                APPROVAL_REQUESTED, {}, {"agent": machine.name, "ref": ref, "approval": approval}
            )
        return await asyncio.shield(pending.answer)
    finally:
        if turn is not None and turn.left:
            pending.forget()
        elif not pending.answer.done():
            expire(pending, _given_up(turn))


def _given_up(turn: Turn | None) -> str:
    """Return why nobody waits for the answer any more: whoever was about to decide reads it."""
    match turn.ending.reason if turn is not None and turn.ending is not None else None:
        case Reason.INTERRUPTED:
            return "the turn was interrupted"
        case Reason.STOPPED:
            return "the session was stopped"
    return "the asking call was given up"


async def decide(runtime: Runtime, approval_id: str, decision: Decision, by: str) -> Approval:
    """Answer a question. Exactly one of several callers wins; the decision is durable before it takes effect.

    Raises ApprovalNotFound, AlreadyDecided, InvalidDecision or AnswerNeeded, StoreError; it still waits after the last
    three.
    """
    pending = runtime.approvals.get(approval_id)
    if pending is None:
        raise ApprovalNotFound(f"no approval {approval_id} waits for a decision")
    if pending.taken:
        raise AlreadyDecided(f"approval {approval_id} was answered a moment ago by someone else")
    decision = fit_decision(decision, pending.approval.request)
    commit = pending.machine.journal.approval_closed(pending.approval, decision, by)
    pending.taken = True
    # A task of its own: once it is durable it takes effect, also when whoever decided has left meanwhile.
    await asyncio.shield(runtime.spawn(_take(pending, commit, decision, by)))
    return pending.approval


async def _take(
    pending: PendingApproval, commit: Awaitable[None] | None, decision: Decision, by: str
) -> None:
    """Let a decision take effect once it is durable."""
    try:
        if commit is not None:
            await commit
    except BaseException:
        pending.taken = False
        if pending.expired is not None:
            _close_unanswered(pending, pending.expired)
        raise
    # Also when its turn has ended meanwhile: everybody is told what is on record.
    pending.close(decision, by)


def expire(pending: PendingApproval, why: str) -> None:
    """End a question nobody answered: the one who asked gets a rejection that says why."""
    if pending.answer.done():
        return
    if pending.taken:
        # What is being written stands, as if it had come just before; but nothing may run for a turn that is over.
        pending.expired = why
        pending.forget()
        pending.answer.set_result(Reject(why))
        return
    _close_unanswered(pending, why)


def _close_unanswered(pending: PendingApproval, why: str) -> None:
    pending.machine.journal.approval_closed(pending.approval, None, why)
    pending.close(None, why)


def _overdue(pending: PendingApproval, why: str) -> None:
    """End a question at its time limit, unless an answer is being written: its turn goes on, so that one counts."""
    if pending.taken:
        pending.expired = why
    else:
        expire(pending, why)


def expire_unasked(journal: Journal, telemetry: Telemetry, request: Request, why: str) -> None:
    """End what a request asked before a restart and did not ask again: it is over."""
    for question in (request.asked or {}).values():
        if question.open and not question.taken:
            question.taken = True
            approval = question.approval
            journal.approval_closed(approval, None, why)
            telemetry.execute(
                APPROVAL_DECIDED, {},
                {"agent": approval.agent, "ref": approval.ref, "approval": approval, "decision": None, "by": why},
            )  # fmt: skip


def expire_all(machine: Machine, why: str, turn: Turn | None = None) -> None:
    """End every question of a turn that is over; without one, every question of the agent."""
    for pending in tuple((machine.approvals or {}).values()):
        if turn is None or pending.turn is turn:
            expire(pending, why)
