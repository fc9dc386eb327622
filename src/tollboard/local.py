"""A switchboard in this process, with everything it needs found for it: `from tollboard import Switchboard`.

    async with Switchboard.open() as board:
        await board.start_session("api", path="/src/api", backend="claude")

`fleet.switchboard` is the same without defaults: what the daemon puts together itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from tollboard import backends as built_in
from tollboard.clock import Clock
from tollboard.fleet import switchboard
from tollboard.fleet.ledger import Ledger
from tollboard.fleet.roster import BackendDirectory
from tollboard.fleet.settings import FleetSettings
from tollboard.store.store import Store

DATABASE = "tollboard.db"

Where = Ledger | str | os.PathLike[str] | None


class Opening:
    """What `Switchboard.open` returns: await it for a switchboard, or enter it to have it closed as well."""

    def __init__(self, open_it: Callable[[], Any]) -> None:
        self._open_it = open_it
        self._board: Switchboard | None = None

    def __await__(self) -> Generator[Any, None, Switchboard]:
        return cast("Generator[Any, None, Switchboard]", self._open_it().__await__())

    async def __aenter__(self) -> Switchboard:
        self._board = await self
        return self._board

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._board is not None
        await self._board.close()


class Switchboard(switchboard.Switchboard):
    """Implements `Board` in this process. Belongs to one event loop; make it with `open`."""

    _own: _Own | None = None

    @classmethod
    def open(  # type: ignore[override] # it may be awaited as well, and needs less
        cls, where: Where = None, *, backends: BackendDirectory | None = None, settings: FleetSettings | None = None,
        clock: Clock | None = None,
    ) -> Opening:  # fmt: skip
        """Open a fleet: the one kept at a path (a database file, or a directory for one), else one that nothing keeps.

        A store that was opened elsewhere can be given instead, and stays its opener's to close. All backends can be
        used unless some are named. Raises StoreError, DaemonRunning when another process has that database open.
        """

        async def open_it() -> Switchboard:
            if where is not None and not isinstance(where, str | os.PathLike):
                return await cls._open_on(where, None, backends, settings, clock)
            own = await _Own.at(where)
            try:
                return await cls._open_on(own.store, own, backends, settings, clock)
            except BaseException:
                await own.close()
                raise

        return Opening(open_it)

    @classmethod
    async def _open_on(
        cls, ledger: Ledger, own: _Own | None, backends: BackendDirectory | None, settings: FleetSettings | None,
        clock: Clock | None,
    ) -> Switchboard:  # fmt: skip
        board = await super().open(ledger, backends=backends or built_in, settings=settings, clock=clock)
        assert isinstance(board, cls)
        board._own = own
        return board

    async def close(self, *, grace_s: float = 5.0) -> tuple[str, ...]:
        """Accept nothing more and end, as `fleet.switchboard.Switchboard.close`; a store of its own is closed too."""
        late = await super().close(grace_s=grace_s)
        if self._own is not None:
            await self._own.close()
        return late


class _Own:
    """A store that a switchboard has opened for itself."""

    def __init__(self, store: Store, temporary: tempfile.TemporaryDirectory[str] | None) -> None:
        self.store = store
        self._temporary = temporary

    @classmethod
    async def at(cls, where: str | os.PathLike[str] | None) -> _Own:
        """Open the database at a path; without one, in a directory that goes with it."""
        if where is None:
            temporary = tempfile.TemporaryDirectory(prefix="tollboard-")
            # Nothing of it outlives the process, so nothing waits for the disk.
            return cls(await Store.open(Path(temporary.name) / DATABASE, synchronous="NORMAL"), temporary)
        path = Path(where)
        return cls(await Store.open(path / DATABASE if path.is_dir() else path), None)

    async def close(self) -> None:
        """Close it, and remove what nobody wanted kept. Idempotent."""
        await self.store.close()
        if self._temporary is not None:
            self._temporary.cleanup()
