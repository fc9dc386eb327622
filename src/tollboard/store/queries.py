"""Every statement the store runs, each with a name and a sentence; compiled once from schema.py to plain SQL.

The hot path runs the strings on the raw sqlite3 connection: Core's own execution costs some twenty times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, case, delete, func, insert, literal_column, null, or_, select, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.expression import ClauseElement, ColumnElement

from tollboard.store.schema import (
    approvals,
    cursors,
    events,
    memory,
    meta,
    requests,
    sessions,
    sub_agent_messages,
    sub_agents,
    summaries,
)

_DIALECT = sqlite.dialect(paramstyle="qmark")


class Query:
    """A compiled statement: `sql`, and the `names` of its parameters in order."""

    __slots__ = ("_defaults", "names", "sql")

    def __init__(self, statement: ClauseElement, order: Sequence[str] = ()) -> None:
        compiled: Any = statement.compile(dialect=_DIALECT)
        self.sql = str(compiled)
        self.names: tuple[str, ...] = tuple(compiled.positiontup)
        self._defaults = {k: v for k, v in compiled.params.items() if v is not None}
        if order and self.names != tuple(order):
            raise AssertionError(f"the parameters are {self.names}, the caller's tuple is {tuple(order)}")

    def bind(self, **values: object) -> tuple[object, ...]:
        """Return the parameters as the tuple that `sql` wants; raises KeyError for one that is missing."""
        return tuple(values[n] if n in values else self._defaults[n] for n in self.names)


def _given(*names: str) -> dict[str, Any]:
    return {name: bindparam(name) for name in names}


def _json_list(name: str) -> Any:
    """Return a subquery with the values of a JSON array: one statement for any number of them."""
    return select(func.json_each(bindparam(name)).table_valued("value").c.value)


# -- ownership

CLAIM = Query(
    update(meta)
    .where(meta.c.key == literal_column("'owner_epoch'"))
    .values(value=meta.c.value + literal_column("1"))
)
"""Make this process the owner: whoever had the epoch before can no longer write."""

EPOCH = Query(select(meta.c.value).where(meta.c.key == literal_column("'owner_epoch'")))
"""Return the owner's epoch; the writer asks inside each transaction."""

# -- sessions

_TURNS = (
    select(func.coalesce(func.max(requests.c.seq), literal_column("0")))
    .where(requests.c.session_id == sessions.c.id)
    .scalar_subquery()
)
_answers = requests.alias("answers")
_ANSWERED = (
    select(literal_column("1"))
    .where(
        _answers.c.session_id == sessions.c.id,
        _answers.c.seq.is_not(None),
        _answers.c.status == literal_column("'ok'"),
    )
    .exists()
)
_SESSION = (*sessions.c, _TURNS.label("turns"), _ANSWERED.label("answered"))

CREATE_SESSION = Query(insert(sessions).values(_given(*sessions.c.keys())))
"""Add a session."""

SET_LIFE = Query(
    update(sessions)
    .where(sessions.c.id == bindparam("session_id"))
    .values(
        life=bindparam("new_life"), stopped_at=bindparam("new_stopped_at"), problem=bindparam("new_problem")
    )
)
"""Note that a session lives, was stopped, or died."""

SET_HALTED = Query(
    update(sessions).where(sessions.c.id == bindparam("session_id")).values(halted=bindparam("is_halted"))
)
"""Note that a session's mailbox was frozen or released."""

SET_BACKGROUND = Query(
    update(sessions).where(sessions.c.id == bindparam("session_id")).values(background=bindparam("running"))
)
"""Note what a session runs in the background."""

SET_NOTICE = Query(
    update(sessions).where(sessions.c.id == bindparam("session_id")).values(notice=bindparam("new_notice"))
)
"""Note why a session halted by itself, or that this is over."""

CHECKPOINT = Query(
    update(sessions)
    .where(sessions.c.id == bindparam("session_id"))
    .values(
        provider_session_id=bindparam("provider"),
        effective=func.coalesce(bindparam("settings"), sessions.c.effective),
    )
)
"""Note the provider's conversation id, and what it really runs with when that is known."""

DELETE_SESSION = Query(delete(sessions).where(sessions.c.id == bindparam("session_id")))
"""Remove a session; requests, summaries, approvals and cursors go with it by their foreign keys."""

