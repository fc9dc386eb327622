"""The asyncio floor: what a turn costs when hardly anything is promised.

`aio-proto`  a whole turn in about 130 lines: a state machine without a resident task, a task per turn, a watchdog
             timer, telemetry without handlers, hooks, a ref per request, bounded results, decisions. THE floor.
`aio-busy`   the same with one task per busy period that gives way every 8 turns. It has a hole that a product must
             close: a cancel that arrives as a turn ends hits the next turn.
`aio-lazy`   no features at all: a deque, a future per request, a task while something waits. The bare limit.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable
from typing import Any, ClassVar

from benchmarks.peers.base import (
    TERMINAL,
    Dealt,
    Event,
    Latch,
    Peer,
    Response,
    ZeroBackend,
    consume,
    entry,
    fold,
)

_handlers: dict[tuple[str, ...], list[Any]] = {}
_refs = itertools.count(1)

STATE = ("agent", "state", "changed")
START = ("agent", "prompt", "start")
STOP = ("agent", "prompt", "stop")
QUEUED = ("agent", "mailbox", "queued")


def telemetry(event: tuple[str, ...], measurements: dict[str, Any], meta: dict[str, Any]) -> None:
    handlers = _handlers.get(event)
    if handlers:
        for handler in handlers:
            handler(event, measurements, meta)


class LazyAgent:
    """Folds events, in order, one task while there is something to do."""

    __slots__ = ("backend", "box", "history", "latch", "loop", "name", "seq", "task")

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, latch: Latch, history: int) -> None:
        self.name = name
        self.loop = loop
        self.latch = latch
        self.backend = ZeroBackend()
        self.history: list[Any] = [{"seq": i} for i in range(history)]
        self.seq = history
        self.box: deque[tuple[asyncio.Future[Response], str]] | None = None
        self.task: asyncio.Task[None] | None = None

    def submit(self, prompt: str, want_future: bool = True) -> asyncio.Future[Response]:
        future = self.loop.create_future()
        if self.box is None:
            self.box = deque()
        self.box.append((future, prompt))
        if self.task is None:
            self.task = self.loop.create_task(self.drain())
        return future

    async def drain(self) -> None:
        box = self.box or deque()
        while box:
            future, prompt = box.popleft()
            response = await consume(self.backend, prompt)
            self.seq += 1
            self.history.append(
                entry(self.seq, self.seq, response.text, response.usage, response.duration_ms)
            )
            self.latch.hit()
            future.set_result(response)
        self.task = None


class State:
    """What the floor's callbacks keep."""

    __slots__ = ("history", "seq")

    def __init__(self, history: int) -> None:
        self.history: list[Any] = [{"seq": i} for i in range(history)]
        self.seq = history


class Callbacks:
    """The floor's user code."""

    __slots__ = ()

    def pre_turn(self, prompt: str, state: State) -> tuple[str, State]:
        return prompt, state

    def handle_stream_event(self, event: Event, state: State) -> State:
        return state

    def handle_response(self, ref: int, response: Response, state: State) -> tuple[str, State]:
        state.seq += 1
        state.history.append(entry(state.seq, ref, response.text, response.usage, response.duration_ms))
        return ("noreply", state)

    def post_turn(self, outcome: object, ref: int, state: State) -> State:
        return state


_CALLBACKS = Callbacks()


