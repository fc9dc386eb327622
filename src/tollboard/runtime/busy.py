"""The busy period, which runs turns until nothing is left, and the steps of a turn: an agent's only coroutine.

The happy path is a sentence: pre_turn -> remember that it starts -> stream -> fold -> decide -> post_turn -> apply the
decision -> remember how it ended -> resolve -> emit. Success, failure, interrupt, timeout and crash go the same way
with another outcome value. The written rule for the end is: commit, then resolve, then emit.

A request that a turn has in hand ends here, or, when the agent crashes in the middle, in `supervisor`; never in both:
once `request.outcome` is set the journal knows how it ended.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING

from tollboard.errors import BackendError, BackendUnavailable, Crash, StoreError
from tollboard.runtime import callbacks, notifications, telemetry
from tollboard.runtime.agent import Halt, Next, Prompt, Skip
from tollboard.runtime.approvals import UNDECIDED, expire_all, expire_unasked
from tollboard.runtime.callbacks import Begun, Raised
from tollboard.runtime.event import ErrorCause, ErrorEvent, Event, ResultEvent, UsageEvent
from tollboard.runtime.fold import EventLogOverflow, Fold
from tollboard.runtime.request import AGENT, ASK, TELL, Request
from tollboard.runtime.results import Completed, Failed, Outcome, Reason
from tollboard.runtime.status import PROCESSING, STOPPING
from tollboard.runtime.turn import CLOSE, COMMIT, DECIDE, OVER, STREAM, Turn

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine

TURNS_PER_SLOT = 8
"""A busy period gives way after this many turns, so that a long mailbox cannot starve the others (R40, E14)."""

NOT_DECIDED = frozenset({Reason.SKIPPED, Reason.HALTED, Reason.STOPPED, Reason.STORE_FAILED})
"""Failures that `handle_error` does not see: the turn never reached the backend, or the agent is going away."""


class NotRun(Exception):
    """The attempt has its outcome before the backend saw the prompt."""

    def __init__(self, outcome: Failed) -> None:
        super().__init__()
        self.outcome = outcome


async def busy_period(machine: Machine) -> None:
    """Run turns and events until nothing is left that may run. One callback of the agent at a time, control apart."""
    scheduler = machine.runtime.scheduler
    scheduler.running()
    callbacks.current.set(machine)
    turns = 0
    try:
        if machine.pre_run_due and machine.phase is PROCESSING and not await _pre_run(machine):
            return
        while machine.phase is PROCESSING:
            if machine.notifications:
                await _drain_notifications(machine)
                # Again from the top: events may have come meanwhile, or a stop, after which nothing may be taken.
                continue
            request = machine.take()
            if request is None:
                if machine.halted and not machine.halt_announced:
                    await _announce_halt(machine)
                else:
                    machine.rest()
                    return
                continue
            await take_turn(machine, request)
            turns += 1
            if turns % TURNS_PER_SLOT == 0 and machine.phase is PROCESSING:
                await scheduler.slot()
    except CancelledError:
        if machine.phase is not STOPPING:
            machine.runtime.crashed(machine, "cancelled from outside")
        raise
    except Exception as exc:
        machine.runtime.crashed(machine, str(exc) if isinstance(exc, Crash) else callbacks.describe(exc))
    finally:
        if machine.rested is not None and not machine.rested.done():
            machine.rested.set_result(None)


async def take_turn(machine: Machine, request: Request) -> None:
    """Take one request to its one outcome, through as many attempts as `handle_error` asks for."""
    original = request.prompt
    while True:
        prompt = original
        request.attempt += 1
        now = machine.clock.monotonic()
        turn = Turn(machine, request, now)
        machine.turn = turn
        if machine.alarm is None:
            options = machine.options
            silence_s = options.silence_s
            machine.watch(options.watchdog_s if silence_s is None else min(options.watchdog_s, silence_s))
        own = request.origin is AGENT
        try:
            if own:
                if request.doomed:
                    turn.end(Failed(Reason.INTERRUPTED))
            elif machine.hooks.pre_turn:
                prompt = await _pre_turn(machine, turn, prompt)
            turn.stage = COMMIT
            request.started_at = machine.clock.time()
            if machine.remembers:
                commit = machine.journal.started(request)
                if commit is not None:
                    await _started(turn, commit)
            if turn.ending is not None and not own:
                raise NotRun(turn.ending)
            if machine.telemetry.handlers:
                _emit_start(machine, turn, prompt, original)
            turn.stage = STREAM
            turn.cancel_if_ended()
            outcome = await _stream(machine, turn, prompt)
        except BaseException as exc:
            outcome = _failure(turn, exc)
        if turn.ending is not None:
            outcome = turn.ending
            turn.absorb_cancel()
        if turn.left:
            machine.turn = None
            return
        if turn.usage is not None or turn.spent_before is not None:
            outcome = _with_usage(turn, outcome)
            request.spent = turn.spent()
        turn.stage = DECIDE
        if machine.approvals:
            expire_all(machine, UNDECIDED, turn)
        following: Next = None
        if machine.phase is PROCESSING:
            answer = _ask_agent(machine, turn, outcome)
            if answer is not None:
                outcome, following = await _decide(machine, outcome, answer)
        if machine.phase is not PROCESSING:
            outcome, following = Failed(Reason.STOPPED), None
        if following is None or not _is_retry(turn, outcome, following):
            break
        emit_end(machine, turn, outcome, retried=True)
        original = following.text  # type: ignore[union-attr] # _is_retry says so
        await machine.runtime.scheduler.slot()
        if machine.phase is not PROCESSING:
            outcome, following = Failed(Reason.STOPPED), None
            break
    if machine.hooks.post_turn and machine.phase is PROCESSING:
        value = callbacks.call(machine, "post_turn", machine.agent.post_turn, outcome, request.ref)
        if value is not None:
            await _finish_unless_stopped(machine, "post_turn", value)
    turn.stage = OVER
    if request.asked is not None:
        expire_unasked(machine.journal, machine.telemetry, request, UNDECIDED)
    if following is not None and machine.phase is PROCESSING:
        _follow(machine, following)
    if machine.remembers:
        commit = machine.journal.finished(request, outcome, machine.clock.monotonic() - now)
        if commit is not None:
            request.outcome = outcome
            outcome = await _committed(commit, outcome)
    machine.turn = None
    machine.resolve(request, outcome)
    if machine.telemetry.handlers:
        emit_end(machine, turn, outcome, retried=False)


def _follow(machine: Machine, following: Next) -> None:
    match following:
        case Prompt():
            machine.chain(following)
        case Halt():
            machine.freeze()


async def _committed(commit: Awaitable[None], outcome: Outcome) -> Outcome:
    """Wait for the journal; a result that could not be kept is not shown as one."""
    try:
        await commit
    except StoreError as exc:
        return Failed(Reason.STORE_FAILED, str(exc))
    return outcome


def _is_retry(turn: Turn, outcome: Outcome, following: Next) -> bool:
    """Tell a retry (same ref, R25) from a follow-up: after an interrupt nothing is revived (E28)."""
    return (
        isinstance(following, Prompt)
        and isinstance(outcome, Failed)
        and outcome.reason is not Reason.INTERRUPTED
        and not turn.no_retry
        and turn.request.origin in (ASK, TELL)
    )


# -- the steps ---------------------------------------------------------------------------------


def _failure(turn: Turn, exc: BaseException) -> Outcome:
    """Return what an attempt that raised comes to; only `Crash` and a cancel from outside go through."""
    match exc:
        case NotRun():
            return exc.outcome
        case CancelledError():
            if turn.ending is None and callbacks.is_cancelled():
                raise exc
            # Else something that the backend awaited was cancelled: its own affair, not the agent's end.
            return turn.ending or Failed(Reason.STREAM_CRASHED, callbacks.describe(exc))
        case BackendError():
            missing = isinstance(exc, BackendUnavailable)  # a key or a program: the same again cannot succeed
            return Failed(Reason.BACKEND_ERROR, str(exc), cause=ErrorCause.REFUSED if missing else None)
        case EventLogOverflow():
            return Failed(Reason.EVENT_OVERFLOW, str(exc))
        case Exception() if not isinstance(exc, Crash):
            return Failed(Reason.STREAM_CRASHED, f"{type(exc).__name__}: {exc}")
    raise exc


async def _pre_turn(machine: Machine, turn: Turn, original: str) -> str:
    """Return the prompt as `pre_turn` wants it. Raises NotRun when it refused."""
    answer = callbacks.call(machine, "pre_turn", machine.agent.pre_turn, original)
    if not isinstance(answer, str):
        answer = await callbacks.finish(machine, "pre_turn", answer)
        refused = _refused(machine, turn, answer)
        if refused is not None:
            raise NotRun(refused)
    return str(answer)


async def _started(turn: Turn, commit: Awaitable[None]) -> None:
    """Wait until the start is durable: nothing may run that is not remembered. Raises NotRun.

    A turn of the agent's own runs already: it is ended instead, by the one door that ends it where it runs.
    """
    try:
        await commit
    except StoreError as exc:
        outcome = Failed(Reason.STORE_FAILED, str(exc))
        if turn.request.origin is not AGENT:
            raise NotRun(outcome) from exc
        turn.end(outcome)


async def _stream(machine: Machine, turn: Turn, prompt: str) -> Outcome:
    """Read the backend's stream to its terminal event and fold it into a response. Always closes the stream (R33)."""
    options = machine.options
    fold = Fold(options)
    on_event = machine.agent.handle_stream_event if machine.hooks.handle_stream_event else None
    watched = options.silence_s is not None
    pressure = machine.runtime.pressure
    handlers = machine.telemetry.handlers
    terminal: Event | None = None
    backend = machine.backend
    if turn.request.origin is AGENT:
        stream = backend.own_turn(machine.session, turn)
    else:
        if machine.renew is not None:
            await machine.renew()
        stream = backend.prompt(machine.session, prompt, turn)
    try:
        async for event in stream:
            kind = type(event)
            fold.add(event)
            turn.seen += 1
            if kind is UsageEvent:
                turn.report_usage(event.usage)  # type: ignore[union-attr, arg-type] # its kind says so
            if watched:
                turn.heard()
            if machine.subscriptions is not None:
                for subscription in machine.subscriptions:
                    subscription.event(turn.ref, turn.attempt, event)
            if handlers:
                machine.telemetry.execute(
                    telemetry.EVENT_RECEIVED, {}, {"agent": machine.name, "ref": turn.ref, "event": event}
                )
            if on_event is not None:
                raised = callbacks.call(machine, "handle_stream_event", on_event, event)
                if isinstance(raised, Raised):
                    return Failed(Reason.CALLBACK_FAILED, str(raised))
            if kind is ResultEvent or kind is ErrorEvent:
                terminal = event
                break
            if turn.ending is not None:
                return turn.ending
            if pressure is not None and pressure.congested:
                await pressure.relieved()
    finally:
        turn.stage = CLOSE
        # E07, R33: never left to the garbage collector, and closing it ends what the turn started.
        await stream.aclose()
    if isinstance(terminal, ResultEvent):
        if terminal.session is not None:
            machine.session = terminal.session
            machine.listen()
        took = machine.clock.monotonic() - turn.began
        return Completed(fold.response(terminal, took, machine.provider_session_id))
    if isinstance(terminal, ErrorEvent):
        turn.usage = terminal.usage or turn.usage
        return Failed(
            Reason.INTERRUPTED if terminal.interrupted else Reason.BACKEND_ERROR, terminal.message,
             cause=terminal.cause, retry_after_s=terminal.retry_after_s,
            acted=fold.acted,
        )  # fmt: skip
    return Failed(Reason.NO_TERMINAL_EVENT, "the backend's stream ended without a result")


