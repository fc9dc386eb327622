"""What is there again after a restart, and what is said of what was lost."""

from __future__ import annotations

import asyncio

import pytest

from tests.fleet.world import Fleet, completed, failed, seen
from tollboard.errors import BackendUnavailable
from tollboard.fleet.records import Life, RequestState
from tollboard.fleet.settings import FleetSettings


async def test_s11_everything_is_there_after_a_restart(fleet: Fleet) -> None:
    id = await fleet.start(delay=0.0)
    refs = [await fleet.run("api", f"p{n}") for n in range(3)]
    await fleet.board.summary_update("api", "sum")
    await fleet.board.ack("api", 2)
    before = await fleet.board.status("api")
    history = (await fleet.board.transcript("api")).entries
    for again in (fleet.kill, fleet.restart):
        board = await again()
        after = await board.status("api")
        assert (after.id, after.name, after.path, after.backend) == (id, "api", before.path, "echo")
        assert (after.turns, after.provider_session_id) == (3, before.provider_session_id)
        assert after.created_at == before.created_at
        assert (await board.transcript("api")).entries == history
        assert (await board.summary_get("api")).text == "sum"
        assert [e.seq for e in (await board.inbox()).entries] == [3]
        assert [(await completed(board, "api", ref)).text for ref in refs] == [
            "echo: p0",
            "echo: p1",
            "echo: p2",
        ]


async def test_s12_u06_u15_what_was_in_flight_is_interrupted_and_what_waited_runs_in_order(
    fleet: Fleet,
) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(4)]
    await fleet.gated.running.wait()
    before = fleet.board._tail.last_seq
    board = await fleet.kill()
    assert fleet.gated.prompts in ([], ["p1"])
    fleet.gated.gate.set()
    await fleet.done(*refs)
    poll = await failed(board, "api", refs[0])
    assert poll.reason == "interrupted"
    assert poll.receipt.inferred, "s22: nobody reported it"
    assert poll.entry is not None
    assert poll.entry.status.value == "interrupted"
    assert fleet.gated.prompts == ["p1", "p2", "p3"]
    inbox = await board.inbox()
    assert [e.ref for e in inbox.entries] == refs
    assert [e.seq for e in inbox.entries] == [1, 2, 3, 4]
    item = await seen(board.tail(after=before), "turn.failed")
    assert (item.ref, item.data["reason"]) == (refs[0], "interrupted")


async def test_s12_halted_stays_halted_with_what_it_holds(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    await fleet.board.halt("api")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(2)]
    board = await fleet.kill()
    status = await board.status("api")
    assert (status.halted, status.queued, status.phase) == (True, 2, "idle")
    assert (await board.poll("api", refs[1])).receipt.position == 2
    fleet.gated.gate.set()
    await board.resume("api")
    await fleet.done(*refs)
    assert fleet.gated.prompts == ["p0", "p1"]


async def test_s12_the_providers_conversation_is_resumed(fleet: Fleet) -> None:
    await fleet.start("answered", backend="gated")
    fleet.gated.gate.set()
    await fleet.run("answered", "x")
    fleet.gated.gate.clear()
    await fleet.start("asked", backend="gated")
    await fleet.board.send("asked", "y")
    await fleet.start("new", backend="gated")
    fleet.gated.running.clear()
    await seen(fleet.board.tail(after=0), "turn.started")
    while (await fleet.board.status("asked")).provider_session_id is None:
        await asyncio.sleep(0)
    await fleet.store.flush()
    await fleet.kill()
    assert {options["cwd"] for _, options in fleet.gated.resumed} == {str(fleet.work.resolve())}, "u17"
    resumed = {id: options["answered"] for id, options in fleet.gated.resumed}
    assert resumed == {"gated-0": True, "gated-1": False}, "u21: one that never answered may begin anew"
    assert len(fleet.gated.sessions) == 3


