"""What programs of a session see of the daemon's environment (S27)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.messages_api import MessagesAPI, Text, Tools
from tollboard.backends._environment import inherited, inherited_by_claude
from tollboard.backends.claude import ClaudeBackend
from tollboard.runtime.event import ToolResultEvent
from tollboard.testing.backend_contract import RecordingTurn, run_turn

DAEMON = {
    "PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "GITHUB_PAT": "s", "DSN": "s", "OPENAI_API_KEY": "s",
    "AWS_PROFILE": "s",
    "ANTHROPIC_API_KEY": "s", "CLAUDE_CONFIG_DIR": "/c", "HTTPS_PROXY": "http://u:s@p", "no_proxy": "x",
    "DBUS_SESSION_BUS_ADDRESS": "s",
}  # fmt: skip


def test_commands_inherit_a_list() -> None:
    assert inherited(DAEMON).keys() == {"PATH", "HOME", "LC_ALL", "no_proxy"}
    assert inherited(DAEMON, ["DSN", "HTTPS_PROXY"]).keys() == {
        "PATH", "HOME", "LC_ALL", "no_proxy", "DSN", "HTTPS_PROXY",
    }  # fmt: skip


def test_claude_code_inherits_its_login_too_and_a_clouds_where_it_is_to_use_it() -> None:
    ours = {"PATH", "HOME", "LC_ALL", "no_proxy", "ANTHROPIC_API_KEY", "CLAUDE_CONFIG_DIR"}
    assert inherited_by_claude(DAEMON).keys() == ours
    cloud = {**DAEMON, "CLAUDE_CODE_USE_BEDROCK": "1"}
    assert inherited_by_claude(cloud).keys() == ours | {"AWS_PROFILE", "CLAUDE_CODE_USE_BEDROCK"}


@pytest.mark.claude
@pytest.mark.slow
async def test_s27_claude_code_and_its_commands_see_a_list_of_variables(
    messages_api: MessagesAPI, claude_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GITHUB_PAT", "DATABASE_URL", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "hidden-treasure")
    monkeypatch.setenv("LISTED", "is-seen")
    backend = ClaudeBackend()
    options = {**claude_options, "allowed_tools": ["Bash"], "pass_env": ("LISTED",)}
    session = await backend.start_session(options)
    look = "env; tr '\\0' '\\n' < /proc/$PPID/environ"
    messages_api.script(Tools([("Bash", {"command": look})]), Text("done"))
    turn = RecordingTurn()
    try:
        await run_turn(backend, session, "look", turn)
    finally:
        await backend.terminate_session(session)
    (said,) = [event.content for event in turn.events if isinstance(event, ToolResultEvent)]
    assert "hidden-treasure" not in said
    assert "is-seen" in said
