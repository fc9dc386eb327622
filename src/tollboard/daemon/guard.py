"""Looks after the state directory while the daemon serves: is it still ours, and is the socket where clients look?

Cleaners of temporary files remove sockets and locks, and machines are suspended without a word. So somebody has to
look: a `stat` of two files, each second, and at once when a client says so (SIGCONT). A directory has no notification
that works on every system, survives its own removal, and costs less than that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tollboard.daemon.config import StateDirectory
from tollboard.daemon.single import Ownership, bind_socket
from tollboard.errors import DaemonError

logger = logging.getLogger("tollboard.daemon")

LOOK_S = 1.0

Identity = tuple[int, int]


class Guard:
    """Keeps the socket of one daemon in its place, and says when the directory is lost.

    `serve` makes the daemon answer on one more listening socket; `lost` is called, once, when another daemon has the
    directory or it is gone; while `ending` is true nothing is put back; `beside` is called with each look.
    """

    def __init__(
        self, home: StateDirectory, owner: Ownership, bound: socket.socket, *,
        serve: Callable[[socket.socket], Awaitable[None]], lost: Callable[[], None],
        ending: Callable[[], bool] = lambda: False, beside: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._home = home
        self._owner = owner
        self._serve = serve
        self._lost = lost
        self._ending = ending
        self._beside = beside
        self._socket = _identity(home.socket)
        self._database = _identity(home.database)
        self._bound = [bound]
        self._wake = asyncio.Event()
        self._said = ""

    def look(self) -> None:
        """Look now, not in a second: a client found nobody at the socket, or the machine was suspended."""
        self._wake.set()

    async def watch(self) -> None:
        """Look now and then, until the directory is lost."""
        while await self._look():
            self._beside()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            self._wake.clear()

    def close(self) -> None:
        """Close what was bound since."""
        for bound in self._bound[1:]:
            bound.close()

    async def _look(self) -> bool:
        """Return whether the directory is still ours; put a socket back that is not there any more."""
        if not self._owner.still_ours() and not self._take_up():
            logger.error("%s is not this daemon's any more; it ends", self._home.path)
            self._lost()
            return False
        if _identity(self._home.socket) != self._socket and not self._ending():
            await self._put_back()
        return True

    def _take_up(self) -> bool:
        """Take the lock again if only its file was removed: the database is in its place, and nobody else has begun."""
        if (
            self._home.lock.exists()
            or self._database is None
            or _identity(self._home.database) != self._database
        ):
            return False
        try:
            self._owner.renew()
        except DaemonError:  # another daemon was quicker, or nothing can be written there
            return False
        logger.warning("the lock %s was removed; it is held again", self._home.lock)
        return True

    async def _put_back(self) -> None:
        try:
            bound = bind_socket(self._home)
        except DaemonError as exc:
            self._say(f"the socket was removed and cannot be put back: {exc}")
            return
        self._socket = _identity(self._home.socket)
        self._bound.append(bound)
        await self._serve(bound)
        self._said = ""
        logger.warning("the socket %s was removed or replaced; it is back", self._home.socket)

    def _say(self, text: str) -> None:
        """Log what stays wrong once, not each second."""
        if text != self._said:
            self._said = text
            logger.error("%s", text)


def _identity(path: os.PathLike[str]) -> Identity | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
