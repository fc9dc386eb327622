"""Pools for a test: the real store in a file, the real runtime, and a backend that can be steered."""

from __future__ import annotations

from pathlib import Path

from tests.fleet.world import Gated, Shelf
from tollboard.clock import Clock
from tollboard.fleet.pools.pools import Pools
from tollboard.fleet.pools.records import PoolView, TaskRecord
from tollboard.fleet.settings import FleetSettings
from tollboard.pool.records import TaskResult
from tollboard.store.store import Store


class Hall:
    """One set of pools after another on one database; `work` is a directory for their workers."""

    def __init__(self, home: Path) -> None:
        self.path = home / "tollboard.db"
        self.work = home / "work"
        self.work.mkdir()
        self.shelf = Shelf()
        self.settings = FleetSettings()
        self.clock: Clock | None = None
        self._abandoned: list[tuple[Store, Pools]] = []

    @property
    def gated(self) -> Gated:
        return self.shelf.gated

    async def open(self) -> Pools:
        self.store = await Store.open(self.path, take_over=True, clock=self.clock, synchronous="NORMAL")
        self.pools = await Pools.open(
            self.store.pools, backends=self.shelf, settings=self.settings, clock=self.clock
        )
        return self.pools

    async def kill(self) -> Pools:
        """Do what `kill -9` and a new start do: the old pools get no chance to write anything more."""
        self._abandoned.append((self.store, self.pools))
        self.shelf = Shelf()
        return await self.open()

    async def restart(self, *, grace_s: float = 0) -> Pools:
        """Close properly and open again."""
        await self.pools.close(grace_s=grace_s)
        await self.store.close()
        self.shelf = Shelf()
        return await self.open()

    async def close(self) -> None:
        for store, pools in [*self._abandoned, (self.store, self.pools)]:
            await pools.close(grace_s=0)
            await store.close()

    # -- short forms

    async def start(
        self, name: str = "p", size: int | dict[str, int] | None = 1, backend: str = "echo", **more: object
    ) -> PoolView:
        return await self.pools.start(name, size, path=self.work, backend=backend, **more)  # type: ignore[arg-type]

    async def submit(self, *prompts: str, name: str = "p") -> list[str]:
        return [one.ref for one in await self.pools.submit(name, prompts)]

    async def done(self, name: str = "p") -> PoolView:
        view = await self.pools.wait(name, timeout=20)
        assert view.done
        return view

    async def results(self, name: str = "p") -> list[TaskResult]:
        return list((await self.pools.results(name)).results)

    async def poll(self, ref: str, name: str = "p") -> TaskRecord:
        return await self.pools.poll(name, ref)
