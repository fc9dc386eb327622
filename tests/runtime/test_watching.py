"""Approvals, telemetry, subscriptions, status, supervision, privacy: R19, R35-R39, R47, R49, E08-E10, E21, E31."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.runtime.puppet import Gate, Plain, Puppet, Scripted
from tollboard.errors import (
    AgentDead,
    AlreadyDecided,
    ApprovalNotFound,
    Crash,
    Invalid,
    InvalidDecision,
    RequestNotFound,
    StoreUnavailable,
    TurnFailed,
)
from tollboard.runtime import event as events
from tollboard.runtime import telemetry
from tollboard.runtime.approval import ApprovalRequest, Approve, Edit, Reject, parse_decision
from tollboard.runtime.backend import Turn
from tollboard.runtime.event import Event, ResultEvent, TextEvent
from tollboard.runtime.results import Completed, Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase
from tollboard.runtime.subscription import Ended, Live, Missed
from tollboard.runtime.telemetry import Telemetry
from tollboard.testing.clock import FakeClock
from tollboard.testing.recorder import RecordingJournal, TelemetryRecorder


def _asking(*requests: ApprovalRequest) -> Any:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        decisions = await asyncio.gather(*(turn.request_approval(request) for request in requests))
        yield ResultEvent(" ".join(decision.type for decision in decisions))

    return script


RM = ApprovalRequest("rm", {"path": "x"}, "call-1", "rm x")


# -- approvals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", [Approve(), Edit({"path": "y"}), Reject("no")])
async def test_a_decision_reaches_the_backend(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, decision: Any
) -> None:
    backend.script("go", _asking(RM))
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "go")
    approval: Any = (await seen.seen(telemetry.APPROVAL_REQUESTED)).metadata["approval"]
    assert (approval.agent, approval.ref, approval.request) == ("a", ref, RM)
    assert runtime.status("a").needs_decision
    assert await runtime.decide(approval.id, decision, by="cli:alice") == approval
    outcome = await runtime.wait(ref)
    assert isinstance(outcome, Completed)
    assert outcome.response.text == decision.type
    assert not runtime.status("a").needs_decision
    decided = seen.of(telemetry.APPROVAL_DECIDED)[0].metadata
    assert (decided["decision"], decided["by"]) == (decision, "cli:alice")
    kinds = [kind for kind, _ in journal.log]
    assert kinds.index("approval_requested") < kinds.index("approval_closed") < kinds.index("finished")


async def test_exactly_one_of_two_decisions_wins(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    backend.script("go", _asking(RM))
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "go")
    approval: Any = (await seen.seen(telemetry.APPROVAL_REQUESTED)).metadata["approval"]
    journal.hold = True
    first = asyncio.create_task(runtime.decide(approval.id, Approve()))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyDecided):
        await runtime.decide(approval.id, Reject())
    journal.hold = False
    journal.release()
    await first
    await runtime.wait(ref)
    with pytest.raises(ApprovalNotFound):
        await runtime.decide(approval.id, Approve())


async def test_a_decision_that_is_not_allowed_leaves_the_question_open(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    backend.script("go", _asking(dataclasses.replace(RM, allowed=("approve", "reject"))))
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "go")
    approval: Any = (await seen.seen(telemetry.APPROVAL_REQUESTED)).metadata["approval"]
    with pytest.raises(InvalidDecision, match="edit is not allowed"):
        await runtime.decide(approval.id, Edit({}))
    await runtime.decide(approval.id, Approve())
    assert isinstance(await runtime.wait(ref), Completed)


async def test_a_decision_that_cannot_be_written_leaves_the_question_open(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    backend.script("go", _asking(RM))
    journal = RecordingJournal(failing={"approval_closed": StoreUnavailable("disk full")})
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    ref = runtime.tell("a", "go")
    approval: Any = (await seen.seen(telemetry.APPROVAL_REQUESTED)).metadata["approval"]
    with pytest.raises(StoreUnavailable):
        await runtime.decide(approval.id, Approve())
    journal.failing.clear()
    await runtime.decide(approval.id, Approve())
    assert isinstance(await runtime.wait(ref), Completed)


async def test_several_questions_at_once_are_answered_one_by_one(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    backend.script("go", _asking(RM, RM))
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "go")
    await seen.seen(telemetry.APPROVAL_REQUESTED, 2)
    first, second = (recorded.metadata["approval"] for recorded in seen.of(telemetry.APPROVAL_REQUESTED))
    await runtime.decide(second.id, Reject())  # type: ignore[attr-defined]
    assert runtime.status("a").needs_decision
    await runtime.decide(first.id, Approve())  # type: ignore[attr-defined]
    outcome = await runtime.wait(ref)
    assert isinstance(outcome, Completed)
    assert outcome.response.text == "approve reject"


@pytest.mark.parametrize("how", ["interrupt", "stop", "watchdog"])
async def test_questions_end_with_their_turn(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, clock: FakeClock, how: str
) -> None:
    gate = Gate()
    answers: list[Any] = []

    async def elsewhere(turn: Turn) -> None:
        answers.append(await turn.request_approval(RM))

    async def script(turn: Turn) -> AsyncIterator[Event]:
        task = asyncio.create_task(elsewhere(turn))
        try:
            await gate.pass_through()
            yield ResultEvent("never")
        finally:
            tasks.append(task)

    tasks: list[asyncio.Task[None]] = []
    backend.script("go", script)
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    runtime.tell("a", "go")
    approval: Any = (await seen.seen(telemetry.APPROVAL_REQUESTED)).metadata["approval"]
    await gate.entered.wait()
    if how == "stop":
        await runtime.stop("a")
    elif how == "interrupt":
        runtime.interrupt("a")
        await seen.seen(telemetry.TURN_ERROR)
    else:
        clock.advance(10_000)
        assert runtime.status("a").needs_decision  # the watchdog stands still
        runtime.interrupt("a")
        await seen.seen(telemetry.TURN_ERROR)
    await asyncio.gather(*tasks)
    assert isinstance(answers[0], Reject)
    assert ("approval_closed", approval.id) in journal.log
    with pytest.raises(ApprovalNotFound):
        await runtime.decide(approval.id, Approve())


async def test_an_approval_may_have_a_time_limit(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, clock: FakeClock
) -> None:
    backend.script("go", _asking(RM))
    await runtime.start_agent(Plain, "a", backend=backend, approval_timeout_s=30)
    ref = runtime.tell("a", "go")
    await seen.seen(telemetry.APPROVAL_REQUESTED)
    clock.advance(30)
    outcome = await runtime.wait(ref)
    assert isinstance(outcome, Completed)
    assert outcome.response.text == "reject"
    assert seen.of(telemetry.APPROVAL_DECIDED)[0].metadata["by"] == "nobody decided within 30 s"


@pytest.mark.parametrize(
    ("value", "decision"),
    [
        ({"type": "approve"}, Approve()),
        ({"type": "reject"}, Reject()),
        ({"type": "reject", "message": "no"}, Reject("no")),
        ({"type": "edit", "arguments": {"a": 1}}, Edit({"a": 1})),
        (Approve(), Approve()),
    ],
)
def test_decisions_parse_from_plain_objects(value: object, decision: object) -> None:
    assert parse_decision(value) == decision


@pytest.mark.parametrize(
    "value",
    [None, "approve", [], {}, {"type": "yes"}, {"type": 1}, {"type": "edit"}, {"type": "edit", "arguments": []},
     {"type": "edit", "arguments": {1: 2}}, {"type": "approve", "arguments": {}}, {"type": "reject", "message": 1}],
)  # fmt: skip
def test_malformed_decisions_are_refused(value: object) -> None:
    with pytest.raises(InvalidDecision):
        parse_decision(value)


# -- status -----------------------------------------------------------------------------------------------------------


async def test_r19_status_and_snapshot(runtime: Runtime, backend: Puppet, clock: FakeClock) -> None:
    agent = await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    runtime.tell("a", "queued")
    await gate.entered.wait()
    clock.advance(3)
    status = runtime.status("a")
    assert (status.name, status.phase, status.queued, status.in_flight) == ("a", Phase.PROCESSING, 1, ref)
    assert status.agent is agent.agent
    snapshot = runtime.snapshot("a")
    assert (snapshot.elapsed_s, snapshot.origin, snapshot.queued_bytes, snapshot.events) == (3, "tell", 6, 1)
    gate.release()


# -- telemetry --------------------------------------------------------------------------------------------------------


async def test_r37_a_turn_in_telemetry(runtime: Runtime, backend: Puppet, seen: TelemetryRecorder) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    await runtime.ask("a", "hunter2")
    assert seen.names() == [
        telemetry.AGENT_STARTED, telemetry.STATE_CHANGED, telemetry.TURN_START, telemetry.PROMPT_START,
        telemetry.EVENT_RECEIVED, telemetry.EVENT_RECEIVED, telemetry.TURN_STOP, telemetry.PROMPT_STOP,
        telemetry.STATE_CHANGED,
    ]  # fmt: skip
    content_free = [r for r in seen.events if r.event[:2] == ("agent", "turn")]
    assert "hunter2" not in repr([(r.measurements, r.metadata) for r in content_free])


@pytest.mark.parametrize("how", ["failure", "interrupt", "crash"])
async def test_e31_every_started_turn_settles(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, how: str
) -> None:
    backend.fail("failure")
    gate = backend.hold("interrupt")
    await runtime.start_agent(Plain, "a", backend=backend)
    if how == "interrupt":
        runtime.tell("a", "interrupt")
        await gate.entered.wait()
        runtime.interrupt("a")
    else:
        runtime.tell("a", "failure")
    await seen.seen(telemetry.TURN_ERROR)
    assert len(seen.of(telemetry.TURN_START)) == 1
    assert len(seen.of(telemetry.PROMPT_ERROR)) == 1


async def test_r37_mailbox_depth_goes_up_and_down(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    runtime.halt("a")
    refs = [runtime.tell("a", "one"), runtime.tell("a", "two")]
    runtime.resume("a")
    await runtime.wait_all(refs)
    assert [r.measurements["depth"] for r in seen.of(telemetry.MAILBOX_QUEUED)] == [1, 2]
    assert [r.measurements["depth"] for r in seen.of(telemetry.MAILBOX_TAKEN)] == [1, 0]


async def test_r37_a_refused_input_is_reported(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, max_queued_bytes=1)
    with pytest.raises(Exception, match="mailbox"):
        runtime.tell("a", "xx")
    assert seen.of(telemetry.INPUT_REJECTED)[0].metadata["reason"] == "overloaded"


async def test_r38_a_handler_that_raises_is_detached_and_the_agent_does_not_notice(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def raising(*_: object) -> None:
        calls.append("called")
        raise RuntimeError("hunter2")

    runtime.telemetry.attach("bad", [telemetry.TURN_START], raising)
    await runtime.start_agent(Plain, "a", backend=backend)
    await runtime.ask("a", "one")
    await runtime.ask("a", "two")
    assert calls == ["called"]
    assert seen.of(telemetry.HANDLER_FAILED)[0].metadata["id"] == "bad"
    assert "hunter2" not in caplog.text


def test_telemetry_attach_detach_and_span() -> None:
    tell = Telemetry()
    heard: list[tuple[str, ...]] = []
    tell.attach("h", [("x", "start"), ("x", "stop"), ("x", "error")], lambda event, *_: heard.append(event))
    with pytest.raises(Invalid):
        tell.attach("h", [], lambda *_: None)
    with tell.span(("x",), {}):
        pass
    with pytest.raises(ValueError, match="oh"), tell.span(("x",), {}):
        raise ValueError("oh")
    assert heard == [("x", "start"), ("x", "stop"), ("x", "start"), ("x", "error")]
    assert tell.detach("h") is True
    assert tell.detach("h") is False
    assert tell.handlers == {}


# -- subscriptions ----------------------------------------------------------------------------------------------------


async def test_r39_a_slow_subscriber_is_told_what_it_missed(runtime: Runtime, backend: Puppet) -> None:
    async def script(turn: Turn) -> AsyncIterator[Event]:
        for n in range(10):
            yield TextEvent(str(n))
        yield ResultEvent("done")

    backend.script("go", script)
    await runtime.start_agent(Plain, "a", backend=backend)
    async with runtime.subscribe("a", buffer=3) as subscription:
        ref = runtime.tell("a", "go")
        await runtime.wait(ref)
        items = [await anext(subscription) for _ in range(5)]
    assert [item.event for item in items if isinstance(item, Live)] == [
        TextEvent("0"),
        TextEvent("1"),
        TextEvent("2"),
    ]
    assert items[3] == Missed(8)
    assert isinstance(items[4], Ended)


async def test_r47_a_subscription_to_a_ref_spans_retries_and_ends_with_the_outcome(
    runtime: Runtime, backend: Puppet
) -> None:
    from tollboard.runtime.agent import Prompt

    backend.fail("bad")
    await runtime.start_agent(Scripted, "a", backend=backend, handle_error=lambda *_: Prompt("good"))
    runtime.halt("a")
    ref = runtime.tell("a", "bad")
    other = runtime.tell("a", "other")
    subscription = runtime.subscribe("a", ref=ref)
    runtime.resume("a")
    items = [item async for item in subscription]
    await runtime.wait(other)
    assert [item.attempt for item in items if isinstance(item, Live)] == [1, 2, 2]
    assert all(item.ref == ref for item in items if not isinstance(item, Missed))
    assert isinstance(items[-1], Ended)
    assert isinstance(items[-1].outcome, Completed)


async def test_r47_a_subscription_to_a_done_ref_is_refused(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    ref = runtime.tell("a", "one")
    await runtime.wait(ref)
    with pytest.raises(RequestNotFound):
        runtime.subscribe("a", ref=ref)


async def test_a_subscription_ends_when_its_agent_does(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    subscription = runtime.subscribe("a")
    reading = asyncio.create_task(anext(subscription, None))
    await asyncio.sleep(0)
    await runtime.stop("a")
    assert await reading is None
    subscription.close()


# -- supervision ------------------------------------------------------------------------------------------------------


CRASHABLE = ["pre_run", "pre_turn", "handle_stream_event", "handle_response", "handle_error", "post_turn",
             "handle_event", "post_run"]  # fmt: skip


@pytest.mark.parametrize("hook", CRASHABLE)
async def test_r35_a_crash_in_any_callback_is_visible_and_nobody_waits(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, hook: str
) -> None:
    def crashing(*_: object) -> None:
        raise Crash("state is broken")

    backend.fail("bad")
    await runtime.start_agent(Scripted, "a", backend=backend, **{hook: crashing})
    ended: list[Any] = []
    try:
        runtime.tell(
            "a", "bad" if hook == "handle_error" else "one", on_complete=lambda r, o: ended.append(o)
        )
        runtime.tell("a", "queued", on_complete=lambda r, o: ended.append(o))
        if hook in {"handle_event"}:
            runtime.notify("a", 1)
        if hook == "post_run":
            runtime.halt("a")
    except Crash:
        pass
    await seen.seen(telemetry.AGENT_CRASHED)
    assert len(ended) == 2
    assert runtime.status("a").phase is Phase.DEAD
    assert "state is broken" in (runtime.status("a").reason or "")
    with pytest.raises(AgentDead, match="state is broken"):
        runtime.tell("a", "more")
    assert backend.terminated == 1
    await runtime.start_agent(Plain, "a", backend=backend)
    assert (await runtime.ask("a", "again")).text == "again"


@pytest.mark.parametrize(
    ("restart", "again"), [("temporary", False), ("transient", True), ("permanent", True)]
)
async def test_r35_restart_only_when_asked_for(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, restart: str, again: bool
) -> None:
    crashes = iter([True])

    def handle_response(*_: object) -> None:
        if next(crashes, False):
            raise Crash("once")

    await runtime.start_agent(
        Scripted, "a", backend=backend, restart=restart, handle_response=handle_response
    )
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "one")
    assert failed.value.reason == Reason.CRASHED
    await seen.seen(telemetry.AGENT_CRASHED)
    if again:
        await seen.seen(telemetry.AGENT_STARTED, 2)
        assert (await runtime.ask("a", "two")).text == "two"
        await runtime.stop("a")
        assert runtime.whereis("a") is None
    else:
        assert runtime.status("a").phase is Phase.DEAD


async def test_r35_restarts_have_an_intensity_limit(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    def handle_response(*_: object) -> None:
        raise Crash("always")

    await runtime.start_agent(
        Scripted, "a", backend=backend, restart="permanent", max_restarts=2, handle_response=handle_response
    )
    for n in range(3):
        with pytest.raises(TurnFailed):
            await runtime.ask("a", "one")
        if n < 2:
            await seen.seen(telemetry.AGENT_STARTED, n + 2)
    await seen.seen(telemetry.AGENT_CRASHED, 3)
    assert runtime.status("a").phase is Phase.DEAD


async def test_r36_e09_closing_stops_everything_newest_first(backend: Puppet) -> None:
    order: list[str] = []

    class Noting(Plain):
        def terminate_agent(self, reason: str) -> None:
            order.append(self.given["n"])  # type: ignore[arg-type]

    runtime = Runtime()
    for n in "abc":
        await runtime.start_agent(Noting, n, backend=backend, n=n)
    gate = backend.hold("slow")
    asking = asyncio.create_task(runtime.ask("a", "slow"))
    await gate.entered.wait()
    assert await runtime.close() == ()
    assert set(order) == {"a", "b", "c"}
    with pytest.raises(TurnFailed):
        await asking
    assert backend.running == 0
    with pytest.raises(Exception, match="closing"):
        await runtime.start_agent(Plain, "d", backend=backend)


async def test_e10_closing_names_what_does_not_end_in_time(backend: Puppet) -> None:
    runtime = Runtime()
    backend.terminate_gate = Gate()
    await runtime.start_agent(Plain, "stuck", backend=backend)
    assert await runtime.close(deadline_s=0.01) == ("stuck",)


async def test_a_backend_that_fails_to_terminate_is_reported(runtime: Runtime) -> None:
    class Failing(Puppet):
        async def terminate_session(self, session: Any) -> Any:
            raise OSError("no such process")

    await runtime.start_agent(Plain, "a", backend=Failing())
    stopped = await runtime.stop("a")
    assert "OSError" in stopped.processes.unverified[0]
    assert runtime.whereis("a") is None


async def test_a_backlog_runs_first_and_in_order(runtime: Runtime, backend: Puppet) -> None:
    from tollboard.runtime.request import Origin, Request

    backlog = [Request(f"ref-{n}", f"old {n}", Origin.TELL, 0.0) for n in range(3)]
    journal = RecordingJournal()
    await runtime.start_agent(
        Plain, "a", backend=backend, journal=journal, backlog=backlog, provider_session_id="p-1"
    )
    await runtime.wait_all(["ref-0", "ref-1", "ref-2", runtime.tell("a", "new")])
    assert backend.ran == ["old 0", "old 1", "old 2", "new"]
    assert backend.resumed == ["p-1"]
    assert ("accepted", "ref-0") not in journal.log


async def test_a_backlog_of_a_halted_agent_waits(runtime: Runtime, backend: Puppet) -> None:
    from tollboard.runtime.request import Origin, Request

    await runtime.start_agent(
        Plain, "a", backend=backend, halted=True, backlog=[Request("ref", "old", Origin.TELL, 0.0)]
    )
    assert runtime.status("a").queued == 1
    runtime.resume("a")
    await runtime.wait("ref")


# -- privacy ----------------------------------------------------------------------------------------------------------


async def test_r49_no_repr_and_no_log_carries_a_prompt_or_a_response(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hunter2"
    agent = await runtime.start_agent(Plain, "a", backend=backend)
    gate = backend.hold(secret)
    ref = runtime.tell("a", secret)
    runtime.tell("a", secret + " queued")
    await gate.entered.wait()
    objects: list[object] = [
        agent, agent.turn, agent.turn and agent.turn.request, agent.mailbox, runtime, runtime.status("a"),
        runtime.snapshot("a"), *(agent.mailbox or ()),
    ]  # fmt: skip
    gate.release()
    outcome = await runtime.wait(ref)
    assert isinstance(outcome, Completed)
    objects += [
        outcome,
        outcome.response,
        Failed(Reason.BACKEND_ERROR, secret),
        Edit({"x": secret}),
        Reject(secret),
    ]
    objects += [
        events.TextEvent(secret), events.ToolUseEvent("1", "t", {"x": secret}), events.ToolResultEvent("1", secret),
        events.NoticeEvent("n", secret), events.ResultEvent(secret), events.ErrorEvent(secret),
        ApprovalRequest("t", {"x": secret}, display=secret),
    ]  # fmt: skip
    for thing in objects:
        assert secret not in repr(thing), type(thing)
    assert secret not in caplog.text


def test_sizes_of_events_count_their_content() -> None:
    assert events.TextEvent("abc").size() == 3
    assert events.ToolResultEvent("1", "abcd").size() == 4
    assert events.ToolUseEvent("1", "t", {"a": 1}).size() > 0
    assert events.UsageEvent(events.Usage()).size() == 0
    assert events.NoticeEvent("n", "abc").size() == 3
    assert events.ResultEvent(None).size() == 0
    assert events.ErrorEvent("abc").size() == 3
