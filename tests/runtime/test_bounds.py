"""Bounds, the watchdog, fairness: R16, R30, R40, E21, E22, E34."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.runtime.puppet import Gate, Plain, Puppet, Scripted
from tollboard.errors import InvalidOption, Overloaded, TurnFailed
from tollboard.runtime import telemetry
from tollboard.runtime.agent import Prompt
from tollboard.runtime.approval import ApprovalRequest, Approve, Reject
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import Event, ResultEvent, TextEvent
from tollboard.runtime.results import Completed, Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.testing.clock import FakeClock
from tollboard.testing.recorder import TelemetryRecorder


async def test_r30_prompts_are_bounded_by_count(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, max_queued=2)
    runtime.halt("a")
    refs = [runtime.tell("a", "one"), runtime.tell("a", "two")]
    with pytest.raises(Overloaded, match="mailbox") as full:
        runtime.tell("a", "three")
    assert (full.value.limit, full.value.size, full.value.unit) == (2, 3, "prompts")
    runtime.resume("a")
    await runtime.wait_all(refs)
    assert backend.ran == ["one", "two"]


async def test_r30_prompts_are_bounded_by_bytes_of_utf8(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, max_queued_bytes=10)
    runtime.halt("a")
    runtime.tell("a", "ääää")
    with pytest.raises(Overloaded) as full:
        runtime.tell("a", "xyz")
    assert (full.value.limit, full.value.size, full.value.unit) == (10, 11, "bytes")
    runtime.tell("a", "xy")


async def test_r30_without_options_a_thousand_prompts_and_a_mebibyte_wait(
    runtime: Runtime, backend: Puppet
) -> None:
    for name, size, fits in (("many", 1, 1_000), ("big", 2048, 512)):
        await runtime.start_agent(Plain, name, backend=backend)
        runtime.halt(name)
        for _ in range(fits):
            runtime.tell(name, "x" * size)
        with pytest.raises(Overloaded, match="mailbox") as full:
            runtime.tell(name, "x" * size)
        assert runtime.status(name).queued == fits
        wanted = (1_000, 1_001, "prompts") if name == "many" else (1024 * 1024, 1024 * 1024 + 2048, "bytes")
        assert (full.value.limit, full.value.size, full.value.unit) == wanted


async def test_r30_without_options_a_thousand_notifications_and_a_mebibyte_of_them_wait(
    runtime: Runtime, backend: Puppet
) -> None:
    for name, size, fits in (("many", 1, 1_000), ("big", 2048, 512)):
        gate = backend.hold(name)
        await runtime.start_agent(Scripted, name, backend=backend, handle_event=lambda event: None)
        ref = runtime.tell(name, name)
        await gate.entered.wait()
        for _ in range(fits):
            runtime.notify(name, "x" * size)
        with pytest.raises(Overloaded, match="notification buffer") as full:
            runtime.notify(name, "x" * size)
        assert runtime.snapshot(name).notifications == fits
        assert full.value.limit == (1_000 if name == "many" else 1024 * 1024)
        gate.release()
        await runtime.wait(ref)


async def test_r30_one_prompt_over_the_limit_is_refused_on_an_idle_agent_too(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, max_queued_bytes=10)
    with pytest.raises(Overloaded):
        runtime.tell("a", "x" * 11)
    assert (await runtime.ask("a", "x" * 10)).text == "x" * 10


async def test_r30_a_self_chained_prompt_has_its_own_slot(runtime: Runtime, backend: Puppet) -> None:
    chain = iter([Prompt("chained")])
    gate = backend.hold("slow")
    await runtime.start_agent(
        Scripted, "a", backend=backend, max_queued=1, handle_response=lambda *_: next(chain, None)
    )
    first = runtime.tell("a", "slow")
    await gate.entered.wait()
    second = runtime.tell("a", "queued")
    gate.release()
    await runtime.wait_all([first, second])
    assert backend.ran == ["slow", "chained", "queued"]


async def test_r30_a_prompt_of_an_event_that_finds_no_room_is_reported(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(
        Scripted, "a", backend=backend, max_queued=1, handle_event=lambda event: Prompt("more")
    )
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    runtime.tell("a", "queued")
    runtime.notify("a", 1)
    gate.release()
    await runtime.wait(ref)
    failed = await seen.seen(telemetry.CALLBACK_FAILED)
    assert "overloaded" in str(failed.metadata["error"])


async def test_r16_the_watchdog_ends_a_turn_that_runs_too_long(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend, watchdog_s=60)
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    clock.advance(59)
    assert agent.turn is not None
    clock.advance(1)
    assert await runtime.wait(ref) == Failed(Reason.TIMEOUT, "the turn ran longer than 60 s")
    assert [call[1] for call in agent.agent.called("handle_error")] == [Reason.TIMEOUT]
    assert (await runtime.ask("a", "next")).text == "next"


async def test_r16_every_turn_has_its_own_deadline(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=60)
    for n in range(5):
        gate = backend.hold(f"p{n}")
        ref = runtime.tell("a", f"p{n}")
        await gate.entered.wait()
        clock.advance(50)
        gate.release()
        assert isinstance(await runtime.wait(ref), Completed)


async def test_r25_a_retry_has_its_own_watchdog(runtime: Runtime, backend: Puppet, clock: FakeClock) -> None:
    await runtime.start_agent(
        Scripted, "a", backend=backend, watchdog_s=60, handle_error=lambda *_: Prompt("again")
    )
    first, second = backend.hold("slow"), backend.hold("again")
    ref = runtime.tell("a", "slow")
    await first.entered.wait()
    clock.advance(60)
    await second.entered.wait()
    clock.advance(59)
    second.release()
    assert isinstance(await runtime.wait(ref), Completed)


async def test_r16_silence_ends_a_turn_and_an_event_breaks_it(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    gates = [Gate(), Gate()]

    async def script(turn: Turn) -> AsyncIterator[Event]:
        for gate in gates:
            await gate.pass_through()
            yield TextEvent("still here")
        await asyncio.Event().wait()
        yield ResultEvent("never")

    backend.script("go", script)
    agent = await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=600, silence_s=10)
    ref = runtime.tell("a", "go")
    for gate in gates:
        await gate.entered.wait()
        clock.advance(9)
        gate.release()
    while agent.turn is None or agent.turn.seen < 2:
        await asyncio.sleep(0)
    clock.advance(9)
    assert agent.turn is not None
    clock.advance(1)
    assert await runtime.wait(ref) == Failed(Reason.TIMEOUT, "no event for 10 s")


async def test_r16_the_watchdog_stands_still_while_a_person_is_asked(
    runtime: Runtime, backend: Puppet, clock: FakeClock, seen: TelemetryRecorder
) -> None:
    gate = Gate()

    async def script(turn: Turn) -> AsyncIterator[Event]:
        await turn.request_approval(ApprovalRequest("rm", {}))
        await gate.pass_through()
        yield ResultEvent("done")

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=60, silence_s=30)
    ref = runtime.tell("a", "go")
    asked = await seen.seen(telemetry.APPROVAL_REQUESTED)
    clock.advance(10_000)
    await runtime.decide(asked.metadata["approval"].id, Approve())  # type: ignore[attr-defined]
    await gate.entered.wait()
    clock.advance(29)
    gate.release()
    assert isinstance(await runtime.wait(ref), Completed)


async def test_r16_after_the_answer_the_watchdog_goes_on_from_where_it_stood(
    runtime: Runtime, backend: Puppet, clock: FakeClock, seen: TelemetryRecorder
) -> None:
    gate = Gate()

    async def script(turn: Turn) -> AsyncIterator[Event]:
        await gate.pass_through()
        await turn.request_approval(ApprovalRequest("rm", {}))
        await asyncio.Event().wait()
        yield ResultEvent("never")

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=60)
    ref = runtime.tell("a", "go")
    await gate.entered.wait()
    clock.advance(50)
    gate.release()
    asked = await seen.seen(telemetry.APPROVAL_REQUESTED)
    clock.advance(1_000)
    await runtime.decide(asked.metadata["approval"].id, Reject())  # type: ignore[attr-defined]
    clock.advance(9)
    assert runtime.status("a").in_flight == ref
    clock.advance(1)
    assert await runtime.wait(ref) == Failed(Reason.TIMEOUT, "the turn ran longer than 60 s")


@pytest.mark.parametrize("hook", ["handle_response", "post_turn"])
async def test_r16_a_callback_that_hangs_is_ended_by_the_watchdog(
    runtime: Runtime, backend: Puppet, clock: FakeClock, hook: str
) -> None:
    gate = Gate()

    async def hanging(*_: object) -> None:
        await gate.pass_through()

    await runtime.start_agent(Scripted, "a", backend=backend, watchdog_s=60, **{hook: hanging})
    ref = runtime.tell("a", "one")
    await gate.entered.wait()
    clock.advance(60)
    outcome = await runtime.wait(ref)
    if hook == "handle_response":
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.CALLBACK_FAILED
    else:
        assert isinstance(outcome, Completed)


@pytest.mark.parametrize("silence_s", [None, 10])
@pytest.mark.parametrize("how", ["interrupt", "stop", "watchdog"])
async def test_r16_cleaning_up_that_hangs_is_ended_by_the_watchdog(
    runtime: Runtime, backend: Puppet, clock: FakeClock, how: str, silence_s: float | None
) -> None:
    began, cleaning = asyncio.Event(), Gate()

    async def script(turn: Turn) -> AsyncIterator[Event]:
        try:
            yield TextEvent("half")
            began.set()
            await asyncio.Event().wait()
        finally:
            await cleaning.pass_through()

    backend.script("stuck", script)
    await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=60, silence_s=silence_s)
    ref = runtime.tell("a", "stuck")
    await began.wait()
    waiting = asyncio.create_task(runtime.wait(ref))
    if how == "watchdog":
        clock.advance(60)
    stopping = asyncio.create_task(runtime.stop("a")) if how == "stop" else None
    if how == "interrupt":
        runtime.interrupt("a")
    await cleaning.entered.wait()
    clock.advance(59)
    assert not (await asyncio.wait({waiting}, timeout=0))[0]
    clock.advance(1)
    reasons = {"interrupt": Reason.INTERRUPTED, "stop": Reason.STOPPED, "watchdog": Reason.TIMEOUT}
    outcome = await waiting
    assert isinstance(outcome, Failed)
    assert outcome.reason is reasons[how]
    if stopping is not None:
        await stopping
    else:
        assert (await runtime.ask("a", "next")).text == "next"


async def test_e34_watchdog_and_result_at_the_same_moment_are_one_outcome(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=60)
    for n in range(6):
        gate = backend.hold(f"p{n}")
        ended: list[object] = []
        ref = runtime.tell("a", f"p{n}", on_complete=lambda ref, outcome, ended=ended: ended.append(outcome))
        await gate.entered.wait()
        gate.release()
        for _ in range(n):
            await asyncio.sleep(0)
        clock.advance(60)
        outcome = await runtime.wait(ref)
        assert ended == [outcome]
        assert (await runtime.ask("a", "next")).text == "next"


async def test_no_timer_is_left_when_an_agent_is_stopped(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    await runtime.ask("a", "one")
    assert clock.waiting == 1
    await runtime.stop("a")
    assert clock.waiting == 0


async def test_an_idle_agent_lets_its_timer_run_out(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=60)
    await runtime.ask("a", "one")
    clock.advance(60)
    assert clock.waiting == 0


async def test_r40_at_most_the_cap_of_turns_runs_in_one_pass_of_the_loop(backend: Puppet) -> None:
    cap = 8
    passes: list[int] = []
    ran = 0

    async with Runtime(runnable=cap) as runtime:
        for n in range(500):
            await runtime.start_agent(Plain, f"a{n}", backend=backend)
        refs = [runtime.tell(f"a{n}", str(n)) for n in range(500)]
        while len(backend.ran) < 500:
            ran = len(backend.ran)
            await asyncio.sleep(0)
            passes.append(len(backend.ran) - ran)
        await runtime.wait_all(refs)
    assert max(passes) <= cap


async def test_r40_a_long_mailbox_does_not_starve_another_agent(backend: Puppet) -> None:
    async with Runtime(runnable=1) as runtime:
        await runtime.start_agent(Plain, "long", backend=backend)
        await runtime.start_agent(Plain, "short", backend=backend)
        for n in range(200):
            runtime.tell("long", f"long {n}")
        await runtime.ask("short", "short")
    assert backend.ran.index("short") < 50


async def test_r40_ten_thousand_agents_run_a_turn_at_the_same_time(backend: Puppet) -> None:
    async with Runtime() as runtime:
        for n in range(10_000):
            await runtime.start_agent(Plain, f"a{n}", backend=backend)
        outcomes = await runtime.wait_all([runtime.tell(f"a{n}", str(n)) for n in range(10_000)])
        assert all(isinstance(outcome, Completed) for outcome in outcomes)


async def test_an_idle_agent_owns_no_task_and_no_queue(runtime: Runtime, backend: Puppet) -> None:
    agent = await runtime.start_agent(Plain, "a", backend=backend)
    runtime.halt("a")
    refs = [runtime.tell("a", "one"), runtime.tell("a", "two")]
    runtime.resume("a")
    await runtime.wait_all(refs)
    assert agent.task is None
    assert agent.mailbox is None
    assert agent.turn is None


def test_a_runtime_that_could_run_nothing_is_refused() -> None:
    with pytest.raises(InvalidOption):
        Runtime(runnable=0)


async def test_turns_wait_for_whoever_takes_their_output(backend: Puppet) -> None:
    class Slow:
        congested = True
        relief = Gate()

        async def relieved(self) -> None:
            await self.relief.pass_through()
            Slow.congested = False

    slow = Slow()
    async with Runtime(pressure=slow) as runtime:
        await runtime.start_agent(Plain, "a", backend=backend)
        ref = runtime.tell("a", "one")
        await slow.relief.entered.wait()
        assert runtime.status("a").in_flight == ref
        slow.relief.release()
        assert isinstance(await runtime.wait(ref), Completed)


async def test_r03_a_full_mailbox_refuses_an_ask_before_acceptance(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, max_queued=0)
    runtime.halt("a")
    with pytest.raises(Overloaded):
        await runtime.ask("a", "one")
    backend.fail("bad")
    runtime.resume("a")
    with pytest.raises(TurnFailed):
        await runtime.ask("a", "bad")
