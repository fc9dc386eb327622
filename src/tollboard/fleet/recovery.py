"""What happens at a restart: sessions come back as they were, and what was in flight is told apart from what waited.

A request that had started is ended as `interrupted`: nobody knows how far it came, and nothing is run twice unasked.
One that was queued keeps its place and runs. Halted stays halted. A session that cannot come back (its directory is
gone, its backend is missing) stays visible as `dead` with the reason; its queue waits in the store (S12).
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tollboard.errors import BackendUnavailable, TollboardError
from tollboard.fleet.ledger import Ledger, StoredRequest
from tollboard.fleet.records import Life, RequestState, SessionRecord
from tollboard.fleet.session_agent import LiveSession
from tollboard.runtime.request import Origin, Request

if TYPE_CHECKING:
    from tollboard.fleet.roster import Roster

logger = logging.getLogger("tollboard.fleet")

AT_ONCE = 200
"""Sessions that are brought back at the same time."""
WHY = "the daemon ended in the middle of this turn"


async def recover(roster: Roster, ledger: Ledger) -> None:
    """Bring the whole fleet back. Called once, before anything is accepted."""
    now = roster.clock.time()
    _ = ledger.expire_approvals(at=now, why="the daemon ended")
    waiting: dict[str, list[StoredRequest]] = defaultdict(list)
    for request in await ledger.unfinished():
        waiting[request.session_id].append(request)
    records = [_settled(ledger, record, waiting[record.id], now) for record in await ledger.sessions()]
    await ledger.flush()
    for start in range(0, len(records), AT_ONCE):
        batch = records[start : start + AT_ONCE]
        await asyncio.gather(*(revive(roster, record, queued) for record, queued in batch))


def _settled(
    ledger: Ledger, record: SessionRecord, requests: Sequence[StoredRequest], now: float
) -> tuple[SessionRecord, list[Request]]:
    """End what was in flight; return the record with its new history length, and the queue."""
    queued: list[Request] = []
    turns = record.turns
    for stored in requests:
        if stored.receipt.state is RequestState.STARTED:
            turns += 1
            _ = ledger.mark_interrupted(stored, seq=turns, at=now, detail=WHY)
        else:
            queued.append(as_request(stored))
    return replace(record, turns=turns), queued


def as_request(stored: StoredRequest) -> Request:
    """Return the request as the runtime knows it; its caller is gone, so its result is only in the store."""
    origin = Origin.TELL if stored.origin is Origin.ASK else stored.origin
    return Request(stored.ref, stored.prompt, origin, stored.receipt.accepted_at)


async def revive(roster: Roster, record: SessionRecord, queued: Sequence[Request]) -> LiveSession:
    """Start a session's agent again; when that fails the session is dead, with the reason, and its queue is kept."""
    try:
        async with asyncio.timeout(roster.settings.revive_timeout_s):
            session = await roster.start(replace(record, life=Life.LIVE, problem=None), queued)
    except (TollboardError, TimeoutError, OSError) as exc:
        return roster.bury(record, _problem(exc))
    except Exception as exc:
        # A third-party backend may raise anything; one session must not keep the others down.
        logger.error("session %s could not be brought back: %s", record.name, type(exc).__name__)
        return roster.bury(record, f"could not be brought back: {type(exc).__name__}")
    if record.life is not Life.LIVE:
        await roster.ledger.set_life(record.id, Life.LIVE, at=roster.clock.time())
    return session


def _problem(exc: BaseException) -> str:
    match exc:
        case TimeoutError():
            return "the backend did not come back in time; try again with resume"
        case BackendUnavailable() | TollboardError():
            return f"{exc}; mend it, then resume the session, or stop it"
        case _:
            return f"{type(exc).__name__}; mend it, then resume the session, or stop it"
