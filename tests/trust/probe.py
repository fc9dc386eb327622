"""What an agent's process runs in the tests of trust: asks the daemon for everything, and says what it was answered.

    probe.py HOW FIFO ADDRESS [TOKEN]

HOW is how it first gets away from who started it; ADDRESS is a socket's path or host:port. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import sys

ASKED = (
    ("list_sessions", {}),
    ("start_session", {"name": "by-agent", "path": "/usr", "backend": "echo"}),
    ("decide", {"approval_id": "APPROVAL", "decision": {"type": "approve"}}),
    ("delete_session", {"name": "nobody"}),
)


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


def ask(address: str, token: str, approval: str) -> dict[str, object]:
    """Ask for each, on one connection, and return the status and the message of each answer."""
    said: dict[str, object] = {}
    connection = Unix(address) if "/" in address else http.client.HTTPConnection(address, timeout=30)
    headers = {"content-type": "application/json", "x-tollboard-surface": "cli", "x-tollboard-client": "root"}
    if token != "-":
        headers["authorization"] = f"Bearer {token}"
    for name, arguments in ASKED:
        body = json.dumps(arguments).replace("APPROVAL", approval)
        connection.request("POST", f"/v1/{name}", body, headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        message = found["error"]["message"] if "error" in found else ""
        said[name] = [answer.status, message]
    return said


def leave() -> None:
    """Fork twice, with a session of one's own, and wait until whoever started us has ended and been waited for."""
    if os.fork():
        os._exit(0)
    os.setsid()
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    try:
        watched = os.pidfd_open(parent)
    except OSError:
        return
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.poll(10_000)


def main() -> None:
    how, fifo, *rest = sys.argv[1:]
    if how == "leave":
        leave()
        # The environment that /proc shows is the one of the last exec.
        os.execve(sys.executable, [sys.executable, "-ISB", __file__, "ask", fifo, *rest], {})
    if how == "fork" and os.fork():
        os._exit(0)
    said = ask(*rest)
    with open(fifo, "w") as file:
        json.dump(said, file)


main()
