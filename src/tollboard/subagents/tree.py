"""The runs of one owner, by id and by parent: how a server finds one and all below it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tollboard.subagents.run import Run


@dataclass(slots=True, eq=False)
class Tree:
    """What the runs of one owner share."""

    runs: dict[str, Run] = field(default_factory=dict)
    """By id: those that were started, and those below them as long as they have not ended."""
    below: dict[str, dict[str, Run]] = field(default_factory=dict)
    """The same by the id of the parent, or by the name of the host."""
    left: set[asyncio.Future[Any]] = field(default_factory=set)
    """Runs whose tools swallowed their cancellation: nobody waits for them any more, and they can do nothing more."""

    def add(self, run: Run) -> None:
        """Take a run in."""
        self.runs[run.id] = run
        if run.parent is not None:
            self.below.setdefault(run.parent, {})[run.id] = run

    def drop(self, id: str) -> None:
        """Let go of a run. Idempotent."""
        run = self.runs.pop(id, None)
        if run is not None and run.parent is not None and (siblings := self.below.get(run.parent)):
            siblings.pop(id, None)
            if not siblings:
                del self.below[run.parent]

    def with_below(self, id: str) -> list[Run]:
        """Return the run of this id, if there is one, and those that have it as their parent, and theirs."""
        own = self.runs.get(id)
        found = [own] if own is not None else []
        for run in tuple(self.below.get(id, {}).values()):
            found.extend(self.with_below(run.id))
        return found

    def hold(self, work: Awaitable[Any]) -> None:
        """Keep what nobody waits for until it has ended; what it raises is nobody's concern."""
        future = asyncio.ensure_future(work)
        self.left.add(future)
        future.add_done_callback(self._let_go)

    def _let_go(self, future: asyncio.Future[Any]) -> None:
        self.left.discard(future)
        if not future.cancelled():
            future.exception()