DELETE_SESSION_EVENTS = Query(
    delete(events).where(
        events.c.session
        == select(sessions.c.name).where(sessions.c.id == bindparam("session_id")).scalar_subquery(),
        events.c.session_id == bindparam("session_id"),
    )
)
"""Remove a session's feed items; the name leads to them by the index."""

SESSIONS = Query(
    select(*_SESSION)
    .where(sessions.c.life != literal_column("'stopped'"))
    .order_by(sessions.c.created_at, sessions.c.id)
)
"""Return the sessions of the fleet, oldest first."""

ALL_SESSIONS = Query(select(*_SESSION).order_by(sessions.c.created_at, sessions.c.id))
"""Return every session, stopped ones too, oldest first."""

SESSION_BY_NAME = Query(
    select(*_SESSION)
    .where(sessions.c.name == bindparam("name"))
    # By the rows' own order, not by the clock, which may have been set back: a name is free again only when its session
    # is stopped, so the last that was made was stopped last.
    .order_by(sessions.c.life == literal_column("'stopped'"), literal_column("sessions.rowid").desc())
    .limit(literal_column("1"))
)
"""Return the session that has a name now, else the one that was stopped last."""

NAMED = Query(
    select(sessions.c.id, sessions.c.name)
    .where(or_(bindparam("name").is_(null()), sessions.c.name == bindparam("name")))
    .order_by(literal_column("sessions.rowid"))
)
"""Return the id and name of all sessions, or of those that have had a name, in the order of their start."""

SESSION_BY_ID = Query(select(*_SESSION).where(sessions.c.id == bindparam("id")))
"""Return the session with an id."""

# -- requests and history

_REQUEST = (*requests.c, sessions.c.name.label("session"))
_JOINED = requests.join(sessions, sessions.c.id == requests.c.session_id)

_earlier = requests.alias("earlier")
_NEXT_SEQ = (
    select(func.coalesce(func.max(_earlier.c.seq), literal_column("0")) + literal_column("1"))
    .where(_earlier.c.session_id == requests.c.session_id)
    .scalar_subquery()
)

ACCEPT_COLUMNS = ("ref", "session_id", "key", "origin", "prompt", "accepted_at", "attempt", "started_at")
ACCEPT = Query(insert(requests).values(_given(*ACCEPT_COLUMNS)), ACCEPT_COLUMNS)
"""Add an accepted request. `attempt` and `started_at` come last: a start in the same batch is folded in there."""

START_ORDER = ("new_attempt", "new_started_at", "the_ref")
START = Query(
    update(requests)
    .where(requests.c.ref == bindparam("the_ref"), requests.c.ended_at.is_(None))
    .values(attempt=bindparam("new_attempt"), started_at=bindparam("new_started_at")),
    START_ORDER,
)
"""Note that a turn for a request is about to reach the backend."""

USAGE_COLUMNS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "cost_usd")
_OUTCOME = ("ended_at", "status", "reason", "detail", "duration_s", *USAGE_COLUMNS, "text")


def _new(name: str) -> ColumnElement[object]:
    """Return the outcome's value; a usage that was reported stays where the outcome knows of none (L08)."""
    given: ColumnElement[object] = bindparam(f"new_{name}")
    return func.coalesce(given, requests.c[name]) if name in USAGE_COLUMNS else given


FINISH_ORDER = (*(f"new_{name}" for name in _OUTCOME), "the_ref", "same_ended_at")
FINISH = Query(
    update(requests)
    .where(
        requests.c.ref == bindparam("the_ref"),
        # The second half makes a repeat harmless after a commit that failed only in the reporting.
        or_(requests.c.ended_at.is_(None), requests.c.ended_at == bindparam("same_ended_at")),
    )
    .values(
        seq=func.coalesce(requests.c.seq, case((requests.c.started_at.is_not(None), _NEXT_SEQ))),
        **{name: _new(name) for name in _OUTCOME},
    )
    .returning(requests.c.seq),
    FINISH_ORDER,
)
"""Note the one outcome of a request. The database numbers it if its start was durable, so no gap can come about."""

USED_ORDER = (*(f"new_{name}" for name in USAGE_COLUMNS), "the_ref")
USED = Query(
    update(requests)
    .where(requests.c.ref == bindparam("the_ref"))
    .values(**{name: bindparam(f"new_{name}") for name in USAGE_COLUMNS}),
    USED_ORDER,
)
"""Note what a request has used so far. One that has ended too: its backend may report late."""

