"""Shell completion: names of sessions and approvals from a running daemon, quickly; it never starts one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COMPLETION_LIMIT_S = 2.0
"""How long the daemon may take: a shell that waits longer feels broken."""


def complete_session(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """Return the sessions whose names begin so, with their state as the description."""
    from tollboard.surfaces.cli.listing import state_of

    statuses = _ask(ctx, lambda board: board.list_sessions())
    return [(one.name, state_of(one).text) for one in statuses or () if one.name.startswith(incomplete)]


def complete_pool(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """Return the pools whose names begin so, with their state as the description."""
    from tollboard.surfaces.cli.pools import state_of

    views = _ask(ctx, lambda board: board.pools.list())
    return [(one.name, state_of(one).text) for one in views or () if one.name.startswith(incomplete)]


def complete_approval(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """Return the approvals that wait and whose ids begin so."""
    waiting = _ask(ctx, lambda board: board.approvals())
    return [(one.id, f"{one.session}: {one.tool}") for one in waiting or () if one.id.startswith(incomplete)]


def complete_backend(incomplete: str) -> list[str]:
    """Return the backends whose names begin so."""
    from tollboard.backends import known

    return [name for name in known() if name.startswith(incomplete)]


def complete_kind(incomplete: str) -> list[str]:
    """Return the kinds of feed items that begin so."""
    from tollboard.fleet.records import FEED_KINDS

    return [kind for kind in FEED_KINDS if kind.startswith(incomplete)]


def _ask(ctx: Any, question: Any) -> Any:
    """Return the answer of the running daemon, `None` if there is none, it is slow, or it fails."""
    import asyncio
    import logging

    # Loaded before the time runs: that is the machine's affair, not the daemon's.
    import tollboard.daemon.transport
    import tollboard.operations.catalogue  # noqa: F401
    from tollboard.errors import TollboardError
    from tollboard.surfaces.cli.connection import open_board

    # A daemon of another version is not remarked in the middle of a line that is being typed.
    logging.getLogger("tollboard.client").addHandler(logging.NullHandler())

    async def asked() -> Any:
        async with asyncio.timeout(COMPLETION_LIMIT_S), open_board(_home(ctx), start=False) as board:
            return await question(board)

    try:
        return asyncio.run(asked())
    except (TollboardError, TimeoutError, OSError):
        return None


def _home(ctx: Any) -> Path | None:
    given = ctx.params.get("home") or ctx.find_root().params.get("home")
    return Path(given) if given else None
