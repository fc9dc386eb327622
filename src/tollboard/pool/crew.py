"""A crew: the workers of one role, what waits for them, and who gets it when one of them comes or goes.

How a worker is started, replaced and stopped is in `lifecycle.py`; here is when, and what becomes of the tasks.

Rules:
1. A task is in exactly one place: in `unassigned`, in the strategy, or with one worker. Every move between them is one
   step of the loop, so a task is neither lost nor run twice, whenever a worker dies.
2. A worker's agent has at most one task of ours. Everything else waits here and not in the agent's mailbox, so the
   death of an agent takes one task with it and no more; and if that one had not begun, it moves on like the others.
3. What was taken back (from a dead, halted or retiring worker, or for a retry) waits in `unassigned`, in order, and
   goes to whoever is free next, before anything newer. No strategy is asked again, so nothing there can fail.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from tollboard.clock import Clock, Timer
from tollboard.errors import PoolStopped, TollboardError
from tollboard.pool import telemetry as events
from tollboard.pool.admission import Admission
from tollboard.pool.dispatch import Strategy
from tollboard.pool.lifecycle import Lifecycle, StartWorker
from tollboard.pool.retrying import pause_s
from tollboard.pool.scaling import Autoscaler
from tollboard.pool.task import WAITING, WITH_WORKER, Place, PoolTask
from tollboard.pool.worker import Slot, Worker
from tollboard.runtime.results import Completed, Failed, Outcome, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import IDLE, PROCESSING

logger = logging.getLogger("tollboard.pool")


class Desk(Protocol):
    """What a crew needs of its pool."""

    name: str
    runtime: Runtime
    admission: Admission

    def new_slot(self) -> Slot:
        """Return a place with the pool's next number."""

    def settle(self, task: PoolTask, outcome: Outcome) -> None:
        """Take a task that has ended and whose end is durable."""

    def end_unrun(self, task: PoolTask, outcome: Failed) -> None:
        """End a task that no worker has: remember it, then settle it."""

    def watch_resumes(self) -> None:
        """See to it that `resumed` is called: a worker is halted."""


