"""The bridge that an MCP host starts: MCP on standard input and output, the daemon behind it. The fleet outlives it."""

from __future__ import annotations

import os

from mcp.server.stdio import stdio_server

from tollboard.daemon.client import Client
from tollboard.daemon.config import state_directory
from tollboard.daemon.tokens import narrow_token
from tollboard.operations.boards import Boards
from tollboard.surfaces.mcp.policy import Policy
from tollboard.surfaces.mcp.server import Reach, make_server

NAME = "mcp"


async def serve_stdio(home: str | os.PathLike[str] | None, policy: Policy) -> None:
    """Serve until the host closes its end. The daemon holds the capabilities too: its token is narrow."""
    async with Client.connect(home, surface="mcp"):
        pass  # starts the daemon if none runs; its token is there from now on
    token = narrow_token(state_directory(home), sorted(policy.capabilities), NAME)
    async with Client.connect(home, surface="mcp", token=token) as client:
        server = make_server(Reach(Boards(client, client.pools), policy))
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
