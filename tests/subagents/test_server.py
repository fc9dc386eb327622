"""The server of sub-agents: start, execute, resume, status, cancel, stop (A01-A08, A22)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
from pydantic_ai.messages import ModelMessage

from tests.subagents.brains import Answer, Brain, calls, hangs, task, until
from tollboard.errors import InvalidStatus, SubAgentExists, SubAgentNotFound
from tollboard.ids import new_ref
from tollboard.runtime.approval import Approve
from tollboard.runtime.memory import DictMemory
from tollboard.subagents import (
    Completed,
    Failed,
    Interrupted,
    Status,
    SubAgent,
    SubAgentConfig,
    SubAgentServer,
)
from tollboard.subagents.events import (
    Started,
    StatusChanged,
    SubAgentCancelled,
    SubAgentCompleted,
    SubAgentEvent,
)
from tollboard.subagents.outcome import Cause
from tollboard.testing.clock import FakeClock


def look(x: int = 0) -> str:
    """Look at something."""
    return f"saw {x}"


def save(path: str) -> str:
    """Save something."""
    return f"saved {path}"


def config(brain: Brain, name: str = "kid", **more: object) -> SubAgentConfig:
    given = {"description": "does things", "system_prompt": "Do things.", "tools": (look, save), **more}
    return SubAgentConfig(name=name, model=brain.model, **given)  # type: ignore[arg-type]


@pytest.fixture
async def server() -> AsyncIterator[SubAgentServer]:
    async with SubAgentServer() as server:
        yield server


GUARDED = calls(("save", {"path": "p"}, "s1"))


async def test_a01_start_registers_under_an_id_and_is_idle(server: SubAgentServer) -> None:
    id = await server.start(SubAgent(config(Brain("hi")), "Go.", id="one"))
    assert (id, server.get_status("one")) == ("one", Status.IDLE)


async def test_a01_ids_are_unique(server: SubAgentServer) -> None:
    await server.start(SubAgent(config(Brain("hi")), "Go.", id="one"))
    with pytest.raises(SubAgentExists, match="'one'"):
        await server.start(SubAgent(config(Brain("hi")), "Go.", id="one"))


async def test_a02_execute_completes_with_the_final_text(server: SubAgentServer) -> None:
    id = await server.start(SubAgent(config(Brain("hi")), "Go."))
    match await server.execute(id):
        case Completed(result, extra):
            assert (result, extra) == ("hi", None)
        case other:
            pytest.fail(f"{other}")
    assert server.get_status(id) is Status.COMPLETED


async def test_a02_execute_stops_at_a_guarded_call(server: SubAgentServer) -> None:
    id = await server.start(SubAgent(config(Brain(GUARDED, "done"), interrupt_on={"save": True}), "Go."))
    assert isinstance(await server.execute(id), Interrupted)
    assert server.get_status(id) is Status.INTERRUPTED


async def test_a02_execute_fails_when_the_model_does(server: SubAgentServer) -> None:
    id = await server.start(SubAgent(config(Brain(RuntimeError("no luck"))), "Go."))
    outcome = await server.execute(id)
    assert isinstance(outcome, Failed)
    assert "no luck" in outcome.reason
    assert server.get_status(id) is Status.ERROR


async def test_a03_resume_may_interrupt_any_number_of_times(server: SubAgentServer) -> None:
    steps = [calls(("save", {"path": str(n)}, f"s{n}")) for n in range(4)]
    id = await server.start(SubAgent(config(Brain(*steps, "done"), interrupt_on={"save": True}), "Go."))
    outcome = await server.execute(id)
    rounds = 0
    while isinstance(outcome, Interrupted):
        rounds += 1
        outcome = await server.resume(id, [Approve()])
    assert rounds == 4
    assert isinstance(outcome, Completed)


async def test_a04_e62_execute_a_second_time_is_refused(server: SubAgentServer) -> None:
    id = await server.start(SubAgent(config(Brain("hi")), "Go."))
    await server.execute(id)
    with pytest.raises(InvalidStatus) as refused:
        await server.execute(id)
    assert (refused.value.status, refused.value.expected) == ("completed", "idle")


async def test_a04_resume_of_one_that_is_not_interrupted(server: SubAgentServer) -> None:
    id = await server.start(SubAgent(config(Brain("hi")), "Go."))
    with pytest.raises(InvalidStatus, match="idle"):
        await server.resume(id, [])
    assert isinstance(await server.execute(id), Completed)


@pytest.mark.parametrize("verb", ["execute", "resume", "get_status", "get_subagent"])
async def test_a04_e88_one_that_is_gone_is_a_clear_error(server: SubAgentServer, verb: str) -> None:
    id = await server.start(SubAgent(config(Brain("hi")), "Go."))
    await server.stop(id)

    async def call() -> object:
        result = getattr(server, verb)(*((id, []) if verb == "resume" else (id,)))
        return await result

    with pytest.raises(SubAgentNotFound, match="it was never started, or it was stopped"):
        await call()


async def test_a05_e66_status_answers_at_once_while_it_runs(server: SubAgentServer) -> None:
    asked = asyncio.Event()
    id = await server.start(SubAgent(config(Brain(hangs(asked))), "Go."))
    running = asyncio.create_task(server.execute(id))
    await asked.wait()
    assert server.get_status(id) is Status.RUNNING
    with pytest.raises(InvalidStatus, match="running"):
        await server.execute(id)
    await server.cancel(id)
    await running


async def test_a05_get_subagent_and_whereis(server: SubAgentServer) -> None:
    subagent = SubAgent(config(Brain("hi")), "Go.")
    id = await server.start(subagent)
    assert server.get_subagent(id) is subagent
    assert server.whereis(id) is not None
    assert server.whereis("nobody") is None


async def test_a06_stop_is_idempotent(server: SubAgentServer) -> None:
    id = await server.start(SubAgent(config(Brain("hi")), "Go."))
    await server.stop(id)
    await server.stop(id)
    assert server.whereis(id) is None


async def test_a06_e64_cancel_in_a_model_call_that_hangs_tells_first_and_ends() -> None:
    asked, events = asyncio.Event(), list[SubAgentEvent]()
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(config(Brain(calls(("look", {}, "l")), hangs(asked))), "Go."))
        running = asyncio.create_task(server.execute(id))
        await asked.wait()
        events.clear()
        await server.cancel(id)
        await server.cancel(id)
        outcome = await running
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.CANCELLED
    assert [event.kind for event in events] == ["status_changed", "subagent_cancelled"]
    cancelled = events[-1]
    assert isinstance(cancelled, SubAgentCancelled)
    assert (cancelled.turns, len(cancelled.messages)) == (1, 2)


async def test_a06_a_caller_that_gives_up_ends_the_run(server: SubAgentServer) -> None:
    asked = asyncio.Event()
    id = await server.start(SubAgent(config(Brain(hangs(asked))), "Go."))
    running = asyncio.create_task(server.execute(id))
    await asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert server.get_status(id) is Status.CANCELLED


async def swallows(held: asyncio.Event) -> str:
    while not held.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await held.wait()
    return "late"


async def blocks_a_thread(held: asyncio.Event) -> str:
    free, loop = threading.Event(), asyncio.get_running_loop()
    watching = loop.create_task(held.wait())
    watching.add_done_callback(lambda _: free.set())
    await asyncio.shield(loop.run_in_executor(None, free.wait))
    return "late"


async def hangs_while_it_cleans_up(held: asyncio.Event) -> str:
    try:
        await asyncio.Event().wait()
    finally:
        await swallows(held)
    return "late"


Hold = Callable[[asyncio.Event], Awaitable[str]]
STUBBORN: tuple[Hold, ...] = (swallows, blocks_a_thread, hangs_while_it_cleans_up)


@pytest.mark.parametrize("verb", ["cancel", "stop", "leave"])
@pytest.mark.parametrize("hold", STUBBORN)
@pytest.mark.parametrize("where", ["execute", "resume", "nested"])
async def test_a06_a28_whatever_a_tool_does_cannot_hold_the_caller(where: str, hold: Hold, verb: str) -> None:
    """The tool holds on until all is over: the caller must have its outcome before."""
    clock, begun, held = FakeClock(), asyncio.Event(), asyncio.Event()

    async def stubborn() -> str:
        """Hold on."""
        begun.set()
        return await hold(held)

    brain = Brain(calls(("stubborn", {}, "x")), "never")
    top = kid = config(brain, tools=(stubborn,), interrupt_on={"stubborn": where == "resume"})
    if where == "nested":
        top = config(Brain(calls(task("kid", "Go.", "t"))), "top", sub_agents=(kid,))
    server = SubAgentServer(clock=clock)
    id = await server.start(SubAgent(top, "Go."))
    if where == "resume":
        assert isinstance(await server.execute(id), Interrupted)
        running = asyncio.create_task(server.resume(id, [Approve()]))
    else:
        running = asyncio.create_task(server.execute(id))
    try:
        await begun.wait()
        ending = running if verb == "leave" else asyncio.create_task(getattr(server, verb)(id))
        if verb == "leave":
            running.cancel()
        await until(lambda: clock.waiting > 0)
        assert not running.done()
        clock.advance(2.5)
        async with asyncio.timeout(5):
            await asyncio.wait({ending, running})
        assert not held.is_set()
        if verb == "leave":
            assert running.cancelled()
        else:
            outcome = running.result()
            assert isinstance(outcome, Failed)
            assert outcome.cause is Cause.CANCELLED
    finally:
        held.set()
        await until(lambda: len(asyncio.all_tasks()) == 1)
    assert brain.asked == 1  # what was given up did nothing more
    await server.close()


class Slow(DictMemory):
    """A memory whose commits wait while it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.held = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    def save(self, texts: Mapping[str, str | None]) -> Awaitable[None]:  # type: ignore[override]
        super().save(texts)
        return self._commit()

    async def _commit(self) -> None:
        if not self.free.is_set():
            self.held.set()
        await self.free.wait()


