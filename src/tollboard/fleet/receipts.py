"""Where a request is on its way: from memory while it waits or runs, from the store once it has ended (S22)."""

from __future__ import annotations

from collections.abc import Sequence

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


def pending(roster: Roster, ref: str) -> PollPending | None:
    """Return how a request stands that this process has in hand, `None` if it has not."""
    machine = roster.runtime.refs.get(ref)
    session = roster.find(machine.name) if machine is not None else None
    if machine is None or session is None:
        return None
    request = machine.pending(ref)
    return PollPending(receipt_of(session, request)) if request is not None else None


def of_stored(stored: StoredRequest) -> Poll:
    """Return how a request stands according to the store."""
    entry = stored.entry
    if stored.receipt.state is not RequestState.ENDED:
        return PollPending(stored.receipt)
    if entry is not None and entry.status is TurnStatus.OK:
        return PollCompleted(stored.receipt, text=entry.text or "", entry=entry)
    return PollFailed(
        stored.receipt, reason=stored.reason or "unknown", detail=stored.detail or "", entry=entry
    )


async def poll_all(roster: Roster, ledger: Ledger, refs: Sequence[str]) -> list[Poll]:
    """Return how each of these requests stands, in their order. Raises RequestNotFound for one that is unknown."""
    in_hand = {ref: found for ref in refs if (found := pending(roster, ref)) is not None}
    rest = [ref for ref in refs if ref not in in_hand]
    stored = {request.ref: of_stored(request) for request in await ledger.requests(rest)} if rest else {}
    if unknown := [ref for ref in rest if ref not in stored]:
        raise RequestNotFound(f"there is no request {unknown[0]!r}")
    return [in_hand.get(ref) or stored[ref] for ref in refs]
