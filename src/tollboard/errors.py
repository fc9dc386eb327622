"""The tree of errors. Every error that leaves Tollboard is one of these; messages never carry prompt text.

    TollboardError
    ├── NotFound                 what was named is not there
    │   ├── AgentNotFound        no live agent or session of that name
    │   │   └── AgentDead        it was there and crashed; the reason is in the message
    │   ├── PoolNotFound         no pool of that name
    │   ├── SubAgentNotFound     no sub-agent of that id
    │   ├── RequestNotFound      no such ref, or its result was evicted
    │   └── ApprovalNotFound     no such approval
    ├── Conflict                 the moment is wrong
    │   ├── AgentExists          the name is taken
    │   ├── PoolExists           likewise, for a pool
    │   ├── SubAgentExists       likewise, for the id of a sub-agent
    │   ├── InvalidStatus        the sub-agent is not in the status that the verb needs
    │   ├── SessionBusy          a turn is in flight and queueing was not asked for
    │   ├── SessionHalted        the mailbox is frozen
    │   ├── AgentBusy            needs an idle agent
    │   ├── AlreadyDecided       the approval was answered or has expired
    │   ├── KeyReused            an idempotency key with other content
    │   ├── NotCancellable       the request is in flight or done
    │   ├── WouldDeadlock        an agent waiting for itself, directly or round a cycle
    │   ├── Draining             the agent takes no new work
    │   └── PoolStopped          the pool was stopped, or has no workers left
    ├── Invalid                  bad input; nothing was changed
    │   ├── InvalidName
    │   ├── InvalidOption
    │   ├── InvalidPath
    │   ├── InvalidPrompt
    │   ├── InvalidDecision
    │   │   └── AnswerNeeded     a question cannot be approved: it is answered or rejected
    │   ├── InvalidFleet         a fleet file that cannot be used; `.faults` are all that were found
    │   ├── UnknownBackend
    │   └── WireError            a request that does not fit the operation's arguments
    ├── Denied                   the client's capability or token does not allow it
    ├── Overloaded               a bounded queue is full; nothing was accepted
    ├── RateLimited              too soon; `.retry_after` says how many seconds to wait
    ├── TimedOut                 the wait ended, the work goes on
    ├── TurnFailed               the turn ended without a response; `.reason` says why
    ├── BackendError             the backend or its program failed
    │   └── BackendUnavailable   an extra, a program or a login is missing
    ├── Unsupported              this backend cannot do that
    ├── StoreError               the database
    │   ├── StoreUnavailable     disk full, read-only, locked: nothing was written
    │   │   └── StoreMisplaced   moved, replaced, or another directory's
    │   ├── StoreCorrupt         the file is damaged
    │   ├── StoreTooNew          written by a newer Tollboard
    │   └── StaleOwner           another daemon has taken the state directory over
    ├── DaemonError              the daemon cannot start or cannot be reached
    │   ├── DaemonRunning        another daemon owns the state directory
    │   └── DaemonUnreachable    nobody answers
    │       └── DaemonFrozen     the daemon is there and says nothing: stopped, or hanging
    └── Crash                    raised by user code to crash its own agent on purpose

`code` is stable and is what travels over HTTP, MCP and `--json`.
"""

from __future__ import annotations

from typing import ClassVar

SHOWN_FAULTS = 20


class TollboardError(Exception):
    """Something went wrong that a caller can act on."""

    code: ClassVar[str] = "error"


class NotFound(TollboardError):
    """What was named is not there."""

    code = "not_found"


class AgentNotFound(NotFound):
    """No live agent or session has that name."""

    code = "agent_not_found"


class AgentDead(AgentNotFound):
    """The agent crashed; it is not restarted behind its manager's back."""

    code = "agent_dead"


class PoolNotFound(NotFound):
    """No pool has that name."""

    code = "pool_not_found"


class SubAgentNotFound(NotFound):
    """No sub-agent has that id."""

    code = "subagent_not_found"


class RequestNotFound(NotFound):
    """The ref is unknown, or its result was evicted."""

    code = "request_not_found"


class ApprovalNotFound(NotFound):
    """No approval has that id."""

    code = "approval_not_found"


class Conflict(TollboardError):
    """The moment is wrong; nothing was changed."""

    code = "conflict"


class AgentExists(Conflict):
    """The name is taken."""

    code = "agent_exists"


class PoolExists(Conflict):
    """A pool of that name is there; stop it first or choose another name."""

    code = "pool_exists"


class SubAgentExists(Conflict):
    """A sub-agent with that id is there."""

    code = "subagent_exists"


class InvalidStatus(Conflict):
    """The sub-agent does not stand as the verb needs it; nothing was changed. `status` and `expected` say how."""

    code = "invalid_status"

    def __init__(self, status: str, *, expected: str = "", who: str = "the sub-agent") -> None:
        needed = f"; this needs one that is {expected}" if expected else ""
        super().__init__(f"{who} is {status}{needed}")
        self.status = status
        self.expected = expected


class SessionBusy(Conflict):
    """A turn is in flight and queueing was not asked for."""

    code = "session_busy"


class SessionHalted(Conflict):
    """The session is halted: its mailbox is frozen until it is resumed."""

    code = "session_halted"


class AgentBusy(Conflict):
    """The verb needs an idle agent."""

    code = "agent_busy"


class AlreadyDecided(Conflict):
    """The approval was answered or has expired."""

    code = "already_decided"


