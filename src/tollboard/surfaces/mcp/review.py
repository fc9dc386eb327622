"""The person at the host decides what waits for one: the server asks them itself (elicitation), past the model.

A client of the older era is asked while the call is open. In the newer one the call ends with the questions and comes
again with the answers, and with a state that the SDK seals: nothing is decided that was not asked. Whatever is declined
or closed waits on, and so does what is too long to be shown whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter

from tollboard.errors import AlreadyDecided, ApprovalNotFound, Denied, InvalidDecision, WireError
from tollboard.fleet.records import ApprovalRecord
from tollboard.operations.arguments import Arguments, Name
from tollboard.operations.boards import Boards
from tollboard.operations.catalogue import OPERATIONS
from tollboard.operations.wire import check, parse_arguments
from tollboard.surfaces.mcp import question
from tollboard.surfaces.mcp.schemas import slim_input, slim_output

NAME = "switchboard_review_approvals"
DESCRIPTION = (
    "Have the person at this host decide what waits, calls and questions: they are asked directly, one by one, and see "
    "each in full. Prefer it to switchboard_decide. What they leave open still waits: do not ask again unless they say "
    "so. What is too long to be shown, or secret, is not asked: the person finds it with `tollboard approvals`."
)
AT_ONCE = 5
"""Questions of one call: a person should see an end of it."""
TRIES = 3
"""How often a question is put when the answer is none."""
LONGEST_QUESTION = 8_000
"""Characters. Nobody is asked to allow what they cannot read to its end."""
STATE_TTL_S = 24 * 3600.0
"""How long a person may take. What was decided elsewhere meanwhile is noticed."""
LEFT_OPEN, GONE = "left_open", "gone"

Context = ServerRequestContext[Any, Any]
_DECIDE = OPERATIONS["decide"]


class Wanted(Arguments):
    """Whose approvals: one session's, or all."""

    name: Name | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one question."""

    id: str
    session: str
    tool: str
    outcome: str
    """approved, edited, rejected, answered; left_open when it still waits; gone: decided elsewhere, or expired."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What came of a review, and how many calls wait now."""

    answers: tuple[Answered, ...]
    waiting: int


@dataclass(frozen=True, slots=True)
class _Round:
    """What must be known when the answers of the newer era come. `open` are asked now, in the order of `faults`."""

    open: tuple[Answered, ...]
    faults: tuple[str, ...]
    done: tuple[Answered, ...] = ()
    number: int = 1


RESULT = TypeAdapter(Reviewed)
_ROUND = TypeAdapter(_Round)


def described() -> types.Tool:
    """Return the tool, for those it is offered to."""
    return types.Tool(
        name=NAME,
        description=DESCRIPTION,
        input_schema=slim_input(Wanted.model_json_schema()),
        output_schema=slim_output(RESULT.json_schema(mode="serialization")),
        annotations=types.ToolAnnotations(
            read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
        ),
    )


def can_ask(context: Context) -> bool:
    """Return whether the client can put a form before its user, and a question reaches it."""
    capabilities = context.session.client_capabilities
    able = capabilities.elicitation if capabilities is not None else None
    if able is None or (able.form is None and able.url is not None):
        return False  # an empty one means forms: once there was nothing else
    return _is_modern(context) or context.session.can_send_request


async def review(
    context: Context, boards: Boards, person: Boards | None, params: types.CallToolRequestParams
) -> Reviewed | types.InputRequiredResult:
    """Ask the person and do what they say; in the newer era first return what to ask.

    `boards` are only read, `person` only decides. Raises Denied where this connection may not decide, or its client
    cannot ask.
    """
    if person is None:
        raise Denied(
            "this connection may not decide, so nobody is asked over it; a person can: tollboard approvals"
        )
    if not can_ask(context):
        raise Denied("this host cannot ask its user over this connection; a person can: tollboard approvals")
    wanted = check(NAME, Wanted, params.arguments or {})
    assert isinstance(wanted, Wanted)
    waiting = {record.id: record for record in await boards.fleet.approvals(wanted.name)}
    if not _is_modern(context):
        answers = await _ask_within(context, person, _askable(waiting))
    else:
        going = await _next_round(person, waiting, params)
        if going.open:
            return _asking(going, waiting)
        answers = going.done
    return Reviewed(answers, len(await boards.fleet.approvals(wanted.name)))


