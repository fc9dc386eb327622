"""How tasks can be dealt out at best: the bounds that W5 is judged by, and the durations it is run with."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path

DURATIONS = Path(__file__).with_name("durations.txt")
"""200 durations in seconds, lognormal (sigma 1), scaled so that the lower bound for 8 workers is 2 s."""


def lower_bound(durations: Sequence[float], workers: int) -> float:
    """Return what no way of dealing can beat: the longest task, or all of it shared out evenly."""
    return max(*durations, sum(durations) / workers)


def list_scheduling(durations: Sequence[float], workers: int) -> float:
    """Return the makespan when every worker takes the next task in order as soon as it is free (Graham, 1966)."""
    free = [0.0] * workers
    for seconds in durations:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
