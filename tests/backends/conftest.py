"""What the tests of backends share: the loopback Messages API and the options that point the real program at it."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.messages_api import PRICED_MODEL, MessagesAPI

pytest.register_assert_rewrite("tollboard.testing.backend_contract")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real Claude Code where its extra is not installed."""
    if importlib.util.find_spec("claude_agent_sdk") is not None:
        return
    skip = pytest.mark.skip(reason="claude-agent-sdk is missing: pip install 'tollboard[claude]'")
    for item in items:
        if item.get_closest_marker("claude") is not None:
            item.add_marker(skip)


@pytest.fixture
async def messages_api() -> AsyncIterator[MessagesAPI]:
    """Serve a stand-in for the Messages API on the loopback."""
    async with MessagesAPI() as api:
        yield api


@pytest.fixture
def claude_options(messages_api: MessagesAPI, tmp_path: Path) -> dict[str, object]:
    """Return options for the real program: the stand-in, a private home, a directory of its own, few retries."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    env = {
        "HOME": str(tmp_path / "home"),
        "CLAUDE_CONFIG_DIR": str(tmp_path / "home" / ".claude"),
        "ANTHROPIC_API_KEY": "dummy",
        "CLAUDE_CODE_MAX_RETRIES": "1",
    }
    return {"cwd": str(tmp_path / "work"), "base_url": messages_api.url, "model": PRICED_MODEL, "env": env}
