"""The real Claude Code program as the manager: an MCP host on `tollboard mcp`, its model played by the stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.claude_host import claude_code, last_json
from tests.daemon.process import DaemonProcess
from tests.fakes.messages_api import MessagesAPI
from tollboard.daemon.client import Client
from tollboard.runtime.event import ResultEvent, ToolResultEvent

pytestmark = [pytest.mark.claude, pytest.mark.slow]

ASKS = [{"approval": {"tool": "shell", "arguments": {"command": "ls"}}, "then": "{decision}"}]


@pytest.mark.parametrize("granted", [False, True])
async def test_s13_s27_claude_code_manages_two_sessions(home: Path, tmp_path: Path, granted: bool) -> None:
    words = ("--grant", "approve") if granted else ()
    start = {"path": str(tmp_path), "backend": "echo"}
    with DaemonProcess(home):
        async with (
            MessagesAPI() as api,
            claude_code(api, home, tmp_path, *words) as host,
            Client.connect(home, start=False) as person,
        ):
            turn = await host.turn(
                "manage",
                ("switchboard_start_session", {"name": "api", **start}),
                ("switchboard_start_session", {"name": "docs", **start}),
                ("switchboard_send", {"name": "api", "prompt": "which tests fail?"}),
                lambda results: ("switchboard_wait", {"refs": [last_json(results)["result"]]}),
                ("switchboard_inbox", {"ack": True}),
                ("switchboard_summary_update", {"name": "api", "text": "One turn done."}),
            )
            assert isinstance(turn.events[-1], ResultEvent), turn.events[-1]
            assert sum(isinstance(event, ToolResultEvent) for event in turn.events) == 6
            assert "echo: which tests fail?" in "".join(host.model.results)
            assert [one.name for one in await person.list_sessions()] == ["api", "docs"]
            assert (await person.summary_get("api")).text == "One turn done."
            assert not (await person.inbox(reader="mcp-claude-code")).entries
            await person.start_session("asks", path=tmp_path, backend="scripted", script=ASKS)
            ref = await person.send("asks", "go")
            async for item in person.tail("asks", after=0):
                if item.kind == "approval.requested":
                    break
            (approval,) = await person.approvals("asks")
            await host.turn(
                "decide",
                ("switchboard_decide", {"approval_id": approval.id, "decision": {"type": "approve"}}),
                ("switchboard_stop_session", {"name": "api"}),
                ("switchboard_stop_session", {"name": "docs"}),
            )
            decided = [one.state.value for one in await person.approvals("asks", all=True)]
            assert decided == ["approved" if granted else "pending"]
            assert ("--grant approve" in host.model.results[0]) is not granted
            if granted:
                assert (await person.wait([ref], timeout=20)).done
            assert [one.name for one in await person.list_sessions()] == ["asks"]