class Crew:
    """The workers of one role."""

    def __init__(
        self, desk: Desk, role: str, strategy: Strategy, start_worker: StartWorker, *,
        retries: int, max_restarts: int, restart_window_s: float,
    ) -> None:  # fmt: skip
        self.desk = desk
        self.role = role
        self.strategy = strategy
        self.retries = retries
        self.runtime = desk.runtime
        self.telemetry = desk.runtime.telemetry
        self.clock: Clock = desk.runtime.clock
        self.admission = desk.admission
        self.workers: list[Worker] = []
        """Those that may get tasks, in the order of their places."""
        self.all: dict[str, Worker] = {}
        """Those that live: also the halted and the retiring ones."""
        self.idle: dict[Worker, None] = {}
        """Those of `workers` without a task; the one that has been idle longest comes first (E40)."""
        self.unassigned: deque[PoolTask] = deque()
        self.paused_tasks: dict[PoolTask, Timer] = {}
        """Those that wait for their next attempt, until their provider has had a pause."""
        self.waiting = 0
        self.scaler: Autoscaler | None = None
        self.problem: str | None = None
        self.notice: str | None = None
        """The last thing that a person should know of its workers."""
        self.replaced = 0
        """How many workers were replaced because they failed too often."""
        self.closing = False
        self.paused = False
        """No task begins any more; what waits is left where it is."""
        self.muted = False
        """The process is going down: what has not ended is left to the journal."""
        self.lifecycle = Lifecycle(
            self, start_worker, max_restarts=max_restarts, restart_window_s=restart_window_s
        )
        self._gathered: asyncio.Handle | None = None
        """Idle workers are offered what waits when this pass of the loop ends."""

    # -- tasks -----------------------------------------------------------------------------------

    def require(self) -> None:
        """Raise PoolStopped if nobody is left, or on the way, who could run a task."""
        if not self.workers and not self._has_future():
            raise PoolStopped(
                f"pool {self.desk.name!r} has no worker of role {self.role!r} left ({self.problem}): "
                "scale it up, or start a new pool"
            )

    def place(self, task: PoolTask) -> Worker | None:
        """Let an accepted task wait, and return whom to `offer` it to. What the strategy raises goes through."""
        worker = None
        if self.workers:
            worker = self.strategy.put(task, self.workers)
            if worker is not None:
                task.worker = worker.name
        else:
            self.unassigned.append(task)
        self.waiting += 1
        admission = self.admission
        admission.waiting += 1
        admission.waiting_bytes += task.size
        return worker

    def offer(self, worker: Worker | None) -> None:
        """Give a placed task to its worker, or to an idle one; nothing happens if they are busy."""
        if worker is not None:
            if worker.task is None:
                self.feed(worker)
        elif self.strategy.gathers:
            if self._gathered is None and self.idle:
                self._gathered = asyncio.get_running_loop().call_soon(self.offer_gathered)
        else:
            while self.idle:
                idle = next(iter(self.idle))
                self.feed(idle)
                if not idle.out:
                    break
        if self.scaler is not None:
            self.scaler.look()

    def offer_gathered(self) -> None:
        """Give idle workers what came in this pass of the loop, if that was left to its end."""
        if self._gathered is None:
            return
        self._gathered.cancel()
        self._gathered = None
        while self.idle and not self.closing:
            idle = next(iter(self.idle))
            self.feed(idle)
            if idle in self.idle:
                return  # nothing waits any more

    def withdraw(self, task: PoolTask) -> None:
        """Take a waiting task out of the count; whoever meets it in a queue drops it."""
        task.place = Place.WITHDRAWN
        self.waiting -= 1
        self.admission.left(task.size)

    def feed(self, worker: Worker) -> None:
        """Give a free worker its next task, or make it idle."""
        machine = worker.machine
        if worker.out or self.paused or machine.halted or machine.draining:
            self._not_free(worker)
            return
        task = self.unassigned.popleft() if self.unassigned else self.strategy.take(worker)
        while task is not None and task.place is not WAITING:  # withdrawn
            task = self.unassigned.popleft() if self.unassigned else self.strategy.take(worker)
        if task is None:
            self.idle[worker] = None
            return
        if self.idle:
            self.idle.pop(worker, None)
        task.holder = worker
        task.worker = worker.name
        task.place = WITH_WORKER
        worker.task = task
        worker.attempts_before = task.attempt
        try:
            machine.accept(task)
        except TollboardError as exc:
            # E44: the agent is on its way out and its end has not reached us yet, or strangers have filled its mailbox.
            worker.task = None
            task.again()
            self.unassigned.appendleft(task)
            self.lost(worker, exc.code)
            self.lifecycle.stop(worker)
            return
        self.waiting -= 1
        admission = self.admission
        admission.waiting -= 1
        admission.waiting_bytes -= task.size
        if admission.line:
            admission.pump()
        if self.telemetry.handlers:
            self._emit(events.TASK_STARTED, {"attempt": task.attempt + 1}, task)

    def finished(self, worker: Worker, task: PoolTask, outcome: Outcome) -> None:
        """Take the outcome of a worker's task; keep the task if it goes on, then give the worker its next one."""
        if isinstance(outcome, Completed):
            worker.task = None
            worker.ok += 1
            if worker.renewal is not None or worker.failed_in_a_row:
                _ = worker.note(outcome)
            self.desk.settle(task, outcome)
        else:
            self._failed(worker, task, outcome)
        phase = worker.machine.phase
        if phase is PROCESSING or phase is IDLE:
            self.feed(worker)
        if self.unassigned:
            self.wake()
            if not self.workers and not self._has_future():
                self._fail_waiting()  # the last one, retiring, gave a task back
        if self.scaler is not None:
            self.scaler.look()

    def _failed(self, worker: Worker, task: PoolTask, outcome: Failed) -> None:
        goes_on = worker.goes_on(outcome)
        worker.task = None
        spent = worker.note(outcome)
        if goes_on:
            self._again(task, outcome)
        else:
            worker.failed += 1
            self.desk.settle(task, outcome)
        if spent and not (worker.out or self.closing):
            self._replace(worker, outcome)

    def _again(self, task: PoolTask, outcome: Failed) -> None:
        """Let a task wait for its next attempt, before anything newer; after a pause if its provider needs one."""
        pause = pause_s(outcome, task.attempt)
        if self.telemetry.handlers and task.started_at is not None:
            counts = {"attempt": float(task.attempt), "pause_s": pause}
            self._emit(events.TASK_RETRIED, counts, task, reason=outcome.cause or outcome.reason)
        task.again()
        self.waiting += 1
        self.admission.waiting += 1
        self.admission.waiting_bytes += task.size
        if pause:
            self.paused_tasks[task] = self.clock.call_later(pause, lambda: self._resume(task))
        else:
            self.unassigned.appendleft(task)

    def _resume(self, task: PoolTask) -> None:
        """Give a task that has paused to whoever is idle."""
        del self.paused_tasks[task]
        if task.place is not WAITING:
            return  # withdrawn meanwhile
        self.unassigned.appendleft(task)
        if self.closing:
            return
        self.wake()
        if not self.workers and not self._has_future():
            self._fail_waiting()

    def _replace(self, worker: Worker, outcome: Failed) -> None:
        """Put another worker into the place of one that fails again and again for a reason of its own (P18).

        It does not count as a death: how many are started in this way is bounded by the tasks that failed.
        """
        why = outcome.detail or outcome.reason.value
        times = worker.failed_in_a_row
        self.notice = (
            f"worker {worker.name!r} was replaced: it failed {times} times in a row, last with: {why:.200}"
        )
        logger.warning("pool %s: worker %s was replaced: it failed too often", self.desk.name, worker.name)
        self.replaced += 1
        if self.telemetry.handlers:
            self.emit_worker(events.WORKER_REPLACED, worker, reason=why)
        self._retire(worker)
        self.lifecycle.spawn(worker.slot)

    def wake(self) -> None:
        """Let idle workers take what nobody in particular has."""
        while self.unassigned and self.idle:
            self.feed(next(iter(self.idle)))

    def drain(self) -> list[PoolTask]:
        """Return everything that waits, in the order it was submitted, and forget it."""
        found = [*self.unassigned, *self.paused_tasks, *self.strategy.drain()]
        self.unassigned.clear()
        for timer in self.paused_tasks.values():
            timer.cancel()
        self.paused_tasks.clear()
        for worker in self.all.values():
            found += self.strategy.lost(worker)
        kept = sorted((task for task in found if task.place is WAITING), key=lambda task: task.index)
        for task in kept:
            self.waiting -= 1
            self.admission.left(task.size)
        return kept

    def _not_free(self, worker: Worker) -> None:
        if worker.retiring:
            self.lifecycle.stop(worker)
        elif worker.machine.halted and not worker.is_halted:
            self.halted(worker)
        elif worker.machine.draining:
            self._leave(worker)

    # -- workers that come and go --------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Return how many workers it has or is starting, without those that retire."""
        return sum(not worker.retiring for worker in self.all.values()) + self.lifecycle.starting

    @property
    def idle_count(self) -> int:
        """Return how many workers have no task."""
        return len(self.idle)

    @property
    def running(self) -> int:
        """Return how many workers have a task."""
        return sum(worker.task is not None for worker in self.all.values())

    def join(self, worker: Worker, *, grown: bool = False) -> None:
        """Give a worker that was started its first task."""
        if worker.is_lost:
            return
        self.all[worker.name] = worker
        if self.closing:
            return
        self.problem = None
        self._enter(worker)
        if grown:
            self.strategy.grown(worker, self.workers)
        if self.telemetry.handlers:
            self.emit_worker(events.WORKER_STARTED, worker)
        self.feed(worker)

    def lost(self, worker: Worker, reason: str) -> None:
        """Let the others have what a dead worker left behind, and start a replacement (P12, E41). Idempotent."""
        if worker.is_lost:
            return
        worker.is_lost = True
        self._leave(worker)
        self.all.pop(worker.name, None)
        if self.closing:
            return
        if self.telemetry.handlers:
            self.emit_worker(events.WORKER_LOST, worker, reason=reason)
        if not worker.retiring:
            self.lifecycle.replace(worker.slot, f"worker {worker.name!r} ended: {reason}")
        self.wake()

    def halted(self, worker: Worker) -> None:
        """Let the others have what waits for a halted worker; it is back when its agent is resumed (E43)."""
        if worker.is_halted or worker.is_lost or worker.retiring:
            return
        worker.is_halted = True
        self._leave(worker)
        self.desk.watch_resumes()
        task = worker.task
        if task is not None and task.started_at is None:
            task.place = Place.RECALLED
            if worker.machine.withdraw(task.ref, Reason.CANCELLED) is None:
                task.place = WITH_WORKER
        self.wake()

    def resumed(self, worker: Worker) -> None:
        """Give a worker that was halted its next task."""
        worker.is_halted = False
        if worker.is_lost or worker.retiring or self.closing:
            return
        self._enter(worker)
        if worker.task is None:
            self.feed(worker)

    def resize(self, size: int) -> None:
        """Begin to grow or shrink to this size; idle workers only (P11)."""
        while self.size < size:
            self.lifecycle.spawn(self.desk.new_slot())
        for worker in tuple(self.idle):
            if self.size <= size:
                return
            self._retire(worker)

    async def scale(self, size: int) -> None:
        """Grow or shrink to this size, busy ones after their task. Returns when those that were started have joined.

        Raises what the backend raised if a worker could not be started; those that could are kept.
        """
        self.resize(size)
        for worker in tuple(reversed(self.workers)):
            if self.size > size:
                self._retire(worker)
        await self.lifecycle.wait_started()

    async def close(self) -> None:
        """Stop every worker and wait for it; nothing that waits is run any more."""
        self.closing = True
        if self.scaler is not None:
            self.scaler.close()
        await self.lifecycle.cancel_starts()
        for worker in tuple(self.all.values()):
            self._leave(worker)
            self.lifecycle.stop(worker)
        await self.lifecycle.wait_stopped()

    def give_up(self, why: str) -> None:
        """Go on with fewer workers; without any, fail what waits, so that nobody waits for ever (E42)."""
        logger.error("pool %s: %s", self.desk.name, why)
        self.problem = why
        if self._has_future():
            self.wake()
            return
        self._fail_waiting()

    def _has_future(self) -> bool:
        return self.lifecycle.starting > 0 or any(not worker.retiring for worker in self.all.values())

    def _enter(self, worker: Worker) -> None:
        worker.out = False
        self.workers.append(worker)
        self.workers.sort(key=lambda other: other.slot.number)

    def _leave(self, worker: Worker) -> None:
        """Take a worker out of what gets tasks; what waited for it waits for the others now, in order."""
        if worker.out:
            return
        worker.out = True
        self.workers.remove(worker)
        self.idle.pop(worker, None)
        for task in self.strategy.lost(worker):
            task.worker = None
            self.unassigned.append(task)

    def _retire(self, worker: Worker) -> None:
        worker.retiring = True
        self._leave(worker)
        if worker.task is None:
            self.lifecycle.stop(worker)
        self.wake()

    def _fail_waiting(self) -> None:
        why = f"no worker of role {self.role!r} is left: {self.problem or 'it was scaled down'}"
        for task in self.drain():
            self.desk.end_unrun(task, Failed(Reason.CRASHED, why))

    # -- what can be seen ----------------------------------------------------------------------------

    def _emit(
        self, event: tuple[str, ...], measurements: dict[str, float], task: PoolTask, **meta: object
    ) -> None:
        measurements["waiting"] = self.waiting
        base = {"pool": self.desk.name, "role": self.role, "worker": task.worker, "ref": task.ref}
        self.telemetry.execute(event, measurements, {**base, **meta})

    def emit_worker(self, event: tuple[str, ...], worker: Worker, **meta: object) -> None:
        """Tell of a worker."""
        base = {"pool": self.desk.name, "role": self.role, "worker": worker.name}
        self.telemetry.execute(event, {"workers": len(self.workers)}, {**base, **meta})


def all_workers(crews: Iterable[Crew]) -> list[Worker]:
    """Return the living workers of these crews, in the order of their places."""
    return sorted((w for crew in crews for w in crew.all.values()), key=lambda worker: worker.slot.number)
