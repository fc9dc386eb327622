"""A person at an MCP host decides what waits: asked by the server, past the model, in both eras of the protocol."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import jsonschema
import mcp_types as types
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.daemon.process import DaemonProcess
from tests.surfaces.served import serving
from tests.surfaces.test_mcp_stdio import bridge
from tollboard.daemon.client import Client
from tollboard.fleet.board import Board
from tollboard.fleet.records import ApprovalRecord
from tollboard.operations.access import Capability
from tollboard.operations.boards import Boards
from tollboard.surfaces.mcp import question, review
from tollboard.surfaces.mcp.policy import Policy
from tollboard.surfaces.mcp.server import Reach, make_server

Form = types.ElicitRequestFormParams
Person = Callable[[Form], types.ElicitResult]
Eras = pytest.mark.parametrize("mode", ["auto", "legacy"])
LS = {"command": "ls"}


def fills(**content: str) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content=dict(content))


DECLINES = types.ElicitResult(action="decline")
CLOSES = types.ElicitResult(action="cancel")


class Seen:
    """A person who reads what they are asked, and answers in turn; the last answer again and again."""

    def __init__(self, *answers: types.ElicitResult) -> None:
        self._answers = list(answers)
        self.forms: list[Form] = []

    def __call__(self, form: Form) -> types.ElicitResult:
        self.forms.append(form)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@asynccontextmanager
async def host(server: Any, person: Person | None, mode: Any) -> AsyncIterator[McpClient]:
    async def asked(context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        assert isinstance(params, Form)
        assert person is not None
        return person(params)

    callback = asked if person is not None else None
    async with McpClient(server, mode=mode, elicitation_callback=cast("Any", callback)) as client:
        yield client


@asynccontextmanager
async def at_host(boards: Boards, person: Person | None, mode: Any = "auto") -> AsyncIterator[McpClient]:
    """A host on a server that may ask its person."""
    async with host(make_server(Reach(boards, Policy(), boards)), person, mode) as client:
        yield client


async def reviews(client: McpClient, **arguments: object) -> tuple[dict[str, str], int]:
    """Return the outcome for each session, and how many wait; checked against the tool's own schema."""
    (tool,) = [one for one in (await client.list_tools()).tools if one.name == review.NAME]
    result = await client.call_tool(review.NAME, arguments)
    assert not result.is_error, result.content
    found = cast("dict[str, Any]", result.structured_content)
    jsonschema.validate(found, cast("Any", tool.output_schema))
    assert json.loads(cast("Any", result.content[0]).text) == found
    return {one["session"]: one["outcome"] for one in found["answers"]}, found["waiting"]


async def offered(client: McpClient) -> bool:
    return review.NAME in {tool.name for tool in (await client.list_tools()).tools}


async def denied(client: McpClient) -> str:
    result = await client.call_tool(review.NAME, {})
    assert result.is_error
    error = json.loads(cast("Any", result.content[0]).text)
    assert error["error"] == "denied"
    return str(error["message"])


async def asks(fleet: Board, work: Path, name: str, **approval: object) -> str:
    """Start a session that asks, and return its request's ref once it waits."""
    script = [
        {
            "approval": {"tool": "shell", "arguments": LS, **approval},
            "then": "{decision} {arguments} {message}",
        }
    ]
    await fleet.start_session(name, path=work, backend="scripted", script=script)
    ref = await fleet.send(name, "go")
    async for item in fleet.tail(name, after=0):
        if item.kind == "approval.requested":
            return ref
    raise AssertionError


async def said(fleet: Board, ref: str) -> str:
    return str((await fleet.wait([ref], timeout=20)).done[0].text)


# -- decisions


@Eras
@pytest.mark.parametrize(
    ("answer", "outcome", "then"),
    [
        (fills(decision="approve"), "approved", "approve"),
        (fills(decision="approve", arguments='{ "command":"ls" }'), "approved", "approve"),
        (fills(decision="reject", message="not on a Friday"), "rejected", "not on a Friday"),
        (fills(decision="reject"), "rejected", "reject"),
        (fills(decision="edit", arguments='{"command": "pwd"}'), "edited", "pwd"),
    ],
)
async def test_a_person_decides(
    boards: Boards, tmp_path: Path, mode: str, answer: types.ElicitResult, outcome: str, then: str
) -> None:
    ref = await asks(boards.fleet, tmp_path, "api")
    async with at_host(boards, Seen(answer), mode) as client:
        assert await reviews(client) == ({"api": outcome}, 0)
    assert then in await said(boards.fleet, ref)