async def test_u15_a_session_that_cannot_come_back_is_visible_and_keeps_its_queue(fleet: Fleet) -> None:
    await fleet.start("ok")
    await fleet.start("gone", backend="gated")
    await fleet.board.halt("gone")
    ref = await fleet.board.send("gone", "x", queue=True)
    await fleet.board.close(grace_s=0)
    await fleet.store.close()
    fleet.shelf.missing.add("gated")
    board = await fleet.open()
    status = await board.status("gone")
    assert (status.life, status.queued) == (Life.DEAD, 1)
    assert "no backend is called 'gated'" in (status.problem or "")
    assert [s.name for s in await board.list_sessions()] == ["ok", "gone"]
    await fleet.run("ok", "x")
    fleet.shelf.missing.clear()
    fleet.gated.gate.set()
    await board.resume("gone")
    await fleet.done(ref)


@pytest.mark.parametrize(
    "error", [BackendUnavailable("no login"), OSError("no"), RuntimeError("secret words")]
)
async def test_u19_one_that_fails_to_come_back_keeps_nobody_down(fleet: Fleet, error: Exception) -> None:
    await fleet.start("ok")
    await fleet.start("bad", backend="gated")
    await fleet.board.close(grace_s=0)
    await fleet.store.close()

    async def fail() -> None:
        raise error

    fleet.gated.on_start = fail
    board = await fleet.open()
    status = await board.status("bad")
    assert status.life is Life.DEAD
    assert "secret words" not in (status.problem or "")
    await fleet.run("ok", "x")


@pytest.mark.slow
async def test_u19_one_that_hangs_does_not_block_the_start(fleet: Fleet) -> None:
    await fleet.start("ok")
    await fleet.start("hangs", backend="gated")
    await fleet.board.close(grace_s=0)
    await fleet.store.close()
    fleet.gated.on_start = asyncio.Event().wait
    fleet.settings = FleetSettings(revive_timeout_s=0.5)
    board = await fleet.open()
    assert "in time" in ((await board.status("hangs")).problem or "")
    await fleet.run("ok", "x")


async def test_s12_u08_nothing_runs_twice_over_many_restarts(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = []
    ran: list[str] = []
    for n in range(6):
        refs += [await fleet.board.send("api", f"p{n}.{m}", queue=True) for m in range(2)]
        await fleet.gated.running.wait()
        ran += fleet.gated.prompts
        await fleet.kill()
    fleet.gated.gate.set()
    await fleet.done(*refs)
    ran += fleet.gated.prompts
    assert len(ran) == len(set(ran))
    entries = (await fleet.board.transcript("api")).entries
    assert [e.seq for e in entries] == list(range(1, 13))
    assert [e.ref for e in entries] == refs


async def test_u16_a_stopped_session_stays_stopped(fleet: Fleet) -> None:
    old = await fleet.start()
    ref = await fleet.run("api", "x")
    await fleet.board.stop_session("api")
    new = await fleet.start(backend="gated")
    board = await fleet.kill()
    assert [s.id for s in await board.list_sessions()] == [new]
    assert (await completed(board, old, ref)).receipt.state is RequestState.ENDED


async def test_s12_a_fleet_that_cannot_be_opened_leaves_nothing_running(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.start()
    board = fleet.board
    before = len(asyncio.all_tasks())
    monkeypatch.setattr("tollboard.fleet.recovery._expire_approvals", None)
    with pytest.raises(TypeError):
        await type(board).open(fleet.store, backends=fleet.shelf)
    assert len(asyncio.all_tasks()) == before


@pytest.mark.slow
async def test_s05_a_large_fleet_is_listed_and_restarted(fleet: Fleet) -> None:
    await asyncio.gather(*(fleet.start(f"s{n}") for n in range(1_000)))
    assert len(await fleet.board.list_sessions()) == 1_000
    items = await fleet.board.broadcast("x")
    await fleet.done(*(item.ref for item in items if item.ref))
    board = await fleet.kill()
    assert len(await board.list_sessions(all=True)) == 1_000
    assert (await board.inbox()).more
