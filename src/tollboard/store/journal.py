"""The journal of one session: what its agent reports becomes writes. Light, for there may be ten thousand of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tollboard.errors import StoreError, StoreUnavailable
from tollboard.fleet.records import ApprovalState, TurnStatus
from tollboard.runtime.approval import Approval, Approve, Decision, Edit, Reject, plain_decision
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.event import Usage
from tollboard.runtime.question import Answer, plain_question
from tollboard.runtime.request import Origin, Request
from tollboard.runtime.results import Completed, Failed, Outcome, Reason
from tollboard.runtime.sub_agents import (
    SubAgentBegan,
    SubAgentEnded,
    SubAgentNews,
    SubAgentSaid,
    SubAgentWaits,
)
from tollboard.store.feed import to_json
from tollboard.store.memory import StoreMemory
from tollboard.store.queries import (
    ACCEPT,
    CHECKPOINT,
    CLOSE_APPROVAL,
    FINISH,
    REQUEST_APPROVAL,
    SET_BACKGROUND,
    SET_HALTED,
    START,
    USED,
)
from tollboard.store.rows import background_json
from tollboard.store.sub_agents import Begin, End, Say, set_status
from tollboard.store.usage import usage_values
from tollboard.store.write import Start, Write

if TYPE_CHECKING:
    from tollboard.clock import Clock
    from tollboard.store.reader import Reader
    from tollboard.store.retries import Retries
    from tollboard.store.writer import Writer

TURN_ENDED = "the turn it worked for has ended"
_OWN = (Origin.CHAIN, Origin.EVENT, Origin.AGENT)
_CLOSED_AS = {
    Approve: ApprovalState.APPROVED,
    Edit: ApprovalState.EDITED,
    Reject: ApprovalState.REJECTED,
    Answer: ApprovalState.ANSWERED,
}


class StoreJournal:
    """Implements SessionJournal. `turns` is the seq of the newest durable history entry.

    `delegating` are the refs whose turns may have sub-agents that have not ended.
    """

    __slots__ = (
        "_clock", "_keyed", "_reader", "_retries", "_session", "_session_id", "_writer", "delegating", "turns",
    )  # fmt: skip

    def __init__(
        self, session_id: str, session: str, turns: int, writer: Writer, reader: Reader, retries: Retries, clock: Clock
    ) -> None:  # fmt: skip
        self._session_id = session_id
        self._session = session
        self._writer = writer
        self._reader = reader
        self._retries = retries
        self._clock = clock
        self._keyed: tuple[str, str] | None = None
        self.turns = turns
        self.delegating: set[str] = set()

    def keyed(self, ref: str, key: str) -> None:
        """Give the next accepted request with this ref an idempotency key."""
        self._keyed = (ref, key)

    def accepted(self, request: Request) -> Write:
        """Add the request. Raises Overloaded when too much waits to be written; the commit raises KeyReused when
        another request got the key first."""
        key, self._keyed = self._keyed, None
        params = (
            request.ref, self._session_id, key[1] if key is not None and key[0] == request.ref else None,
            request.origin.value, request.prompt, request.accepted_at, request.attempt, None,
        )  # fmt: skip
        # What an agent tells itself has no caller who could try again.
        return self._writer.submit(Write(ACCEPT.sql, params), must=request.origin in _OWN)

    def started(self, request: Request) -> Write:
        """Note the start; a retry's time and attempt replace the earlier ones."""
        started_at = self._clock.time() if request.started_at is None else request.started_at
        return self._writer.submit(Start(START.sql, (request.attempt, started_at, request.ref)), must=True)

    def finished(self, request: Request, outcome: Outcome, duration_s: float) -> Write | None:
        """Note the outcome, and go on trying while the disk fails (see Finish).

        The entry gets its seq from the database, and only if the start was durable: a request that was withdrawn, or
        whose start could not be written, has none. `None` for a request whose acceptance failed: there is no row.
        """
        if _refused(request):
            return None
        ended_at = self._clock.time()
        if request.ref in self.delegating:
            # Whatever ended the turn, and whatever a tool below it swallowed: nothing below it is left open (A30).
            self.delegating.discard(request.ref)
            end = End.below(request.ref, TURN_ENDED, ended_at, self._writer, self._retries)
            _ = self._writer.submit(end, must=True)
        params = (ended_at, *_outcome_values(outcome, duration_s), request.ref, ended_at)
        return self._writer.submit(Finish(self, request, params), must=True)

    def used(self, request: Request, usage: Usage) -> Write:
        """Note what a request has used so far. Nobody has to await it: what follows is written after it."""
        return self._writer.submit(Write(USED.sql, (*usage_values(usage), request.ref)), must=True)

    def checkpointed(self, provider_session_id: str, effective: Mapping[str, str] | None) -> Write:
        """Note the conversation's id, and what the provider really runs with if it said so."""
        settings = None if effective is None else to_json(dict(effective))
        values = CHECKPOINT.bind(session_id=self._session_id, provider=provider_session_id, settings=settings)
        return self._writer.submit(Write(CHECKPOINT.sql, values), must=True)

    def halted(self, halted: bool) -> Write:
        """Note that the mailbox was frozen or released."""
        values = SET_HALTED.bind(session_id=self._session_id, is_halted=int(halted))
        return self._writer.submit(Write(SET_HALTED.sql, values), must=True)

    def background(self, running: Sequence[BackgroundTask]) -> Write:
        """Note what runs in the background."""
        values = SET_BACKGROUND.bind(session_id=self._session_id, running=background_json(running))
        return self._writer.submit(Write(SET_BACKGROUND.sql, values), must=True)

    def memory(self) -> StoreMemory:
        """Return what the session's backend remembers."""
        return StoreMemory(self._session_id, self._writer, self._reader)

    def sub_agent(self, ref: str, news: SubAgentNews) -> None:
        """Note what is told of an agent below the turn of a request, with what the feed says of it."""
        now = self._clock.time()
        match news:
            case SubAgentBegan():
                self.delegating.add(ref)
                _ = self._writer.submit(Begin(self._session_id, self._session, ref, news, now), must=True)
            case SubAgentSaid():
                _ = self._writer.submit(Say(news, now), must=True)
            case SubAgentWaits():
                _ = self._writer.submit(set_status(news), must=True)
            case SubAgentEnded():
                _ = self._writer.submit(End.of(news, now, self._writer, self._retries), must=True)

    def approval_requested(self, approval: Approval) -> Write:
        """Add a question."""
        request = approval.request
        values = REQUEST_APPROVAL.bind(
            id=approval.id, session_id=self._session_id, ref=approval.ref, path=approval.path, tool=request.tool,
            arguments=to_json(dict(request.arguments)), display=request.display, allowed=to_json(request.allowed),
            state=ApprovalState.PENDING.value, requested_at=approval.requested_at,
            kind=request.kind.value, questions=to_json([plain_question(each) for each in request.questions]),
        )  # fmt: skip
        return self._writer.submit(Write(REQUEST_APPROVAL.sql, values), must=True)

    def approval_closed(self, approval: Approval, decision: Decision | None, by: str) -> Write:
        """Note the answer, or why the question expired (see Expiry); the first one stays."""
        state = ApprovalState.EXPIRED if decision is None else _CLOSED_AS[type(decision)]
        values = CLOSE_APPROVAL.bind(
            the_id=approval.id, new_state=state.value, new_decided_at=self._clock.time(), new_decided_by=by,
            new_decision=None if decision is None else to_json(plain_decision(decision, approval.request.questions)),
        )  # fmt: skip
        write = Write(CLOSE_APPROVAL.sql, values) if decision is not None else Expiry(self, values)
        return self._writer.submit(write, must=True)


