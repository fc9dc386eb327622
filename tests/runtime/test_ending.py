"""How agents and requests end when several things happen at once: R13-R17, R35, R36, R41, R42, E07-E12, E24, E29."""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from tests.runtime.puppet import Gate, Plain, Puppet, Scripted
from tollboard.errors import (
    AgentBusy,
    AgentNotFound,
    BackendError,
    Crash,
    Invalid,
    NotCancellable,
    StoreUnavailable,
    TurnFailed,
)
from tollboard.runtime import telemetry
from tollboard.runtime.agent import Halt, Prompt
from tollboard.runtime.approval import ApprovalRequest
from tollboard.runtime.backend import ProcessReport, Turn
from tollboard.runtime.event import Event, ResultEvent, TextEvent
from tollboard.runtime.request import Origin
from tollboard.runtime.results import Completed, Failed, Pending, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase
from tollboard.runtime.subscription import Ended, Missed
from tollboard.testing.clock import FakeClock
from tollboard.testing.recorder import RecordingJournal, TelemetryRecorder


def _reason(outcome: Any) -> Reason:
    assert isinstance(outcome, Failed)
    return outcome.reason


def _crash(*_: object) -> None:
    raise Crash("state is broken")


# -- an interrupt before the first step -------------------------------------------------------------------------------


async def test_r13_an_interrupt_right_after_tell_reaches_the_turn_that_is_about_to_begin(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "one")
    assert runtime.status("a").in_flight == ref
    assert runtime.interrupt("a", ref=ref)
    assert await runtime.wait(ref) == Failed(Reason.INTERRUPTED)
    assert backend.ran == []


async def test_r13_without_a_ref_it_reaches_it_too(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "one")
    assert runtime.interrupt("a")
    assert await runtime.wait(ref) == Failed(Reason.INTERRUPTED)


async def test_e06_an_interrupt_after_a_turn_spares_what_it_chained(
    runtime: Runtime, backend: Puppet
) -> None:
    gate, chain = Gate(), iter([Prompt("chained")])

    async def handle_event(event: object) -> None:
        await gate.pass_through()

    holding = backend.hold("one")
    await runtime.start_agent(
        Scripted,
        "a",
        backend=backend,
        handle_event=handle_event,
        handle_response=lambda *_: next(chain, None),
    )
    runtime.tell("a", "one")
    await holding.entered.wait()
    runtime.notify("a", "news")
    holding.release()
    await gate.entered.wait()
    assert not runtime.interrupt("a")
    gate.release()
    await runtime.ask("a", "last")
    assert backend.ran == ["one", "chained", "last"]


# -- what waits before the mailbox ------------------------------------------------------------------------------------


async def test_r43_a_prompt_that_found_the_agent_idle_fails_with_a_halt_too(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "one", on_halt="fail")
    runtime.halt("a")
    assert await runtime.wait(ref) == Failed(Reason.HALTED)
    assert backend.ran == []


