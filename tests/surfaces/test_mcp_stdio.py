"""`tollboard mcp` as a host starts it: the real program on pipes, the real daemon behind it, in both protocol eras."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
from mcp import Client as McpClient
from mcp import StdioServerParameters
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from tests.daemon.process import DaemonProcess
from tests.surfaces.person import Person
from tests.surfaces.terminal import Terminal
from tollboard.daemon.client import Client
from tollboard.daemon.config import state_directory
from tollboard.daemon.single import owner_pid, wait_for_exit
from tollboard.surfaces.mcp import greeting

pytestmark = pytest.mark.slow

HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}  # fmt: skip
# Whatever prints while a call runs.
NOISE = (
    "from tollboard.surfaces.mcp import server; real = server.parse_arguments; "
    "server.parse_arguments = lambda *a: (print('stray', flush=True), os.write(1, b'stray'), real(*a))[2]; "
)


def bridge(home: Path, *words: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-m", "tollboard", "--home", str(home), "mcp", *words]
    )


async def call(client: McpClient, tool: str, /, **arguments: object) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_s13_s27_e52_a_host_drives_the_fleet_beside_a_person(
    home: Path, tmp_path: Path, mode: Any
) -> None:
    with DaemonProcess(home):
        async with McpClient(bridge(home), mode=mode) as host, Client.connect(home, start=False) as person:
            await person.start_session("mine", path=tmp_path, backend="echo")
            await call(host, "switchboard_start_session", name="its", path=str(tmp_path), backend="echo")
            assert [one.name for one in await person.list_sessions()] == ["mine", "its"]
            ref = (await call(host, "switchboard_send", name="mine", prompt="from the host"))["result"]
            report = await person.wait([ref], timeout=20)
            assert report.done[0].text == "echo: from the host"
            mine = await person.send("its", "from the person")
            await person.wait([mine], timeout=20)
            inbox = await call(host, "switchboard_inbox", ack=True)
            assert [entry["prompt"] for entry in inbox["entries"]] == ["from the host", "from the person"]
            # The token is narrow: the daemon refuses as well, whatever the bridge thinks.
            denied = await host.call_tool(
                "switchboard_decide", {"approval_id": "x", "decision": {"type": "approve"}}
            )
            assert "denied" in cast("Any", denied.content[0]).text


async def test_the_daemon_is_started_and_outlives_the_host(home: Path, tmp_path: Path) -> None:
    async with McpClient(bridge(home)) as host:
        await call(host, "switchboard_start_session", name="api", path=str(tmp_path), backend="echo")
    async with Client.connect(home, start=False) as person:
        assert [one.name for one in await person.list_sessions()] == ["api"]
        await person.shutdown()


def test_e52_nothing_but_the_protocol_is_on_standard_output(home: Path) -> None:
    command = [sys.executable, "-m", "tollboard", "--home", str(home), "mcp"]
    with DaemonProcess(home):
        done = subprocess.run(
            command, input=json.dumps(HELLO) + "\n", capture_output=True, text=True, timeout=60, check=True
        )
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["result"]["serverInfo"]["name"] == "tollboard"
    assert done.stderr == ""


@pytest.mark.parametrize("version", ["2025-06-18", "2000-01-01"])
def test_the_first_answer_is_what_the_sdk_would_have_said(home: Path, version: str) -> None:
    hello = {**HELLO, "params": {**HELLO["params"], "protocolVersion": version}}  # type: ignore[dict-item]
    # With a version that is no text it is left to the SDK, which refuses it; then the second is the SDK's to answer.
    odd = {**hello, "id": 0, "params": {**hello["params"], "clientInfo": {"name": "t", "version": 1}}}  # type: ignore[dict-item]
    early, late = (
        subprocess.run(
            [sys.executable, "-m", "tollboard", "--home", str(home), "mcp"], timeout=60, check=True, text=True,
            input="".join(json.dumps(one) + "\n" for one in said), stdout=subprocess.PIPE,
        ).stdout.splitlines()
        for said in ([hello], [odd, hello])
    )  # fmt: skip
    assert [json.loads(one) for one in early] == [json.loads(late[-1])]
    assert json.loads(early[0])["result"]["protocolVersion"] in HANDSHAKE_PROTOCOL_VERSIONS


def test_the_first_answer_is_given_in_every_version_that_the_sdk_greets_in() -> None:
    assert greeting.VERSIONS == HANDSHAKE_PROTOCOL_VERSIONS


def test_the_first_answer_needs_nothing_that_takes_long_to_load() -> None:
    code = (
        "import sys; import tollboard.surfaces.cli.mcp_cmds, tollboard.surfaces.mcp.greeting, "
        "tollboard.surfaces.mcp.policy, tollboard.daemon.config; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"mcp", "mcp_types", "pydantic", "fastapi", "starlette", "sqlalchemy", "asyncio"} & set(loaded)


def test_the_bridge_loads_no_server() -> None:
    code = "import sys; import tollboard.surfaces.mcp.stdio; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"fastapi", "sqlalchemy", "pydantic_ai", "tollboard.fleet.switchboard"} & set(loaded)


async def test_a_daemon_that_died_is_started_again(home: Path, tmp_path: Path) -> None:
    async with McpClient(bridge(home)) as host:
        await call(host, "switchboard_start_session", name="api", path=str(tmp_path), backend="echo")
        for tool, given in (
            ("switchboard_status", {"name": "api"}),
            ("switchboard_send", {"name": "api", "prompt": "x", "queue": True}),
            ("switchboard_list_sessions", {}),
        ):
            pid = owner_pid(state_directory(home))
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            wait_for_exit(pid, 20)
            await call(host, tool, **given)
    async with Client.connect(home, start=False) as person:
        await person.shutdown()


async def test_a_host_is_answered_where_no_daemon_can_start_and_a_call_says_why(home: Path) -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "tollboard.toml").write_text("no such setting = 1")
    async with McpClient(bridge(home), mode="legacy") as host:
        assert len((await host.list_tools()).tools) > 20
        for _ in range(2):
            failed = await host.call_tool("switchboard_list_sessions", {})
            said = json.loads(cast("Any", failed.content[0]).text)
            assert "tollboard.toml" in said["message"]
        (home / "tollboard.toml").unlink()
        await call(host, "switchboard_list_sessions")
    async with Client.connect(home, start=False) as person:
        await person.shutdown()


@pytest.mark.parametrize("given", ["pipe", "socket", "file", "nothing"])
def test_whatever_standard_input_is_it_ends_with_it(home: Path, tmp_path: Path, given: str) -> None:
    said = b"this is no message\n" + json.dumps(HELLO).encode() + b"\n"
    file = tmp_path / "said"
    file.write_bytes(b"" if given == "nothing" else said)
    ours, its = socket.socketpair()
    ways: dict[str, dict[str, Any]] = {
        "pipe": {"input": said},
        "socket": {"stdin": its},
        "file": {"stdin": file.open("rb")},
        "nothing": {"stdin": subprocess.DEVNULL},
    }
    ours.sendall(said)
    ours.shutdown(socket.SHUT_WR)
    with DaemonProcess(home), ours, its, ways["file"]["stdin"]:
        done = subprocess.run(
            [sys.executable, "-m", "tollboard", "--home", str(home), "mcp"],
            stdout=subprocess.PIPE, timeout=60, check=True, **ways[given],
        )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if given != "nothing":
        assert answers[-1]["result"]["serverInfo"]["name"] == "tollboard"


def test_a_request_that_cannot_be_read_is_answered(home: Path) -> None:
    call = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":%b}\n'
    said = [
        call % (b"2", rb'{"name":"switchboard_send","arguments":{"name":"a","prompt":"half: \ud800"}}'),
        call % (b'"three"', b"[1]"),
        call % (b"4", b'{"name":"\xff"}'),
        call % (b"5", b"[" * 500 + b"]" * 500),
        b'{"jsonrpc":"2.0","id":6}\n',
        # Nobody waits for an answer to these.
        b'{"jsonrpc":"2.0","id":7,"result":1}\n',
        b'{"id":true,"method":"ping"}\n',
        b"[[[\n",
        b'{"jsonrpc":"2.0","id":8,"method":"ping"}\n',
    ]
    with DaemonProcess(home):
        done = subprocess.run(
            [sys.executable, "-m", "tollboard", "--home", str(home), "mcp"],
            input=json.dumps(HELLO).encode() + b"\n" + b"".join(said), stdout=subprocess.PIPE, timeout=60, check=True,
        )  # fmt: skip
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    codes = {id: answer["error"]["code"] for id, answer in answers.items() if "error" in answer}
    assert codes == {2: -32700, "three": -32600, 4: -32700, 5: -32700, 6: -32600}
    assert set(answers) - set(codes) == {1, 8}
    assert "whole Unicode characters" in answers[2]["error"]["message"]


async def test_a_long_message_goes_both_ways_and_nothing_else_reaches_the_wire(
    home: Path, tmp_path: Path
) -> None:
    prompt = "é" * 300_000
    with DaemonProcess(home):
        noisy = bridge(home)
        words = "import os, sys; from tollboard.surfaces.cli import main; "
        noisy.args = ["-c", words + NOISE + "main()", *noisy.args[2:]]
        async with McpClient(noisy) as host, Client.connect(home, start=False) as person:
            await call(host, "switchboard_start_session", name="api", path=str(tmp_path), backend="echo")
            ref = (await call(host, "switchboard_send", name="api", prompt=prompt))["result"]
            report = await person.wait([ref], timeout=20)
            assert report.done[0].text == f"echo: {prompt}"
            shown = await call(host, "switchboard_transcript", name="api")
            assert shown["entries"][0]["text"].endswith("é")


def test_ctrl_c_ends_it_on_a_terminal(home: Path) -> None:
    with (
        DaemonProcess(home),
        Terminal([sys.executable, "-m", "tollboard", "--home", str(home), "mcp"], {}) as terminal,
    ):
        terminal.shows("Ctrl-C ends it")
        terminal.types(json.dumps(HELLO) + "\n")
        terminal.shows("serverInfo")  # it is up
        terminal.interrupt()
        assert terminal.ended() == 130


def test_what_cannot_be_granted_is_said(person: Person) -> None:
    failed = person.types("mcp", "--grant", "admin")
    assert failed.code == 2
    assert "'admin' cannot be granted" in failed.err


HOSTS = ["claude", "codex", "gemini", "opencode", "cursor", "vscode"]
SECRET = "sk-live-1"


@pytest.fixture
def of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home directory that no host has written to."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CODEX_HOME", "CLAUDE_CONFIG_DIR", "TOLLBOARD_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("host", HOSTS)
def test_install_writes_the_hosts_configuration(person: Person, host: str, of_nobody: Path) -> None:
    shown = person.types("mcp", "install", host, "--dry-run", "--json").json
    file = Path(shown["file"])
    assert not file.exists()
    person.does("mcp", "install", host, "--grant", "approve")
    person.does("mcp", "install", host, "--grant", "approve")  # idempotent
    text = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert text.count("approve") == 1
    if file.suffix == ".json":
        assert "tollboard" in json.dumps(json.loads(text))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("dry", [True, False])
def test_install_shows_its_entry_and_nothing_else_of_the_file(
    person: Person, host: str, dry: bool, of_nobody: Path
) -> None:
    words = ["mcp", "install", host, *(["--dry-run"] if dry else [])]
    file = Path(person.types(*words, "--dry-run", "--json").json["file"])
    file.parent.mkdir(parents=True, exist_ok=True)
    toml = file.suffix == ".toml"
    file.write_text(f'key = "{SECRET}"\n' if toml else json.dumps({"key": SECRET}))
    for more in ([], ["--json"]):
        said = person.types(*words, *more)
        assert SECRET not in said.out + said.err
        assert "tollboard" in said.out.lower()
    assert SECRET in file.read_text()


@pytest.mark.parametrize("host", HOSTS)
def test_install_says_which_home_the_shell_means(
    person: Person, host: str, of_nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLBOARD_HOME", str(of_nobody / "state"))
    command = person.types("mcp", "install", host, "--json").json["command"]
    assert command[-2:] == ["--home", str(of_nobody / "state")]


def test_install_codex_waits_for_the_tools_and_renews_what_an_earlier_one_wrote(
    person: Person, of_nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEX_HOME", str(of_nobody / "elsewhere"))
    file = of_nobody / "elsewhere" / "config.toml"
    file.parent.mkdir()
    file.write_text(
        'model = "m"\n[mcp_servers.tollboard]\ncommand = "old"\nargs = ["mcp"]\n\n'
        '# mine\n[mcp_servers.other]\ncommand = "x"\n'
    )
    person.does("mcp", "install", "codex")
    text = file.read_text()
    found = tomllib.loads(text)
    assert found["mcp_servers"]["tollboard"]["required"] is True
    assert found["mcp_servers"]["tollboard"]["args"] == ["mcp"]
    assert (found["model"], found["mcp_servers"]["other"]) == ("m", {"command": "x"})
    assert "\n# mine\n[mcp_servers.other]" in text
    for by_hand in (
        '[mcp_servers.tollboard]\ncommand = "x"\nenv = {A = "b"}\n',
        "mcp_servers = 1\n",
        "not = = toml",
    ):
        file.write_text(by_hand)
        assert person.types("mcp", "install", "codex").code != 0
        assert file.read_text() == by_hand


def test_install_keeps_what_stands_there(person: Person, of_nobody: Path) -> None:
    file = of_nobody / ".claude.json"
    file.write_text(json.dumps({"theme": "dark", "mcpServers": {"other": {"command": "x"}}}))
    file.chmod(0o644)
    person.does("mcp", "install", "claude")
    kept = json.loads(file.read_text())
    assert (kept["theme"], kept["mcpServers"]["other"]) == ("dark", {"command": "x"})
    assert kept["mcpServers"]["tollboard"]["args"] == ["mcp"]
    assert file.stat().st_mode & 0o777 == 0o644
    file.write_text("not json")
    failed = person.types("mcp", "install", "claude")
    assert (failed.code, file.read_text()) == (2, "not json")
    assert person.types("mcp", "install", "emacs").code == 2
