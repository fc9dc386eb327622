"""HTTP as a stranger, a browser or a script would use it: a real daemon, real sockets, TCP and unix."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.daemon.process import DaemonProcess
from tollboard.daemon.client import Client
from tollboard.errors import DaemonError, Denied, WireError
from tollboard.operations.access import Capability, derive_token
from tollboard.operations.catalogue import OPERATIONS
from tollboard.surfaces.gate import MAX_BODY_BYTES

pytestmark = pytest.mark.slow


class Served:
    """A daemon with a TCP door, and ways to call it."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.home = daemon.home
        self.secret = daemon.home.token.read_text().strip()
        with self.unix() as http:
            self.tcp_address: str = http.get("/v1/health").json()["tcp"]

    def unix(self, **options: Any) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.home.socket))
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=30, **options)

    def tcp(self, token: str | None = None, **headers: str) -> httpx.Client:
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return httpx.Client(
            base_url=f"http://{self.tcp_address}", headers=headers, timeout=30, trust_env=False
        )

    def narrow(self, *capabilities: Capability) -> str:
        return derive_token(self.secret, "narrow", frozenset(capabilities))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("h")
    home.chmod(0o700)
    with DaemonProcess(home, config="tcp_host = '127.0.0.1'\ntcp_hosts = ['board.example']") as daemon:
        server = Served(daemon)
        with server.unix() as http:
            answer = http.post(
                "/v1/start_session", json={"name": "api", "path": str(home), "backend": "echo"}
            )
            assert answer.status_code == 200, answer.text
        yield server


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()["error"]
    assert found.keys() == {"code", "message", "data"}
    return found


# -- who may come in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "wrong", "tb1.e30.00", "tb1..", "é"])
def test_s27_tcp_without_the_token_is_refused(served: Served, token: str | None) -> None:
    headers = {} if token is None else {"authorization": f"Bearer {token}".encode().decode("latin-1")}
    with served.tcp() as http:
        for method, path in (("GET", "/v1/health"), ("POST", "/v1/list_sessions"), ("GET", "/openapi.json"),
                             ("GET", "/v1/events/stream"), ("POST", "/v1/shutdown"), ("GET", "/nothing")):  # fmt: skip
            raw = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
            answer = http.request(method, path, headers=raw)
            assert error(answer, 401)["code"] == "denied"
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Basic {}", "{}", "Token {}"])
def test_the_token_comes_as_a_bearer_token_only(served: Served, scheme: str) -> None:
    with served.tcp(authorization=scheme.format(served.secret)) as http:
        error(http.get("/v1/health"), 401)
        error(http.get(f"/v1/health?token={served.secret}", headers={"authorization": ""}), 401)


def test_the_token_opens_tcp(served: Served) -> None:
    with served.tcp(served.secret) as http:
        assert http.get("/v1/health").json()["pid"] == served.daemon.pid
        assert [session["name"] for session in http.post("/v1/list_sessions").json()] == ["api"]


def allowed(access: frozenset[Capability], needed: Capability) -> bool:
    return needed in access or Capability.ADMIN in access


@pytest.mark.parametrize("capability", Capability)
@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_s27_the_matrix_of_tokens_and_operations(served: Served, capability: Capability, door: str) -> None:
    token = served.narrow(capability)
    bearer = {"authorization": f"Bearer {token}"}
    with served.tcp(token) if door == "tcp" else served.unix(headers=bearer) as http:
        for operation in OPERATIONS.values():
            # Arguments that do not fit: what matters is which of the two is found wrong.
            answer = http.post(f"/v1/{operation.name}", json={"no such argument": 1})
            if allowed(frozenset({capability}), operation.needs):
                assert error(answer, 422)["code"] == "bad_request"
            else:
                assert error(answer, 403)["code"] == "denied"
        if capability is not Capability.ADMIN:
            error(http.post("/v1/shutdown"), 403)
        if not allowed(frozenset({capability}), Capability.SEND):
            wanted = 403
        else:
            wanted = 200 if capability is Capability.ADMIN else 403
        assert http.post("/v1/inbox", json={"ack": True}).status_code == wanted


async def test_s27_a_narrow_client_is_told_what_it_may(served: Served) -> None:
    token = served.narrow(Capability.READ)
    async with Client.connect(served.home.path, start=False, token=token) as board:
        assert await board.status("api")
        with pytest.raises(Denied, match="may read, not send"):
            await board.send("api", "x")
        with pytest.raises(Denied, match="may read, not admin"):
            await board.shutdown()