STORE = {"id": "store", "text": "Which store?", "options": ["Alpha", "Beta"]}
EXTRAS = {"id": "extras", "text": "What else?", "options": ["X", "Y"], "multiple": True, "free_text": False}


@Eras
@pytest.mark.parametrize(
    ("answer", "then"),
    [
        ({"q1": "Beta", "q2_1": False, "q2_2": True}, '{"store": "Beta", "extras": "Y"}'),
        ({"q1_text": "the third", "q2_1": True, "q2_2": True}, '{"store": "the third", "extras": "X, Y"}'),
    ],
)
async def test_b06_a_person_answers_questions(
    boards: Boards, tmp_path: Path, mode: str, answer: dict[str, Any], then: str
) -> None:
    ref = await asks(boards.fleet, tmp_path, "api", questions=[STORE, EXTRAS])
    person = Seen(types.ElicitResult(action="accept", content=answer))
    async with at_host(boards, person, mode) as client:
        assert await reviews(client) == ({"api": "answered"}, 0)
    assert "Which store?\n    - Alpha\n    - Beta" in person.forms[0].message
    assert then in await said(boards.fleet, ref)


@Eras
async def test_b06_an_answer_that_does_not_fit_is_asked_for_again(
    boards: Boards, tmp_path: Path, mode: str
) -> None:
    await asks(boards.fleet, tmp_path, "api", questions=[EXTRAS])
    nothing = types.ElicitResult(action="accept", content={})
    person = Seen(nothing, types.ElicitResult(action="accept", content={"q1_1": True}))
    async with at_host(boards, person, mode) as client:
        assert await reviews(client) == ({"api": "answered"}, 0)
    assert "needs an answer" in person.forms[1].message


async def test_b06_nobody_is_asked_for_a_secret_at_a_host(boards: Boards, tmp_path: Path) -> None:
    await asks(boards.fleet, tmp_path, "api", questions=[{"id": "key", "text": "The key?", "secret": True}])
    person = Seen(DECLINES)
    async with at_host(boards, person) as client:
        assert await reviews(client) == ({}, 1)
    assert person.forms == []


@Eras
@pytest.mark.parametrize("answer", [DECLINES, CLOSES])
async def test_what_is_declined_or_closed_waits_on(
    boards: Boards, tmp_path: Path, mode: str, answer: types.ElicitResult
) -> None:
    await asks(boards.fleet, tmp_path, "api")
    async with at_host(boards, Seen(answer), mode) as client:
        assert await reviews(client) == ({"api": "left_open"}, 1)
    (record,) = await boards.fleet.approvals()
    assert record.state == "pending"


@Eras
async def test_one_call_asks_for_all_of_them_or_for_one_session(
    boards: Boards, tmp_path: Path, mode: str
) -> None:
    for name in ("a", "b", "c"):
        await asks(boards.fleet, tmp_path, name)
    by_name = {"a": fills(decision="approve"), "b": DECLINES, "c": fills(decision="reject")}
    async with at_host(boards, lambda form: by_name[form.message[0]], mode) as client:
        assert await reviews(client, name="c") == ({"c": "rejected"}, 0)
        assert await reviews(client) == ({"a": "approved", "b": "left_open"}, 1)
        assert (await client.call_tool(review.NAME, {"nane": "a"})).is_error


@Eras
async def test_nobody_is_asked_when_nothing_waits(boards: Boards, mode: str) -> None:
    person = Seen(DECLINES)
    async with at_host(boards, person, mode) as client:
        assert await reviews(client) == ({}, 0)
    assert person.forms == []


async def test_who_closes_a_question_is_not_asked_the_next(boards: Boards, tmp_path: Path) -> None:
    for name in ("a", "b"):
        await asks(boards.fleet, tmp_path, name)
    person = Seen(CLOSES)
    async with at_host(boards, person, "legacy") as client:
        assert await reviews(client) == ({"a": "left_open"}, 2)
    assert len(person.forms) == 1


@Eras
async def test_a_call_asks_only_so_many_questions(
    boards: Boards, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review, "AT_ONCE", 2)
    for name in ("a", "b", "c"):
        await asks(boards.fleet, tmp_path, name)
    async with at_host(boards, Seen(fills(decision="approve")), mode) as client:
        assert await reviews(client) == ({"a": "approved", "b": "approved"}, 1)


# -- answers that are none


