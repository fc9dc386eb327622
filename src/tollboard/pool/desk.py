"""The desk of a pool: every task that was accepted and has not ended, and the one way each of them ends.

One counter, `open`, says how many accepted tasks have not ended; it is all that `wait_for_all` looks at (E39). A task
that has ended goes through `settle`, once, whatever ended it: commit, then resolve, then emit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count

from tollboard.errors import PoolStopped, StoreError
from tollboard.ids import new_ref
from tollboard.pool import telemetry as events
from tollboard.pool.admission import Admission
from tollboard.pool.crew import Crew
from tollboard.pool.journal import NullPoolJournal, PoolJournal
from tollboard.pool.keeper import Keeper
from tollboard.pool.rate import TokenBucket
from tollboard.pool.records import Backlog, Task, TaskResult
from tollboard.pool.settings import PoolSettings
from tollboard.pool.streams import Follower
from tollboard.pool.task import ENDED, WAITING, Place, PoolTask
from tollboard.pool.worker import Slot
from tollboard.runtime import telemetry
from tollboard.runtime.results import Failed, Outcome, Reason
from tollboard.runtime.runtime import Runtime

Listener = Callable[[PoolTask], None]
Commits = list[tuple[PoolTask, Awaitable[None]]]


class TaskDesk:
    """What a pool knows of its tasks; its crews report to it."""

    def __init__(self, settings: PoolSettings, runtime: Runtime, journal: PoolJournal) -> None:
        self.settings = settings
        self.name = settings.name
        self.runtime = runtime
        self.clock = runtime.clock
        self.telemetry = runtime.telemetry
        self._time = runtime.clock.time
        bucket = None
        if settings.rate is not None and settings.burst is not None:
            bucket = TokenBucket(rate=settings.rate, burst=settings.burst, clock=runtime.clock)
        self.admission = Admission(
            runtime.clock, max_items=settings.max_queued, max_bytes=settings.max_queued_bytes, bucket=bucket
        )
        self.admission.on_gone = self.check_quiet
        self.journal = None if isinstance(journal, NullPoolJournal) else journal
        self.crews: dict[str, Crew] = {}
        self.keeper = Keeper(max_items=settings.max_results, max_bytes=settings.max_result_bytes)
        self.open = 0
        self.ok = 0
        self.failed = 0
        self.closed = False
        self.followers: list[Follower] = []
        self.waiters: dict[str, list[asyncio.Future[TaskResult]]] = {}
        self._next_index = 0
        self._only: Crew | None = None
        """The one crew of a pool with one role."""
        self._slots = count()
        self._quiet: list[asyncio.Future[None]] = []
        self._watching = False

    @property
    def submitted(self) -> int:
        """Return how many tasks were accepted."""
        return self.open + self.ok + self.failed

    def add_crew(self, crew: Crew) -> None:
        """Take in the crew of a role; it has no worker yet."""
        self._only = None if self.crews else crew
        self.crews[crew.role] = crew

    # -- accepting -------------------------------------------------------------------------------

    def new_task(self, given: str | Task, role: str | None, hint_s: float | None) -> PoolTask:
        """Return a task that may be accepted; raises what would refuse it for good."""
        if self.closed:
            self.refuse_if_closed()
        crew = self._only
        if given.__class__ is str and role is None and hint_s is None and crew is not None:
            prompt = given
            if not prompt or prompt.isspace():
                self.settings.check_task(prompt, role, hint_s)
        else:
            prompt, role, hint_s = self.settings.check_task(given, role, hint_s)
            crew = self.crews[role]
        if not crew.workers:
            crew.require()
        task = PoolTask(new_ref(), prompt, self._time(), crew, hint_s)
        if task.size > self.settings.max_queued_bytes:
            self.admission.check(task.size)
        return task

    async def admit(self, task: PoolTask) -> Awaitable[None] | None:
        """Accept a new task when there is room and a token; return what its acceptance waits for in the journal."""
        if not self.admission.try_enter(task.size):
            await self.admission.enter(task.size)
        return self.accept(task)

    async def submit_for(self, given: str | Task, listener: Listener) -> PoolTask:
        """Submit a task whose end the listener is told. Called by streams."""
        task = self.new_task(given, None, None)
        task.listener = listener
        commit = await self.admit(task)
        if commit is not None:
            await self.committed([(task, commit)])
        return task

    def admit_now(self, task: PoolTask) -> Awaitable[None] | None:
        """Accept a new task without waiting. Raises Overloaded, RateLimited."""
        if not self.enter_now(task.size):
            raise self.admission.refusal(task.size)
        return self.accept(task)

    def enter_now(self, size: int) -> bool:
        """Let a task of this many bytes in, if it need not wait."""
        if self.admission.try_enter(size):
            return True
        # What idle workers are about to take is in nobody's way.
        for crew in self.crews.values():
            crew.offer_gathered()
        return self.admission.try_enter(size)

    def accept(self, task: PoolTask) -> Awaitable[None] | None:
        """Take a task that was let in: place it, remember it, offer it. What is raised has changed nothing."""
        crew = task.crew
        try:
            if self.closed or not crew.workers:
                self.refuse_if_closed()
                crew.require()
            task.index = self._next_index
            worker = crew.place(task)
        except BaseException:
            self.check_quiet()  # somebody may have waited for this task too
            raise
        commit = None if self.journal is None else self._remember(self.journal, task)
        self._next_index += 1
        self.open += 1
        self.keeper.tasks[task.ref] = task
        if self.telemetry.handlers:
            self._emit_queued(task)
        if worker is None or worker.task is None or crew.scaler is not None:
            crew.offer(worker)
        return commit

    def _remember(self, journal: PoolJournal, task: PoolTask) -> Awaitable[None] | None:
        try:
            return journal.accepted(task)
        except BaseException:
            task.crew.withdraw(task)
            self.check_quiet()
            raise

    async def committed(self, commits: Commits) -> None:
        """Wait until these acceptances are durable; what could not be kept is withdrawn, and the first error raised."""
        waiting, first = list(commits), None
        commits.clear()
        for task, commit in waiting:
            try:
                await commit
            except StoreError as exc:
                first = first or exc
                self.abandon(task.ref, Reason.STORE_FAILED)
        if first is not None:
            raise first

    def restore(self, backlog: Sequence[Backlog], first_index: int) -> None:
        """Let tasks wait that were accepted before, in their order; bounds do not apply again."""
        for old in sorted(backlog, key=lambda task: task.index):
            _, role, hint_s = self.settings.check_task(old.prompt, old.role, old.hint_s)
            task = PoolTask(old.ref, old.prompt, old.submitted_at, self.crews[role], hint_s)
            task.index, task.attempt = old.index, old.attempt
            first_index = max(first_index, old.index + 1)
            worker = task.crew.place(task)
            self.open += 1
            self.keeper.tasks[task.ref] = task
            task.crew.offer(worker)
        self._next_index = first_index

    def refuse_if_closed(self) -> None:
        """Raise PoolStopped once the pool was stopped."""
        if self.closed:
            raise PoolStopped(f"pool {self.name!r} was stopped; start a new one")

    def abandon(self, ref: str, reason: Reason) -> bool:
        """Withdraw a task if it has not begun, with this reason; return whether it did."""
        task = self.keeper.tasks.get(ref)
        if task is None or task.place is not WAITING:
            holder = None if task is None else task.holder
            return holder is not None and holder.machine.withdraw(ref, reason) is not None
        task.crew.withdraw(task)
        self.end_unrun(task, Failed(reason))
        return True

    @property
    def running(self) -> int:
        """Return how many tasks workers have."""
        return sum(crew.running for crew in self.crews.values())

    # -- what crews call ------------------------------------------------------------------------

    def new_slot(self) -> Slot:
        """Return a place with the pool's next number."""
        return Slot(next(self._slots))

    def settle(self, task: PoolTask, outcome: Outcome) -> None:
        """Take a task that has ended, and whose end is durable: keep it, tell whoever waits, emit. Once each."""
        if self.journal is not None and not task.recorded and not task.crew.muted:
            self.end_unrun(task, outcome)  # it was to go on elsewhere, and now it does not
            return
        task.close(outcome, self._time())
        task.place = ENDED
        task.outcome = task.future = task.holder = None  # what the garbage collector would walk
        self.open -= 1
        if task.reason is None:
            self.ok += 1
        else:
            self.failed += 1
        self.keeper.keep(task)
        if task.listener is not None:
            task.listener(task)
        if self.waiters:
            for waiter in self.waiters.get(task.ref, ()):
                if not waiter.done():
                    waiter.set_result(task.result())
        if self.followers:
            for follower in self.followers:
                follower.ended(task)
        if not self.open:
            self.check_quiet()
        if self.telemetry.handlers:
            self._emit_finished(task)

    def end_unrun(self, task: PoolTask, outcome: Outcome) -> None:
        """End a task that no worker has: remember it, then settle it."""
        task.place = (
            Place.WITHDRAWN
        )  # at once: while the commit is under way nobody else may end it or run it
        commit = None
        if self.journal is not None and not task.recorded and not task.crew.muted:
            task.close(outcome, self._time())
            task.recorded = True
            commit = self.journal.finished(task.result())
        if commit is None:
            self.settle(task, outcome)
        else:
            _ = self.runtime.spawn(self._settle_after(commit, task, outcome))

    async def _settle_after(self, commit: Awaitable[None], task: PoolTask, outcome: Outcome) -> None:
        try:
            await commit
        except StoreError as exc:
            outcome = Failed(Reason.STORE_FAILED, str(exc))
        self.settle(task, outcome)

    def watch_resumes(self) -> None:
        """Listen for `resumed` from now on: only a pool that ever had a halted worker pays for it."""
        if not self._watching:
            self._watching = True
            self.telemetry.attach(self._handler_id, [telemetry.RESUMED], self._on_resumed)

    def unwatch_resumes(self) -> None:
        """Stop listening for `resumed`."""
        if self._watching:
            self._watching = False
            self.telemetry.detach(self._handler_id)

    @property
    def _handler_id(self) -> str:
        return f"{self.name}-resumed-{id(self):x}"

    def _on_resumed(
        self, event: tuple[str, ...], measurements: Mapping[str, float], metadata: Mapping[str, object]
    ) -> None:
        name = str(metadata["agent"])
        for crew in self.crews.values():
            worker = crew.all.get(name)
            if worker is not None and worker.is_halted:
                crew.resumed(worker)

    # -- quiet -----------------------------------------------------------------------------------

    @property
    def is_quiet(self) -> bool:
        """Return whether nothing is open and nobody is about to submit."""
        return not self.open and not self.admission.expected

    async def wait_quiet(self) -> None:
        """Wait until that is so; every change that could make it so calls `check_quiet`."""
        while not self.is_quiet:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._quiet.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._quiet:
                    self._quiet.remove(waiter)

    def check_quiet(self) -> None:
        """Wake whoever waits for quiet, if it is quiet."""
        if self.open or self.admission.expected:
            return
        waiters, self._quiet = self._quiet, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for follower in self.followers:
            follower.wake()

    def _emit_queued(self, task: PoolTask) -> None:
        meta = {"pool": self.name, "role": task.role, "worker": task.worker, "ref": task.ref}
        self.telemetry.execute(events.TASK_QUEUED, {"waiting": self.admission.waiting}, meta)

    def _emit_finished(self, task: PoolTask) -> None:
        result = task.result()
        self.telemetry.execute(
            events.TASK_FINISHED,
            {"duration_s": result.duration_s, "attempt": result.attempt},
            {
                "pool": self.name,
                "role": task.role,
                "worker": result.worker,
                "ref": task.ref,
                "status": result.status,
            },
        )
