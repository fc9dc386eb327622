"""MCP servers of model sessions: one that is broken, slow or odd costs its own tools and nothing else (L10)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.test_model import Talk, call, of, options_for
from tollboard.backends._model_options import parse_model_options
from tollboard.errors import InvalidOption
from tollboard.runtime.approval import ApprovalRequest, Approve
from tollboard.runtime.event import ErrorEvent, NoticeEvent, ToolResultEvent, ToolUseEvent
from tollboard.testing.backend_contract import RecordingTurn
from tollboard.testing.model_api import ModelAPI, Reply, ToolCall

pytest.importorskip("fastmcp", reason="fastmcp is missing: pip install 'tollboard[models]'")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # each starts processes

STUB = Path(__file__).with_name("mcp_stub.py")
PROVIDERS_TAKE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")


def stub(**plan: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-I", "-S", str(STUB), json.dumps(plan)]}


def offered(api: ModelAPI, request: int = -1) -> list[str]:
    """The tools of the servers in a request; the session has none of its own."""
    return [tool["name"] for tool in api.requests[request].body.get("tools", ())]


def notices(turn: RecordingTurn) -> list[str]:
    return [event.message for event in of(turn, NoticeEvent) if event.name == "mcp_server"]


@pytest.fixture
async def api() -> AsyncIterator[ModelAPI]:
    async with ModelAPI() as served:
        yield served


@pytest.fixture
def options(api: ModelAPI, tmp_path: Path) -> dict[str, object]:
    (tmp_path / "work").mkdir()
    return options_for("anthropic", api, tmp_path)


@pytest.fixture
def bare(options: dict[str, object]) -> dict[str, object]:
    return {**options, "tools": []}


async def test_l10_a_broken_server_is_named_and_costs_its_own_tools_only(
    bare: dict[str, object], api: ModelAPI, tmp_path: Path
) -> None:
    servers = {
        "gone": {"command": str(tmp_path / "no-such-program")},
        "false": {"command": "/bin/false"},
        "mute": {"command": "/bin/sleep", "args": ["1000"], "start_timeout_s": 0.3},
        "shut": {"url": "http://127.0.0.1:9/mcp"},
        "good": stub(tools=["look"]),
    }
    talk = Talk({**bare, "mcp_servers": servers})
    api.script("hello", call("good_look"), "seen")
    first = await talk.say("hi")
    assert first.text == "hello"
    assert offered(api) == ["good_look"]
    said = notices(first)
    assert sorted(text.split()[0] for text in said) == ["false", "gone", "mute", "shut"]
    assert any("no-such-program" in text for text in said)
    assert any("0.3 s" in text for text in said)
    second = await talk.say("look")
    assert [event.content for event in of(second, ToolResultEvent)] == ["look of stub"]
    assert len(notices(second)) == 4, "each turn says what it is without"
    await talk.close()


async def test_l10_a_server_comes_back_when_it_can(
    bare: dict[str, object], api: ModelAPI, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    missing.touch()
    talk = Talk({**bare, "mcp_servers": {"wiki": stub(tools=["look"], missing=str(missing))}})
    await talk.say("one")
    assert offered(api) == []
    missing.unlink()
    turn = await talk.say("two")
    assert offered(api) == ["wiki_look"]
    assert notices(turn) == ["wiki works again; its tools are there"]
    assert notices(await talk.say("three")) == []
    await talk.close()


async def test_l10_a_slow_server_holds_up_one_turn_only(
    bare: dict[str, object], api: ModelAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tollboard.backends._mcp_servers.PATIENCE_S", 0.0)
    hangs = tmp_path / "hangs"
    hangs.touch()
    server = {**stub(tools=["look"], hangs=str(hangs)), "start_timeout_s": 0.5}
    talk = Talk({**bare, "mcp_servers": {"wiki": server}})
    first = await talk.say("one")
    assert "did not start within 0.5 s" in notices(first)[0]
    second = await talk.say("two")
    assert "has not started yet" in notices(second)[0]
    assert offered(api) == []
    await talk.close()


async def test_l10_a_server_that_dies_in_a_call_is_named_and_back_in_the_next_turn(
    bare: dict[str, object], api: ModelAPI
) -> None:
    talk = Talk({**bare, "mcp_servers": {"t": stub(tools=["die", "look"], dies="die")}})
    api.script(call("t_die"), "it died", call("t_look"), "seen")
    first = await talk.say("die")
    (result,) = of(first, ToolResultEvent)
    assert first.text == "it died"
    assert result.is_error
    assert "'t'" in result.content
    second = await talk.say("look")
    assert [event.content for event in of(second, ToolResultEvent)] == ["look of stub"]
    await talk.close()


async def test_l10_a_list_of_tools_that_changed_is_seen_in_the_next_turn(
    bare: dict[str, object], api: ModelAPI, tmp_path: Path
) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text('["one", "two"]')
    talk = Talk({**bare, "mcp_servers": {"t": stub(tools_file=str(tools))}})
    api.script("first", call("t_one"), "second")
    await talk.say("first")
    assert offered(api) == ["t_one", "t_two"]
    tools.write_text('["two", "three"]')
    turn = await talk.say("second")
    assert offered(api, 1) == ["t_two", "t_three"]
    (gone,) = of(turn, ToolResultEvent)
    assert gone.is_error
    await talk.close()


LONG = "synchronise_all_customer_data_across_several_systems_at_once_v2"


async def test_l10_names_fit_every_provider_and_people_see_them_whole(
    bare: dict[str, object], api: ModelAPI
) -> None:
    odd = [LONG, f"{LONG}_too", "naïve tool", "naive.tool", "naive tool", "a/b", "plain"]
    server = "enterprise-database.example"
    bare["guards"] = {f"{server}_{LONG}": True, f"{server}_a/b": True}
    talk = Talk({**bare, "mcp_servers": {server: stub(tools=odd)}})
    await talk.say("hi")
    names = offered(api)
    assert len(set(names)) == len(odd)
    assert all(PROVIDERS_TAKE.match(name) for name in names)
    api.script(*[Reply(calls=(ToolCall(name, {}, f"c{n}"),)) for n, name in enumerate(names)], "done")
    asked: list[ApprovalRequest] = []

    def approve(request: ApprovalRequest) -> Approve:
        asked.append(request)
        return Approve()

    turn = await talk.say("call them all", approve)
    assert [event.tool for event in of(turn, ToolUseEvent)] == [f"{server}_{tool}" for tool in odd]
    assert [event.content for event in of(turn, ToolResultEvent)] == [f"{tool} of stub" for tool in odd]
    assert [request.tool for request in asked] == [f"{server}_{LONG}", f"{server}_a/b"]
    await talk.restart()
    await talk.say("again")
    assert offered(api) == names
    await talk.close()


@pytest.mark.parametrize("away", [False, True])
async def test_l10_servers_that_would_share_a_name_do_not(
    options: dict[str, object], api: ModelAPI, tmp_path: Path, away: bool
) -> None:
    missing = tmp_path / "missing"
    if away:
        missing.touch()
    servers = {
        "a": stub(tools=["b_c"], called="a", missing=str(missing)),
        "a_b": stub(tools=["c", "d"], called="a_b"),
        "read": stub(tools=["file"], called="read"),
    }
    talk = Talk({**options, "tools": ["read_file"], "mcp_servers": servers})
    await talk.say("hi")
    names = offered(api)
    assert len(set(names)) == len(names) == (4 if away else 5)
    assert ("a_b_c" in names) is not away, "a name keeps its meaning when a server is away"
    taken = [name for name in names if name not in ("a_b_c", "read_file")]
    api.script(*[Reply(calls=(ToolCall(name, {}, f"c{n}"),)) for n, name in enumerate(taken)], "done")
    turn = await talk.say("call them all")
    assert [event.content for event in of(turn, ToolResultEvent)] == ["c of a_b", "d of a_b", "file of read"]
    await talk.close()


async def test_l10_a_schema_that_a_provider_refuses_costs_one_tool(
    bare: dict[str, object], api: ModelAPI
) -> None:
    union = {
        "anyOf": [
            {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
            {"type": "object", "properties": {"url": {"type": "string"}}},
        ]
    }
    tools = [
        {"name": "union", "inputSchema": {"type": "object", **union}},
        {"name": "bare", "inputSchema": {"type": "object"}},
        {"name": "wrong", "inputSchema": {"type": "object", "properties": {"x": {"type": "strin"}}}},
    ]
    talk = Talk({**bare, "mcp_servers": {"t": stub(tools=tools)}})
    turn = await talk.say("hi")
    sent = {tool["name"]: tool["input_schema"] for tool in api.requests[-1].body["tools"]}
    assert sorted(sent) == ["t_bare", "t_union"]
    assert sent["t_union"]["properties"].keys() == {"path", "url"}
    assert "anyOf" not in sent["t_union"]
    assert any("'wrong'" in text and " t " in text for text in notices(turn))
    await talk.close()


async def test_l10_a_sub_agent_goes_without_a_broken_server_too(
    bare: dict[str, object], api: ModelAPI
) -> None:
    helper = {"name": "helper", "description": "Helps.", "system_prompt": "I am below.", "tools": []}
    servers = {"bad": {"command": "/bin/false"}, "good": stub(tools=["look"])}
    talk = Talk({**bare, "sub_agents": [helper], "mcp_servers": servers})
    api.script(call("task", task_name="helper", instructions="help"), call("good_look"), "below", "done")
    turn = await talk.say("go")
    assert turn.text == "done"
    assert not of(turn, ErrorEvent)
    assert len(notices(turn)) == 1
    await talk.close()


@pytest.mark.parametrize("limit", [0, -1, True, "30", float("inf"), float("nan")])
def test_l10_a_start_limit_is_a_number_of_seconds(limit: object) -> None:
    server = {"command": "x", "start_timeout_s": limit}
    with pytest.raises(InvalidOption, match="start_timeout_s"):
        parse_model_options({"model": "test:x", "mcp_servers": {"wiki": server}})
