"""The daemon's own HTTP app on loopback: its gate in front, the fixtures behind `/mcp`; in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

import tollboard.backends as backends
from tests.conformance.fixtures import Fixtures
from tollboard.daemon.single import bind_tcp
from tollboard.fleet.pools.pools import Pools
from tollboard.fleet.switchboard import Switchboard
from tollboard.store.store import Store
from tollboard.surfaces.gate import App, Door, Receive, Scope, SendMessage
from tollboard.surfaces.http import make_app
from tollboard.surfaces.mcp.http import McpOverHttp

SECRET = "a" * 64


class FixturesOverHttp(McpOverHttp):
    """`/mcp` with the fixtures: as users get it, or with sessions, which only standard input and output has with us."""

    def __init__(self, door: Door, *, sessions: bool) -> None:
        super().__init__(door)
        self._sessions = sessions

    def make_manager(self) -> StreamableHTTPSessionManager:
        server = Fixtures(self.reach, lasting=self._sessions).server()
        return StreamableHTTPSessionManager(server, stateless=not self._sessions)


def with_token(app: App) -> App:
    """Return the app for a client that cannot send a token: the suite. Everything else is left to the gate."""

    async def call(scope: Scope, receive: Receive, send: SendMessage) -> None:
        if scope["type"] == "http":
            bearer = (b"authorization", f"Bearer {SECRET}".encode())
            scope = {**scope, "headers": [*scope["headers"], bearer]}
        await app(scope, receive, send)

    return call


@asynccontextmanager
async def serving(home: Path, *, sessions: bool) -> AsyncIterator[str]:
    """Serve until left, and yield the address of `/mcp`."""
    store = await Store.open(home / "tollboard.db")
    pools = await Pools.open(store.pools, backends=backends)
    board = await Switchboard.open(store, backends=backends)
    bound = bind_tcp("127.0.0.1", 0)
    host = f"127.0.0.1:{bound.getsockname()[1]}"
    door = Door(board, pools, SECRET, frozenset({host}), shutdown=_never, health=_never)
    app = with_token(make_app(door, FixturesOverHttp(door, sessions=sessions)))
    config = uvicorn.Config(
        app, log_config=None, lifespan="off", ws="none", access_log=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    try:
        yield f"http://{host}/mcp"
    finally:
        door.closing.set()
        server.should_exit = True
        await task
        await pools.close(grace_s=0)
        await board.close(grace_s=0)
        await store.close()


def _never() -> Any:
    raise AssertionError("the suite speaks MCP only")
