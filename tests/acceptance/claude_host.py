"""The real Claude Code program as an MCP host on `tollboard mcp`, its model played by the stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fakes.messages_api import Answer, MessagesAPI, Request, Text, Tools
from tollboard.backends.claude import ClaudeBackend
from tollboard.testing.backend_contract import RecordingTurn, run_turn

SERVER = "tollboard"


class Host:
    """Claude Code with a session of its own. What it is asked to do goes through `turn`."""

    def __init__(self, backend: ClaudeBackend, session: Any, model: Model) -> None:
        self.model = model
        self._backend = backend
        self._session = session

    async def turn(self, prompt: str, *calls: Any, seen: RecordingTurn | None = None) -> RecordingTurn:
        """Prompt it while its model makes these calls, one after the other; a call is a tool and its arguments, or a
        function that is given the results so far and returns that. Return the turn once it has ended."""
        self.model.will(*calls)
        turn = seen or RecordingTurn()
        await run_turn(self._backend, self._session, prompt, turn)
        return turn


class Model:
    """Calls the tools it is told to, one after the other, and remembers what came back."""

    def __init__(self, api: MessagesAPI) -> None:
        self.results: list[str] = []
        self._left: list[Any] = []
        api.handler = self._answer

    def will(self, *calls: Any) -> None:
        """Call these tools next."""
        self._left = list(calls)
        self.results = []

    def _answer(self, request: Request) -> Answer | None:
        self.results += request.tool_results
        if not self._left:
            return Text("done")
        step = self._left.pop(0)
        tool, arguments = step(self.results) if callable(step) else step
        return Tools([(f"mcp__{SERVER}__{tool}", arguments)])


@asynccontextmanager
async def claude_code(api: MessagesAPI, home: Path, place: Path, *words: str) -> AsyncIterator[Host]:
    """Start Claude Code in `place`/work with `tollboard mcp` and these words; `home` is the state directory."""
    (place / "work").mkdir()
    env = {
        "HOME": str(place), "CLAUDE_CONFIG_DIR": str(place / ".claude"), "ANTHROPIC_API_KEY": "dummy",
        "CLAUDE_CODE_MAX_RETRIES": "1", "ENABLE_TOOL_SEARCH": "false",
    }  # fmt: skip
    command = ["-m", "tollboard", "--home", str(home), "mcp", *words]
    backend = ClaudeBackend()
    session = await backend.start_session(
        {
            "cwd": str(place / "work"), "base_url": api.url, "env": env, "allowed_tools": [f"mcp__{SERVER}"],
            "mcp_servers": {SERVER: {"type": "stdio", "command": sys.executable, "args": command}},
        }
    )  # fmt: skip
    try:
        yield Host(backend, session, Model(api))
    finally:
        await backend.terminate_session(session)


def last_json(results: list[str]) -> Any:
    """Return the JSON that the newest result holds, behind the note about data."""
    text = results[-1]
    return json.loads(text[text.index("{") :])