@pytest.mark.parametrize("verb", ["cancel", "stop"])
@pytest.mark.parametrize("count", [1, 2])
async def test_a06_cancelled_while_its_decisions_are_written_down(verb: str, count: int) -> None:
    told: list[str] = []
    memory = Slow()
    server = SubAgentServer(memory=memory, observer=lambda event: told.append(event.kind))
    brain = Brain(calls(*(("save", {"path": "p"}, str(n)) for n in range(count))), "done")
    id = await server.start(SubAgent(config(brain, interrupt_on={"save": True}), "Go."))
    await server.execute(id)
    run = server.whereis(id)
    assert run is not None
    memory.free.clear()
    resuming = asyncio.create_task(server.resume(id, [{"type": "approve"}] * count))
    await memory.held.wait()
    await getattr(server, verb)(id)
    memory.free.set()
    outcome = await resuming
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.CANCELLED
    assert run.status is Status.CANCELLED
    assert told.count("subagent_cancelled") == 1


async def test_a07_a_crash_fails_the_caller_is_logged_and_the_parent_goes_on(
    server: SubAgentServer, caplog: pytest.LogCaptureFixture
) -> None:
    kid = config(Brain(RuntimeError("boom")))
    brain = Brain(calls(task("kid", "Do it.", "t1")), "I went on")
    id = await server.start(SubAgent(config(brain, "top", sub_agents=(kid,)), "Go."))
    with caplog.at_level(logging.WARNING):
        assert await server.execute(id) == Completed("I went on", usage=server._tree.runs[id].loop.total())
    assert brain.results() == {"t1": "The sub-agent failed: RuntimeError: boom"}
    assert "kid" in caplog.text


