"""A real Switchboard in a thread, as the command line sees a daemon: opened by every command, alive between them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import tollboard.backends as backends
from tollboard.fleet.pools.pools import Pools
from tollboard.fleet.records import Caller
from tollboard.fleet.switchboard import Switchboard
from tollboard.store.store import Store
from tollboard.surfaces.cli.daemon_cmds import own_version


class BoardInThread:
    """Stands in for `open_board`: call it, enter what it returns, and use the verbs from any loop."""

    def __init__(self, directory: Path) -> None:
        self.opened: list[tuple[Path | None, bool]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._store, self._board, pools = self.do(self._open(directory))
            self.pools = Crossing(pools, self._loop)
        except BaseException:
            self._end_thread()
            raise

    async def _open(self, directory: Path) -> tuple[Store, Switchboard, Pools]:
        store = await Store.open(directory / "tollboard.db")
        board = await Switchboard.open(store, backends=backends)
        pools = await Pools.open(store.pools, backends=backends)
        caller = Caller("cli", "tester")
        return store, board.on_behalf_of(caller), pools.on_behalf_of(caller)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something on the board's loop from a test."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def close(self) -> None:
        """Close the board and end the thread."""
        self.do(self.pools.inner.close(grace_s=0))
        self.do(self._board.close(grace_s=0))
        self.do(self._store.close())
        self._end_thread()

    async def health(self) -> SimpleNamespace:
        """Answer as a daemon does."""
        return SimpleNamespace(pid=os.getpid(), version=own_version(), problem=None)

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def board(self) -> Switchboard:
        """Return the switchboard itself; only for `do`."""
        return self._board

    def __call__(self, home: Path | None, *, start: bool = True) -> BoardInThread:
        self.opened.append((home, start))
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None

    def __getattr__(self, verb: str) -> Any:
        if verb.startswith("_"):
            raise AttributeError(verb)
        return getattr(Crossing(self._board, self._loop), verb)

    async def tail(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        """Follow the feed across the threads."""
        feed = self._board.tail(*args, **options)
        try:
            while True:
                step = asyncio.run_coroutine_threadsafe(_next(feed), self._loop)
                yield await asyncio.wrap_future(step)
        finally:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_close(feed), self._loop))


class Crossing:
    """Lets the verbs of something that lives on one loop be awaited on another."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.inner = inner
        self._loop = loop

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self.inner, verb)

        async def call(*args: Any, **options: Any) -> Any:
            return await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(method(*args, **options), self._loop)
            )

        return call


async def _next(feed: AsyncIterator[Any]) -> Any:
    return await anext(feed)


async def _close(feed: Any) -> None:
    while True:
        try:
            return await feed.aclose()
        except RuntimeError:  # the cancelled step has not ended yet
            await asyncio.sleep(0)
