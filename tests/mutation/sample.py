"""Try a sample of mutants on the rooms that hold the promises, within a time limit; `make mutants` calls it.

A mutant is a small change of the source (`<` to `<=`, a value to None). A test must notice it: one that survives is a
hole in the tests. mutmut makes the mutants and runs the tests that reach each; this file draws the sample, the same for
the same seed, and prints the share that survived in each room.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = ROOT / "mutants"
ROOMS = ("runtime", "pool", "subagents", "store")
KILLED, SURVIVED, UNREACHED = "killed", "survived", "unreached"
_OUTCOMES = {0: SURVIVED, 33: UNREACHED, 5: UNREACHED}
"""Of mutmut's exit codes; every other one means that a test failed, hung or crashed."""


def main() -> None:
    """Sample, run, and print; exit with 1 if more survived than allowed."""
    options = _options()
    _mutmut(
        "no-such-mutant", limit_s=options.minutes * 60, quiet=True
    )  # makes the mutants, and learns who reaches them
    chosen = dict(_chosen(options.per_room, options.seed))
    _mutmut(*chosen, limit_s=options.minutes * 60)
    rate = _report(chosen, {name: code for name, code in _results() if name in chosen})
    sys.exit(rate > options.allowed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-room", type=int, default=60, help="how many mutants of each room (default 60)")
    parser.add_argument("--seed", default="1", help="which sample (default 1)")
    parser.add_argument("--minutes", type=int, default=20, help="time limit of the run (default 20)")
    parser.add_argument("--allowed", type=float, default=0.10, help="share that may survive (default 0.10)")
    return parser.parse_args()


def _mutmut(*names: str, limit_s: int, quiet: bool = False) -> None:
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "2", *names]
    output = subprocess.DEVNULL if quiet else None
    running = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        running.wait(limit_s)
    except subprocess.TimeoutExpired:
        running.send_signal(signal.SIGINT)  # mutmut keeps what it has found so far
        running.wait()


def _results() -> Iterator[tuple[str, int | None]]:
    """Yield each mutant's name and mutmut's exit code for it, None where it was not tried."""
    for meta in sorted(MUTANTS.rglob("*.py.meta")):
        yield from json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"].items()


def _room(name: str) -> str:
    return name.split(".")[1]


def _chosen(per_room: int, seed: str) -> Iterator[tuple[str, str]]:
    """Yield the names of the sample, each with its room."""
    names = [name for name, _ in _results()]
    if not names:
        sys.exit("mutmut made no mutants: run `python -m mutmut run` to see why")
    for room in ROOMS:
        of_room = [name for name in names if _room(name) == room]
        for name in random.Random(seed + room).sample(of_room, min(per_room, len(of_room))):
            yield name, room


def _report(chosen: dict[str, str], results: dict[str, int | None]) -> float:
    """Print a line for each room and the name of each survivor; return the share that survived."""
    tried = {name: _OUTCOMES.get(code, KILLED) for name, code in results.items() if code is not None}
    print(f"\n{'ROOM':10} {'TRIED':>6} {'KILLED':>7} {'SURVIVED':>9} {'UNREACHED':>10} {'SHARE':>6}")
    for room in (*ROOMS, "all"):
        outcomes = [outcome for name, outcome in tried.items() if room in (chosen[name], "all")]
        counts = [outcomes.count(outcome) for outcome in (KILLED, SURVIVED, UNREACHED)]
        print(
            f"{room:10} {len(outcomes):6} {counts[0]:7} {counts[1]:9} {counts[2]:10} {_share(outcomes):6.1%}"
        )
    for name in sorted(name for name, outcome in tried.items() if outcome != KILLED):
        print(f"{tried[name]}: {name}  (python -m mutmut show {name})")
    return _share(list(tried.values()))


def _share(outcomes: list[str]) -> float:
    return 1 - outcomes.count(KILLED) / len(outcomes) if outcomes else 0.0


if __name__ == "__main__":
    main()
