"""One pool of the daemon: how its library pool is made from what is remembered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace

from tollboard.fleet.pools.asking import POOL_OURS
from tollboard.fleet.pools.ledger import PoolLedger
from tollboard.fleet.pools.records import PoolRecord, PoolSpec, PoolView
from tollboard.fleet.roster import BackendDirectory
from tollboard.fleet.settings import FleetSettings, check_options, resolve_references
from tollboard.ids import SESSION_MARKER
from tollboard.pool.journal import PoolJournal
from tollboard.pool.opening import options_of
from tollboard.pool.pool import Pool
from tollboard.pool.records import Backlog, PoolStatus
from tollboard.pool.role import Role
from tollboard.runtime.runtime import Runtime

KEPT_RESULTS = 0
"""Results are in the store: the pool need not keep them too."""


class HostedPool:
    """A pool that is not stopped: what is remembered of it, and the pool itself unless it is dead."""

    def __init__(self, record: PoolRecord) -> None:
        self.record = record
        self.pool: Pool | None = None
        self.retry_at: float | None = None
        """When it is tried again, while it is dead; Unix seconds."""
        self.retrying: asyncio.Task[None] | None = None
        """What tries it again, while it is dead."""
        self.scaling = asyncio.Lock()
        self.stopping: asyncio.Task[PoolView] | None = None

    @property
    def name(self) -> str:
        """Return its name."""
        return self.record.name

    @property
    def id(self) -> str:
        """Return its id."""
        return self.record.id

    async def leave(self) -> None:
        """Try it no more. Returns when nothing is under way; then it has a pool, or will have none."""
        retrying, self.retrying = self.retrying, None
        if retrying is not None:
            retrying.cancel()
            await asyncio.wait({retrying})
            self.retry_at = None

    def view(self) -> PoolView:
        """Return how it stands."""
        return view_of(self.record, None if self.pool is None else self.pool.status(), retry_at=self.retry_at)


class Host:
    """Makes pools: what they all need of the daemon."""

    def __init__(
        self, ledger: PoolLedger, runtime: Runtime, backends: BackendDirectory, settings: FleetSettings
    ) -> None:
        self.ledger = ledger
        self.runtime = runtime
        self.settings = settings
        self._backends = backends

    def settle(self, asked: PoolSpec, *, configures: bool) -> PoolSpec:
        """Return what is asked with its real path.

        Raises UnknownBackend, InvalidPath, also for what is not allowed; Denied for what needs `configure`.
        """
        for backend in _backends_of(asked):
            self.settings.check_backend(backend)
            _ = self._backends.load(backend)
        path = self.settings.check_path(asked.path)
        if not configures:
            self._check_powers(asked, path)
        return replace(asked, path=path)

    def _check_powers(self, asked: PoolSpec, path: str) -> None:
        """Raise Denied for a role that gets more than whoever may only send may give."""
        for role in asked.size:
            said = asked.role(role)
            given = said.merged(asked.options, same_backend=said.backend is None)
            self.settings.check_powers(self._backends.load(asked.backend_of(role)), path, given)

    async def check(self, asked: PoolSpec) -> PoolSpec:
        """Raise what a backend would raise if the workers were started, else return what was asked."""
        for role in asked.size:
            said = asked.role(role)
            backend = self._backends.load(asked.backend_of(role))
            given = options_of(role, said, backend, asked.options, retried=asked.retries > 0)
            # Checked before what they refer to is put in: a key that was read is one in plain text.
            own = resolve_references(check_options(given, POOL_OURS), os.environ)
            await backend.check_start({**own, "cwd": asked.path})
        return asked

    async def open(
        self, record: PoolRecord, backlog: Sequence[Backlog] = (), first_index: int = 0
    ) -> HostedPool:
        """Start the pool's workers, and let its backlog wait. Raises what `Pool.start` does."""
        spec = record.spec
        path = self.settings.check_path(spec.path)
        marker = f"{SESSION_MARKER}={self.settings.home_id}:{record.id}:{{worker}}"
        hosted = HostedPool(record)
        hosted.pool = await start_pool(
            record.name, spec, self.runtime, self._backends, self.ledger.pool_journal(record), backlog, first_index,
            {**resolve_references(spec.options, os.environ), "cwd": path, "env_marker": marker,
             **self.settings.ours()},
        )  # fmt: skip
        return hosted


async def start_pool(
    name: str, spec: PoolSpec, runtime: Runtime, backends: BackendDirectory, journal: PoolJournal,
    backlog: Sequence[Backlog], first_index: int, options: dict[str, object],
) -> Pool:  # fmt: skip
    """Start the library's pool for what was asked."""
    return await Pool.start(
        roles={role: _resolved(spec.role(role)) for role in spec.size}, name=name, backend=spec.backend,
        backends=backends, conversation=spec.conversation, recycle_turns=spec.recycle_turns,
        recycle_tokens=spec.recycle_tokens, strategy=spec.strategy, rate=spec.rate, burst=spec.burst, min=spec.min,
        max=spec.max, retries=spec.retries, max_queued=spec.max_queued, max_results=KEPT_RESULTS, runtime=runtime,
        journal=journal, backlog=backlog, first_index=first_index,
        **options,  # type: ignore[arg-type] # the caller's own, checked by the pool and its backend
    )  # fmt: skip


def _resolved(role: Role) -> Role:
    return replace(role, options=resolve_references(role.options, os.environ))


def _backends_of(spec: PoolSpec) -> list[str]:
    """Return the backends that its workers need."""
    return sorted({spec.backend_of(role) for role in spec.size})


def view_of(record: PoolRecord, now: PoolStatus | None, *, retry_at: float | None = None) -> PoolView:
    """Return how a pool stands: what the store has counted up to its last start, and since then the pool itself."""
    spec = record.spec
    open_tasks = record.submitted - record.ok - record.failed
    return PoolView(
        id=record.id,
        name=record.name,
        life=record.life,
        problem=record.problem if now is None else now.problem,
        done=open_tasks == 0 if now is None else _is_done(now),
        submitted=record.submitted + (0 if now is None else now.submitted),
        queued=open_tasks if now is None else now.queued,
        running=0 if now is None else now.running,
        ok=record.ok + (0 if now is None else now.ok),
        failed=record.failed + (0 if now is None else now.failed),
        waiting_submitters=0 if now is None else now.waiting_submitters,
        workers=() if now is None else now.workers,
        starting=0 if now is None else now.starting,
        size=spec.size,
        min=spec.min,
        max=spec.max,
        backend=spec.backend,
        path=spec.path,
        strategy=spec.strategy,
        rate=spec.rate,
        burst=spec.burst,
        retries=spec.retries,
        max_queued=spec.max_queued,
        conversation=spec.conversation,
        notice=None if now is None else now.notice,
        retry_at=retry_at,
        created_at=record.created_at,
        created_by=record.created_by,
        stopped_at=record.stopped_at,
    )


def _is_done(now: PoolStatus) -> bool:
    # Not by what is queued or running: a task whose end is being written is neither, and has not ended yet.
    return now.submitted == now.ok + now.failed and not now.waiting_submitters
