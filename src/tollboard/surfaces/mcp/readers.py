"""Whose inbox cursor a manager model moves: one for each client, none of them a person's."""

from __future__ import annotations

import re
from typing import Any

from mcp.server.context import ServerRequestContext

PREFIX = "mcp"
_MAX_NAME = 64
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def reader_of(context: ServerRequestContext[Any, Any], fixed: str | None) -> str:
    """Return the reader that a request moves: the one that was set for the connection, else the client's own.

    Two hosts read beside each other then, and what one has acknowledged is still new to the other.
    """
    if fixed is not None:
        return fixed
    params = context.session.client_params
    return reader_named(params.client_info.name if params is not None else "")


def reader_named(client: str) -> str:
    """Return the reader of a client: `mcp-` and its name, as far as that may be part of a name."""
    name = _UNFIT.sub("-", client).strip("-.")
    return f"{PREFIX}-{name}"[:_MAX_NAME] if name else PREFIX