class Expiry(Write):
    """The end of a question nobody answered: nobody awaits it, and a question whose turn is over must not stay open."""

    __slots__ = ("journal", "tries")

    def __init__(self, journal: StoreJournal, params: tuple[object, ...]) -> None:
        super().__init__(CLOSE_APPROVAL.sql, params)
        self.journal = journal
        self.tries = 0

    def settle(self) -> None:
        """Settle, or come back later."""
        if not (isinstance(self.error, StoreUnavailable) and self.journal._retries.later(self)):
            super().settle()

    def again(self) -> None:
        """Submit it once more."""
        self.error = None
        self.tries += 1
        _ = self.journal._writer.submit(self, must=True)


class Finish(Write):
    """An outcome on its way. A medium that fails for a while does not lose it: it is written again, later.

    It fails only for good: the store was closed, the ownership is gone, the file is damaged. A statement that can
    never succeed (a text beyond SQLite's limit) leaves a failed entry in the outcome's place, and raises.
    """

    __slots__ = ("journal", "mended", "request", "tries")

    def __init__(self, journal: StoreJournal, request: Request, params: tuple[object, ...]) -> None:
        super().__init__(FINISH.sql, params)
        self.journal = journal
        self.request = request
        self.tries = 0
        self.mended: StoreError | None = None

    def settle(self) -> None:
        """Settle, or come back later."""
        error = self.error
        if (
            isinstance(error, StoreUnavailable)
            and not _refused(self.request)
            and self.journal._retries.later(self)
        ):
            return
        if type(error) is StoreError and self.mended is None:
            self._mend(error)
            return
        if self.row is not None and self.row[0] is not None and error is None:
            self.journal.turns = max(self.journal.turns, self.row[0])
        self.error = error or self.mended
        super().settle()

    def _mend(self, error: StoreError) -> None:
        """Write a failed outcome in place of one that cannot be stored, so that the request has ended."""
        self.mended = error
        ended_at, *_, ref, same = self.params
        values = _outcome_values(Failed(Reason.STORE_FAILED, str(error)), self.params[4])
        self.params = (ended_at, *values, ref, same)
        self.again()

    def again(self) -> None:
        """Submit it once more."""
        self.error = None
        self.tries += 1
        _ = self.journal._writer.submit(self, must=True)


def _refused(request: Request) -> bool:
    """Return whether the acceptance failed: then there is nothing whose outcome could be remembered."""
    commit = request.commit
    return isinstance(commit, Write) and commit.settled and commit.error is not None


def _outcome_values(outcome: Outcome, duration_s: float) -> tuple[object, ...]:
    """Return status, reason, detail, duration, usage and text as the columns want them."""
    if isinstance(outcome, Completed):
        response = outcome.response
        usage = usage_values(response.usage)
        return (TurnStatus.OK.value, None, response.note or None, duration_s, *usage, response.text)
    interrupted = outcome.reason is Reason.INTERRUPTED
    status = TurnStatus.INTERRUPTED if interrupted else TurnStatus.FAILED
    usage = usage_values(outcome.usage)
    return (status.value, outcome.reason.value, outcome.detail, duration_s, *usage, None)
