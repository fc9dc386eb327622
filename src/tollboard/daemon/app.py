"""The composition root: the only file that imports everything, puts it together, and serves until told to stop."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import tollboard
from tollboard import backends
from tollboard.backends._process import end_processes, identify, reap
from tollboard.daemon.config import Config, StateDirectory, read_config
from tollboard.daemon.guard import Guard
from tollboard.daemon.hardening import Adopted, become_subreaper, hide_memory
from tollboard.daemon.log import log_to
from tollboard.daemon.peers import Peers
from tollboard.daemon.server import make_server
from tollboard.daemon.single import (
    Ownership,
    Signals,
    Starter,
    bind_socket,
    bind_tcp,
    new_id,
    new_secret,
    private_text,
    wait_for_exit,
)
from tollboard.errors import DaemonError, Denied, StoreError, StoreUnavailable, TollboardError
from tollboard.fleet.pools.pools import Pools
from tollboard.fleet.settings import FleetSettings
from tollboard.fleet.switchboard import LedgerPressure, Switchboard
from tollboard.ids import SESSION_MARKER
from tollboard.operations.access import Capability
from tollboard.operations.wire import DaemonHealth, error_answer
from tollboard.store.faults import corrupt
from tollboard.store.identity import Home
from tollboard.store.retention import Retention
from tollboard.store.store import Store
from tollboard.surfaces.gate import Door
from tollboard.surfaces.http import make_app

logger = logging.getLogger("tollboard.daemon")

DAY_S = 86_400.0
SERVER_END_S = 15.0
KILL_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Serve:
    """How to serve."""

    home: StateDirectory
    take_over: bool = False
    ready_fd: int | None = None
    foreground: bool = False
    by_agent: bool = False
    """Whether a process of this directory's own sessions asks for it."""


