"""`tollboard review` of sessions whose agents talk to a model: sub-agents, schemas, changes of files, `kill -9`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import DaemonProcess
from tests.surfaces.test_cli_review import ASK, editor, on_terminal, seen
from tests.surfaces.waiting import asked, said
from tollboard import sync

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")
pytestmark = pytest.mark.slow

Rule = dict[str, Any]
Serve = Callable[..., str]


def calls(tool: str, **arguments: object) -> Rule:
    return {"calls": [{"tool": tool, "arguments": arguments}]}


def sub_agents() -> list[dict[str, Any]]:
    """Return three, each below the other; the lowest one works."""
    made: list[dict[str, Any]] = []
    for name in ("low", "middle", "top"):
        made = [{"name": name, "description": name, "system_prompt": f"I am {name}.", "sub_agents": made}]
    return made


def delegated(last: Rule) -> list[Rule]:
    """Return the rules by which each agent hands the task on, and the lowest does this."""
    rules: list[Rule] = []
    for name, below in (("the session", "top"), ("top", "middle"), ("middle", "low")):
        task = calls("task", task_name=below, instructions="go on")
        rules.append({"system": f"I am {name}.", "once": True, **task})
    return [*rules, {"system": "I am low.", "once": True, **last}, {"text": "{result}"}]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve a model that keeps these rules; its address comes back."""
    served: list[subprocess.Popen[str]] = []

    def begin(*rules: Rule) -> str:
        file = tmp_path / "rules.json"
        file.write_text(json.dumps(rules))
        command = [sys.executable, "-m", "tollboard.testing.model_api", "--rules", str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        served.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    yield begin
    for process in served:
        process.kill()
        process.communicate()


def begun(fleet: sync.Board, work: Path, url: str) -> str:
    """Start a session on that model, and return its request's ref once it asks."""
    fleet.start_session(
        "deep", path=work, backend="model", model="anthropic:claude-sonnet-5-5", base_url=url,
        system_prompt="I am the session.", sub_agents=sub_agents(),
    )  # fmt: skip
    ref = fleet.send("deep", "go")
    asked(fleet, "deep")
    return ref


def test_a_question_from_three_levels_down_says_so_and_its_edit_must_fit_the_schema(
    home: Path, tmp_path: Path, serve: Serve
) -> None:
    url = serve(*delegated(calls("run_command", command="echo asked > made", timeout_s=7)))
    opens = editor(
        home,
        "sed -i 's/: 7/: \"soon\"/' $1",
        'sed -i \'s/: "soon"/: 9, "colour": 1/\' $1',
        "sed -i 's/, \"colour\": 1//; s/asked/edited/' $1",
    )
    with DaemonProcess(home), sync.connect(home, start=False) as fleet:
        ref = begun(fleet, tmp_path, url)
        with on_terminal(home, "review", EDITOR=opens) as person:
            shown = person.shows(ASK)
            assert "by            deep/top/middle/low\r\n" in shown
            assert "shown as      session › top › middle › low: run_command" in shown
            person.types("e\n")
            person.shows("1 edited")
            assert person.ended() == 0
        assert "// deep/top/middle/low" in seen(home, 1)
        assert "// NOT TAKEN: edit: the arguments do not fit 'run_command': timeout_s:" in seen(home, 2)
        assert "colour" in seen(home, 3).partition("NOT TAKEN")[2].partition("\n")[0]
        assert "edited" in said(fleet, ref)
    assert (tmp_path / "made").read_text() == "edited\n"


def test_a_question_outlives_kill_9_and_is_put_again(home: Path, tmp_path: Path, serve: Serve) -> None:
    url = serve(*delegated(calls("write_file", path="made", content="x")))
    with DaemonProcess(home) as daemon:
        with sync.connect(home, start=False) as fleet:
            ref = begun(fleet, tmp_path, url)
        with on_terminal(home, "review") as person:
            person.shows(ASK)
            daemon.end()
            person.shows("the daemon does not answer any more")
            daemon.start()
            person.shows("a daemon answers")
            person.types("a\n")
            person.shows("1 approved")
            assert person.ended() == 0
        with sync.connect(home, start=False) as fleet:
            assert said(fleet, ref)
    assert (tmp_path / "made").read_text() == "x"


def test_a_change_of_a_file_is_shown_as_one(home: Path, tmp_path: Path, serve: Serve) -> None:
    lines = [f"line {number}" for number in range(1, 40)]
    (tmp_path / "notes").write_text("\n".join(lines))
    lines[19] = "line twenty"
    written = calls("write_file", path="notes", content="\n".join(lines))
    replaced = calls("edit_file", path="notes", old="line twenty\nline 21", new="line 20\nline 21")
    url = serve({"once": True, **written}, {"once": True, **replaced}, {"text": "done"})
    with DaemonProcess(home), sync.connect(home, start=False) as fleet:
        ref = begun(fleet, tmp_path, url)
        with on_terminal(home, "review", "--follow") as person:
            shown = person.shows(ASK)
            assert "content       as a change of the file that is there now:" in shown
            assert "@@ -17,7 +17,7 @@" in shown
            assert "-line 20\r\n              +line twenty\r\n               line 21" in shown
            assert "line 30" not in shown
            person.types("a\n")
            shown = person.shows(ASK)
            assert "old → new" in shown
            assert "-line twenty\r\n              +line 20\r\n               line 21" in shown
            person.types("a\n")
            assert said(fleet, ref) == "done"
        assert (tmp_path / "notes").read_text().splitlines()[19] == "line 20"