async def test_a08_cancelling_a_parent_ends_everything_below() -> None:
    asked, events = asyncio.Event(), list[SubAgentEvent]()
    grandchild = config(Brain(hangs(asked)), "grandchild")
    child = config(Brain(calls(task("grandchild", "Do it.", "g"))), "child", sub_agents=(grandchild,))
    top = config(Brain(calls(task("child", "Do it.", "c"))), "top", sub_agents=(child,))
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(top, "Go."))
        running = asyncio.create_task(server.execute(id))
        await asked.wait()
        await server.cancel(id)
        await running
    ended = [event.name for event in events if event.kind == "subagent_cancelled"]
    assert sorted(ended) == ["child", "grandchild", "top"]
    assert len(asyncio.all_tasks()) == 1


async def test_a08_stopping_a_parent_stops_those_started_under_it(server: SubAgentServer) -> None:
    await server.start(SubAgent(config(Brain("hi")), "Go.", id="parent"))
    await server.start(SubAgent(config(Brain("hi")), "Go.", id="child", parent="parent"))
    await server.stop("parent")
    assert server.whereis("child") is None


async def test_a01_a_parent_that_is_not_there(server: SubAgentServer) -> None:
    with pytest.raises(SubAgentNotFound, match="parent"):
        await server.start(SubAgent(config(Brain("hi")), "Go.", parent=new_ref()))


