"""What a tool call costs over MCP: `python -m benchmarks.mcp_latency [CALLS]`, a table in Markdown.

Beside each other, in turn: a tool that does nothing on a bare server of the SDK, and `switchboard_status` of ours, over
stdio and over HTTP; and the same verb over the daemon's own socket. The same client for all; a fresh process for each
server. `run.py` puts the table into RESULTS.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client as McpClient
from mcp import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tollboard.daemon.client import Client
from tollboard.daemon.config import state_directory
from tollboard.daemon.tokens import narrow_token

ROUNDS = 20
CALLS = 50
"""Of each way in a round: short rounds, because a machine that others use changes by the second."""
WARM = 50
BARE_TOOL = "a tool that does nothing"
GOAL = 1.3
"""At most so many times the bare tool, p50."""
BARE = """
import anyio, sys
import mcp_types as types
from mcp.server import Server
from mcp.server.stdio import stdio_server

SCHEMA = {"type": "object", "properties": {}}

async def tools(ctx, params):
    return types.ListToolsResult(tools=[types.Tool(name="nothing", input_schema=SCHEMA)])

async def call(ctx, params):
    return types.CallToolResult(content=[types.TextContent(type="text", text="{}")], structured_content={})

server = Server("bare", on_list_tools=tools, on_call_tool=call)

async def stdio():
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())

if sys.argv[1] == "stdio":
    anyio.run(stdio)
else:
    import uvicorn
    app = server.streamable_http_app(stateless_http=True)
    uvicorn.run(app, fd=int(sys.argv[2]), log_level="error")
"""
Call = Callable[[], Awaitable[object]]
Found = dict[str, list[list[float]]]
"""How long calls took, in milliseconds: for each way a list for each round."""


@contextlib.asynccontextmanager
async def over_stdio(arguments: list[str], tool: str, given: dict[str, Any]) -> AsyncIterator[Call]:
    async with McpClient(StdioServerParameters(command=sys.executable, args=arguments)) as client:
        yield lambda: client.call_tool(tool, given)


@contextlib.asynccontextmanager
async def over_http(url: str, token: str, tool: str, given: dict[str, Any]) -> AsyncIterator[Call]:
    headers = {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        transport: Any = streamable_http_client(url, http_client=http)
        async with McpClient(transport) as client:
            yield lambda: client.call_tool(tool, given)


@contextlib.asynccontextmanager
async def bare_http() -> AsyncIterator[str]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", BARE, "http", str(listening.fileno()), pass_fds=[listening.fileno()]
        )
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        finally:
            process.kill()
            await process.wait()


async def sample(call: Call, calls: int) -> list[float]:
    """Return how long each call took, in milliseconds."""
    found = []
    for _ in range(calls):
        began = time.perf_counter()
        await call()
        found.append((time.perf_counter() - began) * 1e3)
    return found


async def measure(calls: int, rounds: int = ROUNDS, warm: int = WARM) -> Found:
    """Return the samples of each way, all of them open at once and measured in turn."""
    given = {"name": "api"}
    found: Found = {}
    async with contextlib.AsyncExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="tb"))
        Path(home, "tollboard.toml").write_text("tcp_host = '127.0.0.1'\n")
        board = await stack.enter_async_context(Client.connect(home))
        stack.push_async_callback(board.shutdown)
        await board.start_session("api", path=home, backend="echo")
        address = (await board.health()).tcp
        token = narrow_token(state_directory(home), ["read", "send"], "bench")
        ours = ["-m", "tollboard", "--home", home, "mcp"]
        bare = await stack.enter_async_context(bare_http())
        ways: dict[str, Call] = {
            f"{BARE_TOOL}, stdio": await stack.enter_async_context(
                over_stdio(["-c", BARE, "stdio"], "nothing", {})
            ),
            "switchboard_status, stdio": await stack.enter_async_context(
                over_stdio(ours, "switchboard_status", given)
            ),
            f"{BARE_TOOL}, HTTP": await stack.enter_async_context(over_http(bare, "none", "nothing", {})),
            "switchboard_status, HTTP": await stack.enter_async_context(
                over_http(f"http://{address}/mcp", token, "switchboard_status", given)
            ),
            "status, the daemon's socket": lambda: board.status("api"),
        }
        for call in ways.values():
            await sample(call, warm)
        order = list(ways)
        for number in range(rounds):
            random.Random(number).shuffle(order)
            for name in order:
                found.setdefault(name, []).append(await sample(ways[name], calls))
    return {name: found[name] for name in ways}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def table(found: Found) -> str:
    """Return the figures, each way beside the bare server on the same transport, round by round."""
    heads = f"| | p50 ms | p99 ms | p50 beside the bare tool | at most {GOAL}x |"
    lines = [heads, "|---|---|---|---|---|"]
    for name, rounds in found.items():
        values = [value for one in rounds for value in one]
        figures = f"{statistics.median(values):.2f} | {percentile(values, 0.99):.2f}"
        lines.append(f"| {name} | {figures} | {' | '.join(_beside(name, found))} |")
    return "\n".join(lines) + "\n"


def _beside(name: str, found: Found) -> tuple[str, str]:
    """Return the median of the rounds' ratios with their range, and whether it is what is wanted."""
    bare = f"{BARE_TOOL}, {name.rpartition(', ')[2]}"
    if bare == name or bare not in found:
        return "", ""
    pairs = zip(found[name], found[bare], strict=True)
    ratios = [statistics.median(ours) / statistics.median(its) for ours, its in pairs]
    middle = statistics.median(ratios)
    met = "met" if middle <= GOAL else "**missed**"
    return f"{middle:.2f}x ({min(ratios):.2f}..{max(ratios):.2f})", met


if __name__ == "__main__":
    print(table(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else CALLS))), flush=True)
    os._exit(0)
