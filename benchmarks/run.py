"""The interleaved run: `make bench`. Every peer once in each round, in shuffled order, in a fresh process."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
sys.path.remove(str(HERE))  # our file names must not hide installed packages

from benchmarks import report  # noqa: E402
from benchmarks.peers import PEERS, workloads_of  # noqa: E402
from benchmarks.workloads import WORKLOADS  # noqa: E402

ROUNDS = 5
FEWER_ROUNDS = 3
OFTEN = ("w1", "w2", "w4", "w8-writer", "w8-acked", "w9", "w10", "w11")
TIMEOUT_S = 180
RESULTS = HERE / "RESULTS.md"
PLOT = ROOT / "docs" / "images" / "makespan.svg"


def call(module: str, *arguments: str) -> Any:
    """Run one of our modules in a fresh process; return what it printed last, or its error."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {TIMEOUT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"error": _last_line(done.stderr)}
    return json.loads(lines[-1])


def table_of(module: str, size: int) -> str:
    """Return the table that one of our modules prints, or what went wrong."""
    command = [sys.executable, "-m", f"benchmarks.{module}", str(size)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else f"{done.stdout}\nfailed: {_last_line(done.stderr)}\n"


def _last_line(text: str) -> str:
    """Return the last line, without this machine's paths: the results are kept in the project."""
    return (text.strip().splitlines() or ["no output"])[-1].replace(f"{ROOT}/", "")


def measure_all(options: argparse.Namespace) -> list[report.Record]:
    """Run all rounds; print a line for each measurement."""
    jobs = [
        (peer, workload)
        for peer in options.peers
        for workload in sorted(workloads_of(peer).intersection(options.workloads))
    ]
    records: list[report.Record] = []
    shuffle = random.Random(7).shuffle
    for number in range(options.rounds):
        shuffle(jobs)
        for peer, workload in jobs:
            if number >= FEWER_ROUNDS and workload not in OFTEN:
                continue
            record = call("measure", peer, workload, *(("quick",) if options.quick else ()))
            record |= {"peer": peer, "workload": workload, "round": number}
            records.append(record)
            print(number, peer, workload, record.get("error") or _brief(record["metrics"]), flush=True)
    return records


def _brief(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {report.number(value)}" for name, value in list(metrics.items())[:4])


def virtual_pools(options: argparse.Namespace) -> list[report.Record]:
    """Return the strategies in virtual time, and draw them into the documentation."""
    seeds = "4" if options.quick else "40"
    plot = () if options.quick or options.no_write else ("--plot", str(PLOT))
    found = call("makespan", "--seeds", seeds, *plot)
    record = {"peer": "ours", "workload": "w5-virtual", "round": 0}
    return [record | (found if "error" in found else {"metrics": found})]


def parse() -> argparse.Namespace:
    """Return the options."""
    names = lambda text: text.split(",")  # noqa: E731 # only here
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--peers", type=names, default=list(PEERS))
    parser.add_argument(
        "--workloads", type=names, default=list(WORKLOADS),
        help="of w10, w11 and w12 alone only the part about sub-agents is written anew",
    )  # fmt: skip
    parser.add_argument(
        "--no-write", action="store_true", help="print the tables instead of writing RESULTS.md"
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    return options


def main() -> int:
    """Measure, profile what missed its goal, write."""
    options = parse()
    records = measure_all(options)
    if "w5" in options.workloads and "ours" in options.peers:
        records += virtual_pools(options)
    (HERE / "results").mkdir(exist_ok=True)
    raw = HERE / "results" / "raw.jsonl"
    raw.write_text("".join(json.dumps(record) + "\n" for record in records))
    profiles = {}
    if not options.quick:
        for key in sorted({goal.limits for goal in report.missed(records)}):
            profiles[key] = call("limits", *key, "--json")
    only_agents = set(options.workloads) <= set(report.AGENTS)
    if only_agents:
        old = "" if options.quick or options.no_write else RESULTS.read_text()
        text = report.with_agents(old, records, profiles)
    else:
        fleet = "" if options.no_write else table_of("ten_thousand", 100 if options.quick else 10_000)
        mcp = "" if options.no_write else table_of("mcp_latency", 5 if options.quick else 50)
        text = report.write(records, profiles, fleet, mcp)
    if options.quick or options.no_write:
        print(text)
    else:
        RESULTS.write_text(text)
    return 1 if any("error" in record for record in records) else 0


if __name__ == "__main__":
    sys.exit(main())