def _is_modern(context: Context) -> bool:
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS


def _askable(waiting: Mapping[str, ApprovalRecord]) -> list[ApprovalRecord]:
    # A host may keep what is filled in, so nobody is asked for a secret there.
    short = [
        record
        for record in waiting.values()
        if len(question.message(record)) <= LONGEST_QUESTION
        and not any(one.secret for one in record.questions)
    ]
    return short[:AT_ONCE]


def _answered(record: ApprovalRecord, outcome: str = LEFT_OPEN) -> Answered:
    return Answered(record.id, record.session, record.tool, outcome)


async def _settle(person: Boards, record: ApprovalRecord, answer: object) -> Answered:
    """Do what an answer says. Raises InvalidDecision or WireError for one that says nothing; it still waits then."""
    if not isinstance(answer, types.ElicitResult) or answer.action != "accept":
        return _answered(record)
    decision = question.decision(record, answer.content or {})
    arguments = parse_arguments(_DECIDE, {"approval_id": record.id, "decision": decision})
    try:
        return _answered(record, (await _DECIDE.run(person, arguments)).state)
    except (AlreadyDecided, ApprovalNotFound):
        return _answered(record, GONE)


# -- the older era


async def _ask_within(
    context: Context, person: Boards, records: list[ApprovalRecord]
) -> tuple[Answered, ...]:
    """Put one question after the other while the call is open; who closes one is not asked the next."""
    answers = []
    for record in records:
        answered, closed = await _ask_one(context, person, record)
        answers.append(answered)
        if closed:
            break
    return tuple(answers)


async def _ask_one(context: Context, person: Boards, record: ApprovalRecord) -> tuple[Answered, bool]:
    fault = ""
    for _ in range(TRIES):
        asked = question.message(record, fault), question.form(record)
        answer = await context.session.elicit_form(*asked, context.request_id)
        try:
            return await _settle(person, record, answer), answer.action == "cancel"
        except (InvalidDecision, WireError) as wrong:
            fault = str(wrong)
    return _answered(record), False


# -- the newer era


async def _next_round(
    person: Boards, waiting: Mapping[str, ApprovalRecord], params: types.CallToolRequestParams
) -> _Round:
    """Return the first round, or do what the answers say and return what is left of the round they belong to."""
    if params.request_state is None:
        first = tuple(_answered(record) for record in _askable(waiting))
        return _Round(first, ("",) * len(first))
    past = _ROUND.validate_json(params.request_state)
    given = params.input_responses or {}
    done, again, faults = [*past.done], [], []
    for asked in past.open:
        try:
            if (record := waiting.get(asked.id)) is None:
                done.append(replace(asked, outcome=GONE))
            else:
                done.append(await _settle(person, record, given.get(asked.id)))
        except (InvalidDecision, WireError) as wrong:
            again.append(asked)
            faults.append(str(wrong))
    if past.number == TRIES:
        done, again, faults = [*done, *again], [], []
    return _Round(tuple(again), tuple(faults), tuple(done), past.number + 1)


def _asking(going: _Round, waiting: Mapping[str, ApprovalRecord]) -> types.InputRequiredResult:
    asked: types.InputRequests = {}
    for one, fault in zip(going.open, going.faults, strict=True):
        record = waiting[one.id]
        form = types.ElicitRequestFormParams(
            message=question.message(record, fault), requested_schema=question.form(record)
        )
        asked[one.id] = types.ElicitRequest(params=form)
    return types.InputRequiredResult(input_requests=asked, request_state=_ROUND.dump_json(going).decode())
