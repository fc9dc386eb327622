"""The pool's strategies in virtual time: `python -m benchmarks.makespan [--plot FILE]`, a line of JSON.

The real pool and the real runtime run on an event loop whose clock jumps to the next timer, so durations are exact and
a long run takes a moment. Batch: everything is submitted at once, makespan beside what no strategy can beat. Online:
tasks arrive at random (Poisson) at a share of the pool's capacity, how long they wait beside how long they take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import selectors
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.dealing import DURATIONS, list_scheduling, lower_bound
from benchmarks.peers.base import SLEEP
from benchmarks.peers.ours import ZeroBackend
from tollboard.pool.pool import Pool
from tollboard.pool.records import Task

STRATEGIES = ("round_robin", "least_loaded", "shared_queue", "longest_first")
WORKERS = 8
LOADS = (0.5, 0.8, 0.95)


class _Jump(selectors.DefaultSelector):
    """Does not wait: it lets the loop's clock jump instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time. Nothing on it may wait for anything but timers."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _Jump()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now


def virtually(work: Any) -> Any:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


async def batch(strategy: str, durations: Sequence[float]) -> float:
    """Return the makespan of tasks that are submitted all at once."""
    loop = asyncio.get_running_loop()
    async with Pool.start(WORKERS, backend=ZeroBackend(), strategy=strategy, max_queued=100_000) as pool:
        began = loop.time()
        await pool.submit_many(Task(f"{SLEEP}{seconds!r}", hint_s=seconds) for seconds in durations)
        await pool.wait_for_all()
        return loop.time() - began


async def online(strategy: str, durations: Sequence[float], load: float, seed: int) -> list[float]:
    """Return how long each task waited, in mean task times, when tasks arrive at this share of the capacity."""
    chance = random.Random(seed)
    mean = statistics.fmean(durations)
    waits: list[float] = []
    loop = asyncio.get_running_loop()

    class Waiting(ZeroBackend):
        async def prompt(self, session: None, text: str, turn: Any) -> Any:
            seconds, arrived = text.split()
            waits.append((loop.time() - float(arrived)) / mean)
            async for event in super().prompt(session, f"{SLEEP}{seconds}", turn):
                yield event

    async with Pool.start(WORKERS, backend=Waiting(), strategy=strategy, max_queued=100_000) as pool:
        for seconds in durations:
            await asyncio.sleep(chance.expovariate(load * WORKERS / mean))
            await pool.submit(Task(f"{seconds!r} {loop.time()!r}", hint_s=seconds))
        await pool.wait_for_all()
    return waits


def lognormal(seed: int, count: int, sigma: float) -> list[float]:
    chance = random.Random(seed)
    return [chance.lognormvariate(0, sigma) for _ in range(count)]


def measure(seeds: int) -> dict[str, float]:
    """Return all figures, flat: makespans beside the lower bound, waits in mean task times."""
    found: dict[str, float] = {}
    file = [float(line) for line in DURATIONS.read_text().split()]
    found["file_list_scheduling"] = list_scheduling(file, WORKERS) / lower_bound(file, WORKERS)
    for strategy in STRATEGIES:
        found[f"file_{strategy}"] = virtually(batch(strategy, file)) / lower_bound(file, WORKERS)
    for count in (40, 200, 1_000):
        samples = [lognormal(seed, count, 1.0) for seed in range(seeds)]
        for strategy in STRATEGIES:
            ratios = [virtually(batch(strategy, one)) / lower_bound(one, WORKERS) for one in samples]
            found[f"batch{count}_{strategy}"] = statistics.fmean(ratios)
    for load in LOADS:
        for strategy in STRATEGIES:
            waits = [
                wait
                for seed in range(max(1, seeds // 4))
                for wait in virtually(online(strategy, lognormal(seed, 1_000, 1.0), load, seed))
            ]
            found[f"online{load:g}_{strategy}"] = statistics.fmean(waits)
    return found


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--plot", type=Path, default=None, help="write the picture of the batch figures here")
    options = parser.parse_args()
    found = measure(options.seeds)
    if options.plot is not None:
        from benchmarks.plot import makespans

        options.plot.write_text(makespans(found, STRATEGIES))
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