MARK_INTERRUPTED = Query(
    update(requests)
    .where(requests.c.ref == bindparam("the_ref"), requests.c.ended_at.is_(None))
    .values(
        seq=bindparam("new_seq"),
        ended_at=bindparam("at"),
        started_at=func.coalesce(requests.c.started_at, bindparam("at")),
        duration_s=func.max(
            literal_column("0.0"), bindparam("at") - func.coalesce(requests.c.started_at, bindparam("at"))
        ),
        status=literal_column("'interrupted'"),
        reason=literal_column("'interrupted'"),
        detail=bindparam("why"),
    )
)
"""End a request that was in flight when the last daemon ended."""

REQUEST = Query(select(*_REQUEST).select_from(_JOINED).where(requests.c.ref == bindparam("ref")))
"""Return one request."""

REQUESTS = Query(select(*_REQUEST).select_from(_JOINED).where(requests.c.ref.in_(_json_list("refs"))))
"""Return those of many requests that exist, in no order."""

REQUEST_BY_KEY = Query(
    select(*_REQUEST)
    .select_from(_JOINED)
    .where(
        requests.c.session_id == bindparam("session_id"),
        requests.c.key == bindparam("key"),
        requests.c.key.is_not(None),
    )
)
"""Return the request that was accepted with an idempotency key."""

_fleet = sessions.alias("fleet")
UNFINISHED = Query(
    select(*_REQUEST)
    .select_from(_JOINED)
    .where(
        requests.c.session_id.in_(select(_fleet.c.id).where(_fleet.c.life != literal_column("'stopped'"))),
        requests.c.seq.is_(None),
        requests.c.ended_at.is_(None),
    )
    # The sign keeps SQLite from reading the whole table in this order instead of using the index.
    .order_by(literal_column("+requests.number"))
)
"""Return the requests of sessions that are not stopped without an outcome, in the order of acceptance."""

_HISTORY = (
    select(*_REQUEST)
    .select_from(_JOINED)
    .where(
        requests.c.session_id == bindparam("session_id"),
        requests.c.seq > bindparam("after"),
        requests.c.seq < bindparam("before"),
    )
    .limit(bindparam("count"))
)
HISTORY = Query(_HISTORY.order_by(requests.c.seq))
"""Return entries of a history, oldest first."""

NEWEST_HISTORY = Query(_HISTORY.order_by(requests.c.seq.desc()))
"""Return entries of a history, newest first."""

HISTORY_SIZE = Query(
    select(func.coalesce(func.max(requests.c.seq), literal_column("0"))).where(
        requests.c.session_id == bindparam("session_id")
    )
)
"""Return how many entries a history has: one look at the end of the index, whatever its length (E36)."""

# -- inbox

CURSORS = Query(select(cursors.c.session_id, cursors.c.seq).where(cursors.c.reader == bindparam("reader")))
"""Return a reader's cursors."""

SET_CURSOR = Query(
    sqlite.insert(cursors)
    .values(_given("reader", "session_id", "seq"))
    .on_conflict_do_update(
        index_elements=["reader", "session_id"], set_={"seq": literal_column("excluded.seq")}
    )
)
"""Move a reader's cursor."""

ADVANCE_CURSOR = Query(
    sqlite.insert(cursors)
    .values(_given("reader", "session_id", "seq"))
    .on_conflict_do_update(
        index_elements=["reader", "session_id"],
        set_={"seq": func.max(cursors.c.seq, literal_column("excluded.seq"))},
    )
)
"""Move a reader's cursor, unless it is further already."""

_CURSOR = func.coalesce(cursors.c.seq, literal_column("0"))
_BEHIND = sessions.outerjoin(
    cursors, (cursors.c.session_id == sessions.c.id) & (cursors.c.reader == bindparam("reader"))
)
_ONE_OR_ALL = or_(bindparam("session_id").is_(null()), sessions.c.id == bindparam("session_id"))

_READ = func.coalesce(
    select(cursors.c.seq)
    .where(cursors.c.session_id == sessions.c.id, cursors.c.reader == bindparam("reader"))
    .scalar_subquery(),
    literal_column("0"),
)
# The plus keeps SQLite from looking sessions up by id, that is from reading every request there ever was (E36); the
# subquery, rather than a join, lets it begin at the cursor.
_ITS_UNREAD = (requests.c.session_id == literal_column("+sessions.id")) & (requests.c.seq > _READ)

