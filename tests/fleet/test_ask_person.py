"""The tool `ask_person` of model sessions: durable like a guarded call, and not for sub-agents (B06, A14)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fleet.world import Fleet, completed, seen
from tollboard import Answer
from tollboard.errors import AnswerNeeded, InvalidDecision
from tollboard.fleet.records import ApprovalRecord
from tollboard.runtime.approval import ApprovalKind, Reject
from tollboard.runtime.question import Option
from tollboard.testing.model_api import ModelAPI, Reply, ToolCall

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")

STORE = {
    "question": "Which store?",
    "header": "Store",
    "options": [{"label": "Alpha", "description": "near"}, {"label": "Beta"}],
    "free_text": False,
}


def ask(**arguments: Any) -> Reply:
    return Reply(calls=(ToolCall("ask_person", arguments),))


@pytest.fixture
async def api() -> AsyncIterator[ModelAPI]:
    async with ModelAPI() as served:
        yield served


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")


async def asked(fleet: Fleet, api: ModelAPI, *answers: Any, **options: object) -> tuple[str, ApprovalRecord]:
    api.script(*answers)
    await fleet.start("m", backend="model", model="openai-chat:gpt-x", base_url=api.openai_url, **options)
    tail = fleet.board.tail(kinds=["approval.requested"])
    ref = await fleet.board.send("m", "go")
    await seen(tail, "approval.requested", ref)
    (record,) = await fleet.board.approvals("m")
    return ref, record


async def test_b06_a_model_asks_and_reads_the_answer(fleet: Fleet, api: ModelAPI) -> None:
    ref, record = await asked(fleet, api, ask(**STORE), "thanks")
    (question,) = record.questions
    assert (record.kind, record.tool, record.allowed) == (
        ApprovalKind.QUESTION,
        "ask_person",
        ("answer", "reject"),
    )
    assert (question.text, question.header, question.free_text) == ("Which store?", "Store", False)
    assert question.options == (Option("Alpha", "near"), Option("Beta"))
    with pytest.raises(AnswerNeeded):
        await fleet.board.decide(record.id, {"type": "approve"})
    with pytest.raises(InvalidDecision, match="no words of your own"):
        await fleet.board.decide(record.id, Answer("elsewhere"))
    await fleet.board.decide(record.id, Answer(choose=[2]))
    await fleet.done(ref)
    assert (await completed(fleet.board, "m", ref)).text == "thanks"
    assert list(api.requests[-1].results.values()) == ["The person answered: Beta"]


async def test_b06_a_model_is_told_that_nobody_answers(fleet: Fleet, api: ModelAPI) -> None:
    ref, record = await asked(fleet, api, ask(question="Why?"), "well")
    assert record.questions[0].free_text
    await fleet.board.decide(record.id, Reject("find out yourself"))
    await fleet.done(ref)
    assert "The person did not answer: find out yourself" in next(iter(api.requests[-1].results.values()))


async def test_b06_a_question_of_a_model_waits_over_a_kill(fleet: Fleet, api: ModelAPI) -> None:
    ref, record = await asked(fleet, api, ask(**STORE), "thanks")
    await fleet.kill()
    (again,) = await fleet.board.approvals("m")
    assert (again.id, again.questions) == (record.id, record.questions)
    await fleet.board.decide(record.id, Answer("Alpha"))
    await fleet.done(ref)
    assert (await completed(fleet.board, "m", ref)).text == "thanks"
    assert list(api.requests[-1].results.values()) == ["The person answered: Alpha"]


async def test_a14_e75_sub_agents_do_not_inherit_the_tool_that_asks(fleet: Fleet, api: ModelAPI) -> None:
    below = {"name": "reader", "description": "reads", "system_prompt": "You read."}
    task = [
        Reply(calls=(ToolCall("task", {"task_name": name, "instructions": f"go, {name}"}),))
        for name in ("reader", "general-purpose")
    ]
    api.script(task[0], "read", task[1], "done", "all done")
    await fleet.start(
        "m", backend="model", model="openai-chat:gpt-x", base_url=api.openai_url, sub_agents=[below],
        general_purpose=True,
    )  # fmt: skip
    await fleet.run("m", "go")
    mine, readers, _, generals, _ = (set(request.tools) for request in api.requests)
    assert "ask_person" in mine
    assert "read_file" in readers & generals
    assert "ask_person" not in readers | generals


async def test_b06_a_session_whose_tools_are_named_asks_only_if_told_to(fleet: Fleet, api: ModelAPI) -> None:
    api.script("one", "two")
    for name, tools in (("a", ["read_file"]), ("b", ["read_file", "ask_person"])):
        await fleet.start(
            name, backend="model", model="openai-chat:gpt-x", base_url=api.openai_url, tools=tools
        )
        await fleet.run(name, "go")
    assert ["ask_person" in request.tools for request in api.requests] == [False, True]