def _with_usage(turn: Turn, outcome: Outcome) -> Outcome:
    """Return the outcome with what the whole request has used, however it ended: it was paid for (L08)."""
    if isinstance(outcome, Failed):
        return replace(outcome, usage=turn.spent())
    if turn.spent_before is None:
        return outcome
    response = outcome.response
    total = turn.spent_before if response.usage is None else response.usage.plus(turn.spent_before)
    return Completed(replace(response, usage=total))


def _refused(machine: Machine, turn: Turn, answer: object) -> Failed | None:
    """Return how the turn fails when `pre_turn` did not return a prompt."""
    match answer:
        case str():
            return None
        case Skip(reason):
            outcome = Failed(Reason.SKIPPED, reason)
        case Halt(reason):
            machine.freeze()
            outcome = Failed(Reason.HALTED, reason or "pre_turn halted the agent")
        case Raised():
            outcome = Failed(Reason.SKIPPED, str(answer))
        case _:
            raised = Raised(
                "pre_turn", f"returned {type(answer).__name__}: use a prompt, Skip(reason) or Halt()"
            )
            outcome = Failed(Reason.SKIPPED, str(callbacks.report(machine, raised)))
    # E13: also for prompts nobody waits for, so that an autonomous agent never stalls unseen.
    machine.telemetry.execute(
        telemetry.TURN_REJECTED,
        {},
        {"agent": machine.name, "ref": turn.ref, "origin": turn.request.origin, "reason": outcome.reason},
    )
    return outcome


