"""The program as it is installed, with a real daemon: it starts by itself, Ctrl-C, closed pipes, a daemon that dies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import DaemonProcess
from tests.processes import gone
from tollboard.daemon import connection
from tollboard.daemon.single import owner_pid
from tollboard.surfaces.cli import main

PROGRAM = [sys.executable, "-c", "import sys; from tollboard.surfaces.cli import main; sys.exit(main())"]

pytestmark = pytest.mark.slow


class Shell:
    """Runs the program on one state directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "TOLLBOARD_HOME": str(home), "HOME": str(home)}

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **options.pop("env", {})}
        return subprocess.run(
            [*PROGRAM, *words], capture_output=True, text=True, timeout=60, check=False, cwd=self.home,
            env=environment, **options,
        )  # fmt: skip

    def through(self, redirection: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the program as a shell does behind a redirection."""
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM, *words], capture_output=True, text=True,
            timeout=60, check=False, cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def does(self, *words: str) -> str:
        run = self.run(*words)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def begins(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.home,
            env=self.environment, **options,
        )  # fmt: skip

    def pid(self) -> int:
        checks = json.loads(self.run("doctor", "--json").stdout)["checks"]
        daemon = next(check for check in checks if check["name"] == "daemon")
        return int(re.search(r"pid (\d+)", daemon["detail"])[1])  # type: ignore[index]


@pytest.fixture
def shell(home: Path) -> Iterator[Shell]:
    made = Shell(home)
    yield made
    made.run("shutdown")


def test_any_command_starts_the_daemon_and_shutdown_ends_it(shell: Shell, home: Path) -> None:
    assert "not running" in shell.run("doctor").stdout
    shell.does("start", "api", "--backend", "echo")
    pid = shell.pid()
    assert shell.run("send", "api", "hi", "--wait").stdout == "echo: hi\n"
    assert shell.does("shutdown") == "the daemon has ended\n"
    assert gone(pid)
    assert shell.does("shutdown") == "no daemon is running\n"
    assert "api" in shell.does("list")


def test_ctrl_c_stops_the_waiting_not_the_turn(shell: Shell) -> None:
    shell.does("start", "slow", "--backend", "echo", "-o", "delay=2", "-o", "chunks=20")
    with shell.begins("send", "slow", "one two three four five", "--wait") as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.read(2) == "ec"  # it streams: the first piece came long before the end
        waiting.send_signal(signal.SIGINT)
        _, said = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert "the turn of slow goes on" in said
    assert "Traceback" not in said
    ref = re.search(r"tollboard wait (\S+)", said)
    assert ref is not None
    assert shell.run("wait", ref[1]).returncode == 0
    assert shell.run("poll", "slow", ref[1]).stdout == "echo: one two three four five\n"


def test_tail_prints_a_document_per_line_until_ctrl_c(shell: Shell) -> None:
    shell.does("start", "api", "--backend", "echo")
    with shell.begins("tail", "--after", "0", "--json") as tail:
        assert tail.stdout is not None
        shell.does("send", "api", "hi", "--wait")
        kinds = []
        for line in tail.stdout:
            kinds.append(json.loads(line)["kind"])
            if kinds[-1] == "turn.completed":
                break
        tail.send_signal(signal.SIGINT)
        rest, said = tail.communicate(timeout=20)
    assert (tail.returncode, said) == (130, "")
    assert {"turn.started", "text", "turn.completed"} <= set(kinds)
    assert all(json.loads(line) for line in rest.splitlines())


def test_tail_goes_on_when_the_daemon_comes_back(shell: Shell) -> None:
    shell.does("start", "api", "--backend", "echo")
    with shell.begins(
        "tail", "--after", "0", "--json", "--kind", "text", "--kind", "session.started"
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert json.loads(tail.stdout.readline())["kind"] == "session.started"
        os.kill(shell.pid(), signal.SIGKILL)
        assert "the daemon does not answer any more; following goes on by itself" in tail.stderr.readline()
        shell.does("send", "api", "hi", "--wait")
        assert "a daemon answers" in tail.stderr.readline()
        assert json.loads(tail.stdout.readline())["data"]["text"] == "echo: hi"
        tail.send_signal(signal.SIGINT)
        assert tail.communicate(timeout=20) == ("", "")
    assert tail.returncode == 130


def test_a_reader_that_goes_away_is_no_traceback(shell: Shell) -> None:
    shell.does("start", "api", "--backend", "echo")
    assert shell.run("send", "api", "-", "--wait", input="x" * 500_000).returncode == 0
    with shell.begins("transcript", "api") as printing:
        assert printing.stdout is not None
        printing.stdout.read(10)
        printing.stdout.close()
        printing.stdout = None
        _, said = printing.communicate(timeout=20)
    assert printing.returncode == 141
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize("words", ["version", "--help", "nope --json"])
def test_output_that_cannot_be_written_is_no_traceback(shell: Shell, words: str) -> None:
    run = shell.through(">/dev/full", *words.split())
    assert run.returncode == 1
    assert run.stderr.splitlines() == [
        "error: standard output cannot be written: No space left on device",
        "  → what was asked for may have been done all the same: look before you repeat it",
    ]
    # What is said beside the output changes nothing.
    assert shell.through("2>/dev/full", "start", "a b", "-b", "echo").returncode == 2


@pytest.mark.parametrize(
    ("closed", "words", "code"),
    [
        (">&-", "list", 0),
        (">&- 2>&- <&-", "list --json", 0),
        ("2>&-", "send api", 2),
        ("2>&-", "status nope", 3),
        ("<&-", "send api -", 2),
        ("<&-", "review", 2),
        ("<&-", "delete api", 2),
        ("<&-", "mcp", 0),
    ],
)
def test_a_closed_stream_is_an_empty_one(shell: Shell, closed: str, words: str, code: int) -> None:
    run = shell.through(closed, *words.split())
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr


def test_a_file_that_cannot_be_written_is_named(shell: Shell, home: Path) -> None:
    (home / "file").touch()
    run = shell.run("mcp", "install", "codex", env={"HOME": str(home / "file")})
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert run.stderr.startswith(f"error: '{home / 'file'}")


def test_a_daemon_that_dies_while_one_waits(shell: Shell) -> None:
    shell.does("start", "slow", "--backend", "echo", "-o", "delay=60")
    pid = shell.pid()
    with shell.begins("send", "slow", "x", "--wait") as waiting:
        while not json.loads(shell.does("list", "--json"))[0]["in_flight"]:
            pass
        os.kill(pid, signal.SIGKILL)
        _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 1
    advised = re.search(r"tollboard poll slow (\S+)", said)
    assert advised is not None, said
    polled = shell.run("poll", "slow", advised[1])
    assert polled.stdout.startswith("interrupted")


@pytest.fixture
def frozen(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    """Yield a daemon that stands still, and is given little time."""
    monkeypatch.setattr(connection, "HEALTH_TIMEOUT_S", 0.2)
    with DaemonProcess(home) as daemon:
        daemon.freeze()
        yield daemon


@pytest.mark.parametrize(
    "words", [["list"], ["send", "api", "x"], ["shutdown"], ["serve"], ["up", "--check"]]
)
def test_every_command_says_that_the_daemon_stands_still(
    frozen: DaemonProcess, home: Path, words: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`shutdown` said that no daemon was running."""
    (home / "fleet.toml").write_text(f'[sessions.api]\nbackend = "echo"\npath = "{home}"\n')
    monkeypatch.chdir(home)
    assert main([*words, "--home", str(home)]) == 1
    what, advice = capsys.readouterr().err.splitlines()
    assert what == (
        f"error: the daemon (pid {frozen.pid}) is stopped and has not answered for 0.2 s, so nothing was asked of it"
    )
    assert advice.startswith(
        f"  → let it go on with `kill -CONT {frozen.pid}`, end it with `kill -KILL {frozen.pid}`"
    )
    assert owner_pid(frozen.home) == frozen.pid


def test_the_doctor_reports_a_daemon_that_stands_still(
    frozen: DaemonProcess, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It took it for one that was killed, with nothing to do."""
    assert main(["doctor", "--json", "--home", str(home)]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["daemon"]["state"] == "broken"
    assert f"pid {frozen.pid}) is stopped" in checks["daemon"]["detail"]
    assert f"kill -CONT {frozen.pid}" in checks["daemon"]["mend"]
    assert checks["database"]["state"] == "ok"


def test_serve_runs_in_front(shell: Shell) -> None:
    with shell.begins("serve") as serving:
        try:
            assert serving.stderr is not None
            assert any("serving" in line for line in serving.stderr)
            assert shell.pid() == serving.pid
            second = shell.run("serve")
            assert second.returncode == 1
            assert second.stderr.startswith(f"error: a daemon (pid {serving.pid}) serves ")
        finally:
            serving.send_signal(signal.SIGINT)
            serving.communicate(timeout=30)
    assert serving.returncode == 0


def test_completion_starts_no_daemon_and_makes_no_directory(shell: Shell, home: Path) -> None:
    asked = {
        "_TOLLBOARD_COMPLETE": "complete_bash", "COMP_WORDS": "tollboard status ", "COMP_CWORD": "2",
        "TOLLBOARD_HOME": str(home / "none"),
    }  # fmt: skip
    run = shell.run(env=asked)
    assert (run.stdout.strip(), run.stderr) == ("", "")
    assert not (home / "none").exists()
    shell.does("start", "api", "--backend", "echo")
    assert shell.run(env={**asked, "TOLLBOARD_HOME": str(home)}).stdout.split() == ["api"]


def test_ctrl_c_while_a_program_is_still_starting_is_no_traceback(home: Path) -> None:
    begin = (
        "import os, signal, sys, importlib.abc\n"
        "class Late(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == os.environ['LATE']: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Late())\n"
    )
    command = begin + "from tollboard.surfaces.cli import main; sys.exit(main(['list']))"
    daemon = begin + "import runpy; runpy.run_module('tollboard.daemon', run_name='__main__', alter_sys=True)"
    for program, last in ((command, "typer"), (command, "httptools"), (daemon, "sqlalchemy")):
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "TOLLBOARD_HOME": str(home), "LATE": last},
        )  # fmt: skip
        assert (run.returncode, run.stderr) == (130, ""), last