async def test_s27_who_acted_is_on_record_and_cannot_be_forged(served: Served) -> None:
    home = served.home.path
    script = [{"approval": {"tool": "shell", "arguments": {"command": "ls"}}}] * 2
    async with Client.connect(home, start=False, surface="cli", client="alice") as alice:
        await alice.start_session("asks", path=home, backend="scripted", script=script)
        token = served.narrow(Capability.READ, Capability.SEND, Capability.APPROVE)
        async with Client.connect(home, start=False, surface="mcp", client="alice", token=token) as other:
            for board, by in ((alice, "cli:alice"), (other, "mcp:narrow")):
                ref = await board.send("asks", "x")
                async with contextlib.aclosing(board.tail("asks", ref=ref, after=0)) as feed:  # type: ignore[type-var]
                    async for item in feed:
                        if item.kind == "approval.requested":
                            break
                decided = await board.decide((await board.approvals())[0].id, {"type": "approve"})
                assert decided.decided_by == by
                await board.wait([ref])
        written = await alice.summary_update("asks", "mine")
        assert written.author == "cli:alice"
        await alice.stop_session("asks")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example", "board.example.evil.example"],
)
def test_dns_rebinding_a_foreign_host_is_refused_even_with_the_token(served: Served, host: str) -> None:
    with served.tcp(served.secret, host=host) as http:
        assert "Host" in error(http.get("/v1/health"), 403)["message"]
        error(http.post("/v1/list_sessions"), 403)


def test_configured_and_own_hosts_are_answered(served: Served) -> None:
    port = served.tcp_address.rpartition(":")[2]
    for host in (served.tcp_address, f"localhost:{port}", f"LOCALHOST:{port}", "board.example"):
        with served.tcp(served.secret, host=host) as http:
            assert http.get("/v1/health").status_code == 200, host


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://127.0.0.1:1", "file://", ""])
def test_foreign_origins_are_refused_even_with_the_token(served: Served, origin: str) -> None:
    with served.tcp(served.secret, origin=origin) as http:
        assert "Origin" in error(http.post("/v1/list_sessions"), 403)["message"]
        error(http.options("/v1/list_sessions"), 403)
    with served.unix(headers={"origin": origin}) as http:
        error(http.get("/v1/health"), 403)


def test_its_own_origin_is_fine_with_the_token_only(served: Served) -> None:
    origin = f"http://{served.tcp_address}"
    with served.tcp(served.secret, origin=origin) as http:
        assert http.get("/v1/health").status_code == 200
    with served.tcp(origin=origin) as http:
        error(http.get("/v1/health"), 401)


def test_a_forwarded_unix_socket_does_not_answer_to_foreign_hosts(served: Served) -> None:
    with served.unix() as http:
        assert http.get("/v1/health", headers={"host": "localhost:8080"}).status_code == 200
        error(http.get("/v1/health", headers={"host": "evil.example:8080"}), 403)
        error(http.get("/v1/events/stream", headers={"host": "evil.example"}), 403)