def _ask_agent(machine: Machine, turn: Turn, outcome: Outcome) -> object:
    """Call the callback that decides what follows; return its value, perhaps still to be awaited."""
    if isinstance(outcome, Completed):
        if machine.hooks.handle_response:
            return callbacks.handle_response(machine, turn.ref, outcome.response)
    elif machine.hooks.handle_error and outcome.reason not in NOT_DECIDED:
        handle_error = machine.agent.handle_error
        return callbacks.call(machine, "handle_error", handle_error, turn.ref, outcome.reason, outcome.detail)
    return None


async def _decide(machine: Machine, outcome: Outcome, answer: object) -> tuple[Outcome, Next]:
    """Return what the agent decided. A `handle_response` that raises fails the request (R27)."""
    completed = isinstance(outcome, Completed)
    hook = "handle_response" if completed else "handle_error"
    following = callbacks.as_next(machine, hook, await _finish_unless_stopped(machine, hook, answer))
    if not isinstance(following, Raised):
        return outcome, following
    return (Failed(Reason.CALLBACK_FAILED, str(following)) if completed else outcome), None


async def _finish_unless_stopped(machine: Machine, hook: str, value: object) -> object:
    """Await a callback's value; a stop may end the wait, and then the value is nothing."""
    try:
        return await callbacks.finish(machine, hook, value)
    except CancelledError:
        if machine.phase is not STOPPING or machine.turn is None:
            raise
        machine.turn.absorb_cancel()
        return None


