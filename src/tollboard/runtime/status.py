"""What can be asked about an agent at any moment, in constant time (R19)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from tollboard.runtime.request import Origin

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine


class Phase(Enum):
    """What an agent is doing."""

    IDLE = "idle"
    PROCESSING = "processing"
    """A busy period runs: a turn, a callback, or both one after the other."""
    STOPPING = "stopping"
    DEAD = "dead"


# On the hot path the members are reached by these names: looking one up on its class costs as much as a call.
IDLE, PROCESSING, STOPPING, DEAD = Phase


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """An agent as it stands. `agent` is the GenAgent instance, whose attributes are its state; `None` when dead."""

    name: str
    phase: Phase
    halted: bool
    draining: bool
    needs_decision: bool
    queued: int
    in_flight: str | None
    provider_session_id: str | None
    agent: object | None = field(repr=False, default=None)
    reason: str | None = None
    """Why a dead agent died."""


@dataclass(frozen=True, slots=True)
class AgentSnapshot:
    """Counts and times only, no content: what monitoring may keep."""

    name: str
    phase: Phase
    halted: bool
    queued: int
    queued_bytes: int
    notifications: int
    results: int
    approvals: int
    origin: Origin | None
    attempt: int
    elapsed_s: float | None
    events: int


def agent_status(machine: Machine) -> AgentStatus:
    """Return how the agent stands; constant time."""
    return AgentStatus(
        name=machine.name,
        phase=machine.phase,
        halted=machine.halted,
        draining=machine.draining,
        needs_decision=machine.needs_decision,
        queued=machine.queued,
        in_flight=machine.in_flight(),
        provider_session_id=machine.provider_session_id,
        agent=machine.agent,
    )


def agent_snapshot(machine: Machine) -> AgentSnapshot:
    """Return counts and times, no content; constant time."""
    turn = machine.turn
    return AgentSnapshot(
        name=machine.name,
        phase=machine.phase,
        halted=machine.halted,
        queued=machine.queued,
        queued_bytes=machine.mailbox.bytes if machine.mailbox is not None else 0,
        notifications=len(machine.notifications or ()),
        results=len(machine.endings.results) if machine.endings is not None else 0,
        approvals=len(machine.approvals or ()),
        origin=turn.request.origin if turn is not None else None,
        attempt=turn.attempt if turn is not None else 0,
        elapsed_s=machine.clock.monotonic() - turn.began if turn is not None else None,
        events=turn.seen if turn is not None else 0,
    )
