"""Which pools are there: those that are not stopped, by name and id. Shared by all views of the daemon's pools."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from tollboard.errors import PoolExists, PoolNotFound
from tollboard.fleet.pools.hosted import HostedPool


class PoolRoster:
    """The pools that are not stopped, and what is under way with them."""

    def __init__(self) -> None:
        self.ending: asyncio.Task[None] | None = None
        """What closes everything, once that has begun."""
        self.closed = asyncio.Event()
        self._by_name: dict[str, HostedPool] = {}
        self._by_id: dict[str, HostedPool] = {}
        self.starting: set[str] = set()
        self.tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[HostedPool]:
        return iter(tuple(self._by_name.values()))

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Forget a task that carried something through."""
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has it

    def reserve(self, name: str) -> None:
        """Take a name for a pool that is being started. Raises PoolExists."""
        if name in self._by_name or name in self.starting:
            raise PoolExists(f"there is a pool {name!r} already")
        self.starting.add(name)

    def add(self, hosted: HostedPool) -> None:
        """Put a pool in; it is found from here on."""
        self._by_name[hosted.name] = hosted
        self._by_id[hosted.id] = hosted

    def remove(self, hosted: HostedPool) -> None:
        """Take a pool out; its name is free again."""
        if self._by_name.get(hosted.name) is hosted:
            del self._by_name[hosted.name]
        self._by_id.pop(hosted.id, None)

    def find(self, name_or_id: str) -> HostedPool | None:
        """Return the pool with that name or id."""
        return self._by_name.get(name_or_id) or self._by_id.get(name_or_id)

    def get(self, name: str) -> HostedPool:
        """Return the pool with that name or id. Raises PoolNotFound."""
        hosted = self.find(name)
        if hosted is None:
            raise PoolNotFound(f"there is no pool {name!r} at work")
        return hosted
