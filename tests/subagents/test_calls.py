"""Calls that a model gets wrong, ids that come twice, and what is told of sub-agents that were given up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, Tool
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart

from tests.subagents.brains import Brain, calls, task
from tests.subagents.test_decisions import Desk
from tollboard.clock import SystemClock
from tollboard.errors import InvalidDecision
from tollboard.runtime.approval import Approve, Reject
from tollboard.runtime.memory import DictMemory
from tollboard.subagents import (
    CompiledSubAgent,
    Completed,
    Failed,
    Interrupted,
    SubAgent,
    SubAgentConfig,
    SubAgentServer,
)
from tollboard.subagents.outcome import Cause
from tollboard.subagents.run import Run

LIBRARY_WORDS = (
    "max retries",
    "maximum output retries",
    "UnexpectedModelBehavior",
    "pydantic",
    "Fix the errors",
)


def double(x: int) -> int:
    """Double a number."""
    return 2 * x


def one(tool: str, args: Any, id: str = "c") -> ModelResponse:
    return ModelResponse(parts=[ToolCallPart(tool, args, id)])


async def outcome_of(brain: Brain, **more: Any) -> Any:
    config = SubAgentConfig(
        **{"name": "kid", "description": "d", "system_prompt": "s", "tools": (double,), **more},
        model=brain.model,
    )
    async with SubAgentServer() as server:
        return await server.execute(await server.start(SubAgent(config, "Go.")))


def told(messages: list[ModelMessage]) -> list[str]:
    return [
        str(part.content)
        for message in messages
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    ]


# --- wrong calls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "args", "said"),
    [
        ("double", '{"x": 1', "JSON"),
        ("double", "[1]", "object"),
        ("double", '"x"', "object"),
        ("double", {}, "x: "),
        ("double", {"x": "many"}, "x: "),
        ("double", {"x": 1, "y": 2}, "y: "),
        ("dubble", {"x": 1}, "dubble"),
        ("", {"x": 1}, "tool"),
    ],
)
async def test_l06_a_model_may_get_a_call_wrong_again_and_again(tool: str, args: Any, said: str) -> None:
    brain = Brain(*[one(tool, args, f"c{n}") for n in range(6)], one("double", {"x": 2}, "right"), "four")
    outcome = await outcome_of(brain)
    assert isinstance(outcome, Completed)
    assert outcome.result == "four"
    results = told(brain.seen[-1])
    assert len(results) == 7
    assert all(said in text for text in results[:6])
    assert not any(word in text for text in results for word in LIBRARY_WORDS if tool == "double")


async def test_l06_the_limit_is_the_definitions_own() -> None:
    brain = Brain(one("double", {"x": "many"}))
    outcome = await outcome_of(brain, max_runs=4)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.MAX_RUNS
    assert "4 times" in outcome.reason
    assert not any(word in outcome.reason for word in LIBRARY_WORDS)
    assert brain.asked == 4


@pytest.mark.parametrize("limit", [None, 0, 2])
async def test_l06_a_tool_that_wants_another_try_gets_it(limit: int | None) -> None:
    tries = []

    async def deploy(version: str) -> str:
        """Deploy."""
        tries.append(version)
        if len(tries) < 5:
            raise ModelRetry(f"{version} does not build")
        return "deployed"

    brain = Brain(*[one("deploy", {"version": str(n)}, f"c{n}") for n in range(6)])
    outcome = await outcome_of(brain, tools=(Tool(deploy, max_retries=limit),), until_tool_success="deploy")
    assert isinstance(outcome, Completed)
    assert outcome.extra == "deployed"
    assert told(brain.seen[-1]) == [f"{n} does not build" for n in range(4)]


async def test_l06_a_completion_tool_called_wrongly_does_not_end_the_run() -> None:
    brain = Brain(
        one("double", '{"x"', "c1"), one("double", {}, "c2"), one("doubel", {}, "c3"), one("double", {"x": 3})
    )
    outcome = await outcome_of(brain, until_tool="double")
    assert isinstance(outcome, Completed)
    assert outcome.extra == 6


async def test_l06_the_tools_for_sub_agents_refuse_what_does_not_fit() -> None:
    kid = Brain("done")
    config = SubAgentConfig(
        name="helper", description="helps", system_prompt="s", tools=(double,), use_instructions="Be brief.",
        model=kid.model,
    )  # fmt: skip
    wrong = [
        one("task", {}, "c1"), one("task", {"task_name": "nobody", "instructions": "x"}, "c2"),
        one("get_task_instructions", {}, "c3"), one("get_task_instructions", {"task_name": 7}, "c4"),
        one("get_task_instructions", "[]", "c5"),
    ]  # fmt: skip
    brain = Brain(*wrong, calls(task("helper", "help", "c6")), "thanks")
    outcome = await outcome_of(brain, sub_agents=(config,))
    assert isinstance(outcome, Completed)
    assert outcome.result == "thanks"
    assert kid.asked == 1


async def test_l06_a_ready_made_agent_is_as_patient() -> None:
    brain = Brain(*[one("double", {"x": "many"}, f"c{n}") for n in range(5)], "done")
    agent = Agent(brain.model, tools=[Tool(double, max_retries=0)])
    definition = CompiledSubAgent(name="kid", description="d", agent=agent)
    async with SubAgentServer() as server:
        outcome = await server.execute(await server.start(SubAgent(definition, "Go.")))
    assert isinstance(outcome, Completed)


# --- ids that come twice ----------------------------------------------------------------------------------------


async def two_that_ask(desk: Desk, server: SubAgentServer, id: str = "top") -> Interrupted:
    """Two sub-agents ask with the same call id, as servers do that count from zero in each answer."""
    kids = [Brain(calls(("save", {"path": name}, "call_0")), "done") for name in ("one", "two")]
    below = tuple(desk.config(kid, name) for kid, name in zip(kids, ("first", "second"), strict=True))
    top = Brain(calls(task("first", "a", "t1"), task("second", "b", "t2")), "end")
    await server.start(SubAgent(desk.config(top, "top", sub_agents=below), "Go.", id=id))
    outcome = await server.execute(id)
    assert isinstance(outcome, Interrupted)
    return outcome


async def test_l07_a_call_id_of_two_calls_names_neither() -> None:
    desk = Desk()
    async with SubAgentServer() as server:
        asked = await two_that_ask(desk, server)
        with pytest.raises(InvalidDecision, match="2 calls wait under the id 'call_0'") as refused:
            await server.resume("top", {"call_0": Approve()})
        assert all(request.id in str(refused.value) for request in asked.interrupt.requests)
        assert "first" in str(refused.value)
        assert not desk.ran


async def test_l07_each_of_them_is_decided_by_its_own_id() -> None:
    desk = Desk()
    async with SubAgentServer() as server:
        asked = await two_that_ask(desk, server)
        left, right = asked.interrupt.requests
        outcome = await server.resume("top", {left.id: Approve(), right.id: Reject()})
        assert isinstance(outcome, Completed)
    assert desk.ran == [("save", "one")]


async def test_l07_once_one_is_decided_the_id_is_the_others() -> None:
    desk = Desk()
    async with SubAgentServer() as server:
        asked = await two_that_ask(desk, server)
        await server.resume("top", {asked.interrupt.requests[0].id: Reject()})
        assert isinstance(await server.resume("top", {"call_0": Approve()}), Completed)
    assert desk.ran == [("save", "two")]


async def test_l07_two_decisions_for_one_call_are_refused() -> None:
    desk = Desk()
    brain = Brain(calls(("save", {"path": "p"}, "s1")), "done")
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(desk.config(brain), "Go."))
        asked = await server.execute(id)
        assert isinstance(asked, Interrupted)
        with pytest.raises(InvalidDecision, match="two decisions"):
            await server.resume(id, {"s1": Approve(), asked.interrupt.requests[0].id: Reject()})


async def test_l07_an_id_that_comes_twice_in_one_answer_becomes_two() -> None:
    desk = Desk()
    brain = Brain(calls(("save", {"path": "a"}, "x"), ("save", {"path": "b"}, "x")), "done")
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(desk.config(brain), "Go."))
        asked = await server.execute(id)
        assert isinstance(asked, Interrupted)
        assert [request.tool_call_id for request in asked.interrupt.requests] == ["x", "x-2"]
        await server.resume(id, {"x-2": Approve(), "x": Reject()})
    assert desk.ran == [("save", "b")]


# --- sub-agents that are given up -------------------------------------------------------------------------------


async def give_up(desk: Desk, top: Brain, memory: DictMemory, *below: SubAgentConfig) -> str:
    """Run to the first pause, then send a new prompt instead of a decision; return what the parent is told."""
    run = Run(desk.config(top, "top", sub_agents=below), "Go.", id="top", memory=memory, clock=SystemClock())
    assert isinstance(await run.go(), Interrupted)
    await run.loop.go("Something else.")
    return str(top.results()["t"])


async def test_l09_a_parent_is_told_what_an_abandoned_sub_agent_did() -> None:
    desk = Desk()
    kid = Brain(
        calls(("look", {"x": 1}, "l1"), ("nothing", {}, "n")),
        calls(("look", {"x": 2}, "l2"), ("save", {"path": "p"}, "s")),
    )
    top = Brain(calls(task("kid", "a", "t")), "fresh")
    said = await give_up(desk, top, DictMemory(), desk.config(kid))
    lines = said.splitlines()
    assert "'kid'" in lines[0]
    assert lines[1] == '- look {"x": 1}: done: saw 1'
    assert lines[2].startswith("- nothing {}: failed: ")
    assert lines[3] == '- look {"x": 2}: done: saw 2'
    assert lines[4] == '- save {"path": "p"}: did not happen: the turn ended before a person decided'
    assert len(lines) == 5


async def test_l09_also_what_those_below_it_did() -> None:
    desk = Desk()
    leaf = Brain(calls(("look", {"x": 7}, "l")), calls(("save", {"path": "p"}, "s")))
    kid = Brain(calls(task("leaf", "b", "u")))
    top = Brain(calls(task("kid", "a", "t")), "fresh")
    said = await give_up(desk, top, DictMemory(), desk.config(kid, sub_agents=(desk.config(leaf, "leaf"),)))
    assert '- look {"x": 7}: done: saw 7' in said
    assert "did not happen" in said


async def test_l09_one_that_had_done_nothing_is_said_to_have_done_nothing() -> None:
    desk = Desk()
    kid = Brain(calls(("save", {"path": "p"}, "s")))
    top = Brain(calls(task("kid", "a", "t")), "fresh")
    said = await give_up(desk, top, DictMemory(), desk.config(kid))
    assert "done" not in said
    assert "did not happen" in said


async def test_l09_what_failed_after_it_did_something_says_what() -> None:
    desk = Desk()
    kid = Brain(calls(("look", {"x": 1}, "l")), RuntimeError("gone"))
    top = Brain(calls(task("kid", "a", "t")), "end")
    async with SubAgentServer() as server:
        await server.execute(
            await server.start(SubAgent(desk.config(top, "top", sub_agents=(desk.config(kid),)), "Go."))
        )
    said = top.results()["t"]
    assert "gone" in said
    assert '- look {"x": 1}: done: saw 1' in said


async def test_l09_what_it_did_is_not_forgotten_when_the_process_ends_right_after() -> None:
    desk, memory = Desk(), DictMemory()
    kid = Brain(calls(("look", {"x": 1}, "l"), ("save", {"path": "p"}, "s")))

    top = Brain(calls(task("kid", "a", "t")), RuntimeError("the process died"))
    with pytest.raises(RuntimeError, match="died"):
        await give_up(desk, top, memory, desk.config(kid))
    kept = [json.loads(text) for name, text in (await memory.load("top:c/")).items()]
    assert [call["outcome"]["kind"] for call in kept] == ["failed"]
    assert "saw 1" in kept[0]["outcome"]["value"]
    assert not await memory.load("top/")


async def test_l08_what_an_abandoned_sub_agent_used_is_counted_once() -> None:
    desk = Desk()
    leaf = Brain(calls(("save", {"path": "p"}, "s")))
    kid = Brain(calls(task("leaf", "b", "u")))
    top = Brain(calls(task("kid", "a", "t")), "fresh")
    below = desk.config(kid, sub_agents=(desk.config(leaf, "leaf"),))
    run = Run(desk.config(top, "top", sub_agents=(below,)), "Go.", id="top", clock=SystemClock())
    await run.go()
    before = run.loop.sum_usage()
    assert before.requests == 3
    await run.loop.go("Something else.")
    assert run.loop.sum_usage().requests == 4
    assert run.loop.newly().input_tokens == run.loop.sum_usage().input_tokens - before.input_tokens
