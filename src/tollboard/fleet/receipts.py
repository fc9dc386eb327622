"""Where a request is on its way: from memory while it waits or runs, from the store once it has ended (S22)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tollboard.errors import RequestNotFound
from tollboard.fleet.ledger import Ledger, StoredRequest
from tollboard.fleet.records import (
    Poll,
    PollCompleted,
    PollFailed,
    PollPending,
    Receipt,
    RequestState,
    TurnStatus,
)
from tollboard.fleet.roster import Roster
from tollboard.fleet.session_agent import LiveSession
from tollboard.runtime.request import Request

CONCLUDED = "the daemon ended in the middle of this turn"
"""The detail of an end that nobody reported: at the next start it was concluded that the turn cannot be running."""


def receipt_of(session: LiveSession, request: Request) -> Receipt:
    """Return the receipt of a request that this process has in hand."""
    machine = session.machine
    position = (
        machine.mailbox.position(request.ref) if machine is not None and machine.mailbox is not None else None
    )
    started = request.started_at is not None and position is None
    queued = position is not None or not started
    return Receipt(
        ref=request.ref,
        session=session.name,
        state=RequestState.QUEUED if queued else RequestState.STARTED,
        position=(position or 1) if queued else None,
        accepted_at=request.accepted_at,
        started_at=request.started_at if started else None,
        ended_at=None,
        outcome=None,
    )


def holder(roster: Roster, ref: str) -> LiveSession | None:
    """Return the session whose agent has this request queued or in flight, `None` if none has."""
    machine = roster.runtime.refs.get(ref)
    session = roster.find(machine.name) if machine is not None else None
    if machine is None or session is None or session.machine is not machine or machine.pending(ref) is None:
        return None
    return session


def pending(roster: Roster, ref: str) -> PollPending | None:
    """Return how a request stands that this process has in hand, `None` if it has not."""
    session = holder(roster, ref)
    request = session.machine.pending(ref) if session is not None and session.machine is not None else None
    return PollPending(receipt_of(session, request)) if session is not None and request is not None else None


def of_stored(roster: Roster, stored: StoredRequest) -> Poll:
    """Return how a request stands according to the store."""
    receipt, entry = stored.receipt, stored.entry
    if receipt.state is not RequestState.ENDED:
        return PollPending(replace(receipt, position=_position(roster, stored)))
    if entry is not None and entry.status is TurnStatus.OK:
        return PollCompleted(receipt, text=entry.text or "", entry=entry)
    receipt = replace(receipt, inferred=stored.detail == CONCLUDED)
    return PollFailed(receipt, reason=stored.reason or "unknown", detail=stored.detail or "", entry=entry)


def _position(roster: Roster, stored: StoredRequest) -> int | None:
    """Return where a request stands in the queue of a session that is dead."""
    session = roster.find(stored.session_id)
    waiting = [request.ref for request in session.waiting] if session is not None else []
    return waiting.index(stored.ref) + 1 if stored.ref in waiting else None


async def poll_one(roster: Roster, ledger: Ledger, session_id: str, name: str, ref: str) -> Poll:
    """Return how a request of this very session stands. Raises RequestNotFound, also for a ref of another one."""
    session = holder(roster, ref)
    if session is None or session.id != session_id:
        stored = await ledger.request(ref)
        # By id: the name may belong to another session by now, which must not answer for this one.
        if stored is None or stored.session_id != session_id:
            raise RequestNotFound(f"session {name!r} has no request {ref!r}")
        return of_stored(roster, stored)
    found = pending(roster, ref)
    assert found is not None
    return found


async def poll_all(roster: Roster, ledger: Ledger, refs: Sequence[str]) -> list[Poll]:
    """Return how each of these requests stands, in their order. Raises RequestNotFound for one that is unknown."""
    in_hand = {ref: found for ref in refs if (found := pending(roster, ref)) is not None}
    rest = [ref for ref in refs if ref not in in_hand]
    stored = {
        request.ref: of_stored(roster, request) for request in (await ledger.requests(rest) if rest else ())
    }
    if unknown := [ref for ref in rest if ref not in stored]:
        raise RequestNotFound(f"there is no request {unknown[0]!r}")
    return [in_hand.get(ref) or stored[ref] for ref in refs]
