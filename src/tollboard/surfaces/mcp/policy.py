"""What a manager model may do: set by a person when the server is started, never by an argument of a tool (S27)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tollboard.backends import load
from tollboard.errors import Denied, InvalidPath, UnknownBackend
from tollboard.operations.access import Capability
from tollboard.runtime.options import split_options

SURFACE, ASKED = "mcp", "mcp-person"
"""Who did it: a model, or the person at its host who was asked."""
GRANTED = frozenset({Capability.READ, Capability.SEND})
MODES = ("default", "plan")
"""Permission modes in which a session asks before it does anything that cannot be undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The limits of one MCP server. Empty `roots` and `backends` leave it to the daemon's configuration."""

    capabilities: frozenset[Capability] = GRANTED
    roots: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    options: bool = False
    """Whether any option may be given: pre-approved tools, other programs, more directories."""

    def require(self, capability: Capability) -> None:
        """Raise Denied for a capability that no person has granted."""
        if capability not in self.capabilities:
            raise Denied(
                f"this needs the capability {capability.value!r}, which was not granted; only a person can: "
                f"tollboard mcp --grant {capability.value}"
            )

    def check_start(self, backend: str, path: str, options: Mapping[str, object]) -> None:
        """Raise Denied for a session or pool that would be allowed more than this server may give."""
        if self.backends and backend not in self.backends:
            raise Denied(f"backend {backend!r} is not allowed here; allowed are {', '.join(self.backends)}")
        if self.roots:
            self._check_path(path)
        mode = options.get("permission_mode")
        if mode is not None and mode not in self.modes and not self.options:
            raise Denied(
                f"permission_mode {mode!r} is above what is allowed here ({', '.join(self.modes)}); only a person can "
                f"raise it: tollboard mcp --mode {mode}"
            )

        if not self.options:
            self._check_options(backend, options)

    def _check_options(self, backend: str, options: Mapping[str, object]) -> None:
        """Hold what the daemon holds too, unless a mode that was allowed here had it give more."""
        try:
            powers = load(backend).powers(split_options(dict(options))[1])
        except UnknownBackend:
            return  # the daemon says so, and what it knows
        # The mode was looked at above.
        if more := [power for power in powers if power != "permission_mode"]:
            raise Denied(
                f"option {more[0]!r} is not allowed here: it gives a session more rights. Only a person can allow it: "
                "tollboard mcp --any-option"
            )

    def _check_path(self, path: str) -> None:
        if "\0" in path:
            raise InvalidPath(f"{path!r} is not a path")
        real = Path(os.path.realpath(os.path.expanduser(path)))
        if not any(real.is_relative_to(os.path.realpath(root)) for root in self.roots):
            raise Denied(f"{str(real)!r} is outside of what is allowed here: {', '.join(self.roots)}")