async def _finish_between(machine: Machine, hook: str, value: object) -> object:
    """Await a callback's value outside of any turn; a stop ends the wait, and then the value is nothing."""
    machine.between = True
    try:
        return await callbacks.finish(machine, hook, value)
    except CancelledError:
        if machine.phase is not STOPPING or machine.task is None:
            raise
        machine.task.uncancel()
        return None
    finally:
        machine.between = False


async def _pre_run(machine: Machine) -> bool:
    """Run `pre_run`, once; return whether the agent may go on (R21)."""
    machine.pre_run_due = False
    value = callbacks.call(machine, "pre_run", machine.agent.pre_run)
    value = await _finish_between(machine, "pre_run", value)
    if isinstance(value, Raised):
        machine.runtime.crashed(machine, str(value), Reason.PRE_RUN_FAILED)
        return False
    return True


async def _drain_notifications(machine: Machine) -> None:
    """Handle what was buffered, in order; one event's failure does not lose the next (R28, E02)."""
    kept, machine.notifications = machine.notifications, None
    for event in kept.events if kept is not None else ():
        if isinstance(event, Begun):
            value: object = event.value
        else:
            value = callbacks.call(machine, "handle_event", machine.agent.handle_event, event)
        value = await _finish_between(machine, "handle_event", value)
        if machine.phase is not PROCESSING:
            return
        notifications.apply(machine, value)


async def _announce_halt(machine: Machine) -> None:
    """Run `post_run`, then emit `halted`: once for each clean halt, after every buffered event (R24, E03)."""
    machine.halt_announced = True
    if machine.hooks.post_run:
        value = callbacks.call(machine, "post_run", machine.agent.post_run)
        await _finish_between(machine, "post_run", value)
        if not machine.halted or machine.phase is not PROCESSING:
            return
    machine.emit_halted()


def _emit_start(machine: Machine, turn: Turn, prompt: str, original: str) -> None:
    request = turn.request
    turn.announced = True
    base = {"agent": machine.name, "ref": turn.ref, "origin": request.origin}
    machine.telemetry.execute(telemetry.TURN_START, {"attempt": turn.attempt}, base)
    content = {
        "attempt": turn.attempt,
        "prompt": prompt,
        "original": original,
        "rewritten": prompt != original,
    }
    machine.telemetry.execute(telemetry.PROMPT_START, {}, {**base, **content})


def emit_end(machine: Machine, turn: Turn, outcome: Outcome, *, retried: bool = False) -> None:
    """Settle the turn in telemetry, whatever its outcome: every turn that started ends in metrics, once (E31)."""
    tell = machine.telemetry
    if not tell.handlers:
        return
    took = {"duration_s": machine.clock.monotonic() - turn.began}
    base: dict[str, object] = {"agent": machine.name, "ref": turn.ref}
    started = turn.announced
    match outcome:
        case Completed(response):
            if started:
                counts = {**took, "events": turn.seen}
                tell.execute(telemetry.TURN_STOP, counts, {**base, "usage": response.usage})
            tell.execute(telemetry.PROMPT_STOP, took, {**base, "response": response})
        case Failed(reason, detail):
            if started:
                tell.execute(telemetry.TURN_ERROR, took, {**base, "reason": reason, "retried": retried})
            tell.execute(telemetry.PROMPT_ERROR, took, {**base, "reason": reason, "detail": detail})
