"""`/mcp` on the daemon: streamable HTTP in both eras, over TCP with tokens, behind the same gate as everything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

from tests.surfaces.served import Served, error, serving
from tollboard.operations.access import Capability

pytestmark = pytest.mark.slow

READ, SEND, APPROVE = Capability.READ, Capability.SEND, Capability.APPROVE
HELLO = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}  # fmt: skip
ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("h")) as server:
        yield server


@asynccontextmanager
async def host(served: Served, token: str, mode: Any = "auto") -> AsyncIterator[McpClient]:
    headers = {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http:
        transport = streamable_http_client(f"http://{served.tcp_address}/mcp", http_client=http)
        async with McpClient(cast("Any", transport), mode=mode) as client:
            yield client


async def call(client: McpClient, tool: str, /, **arguments: object) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def fails(client: McpClient, tool: str, /, **arguments: object) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(json.loads(cast("Any", result.content[0]).text)["error"])


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_s13_the_fleet_over_http(served: Served, mode: Any) -> None:
    async with host(served, served.narrow(READ, SEND), mode) as client:
        assert len((await client.list_tools()).tools) > 20
        ref = (await call(client, "switchboard_send", name="api", prompt=mode, queue=True))["result"]
        report = await call(client, "switchboard_wait", refs=[ref])
        assert report["done"][0]["text"] == f"echo: {mode}"
        assert cast("Any", (await client.read_resource("tollboard://guide")).contents[0]).text


async def test_s13_changes_are_told_over_http(served: Served) -> None:
    async with host(served, served.narrow(READ, SEND)) as client:
        uri = "tollboard://sessions/api/transcript"
        async with client.listen(resource_subscriptions=[uri]) as news:
            await call(client, "switchboard_send", name="api", prompt="x", queue=True)
            async with asyncio.timeout(20):
                event = await anext(aiter(news))
        assert getattr(event, "uri", None) == uri


async def test_s27_the_token_says_what_a_model_may_do(served: Served) -> None:
    decide = {"approval_id": "nothing", "decision": {"type": "approve"}}
    for token, sends, decides in (
        (served.narrow(READ), "denied", "denied"),
        (served.narrow(READ, SEND), None, "denied"),
        (served.narrow(READ, SEND, APPROVE), None, "approval_not_found"),
        (served.secret, None, "denied"),  # the admin token is a person's own
    ):
        async with host(served, token) as client:
            assert await fails(client, "switchboard_decide", **decide) == decides
            if sends is None:
                await call(client, "switchboard_send", name="api", prompt="x", queue=True)
            else:
                assert await fails(client, "switchboard_send", name="api", prompt="x", queue=True) == sends


async def test_s27_who_did_it_is_recorded(served: Served) -> None:
    async with host(served, served.narrow(READ, SEND)) as client:
        home = "/usr"
        view = await call(client, "pool_start", name="by-mcp", size=1, path=home, backend="echo")
        assert view["created_by"].startswith("mcp:narrow")
        await call(client, "pool_stop", name="by-mcp")


def test_s27_nobody_comes_in_past_the_gate(served: Served) -> None:
    with served.tcp() as http:
        error(http.post("/mcp", json=HELLO, headers=ACCEPT), 401)
    with served.tcp("tb1.wrong.token") as http:
        error(http.post("/mcp", json=HELLO, headers=ACCEPT), 401)
    with served.tcp(served.secret, host="evil.example") as http:
        error(http.post("/mcp", json=HELLO, headers=ACCEPT), 403)
    with served.tcp(served.secret, origin="http://evil.example") as http:
        error(http.post("/mcp", json=HELLO, headers=ACCEPT), 403)
    with served.unix() as http:
        answer = http.post("/mcp", json=HELLO, headers=ACCEPT)
        assert answer.status_code == 200
        assert "tollboard" in answer.text


async def test_fifty_hosts_at_once_lose_and_cross_nothing(served: Served) -> None:
    token = served.narrow(READ, SEND)
    home = "/usr"

    async def one(number: int) -> None:
        async with host(served, token, ("auto", "legacy")[number % 2]) as client:
            name = f"s{number}"
            await call(client, "switchboard_start_session", name=name, path=home, backend="echo")
            refs = [
                (await call(client, "switchboard_send", name=name, prompt=f"{number}-{n}", queue=True))[
                    "result"
                ]
                for n in range(3)
            ]
            report = await call(client, "switchboard_wait", refs=refs)
            assert [done["text"] for done in report["done"]] == [f"echo: {number}-{n}" for n in range(3)]
            await call(client, "switchboard_stop_session", name=name)

    await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_daemon_that_tells_changes_ends_all_the_same(home: Path) -> None:
    with serving(home) as server:
        async with host(server, server.narrow(READ, SEND)) as client:
            with contextlib.suppress(
                Exception
            ):  # what the host sees when its stream ends is the SDK's affair
                async with client.listen(resource_subscriptions=["tollboard://inbox"]):
                    server.daemon.signal(signal.SIGTERM)
                    assert await asyncio.to_thread(server.daemon.wait) == 0


def test_a_daemon_that_served_mcp_ends_cleanly(home: Path) -> None:
    with serving(home) as server:
        with server.unix() as http:
            assert http.post("/mcp", json=HELLO, headers=ACCEPT).status_code == 200
            assert http.post("/v1/shutdown").status_code == 200
        assert server.daemon.wait() == 0
        assert "ERROR" not in server.daemon.log()
