"""The answer to a host's `initialize`, given before the SDK is loaded; `stdio` calls it first, `pipes` takes over.

The SDK takes seconds of a processor to import, and hosts wait for this one answer while they start: some give up, some
go on without our tools. So it is written here, with the standard library alone. The SDK then hears the same message,
and what it answers is dropped: its answer and ours are the same (a test compares them). Whatever is not plainly an
`initialize` that we know is left to the SDK, untouched.
"""

from __future__ import annotations

import json
import os
import select
import stat
from dataclasses import dataclass

import tollboard
from tollboard.surfaces.mcp.guide import GUIDE

STDIN, STDOUT = 0, 1
NAME, TITLE = "tollboard", "Tollboard"
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
"""Protocols with a handshake. For one that is not here the SDK says which it would take instead."""
CAPABILITIES = {
    "completions": {},
    "prompts": {"listChanged": False},
    "resources": {"subscribe": True, "listChanged": False},
    "tools": {"listChanged": False},
}
PATIENCE_S = 0.25
"""How long the first message is waited for before the time is used to load the SDK."""
MAX_HELLO_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Greeted:
    """What was read before the SDK reads, and the id of the request in it that was answered, if one was."""

    read: bytes = b""
    answered: int | str | None = None


def greet() -> Greeted:
    """Answer the host's first message if it is an `initialize` and comes at once. Blocks for at most PATIENCE_S."""
    if not (is_piped(STDIN) and is_piped(STDOUT)):
        return Greeted()
    read = _first_line()
    request = _initialize(read)
    if request is None:
        return Greeted(read)
    id, version = request
    said = json.dumps({"jsonrpc": "2.0", "id": id, "result": answer(version)}).encode() + b"\n"
    while said:
        said = said[os.write(STDOUT, said) :]
    return Greeted(read, id)


def answer(version: str) -> dict[str, object]:
    """Return what `initialize` is answered with."""
    return {
        "protocolVersion": version,
        "capabilities": CAPABILITIES,
        "serverInfo": {"name": NAME, "title": TITLE, "version": tollboard.__version__},
        "instructions": GUIDE,
    }


def is_piped(number: int) -> bool:
    """Whether a descriptor is a pipe or a socket."""
    mode = os.fstat(number).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _first_line() -> bytes:
    """Return what comes until the first line is whole, the host has closed its end, or nothing comes for a while."""
    poll = select.poll()
    poll.register(STDIN, select.POLLIN)
    read = b""
    while b"\n" not in read and len(read) < MAX_HELLO_BYTES and poll.poll(PATIENCE_S * 1000):
        piece = os.read(STDIN, MAX_HELLO_BYTES)
        if not piece:
            break
        read += piece
    return read


def _initialize(read: bytes) -> tuple[int | str, str] | None:
    """Return the id and the version of the `initialize` that was read, `None` for anything else."""
    line, end, _ = read.partition(b"\n")
    try:
        message = json.loads(line) if end else None
    except (ValueError, RecursionError):
        return None
    match message:
        case {
            "jsonrpc": "2.0", "id": int() | str() as id, "method": "initialize",
            "params": {
                "protocolVersion": str() as version, "capabilities": dict() as able, "clientInfo": dict() as client,
            },
        } if version in VERSIONS and not isinstance(id, bool) and _is_sound(able, client):  # fmt: skip
            return id, version
    return None


def _is_sound(able: dict[str, object], client: dict[str, object]) -> bool:
    """Whether the SDK will take it too: it checks more than this, but hosts send no more than this."""
    named = isinstance(client.get("name"), str) and isinstance(client.get("version"), str)
    return (
        named
        and all(isinstance(one, dict) for one in able.values())
        and set(map(type, client.values())) == {str}
    )
