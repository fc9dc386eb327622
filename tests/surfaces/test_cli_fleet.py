"""`tollboard up` and `down`: what they print, what they refuse, what they advise."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.surfaces.person import Person
from tests.surfaces.test_cli_daemon import Shell
from tollboard import sync
from tollboard.fleetfile import Fleet

TEXT = """
[sessions.api]
backend = "echo"
[sessions.docs]
backend = "echo"
delay = 30
[pools.trivia]
backend = "echo"
size = 2
"""


@pytest.fixture
def work(home: Path) -> Path:
    return home / "src"


@pytest.fixture
def p(person: Person, work: Path) -> Person:
    (work / "fleet.toml").write_text(TEXT)
    return person


def rows(text: str) -> list[list[str]]:
    return [line.split(maxsplit=3)[:3] for line in text.splitlines()[1:]]


def test_up_and_down_and_up_again(p: Person, work: Path) -> None:
    said = p.types("up")
    assert said.out.splitlines() == [
        "NAME    KIND     STATE    DETAIL",
        f"api     session  started  echo in {work}",
        f"docs    session  started  echo in {work}",
        f"trivia  pool     started  echo in {work}",
    ]
    assert "tollboard send NAME PROMPT" in said.err
    assert {state for _, _, state in rows(p.does("up", "fleet.toml"))} == {"unchanged"}
    assert [line.split()[0] for line in p.does("list").splitlines()[1:]] == ["api", "docs"]
    assert {state for _, _, state in rows(p.does("down"))} == {"stopped"}
    assert p.does("down").splitlines()[1] == "api     session  not running"
    assert p.does("list") == ""
    assert {state for _, _, state in rows(p.does("up"))} == {"started"}


def test_what_differs_is_named_and_left_unless_asked(p: Person, work: Path) -> None:
    p.does("up")
    long = "x" * 40
    (work / "fleet.toml").write_text(TEXT.replace("delay = 30", f"delay = 0\nfail_on = '{long}'\nchunks = 2"))
    said = p.types("up")
    assert said.out.splitlines()[2] == "docs    session  differs    delay: 30 → 0, fail_on, chunks: none → 2"
    assert "start anew what differs, with a new conversation: tollboard up --replace" in said.err
    assert p.does("up", "--check", "--replace").splitlines()[2].split()[2:4] == ["would", "replace"]
    assert p.board.do(p.board.board.definition("docs")).options == {"delay": 30}
    assert p.does("up", "--replace").splitlines()[2].split()[2] == "replaced"
    assert p.board.do(p.board.board.definition("docs")).options["chunks"] == 2


def test_a_pool_of_another_size_is_scaled_without_being_asked(p: Person, work: Path) -> None:
    p.does("up")
    (work / "fleet.toml").write_text(TEXT.replace("size = 2", "size = 4"))
    assert p.does("up", "--check").splitlines()[3] == "trivia  pool     would scale  size: 2 → 4"
    step = p.types("up", "--check", "--json").json["steps"][2]
    assert (step["action"], step["differences"]) == (
        "scale", [{"key": "size", "running": {"worker": 2}, "wanted": {"worker": 4}}],
    )  # fmt: skip
    said = p.types("up")
    assert said.out.splitlines()[3] == "trivia  pool     scaled     size: 2 → 4"
    assert "--replace" not in said.err
    assert p.types("pool", "status", "trivia", "--json").json["size"] == {"worker": 4}
    assert p.does("up").splitlines()[3].split()[2] == "unchanged"


def test_sizes_are_named_by_role(p: Person, work: Path) -> None:
    text = "[pools.p]\nbackend = 'echo'\nroles = {a = 1, b = 2, c = 1}\n"
    (work / "fleet.toml").write_text(text)
    p.does("up")
    (work / "fleet.toml").write_text(text.replace("a = 1, b = 2", "a = 3, b = 1"))
    assert p.does("up").splitlines()[1] == "p     pool  scaled  size: a 1 → 3, b 2 → 1"
    (work / "fleet.toml").write_text(text.replace("a = 1, b = 2", "d = 1"))
    assert p.does("up").splitlines()[1] == "p     pool  differs  size: d none → 1, a 3 → none, b 1 → none"


def test_up_says_what_to_look_at(p: Person, work: Path) -> None:
    p.does("up")
    status = p.board.do(p.board.board.status("api"))
    p.board.board._roster.bury(p.board.board._roster.get(status.id), "it fell over")
    p.board.do(p.board.board.halt("api"))
    said = p.types("up")
    assert said.code == 1
    assert "! api: it fell over" in said.out


def test_json(p: Person) -> None:
    checked = p.types("up", "--check", "--json").json
    assert (checked["file"], checked["done"]) == ("fleet.toml", False)
    assert checked["steps"][0] == {
        "kind": "session", "name": "api", "action": "start", "differences": [], "problem": None,
        "in_flight": False,
    }  # fmt: skip
    assert p.board.opened[-1] == (None, False)
    assert p.types("up", "--json").json["done"] is True
    assert [step["action"] for step in p.types("up", "--json").json["steps"]] == ["keep", "keep", "keep"]
    assert p.types("down", "--json").json["steps"][2] == {
        "kind": "pool", "name": "trivia", "stopped": True, "lost": 0, "failed": [], "unverified": [],
        "elsewhere": None,
    }  # fmt: skip


def test_work_is_not_lost_unasked(p: Person) -> None:
    p.does("up")
    first, second = p.sends("docs", "first"), p.sends("docs", "second", "--queue")
    refused = p.types("down")
    assert (refused.code, refused.out) == (1, "")
    assert "docs ends its turn first; see whether it waits for you: tollboard approvals docs" in refused.err
    assert "error: session 'docs' has 1 queued\n" in refused.err
    assert "`tollboard down --now`" in refused.err
    text = p.does("down", "--now")
    assert text.splitlines()[2].split(maxsplit=3)[3] == "2 prompts ended with it"
    assert [ref in text for ref in (first, second)] == [True, True]


def test_a_namesake_elsewhere_is_left(p: Person, home: Path) -> None:
    p.does("start", "api", "--path", str(home), "--backend", "echo")
    assert p.does("down").splitlines()[1].split(maxsplit=3)[2:] == [
        "left", f"works in {home}: not that of the file",
    ]  # fmt: skip


def test_faults_are_listed_each_with_its_table(p: Person, work: Path) -> None:
    (work / "fleet.toml").write_text(
        "[sessions.a]\nbackend = 'x'\n[sessions.b]\nbackend = 'echo'\ncolour = 1\n"
    )
    for command in ("up", "down"):
        said = p.types(command)
        assert (said.code, said.out) == (2, "")
        lines = said.err.splitlines()
        assert lines[0] == "error: fleet.toml has 2 faults:"
        assert lines[1].startswith("  [sessions.a]: no backend is called 'x'")
        assert lines[2].startswith("  [sessions.b]: backend 'echo' does not know 'colour'; its options are: ")
    error = p.types("up", "--json").json["error"]
    assert error["code"] == "invalid_fleet"
    (work / "fleet.toml").unlink()
    assert "fleet.toml: there is no such file; write one, or give another path" in p.types("up").err


def test_what_cannot_be_started_keeps_all_from_being_started(p: Person, work: Path) -> None:
    (work / "fleet.toml").write_text(f'{TEXT}\n[sessions.one]\nbackend = "model"\nmodel = "anthropic:x"\n')
    said = p.types("up")
    assert said.code == 2
    assert said.err.startswith(
        "error: fleet.toml: [sessions.one]: model 'anthropic:x' has no key: set ANTHROPIC_API_KEY"
    )
    assert "ANTHROPIC_API_KEY" in said.err
    assert p.does("list") == ""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_file_is_completed_by_the_shell(p: Person, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_TOLLBOARD_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "tollboard up fl")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "tollboard up fl")
    with pytest.raises(SystemExit):
        p.types()
    assert p._capsys.readouterr().out.split() == {"bash": [], "zsh": ["_files"]}[shell]
    assert p.board.opened == []


# -- with a real daemon


@pytest.fixture
def shell(home: Path) -> Iterator[Shell]:
    made = Shell(home)
    yield made
    made.run("shutdown")


@pytest.mark.slow
def test_a_check_starts_no_daemon(shell: Shell, home: Path) -> None:
    (home / "fleet.toml").write_text(TEXT)
    run = shell.run("up", "--check")
    assert run.returncode == 0
    assert run.stdout.splitlines()[1].split()[2:4] == ["would", "start"]
    assert "no daemon runs" in run.stderr
    assert os.listdir(home) == ["fleet.toml"]
    assert json.loads(shell.does("up", "--check", "--json"))["steps"][0]["action"] == "start"


@pytest.mark.slow
def test_the_daemon_has_the_keys_and_the_fleet_comes_back(shell: Shell, home: Path) -> None:
    (home / "fleet.toml").write_text(
        '[sessions.one]\nbackend = "model"\nmodel = "openai:gpt-5"\nenv = {OPENAI_API_KEY = "$FLEET_TEST_KEY"}\n'
    )
    refused = shell.run("up", "--yes")
    assert refused.returncode == 2
    assert (
        "[sessions.one]: the variable FLEET_TEST_KEY is not set in the daemon's environment" in refused.stderr
    )
    shell.does("shutdown")
    assert shell.run("up", env={"FLEET_TEST_KEY": "k"}).returncode == 0
    shell.does("shutdown")
    assert shell.run("list", env={"FLEET_TEST_KEY": "k"}).returncode == 0
    assert shell.does("up").splitlines()[1].split()[2] == "unchanged"
    checked = shell.does("up", "--check").splitlines()
    assert "OPENAI_API_KEY" in checked[1], "what the file would use is shown"
    assert "unchanged" in checked[-1].split()
    with sync.connect(home, start=False) as board:
        fleet = Fleet.read(home / "fleet.toml")
        assert [step.action for step in board.up(fleet)] == ["keep"]
        assert [one.stopped for one in board.down(fleet)] == [True]


RUNS = """
[sessions.api]
backend = "scripted"
script = [[{process = ["true"]}]]
[sessions.docs]
backend = "echo"
"""


def test_s27_up_asks_about_a_file_that_runs_programs_once_for_each_content(p: Person, work: Path) -> None:
    (work / "fleet.toml").write_text(RUNS)
    said = p.types("up")
    assert said.code == 2
    assert "'api' the option 'script'" in said.err
    assert "--yes" in said.err
    assert p.does("list") == ""
    shown = p.types("up", "--check")
    assert "api   script" in shown.out
    assert '"process": ["true"]' in shown.out
    assert p.types("up", "--check", "--json").json["powers"][0]["option"] == "script"
    assert {state for _, _, state in rows(p.does("up", "--yes"))} == {"started"}
    assert {state for _, _, state in rows(p.does("up"))} == {"unchanged"}
    (work / "fleet.toml").write_text(RUNS.replace('["true"]', '["false"]'))
    assert p.types("up").code == 2
    (work / "elsewhere.toml").write_text(RUNS)
    assert p.types("up", "elsewhere.toml").code == 2


def test_s27_up_does_not_ask_about_plain_options(p: Person) -> None:
    assert "more rights" not in p.types("up", "--check").err
    assert p.types("up").code == 0
