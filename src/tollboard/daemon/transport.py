"""The bytes between a client and the daemon's socket: httpx over asyncio's own streams. `connection` is what uses it.

Not over anyio's, which httpx would take: there a read that is cancelled in the moment its answer arrives makes the
loop complain ("Exception in callback Future.set_result"), and `send --wait` cancels its stream at just that moment.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

LIMIT_BYTES = 256 * 1024
"""How much may be read ahead of whoever takes it."""


class SocketTransport(httpx.AsyncHTTPTransport):
    """Carries requests over one unix socket, on as many connections as are needed."""

    def __init__(self, path: str) -> None:
        # An empty TLS context: the socket needs none, and reading the system's certificates takes 30 ms and more.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        super().__init__(verify=context)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, max_connections=None, keepalive_expiry=5.0, uds=path, network_backend=_Sockets()
        )  # fmt: skip


class _Sockets(httpcore.AsyncNetworkBackend):
    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(path, limit=LIMIT_BYTES)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        return _Stream(reader, writer)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as exc:
            raise httpcore.ReadTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        # Nothing that was written matters any more; waiting for it would wait for a daemon that hangs.
        self._writer.transport.abort()
        await asyncio.sleep(0)  # the socket is closed one step later

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # asked of an idle connection: whether the daemon has closed it
            return self._reader.at_eof() or self._writer.is_closing() or self._has_news()
        return self._writer.get_extra_info(info)

    def _has_news(self) -> bool:
        """Whether there is something that the loop has not come to see yet: of an idle connection, its end."""
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))
