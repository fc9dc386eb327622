"""A daemon with a TCP door for the tests of HTTP, and ways to call it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.daemon.process import DaemonProcess
from tollboard.operations.access import Capability, derive_token


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


@contextlib.contextmanager
def serving(home: Path) -> Iterator[Served]:
    """Serve a state directory, with a session `api` in it."""
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