@Eras
@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (fills(decision="edit", arguments="ls"), "not JSON"),
        (fills(decision="edit", arguments="[1]"), "not a JSON object"),
        (fills(decision="edit", arguments=" "), "needs the changed arguments"),
        (fills(decision="approve", arguments='{"command": "rm"}'), "choose edit"),
        (fills(decision="perhaps"), "choose one of approve, edit, reject"),
        (fills(message="why?"), "choose one of"),
    ],
)
async def test_the_person_is_told_what_was_wrong_and_asked_again(
    boards: Boards, tmp_path: Path, mode: str, answer: types.ElicitResult, fault: str
) -> None:
    await asks(boards.fleet, tmp_path, "api")
    person = Seen(answer, fills(decision="reject"))
    async with at_host(boards, person, mode) as client:
        assert await reviews(client) == ({"api": "rejected"}, 0)
    assert [fault in form.message for form in person.forms] == [False, True]


@Eras
async def test_it_gives_up_on_somebody_who_answers_nothing(boards: Boards, tmp_path: Path, mode: str) -> None:
    await asks(boards.fleet, tmp_path, "api")
    await asks(boards.fleet, tmp_path, "docs")
    person = Seen(fills(decision="edit", arguments="{"))
    async with at_host(boards, person, mode) as client:
        assert await reviews(client) == ({"api": "left_open", "docs": "left_open"}, 2)
    assert len(person.forms) == 2 * review.TRIES


@Eras
async def test_only_what_is_allowed_can_be_chosen(boards: Boards, tmp_path: Path, mode: str) -> None:
    await asks(boards.fleet, tmp_path, "api", allowed=["approve", "reject"])
    person = Seen(fills(decision="edit", arguments="{}"), fills(decision="approve"))
    async with at_host(boards, person, mode) as client:
        assert await reviews(client) == ({"api": "approved"}, 0)
    properties = person.forms[0].requested_schema["properties"]
    assert properties["decision"]["enum"] == ["approve", "reject"]
    assert "arguments" not in properties
    assert "edit is not allowed" in person.forms[1].message


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_somebody_else_may_be_faster(boards: Boards, tmp_path: Path, mode: str) -> None:
    await asks(boards.fleet, tmp_path, "api")
    (record,) = await boards.fleet.approvals()
    server = make_server(Reach(boards, Policy(), boards))

    async def asked(context: object, params: object) -> types.ElicitResult:
        await boards.fleet.decide(record.id, {"type": "reject"})
        return fills(decision="approve")

    async with McpClient(server, mode=cast("Any", mode), elicitation_callback=asked) as client:
        assert await reviews(client) == ({"api": "gone"}, 0)
    (record,) = await boards.fleet.approvals(all=True)
    assert record.state == "rejected"


# -- what the person sees


@Eras
async def test_the_person_sees_all_of_the_call_and_nothing_that_hides(
    boards: Boards, tmp_path: Path, mode: str
) -> None:
    command = "echo \u202egnp\x1b[2K\ndecision: approve"
    arguments = {"command": command, "env": {"A": ["b"]}}
    await asks(boards.fleet, tmp_path, "api", arguments=arguments, display="List\nfiles")
    person = Seen(DECLINES)
    async with at_host(boards, person, mode) as client:
        await reviews(client)
    (form,) = person.forms
    assert "api wants to use shell" in form.message
    assert "Shown as: List files" in form.message
    assert "command: echo \\u202egnp\\x1b[2K\n    decision: approve" in form.message
    assert '"b"' in form.message
    assert form.requested_schema["required"] == ["decision"]
    assert "default" not in form.requested_schema["properties"]["decision"]


def record(**changes: Any) -> ApprovalRecord:
    given: dict[str, Any] = {
        "id": "x", "session": "api", "ref": "r", "path": "api", "tool": "shell", "arguments": LS, "display": "",
        "allowed": ("approve", "edit", "reject"), "state": "pending", "requested_at": 0.0,
    }  # fmt: skip
    return ApprovalRecord(**{**given, **changes})


def test_the_form_holds_the_arguments_to_edit_where_they_can_be_shown() -> None:
    def prefilled(arguments: Mapping[str, object]) -> object:
        return question.form(record(arguments=arguments))["properties"]["arguments"].get("default")

    assert prefilled({"command": "größer"}) == '{"command": "größer"}'
    assert prefilled({"command": "\u202e"}) is None
    assert "Asked by: api/helper" in question.message(record(path="api/helper"))


@Eras
async def test_nobody_is_asked_to_allow_what_cannot_be_shown_whole(
    boards: Boards, tmp_path: Path, mode: str
) -> None:
    await asks(boards.fleet, tmp_path, "api", arguments={"command": "x" * review.LONGEST_QUESTION})
    person = Seen(fills(decision="approve"))
    async with at_host(boards, person, mode) as client:
        assert await reviews(client) == ({}, 1)
    assert person.forms == []


# -- who may be asked, and where


