"""Questions to a person on the board: shown, answered, refused, kept, and secret where they are secret (B06)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fleet.world import Fleet, completed, seen
from tollboard import Answer
from tollboard.errors import AlreadyDecided, AnswerNeeded, InvalidDecision
from tollboard.fleet.records import ApprovalRecord, ApprovalState
from tollboard.runtime.approval import ApprovalKind, Reject
from tollboard.runtime.question import Option

STORE: dict[str, Any] = {
    "id": "store", "text": "Which store?", "header": "Store", "free_text": False,
    "options": [{"label": "Alpha", "description": "near"}, "Beta"],
}  # fmt: skip
EXTRAS: dict[str, Any] = {"id": "extras", "text": "What else?", "options": ["X", "Y"], "multiple": True}


async def asked(fleet: Fleet, *questions: dict[str, Any]) -> tuple[str, ApprovalRecord]:
    """Start a session whose turn asks these; return its ref and the approval."""
    script = [{"approval": {"tool": "Ask", "questions": list(questions)}}, "later"]
    await fleet.start("api", backend="scripted", script=script)
    tail = fleet.board.tail(kinds=["approval.requested"])
    ref = await fleet.board.send("api", "go")
    item = await seen(tail, "approval.requested", ref)
    assert item.data["kind"] == "question"
    (record,) = await fleet.board.approvals("api")
    return ref, record


async def test_b06_a_question_is_an_approval_with_all_there_is_to_choose(fleet: Fleet) -> None:
    _, record = await asked(fleet, STORE, EXTRAS)
    assert (record.kind, record.allowed) == (ApprovalKind.QUESTION, ("answer", "reject"))
    store, extras = record.questions
    assert (store.text, store.header) == ("Which store?", "Store")
    assert store.options == (Option("Alpha", "near"), Option("Beta"))
    assert (store.multiple, store.free_text) == (False, False)
    assert (extras.multiple, extras.free_text) == (True, True)
    assert (await fleet.board.status("api")).needs_decision


@pytest.mark.parametrize(
    ("decision", "answers", "said"),
    [
        (Answer("Beta"), {"store": {"choose": ["Beta"]}}, '{"store": "Beta"}'),
        (Answer(choose=[1]), {"store": {"choose": ["Alpha"]}}, '{"store": "Alpha"}'),
        ({"type": "answer", "choose": ["2"]}, {"store": {"choose": ["Beta"]}}, '{"store": "Beta"}'),
    ],
)
async def test_b06_an_answer_reaches_the_one_who_asked_and_is_kept_as_it_was_meant(
    fleet: Fleet, decision: Any, answers: dict[str, object], said: str
) -> None:
    ref, record = await asked(fleet, STORE)
    decided = await fleet.board.decide(record.id, decision)
    assert (decided.state, decided.decision) == (
        ApprovalState.ANSWERED,
        {"type": "answer", "answers": answers},
    )
    await fleet.done(ref)
    assert (await completed(fleet.board, "api", ref)).text == f"answered: Ask {said}"


async def test_b06_several_questions_take_a_reply_each(fleet: Fleet) -> None:
    ref, record = await asked(fleet, STORE, EXTRAS)
    await fleet.board.decide(record.id, Answer(answers={"Store": "Beta", "extras": ["Y", "X"]}))
    await fleet.done(ref)
    assert (await completed(fleet.board, "api", ref)).text == (
        'answered: Ask {"store": "Beta", "extras": "Y, X"}'
    )


async def test_b06_what_is_no_answer_changes_nothing_and_the_question_waits(fleet: Fleet) -> None:
    ref, record = await asked(fleet, STORE)
    with pytest.raises(AnswerNeeded, match="options"):
        await fleet.board.decide(record.id, {"type": "approve"})
    for wrong in (
        Answer("Gamma"),
        Answer(choose=[3]),
        Answer(choose=[1, 2]),
        {"type": "edit", "arguments": {}},
    ):
        with pytest.raises(InvalidDecision):
            await fleet.board.decide(record.id, wrong)
    assert (await fleet.board.approvals("api")) == (record,)
    await fleet.board.decide(record.id, Answer("Alpha"))
    await fleet.done(ref)
    with pytest.raises(AlreadyDecided, match="answered already"):
        await fleet.board.decide(record.id, Answer("Beta"))


async def test_b06_a_question_may_be_refused(fleet: Fleet) -> None:
    ref, record = await asked(fleet, STORE)
    assert (await fleet.board.decide(record.id, Reject("ask Bob"))).state is ApprovalState.REJECTED
    await fleet.done(ref)
    assert (await completed(fleet.board, "api", ref)).text == "rejected: Ask {}: ask Bob"


async def test_b06_a_secret_reply_reaches_the_one_who_asked_and_no_file(fleet: Fleet, tmp_path: Path) -> None:
    ref, record = await asked(fleet, {"id": "key", "text": "The key?", "secret": True})
    decided = await fleet.board.decide(record.id, Answer("hunter2-fish"))
    assert decided.decision == {"type": "answer", "answers": {"key": {"secret": True}}}
    await fleet.done(ref)
    assert (await completed(fleet.board, "api", ref)).text == 'answered: Ask {"key": "*"}'
    for file in tmp_path.rglob("*.db*"):
        assert b"hunter2" not in file.read_bytes(), file