def serve(how: Serve) -> int:
    """Serve until SIGTERM, SIGINT or `shutdown`; return the exit code. A failed start is told through the pipe."""
    starter = Starter(how.ready_fd)
    try:
        if how.by_agent:
            raise Denied(
                f"no daemon serves {str(how.home.path)!r}, and the process that starts one belongs to a session of it: "
                "only a person starts it again"
            )
        hide_memory()
        become_subreaper()
        how.home.prepare()
        config = read_config(how.home.config)
        log_to(how.home.log, config.log_level, terminal=how.foreground)
        owner = Ownership.claim(how.home, take_over=how.take_over)
        try:
            return asyncio.run(_Daemon(how, config, owner, starter).run())
        finally:
            owner.release()
    except TollboardError as exc:
        logger.error("the daemon ends: %s", exc)
        starter.tell(json.dumps(error_answer(exc).model_dump()))
        if how.foreground:
            print(f"tollboard: {exc}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        logger.info("ended by Ctrl-C before it served")
        raise
    except BaseException:
        logger.critical("the daemon ends by a fault of its own", exc_info=True)
        raise


class _Daemon:
    """One run of the daemon."""

    def __init__(self, how: Serve, config: Config, owner: Ownership, starter: Starter) -> None:
        self._how = how
        self._home = how.home
        self._config = config
        self._owner = owner
        self._starter = starter
        self._started = time.monotonic()
        self._stopping = asyncio.Event()
        self._tcp: str | None = None
        self._store: Store | None = None
        self._damage: str | None = None
        self._logged: str | None = None
        self._adopted = Adopted()

    async def run(self) -> int:
        """Open, serve, close. Return the exit code."""
        # Bound first: who calls while we open waits for the answer instead of starting a second daemon.
        unix = bind_socket(self._home)
        try:
            sockets, hosts = [unix, *self._bind_tcp()], self._hosts()
            secret = private_text(self._home.token, new_secret)
            home = Home(*_read_identity(self._home))
            await _reap_orphans(home.id)
            store = self._store = await self._open_store(home)
            # Only now: a directory that has its id must have a database too.
            home_id = private_text(self._home.identity, lambda: home.id)
            try:
                settings = self._settings(home_id)
                board = await Switchboard.open(store, backends=backends, settings=settings)
                try:
                    pools = await Pools.open(
                        store.pools, backends=backends, settings=settings, pressure=LedgerPressure(store)
                    )
                except BaseException:
                    await self._close(board, None)
                    raise
                await self._serve(board, pools, secret, home_id, sockets, hosts, unix)
            finally:
                await _close_store(store)
                await _end_descendants()
        finally:
            unix.close()
            ours = self._owner.still_ours()
            if ours:
                with suppress(OSError):  # something else may stand there by now
                    self._home.socket.unlink()
            logger.info("ended")
        return 0 if ours else 1

    def _bind_tcp(self) -> list[socket.socket]:
        host = self._config.tcp_host
        if host is None:
            return []
        bound = bind_tcp(host, self._config.tcp_port)
        shown = f"[{host}]" if ":" in host else host
        self._tcp = f"{shown}:{bound.getsockname()[1]}"
        return [bound]

    def _hosts(self) -> frozenset[str]:
        """Return the Host headers that TCP answers to."""
        if self._tcp is None:
            return frozenset(self._config.tcp_hosts)
        _, _, port = self._tcp.rpartition(":")
        ours = {self._tcp, *(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))}
        return frozenset(host.lower() for host in (*ours, *self._config.tcp_hosts))

    async def _open_store(self, home: Home) -> Store:
        try:
            return await self._opened(home)
        except StoreUnavailable as exc:
            former = self._owner.former
            if former is None or getattr(exc.__cause__, "sqlite_errorname", "") != "SQLITE_BUSY":
                raise
            # It was stopped in the middle of a write, and SQLite's lock goes only with the process that holds it.
            logger.warning("the daemon that hangs (pid %d) holds the database locked; killing it", former)
            with suppress(ProcessLookupError):
                os.kill(former, signal.SIGKILL)
            await asyncio.to_thread(wait_for_exit, former, KILL_WAIT_S)
            return await self._opened(home)

    async def _opened(self, home: Home) -> Store:
        retention = Retention(
            max_events_per_session=self._config.feed_rows_per_session,
            max_age_s=self._config.feed_days * DAY_S,
        )
        return await Store.open(
            self._home.database, take_over=self._how.take_over, retention=retention, home=home
        )

    def _settings(self, home_id: str) -> FleetSettings:
        config = self._config
        return FleetSettings(
            absolute_paths=True, home_id=home_id, roots=config.roots, backends=config.backends,
            private=(os.path.realpath(self._home.path),), send_options=config.send_options, pass_env=config.pass_env,
            sandbox=config.sandbox,
            max_prompt_bytes=config.max_prompt_bytes, max_summary_bytes=config.max_summary_bytes,
        )  # fmt: skip

    async def _serve(
        self,
        board: Switchboard,
        pools: Pools,
        secret: str,
        home_id: str,
        sockets: list[socket.socket],
        hosts: frozenset[str],
        unix: socket.socket,
    ) -> None:
        door = Door(
            board, pools, secret, hosts, shutdown=self._stopping.set, health=self._health,
            agents_may=frozenset(map(Capability, self._config.agents_may)),
        )  # fmt: skip
        server = make_server(make_app(door), Peers(SESSION_MARKER, home_id))
        Signals(self._stopping.set, lambda: os._exit(1)).install()
        guard = Guard(
            self._home, self._owner, unix, serve=server.serve_too, lost=self._stopping.set,
            ending=self._stopping.is_set, beside=self._look,
        )  # fmt: skip
        asyncio.get_running_loop().add_signal_handler(signal.SIGCONT, guard.look)
        _spare_the_collector()
        serving = asyncio.create_task(server.serve(sockets=sockets))
        watching: asyncio.Task[None] | None = None
        checking = asyncio.create_task(self._check_database())
        try:
            await _first(serving, server.began.wait())
            watching = asyncio.create_task(guard.watch())
            logger.info(
                "serving %s as pid %d, version %s", self._home.path, os.getpid(), tollboard.__version__
            )
            self._starter.tell("ready")
            await _first(serving, self._stopping.wait())
        finally:
            logger.info("shutting down")
            if watching is not None:
                watching.cancel()
            checking.cancel()
            # The fleet first: what is read meanwhile is still answered, and who waits sees how the turns end.
            await self._close(board, pools)
            door.closing.set()
            server.should_exit = True
            await asyncio.wait({serving}, timeout=SERVER_END_S)
            guard.close()

    async def _close(self, board: Switchboard, pools: Pools | None) -> None:
        grace_s = self._config.grace_s if self._owner.still_ours() else 0.0
        closing = None if pools is None else asyncio.create_task(pools.close(grace_s=grace_s))
        try:
            late = await board.close(grace_s=grace_s)
            if closing is not None:
                await closing
        except StoreError as exc:
            logger.error("the end could not be written: %s", exc)
        else:
            if late:
                logger.warning("did not end in time: %s", ", ".join(late))

    def _look(self) -> None:
        """Bury what ended below us; say in the log when the database cannot be used, and when it can be again."""
        self._adopted.look()
        problem = self._problem()
        if problem != self._logged:
            logger.error("%s", problem) if problem else logger.info("the database can be used again")
        self._logged = problem

    def _problem(self) -> str | None:
        return self._damage or (self._store.problem() if self._store else None)

    async def _check_database(self) -> None:
        """Look for damage once after the start, beside the work: at any size, however long it takes."""
        assert self._store is not None
        if damage := await self._store.damage():
            self._damage = str(corrupt(str(self._home.database), damage))
            self._look()

    def _health(self) -> DaemonHealth:
        return DaemonHealth(
            version=tollboard.__version__,
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self._started, 3),
            home=str(self._home.path),
            tcp=self._tcp,
            stopping=self._stopping.is_set(),
            problem=self._problem(),
        )


def _spare_the_collector() -> None:
    """Leave what was imported and recovered out of every later collection: it stays, and a full one stops all turns."""
    gc.collect()  # or garbage would be kept for good
    gc.freeze()


async def _first(serving: asyncio.Task[None], event: Coroutine[Any, Any, Any]) -> None:
    """Wait for the event. Raises DaemonError if the server ends before it."""
    waiting = asyncio.create_task(event)
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if serving.done():
        serving.result()
        raise DaemonError("the server ended by itself")


def _read_identity(home: StateDirectory) -> tuple[str, bool]:
    """Return the directory's id, and whether it had one before this start."""
    if home.identity.exists():
        return private_text(home.identity, new_id), True
    return new_id(), False


async def _close_store(store: Store) -> None:
    try:
        await store.close()
    except StoreError as exc:
        # Nothing that a client was told depends on it: what was promised had been committed before.
        logger.error("closing the database: %s", exc)


async def _reap_orphans(home_id: str) -> None:
    """End the processes that a daemon which was killed has left behind: they carry the marker of this directory."""
    report = await reap(SESSION_MARKER, lambda value: value.startswith(f"{home_id}:"))
    if report.killed or report.unverified:
        logger.warning(
            "ended %d processes of a former daemon; not verified: %s", len(report.killed), report.unverified
        )


async def _end_descendants() -> None:
    """End what is still below this process: what left its session and cleared its marker would be a stranger's then."""
    us = identify(os.getpid())
    report = await end_processes(roots=[] if us is None else [us])
    if report.killed or report.unverified:
        logger.warning(
            "ended %d processes that agents had detached; not verified: %s",
            len(report.killed),
            report.unverified,
        )
