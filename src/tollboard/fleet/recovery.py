"""What happens at a restart: sessions come back as they were, and what was in flight is told apart from what waited.

A request that had started is ended as `interrupted`: nobody knows how far it came, and nothing is run twice unasked.
The exception: it has asked people, and its backend knows each step it took. Then it goes on where it was, with the same
questions, whether halted or not (A23).
One that was queued keeps its place and runs. Halted stays halted. A session that cannot come back (its directory is
gone, its backend is missing) stays visible as `dead` with the reason; its queue waits in the store (S12).
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tollboard.errors import TollboardError
from tollboard.fleet.ledger import Ledger, StoredRequest
from tollboard.fleet.receipts import CONCLUDED
from tollboard.fleet.records import ApprovalRecord, ApprovalState, Life, RequestState, SessionRecord
from tollboard.fleet.session_agent import LiveSession
from tollboard.ids import new_ref
from tollboard.runtime.approval import Approval, ApprovalKind, ApprovalRequest, Asked, Reject, parse_decision
from tollboard.runtime.background import cause_of
from tollboard.runtime.request import Origin, Request
from tollboard.runtime.results import Failed, Reason

if TYPE_CHECKING:
    from tollboard.fleet.roster import Roster
    from tollboard.fleet.tail import Tail

logger = logging.getLogger("tollboard.fleet")

AT_ONCE = 200
"""Sessions that are brought back at the same time."""
DAEMON_ENDED = "the daemon ended"
CUT_OFF = "the daemon ended while this ran in the background"
SECRET_GONE = "the daemon ended before the answer was used; it was secret, so it was not kept: ask again"


async def recover(roster: Roster, ledger: Ledger, tail: Tail) -> None:
    """Bring the whole fleet back. Called once, before anything is accepted."""
    now = roster.clock.time()
    records = await ledger.sessions()
    waiting: dict[str, list[StoredRequest]] = defaultdict(list)
    for request in await ledger.unfinished():
        waiting[request.session_id].append(request)
    asked = await _asked(roster, ledger, records, waiting)
    await _expire_approvals(ledger, tail, records, now, asked)
    for ref in await ledger.delegating():
        if ref not in asked:
            _ = ledger.end_sub_agents(ref, at=now, why=DAEMON_ENDED)
    for record in records:
        roster.add(_settled(ledger, tail, record, waiting[record.id], asked, now))
    await ledger.flush()
    sessions = list(roster)
    for start in range(0, len(sessions), AT_ONCE):
        await asyncio.gather(*(revive(roster, session) for session in sessions[start : start + AT_ONCE]))


async def _asked(
    roster: Roster,
    ledger: Ledger,
    records: Sequence[SessionRecord],
    waiting: Mapping[str, Sequence[StoredRequest]],
) -> dict[str, dict[str, Asked]]:
    """Return by ref what the turns have asked that go on: nothing of theirs expires."""
    found: dict[str, dict[str, Asked]] = {}
    for record in records:
        started = [r for r in waiting.get(record.id, ()) if r.receipt.state is RequestState.STARTED]
        if not started or not roster.goes_on(record.backend):
            continue
        for request in started:
            questions = {each.id: _as_asked(record, each) for each in await ledger.approvals_of(request.ref)}
            if questions:
                found[request.ref] = questions
    return found


def _as_asked(session: SessionRecord, record: ApprovalRecord) -> Asked:
    path = tuple(record.path.split("/")[1:])
    request = ApprovalRequest(
        record.tool, record.arguments, display=record.display, allowed=record.allowed, id=record.id, path=path,
        kind=record.kind, questions=record.questions,
    )  # fmt: skip
    approval = Approval(record.id, session.name, record.ref, request, record.requested_at)
    if record.state is ApprovalState.PENDING:
        return Asked(approval)
    if record.decision is None:
        return Asked(approval, Reject(record.decided_by or ""))
    if record.kind is ApprovalKind.QUESTION and any(question.secret for question in record.questions):
        return Asked(approval, Reject(SECRET_GONE))
    return Asked(approval, parse_decision(record.decision))


async def _expire_approvals(
    ledger: Ledger, tail: Tail, records: Sequence[SessionRecord], now: float, keep: Collection[str]
) -> None:
    ids = {record.name: record.id for record in records}
    for approval in await ledger.approvals(state=ApprovalState.PENDING):
        if approval.ref in keep:
            continue
        data = {"approval": approval.id, "decision": ApprovalState.EXPIRED.value, "by": DAEMON_ENDED}
        session_id = ids.get(approval.session, "")
        tail.write(session_id, approval.session, "approval.decided", data, approval.ref)
    _ = ledger.expire_approvals(at=now, why=DAEMON_ENDED, keep=tuple(keep))


def _settled(
    ledger: Ledger, tail: Tail, record: SessionRecord, requests: Sequence[StoredRequest],
    asked: Mapping[str, dict[str, Asked]], now: float,
) -> LiveSession:  # fmt: skip
    """End what was in flight; return the session with its new history length, and its queue, without an agent."""
    queued: list[Request] = []
    delegating: set[str] = set()
    turns = record.turns
    for stored in requests:
        if stored.ref in asked:
            request = as_request(stored)
            request.asked = asked[stored.ref]
            delegating.add(stored.ref)  # its sub-agents go on with it
            queued.insert(0, request)
        elif stored.receipt.state is RequestState.STARTED or stored.origin is Origin.AGENT:
            # A turn of the agent's own ran where the agent ran: it was never a prompt that could be sent again.
            turns += 1
            _ = ledger.mark_interrupted(stored, seq=turns, at=now, detail=CONCLUDED)
            took = max(0.0, now - (stored.receipt.started_at or now))
            data = {"reason": Reason.INTERRUPTED.value, "detail": CONCLUDED, "duration_s": round(took, 6)}
            tail.write(record.id, record.name, "turn.failed", data, stored.ref)
        else:
            queued.append(as_request(stored))
    record = replace(record, turns=turns)
    journal = ledger.journal(record)
    journal.delegating |= delegating
    session = LiveSession(record, journal, waiting=queued)
    _note_lost(tail, session, now)
    return session


def _note_lost(tail: Tail, session: LiveSession, now: float) -> None:
    """Say in the history what ran in the background and ended with the daemon."""
    journal, record = session.journal, session.record
    for task in record.background:
        request = Request(new_ref(), cause_of(task), Origin.AGENT, now)
        request.started_at = now
        outcome = Failed(Reason.INTERRUPTED, CUT_OFF)
        _ = journal.accepted(request), journal.started(request), journal.finished(request, outcome, 0.0)
        data = {"reason": outcome.reason.value, "detail": CUT_OFF, "duration_s": 0.0}
        tail.write(record.id, record.name, "turn.failed", data, request.ref)
    if record.background:
        _ = journal.background(())
        session.record = replace(record, background=())


def as_request(stored: StoredRequest) -> Request:
    """Return the request as the runtime knows it; its caller is gone, so its result is only in the store."""
    origin = Origin.TELL if stored.origin is Origin.ASK else stored.origin
    return Request(stored.ref, stored.prompt, origin, stored.receipt.accepted_at)


def refreshed(record: SessionRecord, stored: SessionRecord) -> SessionRecord:
    """Return the record with what only the store has followed while the session lived."""
    return replace(record, turns=stored.turns, answered=stored.answered)


async def revive(roster: Roster, session: LiveSession) -> None:
    """Start a session's agent again; when that fails the session is dead, with the reason, and its queue is kept."""
    before = session.record.life
    try:
        async with asyncio.timeout(roster.settings.revive_timeout_s):
            await roster.start(session)
    except (TollboardError, TimeoutError, OSError) as exc:
        roster.bury(session, _problem(exc))
    except Exception as exc:
        # A third-party backend may raise anything; one session must not keep the others down.
        logger.error("session %s could not be brought back: %s", session.name, type(exc).__name__)
        roster.bury(session, f"could not be brought back: {type(exc).__name__}")
    else:
        if before is not Life.LIVE:
            _ = roster.ledger.set_life(session.id, Life.LIVE, at=roster.clock.time())


def _problem(exc: BaseException) -> str:
    match exc:
        case TimeoutError():
            return "the backend did not come back in time; try again with resume"
        case TollboardError():
            return f"{exc}; mend it, then resume the session, or stop it"
        case _:
            return f"{type(exc).__name__}; mend it, then resume the session, or stop it"
