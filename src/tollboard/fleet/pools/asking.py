"""What a pool is asked to be, checked by looking at nothing but what was given. Called before one is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tollboard.errors import InvalidName
from tollboard.fleet.pools.board import DEFAULT_MAX_QUEUED, DEFAULT_STRATEGY, Size
from tollboard.fleet.pools.records import PoolSpec
from tollboard.fleet.settings import OURS, check_options
from tollboard.ids import check_name, looks_like_id
from tollboard.pool.settings import PoolSettings, settle_settings

POOL_OURS = frozenset(OURS) | {
    "backends", "backlog", "first_index", "journal", "max_queued_bytes", "max_result_bytes", "max_results", "runtime",
    "worker",
}  # fmt: skip
"""Options that every pool gets from the fleet itself."""
_UNUSED: Mapping[str, Any] = {
    "max_queued_bytes": 64 * 1024 * 1024, "max_results": 0, "max_result_bytes": 0, "cooldown_s": 5.0,
    "max_restarts": 3, "restart_window_s": 60.0,
}  # fmt: skip


def ask(
    name: str, size: Size, *, path: str, backend: str, role: str | None = None, strategy: str = DEFAULT_STRATEGY,
    rate: float | str | None = None, burst: int | None = None, min: Size | None = None, max: Size | None = None,
    retries: int = 0, max_queued: int = DEFAULT_MAX_QUEUED, options: Mapping[str, object],
) -> PoolSpec:  # fmt: skip
    """Return what a pool is asked to be. Raises InvalidName, InvalidOption, Invalid."""
    check_name(name)
    if looks_like_id(name):
        raise InvalidName(f"{name!r} looks like the id of a pool; choose another name")
    settings = settle_settings(
        size, name=name, role=role, roles=None, conversation="fresh", recycle_turns=None, recycle_tokens=None,
        strategy=strategy, rate=rate, burst=burst, min=min, max=max, retries=retries, max_queued=max_queued, **_UNUSED,
    )  # fmt: skip
    check_options(options, POOL_OURS)
    return PoolSpec(
        size=settings.sizes, path=path, backend=backend, strategy=strategy, rate=settings.rate, burst=settings.burst,
        min=_of_elastic(settings, settings.minimum), max=_of_elastic(settings, settings.maximum),
        retries=settings.retries, max_queued=settings.max_queued, options=dict(options),
    )  # fmt: skip


def _of_elastic(settings: PoolSettings, bounds: Mapping[str, int]) -> dict[str, int] | None:
    # A role that keeps its size has no bounds of its own: kept beside the size, they were still there when `scale`
    # had changed it, and the pool could not come back after a restart.
    return {role: bound for role, bound in bounds.items() if settings.elastic(role)} or None
