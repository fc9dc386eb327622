"""Prompts and their turns: R01-R09, R25, R26, R31-R34, R44, R46, R50."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.runtime.puppet import Plain, Puppet, Scripted
from tollboard.errors import AgentNotFound, RequestNotFound, TimedOut, TurnFailed, WouldDeadlock
from tollboard.runtime import telemetry
from tollboard.runtime.agent import Prompt
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import (
    ErrorEvent,
    Event,
    NoticeEvent,
    ResultEvent,
    TextEvent,
    ToolResultEvent,
    ToolUseEvent,
    Usage,
    UsageEvent,
)
from tollboard.runtime.results import Completed, Failed, Pending, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase
from tollboard.testing.clock import FakeClock
from tollboard.testing.recorder import RecordingJournal, TelemetryRecorder


async def test_r01_a_prompt_to_an_idle_agent_starts_a_turn_and_the_agent_is_idle_again_after_it(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    assert runtime.status("a").phase is Phase.IDLE
    gate = backend.hold("one")
    ref = runtime.tell("a", "one")
    assert runtime.status("a").phase is Phase.PROCESSING
    await gate.entered.wait()
    assert runtime.status("a").in_flight == ref
    gate.release()
    await runtime.wait(ref)
    assert runtime.status("a").phase is Phase.IDLE
    assert runtime.status("a").in_flight is None


async def test_r02_one_turn_at_a_time_in_the_order_of_acceptance(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    refs = [runtime.tell("a", str(n)) for n in range(50)]
    await runtime.wait_all(refs)
    assert backend.ran == [str(n) for n in range(50)]
    assert backend.most == 1


async def test_r03_ask_returns_the_response_of_its_own_turn(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    answers = await asyncio.gather(*(runtime.ask("a", str(n)) for n in range(5)))
    assert [answer.text for answer in answers] == ["0", "1", "2", "3", "4"]


async def test_r03_a_failed_turn_raises_with_its_reason(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    backend.fail("bad", "the model said no")
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "bad")
    assert failed.value.reason == Reason.BACKEND_ERROR
    assert failed.value.detail == "the model said no"


async def test_r03_a_callers_timeout_ends_only_the_wait(runtime: Runtime, backend: Puppet) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    gate = backend.hold("slow")
    with pytest.raises(TimedOut):
        await runtime.ask("a", "slow", timeout_s=0.001)
    assert runtime.status("a").phase is Phase.PROCESSING
    gate.release()
    await runtime.ask("a", "next")
    assert len(agent.agent.called("handle_response")) == 2


async def test_r04_a_cancelled_ask_leaves_its_turn_running(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    asking = asyncio.create_task(runtime.ask("a", "slow"))
    await gate.entered.wait()
    asking.cancel()
    await asyncio.wait({asking})
    assert runtime.status("a").phase is Phase.PROCESSING
    gate.release()
    await runtime.ask("a", "next")
    assert backend.ran == ["slow", "next"]


async def test_r04_a_cancelled_ask_interrupts_if_it_said_so(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    asking = asyncio.create_task(runtime.ask("a", "slow", on_cancel="interrupt"))
    await gate.entered.wait()
    asking.cancel()
    error = await seen.seen(telemetry.TURN_ERROR)
    assert error.metadata["reason"] is Reason.INTERRUPTED
    assert (await runtime.ask("a", "next")).text == "next"


async def test_r05_tell_returns_a_ref_whatever_the_agent_does(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    backend.hold("slow")
    refs = {runtime.tell("a", "slow"), runtime.tell("a", "two")}
    runtime.halt("a")
    refs.add(runtime.tell("a", "three"))
    assert len(refs) == 3


async def test_r05_tell_to_nobody_raises(runtime: Runtime) -> None:
    with pytest.raises(AgentNotFound, match="nobody"):
        runtime.tell("nobody", "hello")


async def test_r06_poll_is_pending_then_completed_and_stays_so(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    first, second = runtime.tell("a", "slow"), runtime.tell("a", "next")
    await gate.entered.wait()
    assert runtime.poll(first) == Pending(0)
    assert runtime.poll(second) == Pending(1)
    gate.release()
    await runtime.wait(second)
    for _ in range(2):
        result = runtime.poll(second)
        assert isinstance(result, Completed)
        assert result.response.text == "next"


async def test_r06_poll_shows_a_failure(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    backend.fail("bad")
    ref = runtime.tell("a", "bad")
    await runtime.wait(ref)
    assert runtime.poll(ref) == Failed(Reason.BACKEND_ERROR, "no")


async def test_r06_an_unknown_ref_is_an_error(runtime: Runtime, backend: Puppet) -> None:
    with pytest.raises(RequestNotFound):
        runtime.poll("01a1fb18-3670-7001-bb92-581db4fe5d20")


async def test_r07_the_oldest_result_goes_first(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, max_results=2)
    refs = [runtime.tell("a", str(n)) for n in range(3)]
    await runtime.wait(refs[2])
    with pytest.raises(RequestNotFound):
        runtime.poll(refs[0])
    assert isinstance(runtime.poll(refs[1]), Completed)


async def test_r07_e21_results_are_bounded_in_bytes_too(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, max_result_bytes=1000)
    refs = [runtime.tell("a", f"{n}" * 150) for n in range(5)]
    await runtime.wait(refs[4])
    with pytest.raises(RequestNotFound):
        runtime.poll(refs[0])
    assert isinstance(runtime.poll(refs[4]), Completed)


async def test_r07_the_ref_of_an_ask_cannot_be_polled(runtime: Runtime, backend: Puppet) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    gate = backend.hold("one")
    asking = asyncio.create_task(runtime.ask("a", "one"))
    await gate.entered.wait()
    ref = runtime.status("a").in_flight
    assert ref is not None
    with pytest.raises(RequestNotFound):
        runtime.poll(ref)
    gate.release()
    await asking
    assert agent.agent.called("handle_response")[0][0] == ref


async def test_r08_wait_any_wakes_with_the_first(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    await runtime.start_agent(Plain, "b", backend=backend)
    backend.hold("slow")
    slow, quick = runtime.tell("a", "slow"), runtime.tell("b", "quick")
    ref, outcome = await runtime.wait_any([slow, quick])
    assert ref == quick
    assert isinstance(outcome, Completed)


async def test_r08_wait_times_out_and_the_work_goes_on(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    with pytest.raises(TimedOut):
        await runtime.wait(ref, 0.001)
    with pytest.raises(TimedOut):
        await runtime.wait_any([ref], 0.001)
    gate.release()
    assert isinstance(await runtime.wait(ref), Completed)


async def test_r08_wait_all_covers_several_agents_in_the_order_asked(
    runtime: Runtime, backend: Puppet
) -> None:
    for name in "abc":
        await runtime.start_agent(Plain, name, backend=backend)
    refs = [runtime.tell(name, name) for name in "cab"]
    outcomes = await runtime.wait_all([*refs, refs[0]])
    assert [o.response.text for o in outcomes if isinstance(o, Completed)] == ["c", "a", "b", "c"]


async def test_r09_a_self_chained_prompt_goes_before_the_mailbox(runtime: Runtime, backend: Puppet) -> None:
    chain = iter([Prompt("again")])
    await runtime.start_agent(
        Scripted, "a", backend=backend, handle_response=lambda ref, response: next(chain, None)
    )
    refs = [runtime.tell("a", "one"), runtime.tell("a", "two")]
    await runtime.wait_all(refs)
    assert backend.ran == ["one", "again", "two"]


async def test_e48_a_waiter_gets_a_result_that_is_evicted_at_once(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, max_results=0)
    ref = runtime.tell("a", "one")
    assert isinstance(await runtime.wait(ref), Completed)
    with pytest.raises(RequestNotFound):
        runtime.poll(ref)


async def test_r25_a_retry_keeps_the_ref_and_only_the_last_outcome_is_delivered(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    backend.fail("flaky")
    agent = await runtime.start_agent(
        Scripted, "a", backend=backend, handle_error=lambda ref, reason, detail: Prompt("steady")
    )
    assert (await runtime.ask("a", "flaky")).text == "steady"
    refs = {call[0] for call in agent.agent.called("handle_error")}
    refs |= {call[0] for call in agent.agent.called("handle_response")}
    assert len(refs) == 1
    assert backend.turns["steady"].attempt == 2
    assert seen.of(telemetry.TURN_ERROR)[0].metadata["retried"] is True


async def test_e27_a_retry_of_a_tell_is_pending_until_its_last_attempt(
    runtime: Runtime, backend: Puppet
) -> None:
    backend.fail("flaky")
    gate = backend.hold("steady")
    await runtime.start_agent(Scripted, "a", backend=backend, handle_error=lambda *_: Prompt("steady"))
    ref = runtime.tell("a", "flaky")
    await gate.entered.wait()
    assert runtime.poll(ref) == Pending(0)
    gate.release()
    assert isinstance(await runtime.wait(ref), Completed)


async def test_e28_after_an_interrupt_a_prompt_is_an_independent_follow_up(
    runtime: Runtime, backend: Puppet
) -> None:
    follow_up = iter([Prompt("follow up")])
    agent = await runtime.start_agent(
        Scripted, "a", backend=backend, handle_error=lambda *_: next(follow_up, None)
    )
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    assert runtime.interrupt("a")
    assert await runtime.wait(ref) == Failed(Reason.INTERRUPTED)
    await runtime.ask("a", "next")
    assert backend.ran == ["slow", "follow up", "next"]
    refs = [call[0] for call in agent.agent.called("handle_response")]
    assert ref not in refs


async def _error_event(turn: Turn) -> AsyncIterator[Event]:
    yield ErrorEvent("refused")


async def _no_end(turn: Turn) -> AsyncIterator[Event]:
    yield TextEvent("half")


async def _crash(turn: Turn) -> AsyncIterator[Event]:
    yield TextEvent("half")
    raise RuntimeError("the stream broke")


async def _refusal(turn: Turn) -> AsyncIterator[Event]:
    raise ConnectionError("no backend")
    yield TextEvent("never")


async def _not_an_event(turn: Turn) -> AsyncIterator[Event]:
    yield "text"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (_error_event, Reason.BACKEND_ERROR),
        (_no_end, Reason.NO_TERMINAL_EVENT),
        (_crash, Reason.STREAM_CRASHED),
        (_refusal, Reason.STREAM_CRASHED),
        (_not_an_event, Reason.STREAM_CRASHED),
    ],
)
async def test_r25_e07_every_failure_of_a_stream_reaches_handle_error_and_the_agent_goes_on(
    runtime: Runtime, backend: Puppet, script: object, reason: Reason
) -> None:
    backend.script("bad", script)  # type: ignore[arg-type]
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "bad")
    assert failed.value.reason == reason
    assert [call[1] for call in agent.agent.called("handle_error")] == [reason]
    assert (await runtime.ask("a", "good")).text == "good"


async def test_r26_every_event_is_seen_in_order(runtime: Runtime, backend: Puppet) -> None:
    events: list[Event] = [
        TextEvent("a"),
        ToolUseEvent("1", "ls"),
        ToolResultEvent("1", "x"),
        ResultEvent("b"),
    ]

    async def script(turn: Turn) -> AsyncIterator[Event]:
        for event in events:
            yield event

    backend.script("go", script)
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    await runtime.ask("a", "go")
    assert [call[0] for call in agent.agent.called("handle_stream_event")] == events


async def test_r26_raising_in_it_fails_the_turn_never_the_agent(runtime: Runtime, backend: Puppet) -> None:
    def raising(event: Event) -> None:
        if isinstance(event, TextEvent) and event.text == "bad":
            raise ValueError("oh")

    await runtime.start_agent(Scripted, "a", backend=backend, handle_stream_event=raising)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "bad")
    assert failed.value.reason == Reason.CALLBACK_FAILED
    assert backend.closed == ["bad"]
    assert (await runtime.ask("a", "good")).text == "good"


async def test_e17_what_the_stream_callback_learnt_stays_when_the_turn_fails(
    runtime: Runtime, backend: Puppet
) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield TextEvent("learnt")
        yield ErrorEvent("then it failed")

    backend.script("go", script)
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    with pytest.raises(TurnFailed):
        await runtime.ask("a", "go")
    assert (TextEvent("learnt"),) in agent.agent.called("handle_stream_event")


async def _many(turn: Turn) -> AsyncIterator[Event]:
    for n in range(10):
        yield TextEvent(str(n))
    yield ResultEvent(None)


async def test_r31_e22_compact_keeps_the_prefix_and_says_what_it_left_out(
    runtime: Runtime, backend: Puppet
) -> None:
    backend.script("many", _many)
    agent = await runtime.start_agent(Scripted, "a", backend=backend, max_events=4)
    response = await runtime.ask("a", "many")
    assert len(agent.agent.called("handle_stream_event")) == 11
    assert [event.text for event in response.events if isinstance(event, TextEvent)] == ["0", "1", "2", "3"]
    assert response.coverage.events_seen == 11
    assert response.coverage.events_kept == 4
    assert not response.coverage.complete
    assert response.text == "0123456789"


async def test_r31_the_log_is_bounded_in_bytes(runtime: Runtime, backend: Puppet) -> None:
    backend.script("many", _many)
    await runtime.start_agent(Plain, "a", backend=backend, max_event_bytes=3)
    response = await runtime.ask("a", "many")
    assert response.coverage.bytes_kept == 3
    assert response.coverage.bytes_seen == 10


async def test_r31_of_a_text_that_is_too_long_the_beginning_is_kept(
    runtime: Runtime, backend: Puppet
) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield TextEvent("one ")
        yield TextEvent("far too long")
        yield TextEvent("x")
        yield ResultEvent(None)

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend, max_event_bytes=7)
    response = await runtime.ask("a", "go")
    assert response.text == "one far"
    assert not response.coverage.complete


async def test_r31_lossless_overflow_fails_the_turn(runtime: Runtime, backend: Puppet) -> None:
    backend.script("many", _many)
    await runtime.start_agent(Plain, "a", backend=backend, max_events=4, event_log="lossless")
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "many")
    assert failed.value.reason == Reason.EVENT_OVERFLOW


async def test_r32_a_response_tells_the_final_message_from_progress(
    runtime: Runtime, backend: Puppet, clock: FakeClock
) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield TextEvent("look", "m1")
        yield TextEvent("ing", "m1")
        yield UsageEvent(Usage(input_tokens=1))
        yield NoticeEvent("retry", "429")
        yield TextEvent("done", "m2")
        clock.advance(2.5)
        yield UsageEvent(Usage(input_tokens=7, cost_usd=0.5))
        yield ResultEvent(None)

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend, provider_session_id="p-1")
    response = await runtime.ask("a", "go")
    assert response.final == "done"
    assert response.progress == ("looking",)
    assert response.text == "lookingdone"
    assert response.usage == Usage(input_tokens=7, cost_usd=0.5)
    assert response.duration_s == 2.5
    assert response.provider_session_id == "p-1"
    assert isinstance(response.events[-1], ResultEvent)


async def test_r32_the_terminal_events_text_and_usage_win(runtime: Runtime, backend: Puppet) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield TextEvent("draft")
        yield UsageEvent(Usage(input_tokens=1))
        yield ResultEvent("final", Usage(input_tokens=2))

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend)
    response = await runtime.ask("a", "go")
    assert (response.text, response.usage) == ("final", Usage(input_tokens=2))


async def test_r33_nothing_is_read_after_the_terminal_event_and_the_stream_is_closed(
    runtime: Runtime, backend: Puppet
) -> None:
    after: list[str] = []

    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield ResultEvent("end")
        after.append("read on")

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend)
    await runtime.ask("a", "go")
    assert after == []
    assert backend.closed == ["go"]


async def test_r34_the_session_of_a_result_is_what_the_next_turn_gets(
    runtime: Runtime, backend: Puppet
) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        yield ResultEvent("ok", session={"n": 1})

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend)
    await runtime.ask("a", "go")
    await runtime.ask("a", "next")
    assert backend.sessions_seen == [{"n": 0}, {"n": 1}]


async def test_e18_a_failed_turn_does_not_replace_the_session(runtime: Runtime, backend: Puppet) -> None:
    backend.fail("bad")
    await runtime.start_agent(Plain, "a", backend=backend)
    runtime.tell("a", "bad")
    await runtime.ask("a", "next")
    assert backend.sessions_seen == [{"n": 0}, {"n": 0}]


async def test_e19_a_checkpoint_survives_the_failure_of_its_turn(runtime: Runtime, backend: Puppet) -> None:
    journal = RecordingJournal()

    async def script(turn: Turn) -> AsyncIterator[Event]:
        await turn.checkpoint("conversation-1")
        await turn.checkpoint("conversation-1")
        yield ErrorEvent("then it broke")

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    with pytest.raises(TurnFailed):
        await runtime.ask("a", "go")
    assert runtime.status("a").provider_session_id == "conversation-1"
    assert journal.log.count(("checkpointed", "conversation-1")) == 1


async def test_e08_a_turn_that_is_over_checkpoints_and_asks_nothing(
    runtime: Runtime, backend: Puppet
) -> None:
    from tollboard.runtime.approval import ApprovalRequest, Reject

    await runtime.start_agent(Plain, "a", backend=backend)
    await runtime.ask("a", "one")
    late = backend.turns["one"]
    await late.checkpoint("late")
    assert runtime.status("a").provider_session_id is None
    assert isinstance(await late.request_approval(ApprovalRequest("t", {})), Reject)


async def test_r44_e23_a_queued_ask_whose_caller_is_gone_is_not_run(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    runtime.tell("a", "slow")
    await gate.entered.wait()
    asking = asyncio.create_task(runtime.ask("a", "unwanted"))
    await asyncio.sleep(0)
    assert runtime.status("a").queued == 1
    asking.cancel()
    await asyncio.wait({asking})
    assert runtime.status("a").queued == 0
    gate.release()
    await runtime.ask("a", "next")
    assert backend.ran == ["slow", "next"]


async def test_r46_e32_an_agent_that_asks_itself_is_told_at_once(runtime: Runtime, backend: Puppet) -> None:
    errors: list[Exception] = []

    async def ask_self(ref: str, response: object) -> None:
        try:
            await runtime.ask("a", "me")
        except WouldDeadlock as exc:
            errors.append(exc)

    await runtime.start_agent(Scripted, "a", backend=backend, handle_response=ask_self)
    await runtime.ask("a", "go")
    assert len(errors) == 1


async def test_r46_a_cycle_of_waiting_agents_is_told_at_once(runtime: Runtime, backend: Puppet) -> None:
    outcomes: list[str] = []

    def ask(target: str) -> object:
        async def asking(ref: str, response: object) -> None:
            try:
                await runtime.ask(target, f"to {target}")
                outcomes.append(f"{target} answered")
            except WouldDeadlock:
                outcomes.append(f"{target} would deadlock")

        return asking

    for name, target in (("a", "b"), ("b", "c"), ("c", "a")):
        await runtime.start_agent(Scripted, name, backend=backend, handle_response=ask(target))
    await runtime.ask("a", "go")
    assert outcomes == ["a would deadlock", "c answered", "b answered"]


async def test_r50_on_complete_is_called_once_after_decision_and_post_turn(
    runtime: Runtime, backend: Puppet
) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend, max_results=0)
    log = agent.agent.log
    ref = runtime.tell("a", "one", on_complete=lambda ref, outcome: log.append(("complete", ref, outcome)))
    await runtime.wait(ref)
    names = [entry[0] for entry in log]
    assert names.count("complete") == 1
    assert names.index("complete") > names.index("post_turn") > names.index("handle_response")


async def test_r50_an_on_complete_that_raises_disturbs_nothing(runtime: Runtime, backend: Puppet) -> None:
    def raising(ref: str, outcome: object) -> None:
        raise RuntimeError("oh")

    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "one", on_complete=raising)
    assert isinstance(await runtime.wait(ref), Completed)
    assert (await runtime.ask("a", "two")).text == "two"


async def test_commit_then_resolve_then_emit(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    order: list[str] = []
    ref = runtime.tell(
        "a", "one", on_complete=lambda *_: order.append(f"resolved after {journal.log[-1][0]}")
    )
    runtime.telemetry.attach("order", [telemetry.TURN_STOP], lambda *_: order.append("emitted"))
    await runtime.wait(ref)
    assert order == ["resolved after finished", "emitted"]
    assert [kind for kind, _ in journal.log] == ["accepted", "started", "finished"]


async def test_a_turn_waits_for_its_start_to_be_durable(runtime: Runtime, backend: Puppet) -> None:
    journal = RecordingJournal(hold=True)
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "one")
    while len(journal.held) < 2:
        await asyncio.sleep(0)
    assert backend.ran == []
    journal.hold = False
    journal.release()
    await runtime.wait(ref)
    assert backend.ran == ["one"]


async def test_a_start_that_cannot_be_written_is_not_run(runtime: Runtime, backend: Puppet) -> None:
    from tollboard.errors import StoreUnavailable

    journal = RecordingJournal(failing={"started": StoreUnavailable("the disk is full")})
    agent = await runtime.start_agent(Scripted, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "one")
    assert await runtime.wait(ref) == Failed(Reason.STORE_FAILED, "the disk is full")
    assert backend.ran == []
    assert agent.agent.called("handle_error") == []
    journal.failing.clear()
    assert (await runtime.ask("a", "two")).text == "two"