class KeyReused(Conflict):
    """The idempotency key was used before with other content."""

    code = "key_reused"


class NotCancellable(Conflict):
    """The request is in flight or done; only a queued one can be withdrawn."""

    code = "not_cancellable"


class WouldDeadlock(Conflict):
    """The agent would wait for itself, directly or round a cycle of waiting agents."""

    code = "would_deadlock"


class Draining(Conflict):
    """The agent is being drained and takes no new work."""

    code = "draining"


class PoolStopped(Conflict):
    """The pool was stopped, or the role has no workers left; nothing was accepted."""

    code = "pool_stopped"


class Invalid(TollboardError):
    """Bad input; nothing was changed."""

    code = "invalid"


class InvalidName(Invalid):
    """Names are 1 to 64 characters of letters, digits, '.', '_' and '-'."""

    code = "invalid_name"


class InvalidOption(Invalid):
    """An option is unknown or has a value outside its range."""

    code = "invalid_option"


class InvalidPath(Invalid):
    """The working directory is missing, is not a directory, or is not allowed."""

    code = "invalid_path"


class InvalidPrompt(Invalid):
    """The prompt is empty, too long, or not text."""

    code = "invalid_prompt"


class InvalidDecision(Invalid):
    """The decision is malformed or not allowed for this approval; the approval still waits."""

    code = "invalid_decision"


class AnswerNeeded(InvalidDecision):
    """The approval asks a person something: it can be answered or rejected, not approved. It still waits."""

    code = "answer_needed"


class InvalidFleet(Invalid):
    """The fleet file cannot be used; nothing was started or stopped. `faults` are all that were found."""

    code = "invalid_fleet"
    faults: tuple[str, ...] = ()

    def __init__(self, file: str, *faults: str) -> None:
        listed = "".join(f"\n  {fault}" for fault in faults[:SHOWN_FAULTS])
        more = f"\n  and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        many = f"{file} has {len(faults)} faults:{listed}{more}"
        super().__init__(": ".join((file, *faults)) if len(faults) < 2 else many)
        if faults:
            self.faults = faults


class UnknownBackend(Invalid):
    """No backend has that name."""

    code = "unknown_backend"


class WireError(Invalid):
    """The request does not fit the operation's arguments."""

    code = "bad_request"


class Denied(TollboardError):
    """The client's token or capability does not allow this."""

    code = "denied"


class Overloaded(TollboardError):
    """A bounded queue is full; nothing was accepted."""

    code = "overloaded"

    def __init__(self, queue: str, *, limit: int, size: int, unit: str = "items") -> None:
        super().__init__(
            f"the {queue} is full: {size:,} of {limit:,} {unit}; wait, cancel queued work or raise the limit"
        )
        self.queue = queue
        self.limit = limit
        self.size = size
        self.unit = unit


class RateLimited(TollboardError):
    """The rate limit allows no task now; nothing was accepted. `retry_after` is in seconds."""

    code = "rate_limited"

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            f"the rate limit allows the next task in {retry_after:.3g} s: wait that long, or let it wait"
        )
        self.retry_after = retry_after


class TimedOut(TollboardError):
    """The wait ended; the work goes on."""

    code = "timed_out"


class TurnFailed(TollboardError):
    """The turn ended without a response. `reason` is a short code such as `interrupted` or `timeout`."""

    code = "turn_failed"

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class BackendError(TollboardError):
    """The backend, or the program behind it, failed."""

    code = "backend_error"


class BackendUnavailable(BackendError):
    """An extra, a program or a login that the backend needs is missing."""

    code = "backend_unavailable"


class Unsupported(TollboardError):
    """This backend cannot do that."""

    code = "unsupported"


class StoreError(TollboardError):
    """The database refused or failed."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """The database cannot be written now (disk full, read-only, locked); nothing was written."""

    code = "store_unavailable"


class StoreMisplaced(StoreUnavailable):
    """The database was moved, removed or replaced, or belongs to another state directory; nothing was written."""

    code = "store_misplaced"


class StoreCorrupt(StoreError):
    """The database file is damaged."""

    code = "store_corrupt"


class StoreTooNew(StoreError):
    """The database was written by a newer Tollboard."""

    code = "store_too_new"


class StaleOwner(StoreError):
    """Another daemon has taken over this state directory; this one may no longer write."""

    code = "stale_owner"


class DaemonError(TollboardError):
    """The daemon cannot start or cannot be reached."""

    code = "daemon_error"


class DaemonRunning(DaemonError):
    """Another daemon owns the state directory."""

    code = "daemon_running"


class DaemonUnreachable(DaemonError):
    """No daemon answers on the socket."""

    code = "daemon_unreachable"


class DaemonFrozen(DaemonUnreachable):
    """The daemon is there and does not answer; what it was asked to do may have been done, or may be done yet."""

    code = "daemon_frozen"


class Crash(TollboardError):
    """Raise this in a callback to crash the agent on purpose."""

    code = "crash"


def by_code() -> dict[str, type[TollboardError]]:
    """Return every error class by its code; the client rebuilds errors from it.

    A class without a code of its own is known by its parent's, so the parent is what the code stands for.
    """
    found: dict[str, type[TollboardError]] = {}
    todo: list[type[TollboardError]] = [TollboardError]
    while todo:
        cls = todo.pop()
        found.setdefault(cls.code, cls)
        todo.extend(cls.__subclasses__())
    return found
