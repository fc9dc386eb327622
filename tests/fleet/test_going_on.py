"""Turns that asked people go on after a restart: the questions stay, the answers are found, nothing runs twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar

import pytest

from tests.fleet.world import Fleet, Shelf, completed, failed, seen
from tollboard.errors import AlreadyDecided, BackendUnavailable, InvalidDecision
from tollboard.fleet.records import ApprovalRecord, ApprovalState
from tollboard.ids import new_ref
from tollboard.runtime.approval import Approval, ApprovalRequest, Approve, Decision
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import Event, ResultEvent
from tollboard.store.journal import StoreJournal
from tollboard.store.write import Write
from tollboard.testing.clock import FakeClock


class Asking(Backend[dict[str, Any]]):
    """Asks about every word of its prompt, all at once, and does those that are approved: each once, ever."""

    name: ClassVar[str] = "asking"
    goes_on: ClassVar[bool] = True
    did: ClassVar[list[str]] = []
    broken: ClassVar[list[str]] = []

    async def start_session(self, options: Mapping[str, object]) -> dict[str, Any]:
        return {"id": f"asking-{new_ref()}"}

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> dict[str, Any]:
        if self.broken:
            raise BackendUnavailable(self.broken[0])
        return {"id": provider_session_id}

    async def prompt(self, session: dict[str, Any], text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        await turn.checkpoint(session["id"])
        memory = turn.memory
        assert memory is not None
        known = await memory.load(f"{turn.ref}/")
        ids = json.loads(known[f"{turn.ref}/ids"]) if known else {word: new_ref() for word in text.split()}
        commit = memory.save({f"{turn.ref}/ids": json.dumps(ids)})
        if commit is not None:
            await commit

        async def ask(word: str) -> Decision:
            return await turn.request_approval(
                ApprovalRequest(
                    word, {"n": 1}, f"call-{word}", id=ids[word], path=("low",), check=_must_be_number
                )
            )

        async with asyncio.TaskGroup() as group:
            asked = {word: group.create_task(ask(word)) for word in ids}
        approved = [word for word, task in asked.items() if isinstance(task.result(), Approve)]
        self.did.extend(approved)
        yield ResultEvent(" ".join(approved))

    async def terminate_session(self, session: dict[str, Any]) -> ProcessReport:
        return NO_PROCESSES


def _must_be_number(arguments: Mapping[str, object]) -> None:
    if not isinstance(arguments.get("n"), int):
        raise InvalidDecision("n must be a number")


class AskingShelf(Shelf):
    def load(self, name: str) -> Backend[Any]:
        return Asking() if name == "asking" else super().load(name)

    def known(self) -> tuple[str, ...]:
        return (*super().known(), "asking")


@pytest.fixture(autouse=True)
def shelves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fleet.world.Shelf", AskingShelf)
    Asking.did.clear()
    Asking.broken.clear()


async def ask(fleet: Fleet, prompt: str, **options: object) -> tuple[str, dict[str, ApprovalRecord]]:
    """Start a session that asks; return the ref and the questions by their words."""
    if not any(s.name == "api" for s in await fleet.board.list_sessions()):
        await fleet.start("api", backend="asking", **options)
    ref = await fleet.board.send("api", prompt)
    return ref, await questions(fleet, len(prompt.split()))


async def questions(fleet: Fleet, count: int) -> dict[str, ApprovalRecord]:
    """Wait until that many questions are open."""
    async for _ in fleet.board.tail(after=0):
        found = await fleet.board.approvals()
        if len(found) == count:
            return {record.tool: record for record in found}
    raise AssertionError


@pytest.fixture
async def asking(fleet: Fleet) -> Fleet:
    await fleet.restart()  # with the shelf that knows the backend
    return fleet


async def test_a23_an_open_question_survives_kill_9_and_the_answer_goes_on(asking: Fleet) -> None:
    ref, before = await ask(asking, "deploy")
    board = await asking.kill()
    (record,) = await board.approvals()
    assert record == before["deploy"]
    assert (await board.status("api")).needs_decision
    await board.decide(record.id, {"type": "approve"})
    await asking.done(ref)
    assert (await completed(board, "api", ref)).text == "deploy"
    assert Asking.did == ["deploy"]


async def test_a23_partial_answers_are_kept(asking: Fleet) -> None:
    ref, open_ = await ask(asking, "one two three")
    await asking.board.decide(open_["two"].id, {"type": "reject", "message": "no"})
    board = await asking.kill()
    assert {record.tool for record in await board.approvals()} == {"one", "three"}
    with pytest.raises(AlreadyDecided):
        await board.decide(open_["two"].id, {"type": "approve"})
    for word in ("three", "one"):
        await board.decide(open_[word].id, {"type": "approve"})
    await asking.done(ref)
    assert Asking.did == ["one", "three"]


async def test_a23_an_orderly_shutdown_leaves_the_question_open_too(asking: Fleet) -> None:
    ref, open_ = await ask(asking, "deploy")
    board = await asking.restart(grace_s=5)
    assert [record.id for record in await board.approvals()] == [open_["deploy"].id]
    await board.decide(open_["deploy"].id, {"type": "approve"})
    await asking.done(ref)
    assert Asking.did == ["deploy"]


async def test_a23_a_question_asked_while_the_fleet_closes_stays_open_too(
    asking: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    prompt = Asking.prompt

    async def slowly(self: Asking, *args: Any) -> AsyncGenerator[Event, None]:
        begun.set()
        await gate.wait()
        async for event in prompt(self, *args):
            yield event

    monkeypatch.setattr(Asking, "prompt", slowly)
    await asking.start("api", backend="asking")
    ref = await asking.board.send("api", "deploy")
    await begun.wait()
    board, settle = asking.board, asking.board._settle_turns

    async def asked_within_the_grace(timeout_s: float) -> None:
        if not gate.is_set():
            gate.set()
            await questions(asking, 1)
        await settle(timeout_s)

    monkeypatch.setattr(board, "_settle_turns", asked_within_the_grace)
    board = await asking.restart()
    (record,) = await board.approvals()
    await board.decide(record.id, {"type": "approve"})
    await asking.done(ref)
    assert (await completed(board, "api", ref)).text == "deploy"


async def test_a23_again_and_again(asking: Fleet) -> None:
    ref, open_ = await ask(asking, "deploy")
    for _ in range(3):
        board = await asking.kill()
        assert [record.id for record in await board.approvals()] == [open_["deploy"].id]
    await board.decide(open_["deploy"].id, {"type": "approve"})
    await asking.done(ref)
    assert Asking.did == ["deploy"]


async def test_a23_what_was_queued_behind_it_comes_after_it(asking: Fleet) -> None:
    ref, _ = await ask(asking, "first")
    later = await asking.board.send("api", "second", queue=True)
    board = await asking.kill()
    (record,) = await board.approvals()
    assert record.ref == ref
    await board.decide(record.id, {"type": "approve"})
    await asking.done(ref)
    second = (await questions(asking, 1))["second"]
    await board.decide(second.id, {"type": "approve"})
    await asking.done(later)
    assert Asking.did == ["first", "second"]


async def test_a23_halted_it_waits_and_goes_on_when_released(asking: Fleet) -> None:
    ref, open_ = await ask(asking, "deploy")
    await asking.board.halt("api")
    board = await asking.kill()
    assert (await board.status("api")).halted
    await board.decide(open_["deploy"].id, {"type": "approve"})
    await board.resume("api")
    await asking.done(ref)
    assert Asking.did == ["deploy"]


async def test_a23_answered_while_it_cannot_be_brought_back_it_is_found_later(asking: Fleet) -> None:
    ref, open_ = await ask(asking, "deploy")
    Asking.broken.append("its program is missing")
    board = await asking.kill()
    assert (await board.status("api")).phase == "dead"
    assert (await board.status("api")).needs_decision
    await board.decide(open_["deploy"].id, {"type": "approve"})
    assert not (await board.status("api")).needs_decision
    with pytest.raises(AlreadyDecided):
        await board.decide(open_["deploy"].id, {"type": "approve"})
    Asking.broken.clear()
    board = await asking.kill()
    await asking.done(ref)
    assert (await completed(board, "api", ref)).text == "deploy"
    assert Asking.did == ["deploy"]


async def test_a23_an_answer_given_meanwhile_counts_also_when_its_caller_leaves(
    asking: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, open_ = await ask(asking, "deploy")
    Asking.broken.append("its program is missing")
    board = await asking.kill()
    leaving = asyncio.create_task(board.decide(open_["deploy"].id, {"type": "approve"}))
    close = StoreJournal.approval_closed

    def leave(self: StoreJournal, approval: Approval, decision: Decision | None, by: str) -> Write:
        asyncio.get_running_loop().call_soon(leaving.cancel)
        return close(self, approval, decision, by)

    monkeypatch.setattr(StoreJournal, "approval_closed", leave)
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await seen(board.tail(after=0), "approval.decided")
    assert not (await board.status("api")).needs_decision
    Asking.broken.clear()
    await board.resume("api")
    await asking.done(ref)
    assert Asking.did == ["deploy"]


async def test_a24_two_clients_answer_at_once_after_a_restart(asking: Fleet) -> None:
    ref, open_ = await ask(asking, "deploy")
    board = await asking.kill()
    answers = await asyncio.gather(
        *(board.decide(open_["deploy"].id, {"type": "approve"}) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, ApprovalRecord) for answer in answers) == 1
    assert sum(isinstance(answer, AlreadyDecided) for answer in answers) == 4
    await asking.done(ref)
    assert Asking.did == ["deploy"]


async def test_a18_an_edit_that_does_not_fit_is_refused_and_the_question_stays(asking: Fleet) -> None:
    _, open_ = await ask(asking, "deploy")
    with pytest.raises(InvalidDecision, match="must be a number"):
        await asking.board.decide(open_["deploy"].id, {"type": "edit", "arguments": {"n": "x"}})
    assert [record.state for record in await asking.board.approvals()] == [ApprovalState.PENDING]


async def test_a20_the_question_says_how_deep_it_comes_from(asking: Fleet) -> None:
    _, open_ = await ask(asking, "deploy")
    assert open_["deploy"].path == "api/low"


async def test_interrupting_after_a_restart_ends_the_turn_and_its_questions(asking: Fleet) -> None:
    ref, open_ = await ask(asking, "one two")
    board = await asking.kill()
    await questions(asking, 2)
    await board.interrupt("api")
    await asking.done(ref)
    assert (await failed(board, "api", ref)).reason == "interrupted"
    assert await board.approvals() == ()
    assert {record.state for record in await board.approvals(all=True)} == {ApprovalState.EXPIRED}
    with pytest.raises(AlreadyDecided):
        await board.decide(open_["one"].id, {"type": "approve"})
    assert Asking.did == []


async def test_stopping_the_session_ends_its_questions(asking: Fleet) -> None:
    ref, _ = await ask(asking, "deploy")
    board = await asking.kill()
    await questions(asking, 1)
    await board.stop_session("api")
    assert await board.approvals() == ()
    assert (await failed(board, "api", ref)).reason == "stopped"


async def test_stopping_a_session_that_cannot_be_brought_back_ends_its_questions(asking: Fleet) -> None:
    await ask(asking, "deploy")
    Asking.broken.append("its program is missing")
    board = await asking.kill()
    before = board._tail.last_seq
    await board.stop_session("api")
    assert await board.approvals() == ()
    assert (await seen(board.tail(after=before), "approval.decided")).data["decision"] == "expired"


async def test_a26_the_time_limit_holds_after_a_restart(asking: Fleet) -> None:
    asking.clock = clock = FakeClock()
    await asking.restart()
    ref, _ = await ask(asking, "deploy", approval_timeout_s=60)
    board = await asking.kill()
    while not board._runtime.approvals:  # its turn asks again by and by
        await asyncio.sleep(0)
    clock.advance(61)
    await asking.done(ref)
    assert (await completed(board, "api", ref)).text == ""
    (record,) = await board.approvals(all=True)
    assert record.state is ApprovalState.EXPIRED


async def test_deleting_a_session_forgets_what_its_backend_remembered(asking: Fleet) -> None:
    ref, open_ = await ask(asking, "deploy")
    await asking.board.decide(open_["deploy"].id, {"type": "approve"})
    await asking.done(ref)
    import sqlite3

    def rows() -> int:
        with sqlite3.connect(asking.path) as database:
            count: int = database.execute("select count(*) from memory").fetchone()[0]
            return count

    assert rows() == 1
    await asking.board.stop_session("api")
    await asking.board.delete_session("api")
    assert rows() == 0
