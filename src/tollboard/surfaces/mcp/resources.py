"""What a host can read as resources: the fleet, one session, its transcript and summary, the inbox, the approvals."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tollboard.errors import NotFound
from tollboard.operations.boards import Boards
from tollboard.operations.catalogue import OPERATIONS
from tollboard.surfaces.mcp.guide import GUIDE
from tollboard.surfaces.mcp.shape import bounded

SCHEME = "tollboard://"
JSON, MARKDOWN = "application/json", "text/markdown"


@dataclass(frozen=True, slots=True)
class Page:
    """One resource as it was read."""

    uri: str
    mime: str
    text: str


FIXED = {
    "sessions": "Every session of the fleet and how it stands",
    "inbox": "Finished turns that are new to you",
    "approvals": "Guarded calls that wait for a person",
    "guide": "How to manage a fleet",
}
TEMPLATES = {
    "sessions/{name}": "How one session stands",
    "sessions/{name}/transcript": "The last turns of a session",
    "sessions/{name}/summary": "The manager's notes on a session",
}


async def read(boards: Boards, uri: str, reader: str) -> Page:
    """Return what a resource holds now, the inbox as this reader has it.

    Raises NotFound for an address that is none, AgentNotFound for a session.
    """
    parts = uri.removeprefix(SCHEME).split("/") if uri.startswith(SCHEME) else []
    fleet = boards.fleet
    match parts:
        case ["guide"]:
            return Page(uri, MARKDOWN, GUIDE)
        case ["sessions"]:
            return _page(uri, "list_sessions", await fleet.list_sessions(reader=reader))
        case ["inbox"]:
            return _page(uri, "inbox", await fleet.inbox(reader=reader, limit=20))
        case ["approvals"]:
            return _page(uri, "approvals", await fleet.approvals())
        case ["sessions", name]:
            return _page(uri, "status", await fleet.status(name, reader=reader))
        case ["sessions", name, "transcript"]:
            return _page(uri, "transcript", await fleet.transcript(name, limit=20))
        case ["sessions", name, "summary"]:
            return Page(uri, MARKDOWN, (await fleet.summary_get(name)).text)
    known = ", ".join(f"{SCHEME}{path}" for path in (*FIXED, *TEMPLATES))
    raise NotFound(f"there is no resource {uri[:200]!r}; known are {known}")


def _page(uri: str, operation: str, value: object) -> Page:
    plain = OPERATIONS[operation].result.dump_python(value, mode="json")
    return Page(uri, JSON, json.dumps(bounded(plain)[0], ensure_ascii=False, indent=1))


async def names(boards: Boards, begins: str) -> list[str]:
    """Return the names of the sessions that begin so."""
    return [one.name for one in await boards.fleet.list_sessions() if one.name.startswith(begins)]