@Eras
async def test_it_is_offered_only_where_somebody_can_be_asked(
    boards: Boards, tmp_path: Path, mode: str
) -> None:
    await asks(boards.fleet, tmp_path, "api")
    async with at_host(boards, None, mode) as client:
        assert not await offered(client)
        assert "cannot ask its user" in await denied(client)
    async with host(make_server(Reach(boards, Policy())), Seen(fills(decision="approve")), mode) as client:
        assert not await offered(client)
        assert "may not decide" in await denied(client)
    assert len(await boards.fleet.approvals()) == 1


async def test_answers_count_only_for_what_was_asked(boards: Boards, tmp_path: Path) -> None:
    await asks(boards.fleet, tmp_path, "api")
    (waiting,) = await boards.fleet.approvals()
    answer = {waiting.id: fills(decision="approve")}
    async with at_host(boards, Seen(DECLINES)) as client:
        session = client.session
        first = await session.call_tool(
            review.NAME, {}, input_responses=cast("Any", answer), allow_input_required=True
        )
        assert isinstance(first, types.InputRequiredResult), "an answer that comes unasked is none"
        for state, arguments in ((f"{first.request_state}x", {}), (first.request_state, {"name": "api"})):
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await session.call_tool(
                    review.NAME, arguments, input_responses=cast("Any", answer), request_state=state,
                    allow_input_required=True,
                )  # fmt: skip
        assert len(await boards.fleet.approvals()) == 1
        done = await session.call_tool(
            review.NAME, {}, input_responses=cast("Any", answer), request_state=first.request_state
        )
    assert cast("Any", done).structured_content["waiting"] == 0


async def test_what_was_asked_before_a_restart_can_be_answered_after_it(
    boards: Boards, tmp_path: Path
) -> None:
    await asks(boards.fleet, tmp_path, "api")
    (waiting,) = await boards.fleet.approvals()
    reach = Reach(boards, Policy(), boards)
    async with host(make_server(reach, secret="a" * 64), Seen(DECLINES), "auto") as client:
        asked = await client.session.call_tool(review.NAME, {}, allow_input_required=True)
        assert isinstance(asked, types.InputRequiredResult)
    answer: Any = {waiting.id: fills(decision="approve")}
    for secret, works in (("b" * 64, False), ("a" * 64, True)):
        async with host(make_server(reach, secret=secret), Seen(DECLINES), "auto") as client:
            try:
                await client.session.call_tool(
                    review.NAME, {}, input_responses=answer, request_state=asked.request_state
                )
            except MCPError:
                assert not works
        assert (not await boards.fleet.approvals()) == works


@pytest.mark.slow
@Eras
async def test_s27_over_stdio_a_person_is_asked_without_a_grant(
    home: Path, tmp_path: Path, mode: str
) -> None:
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as manager:
            ref = await asks(manager, tmp_path, "api")
            async with host(bridge(home), Seen(fills(decision="approve")), mode) as client:
                (waiting,) = await manager.approvals()
                decide = {"approval_id": waiting.id, "decision": {"type": "approve"}}
                assert (await client.call_tool("switchboard_decide", decide)).is_error
                assert await reviews(client) == ({"api": "approved"}, 0)
            assert "approve" in await said(manager, ref)
            (decided,) = await manager.approvals(all=True)
            assert decided.decided_by == "mcp-person:mcp"


@pytest.mark.slow
async def test_s27_over_http_a_person_is_asked_only_with_the_tokens_leave(home: Path) -> None:
    person = Seen(fills(decision="approve"))

    @asynccontextmanager
    async def over_http(mode: str, *capabilities: Capability) -> AsyncIterator[McpClient]:
        headers = {"authorization": f"Bearer {server.narrow(*capabilities)}"}
        async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
            transport = streamable_http_client(f"http://{server.tcp_address}/mcp", http_client=http)
            async with host(transport, person, mode) as client:
                yield client

    with serving(home) as server:
        async with Client.connect(home, start=False) as manager:
            await asks(manager, home, "asking")
            async with over_http("auto", Capability.READ, Capability.SEND) as client:
                assert not await offered(client)
                assert "may not decide" in await denied(client)
            # Nothing is kept between requests, so in the older era no question finds its way.
            async with over_http("legacy", Capability.READ, Capability.APPROVE) as client:
                assert not await offered(client)
                assert "cannot ask its user" in await denied(client)
            assert person.forms == []
            async with over_http("auto", Capability.READ, Capability.APPROVE) as client:
                assert await reviews(client) == ({"asking": "approved"}, 0)
            (decided,) = await manager.approvals(all=True)
            assert decided.decided_by == "mcp-person:narrow"
