"""Whoever asks, it is the same question: a sub-agent three levels down, a model session itself, Claude Code.

Each asks the same four times, in its own way. On every surface the question has one shape, and one command decides it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from mcp import Client as McpClient

from tests.daemon.process import DaemonProcess
from tests.fakes.messages_api import PRICED_MODEL, MessagesAPI, Text, Tools
from tests.surfaces.test_mcp_stdio import bridge, call
from tollboard.daemon.client import Client
from tollboard.fleet.records import ApprovalRecord
from tollboard.surfaces.cli.output import plain
from tollboard.testing.model_api import ModelAPI, Reply, ToolCall

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")
pytestmark = pytest.mark.slow

COMMANDS = tuple(f"echo {number} > made{number}" for number in range(4))
SHAPE: dict[str, type] = {
    "id": str, "session": str, "ref": str, "path": str, "tool": str, "arguments": dict, "display": str, "allowed": list,
    "state": str, "requested_at": float, "decided_at": type(None), "decided_by": type(None), "decision": type(None),
    "kind": str, "questions": list,
}  # fmt: skip

Document = dict[str, Any]
Start = Callable[[Client, Path, ModelAPI, MessagesAPI], Awaitable[object]]


async def own(board: Client, work: Path, model: ModelAPI, claude: MessagesAPI) -> object:
    """Start a session whose own tool is guarded."""
    calls = tuple(ToolCall("run_command", {"command": command}) for command in COMMANDS)
    model.script(Reply(calls=calls), "done")
    options = {"model": "anthropic:claude-sonnet-5-5", "base_url": model.anthropic_url}
    return await board.start_session("it", path=work, backend="model", **options)


async def sub_agent(board: Client, work: Path, model: ModelAPI, claude: MessagesAPI) -> object:
    """Start a session whose sub-agent's sub-agent's sub-agent has the guarded tool."""
    below: list[Document] = []
    for name in ("low", "middle", "top"):
        below = [{"name": name, "description": name, "system_prompt": name, "sub_agents": below}]
    tasks = [ToolCall("task", {"task_name": name, "instructions": "on"}) for name in ("top", "middle", "low")]
    calls = tuple(ToolCall("run_command", {"command": command}) for command in COMMANDS)
    model.script(
        *(Reply(calls=(task,)) for task in tasks), Reply(calls=calls), *("below is done",) * 3, "done"
    )
    options = {
        "model": "anthropic:claude-sonnet-5-5",
        "base_url": model.anthropic_url,
        "sub_agents": below,
    }
    return await board.start_session("it", path=work, backend="model", **options)


async def claude_code(board: Client, work: Path, model: ModelAPI, claude: MessagesAPI) -> object:
    """Start a session of the real Claude Code, which asks for permission."""
    pytest.importorskip(
        "claude_agent_sdk", reason="claude-agent-sdk is missing: pip install 'tollboard[claude]'"
    )
    claude.script(Tools([("Bash", {"command": command}) for command in COMMANDS]), Text("done"))
    home = work.parent / "home"
    home.mkdir()
    env = {
        "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / ".claude"), "ANTHROPIC_API_KEY": "$TEST_KEY",
        "CLAUDE_CODE_MAX_RETRIES": "1",
    }  # fmt: skip
    return await board.start_session(
        "it", path=work, backend="claude", model=PRICED_MODEL, base_url=claude.url, env=env
    )


async def typed(home: Path, *words: str) -> str:
    """Return what a command says."""
    command = [sys.executable, "-m", "tollboard", "--home", str(home), *words]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.parametrize(
    ("start", "asker"),
    [
        (own, "it"),
        (sub_agent, "it/top/middle/low"),
        pytest.param(claude_code, "it", marks=pytest.mark.claude),
    ],
)
async def test_a25_it_has_one_shape_and_one_command_whoever_asks(
    start: Start, asker: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "dummy")
    work = tmp_path / "work"
    work.mkdir()
    transport = httpx.AsyncHTTPTransport(uds=str(home / "daemon.sock"))
    async with (
        ModelAPI() as model,
        MessagesAPI() as claude,
    ):
        with DaemonProcess(home):
            async with (
                Client.connect(home, start=False) as board,
                httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http,
                McpClient(bridge(home, "--grant", "approve")) as host,
            ):
                await start(board, work, model, claude)
                ref = await board.send("it", "go")
                decide = (
                    lambda id: typed(home, "approve", id[-6:]),
                    lambda id: typed(home, "edit", id, "--arguments", '{"command": "echo x > edited"}'),
                    lambda id: post(
                        http, "decide", approval_id=id, decision={"type": "reject", "message": "no"}
                    ),
                    lambda id: call(host, "switchboard_decide", approval_id=id, decision={"type": "approve"}),
                )
                for number, command in enumerate(COMMANDS):
                    waiting = await waiting_for(board, command)
                    record = cast("Document", plain(waiting))
                    assert {name: type(value) for name, value in record.items()} == SHAPE
                    assert (record["session"], record["path"], record["ref"]) == ("it", asker, ref)
                    assert record["allowed"] == ["approve", "edit", "reject"]
                    assert record in await post(http, "approvals")
                    assert record in (await call(host, "switchboard_approvals"))["result"]
                    if number == 0:
                        assert record in json.loads(await typed(home, "approvals", "--json"))
                        looks_right(await typed(home, "approvals"), record)
                    await decide[number](waiting.id)
                report = await board.wait([ref], timeout=60)
                assert report.done[0].status == "completed", report
                every = await board.approvals(all=True)
    states = {str(one.arguments["command"])[5]: one.state.value for one in every}
    assert states == {"0": "approved", "1": "edited", "2": "rejected", "3": "approved"}
    surfaces = [
        str(one.decided_by).partition(":")[0] for one in sorted(every, key=lambda one: str(one.arguments))
    ]
    assert surfaces == ["cli", "cli", "http", "mcp"]
    assert sorted(path.name for path in work.iterdir()) == ["edited", "made0", "made3"]


def test_the_shape_is_all_of_the_record() -> None:
    assert list(SHAPE) == [field.name for field in fields(ApprovalRecord)]


async def waiting_for(board: Client, command: str) -> ApprovalRecord:
    """Return the question about this command once it waits."""
    async with aclosing(cast("Any", board.tail(kinds=("approval.requested",), after=0))) as feed:
        async for item in feed:
            for record in await board.approvals():
                if record.id == item.data["approval"] and record.arguments["command"] == command:
                    return record
    raise AssertionError


async def post(http: httpx.AsyncClient, operation: str, **arguments: object) -> Any:
    answer = await http.post(f"/v1/{operation}", json=arguments)
    assert answer.status_code == 200, answer.text
    return answer.json()


def looks_right(said: str, record: Document) -> None:
    """What a person reads has the same lines in the same order, whoever asks."""
    (part,) = [part for part in said.split("\n\n") if record["id"] in part]
    title, *lines = part.strip().split("\n")
    assert title == f"it wants to use {record['tool']}"
    by = ["by"] if record["path"] != "it" else []
    shown = ["shown"] if record["display"] else []
    names = ["id", "state", "asked", *by, *shown, *record["arguments"], "allowed"]
    assert [line.split()[0] for line in lines] == names
