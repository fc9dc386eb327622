"""What a pool is asked to be, checked by looking at nothing but what was given. Called before one is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tollboard.errors import InvalidName, InvalidOption
from tollboard.fleet.pools.board import DEFAULT_MAX_QUEUED, DEFAULT_STRATEGY, Size, split
from tollboard.fleet.pools.records import PoolSpec, RoleSpec
from tollboard.fleet.settings import OURS, check_options
from tollboard.ids import check_name, looks_like_id
from tollboard.pool.role import Role
from tollboard.pool.settings import PoolSettings, settle_settings
from tollboard.runtime.backend import Backend

POOL_OURS = frozenset(OURS) | {
    "backends", "backlog", "first_index", "journal", "max_queued_bytes", "max_result_bytes", "max_results", "runtime",
    "worker",
}  # fmt: skip
"""Options that every pool gets from the fleet itself."""
USUAL: Mapping[str, Any] = {
    "role": None, "roles": None, "conversation": "fresh", "recycle_turns": None, "recycle_tokens": None,
    "strategy": DEFAULT_STRATEGY, "rate": None, "burst": None, "min": None, "max": None, "retries": 0,
    "max_queued": DEFAULT_MAX_QUEUED,
}  # fmt: skip
_UNUSED: Mapping[str, Any] = {
    "max_queued_bytes": 64 * 1024 * 1024, "max_results": 0, "max_result_bytes": 0, "cooldown_s": 5.0,
    "max_restarts": 3, "restart_window_s": 60.0,
}  # fmt: skip


def ask(
    name: str, size: Size | None, *, path: str, backend: str, asked: Mapping[str, object]
) -> PoolSpec:  # fmt: skip
    """Return what a pool is asked to be. Raises InvalidName, InvalidOption, Invalid."""
    check_name(name)
    if looks_like_id(name):
        raise InvalidName(f"{name!r} looks like the id of a pool; choose another name")
    given, options = split(asked)
    if not isinstance(given.get("strategy", ""), str):
        raise InvalidOption(f"strategy is {given['strategy']!r:.60}: it must be the name of one")
    settings = settle_settings(size, name=name, **{**USUAL, **given}, **_UNUSED)
    check_options(options, POOL_OURS)
    return PoolSpec(
        size=settings.sizes, path=path, backend=backend, strategy=str(given.get("strategy", DEFAULT_STRATEGY)),
        rate=settings.rate, burst=settings.burst, min=_of_elastic(settings, settings.minimum),
        max=_of_elastic(settings, settings.maximum), retries=settings.retries, max_queued=settings.max_queued,
        roles={role: said for role, known in settings.roles.items() if (said := _said(role, known)) != RoleSpec()},
        conversation=settings.conversation.kind.value, recycle_turns=settings.conversation.max_turns,
        recycle_tokens=settings.conversation.max_tokens, options=dict(options),
    )  # fmt: skip


def _said(name: str, role: Role) -> RoleSpec:
    """Return what was said of a role besides its size. Raises InvalidOption."""
    if isinstance(role.backend, Backend):
        raise InvalidOption(f"the backend of role {name!r} must be given by its name")
    check_options(role.options, POOL_OURS)
    return RoleSpec(prompt=role.prompt, model=role.model, backend=role.backend, options=dict(role.options))


def _of_elastic(settings: PoolSettings, bounds: Mapping[str, int]) -> dict[str, int] | None:
    # A role that keeps its size has no bounds of its own: kept beside the size, they were still there when `scale`
    # had changed it, and the pool could not come back after a restart.
    return {role: bound for role, bound in bounds.items() if settings.elastic(role)} or None
