"""Turns that a session begins by itself, on the board: history, inbox, feed, status; over restarts too (B01-B05)."""

from __future__ import annotations

import asyncio

import pytest

from tests.fleet.world import Fleet
from tollboard.errors import SessionBusy
from tollboard.fleet.records import TurnStatus
from tollboard.runtime.approval import ApprovalRequest, Approve
from tollboard.runtime.backend import Host
from tollboard.runtime.background_task import BackgroundTask

TASK = BackgroundTask("t1", "command", "make watch", since=5.0, ref="r1")


async def _host(fleet: Fleet) -> Host:
    await fleet.start(backend="gated")
    return fleet.gated.hosts["gated-0"]


async def _begin(fleet: Fleet, host: Host, cause: str = "the build ended") -> str:
    """Let the session begin a turn; return its ref once it is under way. An open gate lets it end only after that."""
    gate = fleet.gated.gate
    was_open = gate.is_set()
    gate.clear()
    assert host.begin_turn(cause)
    ref = (await fleet.board.status("api")).in_flight
    assert ref is not None
    await fleet.gated.reached(ref)
    if was_open:
        gate.set()
    return ref


async def test_b01_it_is_an_entry_like_any_other(fleet: Fleet) -> None:
    host = await _host(fleet)
    fleet.gated.gate.set()
    await fleet.run("api", "first")
    ref = await _begin(fleet, host)
    await fleet.board.wait([ref], timeout=5)
    await fleet.run("api", "last")
    entries = (await fleet.board.inbox("api")).entries
    assert [(e.seq, e.origin, e.prompt, e.text) for e in entries] == [
        (1, "tell", "first", "done: first"), (2, "agent", "the build ended", "by itself"),
        (3, "tell", "last", "done: last"),
    ]  # fmt: skip
    own = entries[1]
    assert own.usage is not None
    assert (own.usage.input_tokens, own.usage.output_tokens, own.usage.cost_usd) == (3, 4, 0.5)
    assert (await fleet.board.transcript("api")).entries == entries
    assert (await fleet.board.poll("api", ref)).status == "completed"


async def test_b01_the_feed_says_whose_turn_it_is(fleet: Fleet) -> None:
    host = await _host(fleet)
    fleet.gated.gate.set()
    ref = await _begin(fleet, host)
    await fleet.board.wait([ref], timeout=5)
    await fleet.store.flush()
    page = await fleet.board.events("api", ref=ref)
    assert [(item.kind, item.data.get("origin"), item.data.get("cause")) for item in page.items] == [
        ("turn.started", "agent", "the build ended"), ("turn.completed", None, None),
    ]  # fmt: skip


async def test_b03_a_send_is_refused_or_queued_and_an_interrupt_ends_it(fleet: Fleet) -> None:
    host = await _host(fleet)
    ref = await _begin(fleet, host)
    assert (await fleet.board.status("api")).phase == "processing"
    with pytest.raises(SessionBusy, match=ref):
        await fleet.board.send("api", "now")
    queued = await fleet.board.send("api", "later", queue=True)
    done = await fleet.board.interrupt("api")
    assert (done.acted, done.ref) == (True, ref)
    fleet.gated.gate.set()
    await fleet.board.wait([queued], timeout=5)
    entries = (await fleet.board.transcript("api")).entries
    assert [(e.origin, e.status) for e in entries] == [("agent", "interrupted"), ("tell", "ok")]


async def test_b04_a_question_of_no_turn_is_on_the_list_and_its_answer_arrives(fleet: Fleet) -> None:
    host = await _host(fleet)
    asked = ApprovalRequest("Bash", {"command": "touch made"}, display="Bash: touch made", path=("explorer",))
    asking = asyncio.ensure_future(host.ask(asked, "r1"))
    while not (found := await fleet.board.approvals()):
        await asyncio.sleep(0)
    assert (found[0].path, found[0].ref, found[0].display) == ("api/explorer", "r1", "Bash: touch made")
    assert (await fleet.board.status("api")).needs_decision
    await fleet.board.decide(found[0].id, Approve())
    assert await asking == Approve()


