"""The workloads of sub-agents: a run, a pause that a person ends, and what is kept of it. See `peers/pausing.py`."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable

from benchmarks.peers.base import Peer
from benchmarks.peers.pausing import DONE, GUARDED, ONE, PausingPeer, looks, many, ran, size

Metrics = dict[str, float]
Sizes = dict[str, float]
now = time.perf_counter_ns


async def _sample(once: Callable[[], Awaitable[str]], tool: str, sizes: Sizes) -> Metrics:
    """Return how long one of them takes, and how many there are in a second. Each has to run the tool once."""
    for _ in range(int(sizes["warm"])):
        before = ran[tool]
        assert await once() == DONE
        assert ran[tool] == before + 1
    gc.collect()
    took: list[int] = []
    for _ in range(int(sizes["runs"])):
        began = now()
        await once()
        took.append(now() - began)
    rate = len(took) / (sum(took) / 1e9)
    took.sort()
    return {"runs_per_s": rate, "p50_us": took[len(took) // 2] / 1e3}


async def whole_run(peer: Peer, sizes: Sizes) -> Metrics:
    """W10: a run of two model calls and one tool call that nobody is asked about."""
    assert isinstance(peer, PausingPeer)
    peer.prepare(ONE)
    return await _sample(peer.run, "look", sizes)


async def approved_run(peer: Peer, sizes: Sizes) -> Metrics:
    """W11: the same, but its call waits for a person, who approves: pause and resume in one process."""
    assert isinstance(peer, PausingPeer)
    peer.prepare(GUARDED)

    async def once() -> str:
        paused = await peer.pause()
        return await peer.resume(paused)

    return await _sample(once, "save", sizes)


async def carried_run(peer: Peer, sizes: Sizes) -> Metrics:
    """W12: the same, but only what was kept as bytes outlives the pause; and how much that is."""
    assert isinstance(peer, PausingPeer)
    peer.prepare(GUARDED)

    async def once() -> str:
        return await peer.resume(await peer.restore(await peer.keep(await peer.pause())))

    metrics = await _sample(once, "save", sizes)
    for name, script in (
        ("bytes", GUARDED), ("bytes_ten_calls", many(10)), ("bytes_after_20", (*looks(20), *GUARDED)),
    ):  # fmt: skip
        peer.prepare(script)
        metrics[name] = size(await peer.keep(await peer.pause()))
    return metrics
