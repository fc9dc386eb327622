"""A daemon with a question that waits, and agents of it that run programs: what the tests of trust share."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.daemon.process import DaemonProcess
from tests.surfaces.served import Served

PROBE = str(Path(__file__).with_name("probe.py"))
PYTHON = [sys.executable, "-ISB", PROBE]
ANSWER_S = 60.0
DUMMY_KEY = "TRUST_TEST_KEY"
"""A variable of the daemon's environment, for options that name a key."""


@dataclass
class Agents:
    """Runs programs as sessions of a daemon do."""

    served: Served
    approval: str
    place: Path
    count: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def socket(self) -> str:
        return str(self.served.home.socket)

    def call(self, operation: str, **arguments: object) -> Any:
        """Call an operation as the person, who is this process."""
        with self.served.unix() as http:
            answer = http.post(f"/v1/{operation}", json=arguments)
            assert answer.status_code == 200, answer.text
            return answer.json()

    def probe(self, how: str, *more: str) -> tuple[list[str], Path]:
        """Return the words of a probe, and the FIFO where it tells what it was answered."""
        self.count += 1
        fifo = self.place / f"answer{self.count}"
        os.mkfifo(fifo)
        address, token = more or (self.socket, "-")
        return [*PYTHON, how, str(fifo), address, token, self.approval], fifo

    def run(self, command: list[str], session: str = "api") -> None:
        """Run a program in a session of that name."""
        script = [[{"process": command}, {"hang": True}]]
        self.call(
            "start_session",
            name=session,
            path=str(self.place),
            backend="scripted",
            options={"script": script},
        )
        self.call("send", name=session, prompt="go")
        self.left.append(session)

    def answers(self, fifo: Path) -> dict[str, tuple[int, str]]:
        """Wait for what a probe was answered: status and message of each operation."""
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
        reader.start()
        reader.join(ANSWER_S)
        assert read, f"nothing was said; the daemon's log: {self.served.daemon.log()}"
        found: dict[str, tuple[int, str]] = json.loads(read[0])
        return found

    def clear(self) -> None:
        """End the sessions that were started here."""
        for session in self.left:
            self.call("stop_session", name=session)
        self.left.clear()

    def undecided(self) -> bool:
        """Whether the question still waits."""
        return self.approval in {one["id"] for one in self.call("approvals")}


@contextlib.contextmanager
def agents_of(home: Path, place: Path, config: str = "") -> Iterator[Agents]:
    """Serve a state directory in which session `asks` waits for an approval."""
    home.chmod(0o700)
    env = {**os.environ, DUMMY_KEY: "dummy"}
    with DaemonProcess(home, config=f"tcp_host = '127.0.0.1'\n{config}", env=env) as daemon:
        agents = Agents(Served(daemon), "", place)
        agents.call(
            "start_session", name="asks", path=str(place), backend="scripted",
            options={"script": [{"approval": {"tool": "sh", "arguments": {}}}]},
        )  # fmt: skip
        agents.call("send", name="asks", prompt="go")
        with agents.served.unix() as http:
            while not (waiting := http.post("/v1/approvals", json={}).json()):
                http.post("/v1/inbox", json={"wait": 0.05})
        agents.approval = waiting[0]["id"]
        yield agents
