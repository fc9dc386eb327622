"""Turns that an agent begins by itself, what runs beside its turns, and questions of no turn (B01, B03-B05)."""

from __future__ import annotations

import asyncio

import pytest

from tests.runtime.puppet import Plain, Puppet, Scripted
from tollboard.errors import NotCancellable, StoreUnavailable
from tollboard.runtime import telemetry
from tollboard.runtime.agent import Prompt, Skip
from tollboard.runtime.approval import ApprovalRequest, Approve, Reject
from tollboard.runtime.backend import Turn
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.results import Completed, Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase
from tollboard.testing.clock import FakeClock
from tollboard.testing.recorder import RecordingJournal, TelemetryRecorder

TASK = BackgroundTask("t1", "command", "make watch", since=5.0, ref="r1")
OTHER = BackgroundTask("t2", "agent", "look for dead code", since=6.0)


async def idle(runtime: Runtime, name: str = "a") -> None:
    """Wait until the agent has nothing to do."""
    while runtime.status(name).phase is Phase.PROCESSING:
        await asyncio.sleep(0)


async def test_b01_a_turn_nobody_asked_for_is_followed_and_written_down(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    assert backend.begin("the build ended")
    await idle(runtime)
    (ref,) = journal.outcomes
    assert [kind for kind, of in journal.log if of == ref] == ["accepted", "started", "finished"]
    outcome = journal.outcomes[ref]
    assert isinstance(outcome, Completed)
    assert outcome.response.text == "the build ended"
    started = seen.of(telemetry.PROMPT_START)[0].metadata
    assert (started["origin"], started["prompt"], started["ref"]) == ("agent", "the build ended", ref)
    assert runtime.poll(ref) == outcome


async def test_b01_it_waits_for_the_turn_in_flight_and_comes_before_the_queue(
    runtime: Runtime, backend: Puppet
) -> None:
    gate = backend.hold("first")
    await runtime.start_agent(Plain, "a", backend=backend)
    runtime.tell("a", "first")
    last = runtime.tell("a", "second")
    await gate.entered.wait()
    backend.begin("by itself")
    backend.begin("and again")
    gate.release()
    await runtime.wait(last)
    assert backend.ran == ["first", "by itself", "and again", "second"]
    assert backend.most == 1


async def test_b01_pre_turn_has_no_say_in_what_has_begun(runtime: Runtime, backend: Puppet) -> None:
    await runtime.start_agent(Scripted, "a", backend=backend, pre_turn=lambda _: Skip("no"))
    backend.begin("by itself")
    await idle(runtime)
    assert backend.ran == ["by itself"]


async def test_b01_what_the_agent_decides_after_it_follows_it(runtime: Runtime, backend: Puppet) -> None:
    following = iter([Prompt("more")])
    await runtime.start_agent(
        Scripted, "a", backend=backend, handle_response=lambda *_: next(following, None)
    )
    backend.begin("by itself")
    await idle(runtime)
    assert backend.ran == ["by itself", "more"]


async def test_b03_while_it_runs_the_agent_is_busy_and_names_it(runtime: Runtime, backend: Puppet) -> None:
    gate = backend.hold("by itself")
    await runtime.start_agent(Plain, "a", backend=backend)
    backend.begin("by itself")
    await gate.entered.wait()
    status = runtime.status("a")
    assert status.phase is Phase.PROCESSING
    assert status.in_flight == backend.turns["by itself"].ref
    queued = runtime.tell("a", "later")
    assert runtime.status("a").queued == 1
    gate.release()
    assert isinstance(await runtime.wait(queued), Completed)


@pytest.mark.parametrize("named", [True, False])
async def test_b03_an_interrupt_ends_it_where_it_runs(runtime: Runtime, backend: Puppet, named: bool) -> None:
    gate = backend.hold("by itself")
    await runtime.start_agent(Plain, "a", backend=backend)
    backend.begin("by itself")
    await gate.entered.wait()
    ref = runtime.status("a").in_flight
    assert ref is not None
    assert runtime.interrupt("a", ref=ref if named else None)
    assert await runtime.wait(ref) == Failed(Reason.INTERRUPTED)
    assert backend.closed == ["by itself"]


async def test_b03_an_interrupt_before_it_is_followed_still_ends_it_where_it_runs(
    runtime: Runtime, backend: Puppet
) -> None:
    """It runs in the program whether we follow it or not: one that nobody reads would run to its end unseen."""
    backend.hold("by itself")
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    backend.begin("by itself")
    ref = runtime.status("a").in_flight
    assert ref is not None
    assert not runtime.interrupt("a", ref="another")
    assert runtime.interrupt("a")
    await idle(runtime)
    assert backend.closed == ["by itself"]
    assert journal.outcomes == {ref: Failed(Reason.INTERRUPTED)}


async def test_b03_it_cannot_be_cancelled(runtime: Runtime, backend: Puppet) -> None:
    gate = backend.hold("first")
    await runtime.start_agent(Plain, "a", backend=backend)
    runtime.tell("a", "first")
    await gate.entered.wait()
    machine = runtime.whereis("a")
    assert machine is not None
    request = machine.begin_own_turn("by itself")
    backend.announced.append("by itself")
    with pytest.raises(NotCancellable, match="interrupt"):
        runtime.cancel(request.ref)
    gate.release()
    await runtime.wait(request.ref)


async def test_b03_a_halted_agent_follows_it_and_stays_halted(runtime: Runtime, backend: Puppet) -> None:
    """Frozen is the mailbox; the turn runs in the program already, and what it costs is to be seen."""
    await runtime.start_agent(Plain, "a", backend=backend)
    runtime.halt("a")
    waiting = runtime.tell("a", "later")
    backend.begin("by itself")
    await idle(runtime)
    assert backend.ran == ["by itself"]
    assert runtime.status("a").halted
    runtime.resume("a")
    await runtime.wait(waiting)


@pytest.mark.parametrize("verb", ["stop", "drain"])
async def test_b03_stop_ends_it_and_drain_lets_it_end(runtime: Runtime, backend: Puppet, verb: str) -> None:
    gate = backend.hold("by itself")
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    backend.begin("by itself")
    await gate.entered.wait()
    ending = asyncio.ensure_future(runtime.stop("a") if verb == "stop" else runtime.drain("a"))
    await asyncio.sleep(0)
    gate.release()
    await ending
    (outcome,) = journal.outcomes.values()
    assert isinstance(outcome, Completed) is (verb == "drain")
    assert backend.host is not None
    assert not backend.begin("too late")


async def test_b03_a_start_that_cannot_be_written_ends_it_where_it_runs(
    runtime: Runtime, backend: Puppet
) -> None:
    backend.hold("by itself")
    journal = RecordingJournal(failing={"started": StoreUnavailable("full")})
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    backend.begin("by itself")
    await idle(runtime)
    assert backend.closed == ["by itself"]
    (outcome,) = journal.outcomes.values()
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.STORE_FAILED


async def test_b04_a_question_of_no_turn_is_asked_and_its_answer_arrives(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(Plain, "a", backend=backend)
    assert backend.host is not None
    request = ApprovalRequest("Bash", {"command": "touch x"}, path=("explorer",))
    asking = asyncio.ensure_future(backend.host.ask(request, "r1"))
    await seen.seen(telemetry.APPROVAL_REQUESTED)
    assert runtime.status("a").phase is Phase.IDLE
    assert runtime.status("a").needs_decision
    (pending,) = runtime.approvals.values()
    assert (pending.approval.path, pending.approval.ref) == ("a/explorer", "r1")
    await runtime.decide(pending.approval.id, Approve())
    assert await asking == Approve()
    assert not runtime.status("a").needs_decision


async def test_b04_turns_begin_and_end_while_it_waits(runtime: Runtime, backend: Puppet) -> None:
    """Its answer is not due when some turn ends, and no turn's watchdog stands still for it."""
    clock = runtime.clock
    assert isinstance(clock, FakeClock)
    backend.hold("slow")
    await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=60)
    assert backend.host is not None
    asking = asyncio.ensure_future(backend.host.ask(ApprovalRequest("Bash", {}, path=("explorer",))))
    await runtime.wait(runtime.tell("a", "quick"))
    late = runtime.tell("a", "slow")
    while "slow" not in backend.turns:
        await asyncio.sleep(0)
    clock.advance(61)
    outcome = await runtime.wait(late)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.TIMEOUT
    (approval_id,) = runtime.approvals
    await runtime.decide(approval_id, Approve())
    assert await asking == Approve()


async def test_b04_a_turns_own_question_still_ends_with_the_turn(runtime: Runtime, backend: Puppet) -> None:
    answers: list[object] = []

    async def asks(turn: Turn):  # type: ignore[no-untyped-def] # an async generator of events
        answers.append(await turn.request_approval(ApprovalRequest("rm", {})))
        yield  # never reached with an event

    backend.script("ask", asks)
    await runtime.start_agent(Plain, "a", backend=backend)
    assert backend.host is not None
    outside = asyncio.ensure_future(backend.host.ask(ApprovalRequest("Bash", {})))
    ref = runtime.tell("a", "ask")
    while len(runtime.approvals) < 2:
        await asyncio.sleep(0)
    runtime.interrupt("a")
    await runtime.wait(ref)
    assert len(runtime.approvals) == 1, "the background's question waits on"
    await runtime.stop("a")
    assert isinstance(await outside, Reject)


async def test_b04_it_has_the_same_time_limit(runtime: Runtime, backend: Puppet, clock: FakeClock) -> None:
    await runtime.start_agent(Plain, "a", backend=backend, approval_timeout_s=30)
    assert backend.host is not None
    asking = asyncio.ensure_future(backend.host.ask(ApprovalRequest("Bash", {})))
    while not runtime.approvals:
        await asyncio.sleep(0)
    clock.advance(31)
    assert await asking == Reject("nobody decided within 30 s")


async def test_b05_what_runs_is_remembered_and_told(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    journal = RecordingJournal()
    machine = await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    assert backend.host is not None
    backend.host.background([TASK, OTHER])
    backend.host.background([TASK, OTHER])
    assert machine.background == (TASK, OTHER)
    assert [what for kind, what in journal.log if kind == "background"] == ["t1 t2"]
    assert seen.of(telemetry.BACKGROUND_CHANGED)[0].metadata["running"] == (TASK, OTHER)
    backend.host.background([OTHER])
    assert not journal.outcomes, "it ended by itself: nothing was cut off"


async def test_b05_what_was_cut_off_is_said_in_the_history(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    journal = RecordingJournal()
    await runtime.start_agent(Plain, "a", backend=backend, journal=journal)
    assert backend.host is not None
    backend.host.background([TASK, OTHER])
    backend.host.background([OTHER], lost="cut off by an interrupt")
    told = await seen.seen(telemetry.PROMPT_ERROR)
    assert (told.metadata["reason"], told.metadata["detail"]) == ("interrupted", "cut off by an interrupt")
    await runtime.stop("a")
    first, second = journal.outcomes.values()
    assert first == Failed(Reason.INTERRUPTED, "cut off by an interrupt")
    assert second == Failed(Reason.INTERRUPTED, "cut off when the agent was stopped")
    for ref in journal.outcomes:
        assert [kind for kind, of in journal.log if of == ref] == ["accepted", "started", "finished"]


async def test_b05_a_replaced_session_has_no_say(runtime: Runtime, backend: Puppet) -> None:
    machine = await runtime.start_agent(Plain, "a", backend=backend)
    before = backend.host
    await runtime.reset_session("a")
    assert before is not None
    assert not before.begin_turn("from before")
    before.background([TASK])
    assert machine.background == ()
    assert isinstance(await before.ask(ApprovalRequest("Bash", {})), Reject)
    backend.begin("from now")
    await idle(runtime)
    assert backend.ran == ["from now"]
