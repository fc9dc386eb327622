"""The bridge that an MCP host starts: MCP on standard input and output, the daemon behind it. The fleet outlives it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal

from tollboard.daemon.client import Client
from tollboard.daemon.config import state_directory
from tollboard.daemon.tokens import narrow_token
from tollboard.operations.access import Capability
from tollboard.operations.boards import Boards
from tollboard.surfaces.mcp.http import ASKED, SURFACE
from tollboard.surfaces.mcp.pipes import standard_streams
from tollboard.surfaces.mcp.policy import Policy
from tollboard.surfaces.mcp.server import Reach, make_server

NAME = "mcp"
STOPPED_BY_USER = 130


async def serve_stdio(home: str | os.PathLike[str] | None, policy: Policy) -> None:
    """Serve until the host closes its end, or Ctrl-C. The daemon holds the capabilities too: its token is narrow."""
    # On a terminal the SDK reads on a thread that nothing can wake. There is nothing to lose here: the fleet is the
    # daemon's, and every message was written whole.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, os._exit, STOPPED_BY_USER)
    async with Client.connect(home, surface="mcp"):
        pass  # starts the daemon if none runs; its token is there from now on
    token = narrow_token(state_directory(home), sorted(policy.capabilities), NAME)
    # The person who is asked needs no grant: it is theirs to give. The model does not reach this connection.
    deciding = narrow_token(state_directory(home), [Capability.APPROVE], NAME)
    async with (
        Client.connect(home, surface=SURFACE, token=token) as client,
        Client.connect(home, surface=ASKED, token=deciding) as person,
    ):
        reach = Reach(Boards(client, client.pools), policy, Boards(person, person.pools))
        server = make_server(reach)
        gc.freeze()  # what was imported stays: later collections need not look at it
        async with standard_streams() as (read, write):
            await server.run(read, write, server.create_initialization_options())
