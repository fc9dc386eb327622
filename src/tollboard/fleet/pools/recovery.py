"""What happens to pools at a restart: what waited waits again, and what was in flight is not run again unasked.

A task that had started ends as `interrupted`, or runs again where the pool's `retries` allow one more attempt. A pool
that cannot come back (its workers do not start in time, its directory or its backend is gone) stays visible as `dead`
with the reason, and is tried again with pauses that grow; its tasks wait in the store.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from tollboard.errors import StoreError, TollboardError
from tollboard.fleet.pools.hosted import Host, HostedPool
from tollboard.fleet.pools.records import PoolLife, PoolRecord, TaskRecord, TaskState
from tollboard.fleet.pools.roster import PoolRoster
from tollboard.pool.records import Backlog

logger = logging.getLogger("tollboard.fleet.pools")

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0
CONCLUDED = "the daemon ended while it ran"


async def recover(host: Host, roster: PoolRoster) -> None:
    """Bring every pool back that is not stopped. Called once, before anything is accepted."""
    await asyncio.gather(*(_reopen(host, roster, record) for record in await host.ledger.pools()))


async def _reopen(host: Host, roster: PoolRoster, record: PoolRecord) -> None:
    hosted = HostedPool(record)
    await _try(host, hosted)
    roster.add(hosted)
    if hosted.pool is None:
        hosted.retrying = asyncio.get_running_loop().create_task(_retry(host, hosted))


async def _retry(host: Host, hosted: HostedPool) -> None:
    """Try a dead pool again, twice as long after each time, until it works. Cancelled when it is stopped or closed."""
    pause_s = FIRST_PAUSE_S
    while hosted.pool is None:
        hosted.retry_at = host.runtime.clock.time() + pause_s
        due: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = host.runtime.clock.call_later(pause_s, lambda due=due: due.done() or due.set_result(None))  # type: ignore[misc]
        try:
            await due
        finally:
            timer.cancel()
        hosted.retry_at = None
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
        try:
            await _try(host, hosted)
        except StoreError as exc:
            logger.error("pool %s: %s", hosted.name, exc)


async def _try(host: Host, hosted: HostedPool) -> None:
    """Start the workers of a pool that has none; it is dead, with the reason, if they do not come up in time."""
    before = hosted.record
    settled, backlog = await _settled(host, before)
    try:
        async with asyncio.timeout(host.settings.revive_timeout_s):
            first_index = await host.ledger.next_task_index(before.id)
            # What waits is counted by the pool itself from here on.
            counted = replace(settled, submitted=settled.submitted - len(backlog))
            found = await host.open(counted, backlog, first_index)
    except StoreError:
        raise
    except Exception as exc:
        # A third-party backend may raise anything; one pool must not keep the others down.
        problem = _problem(exc)
        logger.error("pool %s could not be brought back: %s", before.name, problem)
        hosted.record = replace(settled, life=PoolLife.DEAD, problem=problem)
    else:
        hosted.record, hosted.pool = found.record, found.pool
        if before.life is PoolLife.DEAD:
            logger.warning("pool %s is at work again", before.name)
    if (hosted.record.life, hosted.record.problem) != (before.life, before.problem):
        now = host.runtime.clock.time()
        await host.ledger.set_pool_life(before.id, hosted.record.life, at=now, problem=hosted.record.problem)


async def _settled(host: Host, record: PoolRecord) -> tuple[PoolRecord, list[Backlog]]:
    """End what was in flight and may not run again; return the pool as it is then, and what waits."""
    now = host.runtime.clock.time()
    backlog, failed = [], 0
    for task in await host.ledger.unfinished_tasks(record.id):
        if task.state is TaskState.QUEUED or task.attempt <= record.spec.retries:
            backlog.append(_again(task))
        else:
            failed += 1
            await host.ledger.interrupt_task(task.ref, at=now, detail=CONCLUDED)
    return replace(record, life=PoolLife.LIVE, problem=None, failed=record.failed + failed), backlog


def _problem(exc: Exception) -> str:
    match exc:
        case TimeoutError():
            return "its workers did not start in time"
        case TollboardError():
            return str(exc)
        case _:
            return type(exc).__name__


def _again(task: TaskRecord) -> Backlog:
    return Backlog(
        ref=task.ref, prompt=task.prompt, role=task.role, index=task.index, submitted_at=task.submitted_at,
        hint_s=task.hint_s, attempt=task.attempt,
    )  # fmt: skip
