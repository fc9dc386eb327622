"""What a model's answer may hold, and the conversation can still be sent: numbers, names, ids, halves of characters."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart

from tests.subagents.brains import Brain
from tollboard.subagents import Completed, SubAgent, SubAgentConfig, SubAgentServer
from tollboard.subagents.hygiene import UNREADABLE, mend_response, why_not_run

HALF = "\ud83d"


def made(*parts: Any) -> ModelResponse:
    return ModelResponse(parts=list(parts))


def pay(brain: Brain, ran: list[float]) -> SubAgentConfig:
    async def pay(amount: float) -> float:
        """Pay."""
        ran.append(amount)
        return amount

    return SubAgentConfig(name="kid", description="d", system_prompt="s", tools=(pay,), model=brain.model)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ('{"amount": NaN}', "NaN"), ('{"amount": -Infinity}', "-Infinity"), ('{"amount": 1e999}', "Infinity"),
        ({"amount": math.nan}, "NaN"), ('{"amount": ', "not JSON"), ("[1]", "JSON object"), ("null", "JSON object"),
    ],
)  # fmt: skip
async def test_l04_arguments_that_cannot_be_kept_do_not_run_and_the_model_is_told(
    arguments: Any, why: str
) -> None:
    ran: list[float] = []
    brain = Brain(made(ToolCallPart("pay", arguments, "c")), "I will not.")
    async with SubAgentServer() as server:
        outcome = await server.execute(await server.start(SubAgent(pay(brain, ran), "Go.")))
    assert isinstance(outcome, Completed)
    assert ran == []
    assert "was not run" in brain.results()["c"]
    assert why in brain.results()["c"]
    (call,) = brain.seen[-1][1].parts
    assert isinstance(call, ToolCallPart)
    kept = json.loads(call.args_as_json_str(), parse_constant=pytest.fail)
    assert list(kept) == [UNREADABLE]


async def test_l04_a_result_that_json_has_no_number_for_is_told_by_its_name() -> None:
    async def measure() -> dict[str, Any]:
        """Measure."""
        return {"low": -math.inf, "mean": math.nan, "name": f"caf{HALF}", HALF: [math.inf]}

    brain = Brain(made(ToolCallPart("measure", {}, "c")), "done")
    config = SubAgentConfig(
        name="kid", description="d", system_prompt="s", tools=(measure,), model=brain.model
    )
    async with SubAgentServer() as server:
        await server.execute(await server.start(SubAgent(config, f"Go {HALF}.")))
    (result,) = brain.seen[-1][2].parts
    said = json.dumps(result.content, allow_nan=False, ensure_ascii=False).encode()
    assert b"NaN" in said
    assert b"-Infinity" in said
    (asked,) = brain.seen[0]
    assert isinstance(asked, ModelRequest)
    assert str(asked.parts[0].content).encode() == "Go \ufffd.".encode()


async def test_l04_a_result_that_holds_itself_does_not_end_the_run() -> None:
    async def loop() -> list[Any]:
        """Go round."""
        found: list[Any] = []
        found.append(found)
        return found

    brain = Brain(made(ToolCallPart("loop", {}, "c")), "done")
    config = SubAgentConfig(name="kid", description="d", system_prompt="s", tools=(loop,), model=brain.model)
    async with SubAgentServer() as server:
        outcome = await server.execute(await server.start(SubAgent(config, "Go.")))
    assert isinstance(outcome, Completed)


@pytest.mark.parametrize("name", ["a" * 100, "", "wri te", f"x{HALF}", "pay!", "日本"])
def test_l04_a_name_that_no_provider_takes_is_mended_and_never_becomes_a_tools(name: str) -> None:
    response = made(ToolCallPart(name, {}, "c"))
    mend_response(response, tools=("pay_", "a" * 64, "x_"))
    (part,) = response.parts
    assert isinstance(part, ToolCallPart)
    assert part.tool_name not in ("pay_", "a" * 64, "x_")
    assert part.tool_name.isascii()
    assert 0 < len(part.tool_name) <= 64


def test_l04_the_name_of_a_tool_that_there_is_stays() -> None:
    response = made(ToolCallPart("server.tool", {}, "c"))
    mend_response(response, tools=("server.tool",))
    assert [part.tool_name for part in response.parts if isinstance(part, ToolCallPart)] == ["server.tool"]


@pytest.mark.parametrize("id", [f"call{HALF}", "", "a b\n", "x" * 1000])
def test_l04_an_id_that_cannot_be_sent_back_gets_another(id: str) -> None:
    response = made(ToolCallPart("pay", {}, id))
    mend_response(response, tools=("pay",))
    (part,) = response.parts
    assert isinstance(part, ToolCallPart)
    assert part.tool_call_id.encode().strip()
    assert " " not in part.tool_call_id
    assert len(part.tool_call_id) <= 256


def test_l04_text_without_a_word_is_left_out_beside_a_call() -> None:
    response = made(TextPart(" \n"), ToolCallPart("pay", {}, "c"), TextPart(f"a{HALF}"))
    mend_response(response, tools=("pay",))
    assert [type(part) for part in response.parts] == [ToolCallPart, TextPart]
    assert response.parts[1].content == "a\ufffd"  # type: ignore[union-attr]


def test_l04_arguments_that_are_fine_stay_to_the_letter() -> None:
    text = '{ "b": 1.50, "a": "é" }'
    response = made(ToolCallPart("pay", text, "c"))
    mend_response(response, tools=("pay",))
    assert [part.args for part in response.parts if isinstance(part, ToolCallPart)] == [text]
    assert why_not_run(text) == ""


texts = st.text(st.characters(exclude_categories=()), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(name=texts, id=texts, said=texts, arguments=texts | st.dictionaries(texts, values).map(json.dumps))
def test_l04_whatever_a_model_says_can_be_sent_back(name: str, id: str, said: str, arguments: str) -> None:
    response = made(TextPart(said), ToolCallPart(name, arguments, id))
    mend_response(response, tools=("pay",))
    for part in response.parts:
        if isinstance(part, TextPart):
            part.content.encode()
        elif isinstance(part, ToolCallPart):
            kept = json.loads(part.args_as_json_str(), parse_constant=pytest.fail)
            json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()
            part.tool_name.encode("ascii")
            part.tool_call_id.encode()
