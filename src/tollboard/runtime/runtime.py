"""The verbs of the runtime: agents by name, on one event loop.

    async with Runtime() as runtime:
        await runtime.start_agent(Reviewer, "reviewer", backend=Echo())
        ref = runtime.tell("reviewer", "read the diff")
        outcome = await runtime.wait(ref)

Everything here runs on the loop that the runtime was first used on; nothing here blocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from tollboard.clock import Clock, SystemClock
from tollboard.errors import (
    AgentBusy,
    AgentNotFound,
    Invalid,
    InvalidOption,
    RequestNotFound,
    TimedOut,
    TurnFailed,
    WouldDeadlock,
)
from tollboard.ids import check_name, new_ref
from tollboard.runtime import callbacks, telemetry
from tollboard.runtime.agent import GenAgent
from tollboard.runtime.approval import Approval, Decision
from tollboard.runtime.approvals import PendingApproval, decide
from tollboard.runtime.backend import Backend
from tollboard.runtime.ending import Endings, poll
from tollboard.runtime.journal import Journal, NullJournal
from tollboard.runtime.legal import Input
from tollboard.runtime.machine import Machine
from tollboard.runtime.notifications import notify
from tollboard.runtime.options import Restart, split_options
from tollboard.runtime.registry import Registry
from tollboard.runtime.request import ASK, TELL, WAIT, OnComplete, OnHalt, Request
from tollboard.runtime.response import Response
from tollboard.runtime.results import Completed, Failed, Outcome, Pending, PollResult, Reason
from tollboard.runtime.scheduler import DEFAULT_CAP, Scheduler
from tollboard.runtime.status import AgentSnapshot, AgentStatus, Phase, agent_snapshot, agent_status
from tollboard.runtime.subscription import DEFAULT_BUFFER, Subscription
from tollboard.runtime.supervisor import Recipe, Stopped, Supervisor
from tollboard.runtime.telemetry import Telemetry

_NO_JOURNAL = NullJournal()
CLOSE_DEADLINE_S = 30.0


class Pressure(Protocol):
    """Whatever takes a turn's output and can fall behind; the turn waits for it rather than flood it."""

    @property
    def congested(self) -> bool:
        """Whether a turn should wait before it takes the next event."""

    async def relieved(self) -> None:
        """Wait until it has caught up."""


