"""Sessions, inbox cursors, summaries, approvals: what is written is there, also after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.samples import begin, completed, item, record, request, started_session, turn, value
from tollboard.errors import AgentExists, StoreError, StoreUnavailable
from tollboard.fleet.records import ApprovalState, Life
from tollboard.runtime.approval import Approval, ApprovalRequest, Approve, Edit, Reject
from tollboard.runtime.journal import Journal
from tollboard.store.store import Store


def contract(store: Store) -> None:
    """Checked by mypy, not run: the store is a Ledger, its journals are SessionJournals."""
    from tollboard.fleet.ledger import Ledger, SessionJournal

    ledger: Ledger = store
    journal: SessionJournal = store.journal(record())
    narrow: Journal = journal
    assert ledger
    assert narrow


async def test_s11_everything_is_there_after_a_restart(store: Store, path: Path) -> None:
    made = record("alpha", options={"model": "m", "secret": "s3cret"}, effective={"model": "m"})
    await store.create_session(made)
    journal = store.journal(made)
    done = await turn(journal, "first")
    waiting = request("second")
    await journal.accepted(waiting)
    await journal.checkpointed("provider-1", {"model": "other"})
    await journal.halted(True)
    await store.add_summary(made.id, text="# so far", author="me", at=5.0, at_turn=1)
    await store.set_cursor(made.id, "me", 1)
    await journal.approval_requested(
        Approval("ap", "alpha", waiting.ref, ApprovalRequest("rm", {"a": 1}), 6.0)
    )
    store.feed(item(made, ref=done.ref, data={"n": 1}))
    await store.close()

    again = await Store.open(path)
    found = await again.find_session("alpha")
    assert found is not None
    assert (found.id, found.options, found.halted, found.turns) == (made.id, made.options, True, 1)
    assert (found.provider_session_id, found.effective) == ("provider-1", {"model": "other"})
    assert [e.ref for e in await again.history(made.id, limit=10)] == [done.ref]
    assert [r.ref for r in await again.unfinished()] == [waiting.ref]
    summary = await again.summary(made.id)
    assert summary is not None
    assert summary.text == "# so far"
    assert await again.cursors("me") == {made.id: 1}
    assert [a.id for a in await again.approvals(state=ApprovalState.PENDING)] == ["ap"]
    assert [i.data for i in await again.feed_after(0, limit=10)] == [{"n": 1}]
    await again.close()


async def test_a_name_is_taken_until_its_session_is_stopped(store: Store) -> None:
    first, _ = await started_session(store, "worker")
    with pytest.raises(AgentExists, match="not stopped"):
        await store.create_session(record("worker"))
    await store.set_life(first.id, Life.DEAD, at=4.0, problem="it crashed")
    with pytest.raises(AgentExists):
        await store.create_session(record("worker"))
    dead = await store.find_session("worker")
    assert dead is not None
    assert (dead.life, dead.problem, dead.stopped_at) == (Life.DEAD, "it crashed", None)
    await store.set_life(first.id, Life.STOPPED, at=5.0)
    second, _ = await started_session(store, "worker")
    found = await store.find_session("worker")
    assert found is not None
    assert found.id == second.id


async def test_finding_prefers_the_live_then_the_last_stopped_then_the_id(store: Store) -> None:
    older, newer = record("x"), record("x")
    for made, at in ((older, 50.0), (newer, 60.0)):
        await store.create_session(made)
        await store.set_life(made.id, Life.STOPPED, at=at)
    found = await store.find_session("x")
    assert found is not None
    assert (found.id, found.stopped_at) == (newer.id, 60.0)
    by_id = await store.find_session(older.id)
    assert by_id is not None
    assert by_id.id == older.id
    assert await store.find_session("nobody") is None
    assert await store.sessions() == []
    assert [s.id for s in await store.sessions(every=True)] == [older.id, newer.id]


async def test_the_last_stopped_of_a_name_is_found_though_the_clock_was_set_back(store: Store) -> None:
    older, newer = record("x"), record("x")
    for made, at in ((older, 60.0), (newer, 50.0)):
        await store.create_session(made)
        await store.set_life(made.id, Life.STOPPED, at=at)
    found = await store.find_session("x")
    assert found is not None
    assert found.id == newer.id


async def test_deleting_a_session_removes_every_row_of_it(store: Store, path: Path) -> None:
    gone, journal = await started_session(store, "gone")
    kept, other = await started_session(store, "kept")
    for made, its in ((gone, journal), (kept, other)):
        done = await turn(its)
        await store.add_summary(made.id, text="t", author="a", at=1.0, at_turn=1)
        await store.set_cursor(made.id, "me", 1)
        await its.approval_requested(
            Approval(f"ap-{made.name}", "x", done.ref, ApprovalRequest("t", {}), 1.0)
        )
        store.feed(item(made))
    await store.delete_session(gone.id)
    assert await store.find_session(gone.id) is None
    tables = ("sessions", "requests", "summaries", "cursors", "approvals", "events")
    assert [value(path, f"SELECT count(*) FROM {t}") for t in tables] == [1] * 6
    with pytest.raises(StoreError, match="deleted"):
        await journal.accepted(request())


async def test_s21_readers_have_their_own_cursors_that_can_go_back(store: Store) -> None:
    one, _ = await started_session(store)
    two, _ = await started_session(store)
    await store.set_cursor(one.id, "me", 5)
    await store.set_cursor(one.id, "me", 5)
    await store.set_cursor(two.id, "me", 2)
    await store.set_cursor(one.id, "script", 7)
    assert await store.cursors("me") == {one.id: 5, two.id: 2}
    await store.set_cursor(one.id, "me", 3)
    assert await store.cursors("me") == {one.id: 3, two.id: 2}
    assert await store.cursors("script") == {one.id: 7}
    assert await store.cursors("nobody") == {}


async def test_e05_what_is_unread_is_told_by_number(store: Store) -> None:
    one, first = await started_session(store, "one")
    two, second = await started_session(store, "two")
    quiet, _ = await started_session(store, "quiet")
    for journal in (first, second, first):
        await turn(journal)
    shown = await store.unread("me", limit=10)
    assert [(e.session, e.seq) for e in shown] == [("one", 1), ("two", 1), ("one", 2)]
    # A turn that ends between the look and the acknowledgement stays unread.
    await turn(first)
    await store.set_cursor(one.id, "me", 2)
    assert [(e.session, e.seq) for e in await store.unread("me", limit=10)] == [("two", 1), ("one", 3)]
    assert [(e.session, e.seq) for e in await store.unread("me", session_id=one.id, limit=10)] == [("one", 3)]
    assert len(await store.unread("other", limit=2)) == 2
    behind = await store.unread_counts("me")
    assert [(b.session_id, b.turns, b.cursor) for b in behind] == [(one.id, 3, 2), (two.id, 1, 0)]
    asked = await store.unread_counts("me", session_id=quiet.id)
    assert [(b.session, b.turns, b.cursor) for b in asked] == [("quiet", 0, 0)]


async def test_s25_summaries_keep_their_versions_and_count_the_turns_since(store: Store) -> None:
    made, journal = await started_session(store, "s")
    other, _ = await started_session(store)
    assert await store.summary(made.id) is None
    await turn(journal)
    await store.add_summary(made.id, text="one", author="ann", at=1.0, at_turn=1)
    await turn(journal)
    await turn(journal)
    await store.add_summary(made.id, text="two", author="bob", at=2.0, at_turn=2)
    newest = await store.summary(made.id)
    assert newest is not None
    assert (newest.session, newest.version, newest.text, newest.author, newest.at) == (
        "s",
        2,
        "two",
        "bob",
        2.0,
    )
    assert newest.turns_since == 1
    first = await store.summary(made.id, version=1)
    assert first is not None
    assert (first.text, first.turns_since) == ("one", 2)
    assert await store.summary(made.id, version=9) is None
    assert [s.version for s in await store.summary_versions(made.id)] == [1, 2]
    assert await store.summaries([made.id, other.id, "unknown"]) == {made.id: newest}


async def test_approvals_keep_who_decided_and_the_first_answer_stays(store: Store, clock: object) -> None:
    made, journal = await started_session(store, "s")
    other, elsewhere = await started_session(store)
    asked = [
        Approval(f"ap{n}", "s/helper", "ref", ApprovalRequest("rm", {"path": "/x"}, "", f"rm {n}"), float(n))
        for n in range(4)
    ]
    for approval in asked:
        await journal.approval_requested(approval)
    await elsewhere.approval_requested(
        Approval("far", "o", "r", ApprovalRequest("t", {}, allowed=("reject",)), 9.0)
    )
    await journal.approval_closed(asked[0], Approve(), "cli:ann")
    await journal.approval_closed(asked[0], Reject("no"), "web:bob")
    await journal.approval_closed(asked[1], Edit({"path": "/y"}), "cli:ann")
    await journal.approval_closed(asked[2], Reject("never"), "mcp:bot")
    await journal.approval_closed(asked[3], None, "the turn was interrupted")
    found = {a.id: a for a in await store.approvals(session_id=made.id, state=None)}
    assert list(found) == ["ap0", "ap1", "ap2", "ap3"]
    assert [a.state.value for a in found.values()] == ["approved", "edited", "rejected", "expired"]
    assert [a.decided_by for a in found.values()] == [
        "cli:ann",
        "cli:ann",
        "mcp:bot",
        "the turn was interrupted",
    ]
    assert [a.decision for a in found.values()] == [
        {"type": "approve"},
        {"type": "edit", "arguments": {"path": "/y"}},
        {"type": "reject", "message": "never"},
        None,
    ]
    one = found["ap0"]
    assert (one.session, one.path, one.tool, one.arguments, one.display) == (
        "s", "s/helper", "rm", {"path": "/x"}, "rm 0",
    )  # fmt: skip
    assert (one.requested_at, one.decided_at) == (0.0, 1_000.0)
    assert [a.id for a in await store.approvals(state=ApprovalState.PENDING)] == ["far"]
    assert [a.id for a in await store.approvals(session_id=other.id, state=ApprovalState.PENDING)] == ["far"]
    assert [a.id for a in await store.approvals(state=None)] == ["ap0", "ap1", "ap2", "ap3", "far"]
    await store.expire_approvals(at=12.0, why="the daemon ended")
    far = await store.approval("far")
    assert far is not None
    assert (far.state, far.decided_by) == (ApprovalState.EXPIRED, "the daemon ended")
    assert far.allowed == ("reject",)
    assert await store.approval("unknown") is None


async def test_s18_a_key_finds_its_request_also_after_a_restart(store: Store, path: Path) -> None:
    made, journal = await started_session(store)
    other, elsewhere = await started_session(store)
    keyed = request("pay")
    journal.keyed(keyed.ref, "k1")
    await journal.accepted(keyed)
    plain = request("pay")
    journal.keyed("another ref", "k2")
    await journal.accepted(plain)
    same_key = request("pay")
    elsewhere.keyed(same_key.ref, "k1")
    await elsewhere.accepted(same_key)
    await store.close()
    again = await Store.open(path)
    found = await again.request_by_key(made.id, "k1")
    assert found is not None
    assert (found.ref, found.prompt, found.key) == (keyed.ref, "pay", "k1")
    assert await again.request_by_key(made.id, "k2") is None
    beside = await again.request_by_key(other.id, "k1")
    assert beside is not None
    assert beside.ref == same_key.ref
    await again.close()


async def test_options_never_show_in_a_repr(store: Store) -> None:
    made = record(options={"api_key": "s3cret"})
    await store.create_session(made)
    found = await store.find_session(made.name)
    assert "s3cret" not in repr(found) + repr(store)
    assert "tollboard.db" in repr(store)


async def test_ask_for_a_sessions_approvals_only(store: Store) -> None:
    made, journal = await started_session(store)
    other, _ = await started_session(store)
    await journal.approval_requested(Approval("ap", "x", "r", ApprovalRequest("t", {}), 1.0))
    for state in (None, ApprovalState.PENDING):
        assert [a.id for a in await store.approvals(session_id=made.id, state=state)] == ["ap"]
        assert await store.approvals(session_id=other.id, state=state) == []


async def test_a_closed_store_says_so(store: Store) -> None:
    made, journal = await started_session(store)
    begun = request()
    begin(journal, begun)
    await store.close()
    await store.close()
    late = journal.finished(begun, completed(), 1.0)
    assert late is not None
    for commit in (late, store.set_cursor(made.id, "me", 1), store.flush()):
        with pytest.raises(StoreUnavailable, match="closed"):
            await commit
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.sessions()
