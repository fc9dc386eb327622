"""`tollboard mcp` as a host starts it: the real program on pipes, the real daemon behind it, in both protocol eras."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from mcp import Client as McpClient
from mcp import StdioServerParameters

from tests.daemon.process import DaemonProcess
from tests.surfaces.person import Person
from tests.surfaces.terminal import Terminal
from tollboard.daemon.client import Client

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


@pytest.mark.parametrize("host", ["claude", "codex", "gemini", "opencode", "cursor", "vscode"])
def test_install_writes_the_hosts_configuration(
    person: Person, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
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


def test_install_keeps_what_stands_there(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".claude.json"
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
