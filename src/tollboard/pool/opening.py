"""How a pool comes to life: all its workers at once, or none, and an error that says which (P01)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tollboard.errors import BackendError, TollboardError
from tollboard.pool.conversation import Renewal
from tollboard.pool.crew import Crew
from tollboard.pool.desk import TaskDesk
from tollboard.pool.journal import WorkerJournal
from tollboard.pool.lifecycle import StartWorker
from tollboard.pool.records import Backlog
from tollboard.pool.role import Role
from tollboard.pool.scaling import Autoscaler
from tollboard.pool.worker import PoolWorker, Slot, Worker
from tollboard.runtime.backend import Backend
from tollboard.runtime.journal import NullJournal

if TYPE_CHECKING:
    from tollboard.pool.pool import Pool


class Starting:
    """A pool that is being started: `pool = await Pool.start(...)`, or `async with Pool.start(...) as pool:`."""

    __slots__ = ("_begin", "_pool")

    def __init__(
        self, pool: Pool, begin: Callable[[Sequence[Backlog], int], Awaitable[None]], backlog: Sequence[Backlog],
        first_index: int,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._begin = partial(begin, backlog, first_index)

    def __await__(self) -> Generator[Any, None, Pool]:
        yield from self._begin().__await__()
        return self._pool

    async def __aenter__(self) -> Pool:
        return await self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._pool.stop()


def starter(
    desk: TaskDesk, cls: type[PoolWorker], backends: Mapping[str, Backend[Any]], options: Mapping[str, object]
) -> StartWorker:
    """Return what starts the agent of one worker. The pool waits on its own results, so the agent keeps none.

    `backends` are by role.
    """
    settings = desk.settings
    own = {
        name: options_of(name, role, backends[name], options, retried=settings.retries > 0)
        for name, role in settings.roles.items()
    }

    async def start_worker(worker: Worker) -> None:
        journal = NullJournal() if desk.journal is None else WorkerJournal(desk.journal, worker)
        backend = backends[worker.role]
        worker.machine = await desk.runtime.start_agent(
            cls, worker.name, backend=backend, journal=journal, pool_worker=worker, max_results=0,
            max_queued_bytes=settings.max_queued_bytes,
            **own[worker.role],  # type: ignore[arg-type] # the caller's own
        )  # fmt: skip
        if backend.remembers:
            worker.renewal = Renewal(worker, settings.conversation, worker.session_options)
            worker.machine.renew = worker.renewal.renew

    return start_worker


def options_of(
    name: str, role: Role, backend: Backend[Any], shared: Mapping[str, object], *, retried: bool
) -> Mapping[str, object]:
    """Return the options of a role's workers, the runtime's among them, made of the role's and the pool's."""
    merged = role.merged(shared, same_backend=role.backend is None)
    return backend.worker_options(merged, opening=role.opening(name, merged), retried=retried)


def make_crews(desk: TaskDesk, start_worker: StartWorker) -> None:
    """Give the desk a crew for each role; none has a worker yet."""
    settings = desk.settings
    for role in settings.sizes:
        crew = Crew(
            desk, role, settings.make_strategy(), start_worker, retries=settings.retries,
            max_restarts=settings.max_restarts, restart_window_s=settings.restart_window_s,
        )  # fmt: skip
        desk.add_crew(crew)
        if settings.elastic(role):
            crew.scaler = Autoscaler(
                crew, desk.clock, minimum=settings.minimum[role], maximum=settings.maximum[role],
                cooldown_s=settings.cooldown_s,
            )  # fmt: skip


async def start_all(desk: TaskDesk) -> None:
    """Start every worker at once and let them join. Raises for the first that cannot; nothing works then."""
    wanted = [
        (crew, desk.new_slot()) for role, crew in desk.crews.items() for _ in range(desk.settings.sizes[role])
    ]
    starts = [asyncio.ensure_future(crew.lifecycle.start(slot)) for crew, slot in wanted]
    try:
        done = await asyncio.gather(*starts, return_exceptions=True)
    except asyncio.CancelledError:
        _ = _join(desk, wanted, await asyncio.gather(*starts, return_exceptions=True), closing=True)
        raise
    failed = _join(desk, wanted, done, closing=any(isinstance(one, BaseException) for one in done))
    if failed is not None:
        slot, exc = failed
        raise _named(f"{desk.name}-{slot.number}", len(starts), exc) from exc


def _join(
    desk: TaskDesk,
    wanted: Sequence[tuple[Crew, Slot]],
    done: Sequence[Worker | BaseException],
    *,
    closing: bool,
) -> tuple[Slot, BaseException] | None:
    """Let those that started join, closed crews if one did not; return the first that did not."""
    failed = None
    for crew in desk.crews.values():
        crew.closing = closing
    for (crew, slot), started in zip(wanted, done, strict=True):
        if isinstance(started, Worker):
            crew.join(started)
        elif failed is None:
            failed = slot, started
    return failed


def _named(name: str, of: int, exc: BaseException) -> BaseException:
    """Return the error of a failed start that says which worker it was."""
    said = str(exc) if isinstance(exc, TollboardError) else type(exc).__name__
    others = "the others were stopped" if of > 1 else "the pool was not started"
    text = f"worker {name!r} could not be started, {others}: {said}"
    if isinstance(exc, TollboardError) and type(exc).__init__ is TollboardError.__init__:
        return type(exc)(text)
    return BackendError(text)
