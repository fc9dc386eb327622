"""Requests for a human decision and the decisions: pure values and their validation, no waiting (S14, A16-A18)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from tollboard.errors import InvalidDecision

APPROVE, EDIT, REJECT = "approve", "edit", "reject"
ALL_DECISIONS: tuple[str, ...] = (APPROVE, EDIT, REJECT)


@dataclass(frozen=True, slots=True)
class Approve:
    """Run the call with its original arguments."""

    type: ClassVar[str] = APPROVE


@dataclass(frozen=True, slots=True)
class Edit:
    """Run the call with these arguments instead."""

    type: ClassVar[str] = EDIT
    arguments: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reject:
    """Do not run the call; the message reaches the model."""

    type: ClassVar[str] = REJECT
    message: str = field(repr=False, default="")


Decision = Approve | Edit | Reject


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """One guarded call that waits for a person. `display` is what to show; `allowed` which decisions fit.

    A backend whose turns go on after a restart gives the question an `id` of its own, the same each time it asks.
    `path` names the sub-agents down to the one that asks. `check` raises InvalidDecision for arguments that do not fit.
    """

    tool: str
    arguments: Mapping[str, object] = field(repr=False)
    tool_call_id: str = ""
    display: str = field(repr=False, default="")
    allowed: tuple[str, ...] = ALL_DECISIONS
    id: str = ""
    path: tuple[str, ...] = ()
    check: Callable[[Mapping[str, object]], None] | None = field(repr=False, compare=False, default=None)


@dataclass(frozen=True, slots=True)
class Approval:
    """An approval request under its id, with the agent and the request it belongs to. `requested_at`: Unix seconds."""

    id: str
    agent: str
    ref: str
    request: ApprovalRequest
    requested_at: float

    @property
    def path(self) -> str:
        """Return where it was asked: the agent, and the sub-agents below it."""
        return "/".join((self.agent, *self.request.path))


@dataclass(slots=True)
class Asked:
    """A question that was put in an earlier life of its request. `decision` is `None` while nobody has decided."""

    approval: Approval
    decision: Decision | None = None
    taken: bool = False
    """Somebody's decision is being written down."""
    again: bool = False
    """It has been put once more since."""

    @property
    def open(self) -> bool:
        """Return whether it waits for a person, and its turn has not asked again."""
        return self.decision is None and not self.again


def parse_decision(value: object) -> Decision:
    """Return the decision that a plain mapping such as `{"type": "edit", "arguments": {...}}` means.

    Raises InvalidDecision, naming the fault. A ready decision is returned unchanged.
    """
    if isinstance(value, Approve | Edit | Reject):
        return value
    if not isinstance(value, Mapping):
        raise InvalidDecision(f"a decision is an object with a 'type', not {type(value).__name__}")
    given = dict(value)
    kind = given.pop("type", None)
    fields = (
        {APPROVE: set(), EDIT: {"arguments"}, REJECT: {"message"}}.get(kind)
        if isinstance(kind, str)
        else None
    )
    if fields is None:
        raise InvalidDecision(f"decision type {kind!r} is unknown: use approve, edit or reject")
    if extra := sorted(str(k) for k in given.keys() - fields):
        raise InvalidDecision(f"{kind} does not take {', '.join(extra)}")
    if kind == APPROVE:
        return Approve()
    if kind == REJECT:
        message = given.get("message", "")
        if not isinstance(message, str):
            raise InvalidDecision("reject: 'message' must be text")
        return Reject(message)
    arguments = given.get("arguments")
    if not isinstance(arguments, Mapping) or not all(isinstance(k, str) for k in arguments):
        raise InvalidDecision("edit needs 'arguments', an object with the changed arguments")
    return Edit(dict(arguments))


def check_decision(decision: Decision, request: ApprovalRequest) -> None:
    """Raise InvalidDecision if this approval does not allow that decision."""
    if decision.type not in request.allowed:
        raise InvalidDecision(
            f"{decision.type} is not allowed for {request.tool!r}; allowed: {', '.join(request.allowed)}"
        )
    if isinstance(decision, Edit) and request.check is not None:
        request.check(decision.arguments)