class ProtoAgent:
    """A whole turn, one task each."""

    __slots__ = (
        "backend", "box", "callbacks", "chain", "current", "halted", "latch", "loop", "name", "phase", "results",
        "state", "task", "timer", "watchdog",
    )  # fmt: skip

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, latch: Latch, history: int) -> None:
        self.name = name
        self.loop = loop
        self.latch = latch
        self.backend = ZeroBackend()
        self.callbacks = _CALLBACKS
        self.state = State(history)
        self.box: deque[Any] | None = None
        self.phase = "idle"
        self.halted = False
        self.current: Any = None
        self.task: Any = None
        self.timer: Any = None
        self.chain = None
        self.results: dict[int, Any] | None = None
        self.watchdog = 600.0
        telemetry(STATE, {"t": time.time_ns()}, {"agent": name, "from": None, "to": "idle"})

    def submit(self, prompt: str, want_future: bool = True) -> Any:
        ref = next(_refs)
        future = self.loop.create_future() if want_future else None
        if self.phase == "idle" and not self.halted:
            self.dispatch(ref, future, prompt)
        else:
            if self.box is None:
                self.box = deque()
            self.box.append((ref, future, prompt))
            telemetry(QUEUED, {"depth": len(self.box)}, {"agent": self.name})
        return future if want_future else ref

    def begin(self, ref: int, future: Any, original: str) -> str:
        prompt, self.state = self.callbacks.pre_turn(original, self.state)
        self.current = (ref, future)
        telemetry(STATE, {"t": time.time_ns()}, {"agent": self.name, "from": "idle", "to": "processing"})
        self.timer = self.loop.call_later(self.watchdog, self.timed_out)
        return prompt

    def started(self, ref: int, prompt: str, original: str) -> None:
        telemetry(
            START,
            {"t": time.time_ns()},
            {"agent": self.name, "ref": ref, "prompt": prompt, "original": original, "state": self.state},
        )

    def dispatch(self, ref: int, future: Any, original: str) -> None:
        prompt = self.begin(ref, future, original)
        self.phase = "processing"
        self.task = task = self.loop.create_task(self.run(prompt))
        self.started(ref, prompt, original)
        task.add_done_callback(self.finished)

    async def run(self, prompt: str) -> tuple[Response, State]:
        began = time.monotonic()
        events: list[Event] = []
        stream = self.backend.prompt(prompt)
        state, on_event = self.state, self.callbacks.handle_stream_event
        try:
            async for event in stream:
                state = on_event(event, state)
                events.append(event)
                if event.kind in TERMINAL:
                    break
        finally:
            await stream.aclose()
        return fold(events, began), state

    def timed_out(self) -> None:
        self.task.cancel("watchdog")

    def interrupt(self) -> None:
        if self.task is not None and self.current is not None:
            self.task.cancel("interrupted")

    def finished(self, task: Any) -> None:
        outcome, error = None, None
        if task.cancelled():
            error = "interrupted"
        elif task.exception() is not None:
            error = task.exception()
        else:
            outcome, self.state = task.result()
        self.complete(outcome, error)
        self.task = None
        self.phase = "idle"
        if not self.halted and self.box:
            self.dispatch(*self.box.popleft())

    def complete(self, outcome: Response | None, error: object) -> None:
        self.timer.cancel()
        ref, future = self.current
        telemetry(
            STOP,
            {"duration": outcome.duration_ms if outcome else 0},
            {"agent": self.name, "ref": ref, "state": self.state},
        )
        if future is not None:
            if not future.done():
                future.set_result(outcome)
        else:
            results = self.results
            if results is None:
                results = self.results = {}
            results[ref] = outcome
            if len(results) > 100:
                del results[next(iter(results))]
        decision = "noreply"
        if outcome is not None:
            decision, self.state = self.callbacks.handle_response(ref, outcome, self.state)
        self.state = self.callbacks.post_turn((error is None, outcome), ref, self.state)
        self.current = self.timer = None
        telemetry(STATE, {"t": time.time_ns()}, {"agent": self.name, "from": "processing", "to": "idle"})
        self.latch.hit()
        if decision == "halt":
            self.halted = True


class BusyAgent(ProtoAgent):
    """As ProtoAgent with one task per busy period; a cancelled turn's cancellation is absorbed."""

    __slots__ = ()
    budget: ClassVar[int] = 8

    def dispatch(self, ref: int, future: Any, original: str) -> None:
        self.phase = "processing"
        self.task = self.loop.create_task(self.drain(ref, future, original))

    async def drain(self, ref: int, future: Any, original: str) -> None:
        turns = 0
        while True:
            prompt = self.begin(ref, future, original)
            self.started(ref, prompt, original)
            outcome: Response | None = None
            error: object = None
            try:
                outcome, self.state = await self.run(prompt)
            except asyncio.CancelledError:
                self.task.uncancel()
                error = "interrupted"
            except Exception as exc:
                error = exc
            self.complete(outcome, error)
            if self.halted or not self.box:
                self.phase = "idle"
                self.task = None
                return
            turns += 1
            if turns % self.budget == 0:
                await asyncio.sleep(0)
            ref, future, original = self.box.popleft()


class ProtoPeer(Peer):
    """The floor."""

    runs = frozenset({"w1", "w2", "w3-10k", "w3-100k", "w4", "w5", "w6", "w7", "w9"})
    strategies = ("round_robin", "shared_queue")
    agent: ClassVar[type[Any]] = ProtoAgent

    async def start_agents(self, n: int, history: int = 0) -> list[Any]:
        loop = asyncio.get_running_loop()
        self.registry = {f"agent-{i}": self.agent(f"agent-{i}", loop, self.latch, history) for i in range(n)}
        return list(self.registry.values())

    async def ask(self, handle: Any, prompt: str) -> object:
        return await handle.submit(prompt)

    def tell(self, handle: Any, prompt: str) -> None:
        handle.submit(prompt, False)

    async def status(self, handle: Any) -> object:
        history = handle.state.history
        return {"entries": len(history), "newest": history[-10:]}

    async def start_pool(self, workers: int, strategy: str = "round_robin") -> Dealt:
        agents = await self.start_agents(workers)
        return Dealt(agents, strategy, free=deque(agents))

    def submit(self, pool: Dealt, prompt: str, hint_s: float | None = None) -> Awaitable[object] | None:
        if pool.strategy == "round_robin":
            return super().submit(pool, prompt)
        if pool.free:
            self._pull(pool, pool.free.popleft(), prompt)
        else:
            pool.waiting.append(prompt)
        return None

    def _pull(self, pool: Dealt, agent: Any, prompt: str) -> None:
        def ended(_: object) -> None:
            if pool.waiting:
                self._pull(pool, agent, pool.waiting.popleft())
            else:
                pool.free.append(agent)

        agent.submit(prompt, True).add_done_callback(ended)


class BusyPeer(ProtoPeer):
    """One task per busy period."""

    agent = BusyAgent


class LazyPeer(ProtoPeer):
    """The bare limit."""

    runs = frozenset({"w1", "w2", "w3-10k", "w3-100k", "w4", "w9"})
    agent = LazyAgent
