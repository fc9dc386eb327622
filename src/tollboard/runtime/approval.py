"""Requests for a human decision and the decisions: pure values and their validation, no waiting (S14, A16-A18, B06)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from tollboard.errors import AnswerNeeded, InvalidDecision
from tollboard.runtime.question import ANSWER, Answer, Question, as_reply, fit_answer, plain_answer

APPROVE, EDIT, REJECT = "approve", "edit", "reject"
ALL_DECISIONS: tuple[str, ...] = (APPROVE, EDIT, REJECT)
"""What may be decided about a call."""
QUESTION_DECISIONS: tuple[str, ...] = (ANSWER, REJECT)
"""What may be decided about a question."""


class ApprovalKind(StrEnum):
    """What a person is asked for."""

    CALL = "call"
    """May this call run?"""
    QUESTION = "question"
    """What does the person say? The decision is an answer."""


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


Decision = Approve | Edit | Reject | Answer


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What waits for a person: a guarded call, or `questions` to answer. `display` is what to show in one line;
    `allowed` which decisions fit.

    A backend whose turns go on after a restart gives the request an `id` of its own, the same each time it asks.
    `path` names the sub-agents down to the one that asks. `check` raises InvalidDecision for arguments that do not fit,
    `check_answer` for an answer that fits the questions and is wrong all the same.
    """

    tool: str
    arguments: Mapping[str, object] = field(repr=False)
    tool_call_id: str = ""
    display: str = field(repr=False, default="")
    allowed: tuple[str, ...] = ALL_DECISIONS
    id: str = ""
    path: tuple[str, ...] = ()
    check: Callable[[Mapping[str, object]], None] | None = field(repr=False, compare=False, default=None)
    kind: ApprovalKind = ApprovalKind.CALL
    questions: tuple[Question, ...] = field(repr=False, default=())
    check_answer: Callable[[Answer], None] | None = field(repr=False, compare=False, default=None)


def ask(
    tool: str,
    questions: tuple[Question, ...],
    *,
    arguments: Mapping[str, object] | None = None,
    tool_call_id: str = "",
    display: str = "",
    allowed: tuple[str, ...] = QUESTION_DECISIONS,
    id: str = "",
    path: tuple[str, ...] = (),
    check_answer: Callable[[Answer], None] | None = None,
) -> ApprovalRequest:
    """Return the request that puts questions to a person. `display` is the first question's text unless given."""
    return ApprovalRequest(
        tool, arguments or {}, tool_call_id, display or questions[0].text, allowed, id, path,
        kind=ApprovalKind.QUESTION, questions=questions, check_answer=check_answer,
    )  # fmt: skip


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


_FIELDS: Mapping[str, frozenset[str]] = {
    APPROVE: frozenset(),
    EDIT: frozenset({"arguments"}),
    REJECT: frozenset({"message"}),
    ANSWER: frozenset({"text", "choose", "answers"}),
}


def parse_decision(value: object) -> Decision:
    """Return the decision that a plain mapping such as `{"type": "edit", "arguments": {...}}` means.

    Raises InvalidDecision, naming the fault. A ready decision is returned unchanged.
    """
    if isinstance(value, Approve | Edit | Reject | Answer):
        return value
    if not isinstance(value, Mapping):
        raise InvalidDecision(f"a decision is an object with a 'type', not {type(value).__name__}")
    given = dict(value)
    kind = given.pop("type", None)
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise InvalidDecision(f"decision type {kind!r} is unknown: use approve, edit, reject or answer")
    if extra := sorted(str(k) for k in given.keys() - fields):
        raise InvalidDecision(f"{kind} does not take {', '.join(extra)}")
    match kind:
        case "approve":
            return Approve()
        case "reject":
            message = given.get("message", "")
            if not isinstance(message, str):
                raise InvalidDecision("reject: 'message' must be text")
            return Reject(message)
        case "answer":
            return _parse_answer(given)
    arguments = given.get("arguments")
    if not isinstance(arguments, Mapping) or not all(isinstance(k, str) for k in arguments):
        raise InvalidDecision("edit needs 'arguments', an object with the changed arguments")
    return Edit(dict(arguments))


def _parse_answer(given: Mapping[str, object]) -> Answer:
    alone = as_reply({name: value for name, value in given.items() if name != "answers"})
    answers = given.get("answers", {})
    if not isinstance(answers, Mapping) or not all(isinstance(key, str) for key in answers):
        raise InvalidDecision("answer: 'answers' must be an object with a reply for each question")
    return Answer(alone.text, alone.choose, {key: as_reply(reply) for key, reply in answers.items()})


def plain_decision(decision: Decision, questions: tuple[Question, ...] = ()) -> dict[str, object]:
    """Return a decision as the mapping that `parse_decision` reads, without the replies to secret questions."""
    match decision:
        case Edit(arguments):
            return {"type": EDIT, "arguments": dict(arguments)}
        case Reject(message):
            return {"type": REJECT, "message": message}
        case Answer():
            return plain_answer(decision, questions)
    return {"type": decision.type}


def fit_decision(decision: Decision, request: ApprovalRequest) -> Decision:
    """Return the decision as it is taken: an answer with a checked reply to each question, others unchanged.

    Raises InvalidDecision if this request does not allow it, AnswerNeeded if it asks something and was to be approved.
    """
    if decision.type not in request.allowed:
        if request.kind is ApprovalKind.QUESTION:
            raise AnswerNeeded(
                f"{request.tool!r} asks a person something, and {decision.type} is no answer to it; choose one of its "
                "options or say it in words, or reject it"
            )
        raise InvalidDecision(
            f"{decision.type} is not allowed for {request.tool!r}; allowed: {', '.join(request.allowed)}"
        )
    match decision:
        case Edit(arguments) if request.check is not None:
            request.check(arguments)
        case Answer():
            fitted = fit_answer(decision, request.questions)
            if request.check_answer is not None:
                request.check_answer(fitted)
            return fitted
    return decision
