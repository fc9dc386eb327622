"""The pool: warm agents that work through independent tasks. Only the verbs; `desk.py` and `crew.py` do the work.

async with Pool.start(3, role="trivia expert", backend=EchoBackend()) as pool:
    await pool.submit_many(questions)
    await pool.wait_for_all()
    for result in pool.results():
        print(result.worker, result.text or result.error)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

from tollboard.errors import InvalidOption, InvalidPrompt, NotCancellable, RequestNotFound, TimedOut
from tollboard.pool.crew import all_workers
from tollboard.pool.desk import Commits, TaskDesk
from tollboard.pool.dispatch import Strategy
from tollboard.pool.journal import NullPoolJournal, PoolJournal
from tollboard.pool.opening import Starting, make_crews, start_all, starter
from tollboard.pool.records import Backlog, PoolResults, PoolStatus, Submission, Task, TaskResult
from tollboard.pool.role import Role
from tollboard.pool.settings import (
    MIB,
    BackendDirectory,
    Count,
    check_count,
    find_backend,
    settle_settings,
)
from tollboard.pool.streams import Feed, Follower, OnProgress
from tollboard.pool.task import ENDED, PoolTask, Submissions
from tollboard.pool.worker import PoolWorker
from tollboard.runtime.backend import Backend
from tollboard.runtime.results import Failed, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.status import Phase

COMMITS_PER_WAIT = 1_000
_NO_JOURNAL = NullPoolJournal()


class Pool:
    """A set of workers and their tasks. Make one with `Pool.start`; everything runs on the loop that did."""

    def __init__(self, desk: TaskDesk, *, own_runtime: bool) -> None:
        """Make a pool without workers; `Pool.start` is what callers want."""
        self.name = desk.name
        self.settings = desk.settings
        self.runtime = desk.runtime
        self._desk = desk
        self._own_runtime = own_runtime
        self._stopped: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Pool {self.name!r} {self._desk.open} open{' stopped' if self._stopped else ''}>"

    # -- life ------------------------------------------------------------------------------------

    @staticmethod
    def start(
        size: Count | None = None, *, backend: Backend[Any] | str | None = None,
        backends: BackendDirectory | None = None, name: str | None = None, role: str | None = None,
        roles: Mapping[str, Role | int] | None = None, conversation: str = "fresh", recycle_turns: int | None = None,
        recycle_tokens: int | None = None, strategy: str | Callable[[], Strategy] = "round_robin",
        rate: float | str | None = None, burst: int | None = None, min: Count | None = None, max: Count | None = None,
        retries: int = 0, max_queued: int = 10_000, max_queued_bytes: int = 64 * MIB, max_results: int = 100_000,
        max_result_bytes: int = 256 * MIB, cooldown_s: float = 5.0, max_restarts: int = 3,
        restart_window_s: float = 60.0, runtime: Runtime | None = None, worker: type[PoolWorker] = PoolWorker,
        journal: PoolJournal = _NO_JOURNAL, backlog: Sequence[Backlog] = (), first_index: int = 0, **options: object,
    ) -> Starting:  # fmt: skip
        """Start a pool: `await` this, or enter it with `async with`, which stops the pool at the end.

        `size` is a number of workers or `{role: number}`; `roles` says more of each role (see `Role`). All have started
        when this returns; if one cannot, those that did are stopped and the error says which (P01). `backend` is one,
        or a name among `backends` (default: `claude` and the other built-in ones). `options` go to every worker: those
        of AgentOptions to the runtime, the rest to the backend, with `{role}` and `{worker}` in texts filled in.

        `conversation` is `"fresh"`, so that no task knows of another, or `"kept"`; then a worker's conversation is
        recycled when it is too long for the model, after `recycle_turns` turns or `recycle_tokens` tokens (P15).
        `min` and `max` make each role elastic. `retries` is how often a task is run again that may succeed then: after
        a lost worker, a timeout, an overload, not after a refusal (P17). `runtime` shares one, else the pool has its
        own. `journal`, `backlog` and `first_index` bring a pool back (see `journal.py`).

        Raises, before anything exists: InvalidOption, InvalidName, UnknownBackend. Then AgentExists, or what the
        backend raises.
        """
        settings = settle_settings(
            size, name=name, role=role, roles=roles, conversation=conversation, recycle_turns=recycle_turns,
            recycle_tokens=recycle_tokens, strategy=strategy, rate=rate, burst=burst, min=min, max=max, retries=retries,
            max_queued=max_queued, max_queued_bytes=max_queued_bytes, max_results=max_results,
            max_result_bytes=max_result_bytes, cooldown_s=cooldown_s, max_restarts=max_restarts,
            restart_window_s=restart_window_s,
        )  # fmt: skip
        if not (isinstance(worker, type) and issubclass(worker, PoolWorker)):
            raise InvalidOption(f"worker is {worker!r}: it must be a subclass of PoolWorker")
        usual = find_backend(backend, backends)
        found = {
            one: usual if known.backend is None else find_backend(known.backend, backends)
            for one, known in settings.roles.items()
        }
        desk = TaskDesk(settings, runtime or Runtime(), journal)
        make_crews(desk, starter(desk, worker, found, options))
        pool = Pool(desk, own_runtime=runtime is None)
        return Starting(pool, pool._start, backlog, first_index)

    async def _start(self, backlog: Sequence[Backlog], first_index: int) -> None:
        try:
            await start_all(self._desk)
            self._desk.restore(backlog, first_index)
        except BaseException:
            self._desk.closed = True
            for crew in self._desk.crews.values():
                await crew.close()
            await self._close_runtime()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End all workers; what is queued ends with `stopped`, and so does what is in flight (P07).

        Idempotent; whoever calls it again waits for the same end. Results can still be read.
        """
        await self._end(muted=False)

    async def suspend(self, *, grace_s: float = 0.0) -> None:
        """End all workers and leave what has not ended to the journal: the process goes down and will be back.

        No task begins any more; those in flight get `grace_s` seconds to end.
        """
        self._desk.closed = True
        machines = [worker.machine for worker in all_workers(self._desk.crews.values())]
        for crew in self._desk.crews.values():
            crew.paused = True
        for machine in machines:
            if machine.phase in (Phase.IDLE, Phase.PROCESSING):
                machine.suspend()
        busy = [m.rested for m in machines if m.rested is not None and not m.rested.done()]
        if busy and grace_s > 0:
            _ = await asyncio.wait(busy, timeout=grace_s)
        await self._end(muted=True)

    async def _end(self, *, muted: bool) -> None:
        if self._stopped is None:
            self._desk.closed = True
            for crew in self._desk.crews.values():
                crew.closing, crew.muted = True, muted
            self._stopped = asyncio.get_running_loop().create_task(self._stop())
        await asyncio.shield(self._stopped)

    async def _stop(self) -> None:
        desk = self._desk
        desk.admission.close(self.name)
        for crew in desk.crews.values():
            for task in crew.drain():
                desk.end_unrun(task, Failed(Reason.STOPPED, "the pool was stopped"))
        _ = await asyncio.gather(*(crew.close() for crew in desk.crews.values()))
        desk.unwatch_resumes()
        await desk.wait_quiet()
        await self._close_runtime()

    async def _close_runtime(self) -> None:
        if self._own_runtime:
            _ = await self.runtime.close()

    async def scale(self, size: int, *, role: str | None = None) -> None:
        """Grow or shrink a role to `size` workers. Returns when new ones have started; busy ones end their task first.

        An elastic role scales on between its `min` and `max`. Raises InvalidOption, PoolStopped, or what the backend
        raises; then those that could be started are kept.
        """
        self._desk.refuse_if_closed()
        size = check_count("size", size)
        crew = self._desk.crews[self.settings.check_role(role)]
        scaler = crew.scaler
        if scaler is not None and not scaler.minimum <= size <= scaler.maximum:
            raise InvalidOption(
                f"size is {size}: this role scales between {scaler.minimum} and {scaler.maximum}"
            )
        await crew.scale(size)

    # -- tasks -----------------------------------------------------------------------------------

    async def submit(
        self, task: str | Task, *, role: str | None = None, hint_s: float | None = None, wait: bool = True
    ) -> Submission:
        """Accept a task and return its worker and ref at once (P03), durable if the pool has a journal.

        Waits only for room in the queue and for the rate limit, in order of arrival; with `wait=False` it raises
        Overloaded or RateLimited instead (P10, P13). The worker is `None` where idle workers pull and none was idle
        (`shared_queue`), or where what comes at once is gathered first (`longest_first`). Raises PoolStopped,
        InvalidPrompt, InvalidOption; then nothing was accepted.
        """
        desk = self._desk
        new = desk.new_task(task, role, hint_s)
        commit = await desk.admit(new) if wait else desk.admit_now(new)
        if commit is not None:
            await desk.committed([(new, commit)])
        return new.submission()

    def submit_nowait(
        self, task: str | Task, *, role: str | None = None, hint_s: float | None = None
    ) -> Submission:
        """Accept a task as `submit(wait=False)` does, without an await: not yet durable when this returns."""
        new = self._desk.new_task(task, role, hint_s)
        _ = self._desk.admit_now(new)
        return new.submission()

    async def submit_many(self, tasks: Iterable[str | Task], *, role: str | None = None) -> Submissions:
        """Accept tasks one after the other and return worker and ref of each, in the order of the input (P03).

        The iterable is read as the queue has room, so a file of any length can be submitted; `as_completed` does
        that without keeping them. A task that is refused ends it with that error; those before it were accepted.
        """
        desk = self._desk
        try_enter, accept = desk.admission.try_enter, desk.accept
        accepted: list[PoolTask] = []
        commits: Commits = []
        try:
            for given in tasks:
                new = desk.new_task(given, role, None)
                commit = accept(new) if try_enter(new.size) else await desk.admit(new)
                if commit is not None:
                    commits.append((new, commit))
                    if len(commits) >= COMMITS_PER_WAIT:
                        await desk.committed(commits)
                accepted.append(new)
        finally:
            if commits:
                await desk.committed(commits)
        return Submissions(accepted)

    async def submit_some(self, tasks: Sequence[str | Task], *, timeout: float = 0.0) -> Submissions:
        """Accept as many of the tasks as there is room for now, in order, and return those, durable as in `submit`.

        All are looked at first: one that can never be taken is raised before any is accepted. Waits up to `timeout`
        seconds for room for the first; raises Overloaded or RateLimited when not even that one got in.
        """
        desk = self._desk
        news = [_named_task(desk, given, at) for at, given in enumerate(tasks)]
        accepted: list[PoolTask] = []
        commits: Commits = []
        try:
            for new in news:
                if desk.enter_now(new.size):
                    commit = desk.accept(new)
                elif accepted:
                    break
                else:
                    commit = await self._admit_within(new, timeout)
                if commit is not None:
                    commits.append((new, commit))
                accepted.append(new)
        finally:
            if commits:
                await desk.committed(commits)
        return Submissions(accepted)

    async def _admit_within(self, task: PoolTask, timeout: float) -> Awaitable[None] | None:
        if timeout <= 0:
            return self._desk.admit_now(task)
        try:
            async with asyncio.timeout(timeout):
                return await self._desk.admit(task)
        except TimeoutError:
            raise self._desk.admission.refusal(task.size) from None

    async def map(
        self,
        tasks: Iterable[str | Task],
        *,
        concurrency: int | None = None,
        progress: OnProgress | None = None,
    ) -> list[TaskResult]:
        """Run tasks and return their results in the order of the input; failed ones are results too.

        At most `concurrency` of them are in the pool at a time. `progress` is called after each. When the caller is
        cancelled, or the iterable raises, what still waits is withdrawn.
        """
        found: list[TaskResult] = []
        async with aclosing(self.as_completed(tasks, concurrency=concurrency, progress=progress)) as results:
            async for result in results:
                found.append(result)
        found.sort(key=lambda result: result.index)
        return found

    def as_completed(
        self, tasks: Iterable[str | Task] | None = None, *, concurrency: int | None = None,
        progress: OnProgress | None = None,
    ) -> AsyncGenerator[TaskResult, None]:  # fmt: skip
        """Yield results as they end (P06).

        With `tasks`, of these tasks, which are read as they are worked off: memory is bounded by `concurrency`,
        however long the iterable is. Without, of everything: first what is kept, then each new one, until nothing
        is open.
        """
        if tasks is None:
            if concurrency is not None or progress is not None:
                raise InvalidOption("concurrency and progress go with tasks: give an iterable of tasks too")
            return self._follow()
        window = self.settings.max_queued if concurrency is None else concurrency
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise InvalidOption(f"concurrency is {concurrency!r}: it must be a whole number above 0")
        return Feed(self._desk, tasks, window).results(progress)

    async def _follow(self) -> AsyncGenerator[TaskResult, None]:
        follower = Follower(self._desk.keeper.ended, max(1, self.settings.max_results))
        self._desk.followers.append(follower)
        try:
            while True:
                result = follower.take()
                if result is not None:
                    yield result
                elif self._desk.is_quiet:
                    return
                else:
                    await follower.wait()
        finally:
            self._desk.followers.remove(follower)

    def cancel(self, ref: str) -> None:
        """Withdraw a task that waits; it ends with `cancelled`. Raises NotCancellable, RequestNotFound."""
        if not self._desk.abandon(ref, Reason.CANCELLED):
            state = "done" if self._find(ref).place is ENDED else "running"
            raise NotCancellable(f"task {ref} is {state}: only one that waits can be withdrawn")

    # -- waiting and looking -----------------------------------------------------------------------

    async def wait_for_all(self, timeout: float | None = None) -> None:
        """Return as soon as no task is queued or running (P05). Raises TimedOut; the work goes on.

        A task that is submitted meanwhile is waited for too, also one whose submitter waits for room.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._desk.wait_quiet()
        except TimeoutError:
            raise TimedOut(
                f"{self._desk.open} tasks of pool {self.name!r} are not done yet; they go on"
            ) from None

    async def wait(self, ref: str, timeout: float | None = None) -> TaskResult:
        """Return the result of a task as soon as there is one. Raises TimedOut, RequestNotFound."""
        result = self.poll(ref)
        if result is not None:
            return result
        waiter: asyncio.Future[TaskResult] = asyncio.get_running_loop().create_future()
        self._desk.waiters.setdefault(ref, []).append(waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError:
            raise TimedOut(f"task {ref} is not done yet; it goes on") from None
        finally:
            others = self._desk.waiters.get(ref)
            if others is not None:
                others.remove(waiter)
                if not others:
                    del self._desk.waiters[ref]

    def poll(self, ref: str) -> TaskResult | None:
        """Return the result of a task, `None` while it waits or runs. Raises RequestNotFound if unknown or evicted."""
        task = self._find(ref)
        return task.result() if task.place is ENDED else None

    def _find(self, ref: str) -> PoolTask:
        task = self._desk.keeper.tasks.get(ref)
        if task is None:
            raise RequestNotFound(f"pool {self.name!r} has no task {ref}, or its result was evicted")
        return task

    def results(self) -> PoolResults:
        """Return what is kept of all ended tasks, in submission order and by worker; failed ones are among them."""
        return self._desk.keeper.results()

    def status(self) -> PoolStatus:
        """Return how the pool stands; its cost depends on the number of workers only."""
        crews = self._desk.crews.values()
        workers = tuple(worker.status() for worker in all_workers(crews))
        strategy = next(iter(crews)).strategy.name if self._desk.crews else ""
        return PoolStatus(
            name=self.name,
            strategy=strategy,
            workers=workers,
            starting=sum(crew.lifecycle.starting for crew in crews),
            submitted=self._desk.submitted,
            queued=self._desk.admission.waiting,
            running=self._desk.running,
            ok=self._desk.ok,
            failed=self._desk.failed,
            waiting_submitters=self._desk.admission.in_line,
            rate=self.settings.rate,
            burst=self.settings.burst,
            stopped=self._stopped is not None,
            replaced=sum(crew.replaced for crew in crews),
            notice=next((crew.notice for crew in crews if crew.notice), None),
            problem=next((crew.problem for crew in crews if crew.problem and not crew.workers), None),
        )

    @property
    def workers(self) -> tuple[str, ...]:
        """Return the names of the living workers, in the order of their places."""
        return tuple(worker.name for worker in all_workers(self._desk.crews.values()))


def _named_task(desk: TaskDesk, given: str | Task, at: int) -> PoolTask:
    """Return the task; what is wrong with it is raised with its place in the list."""
    try:
        return desk.new_task(given, None, None)
    except (InvalidPrompt, InvalidOption) as exc:
        raise type(exc)(f"tasks[{at}]: {exc}") from None