async def test_a22_what_observers_hear() -> None:
    clock, events = FakeClock(), list[SubAgentEvent]()

    async def takes_three_seconds(messages: list[ModelMessage]) -> Answer:
        clock.advance(3)
        return calls(("look", {"x": 1}, "l"))

    async with SubAgentServer(observer=events.append, clock=clock) as server:
        id = await server.start(SubAgent(config(Brain(takes_three_seconds, "done")), "Go.", parent="host"))
        clock.advance(10)
        outcome = await server.execute(id)
    assert [event.kind for event in events] == [
        "subagent_started", "status_changed", "llm_message", "llm_message", "llm_message", "llm_message",
        "status_changed", "subagent_completed",
    ]  # fmt: skip
    started, completed = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(completed, SubAgentCompleted)
    assert isinstance(outcome, Completed)
    assert (started.id, started.parent) == (id, "host")
    assert (started.name, started.tools, started.model) == ("kid", ("look", "save"), "brain")  # E87
    assert started.messages == ("Go.",)
    assert (completed.result, completed.duration_s) == ("done", 3.0)
    assert completed.usage == outcome.usage
    assert completed.usage.input_tokens
    assert completed.usage.output_tokens
    assert [event.status for event in events if isinstance(event, StatusChanged)] == ["running", "completed"]


async def test_a22_each_sub_agent_of_a_tree_names_its_parent() -> None:
    events: list[SubAgentEvent] = []
    low = config(Brain("low done"), "low")
    mid = config(Brain(calls(task("low", "Go.", "m")), "mid done"), "mid", sub_agents=(low,))
    top = config(
        Brain(calls(task("mid", "Go.", "t1"), task("low", "Go.", "t2")), "done"), "top", sub_agents=(mid, low)
    )
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(top, "Go."))
        await server.execute(id)
    started = [event for event in events if isinstance(event, Started)]
    ids = {event.id: event.name for event in started}
    assert len(ids) == 4
    assert sorted((event.name, ids.get(event.parent or "")) for event in started if event.id != id) == [
        ("low", "mid"), ("low", "top"), ("mid", "top"),
    ]  # fmt: skip
    assert next(event for event in started if event.id == id).parent is None


async def test_a22_failure_carries_the_last_messages_and_the_turns() -> None:
    events: list[SubAgentEvent] = []
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(config(Brain(calls(("look", {}, "l")), RuntimeError("x"))), "Go."))
        await server.execute(id)
    failed = events[-1]
    assert failed.kind == "subagent_failed"
    assert (getattr(failed, "turns", 0), len(getattr(failed, "messages", ()))) == (1, 2)


async def test_a22_suppressed_events_are_not_told_but_the_parents_are() -> None:
    events: list[SubAgentEvent] = []
    quiet = config(Brain("hi"), suppress_events=True)
    top = config(Brain(calls(task("kid", "Do it.", "t")), "done"), "top", sub_agents=(quiet,))
    async with SubAgentServer(observer=events.append) as server:
        await server.execute(await server.start(SubAgent(top, "Go.")))
    assert {getattr(event, "name", "") for event in events} == {"top"}


async def test_a22_an_observer_that_raises_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: SubAgentEvent) -> None:
        raise ValueError("broken observer")

    async with SubAgentServer(observer=broken) as server:
        outcome = await server.execute(await server.start(SubAgent(config(Brain("hi")), "Go.")))
    assert isinstance(outcome, Completed)
    assert "an observer of sub-agents failed" in caplog.text
