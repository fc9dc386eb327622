"""What a tool call costs over MCP: `python -m benchmarks.mcp_latency [CALLS]`, a table in Markdown.

Beside each other, in turn: a tool that does nothing on a bare server of the SDK, and `switchboard_status` of ours, over
stdio and over HTTP; and the same verb over the daemon's own socket. The same client for all; a fresh process for each
server.
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

ROUNDS = 5
WARM = 50
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


async def measure(calls: int) -> dict[str, list[float]]:
    """Return the samples of each way, all of them open at once and measured in turn."""
    home = tempfile.mkdtemp(prefix="tb")
    Path(home, "tollboard.toml").write_text("tcp_host = '127.0.0.1'\n")
    given = {"name": "api"}
    found: dict[str, list[float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        board = await stack.enter_async_context(Client.connect(home))
        await board.start_session("api", path=home, backend="echo")
        address = (await board.health()).tcp
        token = narrow_token(state_directory(home), ["read", "send"], "bench")
        ours = ["-m", "tollboard", "--home", home, "mcp"]
        bare = await stack.enter_async_context(bare_http())
        ways: dict[str, Call] = {
            "a tool that does nothing, stdio": await stack.enter_async_context(
                over_stdio(["-c", BARE, "stdio"], "nothing", {})
            ),
            "switchboard_status, stdio": await stack.enter_async_context(
                over_stdio(ours, "switchboard_status", given)
            ),
            "a tool that does nothing, HTTP": await stack.enter_async_context(
                over_http(bare, "none", "nothing", {})
            ),
            "switchboard_status, HTTP": await stack.enter_async_context(
                over_http(f"http://{address}/mcp", token, "switchboard_status", given)
            ),
            "status, the daemon's socket": lambda: board.status("api"),
        }
        for call in ways.values():
            await sample(call, WARM)
        order = list(ways)
        for number in range(ROUNDS):
            random.Random(number).shuffle(order)
            for name in order:
                found.setdefault(name, []).extend(await sample(ways[name], calls))
        found = {name: found[name] for name in ways}
        await board.shutdown()
    return found


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def table(found: dict[str, list[float]]) -> str:
    """Return the figures, each way beside the bare server on the same transport."""
    lines = ["| | p50 ms | p99 ms | p50 beside the bare tool |", "|---|---|---|---|"]
    for name, values in found.items():
        bare = next(
            (b for b in found if b.startswith("a tool") and b.split(", ")[1] == name.split(", ")[-1]), None
        )
        p50 = statistics.median(values)
        ratio = "" if bare is None or bare == name else f"{p50 / statistics.median(found[bare]):.2f}x"
        lines.append(f"| {name} | {p50:.2f} | {percentile(values, 0.99):.2f} | {ratio} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200))), flush=True)
    os._exit(0)
