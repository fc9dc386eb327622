"""One measurement in this process, as a line of JSON: `python -m benchmarks.measure PEER WORKLOAD [size=value ...]`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from typing import Any

from benchmarks.peers import load
from benchmarks.workloads import QUICK, WORKLOADS, Metrics, Sizes


async def run(peer_name: str, workload: str, given: Sizes) -> Metrics:
    """Measure one workload on one peer."""
    function, sizes = WORKLOADS[workload]
    peer = load(peer_name)
    await peer.setup()
    # For every peer, as our daemon does for itself: what was imported and set up is not collected in every full round.
    gc.collect()
    gc.freeze()
    try:
        return await function(peer, {**sizes, **given})
    finally:
        await peer.teardown()


def calibrate_ms() -> float:
    """Return what a fixed loop takes: a thermometer for noise, not a result."""
    best = 1e9
    for _ in range(5):
        began = time.perf_counter()
        x = 0
        for i in range(200_000):
            x += i & 7
        best = min(best, time.perf_counter() - began)
    return best * 1e3


def main(peer: str, workload: str, *given: str) -> None:
    """Measure and print."""
    sizes: Sizes = dict(QUICK[workload]) if "quick" in given else {}
    sizes.update((key, float(value)) for key, _, value in (g.partition("=") for g in given) if value)
    before = calibrate_ms()
    record: dict[str, Any] = {"peer": peer, "workload": workload}
    record["metrics"] = asyncio.run(run(peer, workload, sizes))
    record["calib_ms"] = [round(before, 3), round(calibrate_ms(), 3)]
    record["load"] = os.getloadavg()[0]
    print(json.dumps(record), flush=True)
    os._exit(0)  # a peer's ten thousand threads are not waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
