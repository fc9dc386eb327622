"""The runtime's own options of an agent, checked before anything exists (R48). One instance may serve many agents."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

from tollboard.errors import InvalidOption

KIB = 1024
MIB = 1024 * KIB


class EventLog(StrEnum):
    """What happens when a turn yields more events than its log may keep."""

    COMPACT = "compact"
    """The log keeps the prefix and says what it left out; the turn goes on."""
    LOSSLESS = "lossless"
    """The turn fails."""


class Restart(StrEnum):
    """Whether an agent is started again after it ended."""

    TEMPORARY = "temporary"
    """Never: it stays visibly dead."""
    TRANSIENT = "transient"
    """After a crash."""
    PERMANENT = "permanent"
    """After a crash; for agents that must always be there. An explicit stop ends it all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Limits and policies. Seconds in `_s`, bytes in `_bytes`. Raises InvalidOption on a value out of range."""

    watchdog_s: float = 600.0
    """How long one turn may take, without the time it waits for approvals."""
    silence_s: float | None = None
    """How long a turn may go without an event."""
    approval_timeout_s: float | None = None
    """How long an approval may wait before it is rejected with that reason."""
    max_queued: int = 1_000
    max_queued_bytes: int = 1 * MIB
    max_notifications: int = 1_000
    max_notification_bytes: int = 1 * MIB
    max_results: int = 100
    max_result_bytes: int = 16 * MIB
    max_events: int = 10_000
    max_event_bytes: int = 4 * MIB
    event_log: EventLog = EventLog.COMPACT
    restart: Restart = Restart.TEMPORARY
    max_restarts: int = 3
    restart_window_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("watchdog_s", "silence_s", "approval_timeout_s", "restart_window_s"):
            value = getattr(self, name)
            optional = name in {"silence_s", "approval_timeout_s"}
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise InvalidOption(f"{name} is {value!r}: it must be a number of seconds above 0")
        for name in ("max_queued", "max_queued_bytes", "max_notifications", "max_notification_bytes",
                     "max_results", "max_result_bytes", "max_events", "max_event_bytes", "max_restarts"):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidOption(f"{name} is {value!r}: it must be a whole number, 0 or more")
        for name, kind in (("event_log", EventLog), ("restart", Restart)):
            try:
                object.__setattr__(self, name, kind(getattr(self, name)))
            except ValueError:
                known = ", ".join(member.value for member in kind)
                raise InvalidOption(f"{name} is {getattr(self, name)!r}: use one of {known}") from None


RESERVED = frozenset(f.name for f in fields(AgentOptions))
DEFAULTS = AgentOptions()


def split_options(given: dict[str, object]) -> tuple[AgentOptions, dict[str, object]]:
    """Return the runtime's options and all the others, which are the agent's own."""
    if not given:
        return DEFAULTS, given
    ours = {key: value for key, value in given.items() if key in RESERVED}
    others = {key: value for key, value in given.items() if key not in RESERVED}
    if bad := sorted(key for key in others if key.startswith("_")):
        raise InvalidOption(f"{bad[0]!r}: names that begin with an underscore are reserved")
    return (AgentOptions(**ours) if ours else DEFAULTS), others  # type: ignore[arg-type] # checked in __post_init__
