"""Between rows and records: the only file that knows the order of a query's columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tollboard.fleet.ledger import StoredRequest, Unread
from tollboard.fleet.records import (
    ApprovalRecord,
    ApprovalState,
    Entry,
    FeedItem,
    Life,
    Receipt,
    RequestState,
    SessionRecord,
    SubAgentMessage,
    SubAgentRecord,
    SubAgentState,
    Summary,
    TurnStatus,
)
from tollboard.runtime.approval import ApprovalKind
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.event import Usage
from tollboard.runtime.question import read_question
from tollboard.runtime.request import Origin
from tollboard.store.feed import to_json

Row = tuple[Any, ...]


def session_values(record: SessionRecord) -> dict[str, object]:
    """Return the columns of a session."""
    return {
        "id": record.id,
        "name": record.name,
        "path": record.path,
        "backend": record.backend,
        "options": to_json(dict(record.options)),
        "life": record.life.value,
        "halted": int(record.halted),
        "created_at": record.created_at,
        "stopped_at": record.stopped_at,
        "problem": record.problem,
        "provider_session_id": record.provider_session_id,
        "effective": to_json(dict(record.effective)),
        "background": background_json(record.background),
        "notice": record.notice,
    }


def background_json(running: Sequence[BackgroundTask]) -> str:
    """Return what runs in the background as its column keeps it."""
    return to_json([asdict(task) for task in running])


def session_record(row: Row) -> SessionRecord:
    """Return the session of a row."""
    (
        id_,
        name,
        path,
        backend,
        options,
        life,
        halted,
        created,
        stopped,
        problem,
        provider,
        effective,
        background,
        notice,
        turns,
        answered,
    ) = row
    return SessionRecord(
        id=id_, name=name, path=path, backend=backend, options=json.loads(options), life=Life(life),
        halted=bool(halted), created_at=created, stopped_at=stopped, problem=problem, provider_session_id=provider,
        effective=json.loads(effective), turns=turns, answered=bool(answered), notice=notice,
        background=tuple(BackgroundTask(**task) for task in json.loads(background)),
    )  # fmt: skip


def stored_request(row: Row) -> StoredRequest:
    """Return the request of a row, with its entry when it has one."""
    (_, ref, session_id, key, origin, prompt, accepted_at, attempt, started_at, ended_at, seq, status, reason, detail,
     duration_s, *usage, text, session) = row  # fmt: skip
    entry = None
    if seq is not None:
        entry = Entry(
            session=session, session_id=session_id, seq=seq, ref=ref, status=TurnStatus(status),
            prompt=prompt, text=text, error=error_text(reason, detail),
            usage=None if usage == _NO_USAGE else Usage(*usage),
            duration_s=duration_s, attempt=attempt, started_at=started_at, completed_at=ended_at,
            origin=Origin(origin),
            note=None if reason else detail,
        )  # fmt: skip
    ended = ended_at is not None
    state = (
        RequestState.ENDED if ended else RequestState.QUEUED if started_at is None else RequestState.STARTED
    )
    receipt = Receipt(
        ref=ref, session=session, state=state, position=None, accepted_at=accepted_at, started_at=started_at,
        ended_at=ended_at, outcome=(reason or "completed") if ended else None,
    )  # fmt: skip
    return StoredRequest(
        ref=ref, session_id=session_id, session=session, prompt=prompt, key=key, receipt=receipt, entry=entry,
        reason=reason, detail=detail, origin=Origin(origin),
    )  # fmt: skip


_NO_USAGE = [None] * 5


def error_text(reason: str | None, detail: str | None) -> str | None:
    """Return the error of an entry: the reason code and, after a colon, what happened."""
    return f"{reason}: {detail}" if reason and detail else reason


def history_entry(row: Row) -> Entry:
    """Return the entry of a request that has one."""
    entry = stored_request(row).entry
    assert entry is not None  # the query asks for rows with a seq
    return entry


def unread(row: Row) -> Unread:
    """Return how far a reader is behind in the session of a row."""
    session_id, session, turns, cursor = row
    return Unread(session_id, session, turns, cursor)


def summary_record(row: Row) -> Summary:
    """Return a version of a summary; the turns since are counted by the database."""
    _, version, text, author, at, at_turn, session, turns = row
    return Summary(session, version, text, author, at, max(0, turns - at_turn))


def approval_record(row: Row) -> ApprovalRecord:
    """Return the approval of a row."""
    (_, id_, _, ref, path, tool, arguments, display, allowed, state, requested_at, decided_at, decided_by, decision,
     kind, questions, session) = row  # fmt: skip
    return ApprovalRecord(
        id=id_, session=session, ref=ref, path=path, tool=tool, arguments=json.loads(arguments), display=display,
        allowed=tuple(json.loads(allowed)), state=ApprovalState(state), requested_at=requested_at,
        decided_at=decided_at, decided_by=decided_by, decision=None if decision is None else json.loads(decision),
        kind=ApprovalKind(kind), questions=tuple(read_question(each) for each in json.loads(questions)),
    )  # fmt: skip


def feed_item(row: Row) -> FeedItem:
    """Return the feed item of a row."""
    seq, at, session, ref, kind, data = row
    return FeedItem(seq, at, session, ref, kind, json.loads(data))


def sub_agent_record(row: Row) -> SubAgentRecord:
    """Return the sub-agent of a row."""
    (_, id_, _, ref, parent, name, path, model, instructions, status, started_at, ended_at, turns, duration_s,
     *usage, result, error, session) = row  # fmt: skip
    return SubAgentRecord(
        id=id_, session=session, ref=ref, parent=parent, name=name, path=path, model=model,
        status=SubAgentState(status), turns=turns, started_at=started_at, ended_at=ended_at, duration_s=duration_s,
        usage=None if usage == _NO_USAGE else Usage(*usage), instructions=instructions, result=result, error=error,
    )  # fmt: skip


def sub_agent_message(row: Row) -> SubAgentMessage:
    """Return the message of a row."""
    number, role, tool, call, text, at = row
    return SubAgentMessage(number=number, at=at, role=role, text=text, tool=tool, call=call)


def id_and_name(row: Row) -> tuple[str, str]:
    """Return a session's id and name."""
    return str(row[0]), str(row[1])
