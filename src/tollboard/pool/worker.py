"""A worker: the agent that runs the prompts, and what the pool holds of it."""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tollboard.pool.records import WorkerState, WorkerStatus
from tollboard.pool.retrying import FAILURES_IN_A_ROW, GONE, is_the_workers, may_succeed
from tollboard.pool.task import Place, PoolTask
from tollboard.runtime.agent import GenAgent
from tollboard.runtime.results import Completed, Outcome

if TYPE_CHECKING:
    from tollboard.pool.conversation import Renewal
    from tollboard.pool.crew import Crew
    from tollboard.runtime.machine import Machine


class PoolWorker(GenAgent):
    """Runs one prompt after the other. Subclass it to see events or rewrite prompts; call `super()` in what it has."""

    __slots__ = ("_worker",)

    _worker: Worker

    def init_agent(self, **options: object) -> Mapping[str, object]:
        """Return the backend's options, with `{role}` and `{worker}` in any text among them filled in."""
        worker = options.pop("pool_worker")
        assert isinstance(worker, Worker)
        self._worker = worker
        worker.session_options = {
            name: value.replace("{role}", worker.role).replace("{worker}", worker.name)
            if isinstance(value, str)
            else value
            for name, value in options.items()
        }
        return worker.session_options

    def post_run(self) -> None:
        """Tell the pool that somebody halted this agent (E43)."""
        self._worker.crew.halted(self._worker)

    def terminate_agent(self, reason: str) -> None:
        """Tell the pool that this agent ends, whatever ends it: a crash, a stop from outside, the pool's own."""
        self._worker.crew.lost(self._worker, reason)


class Slot:
    """A place in a crew. When its worker dies a replacement takes the place, under a new name (E53)."""

    __slots__ = ("deaths", "generation", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.generation = 0
        self.deaths: deque[float] = deque(maxlen=100)

    def next_name(self, pool: str) -> str:
        """Return the name of this place's next worker."""
        suffix = f".{self.generation}" if self.generation else ""
        self.generation += 1
        return f"{pool}-{self.number}{suffix}"


class Worker:
    """What the pool holds of one worker. A strategy may read `name`, `role`, `queue` and `load`."""

    __slots__ = (
        "attempts_before", "crew", "failed", "failed_in_a_row", "is_halted", "is_lost", "machine", "name", "ok", "out",
        "queue", "renewal", "retiring", "session_options", "slot", "stopping", "task",
    )  # fmt: skip

    def __init__(self, crew: Crew, slot: Slot, name: str) -> None:
        self.crew = crew
        self.slot = slot
        self.name = name
        self.machine: Machine
        self.queue: deque[PoolTask] = deque()
        """Tasks that wait for this worker and nobody else; only Assigned strategies use it."""
        self.task: PoolTask | None = None
        self.attempts_before = 0
        """How often its task had been begun when this worker got it."""
        self.ok = 0
        self.failed = 0
        self.failed_in_a_row = 0
        """How many turns since its last answer failed for what may be its own reason."""
        self.session_options: Mapping[str, object] = {}
        """What its backend's session was started with."""
        self.renewal: Renewal | None = None
        """What sees to the conversation of its turns, where the backend remembers them."""
        self.out = True
        """It gets no new tasks: it has not joined yet, or it is halted, retiring or lost."""
        self.is_halted = False
        self.is_lost = False
        self.retiring = False
        self.stopping: Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} load={self.load}>"

    @property
    def role(self) -> str:
        """Return the role of its crew."""
        return self.crew.role

    @property
    def load(self) -> int:
        """Return how many tasks it has: the one it runs and those that wait for it."""
        return len(self.queue) + (self.task is not None)

    def goes_on(self, outcome: Outcome) -> bool:
        """Return whether its task has not ended with this outcome but goes on elsewhere or once more."""
        task = self.task
        if task is None or isinstance(outcome, Completed) or task.recorded or self.crew.closing:
            return False
        if task.place is Place.RECALLED:
            return True
        if outcome.reason in GONE and task.attempt == self.attempts_before:
            return True  # the worker went away before the task had begun: it was not run, and is not a retry
        if self.renewal is not None and self.renewal.blames_others(outcome):
            return True  # it had not begun to act, and runs in a conversation of its own next
        return task.attempt <= self.crew.retries and may_succeed(outcome)

    def note(self, outcome: Outcome) -> bool:
        """Note how a turn ended; return whether the worker has now failed too often in a row for its own reason."""
        if self.renewal is not None:
            self.renewal.ended(outcome)
        if isinstance(outcome, Completed):
            self.failed_in_a_row = 0
        elif is_the_workers(outcome):
            self.failed_in_a_row += 1
        return self.failed_in_a_row >= FAILURES_IN_A_ROW

    def status(self) -> WorkerStatus:
        """Return how it stands."""
        if self.retiring:
            state = WorkerState.RETIRING
        elif self.is_halted:
            state = WorkerState.HALTED
        else:
            state = WorkerState.IDLE if self.task is None else WorkerState.PROCESSING
        running = None if self.task is None else self.task.ref
        return WorkerStatus(self.name, self.role, state, len(self.queue), running, self.ok, self.failed)
