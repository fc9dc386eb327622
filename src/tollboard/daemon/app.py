"""The composition root: the only file that imports everything, puts it together, and serves until told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
import uuid
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from typing import Any

import uvicorn

import tollboard
from tollboard import backends
from tollboard.backends._process import reap
from tollboard.daemon.config import Config, StateDirectory, read_config
from tollboard.daemon.single import Ownership, Signals, bind_socket, bind_tcp, new_secret, private_text, say
from tollboard.errors import DaemonError, StoreError, TollboardError
from tollboard.fleet.roster import MARKER
from tollboard.fleet.settings import FleetSettings
from tollboard.fleet.switchboard import Switchboard
from tollboard.operations.wire import DaemonHealth, error_answer
from tollboard.store.retention import Retention
from tollboard.store.store import Store
from tollboard.surfaces.gate import Door
from tollboard.surfaces.http import make_app

logger = logging.getLogger("tollboard.daemon")

LOG_BYTES = 5 * 1024 * 1024
LOG_FILES = 3
DAY_S = 86_400.0
CLOSE_GRACE_S = 15.0


@dataclass(frozen=True, slots=True)
class Serve:
    """How to serve."""

    home: StateDirectory
    take_over: bool = False
    ready_fd: int | None = None
    foreground: bool = False


def serve(how: Serve) -> int:
    """Serve until SIGTERM, SIGINT or `shutdown`; return the exit code. A failed start is told through the pipe."""
    try:
        how.home.prepare()
        config = read_config(how.home.config)
        _log_to(how, config)
        owner = Ownership.claim(how.home, take_over=how.take_over)
    except TollboardError as exc:
        return _failed(how, exc)
    try:
        return asyncio.run(_Daemon(how, config, owner).run())
    except TollboardError as exc:
        return _failed(how, exc)
    finally:
        owner.release()


def _failed(how: Serve, exc: TollboardError) -> int:
    logger.error("the daemon could not start: %s", exc)
    say(how.ready_fd, json.dumps(error_answer(exc).model_dump()))
    if how.foreground:
        print(f"tollboard: {exc}", flush=True)
    return 1


def _log_to(how: Serve, config: Config) -> None:
    """Log to the state directory's file (0600, rotated), and to the terminal when in front."""
    before = os.umask(0o177)
    try:
        handlers: list[logging.Handler] = [
            RotatingFileHandler(how.home.log, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
        ]
    except OSError as exc:
        raise DaemonError(f"the log {str(how.home.log)!r} cannot be written: {exc.strerror}") from None
    finally:
        os.umask(before)
    if how.foreground:
        handlers.append(logging.StreamHandler())
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in handlers:
        handler.setFormatter(form)
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(config.log_level)
    logging.getLogger("uvicorn.access").disabled = True


class _Daemon:
    """One run of the daemon."""

    def __init__(self, how: Serve, config: Config, owner: Ownership) -> None:
        self._how = how
        self._home = how.home
        self._config = config
        self._owner = owner
        self._started = time.monotonic()
        self._stopping = asyncio.Event()
        self._tcp: str | None = None

    async def run(self) -> int:
        """Open, serve, close."""
        home = self._home
        home_id = private_text(home.identity, lambda: uuid.uuid4().hex)
        secret = private_text(home.token, new_secret)
        await _reap_orphans(home_id)
        retention = Retention(
            max_events_per_session=self._config.feed_rows_per_session,
            max_age_s=self._config.feed_days * DAY_S,
        )
        store = await Store.open(home.database, take_over=self._how.take_over, retention=retention)
        try:
            settings = FleetSettings(
                home_id=home_id, roots=self._config.roots, backends=self._config.backends
            )
            board = await Switchboard.open(store, backends=backends, settings=settings)
            await self._serve(board, secret)
        finally:
            with suppress(StoreError):  # stale or stuck: said in the log already
                await store.close()
        return 0

    async def _serve(self, board: Switchboard, secret: str) -> None:
        sockets = [bind_socket(self._home)]
        hosts = set(self._config.tcp_hosts)
        if self._config.tcp_host is not None:
            tcp = bind_tcp(self._config.tcp_host, self._config.tcp_port)
            sockets.append(tcp)
            port = tcp.getsockname()[1]
            self._tcp = f"{self._config.tcp_host}:{port}"
            hosts |= {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]", self._config.tcp_host)}
        door = Door(board, secret, frozenset(hosts), shutdown=self._stopping.set, health=self._health)
        server = _Server(
            uvicorn.Config(
                make_app(door), log_config=None, lifespan="off", access_log=False, server_header=False,
                timeout_graceful_shutdown=2, timeout_keep_alive=75, backlog=1024,
            )
        )  # fmt: skip
        Signals(self._stopping.set, lambda: os._exit(1)).install()
        asyncio.get_running_loop().add_signal_handler(signal.SIGCONT, self._continued)
        serving = asyncio.create_task(server.serve(sockets=sockets))
        try:
            await _first(serving, server.began.wait())
            logger.info(
                "serving %s as pid %d, version %s", self._home.path, os.getpid(), tollboard.__version__
            )
            say(self._how.ready_fd, "ready")
            await _first(serving, self._stopping.wait())
        finally:
            logger.info("shutting down")
            await self._close(board)
            door.closing.set()
            server.should_exit = True
            await asyncio.wait({serving}, timeout=CLOSE_GRACE_S)
            if self._owner.still_ours():
                self._home.socket.unlink(missing_ok=True)
            logger.info("ended")

    async def _close(self, board: Switchboard) -> None:
        try:
            late = await board.close(grace_s=self._config.grace_s)
        except StoreError as exc:
            logger.error("the end could not be written: %s", exc)
        else:
            if late:
                logger.warning("did not end in time: %s", ", ".join(late))

    def _continued(self) -> None:
        """End if another daemon has taken the directory over while this process was stopped."""
        if not self._owner.still_ours():
            logger.error("another daemon has taken %s over; this one ends", self._home.path)
            self._stopping.set()

    def _health(self) -> DaemonHealth:
        return DaemonHealth(
            version=tollboard.__version__,
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self._started, 3),
            home=str(self._home.path),
            tcp=self._tcp,
            stopping=self._stopping.is_set(),
        )


async def _first(serving: asyncio.Task[None], event: Coroutine[Any, Any, Any]) -> None:
    """Wait for the event, or for the server to have ended before it."""
    waiting = asyncio.create_task(event)
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


class _Server(uvicorn.Server):
    """Says when it has begun, and leaves signals to us."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.began = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        """Start listening."""
        await super().startup(sockets=sockets)
        self.began.set()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override] # it need not be a generator
        """Do not touch the process's signals."""
        return nullcontext()


async def _reap_orphans(home_id: str) -> None:
    """End the processes that a daemon which was killed has left behind: they carry the marker of this directory."""
    report = await reap(MARKER, lambda value: value.startswith(f"{home_id}:"))
    if report.killed or report.unverified:
        logger.warning(
            "ended %d processes of a former daemon; not verified: %s", len(report.killed), report.unverified
        )
