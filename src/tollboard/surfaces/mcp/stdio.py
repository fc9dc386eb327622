"""The bridge that an MCP host starts: MCP on standard input and output, the daemon behind it. The fleet outlives it.

The host is answered before the daemon is there: a daemon is found or started with the first call that needs it, and
again when it has died since. A model has no shell in which it could start one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Iterable

from tollboard.daemon.client import Client
from tollboard.daemon.config import state_directory
from tollboard.daemon.tokens import narrow_token
from tollboard.operations.access import Capability
from tollboard.operations.boards import Boards
from tollboard.surfaces.mcp.greeting import Greeted
from tollboard.surfaces.mcp.pipes import standard_streams
from tollboard.surfaces.mcp.policy import ASKED, SURFACE, Policy
from tollboard.surfaces.mcp.server import Reach, make_server

NAME = "mcp"
STOPPED_BY_USER = 130


async def serve_stdio(
    home: str | os.PathLike[str] | None, policy: Policy, greeted: Greeted, *, reader: str | None = None
) -> None:
    """Serve until the host closes its end, or Ctrl-C. The daemon holds the capabilities too: its token is narrow."""
    # On a terminal the SDK reads on a thread that nothing can wake. There is nothing to lose here: the fleet is the
    # daemon's, and every message was written whole.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, os._exit, STOPPED_BY_USER)

    def token(capabilities: Iterable[Capability]) -> Callable[[], str]:
        # Made when the daemon is there: the first one makes what it is made from, and another home has another.
        return lambda: narrow_token(state_directory(home), sorted(capabilities), NAME)

    client = Client.lasting(home, surface=SURFACE, token=token(policy.capabilities))
    # The person who is asked needs no grant: it is theirs to give. The model does not reach this connection.
    person = Client.lasting(home, surface=ASKED, token=token([Capability.APPROVE]))
    try:
        reach = Reach(Boards(client, client.pools), policy, Boards(person, person.pools), reader)
        server = make_server(reach)
        gc.freeze()  # what was imported stays: later collections need not look at it
        async with standard_streams(greeted) as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        await client.close()
        await person.close()