async def test_r19_a_halt_before_the_first_step_leaves_the_prompt_queued(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    first = runtime.tell("a", "one")
    runtime.halt("a")
    second = runtime.tell("a", "two")
    assert runtime.status("a").queued == 2
    assert [runtime.poll(ref) for ref in (first, second)] == [Pending(1), Pending(2)]
    runtime.resume("a")
    await runtime.wait_all([first, second])
    assert backend.ran == ["one", "two"]


# -- stop, drain, reset, crash: two at once ---------------------------------------------------------------------------


async def test_r17_a_stop_does_not_wait_for_the_turn_that_a_drain_waits_for(
    runtime: Runtime, backend: Puppet
) -> None:
    gate = backend.hold("slow")
    await runtime.start_agent(Plain, "a", backend=backend)
    ended: list[Any] = []
    runtime.tell("a", "slow", on_complete=lambda ref, outcome: ended.append(outcome))
    await gate.entered.wait()
    draining = asyncio.create_task(runtime.drain("a"))
    await asyncio.sleep(0)
    await runtime.stop("a")
    await draining
    assert ended == [Failed(Reason.STOPPED)]
    assert runtime.whereis("a") is None


async def test_r17_a_stop_during_a_reset_ends_the_agent_and_its_new_session(
    runtime: Runtime, backend: Puppet
) -> None:
    gate, ended = Gate(), []

    class Slow(Puppet):
        async def reset_session(self, session: dict[str, Any]) -> dict[str, Any]:
            await gate.pass_through()
            return {"fresh": True}

        async def terminate_session(self, session: dict[str, Any]) -> ProcessReport:
            ended.append(session)
            return await super().terminate_session(session)

    await runtime.start_agent(Plain, "a", backend=Slow())
    resetting = asyncio.create_task(runtime.reset_session("a"))
    await gate.entered.wait()
    told: list[Any] = []
    runtime.tell("a", "never", on_complete=lambda ref, outcome: told.append(outcome))
    stopping = asyncio.create_task(runtime.stop("a"))
    await asyncio.sleep(0)
    gate.release()
    await stopping
    await resetting
    assert ended == [{"fresh": True}]
    assert [_reason(outcome) for outcome in told] == [Reason.STOPPED]
    assert runtime.whereis("a") is None


async def test_r42_a_halt_during_a_reset_is_announced_after_it(
    runtime: Runtime, seen: TelemetryRecorder
) -> None:
    gate = Gate()

    class Slow(Puppet):
        async def reset_session(self, session: dict[str, Any]) -> dict[str, Any]:
            await gate.pass_through()
            return session

    agent = await runtime.start_agent(Scripted, "a", backend=Slow())
    resetting = asyncio.create_task(runtime.reset_session("a"))
    await gate.entered.wait()
    with pytest.raises(AgentBusy):
        await runtime.reset_session("a")
    runtime.halt("a")
    runtime.notify("a", "news")
    gate.release()
    await resetting
    await seen.seen(telemetry.HALTED)
    assert agent.agent.called("handle_event") == [("news",)]
    assert agent.agent.called("post_run") == [()]


async def test_r35_a_stop_while_a_crash_is_under_way_prevents_the_restart(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    gate = backend.terminate_gate = Gate()
    await runtime.start_agent(Scripted, "a", backend=backend, restart="permanent", handle_response=_crash)
    runtime.tell("a", "one")
    await gate.entered.wait()
    stopping = asyncio.create_task(runtime.stop("a"))
    await asyncio.sleep(0)
    gate.release()
    await stopping
    assert runtime.whereis("a") is None
    assert len(seen.of(telemetry.AGENT_STARTED)) == 1


async def test_r35_a_drained_agents_restart_policy_is_not_inherited_by_its_namesake(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, restart="permanent")
    await runtime.drain("a")
    await runtime.start_agent(Scripted, "a", backend=backend, handle_response=_crash)
    with pytest.raises(TurnFailed):
        await runtime.ask("a", "one")
    await seen.seen(telemetry.AGENT_CRASHED)
    await asyncio.sleep(0)
    assert runtime.status("a").phase is Phase.DEAD
    assert len(seen.of(telemetry.AGENT_STARTED)) == 2


async def test_r35_a_restart_that_fails_leaves_the_agent_visibly_dead(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    await runtime.start_agent(Scripted, "a", backend=backend, restart="permanent", handle_response=_crash)
    backend.refuse = ValueError("hunter2")
    runtime.tell("a", "one")
    await seen.seen(telemetry.AGENT_CRASHED)
    await asyncio.sleep(0)
    assert runtime.status("a").phase is Phase.DEAD
    assert "could not be restarted" in caplog.text
    assert "hunter2" not in caplog.text


async def test_r35_a_crash_in_handle_event_of_an_idle_agent_is_not_the_notifiers(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(Scripted, "a", backend=backend, handle_event=_crash)
    runtime.notify("a", 1)
    await seen.seen(telemetry.AGENT_CRASHED)
    assert runtime.status("a").reason == "state is broken"


async def test_r17_a_crash_in_terminate_agent_frees_the_name_all_the_same(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Scripted, "a", backend=backend, terminate_agent=_crash)
    await runtime.stop("a")
    assert backend.terminated == 1
    await runtime.start_agent(Plain, "a", backend=backend)


async def test_r17_a_stop_while_post_turn_decides_nothing_chains_nothing(
    runtime: Runtime, backend: Puppet
) -> None:
    gate, journal = Gate(), RecordingJournal()

    async def post_turn(*_: object) -> None:
        await gate.pass_through()

    await runtime.start_agent(
        Scripted, "a", backend=backend, journal=journal, post_turn=post_turn,
        handle_response=lambda *_: Prompt("more"),
    )  # fmt: skip
    runtime.tell("a", "one")
    await gate.entered.wait()
    await runtime.stop("a")
    assert [kind for kind, _ in journal.log].count("accepted") == 1


async def test_r17_a_prompt_or_halt_of_an_event_that_a_stop_ended_changes_nothing(
    runtime: Runtime, backend: Puppet
) -> None:
    gate, journal = Gate(), RecordingJournal()

    async def handle_event(event: object) -> Halt:
        try:
            await gate.pass_through()
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        return Halt()

    await runtime.start_agent(Scripted, "a", backend=backend, journal=journal, handle_event=handle_event)
    runtime.notify("a", 1)
    await gate.entered.wait()
    await runtime.stop("a")
    assert ("halted", "") not in journal.log


async def test_e12_a_crash_tells_the_journal_and_the_metrics_how_the_turn_ended(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Scripted, "a", backend=backend, journal=journal, handle_response=_crash)
    ref = runtime.tell("a", "one")
    await seen.seen(telemetry.AGENT_CRASHED)
    assert journal.outcomes[ref] == Failed(Reason.CRASHED, "state is broken")
    assert [recorded.metadata["reason"] for recorded in seen.of(telemetry.TURN_ERROR)] == [Reason.CRASHED]


async def test_e31_a_turn_that_never_started_does_not_end_in_metrics(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    from tollboard.runtime.agent import Skip

    await runtime.start_agent(Scripted, "a", backend=backend, pre_turn=lambda prompt: Skip("no"))
    with pytest.raises(TurnFailed):
        await runtime.ask("a", "one")
    await seen.seen(telemetry.PROMPT_ERROR)
    assert seen.of(telemetry.TURN_START) == seen.of(telemetry.TURN_ERROR) == []
    assert len(seen.of(telemetry.TURN_REJECTED)) == 1


# -- cancellations that are not ours ----------------------------------------------------------------------------------


async def _cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def test_r25_a_cancellation_inside_the_backend_fails_the_turn_not_the_agent(
    runtime: Runtime, backend: Puppet
) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield TextEvent("half")
        await _cancelled_future()

    backend.script("bad", script)
    await runtime.start_agent(Plain, "a", backend=backend)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "bad")
    assert failed.value.reason == Reason.STREAM_CRASHED
    assert (await runtime.ask("a", "good")).text == "good"


@pytest.mark.parametrize("hook", ["handle_response", "handle_event", "pre_turn"])
async def test_r27_a_cancellation_inside_a_callback_is_its_own_failure(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, hook: str
) -> None:
    await runtime.start_agent(Scripted, "a", backend=backend, **{hook: lambda *_: _cancelled_future()})
    ref = runtime.tell("a", "one")
    runtime.notify("a", 1)
    await runtime.wait(ref)
    await seen.seen(telemetry.CALLBACK_FAILED)
    assert runtime.whereis("a") is not None


async def test_a_busy_period_that_is_cancelled_from_outside_is_a_crash(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    gate = backend.hold("slow")
    machine = await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    ended = asyncio.create_task(runtime.wait(ref))
    await asyncio.sleep(0)
    assert machine.task is not None
    machine.task.cancel()
    assert _reason(await ended) is Reason.CRASHED
    await seen.seen(telemetry.AGENT_CRASHED)


async def test_r25_a_backend_that_refuses_with_its_own_error_says_so(
    runtime: Runtime, backend: Puppet
) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        raise BackendError("no credit left")
        yield TextEvent("never")

    backend.script("bad", script)
    await runtime.start_agent(Plain, "a", backend=backend)
    with pytest.raises(TurnFailed, match="no credit left") as failed:
        await runtime.ask("a", "bad")
    assert failed.value.reason == Reason.BACKEND_ERROR


# -- watchdog and decision --------------------------------------------------------------------------------------------


async def test_r16_an_alarm_while_a_retry_waits_for_its_slot_hits_nothing(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    """Once the outcome is known only a callback may be cancelled; the agent used to die of it."""
    backend.fail("bad")

    def handle_error(*_: object) -> Prompt:
        # Fires when the busy period is suspended next: in the line for a slot, past the first attempt's deadline.
        asyncio.get_running_loop().call_soon(clock.advance, 11.0)
        return Prompt("again")

    await runtime.start_agent(
        Scripted, "a", backend=backend, watchdog_s=10.0, silence_s=6.0, handle_error=handle_error
    )
    assert (await runtime.ask("a", "bad")).text == "again"
    assert runtime.whereis("a") is not None


async def test_r16_what_is_said_while_a_person_is_asked_is_not_credited_twice(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    asked, said, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def script(turn: Turn) -> AsyncIterator[Event]:
        question = asyncio.create_task(turn.request_approval(ApprovalRequest("rm", {})))
        asked.set()
        await go_on.wait()
        yield TextEvent("meanwhile")
        said.set()
        await question
        await asyncio.Event().wait()

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend, silence_s=10.0)
    ref = runtime.tell("a", "go")
    await asked.wait()
    await asyncio.sleep(0)
    clock.advance(100)
    go_on.set()
    await said.wait()
    from tollboard.runtime.approval import Approve

    (approval,) = runtime.approvals
    await runtime.decide(approval, Approve())
    clock.advance(10)
    assert await runtime.wait(ref) == Failed(Reason.TIMEOUT, "no event for 10 s")


# -- endings that are being remembered --------------------------------------------------------------------------------


async def test_r06_a_withdrawn_request_is_pending_until_its_end_is_durable(
    runtime: Runtime, backend: Puppet
) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    runtime.halt("a")
    ref = runtime.tell("a", "one")
    journal.hold = True
    runtime.cancel(ref)
    assert runtime.poll(ref) == Pending(0)
    with pytest.raises(NotCancellable):
        runtime.cancel(ref)
    waiting = asyncio.create_task(runtime.wait(ref))
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.release()
    assert await waiting == Failed(Reason.CANCELLED)
    assert runtime.poll(ref) == Failed(Reason.CANCELLED)


async def test_r17_a_stop_waits_for_the_ends_of_what_was_withdrawn_before(
    runtime: Runtime, backend: Puppet
) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    runtime.halt("a")
    refs = [runtime.tell("a", "one"), runtime.tell("a", "two")]
    waiting = asyncio.create_task(runtime.wait_all(refs))
    await asyncio.sleep(0)
    journal.hold = True
    runtime.cancel(refs[0])
    stopping = asyncio.create_task(runtime.stop("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not stopping.done()
    journal.release()
    assert (await stopping).failed == (refs[1],)
    assert [_reason(outcome) for outcome in await waiting] == [Reason.CANCELLED, Reason.STOPPED]
    assert runtime.refs == {}


async def test_r17_the_ends_of_a_long_queue_become_durable_together(
    runtime: Runtime, backend: Puppet
) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    runtime.halt("a")
    for n in range(5):
        runtime.tell("a", str(n))
    journal.hold = True
    stopping = asyncio.create_task(runtime.stop("a"))
    while not journal.held:
        await asyncio.sleep(0)
    assert len(journal.held) == 5
    journal.release()
    await stopping


async def test_an_end_that_cannot_be_remembered_is_reported_and_told(
    runtime: Runtime, backend: Puppet, caplog: pytest.LogCaptureFixture
) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    runtime.halt("a")
    ref = runtime.tell("a", "one")
    journal.failing["finished"] = StoreUnavailable("disk full")
    runtime.cancel(ref)
    assert await runtime.wait(ref) == Failed(Reason.CANCELLED)
    assert "store_unavailable" in caplog.text


async def test_a_result_that_cannot_be_remembered_is_not_shown_as_one(
    runtime: Runtime, backend: Puppet
) -> None:
    journal = RecordingJournal(failing={"finished": StoreUnavailable("disk full")})
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "one")
    assert _reason(await runtime.wait(ref)) is Reason.STORE_FAILED


async def test_an_acceptance_that_fails_while_the_turn_waits_for_it_ends_once(
    runtime: Runtime, backend: Puppet
) -> None:
    journal = RecordingJournal(hold=True)
    machine = await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    ended: list[Any] = []
    request = runtime.accept(machine, "one", on_complete=lambda ref, outcome: ended.append(outcome))
    while len(journal.held) < 2:
        await asyncio.sleep(0)
    accepted, started = journal.held
    journal.hold = False
    accepted.set_exception(StoreUnavailable("disk full"))
    with pytest.raises(StoreUnavailable):
        await request.commit  # type: ignore[misc]
    assert not runtime.withdraw(request.ref, Reason.STORE_FAILED)
    started.set_exception(StoreUnavailable("disk full"))
    await runtime.wait(request.ref)
    assert [_reason(outcome) for outcome in ended] == [Reason.STORE_FAILED]
    assert backend.ran == []


async def test_an_acceptance_that_fails_while_queued_is_withdrawn(runtime: Runtime, backend: Puppet) -> None:
    machine = await runtime.start_agent(Plain, "a", backend=backend)
    runtime.halt("a")
    request = runtime.accept(machine, "one")
    assert runtime.withdraw(request.ref, Reason.STORE_FAILED)
    assert runtime.poll(request.ref) == Failed(Reason.STORE_FAILED)
    assert not runtime.withdraw("nobody", Reason.STORE_FAILED)


async def test_an_acceptance_that_is_refused_leaves_nothing_queued(runtime: Runtime, backend: Puppet) -> None:
    class Refusing(RecordingJournal):
        def accepted(self, request: Any) -> Any:
            raise StoreUnavailable("disk full")

    await runtime.start_agent(Plain, "a", backend=backend, journal=Refusing())
    with pytest.raises(StoreUnavailable):
        runtime.tell("a", "idle")
    runtime.halt("a")
    with pytest.raises(StoreUnavailable):
        runtime.tell("a", "queued")
    assert runtime.status("a").queued == 0


async def test_e19_a_checkpoint_that_was_not_kept_is_made_again(runtime: Runtime, backend: Puppet) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        await turn.checkpoint("p-1")
        yield ResultEvent("done")

    backend.script("one", script)
    journal = RecordingJournal(failing={"checkpointed": StoreUnavailable("disk full")})
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    with pytest.raises(TurnFailed):
        await runtime.ask("a", "one")
    journal.failing.clear()
    assert (await runtime.ask("a", "one")).provider_session_id == "p-1"
    assert journal.log.count(("checkpointed", "p-1")) == 2


async def test_e21_a_ref_names_one_request(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "one", ref="mine")
    with pytest.raises(Invalid, match="mine"):
        runtime.tell("a", "two", ref="mine")
    await runtime.wait(ref)
    with pytest.raises(Invalid):
        runtime.tell("a", "three", ref="mine")


# -- closing ----------------------------------------------------------------------------------------------------------


async def test_r36_a_close_that_gives_up_leaves_nobody_waiting(backend: Puppet) -> None:
    """A backend that hangs in closing its stream, and holds what was queued behind it."""

    async def script(turn: Turn) -> AsyncIterator[Event]:
        try:
            yield TextEvent("half")
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    backend.script("stuck", script)
    runtime = Runtime()
    await runtime.start_agent(Plain, "a", backend=backend)
    subscription = runtime.subscribe("a")
    first, queued = runtime.tell("a", "stuck"), runtime.tell("a", "queued")
    asking = asyncio.create_task(runtime.ask("a", "asked"))
    await anext(subscription)
    waiting = asyncio.create_task(runtime.wait_all([first, queued]))
    await asyncio.sleep(0)
    assert await runtime.close(deadline_s=0.01) == ("a",)
    assert [_reason(outcome) for outcome in await waiting] == [Reason.STOPPED] * 2
    with pytest.raises(TurnFailed):
        await asking
    assert runtime.whereis("a") is None


async def test_r36_a_close_gives_up_on_a_journal_that_never_answers(backend: Puppet) -> None:
    runtime = Runtime()
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    runtime.halt("a")
    ended: list[Any] = []
    runtime.tell("a", "one", on_complete=lambda ref, outcome: ended.append(outcome))
    journal.hold = True
    runtime.cancel(next(iter(runtime.refs)))
    assert await runtime.close(deadline_s=0.01) == ("a",)
    assert ended == [Failed(Reason.CANCELLED)]


async def test_r36_a_close_gives_up_on_a_turn_whose_end_is_never_durable(backend: Puppet) -> None:
    runtime = Runtime()
    journal = RecordingJournal()

    def handle_response(*_: object) -> None:
        journal.hold = True

    await runtime.start_agent(
        Scripted, "a", backend=backend, journal=journal, handle_response=handle_response
    )
    ended: list[Any] = []
    runtime.tell("a", "one", on_complete=lambda ref, outcome: ended.append(outcome))
    while not journal.held:
        await asyncio.sleep(0)
    assert await runtime.close(deadline_s=0.01) == ("a",)
    assert len(ended) == 1


async def test_r36_closing_twice_is_fine(backend: Puppet) -> None:
    runtime = Runtime()
    await runtime.start_agent(Plain, "a", backend=backend)
    assert await runtime.close() == await runtime.close() == ()


async def test_r20_a_start_that_a_close_overtakes_ends_its_session(backend: Puppet) -> None:
    gate = Gate()

    class Slow(Plain):
        async def init_agent(self, **options: object) -> dict[str, object]:  # type: ignore[override]
            await gate.pass_through()
            return {}

    runtime = Runtime()
    starting = asyncio.create_task(runtime.start_agent(Slow, "a", backend=backend))
    await gate.entered.wait()
    await runtime.close()
    gate.release()
    with pytest.raises(AgentNotFound, match="closing"):
        await starting
    assert backend.terminated == 1


# -- subscriptions and memory -----------------------------------------------------------------------------------------


async def test_e22_a_subscriber_that_never_reads_keeps_a_bounded_number_of_outcomes(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    subscription = runtime.subscribe("a", buffer=2)
    for n in range(10):
        await runtime.ask("a", str(n))
    subscription.close()
    items = [item async for item in subscription]
    assert len(items) <= 6
    assert sum(isinstance(item, Ended) for item in items) >= 2
    assert isinstance(items[-1], Missed)


async def test_a_handle_that_is_kept_keeps_no_responses(runtime: Runtime, backend: Puppet) -> None:
    class Session:
        """Something that can be referred to weakly."""

    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield ResultEvent("x", session=Session())

    backend.script("one", script)
    machine = await runtime.start_agent(Plain, "a", backend=backend)
    outcome = await runtime.wait(runtime.tell("a", "one"))
    assert isinstance(outcome, Completed)
    kept = weakref.ref(outcome.response.events[0].session)  # type: ignore[union-attr]
    del outcome
    await runtime.stop("a")
    machine.session = None
    backend.turns.clear()
    gc.collect()
    assert kept() is None


async def test_a_response_dies_with_its_last_reader_without_the_collector(
    runtime: Runtime, backend: Puppet
) -> None:
    class Session:
        """Something that can be referred to weakly."""

    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield ResultEvent("x", session=Session())

    backend.script("one", script)
    await runtime.start_agent(Plain, "a", backend=backend, max_results=0)
    gc.collect()
    gc.disable()
    try:
        response = await runtime.ask("a", "one")
        kept = weakref.ref(response.events[0].session)  # type: ignore[union-attr]
        del response
        machine = runtime.whereis("a")
        assert machine is not None
        machine.session = None
        backend.turns.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert kept() is None
    finally:
        gc.enable()


# -- callbacks that turn out to be awaitable --------------------------------------------------------------------------


async def test_r28_a_plain_handle_event_may_return_an_awaitable(runtime: Runtime, backend: Puppet) -> None:
    order: list[str] = []

    def handle_event(event: Any) -> Any:
        async def later() -> Prompt:
            order.append(event)
            return Prompt(event)

        return later()

    await runtime.start_agent(Scripted, "a", backend=backend, handle_event=handle_event)
    for event in ("one", "two", "three"):
        runtime.notify("a", event)
    await runtime.ask("a", "last")
    await runtime.ask("a", "very last")
    assert order == ["one", "two", "three"]
    assert sorted(backend.ran) == ["last", "one", "three", "two", "very last"]


async def test_r17_an_agent_that_a_stop_takes_out_of_an_event_runs_nothing_more(
    runtime: Runtime, backend: Puppet
) -> None:
    begun = asyncio.Event()
    held = backend.terminate_gate = Gate()

    async def handle_event(event: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    await runtime.start_agent(Scripted, "a", backend=backend, handle_event=handle_event)
    runtime.notify("a", "first")
    await begun.wait()
    ended: list[Any] = []
    runtime.tell("a", "queued", on_complete=lambda ref, outcome: ended.append(outcome))
    stopping = asyncio.create_task(runtime.stop("a"))
    await held.entered.wait()
    assert runtime.status("a").phase is Phase.STOPPING
    with pytest.raises(AgentNotFound):
        runtime.tell("a", "late")
    held.release()
    await stopping
    assert [_reason(outcome) for outcome in ended] == [Reason.STOPPED]
    assert backend.ran == []


async def test_r24_a_stop_during_post_run_is_not_announced_as_a_halt(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    begun = asyncio.Event()

    async def post_run() -> None:
        begun.set()
        await asyncio.Event().wait()

    await runtime.start_agent(Scripted, "a", backend=backend, post_run=post_run)
    runtime.halt("a")
    await begun.wait()
    await runtime.stop("a")
    assert telemetry.HALTED not in seen.names()


async def test_r28_an_event_that_a_stop_overtakes_is_given_up_for_good(
    runtime: Runtime, backend: Puppet
) -> None:
    begun: list[Coroutine[Any, Any, None]] = []

    class Agent(Plain):
        def handle_event(self, event: object) -> Any:
            begun.append(asyncio.sleep(0))
            return begun[0]

    await runtime.start_agent(Agent, "a", backend=backend)
    runtime.notify("a", "x")
    await runtime.stop("a")
    assert [inspect.getcoroutinestate(work) for work in begun] == [inspect.CORO_CLOSED]


@pytest.mark.parametrize("hook", ["handle_response", "handle_event"])
async def test_e11_a_prompt_that_is_no_text_is_malformed(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, hook: str
) -> None:
    bad: Any = Prompt(7)  # type: ignore[arg-type]
    await runtime.start_agent(Scripted, "a", backend=backend, **{hook: lambda *_: bad})
    ref = runtime.tell("a", "one")
    runtime.notify("a", 1)
    await runtime.wait(ref)
    await seen.seen(telemetry.CALLBACK_FAILED)
    assert backend.ran == ["one"]


# -- what the originals got wrong, and we must not --------------------------------------------------------------------


async def test_e07_a_stream_that_ends_without_a_word_ends_its_turn_at_once(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        for event in ():
            yield event

    backend.script("silent", script)
    await runtime.start_agent(Plain, "a", backend=backend)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "silent")
    assert failed.value.reason == Reason.NO_TERMINAL_EVENT
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize("end", ["stop", "crash", "close"])
async def test_e09_the_end_of_an_agent_ends_its_stream(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, end: str
) -> None:
    gate = backend.hold("slow")
    machine = await runtime.start_agent(Plain, "a", backend=backend)
    runtime.tell("a", "slow")
    await gate.entered.wait()
    if end == "stop":
        await runtime.stop("a")
    elif end == "close":
        await runtime.close()
    else:
        assert machine.task is not None
        machine.task.cancel()
        await seen.seen(telemetry.AGENT_CRASHED)
    assert (backend.running, backend.closed, backend.terminated) == (0, ["slow"], 1)


async def test_e12_a_handle_response_that_raises_fails_the_asker_promptly(
    runtime: Runtime, backend: Puppet
) -> None:
    def handle_response(*_: object) -> None:
        raise ValueError("hunter2")

    await runtime.start_agent(Scripted, "a", backend=backend, handle_response=handle_response)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "one")
    assert failed.value.reason == Reason.CALLBACK_FAILED
    assert "hunter2" not in str(failed.value)


async def test_e17_what_the_stream_callback_learned_survives_a_failed_turn(
    runtime: Runtime, backend: Puppet
) -> None:
    backend.fail("bad")
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    with pytest.raises(TurnFailed):
        await runtime.ask("a", "bad")
    assert len(agent.agent.called("handle_stream_event")) == 1


async def test_e20_a_failed_turn_answers_for_its_prompt_in_the_journal(
    runtime: Runtime, backend: Puppet
) -> None:
    backend.fail("bad", "overloaded")
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "bad")
    await runtime.wait(ref)
    assert journal.log == [("accepted", ref), ("started", ref), ("finished", ref)]
    assert journal.outcomes[ref] == Failed(Reason.BACKEND_ERROR, "overloaded")


async def test_e23_a_dead_callers_queued_prompt_is_not_paid_for(runtime: Runtime, backend: Puppet) -> None:
    gate = backend.hold("slow")
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    slow = runtime.tell("a", "slow")
    await gate.entered.wait()
    caller = asyncio.create_task(runtime.ask("a", "expensive"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    gate.release()
    await runtime.wait(slow)
    assert backend.ran == ["slow"]
    assert Failed(Reason.ABANDONED) in journal.outcomes.values()


async def test_e32_an_agent_that_asks_one_that_asks_it_is_told_at_once(
    runtime: Runtime, backend: Puppet
) -> None:
    from tollboard.errors import WouldDeadlock

    told: list[type[BaseException]] = []

    def asking(other: str) -> Callable[..., Any]:
        async def handle_response(*_: object) -> None:
            try:
                await runtime.ask(other, "nested")
            except (WouldDeadlock, TurnFailed) as exc:
                told.append(type(exc))

        return handle_response

    await runtime.start_agent(Scripted, "a", backend=backend, handle_response=asking("b"))
    await runtime.start_agent(Scripted, "b", backend=backend, handle_response=asking("a"))
    await runtime.ask("a", "one")
    assert told == [WouldDeadlock]


async def test_a_prompt_of_an_agents_own_is_not_known_by_ref(runtime: Runtime, backend: Puppet) -> None:
    chain = iter([Prompt("more")])
    agent = await runtime.start_agent(
        Scripted, "a", backend=backend, handle_response=lambda *_: next(chain, None)
    )
    await runtime.ask("a", "one")
    await runtime.ask("a", "two")
    refs = [call[0] for call in agent.agent.called("handle_response")]
    assert len(refs) == 3
    assert runtime.refs == {}
    assert Origin.CHAIN.value == "chain"
