"""Pykka: one thread per actor. `ask` and `tell` are the actor reference's own."""

from __future__ import annotations

import threading
from typing import Any

import pykka

from benchmarks.peers.base import Latch, Peer, Response, ZeroBackend, consume_sync, entry


class Session(pykka.ThreadingActor):
    use_daemon_thread = True

    def __init__(self, latch: Latch, lock: threading.Lock) -> None:
        super().__init__()
        self.backend = ZeroBackend()
        self.history: list[Any] = []
        self.latch, self.lock = latch, lock

    def on_receive(self, message: str) -> Response:
        r = consume_sync(self.backend, message)
        self.history.append(entry(len(self.history) + 1, None, r.text, r.usage, r.duration_ms))
        with self.lock:
            self.latch.hit()
        return r


class _Signal:
    """Stands where asyncio's peers have a future."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def set_result(self, _: None) -> None:
        self.event.set()


class PykkaPeer(Peer):
    """A hundred thousand threads are not tried."""

    runs = frozenset({"w1", "w2", "w3-10k", "w4", "w6"})

    async def setup(self) -> None:
        self.lock = threading.Lock()

    async def start_agents(self, n: int, history: int = 0) -> list[Any]:
        return [Session.start(self.latch, self.lock) for _ in range(n)]

    async def stop_agents(self, handles: list[Any]) -> None:
        for stopped in [handle.actor_stopped for handle in handles if handle.stop(block=False) is not None]:
            stopped.wait()

    async def ask(self, handle: Any, prompt: str) -> object:
        return handle.ask(prompt)

    def tell(self, handle: Any, prompt: str) -> None:
        handle.tell(prompt)

    async def start_pool(self, workers: int, strategy: str = "round_robin") -> Any:
        self.futures: list[Any] = []
        return await super().start_pool(workers, strategy)

    def submit(self, pool: Any, prompt: str, hint_s: float | None = None) -> None:
        at, pool.next = pool.next, pool.next + 1
        self.futures.append(pool.workers[at % len(pool.workers)].ask(prompt, block=False))

    async def wait_for_all(self, pool: Any) -> None:
        pykka.get_all(self.futures)

    def new_signal(self) -> _Signal:
        return _Signal()

    async def all_done(self) -> None:
        self.latch.signal.event.wait()
