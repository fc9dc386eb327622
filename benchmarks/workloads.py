"""The workloads, written once against `peers.base.Peer`. Each returns its metrics, flat."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.agent_runs import approved_run, carried_run, whole_run
from benchmarks.dealing import DURATIONS, list_scheduling, lower_bound
from benchmarks.peers.base import SLEEP, Peer
from benchmarks.peers.floor_durable import scratch

Metrics = dict[str, float]
Sizes = dict[str, float]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HEARTBEAT_NS = 1_000_000
now = time.perf_counter_ns


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def percentile(values: list[int], share: float) -> float:
    values.sort()
    return values[min(len(values) - 1, int(len(values) * share))]


def arm(peer: Peer, target: int) -> None:
    peer.latch.arm(target, peer.new_signal())


async def sequential_asks(peer: Peer, sizes: Sizes) -> Metrics:
    """W1: one agent, one client, one turn after the other."""
    (handle,) = await peer.start_agents(1)
    ask = peer.ask
    for _ in range(int(sizes["warm"])):
        await ask(handle, "hello")
    took: list[int] = []
    began = now()
    end = began + int(sizes["seconds"] * 1e9)
    while began < end:
        await ask(handle, "hello")
        ended = now()
        took.append(ended - began)
        began = ended
    rate = len(took) / (sum(took) / 1e9)
    return {
        "turns_per_s": rate,
        "p50_us": percentile(took, 0.5) / 1e3,
        "p99_us": percentile(took, 0.99) / 1e3,
    }


async def _tell_all(
    peer: Peer, handles: list[Any], rounds: int, between: Callable[[], Awaitable[None]]
) -> None:
    """Tell every agent once, then once more, and so on: one client."""
    for _ in range(rounds):
        for handle in handles:
            told = peer.tell(handle, "hello")
            if told is not None and inspect.isawaitable(told):
                await told
        await between()


async def _do_nothing() -> None:
    pass


async def many_tells(peer: Peer, sizes: Sizes) -> Metrics:
    """W2: many agents, several tells each, until all turns are done."""
    agents, tells = int(sizes["agents"]), int(sizes["tells"])
    warm = await peer.start_agents(min(agents, 100))
    arm(peer, len(warm) * 5)
    await _tell_all(peer, warm, 5, _do_nothing)
    await peer.all_done()
    await peer.stop_agents(warm)
    handles = await peer.start_agents(agents)
    gc.collect()
    arm(peer, agents * tells)
    began = now()
    await _tell_all(peer, handles, tells, _do_nothing)
    told = now()
    await peer.all_done()
    seconds = (peer.latch.done_ns - began) / 1e9
    return {"turns_per_s": agents * tells / seconds, "telling_s": (told - began) / 1e9}


async def idle_agents(peer: Peer, sizes: Sizes) -> Metrics:
    """W3: start so many agents; what each costs in time and in memory while it is idle."""
    n = int(sizes["agents"])
    await peer.start_agents(1)
    gc.collect()
    before = rss_bytes()
    began = now()
    handles = await peer.start_agents(n)
    ended = now()
    await asyncio.sleep(0.05)  # whatever the peer does after the start is counted too
    gc.collect()
    grown = rss_bytes() - before
    await peer.ask(handles[-1], "hello")  # they really work
    return {"starts_per_s": n / ((ended - began) / 1e9), "bytes_per_agent": grown / n}


async def pool_rate(peer: Peer, sizes: Sizes) -> Metrics:
    """W4: a pool of workers and many tasks of no length, dealt out in turn, until all are done."""
    for tasks in (int(sizes["warm_tasks"]), int(sizes["tasks"])):
        pool = await peer.start_pool(int(sizes["workers"]))
        prompts = ["hello"] * tasks
        arm(peer, tasks)
        gc.collect()
        began = now()
        await peer.submit_all(pool, prompts)
        await peer.all_done()
        seconds = (peer.latch.done_ns - began) / 1e9
        await peer.stop_pool(pool)
    return {"tasks_per_s": tasks / seconds}


async def makespan(peer: Peer, sizes: Sizes) -> Metrics:
    """W5: tasks of very different lengths (a fixed file, real sleeps), under each strategy that the peer has."""
    durations = [float(line) * sizes["scale"] for line in DURATIONS.read_text().split()]
    prompts = [f"{SLEEP}{seconds}" for seconds in durations]
    workers = int(sizes["workers"])
    metrics: Metrics = {
        "bound_s": lower_bound(durations, workers),
        "list_scheduling_s": list_scheduling(durations, workers),
    }
    for strategy in peer.strategies:
        pool = await peer.start_pool(workers, strategy)
        arm(peer, len(prompts))
        began = now()
        await peer.submit_all(pool, prompts, durations)
        await peer.all_done()
        metrics[f"{strategy}_s"] = (peer.latch.done_ns - began) / 1e9
        await peer.stop_pool(pool)
    return metrics


async def pool_quiet(peer: Peer, sizes: Sizes) -> Metrics:
    """W6: from the end of the last task to the return of the peer's own wait for all."""
    late: list[int] = []
    for repetition in range(int(sizes["repetitions"])):
        pool = await peer.start_pool(8)
        last = f"{SLEEP}{0.02 + 0.013 * (repetition * 7 % 20)}"
        arm(peer, 64)
        await peer.submit_all(pool, [f"{SLEEP}0.001"] * 63 + [last])
        await peer.wait_for_all(pool)
        late.append(now() - peer.latch.done_ns)
        await peer.stop_pool(pool)
    return {"p50_ms": percentile(late, 0.5) / 1e6, "max_ms": max(late) / 1e6}


