"""HTTP as a stranger, a browser or a script would use it: a real daemon, real sockets, TCP and unix."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import httpx
import jsonschema_rs
import pytest
import schemathesis

from tests.surfaces.served import Served, error, serving
from tollboard.daemon.client import Client
from tollboard.errors import Denied, WireError
from tollboard.operations.access import Capability
from tollboard.operations.catalogue import OPERATIONS
from tollboard.surfaces.gate import MAX_BODY_BYTES, Door
from tollboard.surfaces.http import make_app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("h")) as server:
        yield server


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


@pytest.mark.parametrize("path", ["/v1/list_sessions", "/v1/health"])
async def test_a_fault_of_ours_is_answered_in_our_form(path: str) -> None:
    def fails(*_: object) -> Any:
        raise RuntimeError("a fault")

    door = Door(cast("Any", None), cast("Any", None), "secret", frozenset({"board"}), fails, health=fails)
    app = httpx.ASGITransport(cast("Any", make_app(door)), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=app, base_url="http://board") as http:
        verb = "GET" if path == "/v1/health" else "POST"
        answer = await http.request(verb, path, headers={"authorization": "Bearer secret"})
    assert "daemon.log says more" in error(answer, 500)["message"]


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


@pytest.mark.parametrize("path", [".", "src", "~nobody-of-that-name/x", ""])
@pytest.mark.parametrize("operation", ["start_session", "check_session", "pool_start"])
def test_a_relative_path_is_refused_where_nobody_knows_to_what(
    served: Served, operation: str, path: str
) -> None:
    given = {
        "name": "rel",
        "path": path,
        "backend": "echo",
        **({"size": 1} if operation == "pool_start" else {}),
    }
    with served.unix() as http:
        found = error(http.post(f"/v1/{operation}", json=given), 422)
        assert found["code"] == "invalid_path"
        assert found["message"] == "'' is not a path" or "give an absolute one" in found["message"]
        home = http.post("/v1/check_session", json={"name": "rel", "path": "~", "backend": "echo"})
        assert home.status_code == 200


def test_a_wrong_address_says_what_to_do(served: Served) -> None:
    with served.unix() as http:
        nothing = error(http.post("/v1/" + "x" * 300), 404)["message"]
        assert "/openapi.json" in nothing
        assert len(nothing) < 300
        assert error(http.get("/v1/send"), 405)["message"] == "'/v1/send' does not take GET; use POST"


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "\u00b2"])
def test_a_bad_last_event_id(served: Served, last: str) -> None:
    with served.unix() as http:
        answer = http.get("/v1/events/stream", headers=[(b"last-event-id", last.encode("latin-1"))])
        assert error(answer, 422)["code"] == WireError.code


def test_shutdown_takes_no_arguments(served: Served) -> None:
    with served.unix() as http:
        assert error(http.post("/v1/shutdown", json={"now": True}), 422)["code"] == WireError.code


# -- its description --------------------------------------------------------------------------------------------------


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
            body = described.get("requestBody")
            if body is not None:
                schema = body["content"]["application/json"]["schema"]
                assert body["required"] == bool(schema.get("required")), (
                    f"{path} may be called without a body"
                )


def test_s20_the_description_is_valid_openapi(served: Served) -> None:
    with served.tcp(served.secret) as http:
        described = http.get("/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    schemathesis.openapi.from_dict(described).validate()
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for schema in _schemas(described):
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        ref = schema.get("$ref", "#")
        assert ref == "#" or ref.rpartition("/")[2] in described["components"]["schemas"], ref


def _schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("schema"), dict):
            yield node["schema"]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _schemas(part)
