"""What happens to pools at a restart: what waited waits again, and what was in flight is not run again unasked.

A task that had started ends as `interrupted`, or runs again where the pool's `retries` allow one more attempt. A pool
that cannot come back (its directory or its backend is gone) stays visible as `dead` with the reason; its tasks wait in
the store.
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

CONCLUDED = "the daemon ended while it ran"


async def recover(host: Host, roster: PoolRoster) -> None:
    """Bring every pool back that is not stopped. Called once, before anything is accepted."""
    await asyncio.gather(*(_reopen(host, roster, record) for record in await host.ledger.pools()))


async def _reopen(host: Host, roster: PoolRoster, record: PoolRecord) -> None:
    settled, backlog = await _settled(host, record)
    try:
        async with asyncio.timeout(host.settings.revive_timeout_s):
            first_index = await host.ledger.next_task_index(record.id)
            # What waits is counted by the pool itself from here on.
            counted = replace(settled, submitted=settled.submitted - len(backlog))
            hosted = await host.open(counted, backlog, first_index)
    except StoreError:
        raise
    except Exception as exc:
        # A third-party backend may raise anything; one pool must not keep the others down.
        problem = _problem(exc)
        logger.error("pool %s could not be brought back: %s", record.name, problem)
        hosted = HostedPool(replace(settled, life=PoolLife.DEAD, problem=problem))
    if hosted.record.life is not record.life:
        now = host.runtime.clock.time()
        await host.ledger.set_pool_life(record.id, hosted.record.life, at=now, problem=hosted.record.problem)
    roster.add(hosted)


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
