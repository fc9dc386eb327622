"""What a run tells its observers (A22). Values only; they are made only when somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tollboard.runtime.event import Usage


@dataclass(frozen=True, slots=True)
class Started:
    """A sub-agent begins, or goes on in a new process."""

    kind: ClassVar[str] = "subagent_started"
    id: str
    parent: str | None
    name: str
    tools: tuple[str, ...]
    model: str
    messages: Sequence[object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """It stands otherwise now."""

    kind: ClassVar[str] = "status_changed"
    id: str
    name: str
    status: str


@dataclass(frozen=True, slots=True)
class LLMMessage:
    """One more message of its conversation."""

    kind: ClassVar[str] = "llm_message"
    id: str
    name: str
    message: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class SubAgentCompleted:
    """It is done. `duration_s` counts from `Started` in this process."""

    kind: ClassVar[str] = "subagent_completed"
    id: str
    name: str
    result: str = field(repr=False)
    duration_s: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class SubAgentFailed:
    """It ended without a result."""

    kind: ClassVar[str] = "subagent_failed"
    id: str
    name: str
    error: str
    messages: Sequence[object] = field(repr=False)
    turns: int
    duration_s: float = 0.0
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class SubAgentCancelled:
    """It was ended by somebody; the messages so far and how many model calls it made."""

    kind: ClassVar[str] = "subagent_cancelled"
    id: str
    name: str
    messages: Sequence[object] = field(repr=False)
    turns: int
    duration_s: float = 0.0
    usage: Usage = field(default_factory=Usage)


SubAgentEvent = Started | StatusChanged | LLMMessage | SubAgentCompleted | SubAgentFailed | SubAgentCancelled
Observer = Callable[[SubAgentEvent], None]
