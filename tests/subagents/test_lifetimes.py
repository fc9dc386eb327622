"""How long sub-agents live: cancelled from anywhere, ended with their parents, let go when they have ended."""

from __future__ import annotations

import asyncio
import gc
import os
import tracemalloc

import pytest

from tests.runtime.puppet import Puppet
from tests.subagents.brains import Brain, calls, hangs, task, until
from tests.subagents.test_server import config
from tollboard.errors import InvalidName, InvalidStatus, SubAgentNotFound
from tollboard.ids import new_ref
from tollboard.runtime.agent import GenAgent
from tollboard.runtime.approval import Approve
from tollboard.runtime.memory import DictMemory
from tollboard.runtime.runtime import Runtime
from tollboard.subagents import (
    Completed,
    Failed,
    Interrupted,
    Status,
    SubAgent,
    SubAgentServer,
)
from tollboard.subagents.events import Started, SubAgentEvent
from tollboard.subagents.outcome import Cause
from tollboard.subagents.run import Run
from tollboard.subagents.server import KEPT_FINISHED

MANY = int(os.environ.get("TOLLBOARD_MANY_SUB_AGENTS", "20"))
"""How many tasks one parent is given; `TOLLBOARD_MANY_SUB_AGENTS=100000` for the whole promise."""
GROWTH_BYTES = 5_000_000
"""What the whole promise allows; a tenth of it is plenty for a few."""
GUARDED = calls(("save", {"path": "p"}, "s"))


def ended(events: list[SubAgentEvent], name: str = "") -> list[str]:
    """The terminal events told, of one sub-agent or of all."""
    kinds = ("subagent_completed", "subagent_failed", "subagent_cancelled")
    return [event.kind for event in events if event.kind in kinds and name in ("", event.name)]


@pytest.mark.parametrize("verb", ["cancel", "stop"])
async def test_a27_one_that_is_unknown_gone_or_ended_is_no_error(verb: str) -> None:
    async with SubAgentServer() as server:
        gone = await server.start(SubAgent(config(Brain("hi")), "Go."))
        await server.stop(gone)
        done = await server.start(SubAgent(config(Brain("hi")), "Go."))
        await server.execute(done)
        for id in ("nobody", "", gone, done, done):
            await getattr(server, verb)(id)
        if verb == "cancel":
            assert server.get_status(done) is Status.COMPLETED  # what has ended stays as it ended


@pytest.mark.parametrize("verb", ["cancel", "stop"])
async def test_a27_one_that_is_ending_is_ended_once(verb: str) -> None:
    asked, events = asyncio.Event(), list[SubAgentEvent]()
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(config(Brain(hangs(asked))), "Go."))
        running = asyncio.create_task(server.execute(id))
        await asked.wait()
        await asyncio.gather(server.cancel(id), getattr(server, verb)(id), server.cancel(id))
        assert isinstance(await running, Failed)
    assert ended(events) == ["subagent_cancelled"]


async def test_a27_a_nested_one_is_cancelled_alone_and_its_parent_goes_on() -> None:
    asked, events = asyncio.Event(), list[SubAgentEvent]()
    low = config(Brain(hangs(asked)), "low")
    mid = config(Brain(calls(task("low", "Go.", "m"))), "mid", sub_agents=(low,))
    brain = Brain(calls(task("mid", "Go.", "t"), ("look", {"x": 1}, "l")), "I went on")
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(config(brain, "top", sub_agents=(mid,)), "Go."))
        running = asyncio.create_task(server.execute(id))
        await asked.wait()
        child = next(event.id for event in events if isinstance(event, Started) and event.name == "mid")
        await server.cancel(child)
        outcome = await running
        assert server.whereis(child) is None
    assert isinstance(outcome, Completed)
    assert outcome.result == "I went on"
    assert "cancelled" in brain.results()["t"]
    assert brain.results()["l"] == "saw 1"
    assert (ended(events, "mid"), ended(events, "low")) == (["subagent_cancelled"], ["subagent_cancelled"])
    assert ended(events, "top") == ["subagent_completed"]


async def test_a27_a_nested_one_is_cancelled_while_it_waits_for_a_person() -> None:
    kid = config(Brain(GUARDED, "never"), "kid", interrupt_on={"save": True})
    brain = Brain(calls(task("kid", "Go.", "t1"), ("save", {"path": "own"}, "s")), "done")
    events: list[SubAgentEvent] = []
    top = config(brain, "top", sub_agents=(kid,), interrupt_on={"save": True})
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(top, "Go."))
        outcome = await server.execute(id)
        assert isinstance(outcome, Interrupted)
        assert len(outcome.interrupt.requests) == 2
        await server.cancel(outcome.interrupt.requests[0].sub_agent_id)
        outcome = await server.resume(id, [Approve()])  # only the parent's own call waits now
    assert isinstance(outcome, Completed)
    assert "cancelled" in brain.results()["t1"]
    assert brain.results()["s"] == "saved own"
    assert ended(events) == ["subagent_cancelled", "subagent_completed"]


