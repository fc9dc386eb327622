"""What the real Claude Code asks people: its questions, its plans, and what its MCP servers elicit (B06, B07)."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import tests.fakes.asking_mcp as asking_mcp
from tests.fakes.messages_api import Answer as Said
from tests.fakes.messages_api import MessagesAPI, Request, Tools
from tollboard.backends._claude_elicitation import elicitation
from tollboard.backends._claude_questions import approval_of, verdict
from tollboard.backends._process import find_processes
from tollboard.backends.claude import ClaudeBackend, ClaudeSession
from tollboard.errors import InvalidDecision
from tollboard.ids import new_ref
from tollboard.runtime.approval import ApprovalKind, ApprovalRequest, Approve, Decision, Reject, fit_decision
from tollboard.runtime.event import ErrorEvent, ResultEvent, ToolResultEvent
from tollboard.runtime.question import Answer, Option
from tollboard.testing.backend_contract import RecordingTurn, run_turn

pytestmark = [pytest.mark.claude, pytest.mark.slow]

BACKEND = ClaudeBackend()
MARKER = ("TOLLBOARD_CLAUDE_QUESTIONS", new_ref())

STORE = {
    "question": "Which store?", "header": "Store", "multiSelect": False,
    "options": [{"label": "Alpha", "description": "near"}, {"label": "Beta", "description": "far"}],
}  # fmt: skip
EXTRAS = {
    "question": "What else?", "header": "Extras", "multiSelect": True,
    "options": [{"label": "X", "description": "x"}, {"label": "Y", "description": "y"}],
}  # fmt: skip
FORM = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "title": "Region", "enum": ["eu", "us"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 5},
        "sure": {"type": "boolean", "default": False},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
        "note": {"type": "string"},
    },
    "required": ["region", "count"],
}


class Talk:
    """A session whose turns are answered by what `decide` returns, fitted as the board fits it."""

    def __init__(self, session: ClaudeSession, api: MessagesAPI) -> None:
        self.session = session
        self.api = api
        self.turn = RecordingTurn()

    async def say(
        self, *calls: tuple[str, dict[str, Any]], decide: Callable[[ApprovalRequest], Decision]
    ) -> tuple[list[ToolResultEvent], str]:
        self.api.script(*(Tools([call]) for call in calls))
        self.turn = RecordingTurn(lambda request: fit_decision(decide(request), request))
        events = await run_turn(BACKEND, self.session, "go", self.turn)
        last = events[-1]
        assert isinstance(last, ResultEvent), last.message if isinstance(last, ErrorEvent) else last
        return [event for event in events if isinstance(event, ToolResultEvent)], last.text or ""


@pytest.fixture
async def talk(claude_options: dict[str, object], messages_api: MessagesAPI) -> AsyncIterator[Talk]:
    server = {"type": "stdio", "command": sys.executable, "args": [str(Path(asking_mcp.__file__))]}
    options = {
        **claude_options, "env_marker": "=".join(MARKER), "mcp_servers": {"asker": server},
        "allowed_tools": ["mcp__asker__ask"],
    }  # fmt: skip
    session = await BACKEND.start_session(options)
    yield Talk(session, messages_api)
    await BACKEND.terminate_session(session)
    assert not await find_processes(marker=MARKER)


# --- its own questions --------------------------------------------------------------------------------------------


async def test_b06_its_questions_are_questions_and_the_choices_reach_it(talk: Talk) -> None:
    both = Answer(answers={"Store": [2], "Extras": ["Y", "X"]})
    results, text = await talk.say(("AskUserQuestion", {"questions": [STORE, EXTRAS]}), decide=lambda _: both)
    (request,) = talk.turn.requests
    assert (request.kind, request.tool) == (ApprovalKind.QUESTION, "AskUserQuestion")
    store, extras = request.questions
    assert (store.text, store.header, store.multiple) == ("Which store?", "Store", False)
    assert store.options == (Option("Alpha", "near"), Option("Beta", "far"))
    assert extras.multiple
    assert '"Which store?"="Beta"' in text
    assert '"What else?"="Y, X"' in text
    assert not results[0].is_error


async def test_b06_words_of_ones_own_and_a_refusal_reach_it(talk: Talk) -> None:
    said = iter([Answer("the one by the sea"), Reject("ask me tomorrow")])
    _, text = await talk.say(("AskUserQuestion", {"questions": [STORE]}), decide=lambda _: next(said))
    assert '"Which store?"="the one by the sea"' in text
    results, text = await talk.say(("AskUserQuestion", {"questions": [STORE]}), decide=lambda _: next(said))
    assert results[0].is_error
    assert "ask me tomorrow" in text


# --- plans --------------------------------------------------------------------------------------------------------


def planning(request: Request) -> Said | None:
    """Write the plan where the program says, then ask to leave the plan mode; afterwards the default rules."""
    if request.tool_results:
        return Tools([("ExitPlanMode", {})]) if "created successfully" in request.tool_results[0] else None
    file = re.findall(r"[/\w.-]+/plans/[\w-]+\.md", json.dumps(request.body))
    return Tools([("Write", {"file_path": file[0], "content": "# Plan\n\n1. look\n"})]) if file else None


@pytest.mark.parametrize(
    ("decision", "mode", "told"),
    [
        (Approve(), "default", "approved your plan"),
        (Answer("first the docs"), None, "first the docs"),
    ],
)
async def test_b07_a_plan_is_shown_and_the_mode_that_follows_is_read_back(
    claude_options: dict[str, object],
    messages_api: MessagesAPI,
    decision: Decision,
    mode: str | None,
    told: str,
) -> None:
    messages_api.handler = planning
    session = await BACKEND.start_session(
        {**claude_options, "permission_mode": "plan", "env_marker": "=".join(MARKER)}
    )
    talk = Talk(session, messages_api)
    _, text = await talk.say(decide=lambda _: decision)
    (request,) = talk.turn.requests
    (question,) = request.questions
    assert (request.kind, request.tool) == (ApprovalKind.QUESTION, "ExitPlanMode")
    assert question.text == "# Plan\n\n1. look"
    assert request.allowed == ("approve", "reject", "answer")
    assert told in text
    modes = [found["permission_mode"] for _, found in talk.turn.checkpoints if found is not None]
    assert modes == ["plan", *([mode] if mode else [])]
    await BACKEND.terminate_session(session)


@pytest.mark.parametrize(
    ("decision", "told"),
    [
        (Answer(choose=[1]), None),
        (Answer("approve"), None),
        (Answer(choose=["Keep planning"]), "The person wants you to keep planning."),
        (Reject("more tests"), "more tests"),
        (Reject(), "A person rejected this call."),
    ],
)
def test_b07_a_plan_may_be_decided_in_words_and_by_number(decision: Decision, told: str | None) -> None:
    request = approval_of("ExitPlanMode", {"plan": "# Plan"})
    assert verdict(request, fit_decision(decision, request)) == told


# --- MCP servers --------------------------------------------------------------------------------------------------


async def test_b06_a_form_of_an_mcp_server_is_a_question_for_each_field(talk: Talk) -> None:
    answer = Answer(answers={"region": "eu", "count": "2", "sure": "yes", "tags": ["b", "a"]})
    asked = {"message": "Where to?", "form": FORM}
    _, text = await talk.say(("mcp__asker__ask", asked), decide=lambda _: answer)
    (request,) = talk.turn.requests
    assert (request.kind, request.tool, request.display) == (
        ApprovalKind.QUESTION,
        "elicitation",
        "asker: Where to?",
    )
    region, count, sure, tags, note = request.questions
    assert (region.text, region.free_text) == ("Region", False)
    assert [option.label for option in sure.options] == ["yes", "no"]
    assert (tags.multiple, [each.required for each in request.questions]) == (
        True,
        [True, True, False, False, False],
    )
    assert (count.options, note.options) == ((), ())
    content = {"region": "eu", "count": 2, "sure": True, "tags": ["b", "a"]}
    assert json.loads(text.removeprefix("output: ")) == {"action": "accept", "content": content}


@pytest.mark.parametrize(
    ("field", "fault"),
    [({"count": "9"}, "at most 5"), ({"count": "two"}, "whole number"), ({"region": "moon"}, "no words")],
)
async def test_b06_a_value_that_the_server_would_not_take_is_refused(
    field: dict[str, str], fault: str
) -> None:
    request = elicitation({"mcp_server_name": "asker", "message": "Where to?", "requested_schema": FORM})
    with pytest.raises(InvalidDecision, match=fault):
        fit_decision(Answer(answers={"region": "eu", "count": "1", **field}), request)


async def test_b06_an_address_to_open_and_a_form_may_be_declined(talk: Talk) -> None:
    asked = {"message": "Sign in, please", "url": "https://example.test/sign-in"}
    _, text = await talk.say(("mcp__asker__ask", asked), decide=lambda _: Answer("accept"))
    assert "https://example.test/sign-in" in talk.turn.requests[0].questions[0].text
    assert '"action": "accept"' in text
    _, text = await talk.say(("mcp__asker__ask", asked), decide=lambda _: Reject("no"))
    assert '"action": "decline"' in text


async def test_b06_an_interrupt_withdraws_what_an_mcp_server_asks(talk: Talk) -> None:
    talk.api.script(Tools([("mcp__asker__ask", {"message": "Where to?", "form": FORM})]))
    turn = RecordingTurn()
    running = asyncio.create_task(run_turn(BACKEND, talk.session, "go", turn))
    await asyncio.wait_for(turn.asked.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    _, text = await talk.say(decide=lambda _: Reject())
    assert "go" in text
