"""Records to ratios, ratios to RESULTS.md."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.goals import GOALS, Goal, Round
from benchmarks.machine import describe, versions_of
from benchmarks.peers import BARE, FLOOR

Record = dict[str, Any]

_KINDS = (
    ("times", "of the time"),
    ("groups", "of the loop's thread"),
    ("functions", "of the loop's thread by function"),
    ("threads", "of the other threads by function"),
)

_BIG = 100

TABLES: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    ("w1", "W1: sequential asks of one agent", FLOOR,
     (("turns_per_s", "turns/s"), ("p50_us", "p50 µs"), ("p99_us", "p99 µs"))),
    ("w2", "W2: 1,000 agents x 20 tells", FLOOR, (("turns_per_s", "turns/s"),)),
    ("w3-10k", "W3: 10,000 idle agents", FLOOR, (("starts_per_s", "starts/s"), ("bytes_per_agent", "bytes/agent"))),
    ("w3-100k", "W3: 100,000 idle agents", FLOOR, (("starts_per_s", "starts/s"), ("bytes_per_agent", "bytes/agent"))),
    ("w4", "W4: a pool of 8 workers, 20,000 tasks in turn", FLOOR, (("tasks_per_s", "tasks/s"),)),
    ("w5", "W5: makespan of 200 tasks of very different lengths over 8 workers", FLOOR,
     (("round_robin_s", "round robin s"), ("least_loaded_s", "least loaded s"), ("shared_queue_s", "shared queue s"),
      ("longest_first_s", "longest first s"))),
    ("w6", "W6: from the end of the last task to the return of wait_for_all", FLOOR,
     (("p50_ms", "p50 ms"), ("max_ms", "max ms"))),
    ("w7", "W7: one more turn, and a look at the status, by the length of the history", FLOOR,
     (("turn_us_0", "turn µs at 0"), ("turn_us_50000", "turn µs at 50,000"), ("turn_us_500000", "turn µs at 500,000"),
      ("status_us_0", "status µs at 0"), ("status_us_500000", "status µs at 500,000"))),
    ("w8-writer", "W8: rows/s of the writer alone, 64 clients, each waiting for its own row (FULL)", "raw-writer",
     (("rows_per_s", "rows/s"),)),
    ("w8-acked", "W8: one client, every turn durable before the next (FULL)", "aio-proto-durable",
     (("p50_us", "p50 µs"), ("flush_us", "a flush, µs"))),
    ("w9", "W9: how late a heartbeat of 1 ms comes beside W2's load", FLOOR,
     (("turns_per_s", "turns/s"), ("lag_p50_ms", "lag p50 ms"), ("lag_max_ms", "lag max ms"),
      ("collector_max_ms", "longest collection ms"))),
    ("w10", "W10: a run of two model calls and one tool call", BARE, (("p50_us", "p50 µs"), ("runs_per_s", "runs/s"))),
    ("w11", "W11: the same with a guarded tool: pause, approve, to the end, in one process", BARE,
     (("p50_us", "p50 µs"), ("runs_per_s", "runs/s"))),
    ("w12", "W12: the same, only what was kept outlives the pause; and how much that is", BARE,
     (("p50_us", "p50 µs"), ("bytes", "bytes, one call waits"), ("bytes_ten_calls", "bytes, ten calls wait"),
      ("bytes_after_20", "bytes, one waits after 20 turns"))),
)  # fmt: skip

AGENTS = ("w10", "w11", "w12")
"""The workloads of sub-agents. They have a part of RESULTS.md to themselves, which is also written on its own."""
_AGENTS_HEAD = "## Sub-agents"
_AGENTS = (
    "Models without latency, which answer from a script; one process, one run at a time. `ours-subagents` has no "
    "memory, as the bare agent of Pydantic AI it stands on has none; `ours-subagents-kept` writes every response, call "
    "and outcome down before it is used. The bytes are all that was kept for another process to go on with; LangGraph "
    "keeps every checkpoint on the way."
)


_FLEET = (
    "A real daemon, one client over its socket with 32 calls under way, every answer checked. The client's own work "
    "(HTTP, JSON) is in the times; the two share the machine."
)


_MCP = (
    "`switchboard_status` beside a tool that does nothing on a bare server of the SDK, which validates no result and "
    "asks nobody; the same client for all. Over stdio ours is a bridge that asks the daemon over its socket. p50 and "
    "p99 of all rounds; a ratio is that of one round's p50."
)


_VIRTUAL = (
    "The real pool on an event loop whose clock jumps to the next timer (`makespan.py`): no timer's own delay is in "
    "these figures. Batch: makespan beside what no strategy can beat, mean of the seeds. Online: mean wait in mean "
    "task times when tasks arrive at that share of what the pool can do. For a batch, least loaded is round robin: "
    "all queues are equally long when the tasks come."
)
_VIRTUAL_ROWS = (
    ("file", "the file, 200 tasks"),
    ("batch40", "40 tasks"),
    ("batch200", "200 tasks"),
    ("batch1000", "1,000 tasks"),
    ("online0.5", "online, load 0.5"),
    ("online0.8", "online, load 0.8"),
    ("online0.95", "online, load 0.95"),
)
_STRATEGIES = ("round_robin", "least_loaded", "shared_queue", "longest_first")


def _virtual(rounds: Sequence[Round]) -> list[str]:
    found = rounds[0] if rounds else {}
    heads = " | ".join(name.replace("_", " ") for name in _STRATEGIES)
    lines = [
        "### W5 in virtual time",
        "",
        _VIRTUAL,
        "",
        f"| | {heads} |",
        "|---" * (1 + len(_STRATEGIES)) + "|",
    ]
    for row, title in _VIRTUAL_ROWS:
        values = [found.get(("w5-virtual", "ours", f"{row}_{name}")) for name in _STRATEGIES]
        if None not in values:
            lines.append(f"| {title} | {' | '.join(f'{value:.3f}' for value in values)} |")
    return [*lines, ""] if len(lines) > len(("title", "", "text", "", "heads", "rule")) else []


def rounds_of(records: Sequence[Record]) -> list[Round]:
    """Return the numbers of each round, oldest round first."""
    rounds: dict[int, Round] = defaultdict(dict)
    for record in records:
        for metric, value in record.get("metrics", {}).items():
            rounds[record["round"]][record["workload"], record["peer"], metric] = value
    return [rounds[number] for number in sorted(rounds)]


def per_round(rounds: Sequence[Round], goal: Goal) -> list[float]:
    """Return a goal's number in each round that has what it needs."""
    found = []
    for numbers in rounds:
        try:
            found.append(goal.value(numbers))
        except KeyError:
            continue  # that round did not measure it
    return found


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= _BIG else f"{value:.3g}"