async def test_a27_what_was_cancelled_is_found_so_by_a_later_process() -> None:
    memory, brain = DictMemory(), Brain(GUARDED, "never")
    subagent = SubAgent(config(brain, interrupt_on={"save": True}), "Go.")
    async with SubAgentServer(memory=memory) as server:
        await server.start(subagent)
        await server.execute(subagent.id)
        await server.cancel(subagent.id)
    async with SubAgentServer(memory=memory) as later:
        await later.start(subagent)
        assert later.get_status(subagent.id) is Status.CANCELLED
        with pytest.raises(InvalidStatus, match="cancelled"):
            await later.resume(subagent.id, [Approve()])
    assert brain.asked == 1


async def test_a27_stopped_while_it_is_being_started() -> None:
    loading, free = asyncio.Event(), asyncio.Event()

    class Slow(DictMemory):
        async def load(self, prefix: str = "") -> dict[str, str]:
            loading.set()
            await free.wait()
            return {}

    async with SubAgentServer(memory=Slow()) as server:
        starting = asyncio.create_task(server.start(SubAgent(config(Brain("hi")), "Go.", id="one")))
        await loading.wait()
        await server.stop("one")
        free.set()
        with pytest.raises(SubAgentNotFound, match="'one'"):
            await starting
        assert server.whereis("one") is None


@pytest.mark.parametrize("how", ["completed", "error", "cancelled"])
async def test_a29_nothing_starts_under_a_parent_that_has_ended(how: str) -> None:
    asked = asyncio.Event()
    brain = {"completed": Brain("hi"), "error": Brain(RuntimeError("x")), "cancelled": Brain(hangs(asked))}[
        how
    ]
    async with SubAgentServer() as server:
        parent = await server.start(SubAgent(config(brain), "Go."))
        before = await server.start(SubAgent(config(Brain("hi")), "Go.", parent=parent))
        running = asyncio.create_task(server.execute(parent))
        if how == "cancelled":
            await asked.wait()
            await server.cancel(parent)
        await running
        with pytest.raises(InvalidStatus, match=how):
            await server.start(SubAgent(config(Brain("hi")), "Go.", parent=parent))
        with pytest.raises(InvalidStatus, match="cancelled"):
            await server.execute(before)
        await server.stop(parent)
        with pytest.raises(SubAgentNotFound, match="parent"):
            await server.start(SubAgent(config(Brain("hi")), "Go.", parent=parent))


async def test_a29_a_parent_with_an_id_of_its_own_that_was_stopped_is_no_host() -> None:
    async with SubAgentServer() as server:
        await server.start(SubAgent(config(Brain("hi")), "Go.", id="boss"))
        await server.stop("boss")
        with pytest.raises(SubAgentNotFound, match="'boss'"):
            await server.start(SubAgent(config(Brain("hi")), "Go.", parent="boss"))


async def test_a29_a_tool_that_swallowed_its_cancellation_starts_nothing_below() -> None:
    """The `task` call comes to its turn only when the parent has been cancelled."""
    events: list[SubAgentEvent] = []
    holding, free = asyncio.Event(), asyncio.Event()

    class Held(DictMemory):
        def save(self, texts: object) -> object:  # type: ignore[override]
            super().save(texts)  # type: ignore[arg-type]
            return self._commit() if any("/t" in name for name in texts) else None  # type: ignore[attr-defined]

        async def _commit(self) -> None:
            holding.set()
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    continue

    kid = config(Brain("hi"), "kid")
    top = config(Brain(calls(task("kid", "Go.", "t"))), "top", sub_agents=(kid,))
    async with SubAgentServer(observer=events.append, memory=Held()) as server:  # type: ignore[arg-type]
        id = await server.start(SubAgent(top, "Go."))
        running = asyncio.create_task(server.execute(id))
        await holding.wait()
        ending = asyncio.create_task(server.cancel(id))
        await until(lambda: server.get_status(id) is Status.CANCELLED)
        free.set()
        await asyncio.gather(running, ending)
    assert [event.name for event in events if isinstance(event, Started)] == ["top"]
    assert ended(events) == ["subagent_cancelled"]


