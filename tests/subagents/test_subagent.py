"""What a sub-agent is made from, and what is refused (A09, A13, A14, A16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext, Tool

from tests.subagents.brains import Brain, calls, task
from tollboard.errors import InvalidName, InvalidOption, TollboardError
from tollboard.runtime.approval import Approve, Reject
from tollboard.subagents import (
    CompiledSubAgent,
    Completed,
    Interrupted,
    Status,
    SubAgent,
    SubAgentConfig,
    SubAgentServer,
    building,
    general_purpose,
)


def look() -> str:
    """Look."""
    return "seen"


def save() -> str:
    """Save."""
    return "saved"


def ask_user() -> str:
    """Ask the user."""
    return "asked"


def config(**changes: Any) -> SubAgentConfig:
    given = {
        "name": "kid", "description": "does things", "system_prompt": "Do.", "tools": (look, save),
        "model": Brain("hi").model,
    }  # fmt: skip
    return SubAgentConfig(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "name"),
        ({"name": "no spaces"}, "name"),
        ({"description": " "}, "description"),
        ({"description": "x" * 5000}, "5,000 characters"),
        ({"system_prompt": ""}, "system_prompt"),
        ({"tools": ()}, "no tools"),
        ({"tools": (look, look)}, "two tools are called 'look'"),
        ({"until_tool": "look", "until_tool_success": "save"}, "not both"),
        ({"until_tool": "nope"}, "until_tool names 'nope', which is none of its tools; they are: look, save"),
        (
            {"interrupt_on": {"nope": True}},
            "interrupt_on names 'nope', which is none of its tools; they are: look, save",
        ),
        ({"interrupt_on": {"save": "yes"}}, "must be true, false or"),
        (
            {"interrupt_on": {"save": {"allowed_decisions": []}}},
            "allows nothing; choose from approve, edit, reject",
        ),
        ({"interrupt_on": {"save": {"allowed_decisions": ["maybe"]}}}, "allows maybe; choose from"),
        ({"max_runs": 0}, "max_runs is 0"),
        ({"max_runs": True}, "max_runs is True"),
    ],
)
def test_a09_a16_a_config_is_checked_when_it_is_made(changes: dict[str, Any], says: str) -> None:
    with pytest.raises((InvalidOption, InvalidName)) as refused:
        config(**changes)
    assert says in str(refused.value)


def test_a09_two_sub_agents_of_one_name() -> None:
    with pytest.raises(InvalidOption, match="two of its sub-agents are called 'kid'"):
        config(name="top", sub_agents=(config(), config()))


def test_a09_a_compiled_one_needs_an_agent() -> None:
    with pytest.raises(InvalidOption, match="must be a Pydantic AI agent"):
        CompiledSubAgent(name="x", description="d", agent="claude")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SubAgent(config(), " "), "instructions"),
        (lambda: SubAgent(config(), "Go.", id=""), "cannot be an id"),
        (lambda: SubAgent(config(), "Go.", id="a/b"), "cannot be an id"),
    ],
)
def test_a09_a_task_is_checked(make: Callable[[], SubAgent], says: str) -> None:
    with pytest.raises(TollboardError, match=says):
        make()


async def test_a09_a_compiled_agent_runs_with_its_own_tools_and_guards() -> None:
    agent = Agent(Brain(calls(("save", {}, "s")), "done").model, tools=[save])
    made = SubAgent.compiled("ready", "Ready-made.", agent, "Go.")
    async with SubAgentServer() as server:
        outcome = await server.execute(await server.start(made))
    assert isinstance(outcome, Completed)
    assert outcome.result == "done"


async def test_a09_a_compiled_agent_with_structured_output_gives_it_as_extra() -> None:
    agent = Agent(Brain(calls(("final_result", {"response": ["a", "b"]}, "f"))).model, output_type=list[str])
    async with SubAgentServer() as server:
        outcome = await server.execute(await server.start(SubAgent.compiled("ready", "Ready.", agent, "Go.")))
    assert outcome == Completed('["a", "b"]', ["a", "b"], outcome.usage)  # type: ignore[union-attr]


async def test_a10_the_context_is_fresh_and_the_parent_sees_only_the_result() -> None:
    kid = Brain("the answer")
    brain = Brain(calls(task("kid", "Find it.", "t")), "done")
    top = config(
        name="top", system_prompt="SECRET OF THE PARENT", model=brain.model,
        sub_agents=(config(model=kid.model, initial_messages=("You know: x.",)),),
    )  # fmt: skip
    async with SubAgentServer() as server:
        await server.execute(await server.start(SubAgent(top, "Go.")))
    heard = str(kid.seen)
    assert "You know: x." in heard
    assert "Find it." in heard
    assert "SECRET" not in heard
    assert brain.results() == {"t": "the answer"}


async def test_a10_deps_are_inherited() -> None:
    seen: list[object] = []

    def tenant(ctx: RunContext[dict[str, str]]) -> str:
        """Say whose it is."""
        seen.append(ctx.deps["tenant"])
        return "ok"

    kid = config(tools=(tenant,), model=Brain(calls(("tenant", {}, "x")), "done").model)
    top = config(name="top", model=Brain(calls(task("kid", "Go.", "t")), "done").model, sub_agents=(kid,))
    async with SubAgentServer() as server:
        await server.execute(await server.start(SubAgent(top, "Go.", deps={"tenant": "acme"})))
    assert seen == ["acme"]


async def test_a09_a_sub_agent_without_a_model_takes_its_parents() -> None:
    async def answer(messages: list[Any]) -> Any:
        return "from the same model" if "Kid, go." in str(messages) else calls(task("kid", "Kid, go.", "t"))

    brain = Brain(answer, "done")
    top = config(name="top", model=brain.model, sub_agents=(config(model=None),))
    async with SubAgentServer() as server:
        await server.execute(await server.start(SubAgent(top, "Go.")))
    assert brain.results() == {"t": "from the same model"}


async def test_a09_no_model_at_all() -> None:
    async with SubAgentServer() as server:
        with pytest.raises(InvalidOption, match="names no model"):
            await server.start(SubAgent(config(model=None), "Go."))


async def test_a13_the_task_tool_lists_the_configured_names() -> None:
    schemas: list[Any] = []

    async def answer(messages: list[Any]) -> Any:
        return "done"

    brain = Brain(answer)
    top = config(
        name="top",
        model=brain.model,
        sub_agents=(config(name="one"), config(name="two", use_instructions="Say x.")),
    )
    from tollboard.subagents.task_tool import instructions_schema, task_description, task_schema

    schemas = [task_schema(top.sub_agents), instructions_schema(top.sub_agents)]
    assert schemas[0]["properties"]["task_name"]["enum"] == ["one", "two"]
    assert schemas[1]["properties"]["task_name"]["enum"] == ["two"]
    assert "- one: does things" in task_description(top.sub_agents)
    assert "- one" not in task_description(top.sub_agents, listed=False)
    async with SubAgentServer() as server:
        await server.execute(await server.start(SubAgent(top, "Go.")))
    assert brain.tools[0] == ["get_task_instructions", "look", "save", "task"]


async def test_a13_task_instructions_are_told() -> None:
    brain = Brain(calls(("get_task_instructions", {"task_name": "kid"}, "g")), "done")
    top = config(name="top", model=brain.model, sub_agents=(config(use_instructions="Say please."),))
    async with SubAgentServer() as server:
        await server.execute(await server.start(SubAgent(top, "Go.")))
    assert brain.results() == {"g": "Say please."}


async def test_a13_a_name_that_is_not_configured_is_refused_to_the_model() -> None:
    brain = Brain(calls(task("stranger", "Go.", "t")), "done")
    top = config(name="top", model=brain.model, sub_agents=(config(),))
    async with SubAgentServer() as server:
        await server.execute(await server.start(SubAgent(top, "Go.")))
    assert "kid" in brain.results()["t"]


def test_a14_e75_general_purpose_has_the_parents_tools_but_starts_and_asks_nobody() -> None:
    parent = config(
        name="top", tools=(look, save, ask_user), sub_agents=(config(),), interrupt_on={"save": True, "ask_user": True},
        until_tool="save",
    )  # fmt: skip
    made = general_purpose(parent)
    assert [tool.__name__ for tool in made.tools] == ["look", "save"]  # type: ignore[union-attr]
    assert (made.name, made.sub_agents, dict(made.interrupt_on), made.until) == (
        "general-purpose",
        (),
        {"save": True},
        None,
    )


def test_a14_a_block_list_removes_more_and_knows_the_names() -> None:
    assert [tool.__name__ for tool in general_purpose(config(), block=["save"]).tools] == ["look"]  # type: ignore[union-attr]
    with pytest.raises(InvalidOption, match="cannot block 'nope'"):
        general_purpose(config(), block=["nope"])


def test_a14_from_the_class() -> None:
    made = SubAgent.general_purpose(config(), "Go.", block=["look"])
    assert (made.config.name, made.instructions) == ("general-purpose", "Go.")


def test_a09_tools_may_be_pydantic_ai_tools() -> None:
    made = config(tools=(Tool(look, name="peek"),), interrupt_on={"peek": True})
    assert made.interrupt_on == {"peek": True}


async def test_runs_of_one_definition_share_what_was_read_of_its_tools_and_nothing_else() -> None:
    brain = Brain(calls(("save", {}, "s")), "done")
    shared = config(model=brain.model, interrupt_on={"save": True})
    async with SubAgentServer() as server:
        first, second = [await server.start(SubAgent(shared, "Go.")) for _ in range(2)]
        read = list(shared.built)
        paused = await asyncio.gather(server.execute(first), server.execute(second))
        assert all(isinstance(outcome, Interrupted) for outcome in paused)
        assert isinstance(await server.resume(first, [Approve()]), Completed)
        assert server.get_status(second) is Status.INTERRUPTED
        assert isinstance(await server.resume(second, [Reject("no")]), Completed)
        assert "no" in brain.results()["s"]
    assert [id(tool) for tool in shared.built] == [id(tool) for tool in read]
    changed = replace(shared, tools=(look,), interrupt_on={})
    assert changed.built == []
    assert changed == replace(shared, tools=(look,), interrupt_on={})


async def test_a_model_that_is_named_is_made_once_for_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def infer(name: str) -> object:
        made.append(name)
        return Brain("hi").model

    monkeypatch.setattr(building, "infer_model", infer)
    async with SubAgentServer() as server:
        id = await server.start(SubAgent(config(model="test:brain"), "Go."))
        assert isinstance(await server.execute(id), Completed)
    assert made == ["test:brain"]


async def test_an_unknown_model_says_how_models_are_named() -> None:
    async with SubAgentServer() as server:
        with pytest.raises(InvalidOption, match="name provider and model"):
            await server.start(SubAgent(config(model="nobody:knows-this"), "Go."))


async def test_a_missing_key_says_which_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    async with SubAgentServer() as server:
        with pytest.raises(TollboardError, match="ANTHROPIC_API_KEY"):
            await server.start(SubAgent(config(model="anthropic:claude-sonnet-4-5"), "Go."))
