"""Schemathesis against the daemon's own description: whatever is sent, no answer is a fault, each fits its schema."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.daemon.process import DaemonProcess
from tests.surfaces.served import Served
from tollboard.operations.catalogue import OPERATIONS

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
"""For each operation; more for a long run."""
PATHS = [*(("POST", f"/v1/{name}") for name in OPERATIONS), ("GET", "/v1/health")]
"""Without `shutdown`, which ends the daemon, and the stream, which never ends: other tests send them what is wrong."""


@dataclass
class Target:
    """The daemon that is attacked, and its description."""

    schema: Any
    headers: dict[str, str]

    def attack(self, case: schemathesis.Case) -> None:
        """Send one request and look at the answer."""
        _hurry(case)
        response = case.call(headers=self.headers, timeout=30)
        checks = [not_a_server_error, status_code_conformance, content_type_conformance]
        case.validate_response(response, checks=[*checks, response_schema_conformance])


def _hurry(case: schemathesis.Case) -> None:
    """Leave out what is allowed and takes an hour."""
    if isinstance(case.body, dict):
        for name in ("timeout", "wait"):
            if isinstance(case.body.get(name), int | float) and case.body[name] > 0:
                case.body[name] = 0
        if case.path.endswith("/wait") and case.body.get("timeout") is None:
            case.body["timeout"] = 0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    home = tmp_path_factory.mktemp("f")
    home.chmod(0o700)
    work = tmp_path_factory.mktemp("w")
    # `roots`: whatever directory is made up, no session gets one that matters.
    config = f"tcp_host = '127.0.0.1'\nbackends = ['echo', 'scripted']\nroots = ['{work}']"
    with DaemonProcess(home, config=config) as daemon:
        served = Served(daemon)
        with served.unix() as http:
            http.post("/v1/start_session", json={"name": "a", "path": str(work), "backend": "echo"})
            for _ in range(3):
                http.post("/v1/send", json={"name": "a", "prompt": "x", "queue": True})
        headers = {"authorization": f"Bearer {served.secret}"}
        schema = schemathesis.openapi.from_url(f"http://{served.tcp_address}/openapi.json", headers=headers)
        yield Target(schema, headers)
        assert daemon.process.poll() is None
        assert "ERROR" not in daemon.log()


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value
)
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_s20_no_input_is_a_fault(target: Target, method: str, path: str, mode: GenerationMode) -> None:
    cases = target.schema[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True,
        phases=[Phase.explicit, Phase.generate], database=None,
    )  # fmt: skip
    @given(case=cases)
    def attack(case: schemathesis.Case) -> None:
        target.attack(case)

    attack()
