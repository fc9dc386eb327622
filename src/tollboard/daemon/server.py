"""The HTTP server of the daemon: uvicorn, told whose process is at the other end, and kept away from our signals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tollboard.daemon.peers import Peers
from tollboard.operations.access import Asker
from tollboard.surfaces.gate import ASKER, App


class Server(uvicorn.Server):
    """Says when it has begun, and leaves signals to us."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.began = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        """Start listening."""
        await super().startup(sockets=sockets)
        self.began.set()

    async def serve_too(self, bound: socket.socket) -> None:
        """Answer on one more listening socket."""
        config = self.config
        protocol: Any = config.http_protocol_class

        def create() -> asyncio.Protocol:
            made: asyncio.Protocol = protocol(
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        server = await asyncio.get_running_loop().create_server(create, sock=bound, backlog=config.backlog)
        self.servers.append(server)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override] # it need not be a generator
        """Do not touch the process's signals."""
        return nullcontext()


def make_server(app: App, peers: Peers) -> Server:
    """Return a server for the app that puts `ASKER` into the state of each request."""
    return Server(
        uvicorn.Config(
            app, http=_knowing(peers), log_config=None, lifespan="off", ws="none", access_log=False,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=2, timeout_keep_alive=75,
            backlog=1024,
        )
    )  # fmt: skip


def _knowing(peers: Peers) -> type[HttpToolsProtocol]:
    """Return a protocol that finds out who opened each of its connections."""

    class Knowing(HttpToolsProtocol):
        """One connection; over the socket it is looked at when it is made, while its process is there."""

        find: Callable[[], asyncio.Future[Asker]]

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
            super().connection_made(transport)
            self.find = _Look(peers, transport.get_extra_info("socket")).found

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["state"][ASKER] = self.find

    return Knowing


class _Look:
    """Finds out who opened a connection, once."""

    def __init__(self, peers: Peers, connection: socket.socket) -> None:
        self._answer: asyncio.Future[Asker] | None = None
        self._peers = peers
        self._connection = connection
        if connection.family == socket.AF_UNIX:
            self._answer = asyncio.get_running_loop().create_future()
            self._answer.set_result(peers.at_socket(connection))

    def found(self) -> asyncio.Future[Asker]:
        """Return who it is; awaited by each request of the connection. Over TCP it takes a look on a thread."""
        if self._answer is None:
            self._answer = asyncio.ensure_future(self._peers.at_port(self._connection))
        return asyncio.shield(self._answer)  # a request that is given up does not end it for the others
