"""The demo through a real daemon: it holds, it says so, and it leaves nothing behind, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, "-c", "import sys; from tollboard.surfaces.cli import main; sys.exit(main())"]


def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which a stray state directory would be seen."""
    return {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "NO_COLOR": "1"}


def daemons(home: str) -> Sequence[psutil.Process]:
    """Return the processes that belong to a state directory."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(home in word for word in words) or process.environ().get("TOLLBOARD_HOME") == home:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_the_demo_holds_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = subprocess.run(
        [*PROGRAM, "demo"], capture_output=True, text=True, env=environment(tmp_path), timeout=90, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "nothing ran twice" in run.stdout
    assert "\x1b" not in run.stdout
    home = run.stdout.partition("TOLLBOARD_HOME=")[2].split()[0]
    assert home.startswith("/tmp/")
    assert not Path(home).exists()
    assert not daemons(home)
    assert not (tmp_path / "state").exists()


def test_the_demo_as_json_is_one_document_and_keeps_its_directory_when_asked(tmp_path: Path) -> None:
    run = subprocess.run(
        [*PROGRAM, "demo", "--json", "--keep"],
        capture_output=True, text=True, env=environment(tmp_path), timeout=90, check=False,
    )  # fmt: skip
    document = json.loads(run.stdout)
    assert (run.returncode, document["ok"]) == (0, True)
    assert len(document["held"]) >= 15
    commands = {step["command"].split()[1] for step in document["steps"]}
    assert commands >= {
        "start", "list", "send", "poll", "wait", "inbox", "summary", "broadcast", "interrupt", "approve", "halt",
        "resume", "transcript",
    }  # fmt: skip
    home = next(word for step in document["steps"] for word in step["command"].split() if "/src/" in word)
    kept = Path(home).parents[1]
    assert (kept / "tollboard.db").exists()
    assert not daemons(str(kept))
    subprocess.run(["rm", "-rf", str(kept)], check=True)


def test_a_demo_that_is_ended_takes_its_daemon_along(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "demo"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment(tmp_path),
    ) as run:  # fmt: skip
        assert run.stdout is not None
        home = ""
        for line in run.stdout:
            if "TOLLBOARD_HOME=" in line:
                home = line.partition("TOLLBOARD_HOME=")[2].strip()
            if "Prompts do not block" in line:
                break
        run.send_signal(signal.SIGTERM)
        run.stdout.read()
        assert run.wait(30) == 130
    assert not daemons(home)
    assert not Path(home).exists()
