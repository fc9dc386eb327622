"""What a backend tells of the agents that work below a turn: that one begins, what it says, how it ended. Values only.

Each one that was announced ends exactly once, whatever ends the turn (A30): the journal keeps to that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tollboard.runtime.event import Usage

Role = Literal["user", "assistant", "tool_use", "tool_result"]
Ending = Literal["completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a sub-agent's conversation, or one tool call in it. `call` ties a tool's result to its call."""

    role: Role
    text: str = field(repr=False)
    tool: str = ""
    call: str = ""


@dataclass(frozen=True, slots=True)
class SubAgentBegan:
    """One begins, or goes on after a restart under the same id. `parent` is the id of the one above, if that is one.

    `path` are the names from the session's own agent down to it, `researcher/reader`.
    """

    id: str
    parent: str | None
    name: str
    path: str
    model: str
    instructions: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SubAgentSaid:
    """New messages of its conversation. `turns` counts its model calls."""

    id: str
    turns: int
    messages: tuple[Said, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SubAgentWaits:
    """It waits for a person, or no longer does."""

    id: str
    waits: bool


@dataclass(frozen=True, slots=True)
class SubAgentEnded:
    """It has ended. `text` is its result, or what went wrong. Durations in seconds."""

    id: str
    ending: Ending
    text: str = field(repr=False)
    turns: int
    duration_s: float
    usage: Usage = field(default_factory=Usage)


SubAgentNews = SubAgentBegan | SubAgentSaid | SubAgentWaits | SubAgentEnded
