"""Who may do what: capabilities, and the tokens that carry them (S27).

The `token` file holds the admin token. A narrower token is made from it, not stored: its capabilities and name, signed
with the admin token as the key (HMAC-SHA256). Losing one is mended by replacing the file, which ends them all.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from dataclasses import dataclass
from enum import StrEnum

from tollboard.errors import Denied, Invalid
from tollboard.fleet.records import Caller

PREFIX = "tb1"
_PLAIN = re.compile(r"[^A-Za-z0-9._@ -]")
_MAX_NAME = 64


class Capability(StrEnum):
    """What a client may do."""

    READ = "read"
    SEND = "send"
    """Start with plain options, send, interrupt, halt, resume, stop, summaries, acknowledge."""
    APPROVE = "approve"
    CONFIGURE = "configure"
    """Start with any option: what runs programs, names addresses and keys, lifts guards."""
    ADMIN = "admin"
    """Everything, and deleting and shutting down."""


ALL = frozenset(Capability)
AGENT = "agent"
"""The surface that is recorded for what an agent's process asks, whatever it says of itself."""


FOR_AGENTS = frozenset({Capability.READ, Capability.SEND})
"""The most that a setting may give to agents: only a person approves."""


class Standing(StrEnum):
    """What kind of process asks."""

    PERSON = "person"
    """None of ours: a person's shell, or a program of theirs."""
    AGENT = "agent"
    """One that a session, or the worker of a pool, has started."""
    UNKNOWN = "unknown"
    """It could not be found out, so it may do nothing."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose process opened a connection. `session` is what its marker names: a session's id, or `pool id:worker`."""

    standing: Standing
    session: str | None = None
    pid: int | None = None
    why: str = ""


PERSON = Asker(Standing.PERSON)


@dataclass(frozen=True, slots=True)
class Access:
    """An authenticated client; `reason` says why it may do no more, where that is not for its token."""

    caller: Caller
    capabilities: frozenset[Capability]
    reason: str = ""

    def has(self, capability: Capability) -> bool:
        """Whether the client has it; admin has them all."""
        return not {capability, Capability.ADMIN}.isdisjoint(self.capabilities)

    def require(self, capability: Capability) -> None:
        """Raise Denied unless the client has the capability; admin has them all."""
        if not self.has(capability):
            may = ", ".join(sorted(self.capabilities)) or "do nothing"
            if self.reason:
                raise Denied(f"{self.reason}; it may {may}, not {capability}")
            raise Denied(f"this client may {may}, not {capability}; a person can grant it with another token")

    def narrowed(self, asker: Asker, name: str, agents_may: frozenset[Capability]) -> Access:
        """Return what is left of this access when that process uses it: an agent never gets more than it was given."""
        match asker.standing:
            case Standing.PERSON:
                return self
            case Standing.AGENT:
                given = agents_may if asker.session is not None else frozenset[Capability]()
                may = given if Capability.ADMIN in self.capabilities else given & self.capabilities
                whose = f"session {name!r}" if asker.session is not None else "one of this daemon's sessions"
                reason = (
                    f"the process that asks (pid {asker.pid}) was started by an agent of {whose}, and only a person "
                    "approves and administers: use a shell that no agent has started"
                )
                return Access(Caller(AGENT, name), may, reason)
            case Standing.UNKNOWN:
                return Access(Caller(AGENT, name), frozenset(), f"{asker.why}; connect again")


def plain(text: str) -> str:
    """Return a client's own word for itself, fit to be recorded."""
    return _PLAIN.sub("", text)[:_MAX_NAME] or "unknown"


def derive_token(secret: str, name: str, capabilities: frozenset[Capability]) -> str:
    """Return a token for a client of that name with these capabilities."""
    if not capabilities:
        raise Invalid(f"name at least one capability: {', '.join(Capability)}")
    claims = json.dumps({"n": plain(name), "c": sorted(capabilities)}, separators=(",", ":")).encode()
    body = base64.urlsafe_b64encode(claims).decode().rstrip("=")
    return f"{PREFIX}.{body}.{_sign(secret, body)}"


def read_token(secret: str, token: str, caller: Caller) -> Access:
    """Return what a token allows. `caller` is what the client says of itself; a derived token's name replaces it.

    Raises Denied for anything that was not made with this secret; comparisons take constant time.
    """
    if hmac.compare_digest(token.encode(), secret.encode()):
        return Access(caller, ALL)
    prefix, _, rest = token.partition(".")
    body, _, signature = rest.partition(".")
    if prefix != PREFIX or not hmac.compare_digest(signature.encode(), _sign(secret, body).encode()):
        raise Denied("the token is not valid for this daemon")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    # A newer Tollboard may have signed a capability that this one does not know: it is not granted.
    capabilities = frozenset(known for known in Capability if known in claims["c"])
    return Access(Caller(caller.surface, str(claims["n"])), capabilities)


def _sign(secret: str, body: str) -> str:
    return hmac.digest(secret.encode(), body.encode(), "sha256").hex()
