"""Callbacks and hooks: R20-R24, R27-R29, R45, R48, E01-E03, E11-E13."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.runtime.puppet import Plain, Puppet, Scripted
from tollboard.errors import AgentNotFound, InvalidOption, Overloaded, TurnFailed
from tollboard.runtime import telemetry
from tollboard.runtime.agent import GenAgent, Halt, Prompt, Skip
from tollboard.runtime.callbacks import current_name
from tollboard.runtime.results import Completed, Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase
from tollboard.testing.recorder import TelemetryRecorder


async def test_r20_init_agent_runs_first_and_yields_the_backends_options(
    runtime: Runtime, backend: Puppet
) -> None:
    class Agent(GenAgent):
        async def init_agent(self, **options: object) -> dict[str, object]:  # type: ignore[override]
            return {"model": options["model"], "by": "init"}

    await runtime.start_agent(Agent, "a", backend=backend, model="m")
    assert backend.started == [{"model": "m", "by": "init"}]


@pytest.mark.parametrize("where", ["init", "backend"])
async def test_r20_a_start_that_raises_leaves_the_name_free(
    runtime: Runtime, backend: Puppet, where: str
) -> None:
    class Bad(GenAgent):
        def init_agent(self) -> None:
            raise RuntimeError("no")

    if where == "backend":
        backend.refuse = RuntimeError("no")
    with pytest.raises(RuntimeError, match="no"):
        await runtime.start_agent(Bad if where == "init" else Plain, "a", backend=backend)
    backend.refuse = None
    assert runtime.list() == []
    await runtime.start_agent(Plain, "a", backend=backend)


async def test_r21_pre_run_runs_once_after_start_and_before_the_first_turn(
    runtime: Runtime, backend: Puppet
) -> None:
    gate = asyncio.Event()

    async def pre_run() -> None:
        await gate.wait()

    agent = await runtime.start_agent(Scripted, "a", backend=backend, pre_run=pre_run)
    assert agent.agent.log == []
    refs = [runtime.tell("a", "one"), runtime.tell("a", "two")]
    gate.set()
    await runtime.wait_all(refs)
    assert [entry[0] for entry in agent.agent.log].count("pre_run") == 1
    assert agent.agent.log[0] == ("pre_run",)


async def test_r21_a_pre_run_that_raises_stops_the_agent_and_tells_who_waits(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    def pre_run() -> None:
        raise RuntimeError("no")

    agent = await runtime.start_agent(Scripted, "a", backend=backend, pre_run=pre_run)
    ended: list[Any] = []
    runtime.tell("a", "one", on_complete=lambda ref, outcome: ended.append(outcome))
    await seen.seen(telemetry.AGENT_CRASHED)
    assert ended[0].reason is Reason.PRE_RUN_FAILED
    assert len(agent.agent.called("terminate_agent")) == 1
    assert runtime.status("a").phase is Phase.DEAD
    assert "pre_run" in (runtime.status("a").reason or "")


async def test_r22_pre_turn_may_rewrite_the_prompt(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(Scripted, "a", backend=backend, pre_turn=lambda prompt: prompt.upper())
    assert (await runtime.ask("a", "one")).text == "ONE"
    start = seen.of(telemetry.PROMPT_START)[0].metadata
    assert (start["prompt"], start["original"], start["rewritten"]) == ("ONE", "one", True)


async def test_r22_skip_fails_the_request_and_no_error_callback_runs(
    runtime: Runtime, backend: Puppet
) -> None:
    agent = await runtime.start_agent(
        Scripted, "a", backend=backend, pre_turn=lambda prompt: Skip("too late")
    )
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "one")
    assert (failed.value.reason, failed.value.detail) == (Reason.SKIPPED, "too late")
    assert agent.agent.called("handle_error") == []
    assert backend.ran == []


@pytest.mark.parametrize("answer", ["raise", 42])
async def test_r22_raising_or_nonsense_skips_the_turn(
    runtime: Runtime, backend: Puppet, answer: object
) -> None:
    def pre_turn(prompt: str) -> object:
        if answer == "raise":
            raise RuntimeError("secret prompt")
        return answer

    await runtime.start_agent(Scripted, "a", backend=backend, pre_turn=pre_turn)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "one")
    assert failed.value.reason == Reason.SKIPPED
    assert runtime.status("a").phase is Phase.IDLE


async def test_e13_a_skipped_self_chain_is_reported(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    await runtime.start_agent(
        Scripted, "a", backend=backend,
        handle_response=lambda *_: Prompt("again"), pre_turn=lambda p: Skip("no") if p == "again" else p,
    )  # fmt: skip
    await runtime.ask("a", "one")
    rejected = await seen.seen(telemetry.TURN_REJECTED)
    assert rejected.metadata["origin"].value == "chain"  # type: ignore[attr-defined]
    assert rejected.metadata["reason"] is Reason.SKIPPED


async def test_r23_post_turn_runs_after_the_decision_and_cannot_change_it(
    runtime: Runtime, backend: Puppet
) -> None:
    def post_turn(outcome: object, ref: str) -> Halt:
        runtime.notify("a", "during")
        return Halt()

    agent = await runtime.start_agent(Scripted, "a", backend=backend, post_turn=post_turn)
    await runtime.ask("a", "one")
    await runtime.ask("a", "two")
    names = [
        entry[0] for entry in agent.agent.log if entry[0] in {"handle_response", "post_turn", "handle_event"}
    ]
    assert names[:3] == ["handle_response", "post_turn", "handle_event"]
    assert not runtime.status("a").halted


async def test_r23_a_post_turn_that_raises_changes_nothing(runtime: Runtime, backend: Puppet) -> None:
    def post_turn(outcome: object, ref: str) -> None:
        raise RuntimeError("oh")

    await runtime.start_agent(Scripted, "a", backend=backend, post_turn=post_turn)
    assert (await runtime.ask("a", "one")).text == "one"


async def test_r24_post_run_runs_on_a_halt_before_the_halted_event(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    order: list[str] = []

    async def post_run() -> None:
        order.append("post_run")

    runtime.telemetry.attach("order", [telemetry.HALTED], lambda *_: order.append("halted"))
    await runtime.start_agent(Scripted, "a", backend=backend, post_run=post_run)
    runtime.halt("a")
    await seen.seen(telemetry.HALTED)
    assert order == ["post_run", "halted"]


async def test_r24_post_run_does_not_run_on_stop_or_crash(runtime: Runtime, backend: Puppet) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    await runtime.ask("a", "one")
    await runtime.stop("a")
    assert agent.agent.called("post_run") == []


async def test_e03_post_run_runs_once_when_turn_and_event_both_halt(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    def handle_response(*_: object) -> Halt:
        runtime.notify("a", "too")
        return Halt()

    agent = await runtime.start_agent(
        Scripted, "a", backend=backend, handle_response=handle_response, handle_event=lambda event: Halt()
    )
    await runtime.ask("a", "one")
    await seen.seen(telemetry.HALTED)
    assert len(agent.agent.called("post_run")) == 1
    names = [entry[0] for entry in agent.agent.log]
    assert names.index("handle_event") < names.index("post_run")
    assert len(seen.of(telemetry.HALTED)) == 1


async def test_r27_e12_a_handle_response_that_raises_fails_that_request_only(
    runtime: Runtime, backend: Puppet
) -> None:
    def handle_response(ref: str, response: Any) -> None:
        if response.text == "bad":
            raise RuntimeError("oh")

    agent = await runtime.start_agent(Scripted, "a", backend=backend, handle_response=handle_response)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "bad")
    assert failed.value.reason == Reason.CALLBACK_FAILED
    assert agent.agent.called("handle_error") == []
    assert (await runtime.ask("a", "good")).text == "good"


@pytest.mark.parametrize("hook", ["handle_response", "handle_error", "handle_event"])
async def test_e11_a_malformed_return_loses_nobodys_reply(
    runtime: Runtime, backend: Puppet, hook: str
) -> None:
    backend.fail("bad")
    await runtime.start_agent(Scripted, "a", backend=backend, **{hook: lambda *_: "nonsense"})
    if hook == "handle_event":
        runtime.notify("a", "event")
    ref = runtime.tell("a", "bad" if hook == "handle_error" else "one")
    outcome = await runtime.wait(ref)
    if hook == "handle_event":
        assert isinstance(outcome, Completed)
    else:
        assert isinstance(outcome, Failed)


async def test_r25_raising_in_handle_error_counts_as_no_decision(runtime: Runtime, backend: Puppet) -> None:
    def handle_error(*_: object) -> None:
        raise RuntimeError("oh")

    backend.fail("bad")
    await runtime.start_agent(Scripted, "a", backend=backend, handle_error=handle_error)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "bad")
    assert failed.value.reason == Reason.BACKEND_ERROR


@pytest.mark.parametrize("waiting", [False, True])
async def test_r28_notify_on_an_idle_agent_is_handled_now(
    runtime: Runtime, backend: Puppet, waiting: bool
) -> None:
    class Agent(GenAgent):
        def init_agent(self) -> None:
            self.events: list[object] = []

        if waiting:

            async def handle_event(self, event: object) -> None:  # type: ignore[override]
                await asyncio.sleep(0)
                self.events.append(event)
        else:

            def handle_event(self, event: object) -> None:
                self.events.append(event)

    agent = await runtime.start_agent(Agent, "a", backend=backend)
    runtime.notify("a", 1)
    runtime.notify("a", 2)
    await runtime.ask("a", "after")
    assert agent.agent.events == [1, 2]  # type: ignore[attr-defined]


async def test_e01_events_during_a_turn_are_handled_in_order_after_it(
    runtime: Runtime, backend: Puppet
) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    for n in range(3):
        runtime.notify("a", n)
    assert agent.agent.called("handle_event") == []
    gate.release()
    await runtime.wait(ref)
    await runtime.ask("a", "next")
    assert agent.agent.called("handle_event") == [(0,), (1,), (2,)]


async def test_e02_events_buffered_during_a_turn_that_fails_are_handled_too(
    runtime: Runtime, backend: Puppet
) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend)
    gate = backend.hold("slow")
    runtime.tell("a", "slow")
    await gate.entered.wait()
    runtime.notify("a", "kept")
    runtime.interrupt("a")
    await runtime.ask("a", "next")
    assert agent.agent.called("handle_event") == [("kept",)]


async def test_r28_a_prompt_from_an_event_goes_to_the_back_of_the_mailbox(
    runtime: Runtime, backend: Puppet
) -> None:
    await runtime.start_agent(
        Scripted, "a", backend=backend, handle_event=lambda event: Prompt(f"event {event}")
    )
    gate = backend.hold("slow")
    refs = [runtime.tell("a", "slow"), runtime.tell("a", "queued")]
    await gate.entered.wait()
    runtime.notify("a", 1)
    gate.release()
    await runtime.wait_all(refs)
    await runtime.ask("a", "last")
    assert backend.ran == ["slow", "queued", "event 1", "last"]


async def test_r28_a_halt_from_an_event_halts_but_the_remaining_events_run(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    def handle_event(event: object) -> Halt | None:
        if event == "bad":
            raise RuntimeError("oh")
        return Halt() if event == "halt" else None

    agent = await runtime.start_agent(Scripted, "a", backend=backend, handle_event=handle_event)
    gate = backend.hold("slow")
    runtime.tell("a", "slow")
    await gate.entered.wait()
    for event in ("halt", "bad", "last"):
        runtime.notify("a", event)
    gate.release()
    await seen.seen(telemetry.HALTED)
    assert agent.agent.called("handle_event") == [("halt",), ("bad",), ("last",)]


@pytest.mark.parametrize("limit", [{"max_notifications": 2}, {"max_notification_bytes": 10}])
async def test_r29_an_event_is_handled_or_kept_or_refused_with_overloaded(
    runtime: Runtime, backend: Puppet, limit: dict[str, int]
) -> None:
    agent = await runtime.start_agent(Scripted, "a", backend=backend, **limit)
    gate = backend.hold("slow")
    ref = runtime.tell("a", "slow")
    await gate.entered.wait()
    runtime.notify("a", "12345")
    runtime.notify("a", "12345")
    with pytest.raises(Overloaded, match="notification buffer") as full:
        runtime.notify("a", "12345")
    assert full.value.limit in limit.values()
    gate.release()
    await runtime.wait(ref)
    await runtime.ask("a", "next")
    assert len(agent.agent.called("handle_event")) == 2


async def test_r45_current_name_works_in_every_callback_and_nowhere_else(
    runtime: Runtime, backend: Puppet, seen: TelemetryRecorder
) -> None:
    names: dict[str, str | None] = {}

    def note(hook: str) -> Any:
        def noting(*_: object) -> Any:
            names[hook] = current_name()

        return noting

    class Agent(Scripted):
        def init_agent(self, **hooks: Any) -> dict[str, object]:
            super().init_agent(**hooks)
            names["init_agent"] = current_name()
            return {}

    hooks = ["pre_run", "pre_turn", "handle_stream_event", "handle_response", "handle_error", "post_turn",
             "handle_event", "post_run", "terminate_agent"]  # fmt: skip
    await runtime.start_agent(Agent, "a", backend=backend, **{hook: note(hook) for hook in hooks})
    backend.fail("bad")
    await runtime.ask("a", "one")
    await runtime.wait(runtime.tell("a", "bad"))
    runtime.notify("a", "event")
    runtime.halt("a")
    assert current_name() is None
    await seen.seen(telemetry.HALTED)
    await runtime.stop("a")
    assert names == dict.fromkeys(["init_agent", *hooks], "a")
    assert current_name() is None


async def test_r45_list_names_all_agents(runtime: Runtime, backend: Puppet) -> None:
    for name in "cab":
        await runtime.start_agent(Plain, name, backend=backend)
    assert runtime.list() == ["c", "a", "b"]


@pytest.mark.parametrize(
    "bad",
    [{"watchdog_s": 0}, {"watchdog_s": -1}, {"watchdog_s": "1"}, {"watchdog_s": True}, {"watchdog_s": None},
     {"watchdog_s": float("nan")}, {"silence_s": 0}, {"max_queued": -1}, {"max_results": 1.5}, {"max_events": True},
     {"event_log": "all"}, {"restart": "always"}, {"approval_timeout_s": 0}, {"_private": 1}],
)  # fmt: skip
async def test_r48_e33_bad_options_are_refused_before_anything_exists(
    runtime: Runtime, backend: Puppet, bad: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOption, match=next(iter(bad))):
        await runtime.start_agent(Plain, "a", backend=backend, **bad)
    assert backend.started == []
    assert runtime.list() == []


async def test_r48_reserved_options_never_reach_init_agent_and_all_others_do(
    runtime: Runtime, backend: Puppet
) -> None:
    agent = await runtime.start_agent(Plain, "a", backend=backend, watchdog_s=5, model="m", watchdog=1)
    assert agent.agent.given == {"model": "m", "watchdog": 1}  # type: ignore[attr-defined]
    assert agent.options.watchdog_s == 5


@pytest.mark.parametrize("verb", ["interrupt", "halt", "resume", "notify", "snapshot", "status", "subscribe"])
async def test_verbs_on_nobody_say_so(runtime: Runtime, verb: str) -> None:
    with pytest.raises(AgentNotFound, match="nobody"):
        getattr(runtime, verb)("nobody", *(["event"] if verb == "notify" else []))


async def test_r49_failures_of_callbacks_are_logged_without_content(
    runtime: Runtime, backend: Puppet, caplog: pytest.LogCaptureFixture
) -> None:
    def raising(*args: object) -> None:
        raise ValueError(f"the password is {args!r} hunter2")

    caplog.set_level(logging.DEBUG)
    hooks = dict.fromkeys(("handle_response", "post_turn", "handle_event"), raising)
    await runtime.start_agent(Scripted, "a", backend=backend, **hooks)
    with pytest.raises(TurnFailed) as failed:
        await runtime.ask("a", "hunter2")
    runtime.notify("a", "hunter2")
    assert "handle_response raised ValueError" in caplog.text
    assert "hunter2" not in caplog.text
    assert "hunter2" not in str(failed.value)
