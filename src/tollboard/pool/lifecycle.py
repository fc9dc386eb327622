"""The lives of a crew's workers: started, replaced when they die, stopped. Called by `crew.py`; knows nothing of tasks.

Every task of asyncio made here is owned here: `cancel_starts` and `wait_stopped` leave none behind. A start that has
ended is told to the crew, by `join` or by `give_up`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from tollboard.errors import AgentNotFound, TollboardError
from tollboard.pool.worker import Slot, Worker

if TYPE_CHECKING:
    from tollboard.pool.crew import Crew

StartWorker = Callable[[Worker], Coroutine[object, object, None]]


class Lifecycle:
    """Starts and stops the workers of one crew."""

    def __init__(
        self, crew: Crew, start_worker: StartWorker, *, max_restarts: int, restart_window_s: float
    ) -> None:
        self._crew = crew
        self._start_worker = start_worker
        self._max_restarts = max_restarts
        self._restart_window_s = restart_window_s
        self._starts: set[asyncio.Task[Worker]] = set()
        self._stops: set[asyncio.Task[None]] = set()

    @property
    def starting(self) -> int:
        """Return how many workers are being started."""
        return len(self._starts)

    async def start(self, slot: Slot) -> Worker:
        """Start a worker for a place and return it; it has not joined yet."""
        worker = Worker(self._crew, slot, slot.next_name(self._crew.desk.name))
        await self._start_worker(worker)
        return worker

    def spawn(self, slot: Slot) -> None:
        """Begin to start a worker for a place; it joins the crew by itself."""
        start = asyncio.get_running_loop().create_task(self.start(slot))
        self._starts.add(start)
        start.add_done_callback(lambda start: self._spawned(start, slot))

    def replace(self, slot: Slot, why: str) -> None:
        """Begin to start a replacement, unless this place has lost too many workers too quickly."""
        crew = self._crew
        now = crew.clock.monotonic()
        slot.deaths.append(now)
        recent = sum(now - at <= self._restart_window_s for at in slot.deaths)
        if crew.runtime.closing:
            crew.give_up(f"{why}; the runtime closes")
        elif recent > self._max_restarts:
            crew.give_up(f"{why}; {recent} workers of its place ended within {self._restart_window_s:g} s")
        else:
            self.spawn(slot)

    def stop(self, worker: Worker) -> None:
        """Begin to stop a worker. Idempotent."""
        if worker.stopping is None:
            stop = asyncio.get_running_loop().create_task(self._stopped(worker))
            worker.stopping = stop
            self._stops.add(stop)
            stop.add_done_callback(self._stops.discard)

    async def wait_started(self) -> None:
        """Wait for those that are being started now. Raises what the backend raised for the first that could not be."""
        starts = tuple(self._starts)
        if starts:
            _ = await asyncio.wait(starts)
            for start in starts:
                if not start.cancelled() and (exc := start.exception()) is not None:
                    raise exc

    async def cancel_starts(self) -> None:
        """Give up those that are being started, and wait until that is done."""
        starts = tuple(self._starts)
        for start in starts:
            start.cancel()
        if starts:
            _ = await asyncio.wait(starts)

    async def wait_stopped(self) -> None:
        """Wait until everybody is gone who was told to stop."""
        while self._stops:
            _ = await asyncio.wait(tuple(self._stops))

    def _spawned(self, start: asyncio.Task[Worker], slot: Slot) -> None:
        self._starts.discard(start)
        if start.cancelled():
            return
        exc = start.exception()
        if exc is None:
            self._crew.join(start.result(), grown=slot.generation == 1)
        elif not self._crew.closing:
            said = str(exc) if isinstance(exc, TollboardError) else type(exc).__name__
            self._crew.give_up(f"worker {slot.number} could not be started: {said}")

    async def _stopped(self, worker: Worker) -> None:
        # Not there any more, or ending already, is what was wanted.
        runtime = self._crew.runtime
        if runtime.whereis(worker.name) is not worker.machine:
            return
        try:
            await runtime.stop(worker.name, reason="the pool stops")
        except AgentNotFound:
            return
