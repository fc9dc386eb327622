"""The help: every command has an example and the common options, and asking for help is cheap."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tollboard.surfaces.cli import main
from tollboard.surfaces.cli.app import SECTIONS
from tollboard.surfaces.cli.commands import app

HEAVY = (
    "alembic", "asyncio", "claude_agent_sdk", "fastapi", "httptools", "httpx", "IPython", "mcp", "mcp_types",
    "platformdirs", "psutil", "pydantic", "rich", "sqlalchemy", "sqlite3", "starlette", "uvicorn",
)  # fmt: skip


def commands() -> Iterator[tuple[str, Any]]:
    for name, command in typer.main.get_command(app).commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {below}", inner) for below, inner in command.commands.items())
        else:
            yield name, command


COMMANDS = dict(commands())
PROMISED = """
start, list, status, stop, delete, backends, up, down,
send, broadcast, poll, wait, cancel, inbox, ack, transcript, tail,
summary get, summary set, summary edit, summary versions, interrupt, halt, resume, approvals, review, approve, edit,
reject, answer, subagents, subagent messages, subagent cancel,
pool start, pool list, pool status, pool scale, pool stop, pool delete, pool submit, pool wait,
pool results, pool poll, pool cancel, mcp install, repl, serve, shutdown, backup, restore, export,
token, login, doctor, demo, completion, version
"""


def test_every_promised_command_is_there() -> None:
    assert set(COMMANDS) == {name.strip() for name in PROMISED.split(",")}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: tollboard {name} ")
    assert "  Example:\n" in text
    assert f"tollboard {name}" in text.partition("Example:")[2]
    assert "--json" in text
    assert "--home DIR" in text
    assert max(map(len, text.splitlines())) <= 80


def test_help_is_in_sections_and_no_line_of_it_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    at = [text.index(f"\n{section}:\n") for section in SECTIONS]
    assert at == sorted(at)
    assert "..." not in text.partition("Sessions:")[2]
    assert main([]) == 0
    assert capsys.readouterr().out == text


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from tollboard.surfaces.cli import main; main(['--help']); main(['--version']);"
        f"print(*sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == ""


def test_wrong_use_says_how_it_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sned", "api", "x"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Did you mean 'send'?" in printed.err
    assert main(["send"]) == 2
    assert "tollboard send --help" in capsys.readouterr().err


def test_wrong_use_with_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["send", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.err == ""
    assert json.loads(printed.out)["error"]["code"] == "usage"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    first = capsys.readouterr().out
    assert main(["version"]) == 0
    assert capsys.readouterr().out == first
    assert first.startswith("tollboard ")
