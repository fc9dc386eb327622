"""Where the time goes, by sampling: `python -m benchmarks.limits PEER WORKLOAD [--json]`.

A timer of the process's CPU time interrupts the main thread; the function it stands in gets the sample, C code counts
for whoever called it. Unlike a tracing profiler this does not make small functions look dear. The other threads (the
store's writer) are looked at in the same moment; a thread that waits for work is not counted. Beside that: how long
each thread was on a processor, and how long the cyclic garbage collector stopped the world.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from benchmarks.measure import run
from benchmarks.workloads import Sizes

_EVERY_S = 0.001
_ROOT = Path(__file__).resolve().parents[1]
_LONG: dict[str, Sizes] = {
    "w1": {"seconds": 3.0},
    "w2": {"tells": 60},
    "w4": {"tasks": 60_000},
    "w7": {"turns": 20_000},
    "w8-acked": {"turns": 3_000},
    "w8-writer": {"seconds": 3.0},
    "w10": {"runs": 1_000},
    "w11": {"runs": 1_000},
}
_COLLECTOR = "the garbage collector"
_IDLE = ("thread.py:_worker", "writer.py:Writer._gather", "threading.py:")

Share = tuple[str, float]


def _where(frame: FrameType) -> str:
    code = frame.f_code
    if code is _Collector.__call__.__code__:
        return _COLLECTOR  # it is told when the collector, which cannot be interrupted, has ended
    path = Path(code.co_filename)
    if path.is_relative_to(_ROOT / "src" / "tollboard"):
        place = path.relative_to(_ROOT / "src" / "tollboard").as_posix()
    elif path.is_relative_to(_ROOT / "benchmarks"):
        place = path.relative_to(_ROOT).as_posix()
    else:
        place = f"{path.parent.name}/{path.name}"
    return f"{place}:{code.co_qualname}"


def _group(where: str) -> str:
    if where == _COLLECTOR:
        return where
    if "selectors.py" in where:
        return "waiting for events"
    if where.startswith("/<string>"):
        return "making frozen values"
    if where.startswith("benchmarks/"):
        return "the benchmark itself: its backend, its callback, its client"
    if where.startswith("asyncio/"):
        return "asyncio's loop"
    head = where.partition("/")[0]
    return f"our {head}/" if head in {"runtime", "store", "fleet", "subagents"} else "other"


class _Collector:
    """How long the cyclic garbage collector stopped the world: in all, and at most."""

    def __init__(self) -> None:
        self.longest_s = self.total_s = self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        took = time.perf_counter() - self._began
        self.total_s += took
        self.longest_s = max(self.longest_s, took)


def profile(peer: str, workload: str) -> dict[str, list[Share]]:
    """Run the workload under the sampler; return shares by group, by function, and of the other threads."""
    main: Counter[str] = Counter()
    others: Counter[str] = Counter()
    own = threading.get_ident()

    def sample(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            main[_where(frame)] += 1
        for ident, other in sys._current_frames().items():
            if ident != own and not any(idle in (where := _where(other)) for idle in _IDLE):
                others[where] += 1

    collector = _Collector()
    gc.callbacks.append(collector)
    began, process_s, thread_s = time.perf_counter(), time.process_time(), time.thread_time()
    signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)
    try:
        asyncio.run(run(peer, workload, _LONG.get(workload, {})))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    took = time.perf_counter() - began
    thread_s = time.thread_time() - thread_s
    times = [
        ("the loop's thread on a processor", thread_s / took),
        ("other threads on a processor", (time.process_time() - process_s - thread_s) / took),
        (f"the garbage collector, {collector.longest_s * 1e3:.1f} ms at most", collector.total_s / took),
    ]
    groups: Counter[str] = Counter()
    for where, count in main.items():
        groups[_group(where)] += count
    return {
        "times": times,
        "groups": _shares(groups),
        "functions": _shares(main),
        "threads": _shares(others),
    }


def _shares(counts: Counter[str], most: int = 12) -> list[Share]:
    total = counts.total() or 1
    return [(name, count / total) for name, count in counts.most_common(most)]


def main(peer: str, workload: str, *flags: str) -> None:
    """Profile and print."""
    found = profile(peer, workload)
    if "--json" in flags:
        print(json.dumps(found))
        return
    for title, shares in found.items():
        print(f"\n{title}")
        for name, share in shares:
            print(f"  {share:6.1%}  {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
