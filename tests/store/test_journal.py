"""A session's journal: history without gaps, one outcome for each request, texts of every kind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.store.samples import (
    ManualClock,
    begin,
    completed,
    failed,
    request,
    start,
    started_session,
    turn,
    value,
)
from tollboard.errors import KeyReused, StoreError
from tollboard.fleet.records import Life, RequestState, TurnStatus
from tollboard.runtime.event import Usage
from tollboard.runtime.request import Origin, Request
from tollboard.runtime.results import Failed, Reason
from tollboard.store.journal import StoreJournal
from tollboard.store.store import Store


async def test_s03_turns_become_entries_numbered_from_one(store: Store, clock: ManualClock) -> None:
    made, journal = await started_session(store, "s")
    usage = Usage(input_tokens=5, output_tokens=7, cost_usd=0.25)
    good = await turn(journal, "a", completed("text", usage))
    bad = await turn(journal, "b", failed())
    bare = await turn(journal, "c", failed(Reason.TIMEOUT, ""))
    cut = await turn(journal, "d", failed(Reason.INTERRUPTED, "by ann"))
    entries = await store.history(made.id, limit=10)
    assert [(e.seq, e.ref, e.prompt) for e in entries] == [
        (1, good.ref, "a"), (2, bad.ref, "b"), (3, bare.ref, "c"), (4, cut.ref, "d"),
    ]  # fmt: skip
    assert [e.status.value for e in entries] == ["ok", "failed", "failed", "interrupted"]
    assert [e.text for e in entries] == ["text", None, None, None]
    assert [e.error for e in entries] == [None, "backend_error: no luck", "timeout", "interrupted: by ann"]
    assert [e.usage for e in entries] == [usage, None, None, None]
    first = entries[0]
    assert (first.session, first.duration_s, first.attempt) == ("s", 1.5, 1)
    assert (first.started_at, first.completed_at) == (11.0, clock.now)
    assert journal.turns == 4 == await store.history_size(made.id)


async def test_history_pages_both_ways(store: Store) -> None:
    made, journal = await started_session(store)
    for _ in range(7):
        await turn(journal)

    async def seqs(**how: int | bool) -> list[int]:
        return [e.seq for e in await store.history(made.id, **how)]  # type: ignore[arg-type]

    assert await seqs(limit=3) == [1, 2, 3]
    assert await seqs(limit=3, after=3) == [4, 5, 6]
    assert await seqs(limit=3, newest=True) == [5, 6, 7]
    assert await seqs(limit=3, before=5, newest=True) == [2, 3, 4]
    assert await seqs(limit=3, after=1, before=3) == [2]
    assert await seqs(limit=3, after=7) == []


async def test_withdrawn_requests_have_an_outcome_but_no_entry(store: Store) -> None:
    made, journal = await started_session(store)
    await turn(journal)
    queued = request("never runs")
    await journal.accepted(queued)
    commit = journal.finished(queued, Failed(Reason.CANCELLED), 0.0)
    assert commit is not None
    await commit
    await turn(journal)
    assert [e.seq for e in await store.history(made.id, limit=10)] == [1, 2]
    found = await store.request(queued.ref)
    assert found is not None
    assert found.entry is None
    assert (found.receipt.state, found.receipt.outcome, found.receipt.started_at) == (
        RequestState.ENDED, "cancelled", None,
    )  # fmt: skip
    assert (found.reason, found.detail) == ("cancelled", "")
    assert await store.unfinished() == []


async def test_s22_a_receipt_follows_the_request(store: Store) -> None:
    _, journal = await started_session(store)
    made = request("p", at=10.0)

    async def receipt() -> tuple[str, float | None, float | None, str | None]:
        found = await store.request(made.ref)
        assert found is not None
        assert found.prompt == "p"
        seen = found.receipt
        assert (seen.accepted_at, seen.position, seen.inferred) == (10.0, None, False)
        return seen.state.value, seen.started_at, seen.ended_at, seen.outcome

    await journal.accepted(made)
    assert await receipt() == ("queued", None, None, None)
    start(journal, made, at=12.0)
    await store.flush()
    assert await receipt() == ("started", 12.0, None, None)
    commit = journal.finished(made, completed(), 1.0)
    assert commit is not None
    await commit
    assert await receipt() == ("ended", 12.0, 1_000.0, "completed")
    assert await store.request("unknown") is None


async def test_a_retry_keeps_one_row_and_counts_its_attempts(store: Store) -> None:
    made, journal = await started_session(store)
    retried = request()
    begin(journal, retried, at=11.0)
    start(journal, retried, at=13.0)
    commit = journal.finished(retried, completed("second try"), 1.0)
    assert commit is not None
    await commit
    (entry,) = await store.history(made.id, limit=10)
    assert (entry.attempt, entry.started_at, entry.text) == (2, 13.0, "second try")


async def test_a_start_without_a_time_takes_the_clock(store: Store, clock: ManualClock) -> None:
    _, journal = await started_session(store)
    made = request()
    await journal.accepted(made)
    await journal.started(made)
    found = await store.request(made.ref)
    assert found is not None
    assert found.receipt.started_at == clock.now


async def test_requests_come_in_the_order_asked_and_unfinished_ones_in_order_of_acceptance(
    store: Store,
) -> None:
    _, journal = await started_session(store)
    stopped, other = await started_session(store)
    refs = []
    for origin in (Origin.TELL, Origin.CHAIN, Origin.ASK):
        made = Request(request().ref, origin.value, origin, 10.0)
        await journal.accepted(made)
        refs.append(made.ref)
    await other.accepted(request())
    await store.set_life(stopped.id, Life.STOPPED, at=1.0)
    found = await store.requests([refs[2], "unknown", refs[0], refs[2]])
    assert [r.ref for r in found] == [refs[2], refs[0], refs[2]]
    open_ones = await store.unfinished()
    assert [(r.ref, r.origin.value) for r in open_ones] == list(
        zip(refs, ["tell", "chain", "ask"], strict=True)
    )


async def test_s12_what_was_in_flight_is_marked_interrupted(store: Store, path: Path) -> None:
    made, journal = await started_session(store)
    await turn(journal)
    running, queued = request("running"), request("queued")
    begin(journal, running, at=20.0)
    await journal.accepted(queued)
    again = await Store.open(path)
    first, second = await again.unfinished()
    assert (first.ref, first.receipt.state) == (running.ref, RequestState.STARTED)
    assert (second.ref, second.receipt.state) == (queued.ref, RequestState.QUEUED)
    await again.mark_interrupted(first, seq=2, at=50.0, detail="the daemon ended")
    await again.mark_interrupted(first, seq=3, at=60.0, detail="a second time changes nothing")
    entry = (await again.history(made.id, limit=10))[-1]
    assert (entry.seq, entry.status, entry.error) == (
        2,
        TurnStatus.INTERRUPTED,
        "interrupted: the daemon ended",
    )
    assert (entry.started_at, entry.completed_at, entry.duration_s) == (20.0, 50.0, 30.0)
    assert [r.ref for r in await again.unfinished()] == [queued.ref]
    (record,) = await again.sessions()
    resumed = again.journal(record)
    assert resumed.turns == 2
    start(resumed, queued)
    commit = resumed.finished(queued, completed(), 1.0)
    assert commit is not None
    await commit
    assert resumed.turns == 3
    await again.close()


async def test_s18_a_key_can_be_used_once_and_the_second_request_never_runs(store: Store) -> None:
    made, journal = await started_session(store)
    first, second, bystander = request("pay"), request("pay"), request("other")
    journal.keyed(first.ref, "k")
    await journal.accepted(first)
    journal.keyed(second.ref, "k")
    second.commit = accepted = journal.accepted(second)
    second.attempt, second.started_at = 1, 11.0
    begun = journal.started(second)
    beside = journal.accepted(bystander)
    with pytest.raises(KeyReused):
        await accepted
    with pytest.raises(StoreError, match="must not run"):
        await begun
    await beside
    assert journal.finished(second, Failed(Reason.STORE_FAILED), 0.0) is None
    assert await store.history_size(made.id) == 0
    assert await store.request(second.ref) is None


async def test_e49_a_ref_is_never_used_twice(store: Store) -> None:
    _, journal = await started_session(store)
    made = await turn(journal, "mine", completed("my result"))
    with pytest.raises(StoreError, match="UNIQUE"):
        await journal.accepted(request("somebody else's", ref=made.ref))
    found = await store.request(made.ref)
    assert found is not None
    assert found.entry is not None
    assert (found.prompt, found.entry.text) == ("mine", "my result")


async def test_a_request_that_has_ended_cannot_start_or_end_again(store: Store) -> None:
    made, journal = await started_session(store)
    done = await turn(journal, outcome=completed("kept"))
    with pytest.raises(StoreError, match="must not run"):
        await journal.started(done)
    later = store.journal(made)
    later._clock = ManualClock(2_000.0)
    commit = later.finished(done, failed(), 1.0)
    assert commit is not None
    await commit
    (entry,) = await store.history(made.id, limit=10)
    assert (entry.text, later.turns) == ("kept", 0)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("nul \x00 and \x1b controls", "nul \x00 and \x1b controls"),
        ("zażółć 🦆 \u202e", "zażółć 🦆 \u202e"),
        ("", ""),
    ],
)
async def test_texts_of_every_kind_survive(store: Store, given: str, kept: str) -> None:
    made, journal = await started_session(store)
    beside = journal.accepted(request("bystander"))
    done = await turn(journal, given, completed(given))
    await beside
    await turn(journal, "again", failed(Reason.BACKEND_ERROR, given))
    first, second = await store.history(made.id, limit=10)
    assert (first.ref, first.prompt, first.text) == (done.ref, kept, kept)
    assert second.error == (f"backend_error: {kept}" if kept else "backend_error")


async def test_odd_text_as_a_key_is_found_again(store: Store) -> None:
    made, journal = await started_session(store)
    keyed = request()
    journal.keyed(keyed.ref, "k\udfff")
    await journal.accepted(keyed)
    found = await store.request_by_key(made.id, "k\udfff")
    assert found is not None
    assert found.ref == keyed.ref
    assert await store.requests(["\udfff"]) == []


async def test_ten_megabytes_go_in_and_out(store: Store) -> None:
    made, journal = await started_session(store)
    big = "ä" * 5_000_000
    await turn(journal, big, completed(big))
    (entry,) = await store.history(made.id, limit=1)
    assert entry.prompt == big
    assert entry.text == big


async def test_odd_usage_counts_as_not_reported(store: Store) -> None:
    made, journal = await started_session(store)
    odd = Usage("many", 2**70, 1.5, 3, "cheap")  # type: ignore[arg-type]
    await turn(journal, outcome=completed("text", odd))
    (entry,) = await store.history(made.id, limit=1)
    assert entry.usage == Usage(cache_creation_tokens=3)


async def test_a_result_that_can_never_be_stored_ends_the_request_all_the_same(store: Store) -> None:
    made, journal = await started_session(store)
    begun = request()
    begin(journal, begun)
    commit = journal.finished(begun, completed(b"not text"), 1.0)  # type: ignore[arg-type]
    assert commit is not None
    with pytest.raises(StoreError):
        await commit
    (entry,) = await store.history(made.id, limit=1)
    assert (entry.status, journal.turns) == (TurnStatus.FAILED, 1)
    assert entry.error is not None
    assert entry.error.startswith("store_failed: ")


async def test_checkpoints_keep_the_settings_when_none_are_given(store: Store) -> None:
    made, journal = await started_session(store)
    await journal.checkpointed("p1", {"model": "m"})
    await journal.checkpointed("p2", None)
    found = await store.find_session(made.id)
    assert found is not None
    assert (found.provider_session_id, found.effective) == ("p2", {"model": "m"})
    await journal.halted(True)
    await journal.halted(False)
    found = await store.find_session(made.id)
    assert found is not None
    assert found.halted is False


async def test_e36_a_long_history_costs_an_index_look_not_a_scan(store: Store, path: Path) -> None:
    from tollboard.store import queries

    plans = {
        "size": (queries.HISTORY_SIZE, "requests_seq"),
        "newest": (queries.NEWEST_HISTORY, "requests_seq"),
        "unfinished": (queries.UNFINISHED, "requests_seq"),
        "key": (queries.REQUEST_BY_KEY, "requests_key"),
        "ref": (queries.REQUEST, "requests_ref"),
        "refs": (queries.REQUESTS, "requests_ref"),
        "finish": (queries.FINISH, "requests_ref"),
        "session": (queries.SESSION_BY_NAME, "sessions_name"),
        "feed": (queries.SESSION_FEED_AFTER, "events_session"),
        "prune": (queries.PRUNE_SESSION, "events_session"),
        "deleting": (queries.DELETE_SESSION_EVENTS, "events_session"),
        "asked": (queries.STATE_APPROVALS, "approvals_state"),
    }
    from tests.store.samples import raw

    connection = raw(path)
    for name, (query, index) in plans.items():
        plan = connection.execute(f"EXPLAIN QUERY PLAN {query.sql}", [None] * len(query.names)).fetchall()
        text = " | ".join(row[3] for row in plan)
        assert index in text, (name, text)
    connection.close()


async def test_ten_thousand_journals_are_light(store: Store, path: Path) -> None:
    made, journal = await started_session(store)
    assert not hasattr(journal, "__dict__")
    assert sys.getsizeof(journal) <= 128
    assert value(path, "SELECT count(*) FROM sessions") == 1
    assert isinstance(store.journal(made), StoreJournal)


async def test_l08_what_a_request_has_used_is_kept_however_it_ends(store: Store) -> None:
    made, journal = await started_session(store)
    for outcome in (failed(), Failed(Reason.INTERRUPTED, usage=Usage(9, 9)), completed("ok", Usage(3, 3))):
        one = request()
        begin(journal, one)
        _ = journal.used(one, Usage(1, 2, cost_usd=0.5))
        commit = journal.finished(one, outcome, 1.0)
        assert commit is not None
        await commit
    late = await turn(journal)
    await journal.used(late, Usage(7, 8))
    entries = await store.history(made.id, limit=10)
    assert [e.usage for e in entries] == [
        Usage(1, 2, cost_usd=0.5), Usage(9, 9, cost_usd=0.5), Usage(3, 3, cost_usd=0.5), Usage(7, 8)
    ]  # fmt: skip


async def test_l08_what_a_killed_request_has_used_is_kept(store: Store) -> None:
    made, journal = await started_session(store)
    one = request()
    begin(journal, one)
    await journal.used(one, Usage(40, 4))
    (stored,) = await store.unfinished()
    await store.mark_interrupted(stored, seq=1, at=50.0, detail="the daemon ended")
    (entry,) = await store.history(made.id, limit=10)
    assert entry.usage == Usage(40, 4)