async def test_b05_what_runs_is_shown_with_its_time(fleet: Fleet) -> None:
    host = await _host(fleet)
    host.background([TASK])
    assert (await fleet.board.status("api")).background == (TASK,)
    assert [status.background for status in await fleet.board.list_sessions()] == [(TASK,)]
    await fleet.store.flush()
    (item,) = (await fleet.board.events("api", kinds=["background"])).items
    assert item.data["running"] == [{"id": "t1", "kind": "command", "what": "make watch", "since": 5.0}]


async def test_b05_what_a_stop_cut_off_is_said(fleet: Fleet) -> None:
    host = await _host(fleet)
    host.background([TASK])
    await fleet.board.stop_session("api")
    (entry,) = (await fleet.board.transcript("api")).entries
    assert (entry.origin, entry.status, entry.prompt) == (
        "agent", "interrupted", "command in the background: make watch",
    )  # fmt: skip
    assert entry.error == "interrupted: cut off when the agent was stopped"


async def test_b05_what_a_crash_of_the_daemon_cut_off_is_said_once(fleet: Fleet) -> None:
    host = await _host(fleet)
    fleet.gated.gate.set()
    await fleet.run("api", "x")
    host.background([TASK])
    await fleet.store.flush()
    board = await fleet.kill()
    assert (await board.status("api")).background == ()
    board = await fleet.kill()
    entries = (await board.transcript("api")).entries
    assert [(e.seq, e.origin, e.status) for e in entries] == [(1, "tell", "ok"), (2, "agent", "interrupted")]
    assert entries[1].error == "interrupted: the daemon ended while this ran in the background"
    fleet.gated.gate.set()
    await fleet.run("api", "y")
    assert [entry.seq for entry in (await fleet.board.transcript("api")).entries] == [1, 2, 3]


@pytest.mark.parametrize("followed", [True, False])
async def test_b01_one_that_the_daemons_end_cut_off_is_interrupted_not_sent_again(
    fleet: Fleet, followed: bool
) -> None:
    host = await _host(fleet)
    if followed:
        ref = await _begin(fleet, host)
    else:
        first = await fleet.board.send("api", "x")
        await fleet.gated.reached(first)
        host.begin_turn("the build ended")
        await fleet.store.flush()
    board = await fleet.kill()
    (entry,) = [e for e in (await board.transcript("api")).entries if e.origin == "agent"]
    assert (entry.status, entry.prompt) == (TurnStatus.INTERRUPTED, "the build ended")
    assert not followed or entry.ref == ref
    assert "the build ended" not in fleet.gated.prompts


async def test_s24_model_mode_and_notice_survive_a_restart(fleet: Fleet) -> None:
    fleet.gated.effective = {"model": "m-1", "permission_mode": "plan"}
    fleet.gated.gate.set()
    await fleet.start(backend="gated")
    await fleet.run("api", "x")
    fleet.work.rename(fleet.work.with_name("moved"))
    session = fleet.board._roster.get(
        "api"
    )  # the directory is checked at the door too: only the turn finds it gone
    assert session.machine is not None
    ref = fleet.board._runtime.accept(session.machine, "y").ref
    await fleet.board.wait([ref], timeout=5)
    assert any("is gone" in alarm for alarm in (await fleet.board.status("api")).alarms)
    fleet.work.with_name("moved").rename(fleet.work)
    await fleet.store.flush()
    board = await fleet.kill()
    status = await board.status("api")
    assert (status.effective["model"], status.effective["permission_mode"]) == ("m-1", "plan")
    assert any("is gone" in alarm for alarm in status.alarms)
    await board.resume("api")
    await fleet.store.flush()
    assert not any("is gone" in alarm for alarm in (await (await fleet.kill()).status("api")).alarms)
