"""Approvals: one inbox, one winner, and who it was."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.fleet.world import Fleet, completed, failed, seen
from tollboard.errors import AlreadyDecided, ApprovalNotFound, InvalidDecision, SessionBusy, StoreUnavailable
from tollboard.fleet.records import ApprovalRecord, ApprovalState, Caller
from tollboard.runtime.approval import Approve, Reject
from tollboard.store import retries

ASK = {"approval": {"tool": "sh", "arguments": {"cmd": "ls"}, "display": "run ls"}}


async def asked(fleet: Fleet, name: str = "api", **approval: object) -> tuple[str, ApprovalRecord]:
    """Start a session whose first turn asks; return its ref and the approval."""
    script = [{"approval": {**ASK["approval"], **approval}}, "later"]
    await fleet.start(name, backend="scripted", script=script)
    tail = fleet.board.tail(kinds=["approval.requested"])
    ref = await fleet.board.send(name, "go")
    await seen(tail, "approval.requested", ref)
    (record,) = await fleet.board.approvals(name)
    return ref, record


async def test_s14_u04_an_approval_is_shown_with_what_it_is_about(fleet: Fleet) -> None:
    ref, record = await asked(fleet)
    assert (record.session, record.ref, record.path, record.tool) == ("api", ref, "api", "sh")
    assert (dict(record.arguments), record.display) == ({"cmd": "ls"}, "run ls")
    assert record.allowed == ("approve", "edit", "reject")
    assert (record.state, record.decided_by) == (ApprovalState.PENDING, None)
    status = await fleet.board.status("api")
    assert status.needs_decision, "one that waits does not look like one that works"
    assert (await fleet.board.inbox()).approvals == 1
    with pytest.raises(SessionBusy, match="waits for a decision"):
        await fleet.board.send("api", "x")


@pytest.mark.parametrize(
    ("decision", "state", "text"),
    [
        ({"type": "approve"}, ApprovalState.APPROVED, 'approved: sh {"cmd": "ls"}'),
        ({"type": "edit", "arguments": {"cmd": "pwd"}}, ApprovalState.EDITED, 'edited: sh {"cmd": "pwd"}'),
        ({"type": "reject", "message": "no"}, ApprovalState.REJECTED, 'rejected: sh {"cmd": "ls"}: no'),
        (Approve(), ApprovalState.APPROVED, 'approved: sh {"cmd": "ls"}'),
    ],
)
async def test_s14_s27_a_decision_takes_effect_and_who_made_it_is_kept(
    fleet: Fleet, decision: dict[str, object], state: ApprovalState, text: str
) -> None:
    ref, record = await asked(fleet)
    decided = await fleet.board.on_behalf_of(Caller("cli", "alice")).decide(record.id, decision)
    assert (decided.state, decided.decided_by) == (state, "cli:alice")
    assert decided.decided_at is not None
    await fleet.done(ref)
    assert (await completed(fleet.board, "api", ref)).text == text
    assert await fleet.board.approvals() == ()
    assert await fleet.board.approvals(all=True) == (decided,)
    assert (await fleet.board.approvals("api", all=True)) == (decided,)


async def test_s14_of_two_managers_one_wins_and_the_other_is_told(fleet: Fleet) -> None:
    ref, record = await asked(fleet)
    results = await asyncio.gather(
        *(
            fleet.board.on_behalf_of(Caller("cli", f"m{n}")).decide(record.id, {"type": "approve"})
            for n in range(5)
        ),
        return_exceptions=True,
    )
    winners = [result for result in results if isinstance(result, ApprovalRecord)]
    assert len(winners) == 1
    assert sum(isinstance(result, AlreadyDecided) for result in results) == 4
    await fleet.done(ref)
    with pytest.raises(AlreadyDecided, match=f"by {winners[0].decided_by}"):
        await fleet.board.decide(record.id, {"type": "reject"})


@pytest.mark.parametrize("steps", range(1, 6))
async def test_s14_a_decision_whose_caller_goes_away_is_the_answer_all_the_same(
    fleet: Fleet, steps: int
) -> None:
    ref, record = await asked(fleet)
    deciding = asyncio.ensure_future(fleet.board.decide(record.id, {"type": "approve"}))
    for _ in range(steps):
        await asyncio.sleep(0)
    deciding.cancel()
    await asyncio.wait([deciding])
    await fleet.done(ref)
    assert (await completed(fleet.board, "api", ref)).text == 'approved: sh {"cmd": "ls"}'
    (decided,) = await fleet.board.approvals(all=True)
    assert decided.state is ApprovalState.APPROVED
    with pytest.raises(AlreadyDecided):
        await fleet.board.decide(record.id, {"type": "reject"})


async def test_s14_a_bad_decision_is_refused_and_the_approval_waits_on(fleet: Fleet) -> None:
    ref, record = await asked(fleet, allowed=["approve", "reject"])
    for bad in (
        {"type": "edit", "arguments": {}},
        {"type": "perhaps"},
        {},
        {"type": "approve", "extra": 1},
        "yes",
    ):
        with pytest.raises(InvalidDecision):
            await fleet.board.decide(record.id, bad)  # type: ignore[arg-type]
    with pytest.raises(ApprovalNotFound):
        await fleet.board.decide("nonsense", {"type": "approve"})
    assert [a.id for a in await fleet.board.approvals()] == [record.id]
    await fleet.board.decide(record.id, Reject("no"))
    await fleet.done(ref)


async def test_s14_a_decision_that_cannot_be_kept_takes_no_effect(fleet: Fleet) -> None:
    ref, record = await asked(fleet)
    fleet.fill_disk()
    with pytest.raises(StoreUnavailable):
        await fleet.board.decide(record.id, {"type": "approve"})
    fleet.free_disk()
    assert (await fleet.board.status("api")).needs_decision
    await fleet.board.decide(record.id, {"type": "reject"})
    await fleet.done(ref)


async def test_s14_a_decision_takes_effect_also_when_its_caller_leaves(fleet: Fleet) -> None:
    ref, record = await asked(fleet)
    leaving = asyncio.create_task(fleet.board.decide(record.id, {"type": "reject", "message": "no"}))
    await asyncio.sleep(0)  # it is being written down
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with pytest.raises(AlreadyDecided):
        await fleet.board.decide(record.id, {"type": "approve"})
    await fleet.done(ref)
    assert (await completed(fleet.board, "api", ref)).text == 'rejected: sh {"cmd": "ls"}: no'


async def test_s14_an_interrupted_turn_expires_its_approvals(fleet: Fleet) -> None:
    ref, record = await asked(fleet)
    before = fleet.board._tail.last_seq
    await fleet.board.interrupt("api", ref=ref)
    told = await seen(fleet.board.tail(after=before), "approval.decided")
    assert told.data["decision"] == "expired"
    assert (await failed(fleet.board, "api", ref)).reason == "interrupted"
    with pytest.raises(AlreadyDecided, match="expired"):
        await fleet.board.decide(record.id, {"type": "approve"})
    assert not (await fleet.board.status("api")).needs_decision
    assert (await fleet.board.inbox()).approvals == 0


@pytest.mark.parametrize("verb", ["interrupt", "stop_session"])
@pytest.mark.parametrize("steps", range(4))
async def test_s14_a_decision_that_comes_as_its_turn_ends_is_told_alike_everywhere(
    fleet: Fleet, verb: str, steps: int
) -> None:
    ref, record = await asked(fleet)
    before = fleet.board._tail.last_seq
    deciding = asyncio.ensure_future(fleet.board.decide(record.id, {"type": "approve"}))
    for _ in range(steps):
        await asyncio.sleep(0)
    await getattr(fleet.board, verb)("api")
    with contextlib.suppress(AlreadyDecided):
        assert (await deciding).state is ApprovalState.APPROVED
    assert (await failed(fleet.board, record.session, ref)).reason in ("interrupted", "stopped")
    (kept,) = await fleet.board.approvals("api", all=True)
    told = await seen(fleet.board.tail(after=before), "approval.decided")
    assert kept.state is (
        ApprovalState.APPROVED if told.data["decision"] == "approve" else ApprovalState.EXPIRED
    )


async def test_s14_a_decision_that_fails_as_its_turn_ends_leaves_no_question(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_FIRST_S", 0.01)
    ref, record = await asked(fleet)
    fleet.fill_disk()
    deciding = asyncio.ensure_future(fleet.board.decide(record.id, {"type": "approve"}))
    await asyncio.sleep(0)
    interrupting = asyncio.ensure_future(fleet.board.interrupt("api"))
    with pytest.raises(StoreUnavailable):
        await deciding
    fleet.free_disk()
    await interrupting
    await fleet.done(ref)
    while await fleet.board.approvals():  # its end is written again until it can be
        pass
    (expired,) = await fleet.board.approvals(all=True)
    assert expired.state is ApprovalState.EXPIRED


async def test_s14_halting_keeps_an_approval_and_resuming_does_not_answer_it(fleet: Fleet) -> None:
    ref, record = await asked(fleet)
    await fleet.board.halt("api")
    await fleet.board.resume("api")
    assert (await fleet.board.status("api")).needs_decision
    await fleet.board.decide(record.id, {"type": "approve"})
    await fleet.done(ref)


async def test_u23_a_restart_expires_open_approvals_and_says_so(fleet: Fleet) -> None:
    ref, record = await asked(fleet)
    before = fleet.board._tail.last_seq
    board = await fleet.kill()
    assert await board.approvals() == ()
    (expired,) = await board.approvals(all=True)
    assert (expired.state, expired.decided_by) == (ApprovalState.EXPIRED, "the daemon ended")
    with pytest.raises(AlreadyDecided, match="expired already, by the daemon ended"):
        await board.decide(record.id, {"type": "approve"})
    assert not (await board.status("api")).needs_decision
    assert (await failed(board, "api", ref)).reason == "interrupted"
    item = await seen(board.tail(after=before), "approval.decided")
    assert item.data == {"approval": record.id, "decision": "expired", "by": "the daemon ended"}


async def test_u24_someone_who_comes_later_sees_what_waits(fleet: Fleet) -> None:
    _, first = await asked(fleet, "a")
    _, second = await asked(fleet, "b")
    assert [a.id for a in await fleet.board.approvals()] == [first.id, second.id]
    assert [a.id for a in await fleet.board.approvals("b")] == [second.id]


async def test_u26_one_open_approval_does_not_block_the_others(fleet: Fleet) -> None:
    await asked(fleet, "a")
    await fleet.start("b", backend="scripted", script=["fine"])
    await fleet.run("b", "x")


async def test_u24_an_approval_that_is_durable_can_be_answered_before_it_is_announced(fleet: Fleet) -> None:
    ref, record = await asked(fleet)
    pending = fleet.board._runtime.approvals.pop(record.id)
    deciding = asyncio.ensure_future(fleet.board.decide(record.id, {"type": "approve"}))
    flush = fleet.store.flush

    def put_back():  # type: ignore[no-untyped-def]
        fleet.board._runtime.approvals[record.id] = pending
        return flush()

    fleet.store.flush = put_back  # type: ignore[method-assign]
    assert (await deciding).state is ApprovalState.APPROVED
    await fleet.done(ref)


@pytest.mark.slow
async def test_u25_an_approval_waits_for_ever_unless_a_limit_is_set(fleet: Fleet) -> None:
    await fleet.start(backend="scripted", script=[ASK], approval_timeout_s=0.01)
    ref = await fleet.run("api", "x")
    assert "nobody decided within" in (await completed(fleet.board, "api", ref)).text
    (record,) = await fleet.board.approvals(all=True)
    assert record.state is ApprovalState.EXPIRED
