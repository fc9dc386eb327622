"""A research desk at work: a parent, a researcher, a writer whose file waits for a person.

    python examples/research/run.py             # on a stand-in for the model: no key, no network
    python examples/research/run.py --kill      # the same, and the daemon is killed while the question is open
    python examples/research/run.py --real      # on the model that fleet.toml names; needs ANTHROPIC_API_KEY

The daemon is a real one, with a state directory of its own that is removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tollboard.fleet.records import ApprovalRecord, FeedItem
from tollboard.surfaces.cli import main as run_command
from tollboard.sync import Board, connect

HERE = Path(__file__).resolve().parent
PROMPT = "Who found the noble gases, and when? Write it to report.md."
TOLD = ("tool_use", "notice", "approval.requested", "approval.decided")
SHOWN = ("tool", "arguments", "name", "message", "decision", "by")
ENDED = ("turn.completed", "turn.failed")


def tollboard(*words: str) -> None:
    """Type a command, as a person would."""
    print(f"\n$ tollboard {shlex.join(words)}", flush=True)
    if code := run_command(words):
        raise SystemExit(f"that ended with {code}")


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Let the model's client talk to a program on this machine, which answers as rules.json says."""
    command = [sys.executable, "-m", "tollboard.testing.model_api", "--rules", str(HERE / "rules.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        os.environ["ANTHROPIC_BASE_URL"] = program.stdout.readline().strip()
        os.environ["ANTHROPIC_API_KEY"] = "none-needed"
        os.environ["NO_PROXY"] = "127.0.0.1"
        try:
            yield
        finally:
            program.terminate()


@contextlib.contextmanager
def desk() -> Iterator[Path]:
    """Make a directory with the library and the fleet file, and a state directory; end the daemon afterwards."""
    home = Path(tempfile.mkdtemp(prefix="tb-"))
    os.environ["TOLLBOARD_HOME"] = str(home / "state")
    shutil.copytree(HERE / "library", home / "desk" / "library")
    shutil.copy(HERE / "fleet.toml", home / "desk")
    os.chdir(home / "desk")
    try:
        yield home / "desk"
    finally:
        run_command(["shutdown"])
        os.chdir(HERE)
        shutil.rmtree(home)


def tell(item: FeedItem) -> None:
    """Say on a line what happened."""
    words = "  ".join(str(item.data[key]) for key in SHOWN if key in item.data).replace("\n", " ")
    print(f"  {item.kind:<20}{words if len(words) < 90 else words[:90] + '…'}", flush=True)


def correct(approval: ApprovalRecord) -> str:
    """Return the arguments as a person would have them: the writer has got a year wrong."""
    arguments = dict(approval.arguments)
    arguments["content"] = str(arguments["content"]).replace("1889", "1898")
    return json.dumps(arguments)


def kill(board: Board) -> None:
    """End the daemon as an accident would; the next command starts another, and the question is still there."""
    pid = board.health().pid
    print(f"\n$ kill -9 {pid}", flush=True)
    os.kill(pid, signal.SIGKILL)
    tollboard("approvals")


def work(*, accident: bool) -> None:
    """Start the fleet, give it a task, answer what it asks, and show what came of it."""
    tollboard("up", "--check")
    tollboard("up")
    tollboard("send", "research", PROMPT)
    with connect() as board:
        for item in board.tail("research", after=0):
            if item.kind in TOLD:
                tell(item)
            if item.kind == "approval.requested":
                tollboard("approvals")
                if accident:
                    kill(board)
                approval = next(one for one in board.approvals() if one.id == item.data["approval"])
                tollboard("edit", approval.id, "--arguments", correct(approval))
                print()
            if item.kind in ENDED:
                break
    tollboard("transcript", "research")
    print("\n$ cat report.md")
    print(Path("report.md").read_text())
    tollboard("up")
    tollboard("down")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", action="store_true", help="on the model that fleet.toml names")
    parser.add_argument("--kill", action="store_true", help="kill the daemon while the question is open")
    given = parser.parse_args()
    with contextlib.nullcontext() if given.real else stand_in(), desk():
        work(accident=given.kill)
