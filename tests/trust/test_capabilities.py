"""What `send` alone may start: nothing that runs a program, names an address or a key, or lifts a guard (S27)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import DaemonProcess
from tests.surfaces.served import Served
from tollboard.backends import load
from tollboard.operations.access import Capability

SENDS = (Capability.READ, Capability.SEND)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("h")
    home.chmod(0o700)
    config = "tcp_host = '127.0.0.1'\nsend_options = ['add_dirs']"
    with DaemonProcess(home, config=config, env={**os.environ, "ANTHROPIC_API_KEY": "none"}) as daemon:
        yield Served(daemon)


CLAUDE_POWERS: dict[str, object] = {
    "cli_path": "/bin/sh", "mcp_servers": {"x": {"command": "cp", "args": ["token", "/tmp"]}},
    "env": {"LD_PRELOAD": "/tmp/x.so"}, "base_url": "http://127.0.0.1:1", "allowed_tools": ["Bash"],
    "permission_mode": "acceptEdits", "setting_sources": ["project"], "strict_mcp": False,
}  # fmt: skip
MODEL_POWERS: dict[str, object] = {
    "mcp_servers": {"x": {"command": "cp"}}, "env": {"OPENAI_BASE_URL": "x"}, "base_url": "http://127.0.0.1:1",
    "guards": {"run_command": False}, "tools": ["read_file", "deploy"],
    "settings": {"extra_headers": {"x": "y"}},
    "sub_agents": [{"name": "a", "description": "b", "system_prompt": "c", "guards": {"write_file": False}}],
}  # fmt: skip
CASES = [
    *(("claude", {name: value}) for name, value in CLAUDE_POWERS.items()),
    *(("model", {"model": "openai:gpt-5", name: value}) for name, value in MODEL_POWERS.items()),
    ("scripted", {"script": [[{"process": ["cp", "token", "/tmp"]}]]}),
    ("scripted", {"script": [{"when": "x", "process": ["cp"]}]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "options"), CASES)
@pytest.mark.parametrize("operation", ["start_session", "check_session", "pool_start", "pool_check"])
def test_s27_send_alone_gives_no_session_more_rights(
    served: Served, tmp_path: Path, operation: str, backend: str, options: dict[str, object]
) -> None:
    more: dict[str, Any] = {"size": 1} if operation.startswith("pool") else {}
    with served.tcp(served.narrow(*SENDS)) as http:
        answer = http.post(
            f"/v1/{operation}",
            json={"name": "mine", "path": str(tmp_path), "backend": backend, "options": options, **more},
        )
    assert answer.status_code == 403, answer.text
    assert next(name for name in options if name != "model") in answer.json()["error"]["message"]


@pytest.mark.slow
def test_s27_send_starts_plain_sessions_and_what_the_configuration_lists(
    served: Served, tmp_path: Path
) -> None:
    plain = {"delay": 0.0, "watchdog_s": 30.0}
    listed = {"add_dirs": [str(tmp_path)], "permission_mode": "plan", "system_prompt": "Be brief."}
    with served.tcp(served.narrow(*SENDS)) as http:
        for backend, options in (("echo", plain), ("claude", listed)):
            asked = {"name": "mine", "path": str(tmp_path), "backend": backend, "options": options}
            answer = http.post("/v1/check_session", json=asked)
            assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_s27_configure_allows_every_option_and_so_does_the_socket(served: Served, tmp_path: Path) -> None:
    asked = {"name": "mine", "path": str(tmp_path), "backend": "scripted",
             "options": {"script": [[{"process": ["true"]}]]}}  # fmt: skip
    with served.tcp(served.narrow(*SENDS, Capability.CONFIGURE)) as http:
        assert http.post("/v1/check_session", json=asked).status_code == 200
    with served.unix() as http:
        assert http.post("/v1/check_session", json=asked).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "..", "token-link"])
def test_s27_send_alone_anchors_no_session_around_the_daemons_own_files(
    served: Served, tmp_path: Path, place: str
) -> None:
    (tmp_path / "token-link").symlink_to(served.home.path)
    path = tmp_path / place if place == "token-link" else served.home.path / place
    with served.tcp(served.narrow(*SENDS)) as http:
        answer = http.post("/v1/start_session", json={"name": "mine", "path": str(path), "backend": "echo"})
    assert answer.status_code == 403, answer.text


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        (
            "claude",
            {"model": "sonnet", "permission_mode": "plan", "disallowed_tools": ["Bash"], "max_turns": 3},
        ),
        ("claude", {"allowed_tools": [], "strict_mcp": True, "env": {}, "cli_path": None}),
        (
            "model",
            {"model": "openai:gpt-5", "guards": {"read_file": True}, "tools": ["read_file"], "max_runs": 3},
        ),
        ("model", {"settings": {"temperature": 0.1}, "limits": {"request_limit": 3}}),
        (
            "model",
            {"sub_agents": [{"name": "a", "description": "b", "system_prompt": "c", "model": "openai:x"}]},
        ),
        ("scripted", {"script": ["hi", [{"text": "x"}, {"delay": 0}]], "repeat": True}),
        ("echo", {"delay": 1}),
    ],
)
def test_options_that_give_no_more_rights_are_plain(backend: str, options: dict[str, object]) -> None:
    assert load(backend).powers(options) == ()


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("claude", {"unheard_of": 1}),
        ("echo", {"unheard_of": 1}),
        ("model", {"unheard_of": 1}),
        ("model", {"guards": "all"}),
        ("model", {"sub_agents": {"name": "a", "guards": {"x": False}}}),
        ("model", {"sub_agents": [{"sub_agents": [{"guards": {"run_command": False}}]}]}),
        ("model", {"tools": "deploy"}),
        ("scripted", {"script": {"a": [{"process": []}]}}),
    ],
)
def test_what_is_not_known_to_be_plain_is_a_power(backend: str, options: dict[str, object]) -> None:
    assert load(backend).powers(options) != ()
