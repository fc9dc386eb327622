"""MCP over the daemon's HTTP: `/mcp`, streamable HTTP in both protocol eras. The gate has let the request in.

No state is kept between requests: the token says who it is each time, and a daemon that restarts loses no session.
The SDK is imported at the first request: the daemon's start does not pay for it.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

from tollboard.errors import BackendUnavailable
from tollboard.fleet.records import Caller
from tollboard.operations.access import AGENT, Access, Capability
from tollboard.surfaces.gate import Door, Receive, Scope, SendMessage
from tollboard.surfaces.mcp.policy import ASKED, GRANTED, SURFACE, Policy

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager


class McpOverHttp:
    """The ASGI app behind `/mcp`."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._manager: StreamableHTTPSessionManager | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: SendMessage) -> None:
        """Handle one request. Raises BackendUnavailable without the extra."""
        if self._ready is None:
            self._begin()
        assert self._ready is not None
        await asyncio.shield(self._ready)
        assert self._manager is not None
        await self._manager.handle_request(scope, receive, send)

    def make_manager(self) -> StreamableHTTPSessionManager:
        """Return what speaks the protocol. The conformance tests put their fixtures here."""
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        from tollboard.surfaces.mcp.server import make_server

        server = make_server(self.reach, lasting=False, secret=self._door.secret)
        return StreamableHTTPSessionManager(server, stateless=True)

    def _begin(self) -> None:
        try:
            self._manager = self.make_manager()
        except ModuleNotFoundError as missing:
            raise BackendUnavailable(
                f"MCP needs the package {missing.name!r} where the daemon runs: pip install 'tollboard[mcp]'"
            ) from None
        gc.freeze()  # the SDK stays: a full collection over it stops everything for 17 ms
        self._ready = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(self._serve(self._manager, self._ready))

    async def _serve(self, manager: StreamableHTTPSessionManager, ready: asyncio.Future[None]) -> None:
        """Own what the requests start, until the daemon ends."""
        async with manager.run():
            ready.set_result(None)
            await self._door.closing.wait()

    def reach(self, context: Any) -> Any:
        """Return what a request may reach: its token says so."""
        from tollboard.surfaces.mcp.readers import reader_named
        from tollboard.surfaces.mcp.server import Reach

        access: Access = context.request.state.access
        if access.caller.surface == AGENT:
            narrow = Policy(capabilities=access.capabilities, options=True)
            return Reach(self._door.boards(access), narrow, reader=reader_named(access.caller.client))
        # Which options: that is what the token may do, and the boards hold it.
        policy = Policy(capabilities=granted(access), options=True)
        boards = self._door.boards(Access(Caller(SURFACE, access.caller.client), policy.capabilities))
        # A token has a name, and that is who reads; the admin token's bearers are told apart by what they say.
        reader = None if Capability.ADMIN in access.capabilities else reader_named(access.caller.client)
        if Capability.APPROVE not in policy.capabilities:
            return Reach(boards, policy, reader=reader)
        person = Access(Caller(ASKED, access.caller.client), frozenset({Capability.APPROVE}))
        return Reach(boards, policy, self._door.boards(person), reader)


def granted(access: Access) -> frozenset[Capability]:
    """Return what a model may do with this access.

    To approve it needs a token that a person made for just that. The admin token, and a socket without one, are a
    person's own: a model that was given them still only reads and sends.
    """
    if Capability.ADMIN in access.capabilities:
        return GRANTED
    return access.capabilities & (GRANTED | {Capability.APPROVE, Capability.CONFIGURE})
