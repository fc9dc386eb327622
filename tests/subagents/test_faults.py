"""Faults that others had with sub-agents, by their numbers (E60-E87)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Mapping

import pytest
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, FunctionModel

from tests.subagents.brains import Brain, calls, task
from tests.subagents.test_decisions import Desk
from tollboard.errors import InvalidStatus
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
from tollboard.subagents.events import Started, SubAgentEvent

MANY = 50


async def test_e60_a_sub_agent_that_asks_while_its_siblings_are_answered() -> None:
    desk = Desk()
    kid = Brain(calls(("save", {"path": "1"}, "s1")), calls(("save", {"path": "2"}, "s2")), "kid done")
    top = Brain(calls(task("kid", "a", "t"), ("send", {"to": "x"}, "s"), ("look", {"x": 1}, "l")), "done")
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(desk.config(top, "top", sub_agents=(desk.config(kid),)), "Go."))
        first = await server.execute(id)
        assert isinstance(first, Interrupted)
        second = await server.resume(id, [Approve(), Approve()])
        assert isinstance(second, Interrupted)
        assert [request.arguments for request in second.interrupt.requests] == [{"path": "2"}]
        assert isinstance(await server.resume(id, [Approve()]), Completed)
    assert sorted(desk.ran) == [("look", 1), ("save", "1"), ("save", "2"), ("send", "x")]


async def test_e63_a_resumed_run_knows_its_completion_tool_and_halts_like_the_first() -> None:
    desk = Desk()
    brain = Brain(calls(("save", {"path": "p"}, "s")), calls(("look", {"x": 7}, "l")), "never")
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(desk.config(brain, until_tool="look"), "Go."))
        await server.execute(id)
        outcome = await server.resume(id, [Approve()])
        assert isinstance(outcome, Completed)
        assert outcome.extra == "saw 7"
        assert server.get_status(id) is Status.COMPLETED
        assert brain.asked == 2


async def test_e71_a_tool_that_cancels_its_own_run_does_not_deadlock() -> None:
    async with SubAgentServer() as server:

        async def give_up() -> str:
            """Give up."""
            await server.cancel("mine")
            return "never"

        config = SubAgentConfig(
            name="kid", description="d", system_prompt="s", model=Brain(calls(("give_up", {}, "g"))).model,
            tools=(give_up,),
        )  # fmt: skip
        await server.start(SubAgent(config, "Go.", id="mine"))
        async with asyncio.timeout(5):
            outcome = await server.execute("mine")
        assert isinstance(outcome, Failed)
        assert server.get_status("mine") is Status.CANCELLED


async def test_e72_many_that_hang_end_together_in_bounded_time() -> None:
    begun, events = 0, list[SubAgentEvent]()
    all_begun = asyncio.Event()

    async def hang(messages: list[ModelMessage], info: AgentInfo) -> None:  # type: ignore[return]
        nonlocal begun
        begun += 1
        if begun == MANY:
            all_begun.set()
        await asyncio.Event().wait()

    kid = SubAgentConfig(
        name="kid", description="d", system_prompt="s", tools=(Desk().look,),
        model=FunctionModel(hang),  # type: ignore[arg-type]
    )  # fmt: skip
    top = Brain(calls(*(task("kid", "Go.", f"t{n}") for n in range(MANY))))
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(SubAgent(Desk().config(top, "top", sub_agents=(kid,)), "Go."))
        running = asyncio.create_task(server.execute(id))
        await all_begun.wait()
        async with asyncio.timeout(2):
            await server.cancel(id)
        await running
    assert sum(event.kind == "subagent_cancelled" for event in events) == MANY + 1
    assert len(asyncio.all_tasks()) == 1


async def test_e73_what_cannot_be_done_while_it_waits_changes_nothing() -> None:
    desk = Desk()
    async with SubAgentServer() as server:
        id = await server.start(
            SubAgent(desk.config(Brain(calls(("save", {"path": "p"}, "s")), "done")), "Go.")
        )
        paused = await server.execute(id)
        with pytest.raises(InvalidStatus, match="interrupted"):
            await server.execute(id)
        assert isinstance(paused, Interrupted)
        assert server.get_status(id) is Status.INTERRUPTED
        assert isinstance(await server.resume(id, [Approve()]), Completed)


async def test_e81_a_model_that_breaks_off_is_a_failure_also_with_a_completion_tool() -> None:
    brain = Brain(calls(("look", {"x": 1}, "l")), ConnectionError("the stream died"))
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(Desk().config(brain, until_tool="send"), "Go."))
        outcome = await server.execute(id)
    assert isinstance(outcome, Failed)
    assert "the stream died" in outcome.reason


async def test_e87_the_started_event_names_the_configured_sub_agent() -> None:
    events: list[SubAgentEvent] = []
    desk = Desk()
    top = Brain(calls(task("kid", "Go.", "t")), "done")
    async with SubAgentServer(observer=events.append) as server:
        id = await server.start(
            SubAgent(desk.config(top, "top", sub_agents=(desk.config(Brain("kid done")),)), "Go.")
        )
        await server.execute(id)
    assert [event.name for event in events if isinstance(event, Started)] == ["top", "kid"]


class Yielding(DictMemory):
    """A memory whose commits take a step of the loop, so that a run can be cancelled in the middle of one."""

    def save(self, texts: Mapping[str, str | None]) -> Awaitable[None]:  # type: ignore[override]
        super().save(texts)
        return asyncio.sleep(0)


@pytest.mark.slow
async def test_a23_cancelled_at_any_step_it_can_be_taken_up_and_repeats_no_call() -> None:
    """Three levels, two calls on each; every fifth step of the loop is tried."""
    ended = False
    for steps in itertools.count(0, 5):
        ran: list[int] = []

        async def act(x: int, ran: list[int] = ran) -> str:
            """Do it."""
            ran.append(x)
            await asyncio.sleep(0)
            return str(x)

        def made(name: str, brain: Brain, *below: SubAgentConfig, act: object = act) -> SubAgentConfig:
            return SubAgentConfig(
                name=name,
                description="d",
                system_prompt="s",
                tools=(act,),
                model=brain.model,
                sub_agents=below,
            )  # type: ignore[arg-type]

        low = made("low", Brain(calls(("act", {"x": 5}, "e"), ("act", {"x": 6}, "f")), "done"))
        mid = made("mid", Brain(calls(("act", {"x": 3}, "c"), task("low", "Go.", "d")), "done"), low)
        top = made("top", Brain(calls(("act", {"x": 1}, "a"), task("mid", "Go.", "b")), "done"), mid)
        memory = Yielding()
        async with SubAgentServer(memory=memory) as server:
            id = await server.start(SubAgent(top, "Go."))
            running = asyncio.create_task(server.execute(id))
            for _ in range(steps):
                await asyncio.sleep(0)
            ended = running.done()
            running.cancel()
            await asyncio.wait({running})
        async with SubAgentServer(memory=memory) as server:
            await server.start(SubAgent(top, "Go.", id=id))
            if server.get_status(id) is Status.IDLE:
                assert isinstance(await server.execute(id), Completed)
            assert server.get_status(id) is Status.COMPLETED
        assert len(set(ran)) == len(ran), f"after {steps} steps"
        if ended:
            break
