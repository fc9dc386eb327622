"""Who may come in over HTTP, and as whom: the token, Host and Origin, and how long a body may be. `http` puts it before
its routes; it knows no operation.

On TCP a bearer token is always needed. Over the unix socket the file's mode has decided already, and a token only
narrows. Host and Origin are checked on both, against pages that make a browser call us (DNS rebinding, cross-site
requests): a socket may be forwarded to a port (`ssh -L`), and then browsers reach it too. Whatever its token allows, a
process that an agent has started gets no more than `agents_may`: only a person approves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from tollboard.errors import Denied, TollboardError, WireError
from tollboard.fleet.pools.pools import Pools
from tollboard.fleet.records import Caller
from tollboard.fleet.switchboard import Switchboard
from tollboard.operations.access import ALL, PERSON, Access, Asker, Capability, Standing, plain, read_token
from tollboard.operations.boards import Boards
from tollboard.operations.wire import DaemonHealth, error_answer, status_of

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A prompt of its full length, with every line end escaped, and room for the rest."""
MAX_DRAIN_BYTES = 32 * 1024 * 1024
"""How much of a body that is too long is read and dropped, so that its sender gets to read the answer."""
SURFACE_HEADER, CLIENT_HEADER = "x-tollboard-surface", "x-tollboard-client"
SOCKET_HOSTS = frozenset({"tollboard", "localhost", "127.0.0.1", "[::1]"})
"""Hosts that a request over the unix socket may name, with any port."""
ASKER = "asker"
"""Where the server puts, for each request, how to find out whose process opened its connection."""
_ONCE = frozenset({"host", "origin", "authorization", "content-length"})

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
SendMessage = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, SendMessage], Awaitable[None]]


@dataclass(slots=True)
class Door:
    """What the app needs to know of its daemon."""

    board: Switchboard
    pools: Pools
    secret: str
    hosts: frozenset[str]
    """Allowed Host headers on TCP, with their port."""
    shutdown: Callable[[], None]
    health: Callable[[], DaemonHealth]
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    agents_may: frozenset[Capability] = frozenset()
    """What the processes of sessions may do here; a setting of the daemon."""

    def boards(self, access: Access) -> Boards:
        """Return what the operations of this client run on: who cannot configure starts things with plain options."""
        caller, configures = access.caller, access.has(Capability.CONFIGURE)
        return Boards(
            self.board.on_behalf_of(caller, configures=configures),
            self.pools.on_behalf_of(caller, configures=configures),
        )

    def name_of(self, asker: Asker) -> str:
        """Return the name of the session, or `pool/worker`, whose process asks."""
        id, _, worker = (asker.session or "").partition(":")
        name = self.board.name_of(id) or self.pools.name_of(id)
        if name is None:
            return id or "unknown"
        return f"{name}/{worker}" if worker else name


class Gate:
    """Lets a request in, or answers it here. Plain ASGI, so that streams pass through."""

    def __init__(self, app: App, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._handle(scope, receive, send)
        # There is nothing else: the server is told not to speak WebSocket.

    async def _handle(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        # llhttp leaves the white space after a value, which is no part of it (RFC 9110, section 5.5).
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        try:
            headers = _headers(scope)
            local = scope.get("server") is None or scope["server"][1] is None
            _check_host(self._door, headers, local=local)
        except Denied as exc:
            await answer(exc)(scope, receive, send)
            return
        try:
            access = self._identify(headers, local=local)
        except Denied as exc:
            refused = answer(exc, 401)
            refused.headers["www-authenticate"] = "Bearer"
            await refused(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        asker = await _asker(state)
        if asker.standing is not Standing.PERSON:
            access = access.narrowed(asker, self._door.name_of(asker), self._door.agents_may)
        state["access"] = access
        await self._bounded(scope, receive, send, int(headers.get("content-length", "0")))

    async def _bounded(self, scope: Scope, receive: Receive, send: SendMessage, length: int) -> None:
        body = _Body(receive, send)
        try:
            if length > MAX_BODY_BYTES:
                raise _TooLong
            await self._app(scope, body.receive, body.send)
        except _TooLong:
            if not body.answered:
                await body.drain()
                await answer(WireError(f"a body may have {MAX_BODY_BYTES:,} bytes"), 413)(
                    scope, receive, send
                )

    def _identify(self, headers: dict[str, str], *, local: bool) -> Access:
        caller = Caller(
            plain(headers.get(SURFACE_HEADER, "http")), plain(headers.get(CLIENT_HEADER, "unknown"))
        )
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and token.strip():
            return read_token(self._door.secret, token.strip(), caller)
        if local and not kind:
            return Access(caller, ALL)
        raise Denied("a bearer token is needed here; it is in the file `token` of the state directory")


def answer(error: TollboardError, status: int | None = None) -> JSONResponse:
    """Return the answer that says what went wrong."""
    return JSONResponse(error_answer(error).model_dump(), status_code=status or status_of(error))


async def _asker(state: MutableMapping[str, Any]) -> Asker:
    """Return whose process asks. The server finds out once for each connection; without one (in tests) it is ours."""
    find: Callable[[], Awaitable[Asker]] | None = state.get(ASKER)
    return PERSON if find is None else await find()


def _headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        key = raw.decode("latin-1")
        if key in headers and key in _ONCE:
            raise Denied(f"the header {key} is there twice")
        headers[key] = value.decode("latin-1")
    return headers


def _check_host(door: Door, headers: dict[str, str], *, local: bool) -> None:
    host = headers.get("host", "").lower()
    if host not in door.hosts and not (local and _without_port(host) in SOCKET_HOSTS):
        raise Denied(f"the Host {host!r} is not one this daemon answers to")
    origin = headers.get("origin")
    if origin is not None and (local or origin.lower() not in {f"http://{host}", f"https://{host}"}):
        raise Denied(f"the Origin {origin!r} may not call this daemon")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


class _TooLong(Exception):
    """The body is longer than one may be."""


class _Body:
    """Counts a body while it is read, whatever its length header said."""

    def __init__(self, receive: Receive, send: SendMessage) -> None:
        self._receive = receive
        self._send = send
        self._seen = 0
        self._more = True
        self.answered = False

    async def receive(self) -> Message:
        message = await self._next()
        if self._seen > MAX_BODY_BYTES:
            raise _TooLong
        return message

    async def send(self, message: Message) -> None:
        self.answered = True
        await self._send(message)

    async def drain(self) -> None:
        """Read on without keeping anything: who is still writing does not read our answer."""
        while self._more and self._seen <= MAX_DRAIN_BYTES:
            await self._next()

    async def _next(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        self._more = message["type"] == "http.request" and bool(message.get("more_body"))
        return message