UNREAD = Query(
    select(*_REQUEST)
    .select_from(sessions.join(requests, _ITS_UNREAD))
    .where(_ONE_OR_ALL)
    .order_by(requests.c.ended_at, requests.c.number)
    .limit(bindparam("count"))
)
"""Return the entries after a reader's cursors, of one session or (NULL) of all, oldest first."""

UNREAD_COUNTS = Query(
    select(sessions.c.id, sessions.c.name, _TURNS.label("turns"), _CURSOR.label("cursor"))
    .select_from(_BEHIND)
    .where(_ONE_OR_ALL, or_(_TURNS > _CURSOR, sessions.c.id == bindparam("session_id")))
    .order_by(sessions.c.created_at, sessions.c.id)
)
"""Return how far a reader is behind: each session with something new, and the one asked for."""

# -- summaries

_newer = summaries.alias("newer")

ADD_SUMMARY = Query(
    insert(summaries)
    .values(
        **_given("session_id", "text", "author", "at", "at_turn"),
        version=select(func.coalesce(func.max(_newer.c.version), literal_column("0")) + literal_column("1"))
        .where(_newer.c.session_id == bindparam("session_id"))
        .scalar_subquery(),
    )
    .inline()
)
"""Append a version of a summary."""

_SUMMARY = (*summaries.c, sessions.c.name.label("session"), _TURNS.label("turns"))
_SUMMARIES = select(*_SUMMARY).select_from(summaries.join(sessions, sessions.c.id == summaries.c.session_id))
_NEWEST = (
    select(func.max(_newer.c.version)).where(_newer.c.session_id == summaries.c.session_id).scalar_subquery()
)

SUMMARY = Query(
    _SUMMARIES.where(
        summaries.c.session_id == bindparam("session_id"),
        summaries.c.version == func.coalesce(bindparam("version"), _NEWEST),
    )
)
"""Return a version of a summary, the newest for NULL."""

NEWEST_SUMMARIES = Query(
    _SUMMARIES.where(summaries.c.session_id.in_(_json_list("session_ids")), summaries.c.version == _NEWEST)
)
"""Return the newest summary of each of many sessions."""

SUMMARY_VERSIONS = Query(
    _SUMMARIES.where(summaries.c.session_id == bindparam("session_id")).order_by(summaries.c.version)
)
"""Return all versions of a summary, oldest first."""

# -- approvals

REQUEST_APPROVAL = Query(
    insert(approvals).values(
        _given(
            "id",
            "session_id",
            "ref",
            "path",
            "tool",
            "arguments",
            "display",
            "allowed",
            "state",
            "requested_at",
            "kind",
            "questions",
        )
    )
)
"""Add a question before it is shown."""

_CLOSING: dict[str, Any] = {
    name: bindparam(f"new_{name}") for name in ("state", "decided_at", "decided_by", "decision")
}
CLOSE_APPROVAL = Query(
    update(approvals)
    .where(approvals.c.id == bindparam("the_id"), approvals.c.state == literal_column("'pending'"))
    .values(_CLOSING)
)
"""Note how a question was answered; the first answer stays."""

_EXPIRED: dict[str, Any] = {
    "state": literal_column("'expired'"), "decided_at": bindparam("at"), "decided_by": bindparam("why")
}  # fmt: skip

EXPIRE_APPROVALS = Query(
    update(approvals)
    .where(
        approvals.c.state == literal_column("'pending'"),
        approvals.c.ref.not_in(_json_list("kept")),
    )
    .values(_EXPIRED)
)
"""Expire every question that waits, but for those of the refs in a JSON array."""

_APPROVALS = select(*approvals.c, sessions.c.name.label("session")).select_from(
    approvals.join(sessions, sessions.c.id == approvals.c.session_id)
)
_OF_SESSION = approvals.c.session_id == bindparam("session_id")
_IN_STATE = approvals.c.state == bindparam("state")
_LAST_500 = 500

APPROVAL = Query(_APPROVALS.where(approvals.c.id == bindparam("id")))
"""Return one approval."""

STATE_APPROVALS = Query(_APPROVALS.where(_IN_STATE).order_by(approvals.c.number))
"""Return the approvals in a state, oldest first."""

SESSION_STATE_APPROVALS = Query(_APPROVALS.where(_OF_SESSION, _IN_STATE).order_by(approvals.c.number))
"""Return a session's approvals in a state, oldest first."""