@pytest.mark.slow
async def test_a29_finished_children_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of tasks under one parent cost no more than the newest few."""
    kept = 5 if MANY < 1000 else KEPT_FINISHED
    monkeypatch.setattr("tollboard.subagents.server.KEPT_FINISHED", kept)
    kid = config(Brain("hi"))
    gc.collect()
    before = sum(isinstance(each, Run) for each in gc.get_objects())
    tracemalloc.start()
    try:
        async with SubAgentServer() as server:
            parent = await server.start(SubAgent(config(Brain("hi")), "Go."))
            ids: list[str] = []
            for number in range(2 * kept + MANY):
                if number == 2 * kept:
                    start_bytes = tracemalloc.get_traced_memory()[0]
                ids = [*ids[-kept:], await server.start(SubAgent(kid, "Go.", parent=parent))]
                assert isinstance(await server.execute(ids[-1]), Completed)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - start_bytes
            runs = sum(isinstance(each, Run) for each in gc.get_objects()) - before
            assert server.get_status(ids[-1]) is Status.COMPLETED  # the newest can be looked at
    finally:
        tracemalloc.stop()
    print(f"{MANY:,} tasks under one parent: {grown:+,} bytes")
    assert runs == kept + 1
    assert grown < GROWTH_BYTES * (0.1 if MANY < 1000 else 1)


def look(x: int = 0) -> str:
    """Look at something."""
    return f"saw {x}"


async def test_a29_finished_children_of_the_task_tool_are_freed() -> None:
    steps = [calls(*(task("kid", "Go.", f"t{step}.{n}") for n in range(3))) for step in range(4)]
    top = config(Brain(*steps, "done"), "top", sub_agents=(config(Brain("hi"), "kid"),))
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(top, "Go."))
        gc.collect()
        before = sum(isinstance(each, Run) for each in gc.get_objects())
        assert isinstance(await server.execute(id), Completed)
        gc.collect()
        assert sum(isinstance(each, Run) for each in gc.get_objects()) == before


async def test_a32_the_name_of_any_agent_may_be_the_parent() -> None:
    events: list[SubAgentEvent] = []
    async with SubAgentServer(observer=events.append, parent="session-a") as server:
        for more in ({}, {"parent": "main-agent"}):
            await server.execute(await server.start(SubAgent(config(Brain("hi")), "Go.", **more)))  # type: ignore[arg-type]
    assert [event.parent for event in events if isinstance(event, Started)] == ["session-a", "main-agent"]


async def test_a32_a_parent_that_can_be_no_name_is_refused() -> None:
    async with SubAgentServer() as server:
        with pytest.raises(InvalidName):
            await server.start(SubAgent(config(Brain("hi")), "Go.", parent="no name"))
    with pytest.raises(SubAgentNotFound):
        SubAgentServer(parent=new_ref())


@pytest.mark.parametrize("verb", ["cancel", "stop"])
async def test_a32_the_name_of_the_host_ends_all_below_it(verb: str) -> None:
    asked = asyncio.Event()
    async with SubAgentServer() as server:
        mine = await server.start(SubAgent(config(Brain(hangs(asked))), "Go.", parent="host"))
        other = await server.start(SubAgent(config(Brain("hi")), "Go.", parent="other"))
        running = asyncio.create_task(server.execute(mine))
        await asked.wait()
        await getattr(server, verb)("host")
        outcome = await running
        assert isinstance(outcome, Failed)
        assert outcome.cause is Cause.CANCELLED
        assert isinstance(await server.execute(other), Completed)


async def test_a32_sub_agents_end_with_the_agent_of_a_runtime_that_hosts_them() -> None:
    asked, events = asyncio.Event(), list[SubAgentEvent]()
    runtime = Runtime()
    await runtime.start_agent(GenAgent, "host", backend=Puppet())
    async with SubAgentServer(runtime=runtime, observer=events.append) as server:
        with pytest.raises(SubAgentNotFound, match="'nobody'"):
            await server.start(SubAgent(config(Brain("hi")), "Go.", parent="nobody"))
        id = await server.start(SubAgent(config(Brain(hangs(asked))), "Go.", parent="host"))
        running = asyncio.create_task(server.execute(id))
        await asked.wait()
        await runtime.stop("host")
        outcome = await running
        assert isinstance(outcome, Failed)
        assert ended(events) == ["subagent_cancelled"]
        with pytest.raises(SubAgentNotFound, match="'host'"):
            await server.start(SubAgent(config(Brain("hi")), "Go.", parent="host"))
    await runtime.close()
