"""The pools of a daemon: every verb of `PoolBoard`, in this process. Decides when a verb is legal and what must be
durable before it returns; `tollboard.pool` runs the workers, the ledger remembers.

    pools = await Pools.open(store.pools, backends=tollboard.backends)
    await pools.start("reviews", 4, path="/src/api", backend="claude", strategy="shared_queue")
    await pools.submit("reviews", ["review a.py", "review b.py"])
    view = await pools.wait("reviews")
    page = await pools.results("reviews")
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from os import PathLike, fspath
from typing import Any, TypeVar

from tollboard.clock import Clock
from tollboard.errors import (
    Conflict,
    DaemonError,
    Invalid,
    NotCancellable,
    PoolNotFound,
    PoolStopped,
    RequestNotFound,
    StoreUnavailable,
    TimedOut,
    TollboardError,
)
from tollboard.fleet.board import DEFAULT_BACKEND, MAX_WAIT_S
from tollboard.fleet.pools.asking import ask
from tollboard.fleet.pools.board import MAX_RESULTS_PAGE, Size, note_accepted
from tollboard.fleet.pools.hosted import Host, HostedPool, view_of
from tollboard.fleet.pools.ledger import PoolLedger
from tollboard.fleet.pools.records import (
    PoolDeleted,
    PoolLife,
    PoolRecord,
    PoolSpec,
    PoolView,
    ResultsPage,
    Submitted,
    TaskRecord,
    TaskState,
)
from tollboard.fleet.pools.recovery import recover
from tollboard.fleet.pools.roster import PoolRoster
from tollboard.fleet.records import Caller
from tollboard.fleet.roster import BackendDirectory
from tollboard.fleet.settings import FleetSettings
from tollboard.fleet.switchboard import LOCAL
from tollboard.ids import new_ref
from tollboard.pool.pool import Pool
from tollboard.pool.records import Task
from tollboard.runtime import telemetry
from tollboard.runtime.approval import Approval, Reject
from tollboard.runtime.results import Reason
from tollboard.runtime.runtime import Pressure, Runtime
from tollboard.runtime.telemetry import EventName, Measurements, Metadata

logger = logging.getLogger("tollboard.fleet.pools")

R = TypeVar("R")
STALL_S = 5.0
"""How long a stop waits before it looks whether it is the disk that keeps it."""
CLOSE_S = 10.0
"""How long the workers may take to end once the daemon has interrupted them."""
NOBODY_ASKS = (
    "a worker cannot ask a person: start its pool with a permission mode, tools or guards that cover this"
)


class Pools:
    """Implements `PoolBoard`. Belongs to one event loop; make it with `open`."""

    def __init__(
        self, ledger: PoolLedger, runtime: Runtime, backends: BackendDirectory, settings: FleetSettings
    ) -> None:
        self.caller = LOCAL
        self.configures = True
        self._ledger = ledger
        self._runtime = runtime
        self._settings = settings
        self._host = Host(ledger, runtime, backends, settings)
        self._state = PoolRoster()
        runtime.telemetry.attach("fleet.pools", (telemetry.APPROVAL_REQUESTED,), self._asked)

    @classmethod
    async def open(
        cls, ledger: PoolLedger, *, backends: BackendDirectory, settings: FleetSettings | None = None,
        clock: Clock | None = None, pressure: Pressure | None = None,
    ) -> Pools:  # fmt: skip
        """Bring the pools back as the ledger remembers them; one that cannot come back is dead, with the reason."""
        pools = cls(ledger, Runtime(clock=clock, pressure=pressure), backends, settings or FleetSettings())
        try:
            await recover(pools._host, pools._state)
        except BaseException:
            await pools.close(grace_s=0)
            raise
        return pools

    def on_behalf_of(self, caller: Caller, *, configures: bool = True) -> Pools:
        """Return the same pools with another caller, who is recorded with what it starts (S27).

        One that does not configure may only start pools with plain options (`FleetSettings.check_powers`).
        """
        view = copy.copy(self)
        view.caller = caller
        view.configures = configures
        return view

    def name_of(self, pool_id: str) -> str | None:
        """Return the name of a pool at work by its id, `None` if there is none."""
        found = self._state.find(pool_id) if pool_id else None
        return None if found is None else found.name

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Accept nothing more, give tasks in flight `grace_s` seconds, then leave the rest to the next start.

        Idempotent. The ledger is the caller's to close. A caller that gives up does not undo it; whoever calls it again
        waits for the same end.
        """
        state = self._state
        if state.ending is None:
            state.closed.set()
            state.ending = asyncio.get_running_loop().create_task(self._close(grace_s))
        await asyncio.shield(state.ending)

    async def _close(self, grace_s: float) -> None:
        state = self._state
        if state.tasks:
            await asyncio.wait(tuple(state.tasks), timeout=CLOSE_S)
        for hosted in state:
            await hosted.leave()
        live = [hosted.pool for hosted in state if hosted.pool is not None]
        ends = [asyncio.ensure_future(pool.suspend(grace_s=grace_s)) for pool in live]
        if ends:
            # Not for ever: a full disk lets no task end, and what cannot be written counts as interrupted.
            await asyncio.wait(ends, timeout=grace_s + CLOSE_S)
        _ = await self._runtime.close(deadline_s=CLOSE_S)
        await asyncio.gather(*ends)

    def _asked(self, event: EventName, measurements: Measurements, metadata: Metadata) -> None:
        """Answer a worker's question at once: nobody watches a worker, and a prompt nobody sees would hang it."""
        approval = metadata["approval"]
        assert isinstance(approval, Approval)
        _ = self._runtime.spawn(self._turn_down(approval.id))

    async def _turn_down(self, approval_id: str) -> None:
        try:
            _ = await self._runtime.decide(approval_id, Reject(NOBODY_ASKS), by="fleet:pools")
        except TollboardError as exc:
            logger.debug("a worker's question ended before it was turned down: %s", exc)

    def _open(self) -> None:
        if self._state.ending is not None:
            raise DaemonError("the fleet is shutting down and accepts nothing more; try again in a moment")

    async def _whole(self, work: Coroutine[Any, Any, R]) -> R:
        """Carry several durable steps through, though the caller may give up meanwhile."""
        return await asyncio.shield(self._begin(work))

    def _begin(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.get_running_loop().create_task(work)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.ended)
        return task

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(
        self, /, name: str, size: Size | None = None, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND,
        **asked: object,
    ) -> PoolView:  # fmt: skip
        """See `PoolBoard.start`."""
        self._open()
        asked_for = ask(name, size, path=fspath(path), backend=backend, asked=asked)
        spec = self._host.settle(asked_for, configures=self.configures)
        record = PoolRecord(
            id=new_ref(), name=name, spec=spec, life=PoolLife.LIVE, created_at=self._runtime.clock.time(),
            created_by=str(self.caller),
        )  # fmt: skip
        self._state.reserve(name)
        return (await self._whole(self._start(record))).view()

    async def check(
        self, /, name: str, size: Size | None = None, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND,
        **asked: object,
    ) -> PoolSpec:  # fmt: skip
        """See `PoolBoard.check`."""
        self._open()
        asked_for = ask(name, size, path=fspath(path), backend=backend, asked=asked)
        return await self._host.check(self._host.settle(asked_for, configures=self.configures))

    async def definition(self, name: str) -> PoolSpec:
        """See `PoolBoard.definition`."""
        return (await self._record(name)).spec

    async def _start(self, record: PoolRecord) -> HostedPool:
        try:
            hosted = await self._host.open(record)
            try:
                await self._ledger.create_pool(record)
            except BaseException:
                assert hosted.pool is not None
                await hosted.pool.stop()
                raise
            self._state.add(hosted)
            return hosted
        finally:
            self._state.starting.discard(record.name)

    async def scale(self, name: str, size: int, *, role: str | None = None) -> PoolView:
        """See `PoolBoard.scale`."""
        self._open()
        hosted = self._state.get(name)
        return (await self._whole(self._scale(hosted, self._live(hosted), size, role))).view()

    async def _scale(self, hosted: HostedPool, pool: Pool, size: int, role: str | None) -> HostedPool:
        # One after the other: the last one asked for is what is there, and what is remembered.
        async with hosted.scaling:
            await pool.scale(size, role=role)
            spec = hosted.record.spec
            spec = replace(spec, size={**spec.size, pool.settings.check_role(role): size})
            await self._ledger.set_pool_spec(hosted.id, spec)
            hosted.record = replace(hosted.record, spec=spec)
        return hosted

    async def stop(self, name: str) -> PoolView:
        """See `PoolBoard.stop`."""
        # Not while closing: what waits was left to the next start, and one that is stopped has none.
        self._open()
        hosted = self._state.find(name)
        if hosted is None:
            return view_of(await self._stored(name), None)  # it was stopped before: idempotent
        if hosted.stopping is None or hosted.stopping.done():
            hosted.stopping = self._begin(self._stop(hosted))
        stopping = hosted.stopping
        self._ledger.hurry()
        while not stopping.done():
            await asyncio.wait({stopping}, timeout=STALL_S)
            if not stopping.done() and self._ledger.trouble is not None:
                raise StoreUnavailable(
                    f"pool {hosted.name!r} is being stopped, which cannot be written down yet: "
                    f"{self._ledger.trouble}, and so does the stop"
                )
        return stopping.result()

    async def _stop(self, hosted: HostedPool) -> PoolView:
        now = self._runtime.clock.time()
        await hosted.leave()
        if hosted.pool is not None:
            await hosted.pool.stop()
        else:
            await self._ledger.end_pool_tasks(
                hosted.id, at=now, reason=Reason.STOPPED.value, detail="the pool was stopped"
            )
        await self._ledger.set_pool_life(hosted.id, PoolLife.STOPPED, at=now)
        self._state.remove(hosted)
        return view_of(await self._stored(hosted.id), None)

    async def delete(self, name: str) -> PoolDeleted:
        """See `PoolBoard.delete`."""
        record = await self._record(name)
        if record.life is not PoolLife.STOPPED:
            raise Conflict(f"pool {record.name!r} is {record.life.value}: stop it before you delete it")
        await self._ledger.delete_pool(record.id)
        return PoolDeleted(record.name, record.id, record.submitted)

    # -- tasks ------------------------------------------------------------------------------------------------------

    async def submit(
        self, name: str, tasks: str | Task | Sequence[str | Task], *, timeout: float | None = None
    ) -> tuple[Submitted, ...]:
        """See `PoolBoard.submit`."""
        self._open()
        pool = self._live(self._state.get(name))
        listed = [tasks] if isinstance(tasks, str | Task) else list(tasks)
        if not listed:
            raise Invalid("tasks is empty: give at least one")
        for task in listed:
            self._settings.check_prompt(task.prompt if isinstance(task, Task) else task)
        if timeout is not None:
            return await self._submit_some(pool, listed, _seconds(timeout))
        done: tuple[Submitted, ...] = ()
        try:
            while len(done) < len(listed):
                done += await self._submit_some(pool, listed[len(done) :], MAX_WAIT_S)
        except TollboardError as error:
            note_accepted(error, len(done), len(listed))
            raise
        return done

    async def _submit_some(
        self, pool: Pool, tasks: Sequence[str | Task], timeout_s: float
    ) -> tuple[Submitted, ...]:
        try:
            return _submitted(await pool.submit_some(tasks, timeout=timeout_s))
        except PoolStopped:
            self._open()
            raise

    async def wait(self, name: str, *, timeout: float | None = None) -> PoolView:
        """See `PoolBoard.wait`."""
        hosted = self._state.find(name)
        if hosted is None or hosted.pool is None:
            return await self.status(name)
        waiting = asyncio.ensure_future(
            hosted.pool.wait_for_all(None if timeout is None else _seconds(timeout))
        )
        closing = asyncio.ensure_future(self._state.closed.wait())
        try:
            await asyncio.wait({waiting, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._open()
            with contextlib.suppress(TimedOut):
                waiting.result()
        finally:
            waiting.cancel()
            closing.cancel()
        return await self.status(hosted.id)

    async def results(self, name: str, *, after: int = -1, limit: int = MAX_RESULTS_PAGE) -> ResultsPage:
        """See `PoolBoard.results`."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_RESULTS_PAGE:
            raise Invalid(f"limit is {limit!r}: it must be a whole number from 1 to {MAX_RESULTS_PAGE:,}")
        if isinstance(after, bool) or not isinstance(after, int):
            raise Invalid(f"after is {after!r}: it is the index of a task")
        record = await self._record(name)
        found = await self._ledger.task_results(record.id, after=after, limit=limit + 1)
        page = tuple(found[:limit])
        return ResultsPage(record.name, page, page[-1].index if len(found) > limit else None)

    async def poll(self, name: str, ref: str) -> TaskRecord:
        """See `PoolBoard.poll`."""
        record = await self._record(name)
        task = await self._ledger.pool_task(ref)
        if task is None or task.pool_id != record.id:
            raise RequestNotFound(f"pool {record.name!r} has no task {ref}")
        return task

    async def cancel(self, name: str, ref: str) -> TaskRecord:
        """See `PoolBoard.cancel`."""
        self._open()
        hosted = self._state.get(name)
        task = await self.poll(hosted.id, ref)
        pool = self._live(hosted)
        if task.state is TaskState.ENDED:
            raise NotCancellable(f"task {ref} has ended: only one that waits can be withdrawn")
        pool.cancel(ref)
        await self._ledger.flush()
        return await self.poll(hosted.id, ref)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def list(self, *, all: bool = False) -> tuple[PoolView, ...]:
        """See `PoolBoard.list`."""
        shown = {hosted.id: hosted.view() for hosted in self._state}
        if all:
            for record in await self._ledger.pools(every=True):
                shown.setdefault(record.id, view_of(record, None))
        return tuple(sorted(shown.values(), key=lambda view: (view.created_at, view.id)))

    async def status(self, name: str) -> PoolView:
        """See `PoolBoard.status`."""
        hosted = self._state.find(name)
        return hosted.view() if hosted is not None else view_of(await self._stored(name), None)

    def _live(self, hosted: HostedPool) -> Pool:
        if hosted.pool is None:
            raise PoolStopped(
                f"pool {hosted.name!r} is dead: {hosted.record.problem}; it is tried again from time to time "
                "(`tollboard pool status` says when), so fix that and wait, or stop the pool"
            )
        return hosted.pool

    async def _record(self, name: str) -> PoolRecord:
        hosted = self._state.find(name)
        return hosted.record if hosted is not None else await self._stored(name)

    async def _stored(self, name: str) -> PoolRecord:
        record = await self._ledger.find_pool(name)
        if record is None:
            raise PoolNotFound(f"there is no pool {name!r}")
        return record


def _submitted(accepted: Sequence[Any]) -> tuple[Submitted, ...]:
    return tuple(Submitted(one.ref, one.worker) for one in accepted)


def _seconds(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_WAIT_S:
        raise Invalid(f"timeout is {value!r}: it must be a number of seconds from 0 to {MAX_WAIT_S:g}")
    return float(value)
