"""Every built-in backend passes the conformance suite that ships for third-party ones."""

from __future__ import annotations

import pytest

from tests.fakes.messages_api import MessagesAPI
from tollboard.backends import load
from tollboard.testing.backend_contract import BackendCase, BackendContract, RecordingTurn


class TestEcho(BackendContract):
    @pytest.fixture
    def case(self) -> BackendCase:
        return BackendCase(
            backend=load("echo"),
            slow="wait",
            slow_options={"delay": 3600.0},
            fail="fail",
            fail_options={"fail": "told to"},
            fresh=lambda: load("echo"),
        )


class TestScripted(BackendContract):
    @pytest.fixture
    def case(self) -> BackendCase:
        script = [
            {"when": "slow", "process": ["sleep", "3600"], "text": "thinking", "hang": True},
            {"when": "fail", "error": "told to"},
            {"when": "guard", "approval": {"tool": "sh", "arguments": {"cmd": "rm"}}},
            "hello",
        ]

        async def said_something(turn: RecordingTurn) -> None:
            await turn.spoke.wait()

        return BackendCase(
            backend=load("scripted"),
            options={"script": script, "repeat": True},
            slow="slow",
            under_way=said_something,
            fail="fail",
            approval="guard",
            edited={"cmd": "ls"},
            fresh=lambda: load("scripted"),
        )


@pytest.mark.claude
class TestClaude(BackendContract):
    @pytest.fixture
    def case(self, messages_api: MessagesAPI, claude_options: dict[str, object]) -> BackendCase:
        async def model_called(turn: RecordingTurn) -> None:
            await messages_api.wait_held()

        return BackendCase(
            backend=load("claude"),
            options=claude_options,
            plain="say hello",
            slow="hang",
            under_way=model_called,
            fail="fail 400",
            approval="run echo a > made",
            edited={"command": "echo b > made"},
            fresh=lambda: load("claude"),
        )