def spread(values: Sequence[float], unit: str = "") -> str:
    """Return `median (min..max)`."""
    return f"{number(statistics.median(values))}{unit} ({number(min(values))}..{number(max(values))})"


def _table(rounds: Sequence[Round], workload: str, title: str, reference: str, metrics: Any) -> list[str]:
    peers = sorted(
        {peer for numbers in rounds for (found, peer, _) in numbers if found == workload},
        key=lambda peer: (not peer.startswith("ours"), peer),
    )
    if not peers:
        return []
    heads = [f"{title} | x {reference}" for _, title in metrics]
    lines = [f"### {title}", "", f"| peer | {' | '.join(heads)} |", "|---" * (1 + 2 * len(heads)) + "|"]
    for peer in peers:
        cells = []
        for metric, _ in metrics:
            values = [r[workload, peer, metric] for r in rounds if (workload, peer, metric) in r]
            ratios = [
                r[workload, peer, metric] / r[workload, reference, metric]
                for r in rounds
                if (workload, peer, metric) in r and r.get((workload, reference, metric))
            ]
            cells.append(spread(values) if values else "")
            cells.append(spread(ratios) if ratios and peer != reference else "")
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return [*lines, ""]


def missed(records: Sequence[Record]) -> list[Goal]:
    """Return the goals that this run did not reach."""
    rounds = rounds_of(records)
    return [g for g in GOALS if (found := per_round(rounds, g)) and not g.met(statistics.median(found))]


def _goals(rounds: Sequence[Round]) -> list[str]:
    lines = ["| | goal | wanted | median (min..max) | |", "|---|---|---|---|---|"]
    for goal in GOALS:
        found = per_round(rounds, goal)
        if found:
            met = "met" if goal.met(statistics.median(found)) else "**missed**"
            wanted = f"{goal.sense} {goal.bound:g}{goal.unit}"
            lines.append(f"| {goal.workload} | {goal.text} | {wanted} | {spread(found, goal.unit)} | {met} |")
    return [*lines, ""]