def test_a_header_that_counts_may_not_come_twice(served: Served) -> None:
    said = raw(served, b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nOrigin: x\r\n\r\n")
    assert b"403" in said.splitlines()[0]


def test_a_websocket_is_refused(served: Served) -> None:
    ask = (
        b"GET /v1/events/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: https://evil.example\r\n\r\n"
    )
    assert b" 403 " in raw(served, ask).splitlines()[0]


def raw(served: Served, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(served.home.socket))
        connection.sendall(request)
        connection.settimeout(10)
        return connection.recv(65536)


# -- what may be sent -------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_long_is_refused_whatever_its_header_says(served: Served) -> None:
    big = b"x" * (MAX_BODY_BYTES + 1)

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    with served.unix() as http:
        for content in (big, chunks()):
            assert f"{MAX_BODY_BYTES:,}" in error(http.post("/v1/send", content=content), 413)["message"]
        error(http.post("/v1/send", content=big * 3), 413)
        assert http.get("/v1/health").status_code == 200


def test_a_body_that_never_ends_does_not_fill_the_memory(served: Served) -> None:
    head = b"POST /v1/send HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000000\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(served.home.socket))
        connection.sendall(head)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"x" * 1024 * 1024)
        with contextlib.suppress(ConnectionError):
            assert b" 413 " in connection.recv(65536).splitlines()[0]


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"nonsense", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"name": NaN}', b"{}x",
        b'{"name": "api", "prompt": Infinity}', b'{"name": "api", "prompt": "x", "promt": "x"}', b'{"name": 1}',
        b'{"name": "api", "prompt": "\\ud800"}', b'{"name": "\\ud800", "prompt": "x"}',
        b'{"name": "api", "prompt": "x", "key": "\\ud800"}', b'{"name": "api", "prompt": "x", "queue": 1}',
        b'{"name": "api", "prompt": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_s20_bad_bodies_are_bad_input_never_a_fault(served: Served, body: bytes) -> None:
    with served.unix() as http:
        found = error(http.post("/v1/send", content=body), 422)
        assert len(found["message"]) < 500


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/send", 405, "bad_request"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/../../etc/passwd", 404, "not_found"),
        ("DELETE", "/v1/health", 405, "bad_request"),
        ("GET", "/v1/events/stream?name=nobody", 404, "agent_not_found"),
        ("GET", "/v1/events/stream?colour=green", 422, "bad_request"),
        ("GET", "/v1/events/stream?after=x", 422, "bad_request"),
        ("GET", "/v1/events/stream?after=-1", 422, "bad_request"),
        ("GET", "/v1/events/stream?after=99999999999999999999", 422, "bad_request"),
        ("GET", "/v1/events/stream?name=" + "x" * 300, 422, "invalid_name"),
        ("GET", "/v1/events/stream?kind=" + "x" * 300, 422, "bad_request"),
    ],
)
def test_bad_paths_and_queries(served: Served, method: str, path: str, status: int, code: str) -> None:
    with served.unix() as http:
        assert error(http.request(method, path), status)["code"] == code


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "\u00b2"])
def test_a_bad_last_event_id(served: Served, last: str) -> None:
    with served.unix() as http:
        answer = http.get("/v1/events/stream", headers=[(b"last-event-id", last.encode("latin-1"))])
        assert error(answer, 422)["code"] == WireError.code


def test_shutdown_takes_no_arguments(served: Served) -> None:
    with served.unix() as http:
        assert error(http.post("/v1/shutdown", json={"now": True}), 422)["code"] == WireError.code


# -- the feed ---------------------------------------------------------------------------------------------------------


