"""Interrupt, cancel, halt, resume, stop, drain, reset, names: R10-R18, R41-R43, E04-E06, E24-E29."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.runtime.puppet import Gate, Plain, Puppet, Scripted
from tollboard.errors import (
    AgentBusy,
    AgentExists,
    AgentNotFound,
    Draining,
    InvalidName,
    NotCancellable,
    RequestNotFound,
    SessionHalted,
    TurnFailed,
    Unsupported,
    WouldDeadlock,
)
from tollboard.runtime import telemetry
from tollboard.runtime.agent import Halt, Prompt, Skip
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import Event, ResultEvent, TextEvent
from tollboard.runtime.results import Completed, Failed, Outcome, Pending, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase
from tollboard.testing.recorder import RecordingJournal, TelemetryRecorder


async def _rest(runtime: Runtime, name: str) -> None:
    """Wait until the agent has nothing to do."""
    while runtime.status(name).phase is Phase.PROCESSING:
        await asyncio.sleep(0)


@pytest.mark.parametrize("hook", ["handle_response", "handle_error", "handle_event", "pre_turn"])
async def test_r10_halt_from_any_deciding_callback_freezes_the_mailbox(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, hook: str
) -> None:
    halts = iter([Halt()])
    backend.fail("bad")
    await runtime.start_agent(Scripted, "a", backend=backend, **{hook: lambda *_: next(halts, None)})
    if hook == "handle_event":
        runtime.notify("a", "now")
    else:
        await runtime.wait(runtime.tell("a", "bad" if hook == "handle_error" else "one"))
    await seen.seen(telemetry.HALTED)
    assert runtime.status("a").halted
    ran = list(backend.ran)
    ref = runtime.tell("a", "later")
    assert runtime.poll(ref) == Pending(1)
    assert backend.ran == ran
    runtime.resume("a")
    assert isinstance(await runtime.wait(ref), Completed)


async def test_r11_resume_drains_in_order(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    runtime.halt("a")
    refs = [runtime.tell("a", text) for text in "xyz"]
    assert runtime.resume("a") is True
    await runtime.wait_all(refs)
    assert backend.ran == ["x", "y", "z"]


async def test_r11_resume_of_an_agent_that_is_not_halted_does_nothing(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    assert runtime.resume("a") is False
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    assert runtime.resume("a") is False
    gate.release()
    await runtime.wait(ref)
    assert backend.ran == ["slow"]


async def test_r12_halt_from_outside_does_not_disturb_the_turn_in_flight(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    first, second = runtime.tell("a", "slow"), runtime.tell("a", "next")
    await gate.entered.wait()
    assert runtime.halt("a") is True
    assert runtime.halt("a") is False
    gate.release()
    assert isinstance(await runtime.wait(first), Completed)
    await _rest(runtime, "a")
    assert runtime.poll(second) == Pending(1)


async def test_e25_resume_during_the_turn_calls_the_pending_halt_off(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    refs = [runtime.tell("a", "slow"), runtime.tell("a", "next")]
    await gate.entered.wait()
    runtime.halt("a")
    runtime.resume("a")
    gate.release()
    await runtime.wait_all(refs)
    assert backend.ran == ["slow", "next"]
    assert seen.of(telemetry.HALTED) == []


async def test_e26_halt_does_not_drop_the_reply_of_the_running_ask(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Scripted, "a", backend=backend, handle_response=lambda *_: Halt())
    assert (await runtime.ask("a", "one")).text == "one"
    assert runtime.status("a").halted


async def test_r13_interrupt_ends_the_turn_and_the_mailbox_goes_on(runtime: Runtime, backend: Puppet) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    gate = backend.hold("slow")
    first, second = runtime.tell("a", "slow"), runtime.tell("a", "next")
    await gate.entered.wait()
    assert runtime.interrupt("a") is True
    assert await runtime.wait(first) == Failed(Reason.INTERRUPTED)
    assert isinstance(await runtime.wait(second), Completed)
    assert backend.closed == ["slow", "next"]
    assert [call[1] for call in agent.agent.called("handle_error")] == [Reason.INTERRUPTED]


async def test_r13_interrupt_of_an_idle_agent_does_nothing(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    assert runtime.interrupt("a") is False
    assert (await runtime.ask("a", "one")).text == "one"


async def test_r14_an_interrupt_for_another_request_acts_on_none(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    first, second = runtime.tell("a", "slow"), runtime.tell("a", "next")
    await gate.entered.wait()
    assert runtime.interrupt("a", ref=second) is False
    gate.release()
    await runtime.wait_all([first, second])
    assert runtime.interrupt("a", ref=first) is False


async def test_e06_an_interrupt_as_a_turn_ends_never_hits_the_next(runtime: Runtime, backend: Puppet) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    for n in range(30):
        gate = backend.hold(f"first {n}")
        first, second = runtime.tell("a", f"first {n}"), runtime.tell("a", f"second {n}")
        await gate.entered.wait()
        gate.release()
        for _ in range(n % 5):
            await asyncio.sleep(0)
        acted = runtime.interrupt("a", ref=first)
        outcome = await runtime.wait(first)
        assert isinstance(outcome, Failed) is acted
        assert isinstance(await runtime.wait(second), Completed)
    assert agent.phase is Phase.IDLE


@pytest.mark.parametrize("hook", ["handle_response", "post_turn"])
async def test_e06_a_callback_that_interrupts_its_own_agent_hits_nothing(
    runtime: Runtime, backend: Puppet, hook: str
) -> None:
    acted: list[bool] = []

    async def interrupting(*_: object) -> None:
        acted.append(runtime.interrupt("a"))
        await asyncio.sleep(0)

    await runtime.start_agent(Scripted, "a", backend=backend, **{hook: interrupting})
    assert [o.text for o in [await runtime.ask("a", "one"), await runtime.ask("a", "two")]] == ["one", "two"]
    assert acted == [False, False]


async def test_an_interrupt_from_handle_stream_event_ends_this_turn(
    runtime: Runtime, backend: Puppet
) -> None:
    def interrupting(event: Event) -> None:
        if isinstance(event, TextEvent) and event.text == "slow":
            assert runtime.interrupt("a")

    backend.hold("slow")
    await runtime.start_agent(Scripted, "a", backend=backend, handle_stream_event=interrupting)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "slow")
    assert failed.value.reason == Reason.INTERRUPTED
    assert (await runtime.ask("a", "next")).text == "next"


async def test_an_interrupt_out_of_the_backends_own_code_ends_this_turn(
    runtime: Runtime, backend: Puppet
) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        runtime.interrupt("a")
        await asyncio.Event().wait()
        yield ResultEvent("never")

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "go")
    assert failed.value.reason == Reason.INTERRUPTED
    assert (await runtime.ask("a", "next")).text == "next"


async def test_a_backend_that_swallows_the_interrupt_still_loses_the_turn(
    runtime: Runtime, backend: Puppet
) -> None:
    gate = Gate()

    async def stubborn(turn: Turn) -> AsyncIterator[Event]:
        with contextlib.suppress(asyncio.CancelledError):
            await gate.pass_through()
        yield ResultEvent("as if nothing had happened")

    backend.script("go", stubborn)
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "go")
    await gate.entered.wait()
    runtime.interrupt("a")
    assert await runtime.wait(ref) == Failed(Reason.INTERRUPTED)
    assert (await runtime.ask("a", "next")).text == "next"


async def test_an_interrupt_during_pre_turn_keeps_the_prompt_from_the_backend(
    runtime: Runtime, backend: Puppet
) -> None:
    gate = Gate()

    async def slow(prompt: str) -> str:
        await gate.pass_through()
        return prompt

    await runtime.start_agent(Scripted, "a", backend=backend, pre_turn=slow)
    ref = runtime.tell("a", "one")
    await gate.entered.wait()
    assert runtime.interrupt("a", ref=ref)
    assert await runtime.wait(ref) == Failed(Reason.INTERRUPTED)
    assert backend.ran == []


async def test_an_interrupt_while_the_start_is_being_written_keeps_the_prompt_from_the_backend(
    runtime: Runtime, backend: Puppet
) -> None:
    journal = RecordingJournal(hold=True)
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "one")
    while ("started", ref) not in journal.log:
        await asyncio.sleep(0)
    assert runtime.interrupt("a", ref=ref)
    journal.hold = False
    journal.release()
    assert await runtime.wait(ref) == Failed(Reason.INTERRUPTED)
    assert backend.ran == []


async def test_an_interrupt_while_a_failed_turn_is_decided_prevents_its_retry(
    runtime: Runtime, backend: Puppet
) -> None:
    gate = Gate()

    async def deciding(*_: object) -> Prompt:
        await gate.pass_through()
        return Prompt("retry")

    backend.fail("bad")
    await runtime.start_agent(Scripted, "a", backend=backend, handle_error=deciding)
    ref = runtime.tell("a", "bad")
    await gate.entered.wait()
    assert runtime.interrupt("a", ref=ref) is False
    gate.release()
    assert await runtime.wait(ref) == Failed(Reason.BACKEND_ERROR, "no")


async def test_r15_cancel_withdraws_a_queued_request(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    first, second = runtime.tell("a", "slow"), runtime.tell("a", "next")
    await gate.entered.wait()
    runtime.cancel(second)
    assert await runtime.wait(second) == Failed(Reason.CANCELLED)
    gate.release()
    await runtime.wait(first)
    assert backend.ran == ["slow"]


async def test_r15_cancel_refuses_what_is_in_flight_or_done(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    with pytest.raises(NotCancellable, match="in flight"):
        runtime.cancel(ref)
    gate.release()
    await runtime.wait(ref)
    with pytest.raises(NotCancellable, match="done"):
        runtime.cancel(ref)
    with pytest.raises(RequestNotFound):
        runtime.cancel("unknown")


async def test_e29_cancel_racing_dispatch_is_one_or_the_other(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    for n in range(10):
        ref = runtime.tell("a", f"p{n}")
        for _ in range(n % 4):
            await asyncio.sleep(0)
        try:
            runtime.cancel(ref)
            cancelled = True
        except NotCancellable:
            cancelled = False
        outcome = await runtime.wait(ref)
        assert (outcome == Failed(Reason.CANCELLED)) is cancelled
        assert (f"p{n}" in backend.ran) is not cancelled


@pytest.mark.parametrize("queued", [0, 3])
async def test_r17_stop_ends_everything_and_frees_the_name(
    runtime: Runtime, backend: Puppet, queued: int
) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    gate = backend.hold("slow")
    first = asyncio.create_task(runtime.ask("a", "slow"))
    await gate.entered.wait()
    others = [asyncio.create_task(runtime.ask("a", str(n))) for n in range(queued)]
    await asyncio.sleep(0)
    stopped = await runtime.stop("a", reason="enough")
    assert len(stopped.failed) == queued + 1
    for result in await asyncio.gather(first, *others, return_exceptions=True):
        assert isinstance(result, TurnFailed)
        assert result.reason == Reason.STOPPED
    assert agent.agent.called("terminate_agent") == [("enough",)]
    assert agent.agent.called("handle_error") == []
    assert backend.terminated == 1
    assert runtime.whereis("a") is None
    await runtime.start_agent(Plain, "a", backend=backend)


async def test_r17_stopping_what_is_not_there_raises(runtime: Runtime) -> None:
    with pytest.raises(AgentNotFound):
        await runtime.stop("nobody")


async def test_r17_two_stops_join(runtime: Runtime, backend: Puppet) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    await asyncio.gather(runtime.stop("a"), runtime.stop("a"))
    assert len(agent.agent.called("terminate_agent")) == 1
    assert backend.terminated == 1


@pytest.mark.parametrize(
    "hook", ["pre_run", "pre_turn", "handle_response", "post_turn", "handle_event", "post_run"]
)
async def test_r17_stop_ends_a_callback_that_hangs(runtime: Runtime, backend: Puppet, hook: str) -> None:
    gate = Gate()

    async def hanging(*_: object) -> None:
        await gate.pass_through()

    hooks = {hook: hanging}
    if hook == "post_run":
        hooks["handle_response"] = lambda *_: Halt()  # type: ignore[assignment]
    await runtime.start_agent(Scripted, "a", backend=backend, **hooks)
    ref = None
    if hook == "handle_event":
        runtime.notify("a", "event")
    elif hook != "pre_run":
        ref = runtime.tell("a", "one")
    await gate.entered.wait()
    async with asyncio.timeout(5):
        await runtime.stop("a")
    assert runtime.whereis("a") is None
    assert ref is None or ref not in runtime.refs


async def test_r17_stop_before_the_first_step_of_a_turn(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    completed: list[object] = []
    runtime.tell("a", "one", on_complete=lambda ref, outcome: completed.append(outcome))
    await runtime.stop("a")
    assert completed == [Failed(Reason.STOPPED, "stopped")]
    assert backend.ran == []


async def test_an_agent_cannot_wait_for_its_own_stop(runtime: Runtime, backend: Puppet) -> None:
    errors: list[Exception] = []

    async def stopping(*_: object) -> None:
        for verb in (runtime.stop, runtime.drain):
            try:
                await verb("a")
            except WouldDeadlock as exc:
                errors.append(exc)

    await runtime.start_agent(Scripted, "a", backend=backend, handle_response=stopping)
    await runtime.ask("a", "one")
    assert len(errors) == 2


async def test_r18_names_are_unique_and_a_second_start_disturbs_nothing(
    runtime: Runtime, backend: Puppet
) -> None:
    first = await runtime.start_agent(Plain, "a", backend=backend)
    with pytest.raises(AgentExists, match="'a'"):
        await runtime.start_agent(Plain, "a", backend=backend)
    assert runtime.whereis("a") is first
    assert (await runtime.ask("a", "one")).text == "one"


async def test_r18_two_starts_at_once_one_wins(runtime: Runtime, backend: Puppet) -> None:
    gate = Gate()

    class Slow(Plain):
        async def init_agent(self) -> dict[str, object]:  # type: ignore[override]
            await gate.pass_through()
            return {}

    first = asyncio.create_task(runtime.start_agent(Slow, "a", backend=backend))
    await gate.entered.wait()
    with pytest.raises(AgentExists):
        await runtime.start_agent(Plain, "a", backend=backend)
    assert runtime.whereis("a") is None
    gate.release()
    assert (await first).name == "a"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "a b", "x" * 65, "ä", "a\n"])
async def test_r18_bad_names_are_refused(runtime: Runtime, backend: Puppet, name: str) -> None:
    with pytest.raises(InvalidName):
        await runtime.start_agent(Plain, name, backend=backend)


async def test_r41_drain_lets_the_turn_in_flight_finish(runtime: Runtime, backend: Puppet) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    gate = backend.hold("slow")
    ended: dict[str, object] = {}
    first = runtime.tell("a", "slow", on_complete=ended.__setitem__)
    second = runtime.tell("a", "next", on_complete=ended.__setitem__)
    await gate.entered.wait()
    draining = asyncio.create_task(runtime.drain("a"))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        runtime.tell("a", "more")
    assert ended == {second: Failed(Reason.DRAINING)}
    gate.release()
    done = await draining
    assert done.failed == (second,)
    assert isinstance(ended[first], Completed)
    assert len(agent.agent.called("handle_response")) == 1
    assert runtime.whereis("a") is None


async def test_r41_drain_is_repeatable_and_a_callers_timeout_does_not_undo_it(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    runtime.tell("a", "slow")
    await gate.entered.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await runtime.drain("a")
    again = asyncio.create_task(runtime.drain("a"))
    gate.release()
    await again
    assert runtime.whereis("a") is None


async def test_r41_a_drained_agent_runs_no_self_chain(runtime: Runtime, backend: Puppet) -> None:
    gate = backend.hold("slow")
    await runtime.start_agent(Scripted, "a", backend=backend, handle_response=lambda *_: Prompt("again"))
    runtime.tell("a", "slow")
    await gate.entered.wait()
    draining = asyncio.create_task(runtime.drain("a"))
    await asyncio.sleep(0)
    gate.release()
    await draining
    assert backend.ran == ["slow"]


@pytest.mark.parametrize("halted", [False, True])
async def test_r41_drain_of_an_idle_agent_stops_it(runtime: Runtime, backend: Puppet, halted: bool) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    refs = []
    if halted:
        runtime.halt("a")
        refs.append(runtime.tell("a", "held"))
    assert (await runtime.drain("a")).failed == tuple(refs)
    assert runtime.whereis("a") is None


async def test_r42_reset_starts_a_fresh_conversation_and_keeps_state_and_queue(
    runtime: Runtime, backend: Puppet
) -> None:
    agent = await runtime.start_agent(Plain, "a", backend=backend, provider_session_id="old")
    runtime.halt("a")
    ref = runtime.tell("a", "held")
    await runtime.reset_session("a")
    assert runtime.status("a").provider_session_id is None
    runtime.resume("a")
    await runtime.wait(ref)
    assert backend.sessions_seen == [{"n": 0, "fresh": True}]
    assert runtime.whereis("a") is agent


async def test_r42_reset_of_a_busy_agent_is_refused(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    with pytest.raises(AgentBusy):
        await runtime.reset_session("a")
    gate.release()
    await runtime.wait(ref)


async def test_r42_an_unsupported_reset_keeps_the_old_session(runtime: Runtime, backend: Puppet) -> None:
    class Fixed(Puppet):
        async def reset_session(self, session: dict[str, object]) -> dict[str, object]:
            raise Unsupported("no")

    fixed = Fixed()
    await runtime.start_agent(Plain, "a", backend=fixed)
    with pytest.raises(Unsupported):
        await runtime.reset_session("a")
    assert (await runtime.ask("a", "one")).text == "one"
    assert fixed.sessions_seen == [{"n": 0}]


async def test_r42_prompts_that_arrive_during_a_reset_run_after_it(runtime: Runtime, backend: Puppet) -> None:
    gate = Gate()

    class Slow(Puppet):
        async def reset_session(self, session: dict[str, object]) -> dict[str, object]:
            await gate.pass_through()
            return {"n": 0, "fresh": True}

    slow = Slow()
    await runtime.start_agent(Plain, "a", backend=slow)
    resetting = asyncio.create_task(runtime.reset_session("a"))
    await gate.entered.wait()
    ref = runtime.tell("a", "one")
    gate.release()
    await resetting
    await runtime.wait(ref)
    assert slow.sessions_seen == [{"n": 0, "fresh": True}]


async def test_r43_fail_on_halt_is_refused_when_halted_and_failed_by_a_halt(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    slow = runtime.tell("a", "slow")
    await gate.entered.wait()
    doomed = runtime.tell("a", "doomed", on_halt="fail")
    waits = runtime.tell("a", "waits")
    runtime.halt("a")
    assert await runtime.wait(doomed) == Failed(Reason.HALTED)
    with pytest.raises(SessionHalted):
        runtime.tell("a", "refused", on_halt="fail")
    gate.release()
    await runtime.wait(slow)
    runtime.resume("a")
    assert isinstance(await runtime.wait(waits), Completed)
    assert backend.ran == ["slow", "waits"]


async def test_e04_prompts_doomed_by_a_halt_hold_no_capacity(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Scripted, "a", backend=backend, max_queued=2)
    gate = backend.hold("slow")
    slow = runtime.tell("a", "slow")
    await gate.entered.wait()
    runtime.tell("a", "doomed", on_halt="fail")
    runtime.tell("a", "doomed too", on_halt="fail")
    runtime.halt("a")
    refs = [runtime.tell("a", "one"), runtime.tell("a", "two")]
    gate.release()
    await runtime.wait(slow)
    runtime.resume("a")
    await runtime.wait_all(refs)


async def test_e24_nobody_is_left_waiting_when_a_halted_agent_is_stopped(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    runtime.halt("a")
    asking = [asyncio.create_task(runtime.ask("a", str(n))) for n in range(3)]
    await asyncio.sleep(0)
    await runtime.stop("a")
    for result in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(result, TurnFailed)
        assert result.reason == Reason.STOPPED


async def test_e15_a_hook_that_skips_a_long_queue_does_not_recurse(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(
        Scripted, "a", backend=backend, pre_turn=lambda prompt: Skip("no"), max_results=2000
    )
    runtime.halt("a")
    refs = [runtime.tell("a", str(n)) for n in range(1000)]
    runtime.resume("a")
    outcomes = await runtime.wait_all(refs)
    assert all(outcome == Failed(Reason.SKIPPED, "no") for outcome in outcomes)


async def test_e16_a_pre_turn_that_halts_on_an_idle_agent(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    agent = await runtime.start_agent(
        Scripted, "a", backend=backend, pre_turn=lambda prompt: Halt("closed today")
    )
    first = runtime.tell("a", "one")
    second = runtime.tell("a", "two")
    assert await runtime.wait(first) == Failed(Reason.HALTED, "closed today")
    await seen.seen(telemetry.HALTED)
    assert runtime.status("a").halted
    assert len(agent.agent.called("post_run")) == 1
    assert runtime.poll(second) == Pending(1)


async def test_e14_status_and_stop_are_served_while_retries_never_end(
    runtime: Runtime, backend: Puppet
) -> None:
    backend.fail("bad")
    await runtime.start_agent(Scripted, "a", backend=backend, handle_error=lambda *_: Prompt("bad"))
    runtime.tell("a", "bad")
    for _ in range(20):
        await asyncio.sleep(0)
    assert runtime.status("a").phase is Phase.PROCESSING
    await runtime.stop("a")
    assert backend.running == 0


# -- who hears of a change may undo it -----------------------------------------------------------


async def test_r12_halt_is_never_true_for_an_agent_that_is_not_halted(
    runtime: Runtime, backend: Puppet
) -> None:
    gate = backend.hold("first")
    await runtime.start_agent(Plain, "a", backend=backend)
    runtime.tell("a", "first")
    await gate.entered.wait()
    heard: list[bool] = []

    def resume(ref: str, outcome: Outcome) -> None:
        heard.append(runtime.resume("a"))

    doomed = runtime.tell("a", "doomed", on_halt="fail", on_complete=resume)
    last = runtime.tell("a", "last", on_halt="fail")
    assert runtime.halt("a") is False
    assert not runtime.status("a").halted
    assert heard == [True]
    gate.release()
    assert [runtime.poll(ref) for ref in (doomed, last)] == [Failed(Reason.HALTED)] * 2


@pytest.mark.parametrize("event", [telemetry.HALTED, telemetry.RESUMED])
async def test_r12_a_handler_that_turns_it_round_is_in_the_answer(
    runtime: Runtime, backend: Puppet, event: telemetry.EventName
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    halted = event == telemetry.RESUMED
    if halted:
        runtime.halt("a")
    verb, back = (runtime.resume, runtime.halt) if halted else (runtime.halt, runtime.resume)
    runtime.telemetry.attach("back", (event,), lambda *_: back("a"))
    assert verb("a") is False
    assert runtime.status("a").halted is halted


async def test_r15_what_is_in_flight_is_not_cancelled_also_before_its_turn_began(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "x")
    assert runtime.status("a").in_flight == ref
    with pytest.raises(NotCancellable, match="in flight: interrupt it"):
        runtime.cancel(ref)
    runtime.halt("a")  # now it waits
    assert runtime.status("a").in_flight is None
    runtime.cancel(ref)
    assert runtime.poll(ref) == Failed(Reason.CANCELLED)
