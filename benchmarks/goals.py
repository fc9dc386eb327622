"""The goals of the design, as data. Every one is a number from one round, so nothing from another day gets in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Round = dict[tuple[str, str, str], float]
"""The numbers of one round by (workload, peer, metric)."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that must not be missed. `limits` says what to profile when it is."""

    workload: str
    text: str
    value: Callable[[Round], float]
    bound: float
    sense: Literal["at least", "at most"]
    limits: tuple[str, str]
    unit: str = "x"

    def met(self, value: float) -> bool:
        """Return whether a value reaches the goal."""
        return value >= self.bound if self.sense == "at least" else value <= self.bound


def ratio(workload: str, peer: str, other: str, metric: str = "turns_per_s") -> Callable[[Round], float]:
    return lambda found: found[workload, peer, metric] / found[workload, other, metric]


def _own(workload: str, metric: str, other: str) -> Callable[[Round], float]:
    return lambda found: found[workload, "ours", metric] / found[workload, "ours", other]


def _flat_at_500k(found: Round) -> float:
    return found["w7", "ours", "turn_us_500000"] / found["w7", "ours", "turn_us_0"]


def _acked(found: Round) -> float:
    flush_us = found["w8-acked", "ours-durable", "flush_us"]
    return found["w8-acked", "ours-durable", "p50_us"] / (2 * flush_us + 150)


def _rate_beside_heartbeat(found: Round) -> float:
    return found["w9", "ours", "turns_per_s"] / found["w2", "ours", "turns_per_s"]


GOALS = (
    Goal("W1", "sequential asks, beside the floor", ratio("w1", "ours", "aio-proto"), 0.85, "at least", ("ours", "w1")),
    Goal("W1", "beside Pykka", ratio("w1", "ours", "pykka"), 3, "at least", ("ours", "w1")),
    Goal("W1", "beside AutoGen Core", ratio("w1", "ours", "autogen-core"), 5.5, "at least", ("ours", "w1")),
    Goal("W2", "1,000 agents x 20 tells, beside the floor", ratio("w2", "ours", "aio-proto"), 1.25, "at least",
         ("ours", "w2")),
    Goal("W2", "beside Pykka", ratio("w2", "ours", "pykka"), 2, "at least", ("ours", "w2")),
    Goal("W2", "beside AutoGen Core", ratio("w2", "ours", "autogen-core"), 4, "at least", ("ours", "w2")),
    Goal("W3", "memory of an idle agent, 100,000 of them", lambda r: r["w3-100k", "ours", "bytes_per_agent"], 800,
         "at most", ("ours", "w3-100k"), " B"),
    Goal("W4", "a pool of 8 and 20,000 tasks, beside the floor", ratio("w4", "ours", "aio-proto", "tasks_per_s"), 1.2,
         "at least", ("ours", "w4")),
    Goal("W4", "beside Pykka", ratio("w4", "ours", "pykka", "tasks_per_s"), 1.2, "at least", ("ours", "w4")),
    Goal("W4", "beside AutoGen Core", ratio("w4", "ours", "autogen-core", "tasks_per_s"), 5.5, "at least",
         ("ours", "w4")),
    Goal("W5", "makespan of a shared queue, beside simulated list scheduling",
         _own("w5", "shared_queue_s", "list_scheduling_s"), 1.02, "at most", ("ours", "w5")),
    Goal("W5", "a shared queue beside round robin", _own("w5", "shared_queue_s", "round_robin_s"), 0.9, "at most",
         ("ours", "w5")),
    Goal("W5", "longest first, with hints, beside the lower bound, in virtual time",
         lambda r: r["w5-virtual", "ours", "file_longest_first"], 1.01, "at most", ("ours", "w5")),
    Goal("W5", "mean wait under a shared queue beside round robin, arrivals at 80 % load, in virtual time",
         _own("w5-virtual", "online0.8_shared_queue", "online0.8_round_robin"), 0.2, "at most", ("ours", "w5")),
    Goal("W6", "from the last task to the return of wait_for_all, p50", lambda r: r["w6", "ours", "p50_ms"], 0.1,
         "at most", ("ours", "w6"), " ms"),
    Goal("W6", "the same, at most", lambda r: r["w6", "ours", "max_ms"], 2, "at most", ("ours", "w6"), " ms"),
    Goal("W7", "a turn at 500,000 history entries beside the first", _flat_at_500k, 1.1, "at most", ("ours", "w7")),
    Goal("W8", "the writer alone, beside a bare writer thread",
         ratio("w8-writer", "ours-writer", "raw-writer", "rows_per_s"), 0.6, "at least", ("ours-writer", "w8-writer")),
    Goal("W8", "an acknowledged turn of one client, beside two flushes and 150 µs", _acked, 1.0, "at most",
         ("ours-durable", "w8-acked")),
    Goal("W8", "W2 with every turn durable (three facts each), beside own W2", ratio("w2", "ours-durable", "ours"), 0.8,
         "at least", ("ours-durable", "w2")),
    Goal("W8", "W2 with one row per turn as the floor writes it, beside own W2", ratio("w2", "ours-one-row", "ours"),
         0.8, "at least", ("ours-one-row", "w2")),
    Goal("W9", "the latest heartbeat under W2's load", lambda r: r["w9", "ours", "lag_max_ms"], 10, "at most",
         ("ours", "w9"), " ms"),
    Goal("W9", "turns beside that heartbeat, beside own W2", _rate_beside_heartbeat, 0.9, "at least", ("ours", "w9")),
    Goal("W10", "a sub-agent's run, beside bare Pydantic AI", ratio("w10", "ours-subagents", "pydantic-ai", "p50_us"),
         1.25, "at most", ("ours-subagents", "w10")),
    Goal("W11", "an interrupt and its approval, beside bare Pydantic AI",
         ratio("w11", "ours-subagents", "pydantic-ai", "p50_us"), 1.25, "at most", ("ours-subagents", "w11")),
)  # fmt: skip