def _limit(goals: Sequence[Goal], profile: dict[str, list[tuple[str, float]]]) -> list[str]:
    peer, workload = goals[0].limits
    lines = [
        f"**{'; '.join(f'{g.workload}, {g.text}' for g in goals)}** ({peer} in {workload}, by sampling)",
        "",
    ]
    for name, kind in _KINDS:
        shares = [f"{where} {share:.0%}" for where, share in profile.get(name, [])[:9] if share >= 0.02]
        if shares:
            lines.append(f"- {kind}: {', '.join(f'`{s}`' if ':' in s else s for s in shares)}")
    return [*lines, ""]


def _noise(records: Sequence[Record]) -> str:
    spins = sorted(spin for record in records for spin in record.get("calib_ms", ()))
    if not spins:
        return ""
    low, high = spins[len(spins) // 20], spins[-1 - len(spins) // 20]
    return (
        f"Noise: a fixed loop took {statistics.median(spins):.1f} ms in the median, {low:.1f} at the 5th percentile, "
        f"{high:.1f} at the 95th."
    )


def _run(records: Sequence[Record]) -> list[str]:
    """Return how these records were made, and which measurements failed."""
    failed = [r for r in records if "error" in r]
    return [
        f"{len(rounds_of(records))} rounds (three for the slower workloads), {len(records)} measurements, each in a "
        "fresh process, interleaved and shuffled. Numbers are medians with the range in brackets; a ratio is taken "
        "inside one round, and the median of those ratios is shown. " + _noise(records),
        "",
        *(f"- {r['peer']} {r['workload']} failed in round {r['round']}: {r['error']}" for r in failed),
    ]


def _limits(records: Sequence[Record], profiles: dict[tuple[str, str], Any], head: str) -> list[str]:
    short = missed(records)
    lines = [head, ""] if short else []
    for limits in dict.fromkeys(goal.limits for goal in short):
        lines += _limit([goal for goal in short if goal.limits == limits], profiles.get(limits, {}))
    return lines


def write(
    records: Sequence[Record], profiles: dict[tuple[str, str], Any], fleet: str = "", mcp: str = ""
) -> str:
    """Return the text of RESULTS.md.

    `profiles` has what stands under the missed goals, by (peer, workload); `fleet` is the table of `ten_thousand.py`,
    `mcp` that of `mcp_latency.py`.
    """
    agents = [record for record in records if record["workload"] in AGENTS]
    records = [record for record in records if record["workload"] not in AGENTS]
    rounds = rounds_of(records)
    lines = [
        "# Results",
        "",
        "Written by `make bench`; what is measured and how is in [README.md](README.md).",
        "",
        *(f"- {name}: {value}" for name, value in describe().items()),
        "",
        *_run(records),
        "## Goals", "", *_goals(rounds),
        "The goal beside gen_agent on the BEAM (W1, at least 1.0x) needs a machine with Elixir; where both were "
        "measured, the floor was 1.17x gen_agent, so 0.85x the floor stands for it here.",
        "",
        *_limits(records, profiles, "## What limits the goals that were missed"),
        "## Numbers",
        "",
    ]  # fmt: skip
    for workload, title, reference, metrics in TABLES:
        lines += _table(rounds, workload, title, reference, metrics)
        if workload == "w5":
            lines += _virtual(rounds)
    if fleet:
        lines += ["## Ten thousand Echo sessions in one daemon", "", _FLEET, "", fleet]
    if mcp:
        lines += ["## A tool call over MCP", "", _MCP, "", mcp]
    return with_agents("\n".join(lines).rstrip() + "\n", agents, profiles)


def with_agents(text: str, records: Sequence[Record], profiles: dict[tuple[str, str], Any]) -> str:
    """Return RESULTS.md with its last part, about sub-agents, made from these records."""
    rest = text.partition(f"\n{_AGENTS_HEAD}\n")[0].rstrip() + "\n"
    if not records:
        return rest
    rounds = rounds_of(records)
    versions = versions_of("pydantic-ai-slim", "openai-agents", "langchain", "langgraph", "deepagents")
    lines = [
        rest,
        _AGENTS_HEAD,
        "",
        f"{_AGENTS} Versions: {', '.join(versions)}.",
        "",
        *_run(records),
        *_goals(rounds),
        *_limits(records, profiles, "### What limits the goals of sub-agents that were missed"),
    ]
    for workload, title, reference, metrics in TABLES:
        lines += _table(rounds, workload, title, reference, metrics)
    return "\n".join(lines).strip() + "\n"