class Stream:
    """Server-sent events as they are on the wire."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response

    async def items(self) -> AsyncIterator[tuple[str, str, Any]]:
        fields: dict[str, str] = {}
        async for line in self.response.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}
            else:
                assert "" in fields  # a comment
                fields = {}


@contextlib.asynccontextmanager
async def stream(
    served: Served, headers: dict[str, str] | None = None, **query: Any
) -> AsyncIterator[Stream]:
    transport = httpx.AsyncHTTPTransport(uds=str(served.home.socket))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http,
        http.stream("GET", "/v1/events/stream", params=query, headers=headers) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response)


async def say(served: Served, *prompts: str) -> str:
    async with Client.connect(served.home.path, start=False) as board:
        ref = ""
        for prompt in prompts:
            ref = await board.send("api", prompt, queue=True)
        await board.wait([ref])
        return ref


async def test_s10_a_stream_that_breaks_anywhere_goes_on_without_gaps_or_repeats(served: Served) -> None:
    await say(served, *(f"p{n}" for n in range(20)))
    async with Client.connect(served.home.path, start=False) as board:
        wanted = [item.seq for item in (await board.events("api")).items]
    seen: list[int] = []
    while len(seen) < len(wanted):
        headers = {"last-event-id": str(seen[-1])} if seen else {}
        async with stream(served, headers, name="api", after=0) as feed:
            taken = 0
            async for id, kind, row in feed.items():
                assert (id, kind, row["session"]) == (str(row["seq"]), row["kind"], "api")
                seen.append(row["seq"])
                taken += 1
                if taken == 7 or len(seen) == len(wanted):
                    break
    assert seen == wanted


async def test_s10_a_stream_shows_what_happens_after_it_began_and_only_what_was_asked_for(
    served: Served,
) -> None:
    async with stream(served, name="api", kind=["turn.completed", "text"]) as feed:
        items = feed.items()
        first = asyncio.ensure_future(anext(items))
        ref = await say(served, "line \u2028 and \x85 end")
        _, kind, row = await first
        assert (kind, row["ref"], row["data"]["text"]) == ("text", ref, "echo: line \u2028 and \x85 end")
        _, kind, row = await anext(items)
        assert (kind, row["ref"]) == ("turn.completed", ref)


async def test_s10_the_clients_tail_keeps_every_kind_of_line_end(served: Served) -> None:
    prompt = "a\u2028b\x85c\x0bd\x1ce\r\nf"
    ref = await say(served, prompt)
    async with (
        Client.connect(served.home.path, start=False) as board,
        contextlib.aclosing(board.tail("api", ref=ref, after=0)) as feed,  # type: ignore[type-var]
    ):
        texts = [item.data["text"] async for item in _until_done(feed) if item.kind == "text"]
    assert "".join(map(str, texts)) == f"echo: {prompt}"


async def _until_done(feed: Any) -> AsyncIterator[Any]:
    async for item in feed:
        yield item
        if item.kind == "turn.completed":
            return


async def test_s10_a_reader_that_reads_nothing_holds_nobody_up(served: Served) -> None:
    async with stream(served, after=0):
        ref = await asyncio.wait_for(say(served, *("x" * 50_000 for _ in range(40))), 30)
        with served.unix() as http:
            poll = http.post("/v1/poll", json={"name": "api", "ref": ref}).json()
            assert poll["status"] == "completed"


# -- waiting ----------------------------------------------------------------------------------------------------------


async def test_who_waits_and_hangs_up_leaves_nothing_behind(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        async with Client.connect(home, start=False) as board:
            await board.start_session("slow", path=home, backend="echo", delay=600)
            ref = await board.send("slow", "x")
            for _ in range(50):
                async with Client.connect(home, start=False) as other:
                    waiting = [
                        asyncio.ensure_future(other.wait([ref])),
                        asyncio.ensure_future(other.inbox(wait=3600)),
                    ]
                    await other.health()
                    for task in waiting:
                        task.cancel()
                    await asyncio.gather(*waiting, return_exceptions=True)
            # What was left behind would now hold the end up, or be logged when it is destroyed.
            await board.interrupt("slow")
            await board.shutdown()
        assert daemon.wait() == 0
        assert "ERROR" not in daemon.log()


async def test_what_changes_something_is_carried_out_when_the_client_hangs_up(home: Path) -> None:
    with DaemonProcess(home):
        async with Client.connect(home, start=False) as board:
            await board.start_session("slow", path=home, backend="echo", delay=600)
            await board.send("slow", "x")
            body = b'{"name": "slow"}'
            head = f"POST /v1/stop_session HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(home / "daemon.sock"))
                connection.sendall(head.encode() + body)
            async with contextlib.aclosing(board.tail(after=0)) as feed:  # type: ignore[type-var]
                async for item in feed:
                    if item.kind == "session.stopped":
                        break
            assert await board.list_sessions() == ()


async def test_shutting_down_sends_home_who_waits_and_who_follows(home: Path) -> None:
    with DaemonProcess(home, config="grace_s = 0.0") as daemon:
        async with Client.connect(home, start=False) as board, Client.connect(home, start=False) as other:
            await board.start_session("api", path=home, backend="echo")
            reading = asyncio.ensure_future(other.inbox(wait=3600))
            following = asyncio.ensure_future(_drain(other))
            await other.health()
            await board.shutdown()
            with contextlib.suppress(DaemonError):
                assert (await reading).entries == ()
            with pytest.raises(DaemonError):
                await following
        assert daemon.wait() == 0
        assert "ERROR" not in daemon.log()


async def _drain(board: Client) -> None:
    async for _ in board.tail(after=0):
        pass


def test_the_description_is_complete(served: Served) -> None:
    with served.tcp(served.secret) as http:
        paths = http.get("/openapi.json").json()["paths"]
    assert {f"/v1/{name}" for name in OPERATIONS} | {
        "/v1/health",
        "/v1/shutdown",
        "/v1/events/stream",
    } == set(paths)
    for path, methods in paths.items():
        for described in methods.values():
            assert {"401", "403"} <= described["responses"].keys(), path
            assert described["security"], path