REF_APPROVALS = Query(_APPROVALS.where(approvals.c.ref == bindparam("ref")).order_by(approvals.c.number))
"""Return what a request asked people, oldest first."""

LAST_APPROVALS = Query(_APPROVALS.order_by(approvals.c.number.desc()).limit(_LAST_500))
"""Return the newest approvals of every state, newest first."""

SESSION_LAST_APPROVALS = Query(
    _APPROVALS.where(_OF_SESSION).order_by(approvals.c.number.desc()).limit(_LAST_500)
)
"""Return a session's newest approvals of every state, newest first."""

# -- memory

KEEP = Query(
    sqlite.insert(memory)
    .values(_given("session_id", "name", "text"))
    .on_conflict_do_update(
        index_elements=["session_id", "name"], set_={"text": literal_column("excluded.text")}
    )
)
"""Keep a text of a session's backend under a name."""

_REMEMBERED = memory.c.session_id == bindparam("session_id")

FORGET = Query(delete(memory).where(_REMEMBERED, memory.c.name == bindparam("name")))
"""Forget one."""

MEMORY = Query(
    select(memory.c.name, memory.c.text)
    .where(_REMEMBERED, memory.c.name >= bindparam("low"), memory.c.name < bindparam("high"))
    .order_by(memory.c.name)
)
"""Return the texts in a range of names."""

# -- sub-agents

ADD_SUB_AGENT = Query(
    sqlite.insert(sub_agents)
    .values(
        _given(
            "id",
            "session_id",
            "ref",
            "parent",
            "name",
            "path",
            "model",
            "instructions",
            "status",
            "started_at",
        )
    )
    .on_conflict_do_nothing()
)
"""Add a sub-agent unless it is known."""

_THE_OPEN = (sub_agents.c.id == bindparam("the_id"), sub_agents.c.ended_at.is_(None))

SET_SUB_AGENT_STATUS = Query(update(sub_agents).where(*_THE_OPEN).values(status=bindparam("new_status")))
"""Note that one waits for a person, or works again."""

COUNT_SUB_AGENT_TURNS = Query(
    update(sub_agents).where(sub_agents.c.id == bindparam("the_id")).values(turns=bindparam("new_turns"))
)
"""Note how often one has called its model."""

END_SUB_AGENT = Query(
    update(sub_agents)
    .where(*_THE_OPEN)
    .values(
        status=bindparam("new_status"), ended_at=bindparam("at"), turns=bindparam("new_turns"),
        duration_s=bindparam("new_duration_s"), input_tokens=bindparam("new_input_tokens"),
        output_tokens=bindparam("new_output_tokens"), cache_read_tokens=bindparam("new_cache_read_tokens"),
        cache_creation_tokens=bindparam("new_cache_creation_tokens"), cost_usd=bindparam("new_cost_usd"),
        result=bindparam("new_result"), error=bindparam("new_error"),
    )
)  # fmt: skip
"""Note how one ended; the first end stays."""

_OPEN_SUB_AGENTS = (
    select(
        sub_agents.c.id, sub_agents.c.session_id, sessions.c.name, sub_agents.c.ref, sub_agents.c.name,
        sub_agents.c.turns, sub_agents.c.started_at,
    )
    .select_from(sub_agents.join(sessions, sessions.c.id == sub_agents.c.session_id))
    .where(sub_agents.c.ended_at.is_(None))
    .order_by(sub_agents.c.number)
)  # fmt: skip

OPEN_SUB_AGENT = Query(_OPEN_SUB_AGENTS.where(sub_agents.c.id == bindparam("found")))
"""Return the sub-agent of this id if it has not ended."""

OPEN_SUB_AGENTS_BELOW = Query(_OPEN_SUB_AGENTS.where(sub_agents.c.ref == bindparam("found")))
"""Return the sub-agents of a request that have not ended, in the order in which they began."""

DELEGATING = Query(select(sub_agents.c.ref).where(sub_agents.c.ended_at.is_(None)).distinct())
"""Return the requests below which sub-agents are left open."""

ADD_SUB_AGENT_MESSAGE = Query(
    insert(sub_agent_messages).values(_given("sub_agent_id", "role", "tool", "call_id", "text", "at"))
)
"""Add a message of a sub-agent."""

