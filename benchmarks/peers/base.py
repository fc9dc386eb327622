"""What a peer must offer to be measured. `workloads.py` does the timing, so everybody is timed by the same code."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

USAGE = {"input_tokens": 1, "output_tokens": 1}
TERMINAL = frozenset(("result", "error"))


@dataclass(slots=True)
class Event:
    """An event of a peer that has none of its own."""

    kind: str
    data: dict[str, Any]
    ts: float


@dataclass(slots=True)
class Response:
    """A response of a peer that has none of its own."""

    text: str
    events: list[Event]
    usage: dict[str, int] | None = None
    duration_ms: float = 0.0
    session_id: str | None = None


SLEEP = "sleep "
"""A prompt that begins so says how many seconds its turn is to take."""


def seconds_of(prompt: str) -> float:
    """Return how long the turn of a prompt is to take."""
    return float(prompt[len(SLEEP) :])


class ZeroBackend:
    """A backend without latency: one text and one result event."""

    __slots__ = ()

    async def prompt(self, prompt: str) -> AsyncGenerator[Event, None]:
        if prompt.startswith(SLEEP):
            await asyncio.sleep(seconds_of(prompt))
        yield Event("text", {"text": prompt}, time.monotonic())
        yield Event("result", {"text": prompt, "usage": USAGE}, time.monotonic())

    def prompt_sync(self, prompt: str) -> Iterator[Event]:
        if prompt.startswith(SLEEP):
            time.sleep(seconds_of(prompt))
        yield Event("text", {"text": prompt}, time.monotonic())
        yield Event("result", {"text": prompt, "usage": USAGE}, time.monotonic())


def fold(events: list[Event], began: float) -> Response:
    last = events[-1]
    text = last.data.get("text")
    if text is None:
        text = "".join(e.data.get("text", "") for e in events if e.kind == "text")
    return Response(text, events, last.data.get("usage"), (time.monotonic() - began) * 1e3)


async def consume(backend: ZeroBackend, prompt: str) -> Response:
    """Run one prompt to its terminal event.

    The stream is closed here: left to the garbage collector it costs a task per turn (asyncio's hook for generators).
    """
    began = time.monotonic()
    events: list[Event] = []
    stream = backend.prompt(prompt)
    try:
        async for event in stream:
            events.append(event)
            if event.kind in TERMINAL:
                break
    finally:
        await stream.aclose()
    return fold(events, began)


def consume_sync(backend: ZeroBackend, prompt: str) -> Response:
    began = time.monotonic()
    events: list[Event] = []
    for event in backend.prompt_sync(prompt):
        events.append(event)
        if event.kind in TERMINAL:
            break
    return fold(events, began)


def entry(seq: int, ref: object, text: str, usage: object, duration_ms: float) -> dict[str, Any]:
    """Return the history entry that everybody appends. No future and no response in it: the collector walks those."""
    return {
        "status": "ok", "seq": seq, "ref": ref, "text": text, "usage": usage, "duration_ms": duration_ms,
        "completed_at": time.time_ns() // 1_000_000,
    }  # fmt: skip


class Latch:
    """Counts finished turns and remembers when the last one finished."""

    __slots__ = ("count", "done_ns", "signal", "target")

    def __init__(self) -> None:
        self.count = 0
        self.target = -1
        self.done_ns = 0
        self.signal: Any = None

    def arm(self, target: int, signal: Any) -> None:
        """Expect this many turns; `signal.set_result(None)` says that they are done."""
        self.count = 0
        self.target = target
        self.signal = signal

    def hit(self) -> None:
        """Count a finished turn."""
        self.count += 1
        if self.count == self.target:
            self.done_ns = time.perf_counter_ns()
            self.signal.set_result(None)


@dataclass(slots=True)
class Dealt:
    """A pool of a peer that has none: its agents, dealt to in turn."""

    workers: list[Any]
    strategy: str
    next: int = 0
    waiting: deque[str] = field(default_factory=deque)
    free: deque[Any] = field(default_factory=deque)


class Peer:
    """Somebody to measure. A handle is whatever the peer's own users would hold to reach one agent."""

    runs: ClassVar[frozenset[str]] = frozenset()
    """Names of the workloads this peer can run."""
    strategies: ClassVar[tuple[str, ...]] = ("round_robin",)
    """Ways in which its pool can deal out tasks."""

    def __init__(self) -> None:
        self.latch = Latch()

    async def setup(self) -> None:
        """Start what the agents need."""

    async def teardown(self) -> None:
        """End it."""

    async def start_agents(self, n: int, history: int = 0) -> list[Any]:
        """Start `n` idle agents, each with so many history entries already, and return their handles."""
        raise NotImplementedError

    async def stop_agents(self, handles: list[Any]) -> None:
        """End these agents."""

    async def ask(self, handle: Any, prompt: str) -> object:
        """Run one turn and wait for its response."""
        raise NotImplementedError

    def tell(self, handle: Any, prompt: str) -> Awaitable[object] | None:
        """Queue one turn. Its agent hits the latch when it is done."""
        raise NotImplementedError

    async def status(self, handle: Any) -> object:
        """Read what the peer offers about an agent: the length of its history and the newest ten entries."""
        raise NotImplementedError

    async def acked_turn(self, handle: Any, prompt: str) -> None:
        """Run one turn; return when its acceptance and its outcome are both on the disk."""
        raise NotImplementedError

    async def write(self, number: int) -> None:
        """Make one row durable; `number` is new each time."""
        raise NotImplementedError

    # -- pools (W4, W5, W6); a worker hits the latch for each task

    async def start_pool(self, workers: int, strategy: str = "round_robin") -> Any:
        """Start a pool of idle workers."""
        return Dealt(await self.start_agents(workers), strategy)

    def submit(self, pool: Any, prompt: str, hint_s: float | None = None) -> Awaitable[object] | None:
        """Give the pool a task; `hint_s` says how long it will take, for whoever wants to know."""
        at, pool.next = pool.next, pool.next + 1
        return self.tell(pool.workers[at % len(pool.workers)], prompt)

    async def submit_all(self, pool: Any, prompts: list[str], hints: list[float] | None = None) -> None:
        """Give the pool many tasks, in order."""
        for at, prompt in enumerate(prompts):
            told = self.submit(pool, prompt, None if hints is None else hints[at])
            if told is not None:
                await told

    async def wait_for_all(self, pool: Any) -> None:
        """Return as soon as the pool has done everything, in whatever way the peer offers."""
        await self.all_done()

    async def stop_pool(self, pool: Any) -> None:
        """End the pool."""
        await self.stop_agents(pool.workers)

    def new_signal(self) -> Any:
        """Return what the latch sets when all turns are done."""
        return asyncio.get_running_loop().create_future()

    async def all_done(self) -> None:
        """Return once the latch has its target."""
        await self.latch.signal
