"""The real Claude Code program as the manager: an MCP host on `tollboard mcp`, its model played by the stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import DaemonProcess
from tests.fakes.messages_api import Answer, MessagesAPI, Request, Text, Tools
from tollboard.backends.claude import ClaudeBackend
from tollboard.daemon.client import Client
from tollboard.runtime.event import ResultEvent, ToolResultEvent
from tollboard.testing.backend_contract import RecordingTurn, run_turn

pytestmark = [pytest.mark.claude, pytest.mark.slow]

ASKS = [{"approval": {"tool": "shell", "arguments": {"command": "ls"}}, "then": "{decision}"}]
Call = tuple[str, dict[str, Any]]


class Manager:
    """A manager model that calls the tools it is told to, one after the other, and remembers what came back."""

    def __init__(self, api: MessagesAPI) -> None:
        self.results: list[str] = []
        self._left: list[Any] = []
        api.handler = self._answer

    def will(self, *calls: Any) -> None:
        """Call these tools next; a function is given the results so far and returns a call."""
        self._left = list(calls)
        self.results = []

    def _answer(self, request: Request) -> Answer | None:
        self.results += request.tool_results
        if not self._left:
            return Text("done")
        step = self._left.pop(0)
        tool, arguments = step(self.results) if callable(step) else step
        return Tools([(f"mcp__tollboard__{tool}", arguments)])


@pytest.fixture
async def api() -> AsyncIterator[MessagesAPI]:
    async with MessagesAPI() as served:
        yield served


def last_json(results: list[str]) -> Any:
    """Return the JSON that the newest result holds, behind the note about data."""
    text = results[-1]
    return json.loads(text[text.index("{") :])


@pytest.mark.parametrize("granted", [False, True])
async def test_s13_s27_claude_code_manages_two_sessions(
    home: Path, tmp_path: Path, api: MessagesAPI, granted: bool
) -> None:
    manager = Manager(api)
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    env = {
        "HOME": str(tmp_path / "home"), "CLAUDE_CONFIG_DIR": str(tmp_path / "home" / ".claude"),
        "ANTHROPIC_API_KEY": "dummy", "CLAUDE_CODE_MAX_RETRIES": "1",
    }  # fmt: skip
    words = ["-m", "tollboard", "--home", str(home), "mcp", *(("--grant", "approve") if granted else ())]
    servers = {"tollboard": {"type": "stdio", "command": sys.executable, "args": words}}
    backend = ClaudeBackend()
    with DaemonProcess(home):
        session = await backend.start_session(
            {
                "cwd": str(tmp_path / "work"), "base_url": api.url, "env": env, "mcp_servers": servers,
                "allowed_tools": ["mcp__tollboard"],
            }
        )  # fmt: skip
        try:
            start = {"path": str(tmp_path / "work"), "backend": "echo"}
            manager.will(
                ("switchboard_start_session", {"name": "api", **start}),
                ("switchboard_start_session", {"name": "docs", **start}),
                ("switchboard_send", {"name": "api", "prompt": "which tests fail?"}),
                lambda results: ("switchboard_wait", {"refs": [last_json(results)["result"]]}),
                ("switchboard_inbox", {"ack": True}),
                ("switchboard_summary_update", {"name": "api", "text": "One turn done."}),
            )
            turn = RecordingTurn()
            events = await run_turn(backend, session, "manage", turn)
            assert isinstance(events[-1], ResultEvent), events[-1]
            assert sum(isinstance(event, ToolResultEvent) for event in events) == 6
            assert "echo: which tests fail?" in "".join(manager.results)
            async with Client.connect(home, start=False) as person:
                assert [one.name for one in await person.list_sessions()] == ["api", "docs"]
                assert (await person.summary_get("api")).text == "One turn done."
                assert not (await person.inbox(reader="mcp")).entries
                await person.start_session("asks", path=tmp_path / "work", backend="scripted", script=ASKS)
                ref = await person.send("asks", "go")
                async for item in person.tail("asks", after=0):
                    if item.kind == "approval.requested":
                        break
                (approval,) = await person.approvals("asks")
                manager.will(
                    ("switchboard_decide", {"approval_id": approval.id, "decision": {"type": "approve"}}),
                    ("switchboard_stop_session", {"name": "api"}),
                    ("switchboard_stop_session", {"name": "docs"}),
                )
                await run_turn(backend, session, "decide", RecordingTurn())
                decided = [one.state.value for one in await person.approvals("asks", all=True)]
                assert decided == ["approved" if granted else "pending"]
                assert ("--grant approve" in manager.results[0]) is not granted
                if granted:
                    assert (await person.wait([ref], timeout=20)).done
                assert [one.name for one in await person.list_sessions()] == ["asks"]
        finally:
            await backend.terminate_session(session)