class Runtime:
    """A set of agents by name."""

    def __init__(
        self, *, clock: Clock | None = None, telemetry: Telemetry | None = None, runnable: int = DEFAULT_CAP,
        pressure: Pressure | None = None,
    ) -> None:  # fmt: skip
        """Make a runtime. `runnable` caps how many busy periods may run in one pass of the loop."""
        if runnable < 1:
            raise InvalidOption(f"runnable is {runnable}: at least one turn must be able to run")
        self.clock: Clock = clock or SystemClock()
        self.telemetry = telemetry or Telemetry()
        self.pressure = pressure
        self.registry = Registry()
        self.scheduler = Scheduler(runnable)
        self.supervisor = Supervisor(self)
        self.refs: dict[str, Machine] = {}
        self.approvals: dict[str, PendingApproval] = {}
        self.closing = False
        self.new_ref = new_ref
        self.spawn = self.supervisor.spawn
        self.crashed = self.supervisor.crashed

    def __repr__(self) -> str:
        return f"<Runtime {len(self.registry)} agents>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    # -- life ----------------------------------------------------------------------------------

    async def start_agent(
        self, cls: type[GenAgent], name: str, *, backend: Backend[Any], journal: Journal = _NO_JOURNAL,
        backlog: Sequence[Request] = (), halted: bool = False, provider_session_id: str | None = None,
        **options: object,
    ) -> Machine:  # fmt: skip
        """Start an agent and return its handle; `init_agent` has run by then, `pre_run` has not (R20, R21).

        `options` that are fields of AgentOptions are the runtime's, all others go to `init_agent`. `backlog`,
        `halted` and `provider_session_id` bring an agent back as it was. Raises AgentExists, InvalidName,
        InvalidOption, or whatever `init_agent` and the backend raise; then the name stays free.
        """
        check_name(name)
        self._refuse_closing()
        ours, others = split_options(options)
        self.registry.reserve(name)
        try:
            machine = Machine(self, name, cls(), backend, ours, journal)
            machine.provider_session_id = provider_session_id
            await self._open(machine, others)
        except BaseException:
            self.registry.release(name)
            raise
        try:
            self._refuse_closing()
        except AgentNotFound:
            self.registry.release(name)
            await backend.terminate_session(machine.session)
            raise
        self.registry.add(machine)
        if ours.restart is not Restart.TEMPORARY:
            self._keep_recipe(machine, cls, options)
        machine.halted = machine.halt_announced = halted
        machine.restore(list(backlog))
        for request in backlog:
            if request.origin is TELL:
                self.refs[request.ref] = machine
        if self.telemetry.handlers:
            self.telemetry.execute(telemetry.AGENT_STARTED, {}, {"agent": name})
        if machine.pre_run_due or machine.goes_on or (machine.mailbox and not halted):
            machine.work()
        return machine

    def _refuse_closing(self) -> None:
        if self.closing:
            raise AgentNotFound("the runtime is closing and starts no agents")

    async def _open(self, machine: Machine, options: dict[str, object]) -> None:
        token = callbacks.current.set(machine)
        try:
            given = machine.agent.init_agent(**options)
            if isinstance(given, Awaitable):
                given = await given
        finally:
            callbacks.current.reset(token)
        settings = given or {}
        if machine.provider_session_id is None:
            machine.session = await machine.backend.start_session(settings)
        else:
            machine.session = await machine.backend.resume_session(machine.provider_session_id, settings)
        machine.listen()

    def _keep_recipe(self, machine: Machine, cls: type[GenAgent], options: dict[str, object]) -> None:
        name, backend, journal, ours = machine.name, machine.backend, machine.journal, machine.options

        async def again() -> Machine:
            provider_session_id = machine.provider_session_id
            return await self.start_agent(
                cls, name, backend=backend, journal=journal, provider_session_id=provider_session_id,
                **options,  # type: ignore[arg-type] # none of them has a name of this method's own
            )  # fmt: skip

        recipe = Recipe(again, ours.restart, ours.max_restarts, ours.restart_window_s)
        known = self.supervisor.recipe(name)
        if known is not None:
            recipe.times = known.times
        self.supervisor.remember(name, recipe)

    async def stop(self, name: str, *, reason: str = "stopped") -> Stopped:
        """End an agent in any state; when this returns the name is free and nothing of it is left (R17).

        Raises AgentNotFound if there is none, WouldDeadlock when an agent stops itself in a callback.
        """
        machine = self.registry.get(name)
        self._not_itself(machine, "stop")
        return await asyncio.shield(self.supervisor.stop(machine, reason))

    async def drain(self, name: str) -> Stopped:
        """Refuse new work, fail what is queued, let the turn in flight finish, then stop (R41).

        Repeatable; a caller that gives up (`asyncio.timeout`) does not undo it.
        """
        machine = self.registry.get(name)
        self._not_itself(machine, "drain")
        return await asyncio.shield(self.supervisor.drain(machine))

    def _not_itself(self, machine: Machine, verb: str) -> None:
        if callbacks.current.get() is machine and machine.task is asyncio.current_task():
            raise WouldDeadlock(
                f"agent {machine.name!r} cannot wait for its own {verb}; do it from a task of your own"
            )

    async def close(self, *, deadline_s: float = CLOSE_DEADLINE_S) -> tuple[str, ...]:
        """Stop every agent, newest first (R36). Return the names of those that did not end within the deadline."""
        self.closing = True
        return await self.supervisor.close(deadline_s)

    # -- prompts -------------------------------------------------------------------------------

    async def ask(
        self, name: str, prompt: str, *, timeout_s: float | None = None,
        on_cancel: Literal["continue", "interrupt"] = "continue",
    ) -> Response:  # fmt: skip
        """Run a prompt and return its response (R03, R04).

        Raises TurnFailed with the reason, TimedOut after `timeout_s` (the turn goes on, a queued request is
        withdrawn), Overloaded, AgentNotFound, WouldDeadlock (R46).
        """
        machine = self.registry.get(name)
        caller = callbacks.current.get()
        if caller is not None:
            self._refuse_cycle(caller, machine)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        request = Request(self.new_ref(), prompt, ASK, self.clock.time(), future=future)
        machine.accept(request)
        if caller is None and timeout_s is None:
            try:
                outcome = await future
            except asyncio.CancelledError:
                self._caller_gone(machine, request, on_cancel)
                raise
        else:
            outcome = await self._ask(machine, caller, request, timeout_s, on_cancel)
        if isinstance(outcome, Completed):
            return outcome.response
        raise TurnFailed(outcome.reason, outcome.detail)

    async def _ask(
        self, machine: Machine, caller: Machine | None, request: Request, timeout_s: float | None,
        on_cancel: Literal["continue", "interrupt"],
    ) -> Outcome:  # fmt: skip
        assert request.future is not None
        if caller is not None:
            caller.asking = [*(caller.asking or ()), machine]
        try:
            async with asyncio.timeout(timeout_s):
                return await request.future
        except TimeoutError:
            self._caller_gone(machine, request, "continue")
            raise TimedOut(f"no answer from {machine.name!r} within {timeout_s:g} s") from None
        except asyncio.CancelledError:
            self._caller_gone(machine, request, on_cancel)
            raise
        finally:
            if caller is not None and caller.asking is not None:
                caller.asking.remove(machine)
                caller.asking = caller.asking or None

    def _caller_gone(self, machine: Machine, request: Request, on_cancel: str) -> None:
        """A queued ask whose caller is gone is withdrawn, not run and paid for (R44); one in flight goes on (R04)."""
        withdrawn = machine.withdraw(request.ref, Reason.ABANDONED) is not None
        if not withdrawn and on_cancel == "interrupt" and machine.phase is Phase.PROCESSING:
            machine.interrupt(request.ref)

    def _refuse_cycle(self, caller: Machine, target: Machine) -> None:
        todo, seen = [target], set[int]()
        while todo:
            machine = todo.pop()
            if machine is caller:
                raise WouldDeadlock(
                    f"agent {caller.name!r} asks {target.name!r}, which would wait for {caller.name!r}: use tell"
                )
            if id(machine) not in seen:
                seen.add(id(machine))
                todo.extend(machine.asking or ())

    def tell(
        self, name: str, prompt: str, *, on_halt: OnHalt | Literal["wait", "fail"] = WAIT,
        on_complete: OnComplete | None = None, ref: str | None = None,
    ) -> str:  # fmt: skip
        """Accept a prompt and return its ref at once (R05).

        Raises before acceptance: AgentNotFound, Overloaded, Draining, SessionHalted (with `on_halt="fail"`, R43).
        `on_complete(ref, outcome)` is called exactly once, after decision and `post_turn` (R50).
        """
        machine = self.registry.get(name)
        return self.accept(machine, prompt, on_halt, on_complete, ref).ref

    def accept(
        self, machine: Machine, prompt: str, on_halt: OnHalt | str = WAIT,
        on_complete: OnComplete | None = None, ref: str | None = None,
    ) -> Request:  # fmt: skip
        """Like `tell`, for callers that hold the handle and need the request (its `commit`).

        Whoever awaits a commit that fails withdraws the request with `withdraw`; if its turn has it by then, the turn
        ends it with `store_failed`.
        """
        if ref is not None and ref in self.refs:
            raise Invalid(f"there is a request {ref} already; a ref names one request")  # E21
        if on_halt.__class__ is not OnHalt:
            on_halt = OnHalt(on_halt)
        request = Request(ref or self.new_ref(), prompt, TELL, self.clock.time(), on_halt, on_complete)
        machine.accept(request)
        self.refs[request.ref] = machine
        return request

    def cancel(self, ref: str) -> None:
        """Withdraw a queued request; it fails with `cancelled` (R15). Raises NotCancellable, RequestNotFound."""
        machine = self.refs.get(ref)
        if machine is None:
            raise RequestNotFound(f"there is no request {ref}, or its result was evicted")
        machine.cancel(ref)

    def withdraw(self, ref: str, reason: Reason) -> bool:
        """End a request that has not been dispatched, for whoever accepted it; return whether there was one."""
        machine = self.refs.get(ref)
        return machine is not None and machine.withdraw(ref, reason) is not None

    def poll(self, ref: str) -> PollResult:
        """Return how a told request stands. Raises RequestNotFound if it is unknown or was evicted (R06, R07)."""
        machine = self.refs.get(ref)
        result = poll(machine, ref) if machine is not None else None
        if result is None:
            raise RequestNotFound(f"there is no request {ref}, or its result was evicted")
        return result

    async def wait(self, ref: str, timeout_s: float | None = None) -> Outcome:
        """Return the outcome of a told request as soon as there is one (R08). Raises TimedOut, RequestNotFound."""
        (result,) = await self.wait_all([ref], timeout_s)
        return result

    async def wait_all(self, refs: Sequence[str], timeout_s: float | None = None) -> list[Outcome]:
        """Return the outcomes of all these requests, in their order. Raises TimedOut, RequestNotFound."""
        waiters = self._waiters(refs)
        try:
            async with asyncio.timeout(timeout_s):
                for waiter in waiters.values():
                    await asyncio.shield(waiter)
        except TimeoutError:
            raise TimedOut(
                f"{sum(not w.done() for w in waiters.values())} requests are not done yet"
            ) from None
        finally:
            self._forget_waiters(waiters)
        return [waiters[ref].result() for ref in refs]

    async def wait_any(self, refs: Iterable[str], timeout_s: float | None = None) -> tuple[str, Outcome]:
        """Return the first of these requests that has ended, with its outcome. Raises TimedOut, RequestNotFound."""
        waiters = self._waiters(refs)
        if not waiters:
            raise Invalid("wait_any needs at least one ref")
        try:
            await asyncio.wait(waiters.values(), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for ref, waiter in waiters.items():
                if waiter.done():
                    return ref, waiter.result()
        finally:
            self._forget_waiters(waiters)
        raise TimedOut(f"none of {len(waiters)} requests ended within {timeout_s:g} s")

    def _waiters(self, refs: Iterable[str]) -> dict[str, asyncio.Future[Outcome]]:
        loop = asyncio.get_running_loop()
        waiters: dict[str, asyncio.Future[Outcome]] = {}
        for ref in refs:
            if ref in waiters:
                continue
            result = self.poll(ref)
            waiter = waiters[ref] = loop.create_future()
            if isinstance(result, Pending):
                machine = self.refs[ref]
                if machine.endings is None:
                    machine.endings = Endings(machine)
                machine.endings.wait(ref, waiter)
            else:
                waiter.set_result(result)
        return waiters

    def _forget_waiters(self, waiters: dict[str, asyncio.Future[Outcome]]) -> None:
        for ref, waiter in waiters.items():
            machine = self.refs.get(ref)
            if not waiter.done() and machine is not None and machine.endings is not None:
                machine.endings.forget(ref, waiter)

    # -- control -------------------------------------------------------------------------------

    def notify(self, name: str, event: object) -> None:
        """Hand an event to `handle_event`: now when idle, after the turn otherwise.

        When this returns the event was handled or is kept; raises Overloaded if it can be neither (R28, R29).
        """
        notify(self.registry.get(name), event)

    async def cancel_sub_agent(self, name: str, id: str) -> bool:
        """End one agent below an agent's turn; return whether it was there. Raises AgentNotFound."""
        machine = self.registry.get(name)
        return await machine.backend.cancel_sub_agent(machine.session, id)

    def interrupt(self, name: str, *, ref: str | None = None) -> bool:
        """End the turn in flight, only that of `ref` if given; return whether it did (R13, R14)."""
        return self.registry.get(name).interrupt(ref)

    def halt(self, name: str) -> bool:
        """Freeze the mailbox after the turn in flight, which is not disturbed; return whether this changed it (R12).

        Never True for an agent that is not halted when it returns: whoever hears of the halt may resume it at once.
        """
        return self.registry.get(name).halt()

    def resume(self, name: str) -> bool:
        """Release the mailbox; does nothing, and says so, when the agent is not halted (R11)."""
        return self.registry.get(name).resume()

    async def reset_session(self, name: str) -> None:
        """Start a fresh backend conversation, keeping the agent's state and queue (R42).

        Raises AgentBusy unless idle, Unsupported if the backend cannot; then the old session stays.
        """
        machine = self.registry.get(name)
        if machine.phase is not Phase.IDLE:
            machine.rejected(Input.RESET, machine.phase.value)
            raise AgentBusy(
                f"agent {name!r} is {machine.phase.value}: wait for its turn to end, or interrupt it"
            )
        machine.phase = Phase.PROCESSING
        try:
            machine.session = await machine.backend.reset_session(machine.session)
            machine.provider_session_id = None
            machine.listen()
        finally:
            machine.rest_after_reset()

    async def decide(self, approval_id: str, decision: Decision, *, by: str = "python:local") -> Approval:
        """Answer an approval. Raises ApprovalNotFound, AlreadyDecided, InvalidDecision."""
        return await decide(self, approval_id, decision, by)

    # -- looking -------------------------------------------------------------------------------

    def whereis(self, name: str) -> Machine | None:
        """Return the handle of the live agent of that name, or `None`."""
        return self.registry.find(name)

    def list(self) -> list[str]:
        """Return the names of all live agents, in the order they were started."""
        return [machine.name for machine in self.registry]

    def status(self, name: str) -> AgentStatus:
        """Return how the agent stands; a crashed one is `dead`, with its reason. Raises AgentNotFound."""
        machine = self.registry.find(name)
        if machine is not None:
            return agent_status(machine)
        grave = self.registry.tombstone(name)
        if grave is None:
            self.registry.get(name)
        assert grave is not None
        return AgentStatus(name, Phase.DEAD, False, False, False, 0, None, None, reason=grave.reason)

    def snapshot(self, name: str) -> AgentSnapshot:
        """Return counts and times of an agent, no content."""
        return agent_snapshot(self.registry.get(name))

    def subscribe(self, name: str, *, ref: str | None = None, buffer: int = DEFAULT_BUFFER) -> Subscription:
        """Watch an agent's events live, or those of one request until its outcome (R39, R47).

        Raises RequestNotFound if that request is not pending.
        """
        machine = self.registry.get(name)
        if ref is not None and machine.pending(ref) is None:
            raise RequestNotFound(f"agent {name!r} has no pending request {ref}")
        subscription = Subscription(machine, ref, buffer)
        machine.subscriptions = [*(machine.subscriptions or ()), subscription]
        return subscription


__all__ = ["CLOSE_DEADLINE_S", "Failed", "Pressure", "Runtime"]