_LAST_MESSAGES = 5
LAST_SUB_AGENT_MESSAGES = Query(
    select(sub_agent_messages.c.role, sub_agent_messages.c.tool, sub_agent_messages.c.text)
    .where(sub_agent_messages.c.sub_agent_id == bindparam("id"))
    .order_by(sub_agent_messages.c.number.desc())
    .limit(_LAST_MESSAGES)
)
"""Return the newest messages of a sub-agent, newest first."""

_SUB_AGENTS = select(*sub_agents.c, sessions.c.name.label("session")).select_from(
    sub_agents.join(sessions, sessions.c.id == sub_agents.c.session_id)
)

SUB_AGENT = Query(_SUB_AGENTS.where(sub_agents.c.id == bindparam("id")))
"""Return one sub-agent."""

SUB_AGENTS_OF = Query(
    _SUB_AGENTS.where(sub_agents.c.session_id == bindparam("session_id"))
    .order_by(sub_agents.c.ended_at.is_not(None), sub_agents.c.number.desc())
    .limit(bindparam("count"))
)
"""Return a session's sub-agents: those that have not ended first, then the newest."""

OPEN_SUB_AGENTS_OF = Query(
    _SUB_AGENTS.where(sub_agents.c.session_id == bindparam("session_id"), sub_agents.c.ended_at.is_(None))
    .order_by(sub_agents.c.number.desc())
    .limit(bindparam("count"))
)
"""Return a session's sub-agents that have not ended, newest first."""

SUB_AGENT_MESSAGES = Query(
    select(
        sub_agent_messages.c.number, sub_agent_messages.c.role, sub_agent_messages.c.tool,
        sub_agent_messages.c.call_id, sub_agent_messages.c.text, sub_agent_messages.c.at,
    )
    .where(sub_agent_messages.c.sub_agent_id == bindparam("id"), sub_agent_messages.c.number > bindparam("after"))
    .order_by(sub_agent_messages.c.number)
    .limit(bindparam("count"))
)  # fmt: skip
"""Return a sub-agent's messages after a number, oldest first."""

# -- feed

FEED_COLUMNS = ("session_id", "session", "ref", "kind", "at", "data")
FEED = Query(insert(events).values(_given(*FEED_COLUMNS)), FEED_COLUMNS)
"""Append an item to the feed; the database numbers it."""

_FEED = (
    select(events.c.seq, events.c.at, events.c.session, events.c.ref, events.c.kind, events.c.data)
    .where(
        events.c.seq > bindparam("after"),
        or_(bindparam("kinds").is_(null()), events.c.kind.in_(_json_list("kinds"))),
        or_(bindparam("ref").is_(null()), events.c.ref == bindparam("ref")),
    )
    .order_by(events.c.seq)
    .limit(bindparam("count"))
)
FEED_AFTER = Query(_FEED)
"""Return feed items after a number."""

SESSION_FEED_AFTER = Query(_FEED.where(events.c.session == bindparam("session")))
"""Return a session's feed items after a number."""

SESSION_OF_REF = Query(select(sessions.c.name).select_from(_JOINED).where(requests.c.ref == bindparam("ref")))
"""Return the name of a request's session: with it the feed of one ref is found by the index."""

FEED_BOUNDS = Query(
    select(
        select(func.min(events.c.seq)).scalar_subquery(),
        select(func.max(events.alias("e").c.seq)).scalar_subquery(),
    )
)
"""Return the oldest and the newest number that are kept."""

# -- retention: each deletes one bounded slice

_kept = events.alias("kept")
_NEWEST_TOO_MANY = (
    select(_kept.c.seq)
    .where(_kept.c.session == bindparam("session"))
    .order_by(_kept.c.seq.desc())
    .limit(literal_column("1"))
    .offset(bindparam("keep"))
    .scalar_subquery()
)
_surplus = events.alias("surplus")
PRUNE_SESSION = Query(
    delete(events).where(
        events.c.seq.in_(
            select(_surplus.c.seq)
            .where(_surplus.c.session == bindparam("session"), _surplus.c.seq <= _NEWEST_TOO_MANY)
            .order_by(_surplus.c.seq)
            .limit(bindparam("slice"))
        )
    )
)
"""Delete a slice of what a session's feed holds beyond the number to keep."""

_oldest = select(events.c.seq, events.c.at).order_by(events.c.seq).limit(bindparam("slice")).subquery()
PRUNE_AGE = Query(
    delete(events).where(
        events.c.seq.in_(select(_oldest.c.seq).where(_oldest.c.at < bindparam("older_than")))
    )
)
"""Delete those of the oldest items that are too old."""
