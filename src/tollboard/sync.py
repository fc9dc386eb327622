"""The Switchboard's verbs for plain scripts, without asyncio: each call returns when it is done.

    from tollboard.sync import connect

    with connect() as board:
        ref = board.send("api", "what files are here?")
        report = board.wait([ref], timeout=60)

Same names, arguments, results and errors as `Client`, from any thread. One thread of its own runs the connection.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import wraps
from os import PathLike
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from tollboard.daemon.client import Client
from tollboard.daemon.pool_client import PoolClient
from tollboard.errors import DaemonUnreachable, Invalid
from tollboard.fleet.board import DEFAULT_BACKEND
from tollboard.fleet.records import FeedItem, SessionDefinition, SessionStatus
from tollboard.fleetfile import Downed, Fleet, Step, down, up

P = ParamSpec("P")
R = TypeVar("R")


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tollboard-sync", daemon=True)
        self._thread.start()
        self.closed = False

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run something there and wait for it here; Ctrl-C gives it up."""
        try:
            if self.closed:
                raise DaemonUnreachable("this connection was closed; connect again")
            if _runs_here():
                raise Invalid(
                    "an event loop runs in this thread: use `Client` with await there, it would stand still"
                )
        except BaseException:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _verb(
    verb: Callable[Concatenate[Client, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Board, P], R]:
    """Return a verb of `Client` as one that blocks."""

    @wraps(verb)
    def call(self: Board, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(verb(self._client, *args, **kwargs))

    return call


def _pool_verb(
    verb: Callable[Concatenate[PoolClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Pools, P], R]:
    """Return a verb of `PoolClient` as one that blocks."""

    @wraps(verb)
    def call(self: Pools, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(verb(self._pools, *args, **kwargs))

    return call


class Pools:
    """The verbs of pools; see `tollboard.fleet.pools.board.PoolBoard`."""

    def __init__(self, loop: _Loop, pools: PoolClient) -> None:
        self._loop = loop
        self._pools = pools

    start = _pool_verb(PoolClient.start)
    check = _pool_verb(PoolClient.check)
    definition = _pool_verb(PoolClient.definition)
    list = _pool_verb(PoolClient.list)
    status = _pool_verb(PoolClient.status)
    submit = _pool_verb(PoolClient.submit)
    wait = _pool_verb(PoolClient.wait)
    results = _pool_verb(PoolClient.results)
    poll = _pool_verb(PoolClient.poll)
    cancel = _pool_verb(PoolClient.cancel)
    scale = _pool_verb(PoolClient.scale)
    stop = _pool_verb(PoolClient.stop)
    delete = _pool_verb(PoolClient.delete)


class Board:
    """The verbs of sessions; see `tollboard.fleet.board.Board`. Make one with `connect`."""

    def __init__(self, loop: _Loop, client: Client) -> None:
        self._loop = loop
        self._client = client
        self.pools = Pools(loop, client.pools)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the daemon goes on. Idempotent."""
        if not self._loop.closed:
            try:
                self._loop.run(self._client.close())
            finally:
                self._loop.close()

    def up(self, fleet: Fleet, *, replace: bool = False) -> tuple[Step, ...]:
        """See `tollboard.fleetfile.up`."""
        return self._loop.run(up(self._client, fleet, replace=replace))

    def down(self, fleet: Fleet, *, now: bool = False) -> tuple[Downed, ...]:
        """See `tollboard.fleetfile.down`."""
        return self._loop.run(down(self._client, fleet, now=now))

    health = _verb(Client.health)
    shutdown = _verb(Client.shutdown)

    def start_session(
        self, name: str, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionStatus:
        """See `Board.start_session`."""
        return self._loop.run(self._client.start_session(name, path=path, backend=backend, **options))

    def check_session(
        self, name: str, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND, **options: object
    ) -> SessionDefinition:
        """See `tollboard.fleet.board.Board.check_session`."""
        return self._loop.run(self._client.check_session(name, path=path, backend=backend, **options))

    definition = _verb(Client.definition)
    list_sessions = _verb(Client.list_sessions)
    status = _verb(Client.status)
    stop_session = _verb(Client.stop_session)
    delete_session = _verb(Client.delete_session)
    backends = _verb(Client.backends)
    send = _verb(Client.send)
    poll = _verb(Client.poll)
    wait = _verb(Client.wait)
    broadcast = _verb(Client.broadcast)
    cancel = _verb(Client.cancel)
    inbox = _verb(Client.inbox)
    ack = _verb(Client.ack)
    transcript = _verb(Client.transcript)
    summary_get = _verb(Client.summary_get)
    summary_update = _verb(Client.summary_update)
    summary_versions = _verb(Client.summary_versions)
    events = _verb(Client.events)
    interrupt = _verb(Client.interrupt)
    halt = _verb(Client.halt)
    resume = _verb(Client.resume)
    approvals = _verb(Client.approvals)
    subagents = _verb(Client.subagents)
    subagent_messages = _verb(Client.subagent_messages)
    cancel_subagent = _verb(Client.cancel_subagent)
    decide = _verb(Client.decide)

    def tail(
        self, name: str | None = None, *, kinds: Sequence[str] = (), ref: str | None = None, after: int | None = None
    ) -> Iterator[FeedItem]:  # fmt: skip
        """Follow the feed; close the iterator, or leave the loop over it, to stop. See `Board.tail`."""
        feed = self._client.tail(name, kinds=kinds, ref=ref, after=after)
        try:
            while (item := self._loop.run(_next(feed))) is not None:
                yield item
        finally:
            if not self._loop.closed:
                self._loop.run(_close(feed))


async def _next(feed: Any) -> FeedItem | None:
    found: FeedItem | None = await anext(feed, None)
    return found


async def _close(feed: Any) -> None:
    await feed.aclose()


def connect(
    home: str | PathLike[str] | None = None, *, start: bool = True, client: str | None = None,
    token: str | None = None,
) -> Board:  # fmt: skip
    """Reach the daemon of a state directory; start it if none runs, unless `start` is false.

    Use what it returns as a context manager, or `close` it. Raises DaemonUnreachable, or the error that kept the daemon
    from starting.
    """
    loop = _Loop()
    try:
        return Board(loop, loop.run(_connected(home, start, client, token)))
    except BaseException:
        loop.close()
        raise


async def _connected(
    home: str | PathLike[str] | None, start: bool, client: str | None, token: str | None
) -> Client:
    connected: Client = await Client.connect(home, start=start, surface="python", client=client, token=token)
    return connected
