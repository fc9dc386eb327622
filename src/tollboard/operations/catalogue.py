"""The catalogue: every operation once. HTTP routes, the client's calls and MCP tools are made from it (S20).

An operation has a name, typed arguments (unknown ones are refused), a result, the errors it may raise, the capability
it needs, an example, and how it runs on the `Boards`. To add one: an entry here, and a verb on a board if it is new.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, TypeAdapter

from tollboard import errors as e
from tollboard.fleet import records
from tollboard.fleet.pools import records as pools
from tollboard.operations import arguments as takes
from tollboard.operations import pool_arguments as pool_takes
from tollboard.operations.access import Capability
from tollboard.operations.arguments import Arguments
from tollboard.operations.boards import Boards

READ, SEND, APPROVE, ADMIN = Capability.READ, Capability.SEND, Capability.APPROVE, Capability.ADMIN

A = TypeVar("A", bound=Arguments)
R = TypeVar("R")
Errors = tuple[type[e.TollboardError], ...]

ALWAYS: Errors = (e.WireError, e.Denied, e.StoreError, e.DaemonError)
"""What any operation may raise: wrong arguments, a token that is too narrow, the database, the end of the daemon."""


@dataclass(frozen=True, kw_only=True)
class Operation(Generic[A, R]):
    """One entry of the catalogue."""

    name: str
    summary: str
    arguments: type[A]
    result: TypeAdapter[R]
    needs: Capability
    raises: Errors
    example: Mapping[str, object]
    run: Callable[[Boards, A], Awaitable[R]]

    @property
    def mutates(self) -> bool:
        """Whether it changes anything. (`inbox` does when it acknowledges, see `needed`.)"""
        return self.needs is not READ

    @property
    def waits(self) -> bool:
        """Whether it takes as long as its caller says, so that it is given up when the caller has gone."""
        return not self.mutates and not {"timeout", "wait"}.isdisjoint(self.arguments.model_fields)

    def needed(self, arguments: A) -> Capability:
        """Return the capability that these arguments need: to acknowledge is more than to read."""
        return SEND if self.needs is READ and getattr(arguments, "ack", False) else self.needs


AnyOperation = Operation[Any, Any]
OPERATIONS: dict[str, AnyOperation] = {}


def _add(
    name: str, needs: Capability, arguments: type[A], result: Any, run: Callable[[Boards, A], Awaitable[Any]],
    summary: str, raises: Errors = (), /, **example: object,
) -> None:  # fmt: skip
    OPERATIONS[name] = Operation(
        name=name, summary=summary, arguments=arguments, result=TypeAdapter(result), needs=needs,
        raises=(*raises, *ALWAYS), example=example, run=run,
    )  # fmt: skip


Poll = Annotated[records.Poll, Field(discriminator="status")]
_REF = "019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b"
_TEXT = (e.AgentNotFound, e.AgentDead, e.InvalidPrompt, e.InvalidPath, e.Overloaded)

# -- sessions -----------------------------------------------------------------------------------------------------
_add("start_session", SEND, takes.Start, records.SessionStatus,
     lambda b, a: b.fleet.start_session(a.name, path=a.path, backend=a.backend, **a.options),
     "Start a session on an existing directory.",
     (e.AgentExists, e.InvalidName, e.InvalidPath, e.InvalidOption, e.UnknownBackend, e.BackendUnavailable,
      e.BackendError),
     name="api", path="/src/api", backend="echo", options={"delay": 0.1})  # fmt: skip
_add("check_session", SEND, takes.Start, records.SessionDefinition,
     lambda b, a: b.fleet.check_session(a.name, path=a.path, backend=a.backend, **a.options),
     "Say what would keep a session from being started, and start nothing.",
     (e.InvalidName, e.InvalidPath, e.InvalidOption, e.UnknownBackend, e.BackendUnavailable, e.BackendError),
     name="api", path="/src/api", backend="echo", options={"delay": 0.1})  # fmt: skip
_add("list_sessions", READ, takes.ListSessions, tuple[records.SessionStatus, ...],
     lambda b, a: b.fleet.list_sessions(all=a.all, reader=a.reader),
     "List the sessions of the fleet, oldest first; with `all` the stopped ones too.", (e.InvalidName,),
     all=True)  # fmt: skip
_add("status", READ, takes.Status, records.SessionStatus, lambda b, a: b.fleet.status(a.name, reader=a.reader),
     "Say how a session stands.", (e.AgentNotFound, e.InvalidName), name="api")  # fmt: skip
_add("definition", READ, takes.OfSession, records.SessionDefinition, lambda b, a: b.fleet.definition(a.name),
     "Say what a session was started with.", (e.AgentNotFound,), name="api")  # fmt: skip
_add("stop_session", SEND, takes.Stop, records.StopReport, lambda b, a: b.fleet.stop_session(a.name, drain=a.drain),
     "End a session and its processes; its history stays. With `drain` the turn in flight finishes first.",
     (e.AgentNotFound,), name="api", drain=True)  # fmt: skip
_add("delete_session", ADMIN, takes.OfSession, records.Deleted, lambda b, a: b.fleet.delete_session(a.name),
     "Remove a stopped session with its history.", (e.AgentNotFound, e.Conflict), name="api")  # fmt: skip
_add("backends", READ, takes.NoArguments, tuple[records.BackendInfo, ...], lambda b, _: b.fleet.backends(),
     "List the backends and whether each could work here.")  # fmt: skip

# -- prompts ------------------------------------------------------------------------------------------------------
_add("send", SEND, takes.Send, str, lambda b, a: b.fleet.send(a.name, a.prompt, queue=a.queue, key=a.key),
     "Accept a prompt and answer with its ref; it is durable then.",
     (*_TEXT, e.SessionBusy, e.SessionHalted, e.KeyReused, e.Invalid),
     name="api", prompt="Which tests fail?", queue=True)  # fmt: skip
_add("poll", READ, takes.OfRequest, Poll, lambda b, a: b.fleet.poll(a.name, a.ref),
     "Say how a request stands.", (e.AgentNotFound, e.RequestNotFound), name="api", ref=_REF)  # fmt: skip
_add("wait", READ, takes.Wait, records.WaitReport, lambda b, a: b.fleet.wait(a.refs, timeout=a.timeout, mode=a.mode),
     "Wait until all, or any, of the requests have ended; running out of time is not an error.",
     (e.RequestNotFound, e.Invalid), refs=[_REF], timeout=30.0)  # fmt: skip
_add("broadcast", SEND, takes.Broadcast, tuple[records.BroadcastItem, ...],
     lambda b, a: b.fleet.broadcast(a.prompt, names=a.names),
     "Queue a prompt on every live session, or on those named; one ref or one error for each.",
     (e.InvalidPrompt, e.Invalid), prompt="Commit what you have", names=["api", "docs"])  # fmt: skip
_add("cancel", SEND, takes.OfRequest, records.Receipt, lambda b, a: b.fleet.cancel(a.name, a.ref),
     "Withdraw a queued request.", (e.AgentNotFound, e.RequestNotFound, e.NotCancellable),
     name="api", ref=_REF)  # fmt: skip

# -- reading ------------------------------------------------------------------------------------------------------
_add("inbox", READ, takes.InboxArguments, records.Inbox,
     lambda b, a: b.fleet.inbox(a.name, ack=a.ack, reader=a.reader, wait=a.wait, limit=a.limit),
     "Return the finished turns that a reader has not acknowledged; `ack` (needs `send`) acknowledges those shown.",
     (e.AgentNotFound, e.InvalidName, e.Invalid), wait=30.0, limit=20)  # fmt: skip
_add("ack", SEND, takes.Ack, records.InboxSession, lambda b, a: b.fleet.ack(a.name, a.seq, reader=a.reader),
     "Set a reader's cursor to exactly this turn, forward or back.",
     (e.AgentNotFound, e.InvalidName, e.Invalid), name="api", seq=3)  # fmt: skip
_add("transcript", READ, takes.TranscriptArguments, records.Transcript,
     lambda b, a: b.fleet.transcript(a.name, limit=a.limit, before=a.before),
     "Return the last turns of a session.", (e.AgentNotFound, e.Invalid), name="api", limit=10)  # fmt: skip
_add("summary_get", READ, takes.SummaryGet, records.Summary,
     lambda b, a: b.fleet.summary_get(a.name, version=a.version),
     "Return the manager's summary of a session, or an earlier version of it.",
     (e.AgentNotFound, e.NotFound), name="api")  # fmt: skip
_add("summary_update", SEND, takes.SummaryUpdate, records.Summary, lambda b, a: b.fleet.summary_update(a.name, a.text),
     "Write a new version of the summary.", (e.AgentNotFound, e.InvalidPrompt),
     name="api", text="Two tests fail.")  # fmt: skip
_add("summary_versions", READ, takes.OfSession, tuple[records.Summary, ...],
     lambda b, a: b.fleet.summary_versions(a.name),
     "Return every version of the summary, oldest first.", (e.AgentNotFound,), name="api")  # fmt: skip
_add("events", READ, takes.Events, records.FeedPage,
     lambda b, a: b.fleet.events(a.name, kinds=a.kinds, ref=a.ref, after=a.after, limit=a.limit),
     "Return one page of the feed after a number.", (e.AgentNotFound, e.RequestNotFound, e.Invalid),
     name="api", kinds=["turn.completed"], after=0, limit=100)  # fmt: skip

# -- control ------------------------------------------------------------------------------------------------------
_add("interrupt", SEND, takes.Interrupt, records.Interrupted, lambda b, a: b.fleet.interrupt(a.name, ref=a.ref),
     "End the turn in flight, only that of `ref` if given; the mailbox goes on.",
     (e.AgentNotFound, e.AgentDead), name="api")  # fmt: skip
_add("halt", SEND, takes.HaltOrResume, records.HaltReport, lambda b, a: b.fleet.halt(a.name, all=a.all),
     "Freeze a session's mailbox after the turn in flight, or with `all` every one.",
     (e.AgentNotFound, e.Invalid), all=True)  # fmt: skip
_add("resume", SEND, takes.HaltOrResume, records.HaltReport, lambda b, a: b.fleet.resume(a.name, all=a.all),
     "Release what `halt` froze; never answers approvals.",
     (e.AgentNotFound, e.AgentDead, e.Invalid, e.BackendError), name="api")  # fmt: skip
_add("approvals", READ, takes.Approvals, tuple[records.ApprovalRecord, ...],
     lambda b, a: b.fleet.approvals(a.name, all=a.all),
     "Return the guarded calls that wait for a person; with `all` the answered and expired ones too.",
     (e.AgentNotFound,), name="api")  # fmt: skip
_add("decide", APPROVE, takes.Decide, records.ApprovalRecord, lambda b, a: b.fleet.decide(a.approval_id, a.decision),
     "Decide an approval: approve, edit or reject a call, answer a question. Exactly one of several managers wins.",
     (e.ApprovalNotFound, e.AlreadyDecided, e.InvalidDecision, e.AnswerNeeded),
     approval_id=_REF, decision={"type": "reject", "message": "not on a Friday"})  # fmt: skip

# -- sub-agents ---------------------------------------------------------------------------------------------------
_add("subagents", READ, takes.SubAgents, tuple[records.SubAgentRecord, ...],
     lambda b, a: b.fleet.subagents(a.name, all=a.all, limit=a.limit),
     "List a session's sub-agents that have not ended; with `all` the newest of those that have, too.",
     (e.AgentNotFound, e.Invalid), name="api", all=True)  # fmt: skip
_add("subagent_messages", READ, takes.SubAgentMessages, records.SubAgentMessages,
     lambda b, a: b.fleet.subagent_messages(a.id, after=a.after, limit=a.limit),
     "Return what a sub-agent was told and said.", (e.SubAgentNotFound, e.Invalid), id=_REF, limit=20)  # fmt: skip
_add("cancel_subagent", SEND, takes.OfSubAgent, records.SubAgentCancelled,
     lambda b, a: b.fleet.cancel_subagent(a.id),
     "End a sub-agent and all below it; the one above is told and goes on. One that is gone is no error.",
     (), id=_REF)  # fmt: skip

# -- pools --------------------------------------------------------------------------------------------------------
_POOL = (e.PoolNotFound, e.PoolStopped)
_add("pool_start", SEND, pool_takes.PoolStart, pools.PoolView,
     lambda b, a: b.pools.start(a.name, a.size, path=a.path, backend=a.backend, **a.asked()),
     "Start a pool of workers that keep working through independent tasks.",
     (e.PoolExists, e.InvalidName, e.InvalidPath, e.InvalidOption, e.UnknownBackend, e.BackendUnavailable,
      e.BackendError),
     name="reviews", size=4, path="/src/api", backend="echo", strategy="shared_queue")  # fmt: skip
_add("pool_check", SEND, pool_takes.PoolStart, pools.PoolSpec,
     lambda b, a: b.pools.check(a.name, a.size, path=a.path, backend=a.backend, **a.asked()),
     "Say what would keep a pool from being started, and start nothing.",
     (e.InvalidName, e.InvalidPath, e.InvalidOption, e.UnknownBackend, e.BackendUnavailable, e.BackendError),
     name="reviews", size=4, path="/src/api", backend="echo", strategy="shared_queue")  # fmt: skip
_add("pool_definition", READ, pool_takes.OfPool, pools.PoolSpec, lambda b, a: b.pools.definition(a.name),
     "Say what a pool is asked to be.", (e.PoolNotFound,), name="reviews")  # fmt: skip
_add("pool_list", READ, pool_takes.PoolList, tuple[pools.PoolView, ...], lambda b, a: b.pools.list(all=a.all),
     "List the pools, oldest first; with `all` the stopped ones too.", all=True)  # fmt: skip
_add("pool_status", READ, pool_takes.OfPool, pools.PoolView, lambda b, a: b.pools.status(a.name),
     "Say how a pool stands.", (e.PoolNotFound,), name="reviews")  # fmt: skip
_add("pool_submit", SEND, pool_takes.PoolSubmit, tuple[pools.Submitted, ...],
     lambda b, a: b.pools.submit(a.name, a.given(), timeout=a.timeout),
     "Accept tasks, in order, and answer with a ref for each; they are durable then.",
     (*_POOL, e.InvalidPrompt, e.InvalidOption, e.Overloaded, e.RateLimited, e.Invalid),
     name="reviews", tasks=[{"prompt": "review a.py"}], timeout=30.0)  # fmt: skip
_add("pool_wait", READ, pool_takes.PoolWait, pools.PoolView, lambda b, a: b.pools.wait(a.name, timeout=a.timeout),
     "Wait until no task is queued or running; running out of time is not an error, `done` says which it was.",
     (e.PoolNotFound, e.Invalid), name="reviews", timeout=30.0)  # fmt: skip
_add("pool_results", READ, pool_takes.PoolResultsArguments, pools.ResultsPage,
     lambda b, a: b.pools.results(a.name, after=a.after, limit=a.limit),
     "Return ended tasks in submission order, failed ones too; `next` continues.",
     (e.PoolNotFound, e.Invalid), name="reviews", limit=100)  # fmt: skip
_add("pool_poll", READ, pool_takes.OfTask, pools.TaskRecord, lambda b, a: b.pools.poll(a.name, a.ref),
     "Return one task with its result, if it has one.", (e.PoolNotFound, e.RequestNotFound),
     name="reviews", ref=_REF)  # fmt: skip
_add("pool_cancel", SEND, pool_takes.OfTask, pools.TaskRecord, lambda b, a: b.pools.cancel(a.name, a.ref),
     "Withdraw a task that waits.", (*_POOL, e.RequestNotFound, e.NotCancellable),
     name="reviews", ref=_REF)  # fmt: skip
_add("pool_scale", SEND, pool_takes.PoolScale, pools.PoolView,
     lambda b, a: b.pools.scale(a.name, a.size, role=a.role),
     "Grow or shrink a role; busy workers end their task first.",
     (*_POOL, e.InvalidOption, e.BackendError), name="reviews", size=8)  # fmt: skip
_add("pool_stop", SEND, pool_takes.OfPool, pools.PoolView, lambda b, a: b.pools.stop(a.name),
     "End a pool: what is queued or in flight ends with `stopped`, its results stay.",
     (e.PoolNotFound,), name="reviews")  # fmt: skip
_add("pool_delete", ADMIN, pool_takes.OfPool, pools.PoolDeleted, lambda b, a: b.pools.delete(a.name),
     "Remove a stopped pool with its tasks and results.", (e.PoolNotFound, e.Conflict), name="reviews")  # fmt: skip
