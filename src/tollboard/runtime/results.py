"""How a request can stand and end: the values of `poll`, and the closed set of reasons a turn can fail for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tollboard.runtime import outcome
from tollboard.runtime.event import ErrorCause, Usage, slot_setters
from tollboard.runtime.response import Response


class Reason(StrEnum):
    """Why a request ended without a response."""

    INTERRUPTED = "interrupted"
    """Somebody interrupted the turn, or the daemon ended in the middle of it."""
    TIMEOUT = "timeout"
    """The watchdog: the turn ran longer than its deadline, or was silent for too long."""
    NO_TERMINAL_EVENT = "no_terminal_event"
    """The stream ended without `result` or `error`."""
    BACKEND_ERROR = "backend_error"
    """The stream ended with an error event, or the backend refused the prompt."""
    STREAM_CRASHED = "stream_crashed"
    """The backend's stream raised."""
    CALLBACK_FAILED = "callback_failed"
    """A callback of the agent raised."""
    EVENT_OVERFLOW = "event_overflow"
    """The event log overflowed in `lossless` mode."""
    SKIPPED = "skipped"
    """`pre_turn` skipped it."""
    HALTED = "halted"
    """`pre_turn` halted on it, or it asked to fail rather than wait on a halted agent."""
    CANCELLED = "cancelled"
    """It was withdrawn from the mailbox."""
    ABANDONED = "abandoned"
    """Its caller was gone before it was dispatched."""
    STOPPED = "stopped"
    """The agent was stopped."""
    DRAINING = "draining"
    """The agent was drained before its turn came."""
    PRE_RUN_FAILED = "pre_run_failed"
    """`pre_run` raised, the agent never ran."""
    CRASHED = "crashed"
    """The agent crashed."""
    STORE_FAILED = "store_failed"
    """It could not be made durable, so it was not run."""


@dataclass(frozen=True, slots=True)
class Pending(outcome.Pending):
    """Queued or in flight. `position` is 1 for the next in the mailbox, 0 for the one in flight."""

    position: int


@dataclass(frozen=True, slots=True, init=False)
class Completed(outcome.Completed):
    """The turn ended with a response."""

    response: Response

    def __init__(self, response: Response) -> None:
        _set_response(self, response)


(_set_response,) = slot_setters(Completed)


@dataclass(frozen=True, slots=True)
class Failed(outcome.Failed):
    """The request ended without a response. `detail` is for people; `repr` does not show it (R49).

    `cause` and `retry_after_s` are the backend's (see `ErrorEvent`). `acted`: tools were called before it failed.
    """

    reason: Reason
    detail: str = field(repr=False, default="")
    usage: Usage | None = field(default=None, compare=False)
    """What was paid for nevertheless, if the backend reported it."""
    cause: ErrorCause | None = None
    retry_after_s: float | None = None
    acted: bool = False


Outcome = Completed | Failed
PollResult = Pending | Completed | Failed
