"""How a run of a sub-agent ends or pauses: outcomes made for `match`, and the questions of an interrupt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tollboard.runtime import outcome
from tollboard.runtime.approval import ALL_DECISIONS
from tollboard.runtime.event import Usage
from tollboard.runtime.question import Question


class Status(StrEnum):
    """How a sub-agent stands."""

    IDLE = "idle"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """It waits for people: `resume` it with their decisions."""
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


CANCELLED = "it was cancelled"
ENDED = (Status.COMPLETED, Status.ERROR, Status.CANCELLED)
"""The statuses in which nothing more will happen."""


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """One guarded call that has not run and needs a decision.

    `id` is unique in the whole tree of sub-agents; `path` are the names from the outermost agent down to the one that
    called; `schema` is the JSON schema that edited arguments must fit.
    """

    id: str
    tool_call_id: str
    tool: str
    arguments: Mapping[str, object] = field(repr=False)
    display: str = field(repr=False, default="")
    allowed: tuple[str, ...] = ALL_DECISIONS
    path: tuple[str, ...] = ()
    sub_agent_id: str = ""
    schema: Mapping[str, object] | None = field(repr=False, default=None)
    questions: tuple[Question, ...] = field(repr=False, default=())
    """What is asked, when the call only asks: the decision is an answer then."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A pause that carries questions for a person, its own and those from below, in the order of the calls."""

    sub_agent_id: str
    name: str
    requests: tuple[ActionRequest, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids that need a decision, in order."""
        return tuple(request.id for request in self.requests)

    @property
    def review(self) -> Mapping[str, tuple[str, ...]]:
        """Return which decisions each tool allows."""
        return {request.tool: request.allowed for request in self.requests}


@dataclass(frozen=True, slots=True)
class Completed(outcome.Completed):
    """It is done. `extra` is the completion tool's result as a value, when there is such a tool."""

    result: str = field(repr=False)
    extra: object = field(repr=False, default=None)
    usage: Usage = field(default_factory=Usage)
    note: str = ""
    """What a reader has to be told about the result: that it was cut off at its token limit."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """It waits for decisions."""

    interrupt: Interrupt


class Cause(StrEnum):
    """Why a run failed."""

    MODEL = "model"
    """The model could not be reached or answered with something unusable."""
    MAX_RUNS = "max_runs"
    UNTIL_TOOL = "until_tool"
    """It stopped without its completion tool, or that tool failed."""
    HALTED = "halted"
    CRASHED = "crashed"
    CANCELLED = "cancelled"
    LIMIT = "limit"
    """A limit on tokens or cost."""


@dataclass(frozen=True, slots=True)
class Failed(outcome.Failed):
    """It ended without a result. `halted_by` names the agent in which a halt was raised."""

    reason: str
    cause: Cause = Cause.MODEL
    halted_by: str | None = None
    usage: Usage = field(default_factory=Usage)


Outcome = Completed | Interrupted | Failed


class Halted(Exception):
    """Raise this in a tool to end the whole run, the parents' too; it is not an approval and no model sees it (A21)."""
