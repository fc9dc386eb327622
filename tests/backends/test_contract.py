"""Every built-in backend passes the conformance suite that ships for third-party ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.messages_api import MessagesAPI
from tollboard.backends import load
from tollboard.testing.backend_contract import BackendCase, BackendContract, RecordingTurn
from tollboard.testing.model_api import ModelAPI, Reply, Seen, ToolCall


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


class TestModel(BackendContract):
    @pytest.fixture
    async def case(self, tmp_path: Path) -> AsyncIterator[BackendCase]:
        pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")

        def answer(seen: Seen) -> Reply:
            match seen.messages[-1].text:
                case "slow":
                    return Reply("thinking", hang=True)
                case "fail":
                    return Reply("told to", status=400)
                case "guard":
                    return Reply(calls=(ToolCall("run_command", {"command": "echo a > made"}),))
                case "recall":
                    return Reply(" ".join(m.text for m in seen.messages if m.role == "user"))
            return Reply("hello")

        async with ModelAPI(answer) as api:

            async def model_called(turn: RecordingTurn) -> None:
                await api.wait_for_hanging()

            yield BackendCase(
                backend=load("model"),
                options={
                    "model": "openai:gpt-5",
                    "base_url": api.openai_url,
                    "cwd": str(tmp_path),
                },
                slow="slow",
                under_way=model_called,
                fail="fail",
                approval="guard",
                edited={"command": "echo b > made"},
                recall="recall",
                fresh=lambda: load("model"),
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
            recall="recall",
            fresh=lambda: load("claude"),
        )
