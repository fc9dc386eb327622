"""The statements about pools and their tasks, each with a name and a sentence; compiled as those of `queries`."""

from __future__ import annotations

from sqlalchemy import (
    ColumnElement,
    Select,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from tollboard.store.queries import USAGE_COLUMNS, Query, _given
from tollboard.store.schema import pool_tasks, pools

_OF_POOL = pool_tasks.c.pool_id == bindparam("pool_id")
_NOT_ENDED = pool_tasks.c.ended_at.is_(None)
_STOPPED: ColumnElement[str] = literal_column("'stopped'")

# -- pools

CREATE_POOL = Query(insert(pools).values(_given(*pools.c.keys())))
"""Add a pool."""

SET_POOL_LIFE = Query(
    update(pools)
    .where(pools.c.id == bindparam("pool_id"))
    .values(
        life=bindparam("new_life"), stopped_at=bindparam("new_stopped_at"), problem=bindparam("new_problem")
    )
)
"""Note that a pool works, was stopped, or is dead."""

SET_POOL_SPEC = Query(
    update(pools).where(pools.c.id == bindparam("pool_id")).values(spec=bindparam("new_spec"))
)
"""Note what a pool is asked to be."""

DELETE_POOL = Query(delete(pools).where(pools.c.id == bindparam("pool_id")))
"""Remove a pool; its tasks go with it by their foreign key."""


def _counted(statement: Select[tuple[object, ...]]) -> Select[tuple[object, ...]]:
    """Add how many tasks each pool has, has answered, and has ended without an answer."""
    ok = pool_tasks.c.status == literal_column("'ok'")
    counts = (
        select(
            pool_tasks.c.pool_id.label("pool_id"),
            func.count().label("submitted"),
            func.coalesce(func.sum(case((ok, 1), else_=0)), 0).label("ok"),
            func.count(pool_tasks.c.ended_at).label("ended"),
        )
        .group_by(pool_tasks.c.pool_id)
        .subquery("counts")
    )
    zero: ColumnElement[int] = literal_column("0")
    return statement.add_columns(
        func.coalesce(counts.c.submitted, zero), func.coalesce(counts.c.ok, zero),
        func.coalesce(counts.c.ended - counts.c.ok, zero),
    ).select_from(pools.outerjoin(counts, counts.c.pool_id == pools.c.id))  # fmt: skip


_POOLS = _counted(select(*pools.c))

POOLS = Query(_POOLS.where(pools.c.life != _STOPPED).order_by(pools.c.created_at, pools.c.id))
"""Return the pools that are not stopped, oldest first."""

ALL_POOLS = Query(_POOLS.order_by(pools.c.created_at, pools.c.id))
"""Return every pool, oldest first."""

POOL_BY_NAME = Query(
    _POOLS.where(pools.c.name == bindparam("name"))
    .order_by(pools.c.life == _STOPPED, literal_column("pools.rowid").desc())
    .limit(literal_column("1"))
)
"""Return the pool that has a name now, else the one that was stopped last."""

POOL_BY_ID = Query(_POOLS.where(pools.c.id == bindparam("id")))
"""Return the pool with an id."""

# -- tasks

ACCEPT_TASK_COLUMNS = (
    "ref", "pool_id", "position", "role", "hint_s", "prompt", "submitted_at", "attempt", "worker",
)  # fmt: skip
ACCEPT_TASK = Query(insert(pool_tasks).values(_given(*ACCEPT_TASK_COLUMNS)), ACCEPT_TASK_COLUMNS)
"""Add an accepted task."""

START_TASK = Query(
    update(pool_tasks)
    .where(pool_tasks.c.ref == bindparam("the_ref"), _NOT_ENDED)
    .values(
        attempt=bindparam("new_attempt"),
        worker=bindparam("new_worker"),
        started_at=bindparam("new_started_at"),
    ),
    ("new_attempt", "new_worker", "new_started_at", "the_ref"),
)
"""Note that a worker is about to run a task; a retry's worker, time and attempt replace the earlier ones."""

_ENDING = (
    "attempt", "worker", "started_at", "ended_at", "status", "reason", "error", "duration_s", *USAGE_COLUMNS, "text",
)  # fmt: skip
FINISH_TASK = Query(
    update(pool_tasks)
    .where(
        pool_tasks.c.ref == bindparam("the_ref"),
        # The second half makes a repeat harmless after a commit that failed only in the reporting.
        or_(_NOT_ENDED, pool_tasks.c.ended_at == bindparam("same_ended_at")),
    )
    .values({name: bindparam(f"new_{name}") for name in _ENDING}),
    (*(f"new_{name}" for name in _ENDING), "the_ref", "same_ended_at"),
)
"""Note the one outcome of a task."""

INTERRUPT_TASK = Query(
    update(pool_tasks)
    .where(pool_tasks.c.ref == bindparam("the_ref"), _NOT_ENDED)
    .values(
        ended_at=bindparam("at"),
        status=literal_column("'interrupted'"),
        reason=literal_column("'interrupted'"),
        error=bindparam("why"),
        duration_s=func.max(
            literal_column("0.0"), bindparam("at") - func.coalesce(pool_tasks.c.started_at, bindparam("at"))
        ),
        text=literal_column("''"),
    )
)
"""End a task whose daemon ended while it ran."""

END_POOL_TASKS = Query(
    update(pool_tasks)
    .where(_OF_POOL, _NOT_ENDED)
    .values(
        ended_at=bindparam("at"),
        status=_STOPPED,
        reason=bindparam("because"),
        error=bindparam("why"),
        duration_s=literal_column("0.0"),
        text=literal_column("''"),
    )
)
"""End all tasks of a pool that has no workers."""

_TASKS = select(*pool_tasks.c, pools.c.name.label("pool")).select_from(
    pool_tasks.join(pools, pools.c.id == pool_tasks.c.pool_id)
)

TASK = Query(_TASKS.where(pool_tasks.c.ref == bindparam("ref")))
"""Return one task."""

UNFINISHED_TASKS = Query(_TASKS.where(_OF_POOL, _NOT_ENDED).order_by(pool_tasks.c.position))
"""Return the tasks of a pool that have not ended, in submission order."""

NEXT_POSITION = Query(
    select(func.coalesce(func.max(pool_tasks.c.position) + literal_column("1"), literal_column("0"))).where(
        _OF_POOL
    )
)
"""Return the position of a pool's next task."""

TASK_RESULTS = Query(
    _TASKS.where(_OF_POOL, pool_tasks.c.position > bindparam("after"), pool_tasks.c.ended_at.is_not(None))
    .order_by(pool_tasks.c.position)
    .limit(bindparam("count"))
)
"""Return ended tasks of a pool after a position, in submission order."""