async def long_history(peer: Peer, sizes: Sizes) -> Metrics:
    """W7: one more turn, and a look at the status, at several lengths of the history."""
    metrics: Metrics = {}
    for entries in (0, 10_000, 50_000, 500_000):
        (handle,) = await peer.start_agents(1, entries)
        gc.collect()
        for _ in range(int(sizes["warm"])):
            await peer.ask(handle, "hello")
        turns, looks = [], []
        for _ in range(int(sizes["turns"])):
            began = now()
            await peer.ask(handle, "hello")
            ended = now()
            await peer.status(handle)
            turns.append(ended - began)
            looks.append(now() - ended)
        metrics[f"turn_us_{entries}"] = percentile(turns, 0.5) / 1e3
        metrics[f"status_us_{entries}"] = percentile(looks, 0.5) / 1e3
        await peer.stop_agents([handle])
    return metrics


async def writer_alone(peer: Peer, sizes: Sizes) -> Metrics:
    """W8: so many clients, each waiting for its own row to be on the disk."""
    end = now() + int(sizes["seconds"] * 1e9)
    rows = 0

    async def client() -> None:
        nonlocal rows
        while now() < end:
            rows += 1
            await peer.write(rows)

    began = now()
    await asyncio.gather(*(client() for _ in range(int(sizes["clients"]))))
    return {"rows_per_s": rows / ((now() - began) / 1e9)}


async def acked_turns(peer: Peer, sizes: Sizes) -> Metrics:
    """W8: one client, one turn after the other, each durable before the next; beside it what a flush costs."""
    flush_us = _flush_us()
    (handle,) = await peer.start_agents(1)
    took: list[int] = []
    for _ in range(int(sizes["turns"])):
        began = now()
        await peer.acked_turn(handle, "hello")
        took.append(now() - began)
    return {"p50_us": percentile(took, 0.5) / 1e3, "flush_us": flush_us}


def _flush_us(samples: int = 200) -> float:
    """Return how long the disk takes to flush four kilobytes: what no commit can beat."""
    directory = scratch()
    path = directory / "probe"
    took: list[int] = []
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for _ in range(samples):
        os.write(file, b"x" * 4096)
        began = now()
        os.fdatasync(file)
        took.append(now() - began)
    os.close(file)
    path.unlink()
    directory.rmdir()
    return percentile(took, 0.5) / 1e3


async def heartbeat_lag(peer: Peer, sizes: Sizes) -> Metrics:
    """W9: how late a heartbeat of one millisecond comes beside W2's load; the client gives way after each round."""
    agents, tells = int(sizes["agents"]), int(sizes["tells"])
    handles = await peer.start_agents(agents)
    gc.collect()
    arm(peer, agents * tells)
    lags: list[int] = []
    pauses: list[int] = []
    going = True

    def collected(phase: str, info: object) -> None:
        pauses.append(now() if phase == "start" else now() - pauses.pop())

    async def beat() -> None:
        while going:
            asked = now()
            await asyncio.sleep(_HEARTBEAT_NS / 1e9)
            lags.append(now() - asked - _HEARTBEAT_NS)

    heart = asyncio.ensure_future(beat())
    await asyncio.sleep(0.02)
    lags.clear()
    gc.callbacks.append(collected)
    began = now()
    await _tell_all(peer, handles, tells, lambda: asyncio.sleep(0))
    await peer.all_done()
    seconds = (peer.latch.done_ns - began) / 1e9
    going = False
    await heart
    gc.callbacks.remove(collected)
    return {
        "turns_per_s": agents * tells / seconds,
        "lag_p50_ms": percentile(lags, 0.5) / 1e6,
        "lag_max_ms": max(lags) / 1e6,
        "collector_max_ms": max(pauses, default=0) / 1e6,
    }


Workload = Callable[[Peer, Sizes], Awaitable[Metrics]]

WORKLOADS: dict[str, tuple[Workload, Sizes]] = {
    "w1": (sequential_asks, {"seconds": 1.0, "warm": 500}),
    "w2": (many_tells, {"agents": 1_000, "tells": 20}),
    "w3-10k": (idle_agents, {"agents": 10_000}),
    "w3-100k": (idle_agents, {"agents": 100_000}),
    "w4": (pool_rate, {"workers": 8, "tasks": 20_000, "warm_tasks": 2_000}),
    "w5": (makespan, {"workers": 8, "scale": 1.0}),
    "w6": (pool_quiet, {"repetitions": 20}),
    "w7": (long_history, {"turns": 500, "warm": 100}),
    "w8-writer": (writer_alone, {"seconds": 1.0, "clients": 64}),
    "w8-acked": (acked_turns, {"turns": 500}),
    "w9": (heartbeat_lag, {"agents": 1_000, "tells": 20}),
    "w10": (whole_run, {"runs": 400, "warm": 40}),
    "w11": (approved_run, {"runs": 200, "warm": 20}),
    "w12": (carried_run, {"runs": 200, "warm": 20}),
}

QUICK: dict[str, Sizes] = {
    "w1": {"seconds": 0.1},
    "w2": {"agents": 200, "tells": 10},
    "w3-10k": {"agents": 1_000},
    "w3-100k": {"agents": 10_000},
    "w4": {"tasks": 2_000, "warm_tasks": 200},
    "w5": {"scale": 0.1},
    "w6": {"repetitions": 3},
    "w7": {"turns": 50},
    "w8-writer": {"seconds": 0.1},
    "w8-acked": {"turns": 50},
    "w9": {"agents": 200, "tells": 10},
    "w10": {"runs": 40, "warm": 5},
    "w11": {"runs": 20, "warm": 5},
    "w12": {"runs": 20, "warm": 5},
}
