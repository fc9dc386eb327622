"""Interrupt, halt, resume, and closing the fleet."""

from __future__ import annotations

import asyncio

import pytest

import tollboard.fleet.lifecycle as lifecycle
import tollboard.fleet.switchboard as switchboard
import tollboard.store.retries as retries
from tests.fleet.world import Fleet, completed, failed
from tollboard.errors import AgentDead, DaemonError, Invalid, SessionHalted, StoreUnavailable
from tollboard.fleet.records import Life


async def test_s08_interrupt_ends_the_turn_and_the_mailbox_goes_on(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    first = await fleet.board.send("api", "one")
    second = await fleet.board.send("api", "two", queue=True)
    await fleet.gated.running.wait()
    assert not (await fleet.board.interrupt("api", ref=second)).acted
    done = await fleet.board.interrupt("api", ref=first)
    assert (done.acted, done.ref) == (True, first)
    assert (await failed(fleet.board, "api", first)).reason == "interrupted"
    fleet.gated.gate.set()
    await fleet.done(second)
    again = await fleet.board.interrupt("api")
    assert (again.acted, again.ref) == (False, None)


async def test_s08_after_an_interrupt_the_session_is_free(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    for n in range(5):
        fleet.gated.running.clear()
        await fleet.board.send("api", f"p{n}")
        await fleet.gated.running.wait()
        assert (await fleet.board.interrupt("api")).acted
    assert len((await fleet.board.transcript("api")).entries) == 5


async def test_s23_halt_freezes_after_the_turn_in_flight_and_lists_what_is_held(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    first = await fleet.board.send("api", "one")
    second = await fleet.board.send("api", "two " * 50, queue=True)
    await fleet.gated.running.wait()
    report = await fleet.board.halt("api")
    assert report.sessions == ("api",)
    assert [(held.ref, held.session, len(held.preview)) for held in report.held] == [(second, "api", 80)]
    fleet.gated.gate.set()
    await fleet.done(first)
    status = await fleet.board.status("api")
    assert (status.halted, status.queued, status.phase) == (True, 1, "idle")
    assert (await fleet.board.halt("api")).sessions == ()
    report = await fleet.board.resume("api")
    assert (report.sessions, [held.ref for held in report.held]) == (("api",), [second])
    await fleet.done(second)
    assert (await fleet.board.resume("api")).sessions == ()


async def test_s23_halt_all_is_one_transaction_and_survives(fleet: Fleet) -> None:
    for n in range(5):
        await fleet.start(f"s{n}")
    await fleet.board.halt("s2")
    groups: list[int] = []
    submit = fleet.store._writer.submit

    def spy(write, **options):  # type: ignore[no-untyped-def]
        groups.append(sum("halted" in part.sql for part in write.flatten()))
        return submit(write, **options)

    fleet.store._writer.submit = spy  # type: ignore[method-assign]
    report = await fleet.board.halt(all=True)
    assert report.sessions == ("s0", "s1", "s3", "s4")
    assert max(groups) == 4
    board = await fleet.kill()
    assert all(status.halted for status in await board.list_sessions())
    items = await board.broadcast("held")
    assert len((await board.halt(all=True)).held) == 5
    assert len((await board.resume(all=True)).held) == 5
    await fleet.done(*(item.ref for item in items if item.ref))
    board = await fleet.kill()
    assert not any(status.halted for status in await board.list_sessions())


async def test_s23_a_session_that_is_being_stopped_does_not_keep_the_fleet_from_halting(fleet: Fleet) -> None:
    release = asyncio.Event()
    await fleet.start("a", backend="gated")
    await fleet.start("b")
    original = fleet.gated.terminate_session

    async def slow(session):  # type: ignore[no-untyped-def]
        await release.wait()
        return await original(session)

    fleet.gated.terminate_session = slow  # type: ignore[method-assign]
    stopping = asyncio.ensure_future(fleet.board.stop_session("a"))
    machine = fleet.board._roster.get("a").machine
    assert machine is not None
    while machine.phase.value != "stopping":
        await asyncio.sleep(0)
    assert (await fleet.board.halt(all=True)).sessions == ("b",)
    release.set()
    await stopping


async def test_s23_a_halt_that_could_not_be_written_is_written_the_next_time(fleet: Fleet) -> None:
    await fleet.start()
    fleet.fill_disk()
    with pytest.raises(StoreUnavailable):
        await fleet.board.halt("api")
    fleet.free_disk()
    with pytest.raises(SessionHalted):
        await fleet.board.send("api", "x")
    await fleet.board.halt("api")
    board = await fleet.kill()
    assert (await board.status("api")).halted
    fleet.fill_disk()
    with pytest.raises(StoreUnavailable):
        await board.resume("api")
    fleet.free_disk()
    await board.resume("api")
    board = await fleet.kill()
    assert not (await board.status("api")).halted


@pytest.mark.parametrize("options", [{}, {"name": "api", "all": True}])
async def test_s23_one_session_or_all(fleet: Fleet, options: dict[str, object]) -> None:
    await fleet.start()
    for verb in (fleet.board.halt, fleet.board.resume):
        with pytest.raises(Invalid, match="or say all"):
            await verb(**options)  # type: ignore[arg-type]


# -- the dead


async def test_s12_a_dead_session_can_be_halted_resumed_and_stopped_with_its_queue(fleet: Fleet) -> None:
    await fleet.start("a", backend="gated")
    await fleet.start("b")
    for name in ("a", "b"):
        await fleet.board.halt(name)
    refs = [await fleet.board.send("a", f"p{n}", queue=True) for n in range(3)]
    lost = await fleet.board.send("b", "x", queue=True)
    await fleet.board.resume("b")
    await fleet.done(lost)
    await fleet.board.halt("b")
    lost = await fleet.board.send("b", "y", queue=True)
    fleet.work.rmdir()
    board = await fleet.kill()
    status = await board.status("a")
    assert (status.life, status.phase, status.queued, status.halted) == (Life.DEAD, "dead", 3, True)
    assert "does not exist" in (status.problem or "")
    with pytest.raises(AgentDead):
        await board.send("a", "x", queue=True)
    with pytest.raises(AgentDead, match="still dead"):
        await board.resume("a")
    assert (await board.resume(all=True)).sessions == (), (
        "those that stay dead keep nobody from being resumed"
    )
    assert (await board.halt("a")).sessions == ()
    assert [held.ref for held in (await board.halt("a")).held] == refs
    report = await board.stop_session("b")
    assert report.failed == (lost,)
    assert (await failed(board, "b", lost)).reason == "stopped"
    assert (await board.cancel("a", refs[0])).outcome == "cancelled"
    fleet.work.mkdir()
    fleet.gated.gate.set()
    report = await asyncio.gather(*(board.resume("a") for _ in range(3)))  # type: ignore[assignment]
    await fleet.done(*refs)
    assert fleet.gated.prompts == ["p1", "p2"]
    status = await board.status("a")
    assert (status.life, status.problem, status.alarms) == (Life.LIVE, None, ())
    board = await fleet.kill()
    assert not (await board.status("a")).halted
    assert (await board.status("a")).life is Life.LIVE


async def test_s12_a_dead_session_that_was_not_halted_can_be_halted(fleet: Fleet) -> None:
    await fleet.start()
    fleet.work.rmdir()
    board = await fleet.kill()
    assert (await board.halt("api")).sessions == ("api",)
    assert (await board.status("api")).halted
    fleet.work.mkdir()
    board = await fleet.kill()
    status = await board.status("api")
    assert (status.life, status.halted) == (Life.LIVE, True)


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("first", ["halt", "resume"])
async def test_s12_a_dead_session_halted_while_it_is_brought_back_is_what_its_database_says(
    fleet: Fleet, first: str, steps: int
) -> None:
    await fleet.start()
    fleet.work.rmdir()
    board = await fleet.kill()
    fleet.work.mkdir()
    verbs = [board.halt, board.resume] if first == "halt" else [board.resume, board.halt]
    one = asyncio.ensure_future(verbs[0]("api"))
    for _ in range(steps):
        await asyncio.sleep(0)
    await asyncio.gather(one, verbs[1]("api"))
    halted = (await board.status("api")).halted
    board = await fleet.kill()
    assert (await board.status("api")).halted is halted


async def test_u19_a_stop_waits_for_a_revival_that_is_under_way(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    fleet.gated.gate.set()
    await fleet.run("api", "x")
    fleet.work.rmdir()
    board = await fleet.kill()
    fleet.work.mkdir()
    arrived, release = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        arrived.set()
        await release.wait()

    fleet.gated.on_start = slow
    resuming = asyncio.ensure_future(board.resume("api"))
    await arrived.wait()
    stopping = asyncio.ensure_future(board.stop_session("api"))
    await asyncio.sleep(0)
    release.set()
    await stopping
    await asyncio.wait([resuming])
    assert await board.list_sessions() == ()
    assert board._runtime.list() == []


# -- closing


async def test_s12_closing_lets_turns_finish_within_the_grace(fleet: Fleet) -> None:
    await fleet.start("a", backend="gated")
    ref = await fleet.board.send("a", "x")
    queued = await fleet.board.send("a", "y", queue=True)
    await fleet.gated.running.wait()
    closing = asyncio.ensure_future(fleet.board.close(grace_s=20))
    await asyncio.sleep(0)
    fleet.gated.gate.set()
    assert await closing == ()
    assert await fleet.board.close() == ()
    board = await fleet.restart()
    assert (await completed(board, "a", ref)).text == "done: x"
    fleet.gated.gate.set()
    await fleet.done(queued)
    assert fleet.gated.prompts == ["y"]


async def test_s12_a_close_whose_caller_gives_up_goes_on(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    ref = await fleet.board.send("api", "x")
    await fleet.gated.reached(ref)
    closing = asyncio.ensure_future(fleet.board.close(grace_s=20))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    again = asyncio.ensure_future(fleet.board.close())
    fleet.gated.let_go(ref)
    await again
    assert fleet.gated.ended == ["gated-0"]
    assert (await completed(fleet.board, "api", ref)).text == "done: x"


async def test_s12_closing_marks_the_others_interrupted_and_keeps_the_queue(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(3)]
    await fleet.gated.running.wait()
    board = await fleet.restart(grace_s=0)
    poll = await failed(board, "api", refs[0])
    assert (poll.reason, poll.receipt.inferred) == ("interrupted", False)
    fleet.gated.gate.set()
    await fleet.done(*refs)
    assert fleet.gated.prompts == ["p1", "p2"]
    assert [e.status.value for e in (await board.inbox()).entries] == ["interrupted", "ok", "ok"]


async def test_s12_a_closed_fleet_accepts_nothing_and_sends_those_who_wait_home(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    await fleet.board.halt("api")
    ref = await fleet.board.send("api", "x", queue=True)
    waiting = asyncio.ensure_future(fleet.board.wait([ref]))
    reading = asyncio.ensure_future(fleet.board.inbox(wait=600))
    tail = fleet.board.tail()

    async def follow() -> None:
        async for _ in tail:
            pass

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0)
    async with fleet.board:
        pass
    assert (await waiting).pending
    assert (await reading).entries == ()
    await following
    for call in (
        fleet.board.send("api", "x"), fleet.board.send("api", "x", key="k"), fleet.board.broadcast("x"),
        fleet.board.resume("api"), fleet.start("other"),
    ):  # fmt: skip
        with pytest.raises(DaemonError):
            await call
    assert (await fleet.board.poll("api", ref)).status == "pending"


async def test_s12_a_fleet_that_closes_stops_and_withdraws_nothing_it_has_left_to_the_next_start(
    fleet: Fleet,
) -> None:
    await fleet.start(backend="gated")
    running, queued = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(2)]
    await fleet.gated.reached(running)
    closing = asyncio.ensure_future(fleet.board.close(grace_s=20))
    await asyncio.sleep(0)
    for call in (
        fleet.board.stop_session("api"),
        fleet.board.cancel("api", queued),
        fleet.board.halt(all=True),
    ):
        with pytest.raises(DaemonError, match="shutting down"):
            await call
    fleet.gated.let_go(running)
    await closing
    board = await fleet.restart()
    fleet.gated.gate.set()
    await fleet.done(queued)
    assert (await completed(board, "api", queued)).text == "done: p1"


@pytest.mark.parametrize("drain", [False, True])
async def test_s12_closing_during_a_stop_leaves_none_of_its_prompts_without_an_end(
    fleet: Fleet, drain: bool
) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(3)]
    await fleet.gated.reached(refs[0])
    stopping = asyncio.ensure_future(fleet.board.stop_session("api", drain=drain))
    await asyncio.sleep(0)
    await fleet.board.close(grace_s=0)
    await stopping
    board = await fleet.restart()
    assert (await board.status("api")).phase == "stopped"
    reasons = [(await failed(board, "api", ref)).reason for ref in refs]
    assert reasons == (["interrupted", "draining", "draining"] if drain else ["stopped"] * 3)


async def test_s12_a_session_brought_back_while_the_fleet_closes_begins_nothing(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(3)]
    await fleet.gated.reached(refs[0])
    fleet.work.rmdir()
    board = await fleet.kill()
    fleet.work.mkdir()
    await fleet.start("busy", backend="gated")
    busy = await board.send("busy", "x")
    await fleet.gated.reached(busy)
    arrived, release = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        arrived.set()
        await release.wait()

    fleet.gated.on_start = slow
    resuming = asyncio.ensure_future(board.resume("api"))
    await arrived.wait()
    closing = asyncio.ensure_future(board.close(grace_s=20))
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(AgentDead):
        await resuming
    fleet.gated.let_go(busy)
    await closing
    board = await fleet.restart()
    fleet.gated.gate.set()
    await fleet.done(*refs)
    assert (await failed(board, "api", refs[0])).reason == "interrupted"
    assert fleet.gated.prompts == ["p1", "p2"]


async def test_s12_stopping_on_a_full_disk_says_so_and_goes_on_once_there_is_space(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "STALL_S", 0.05)
    monkeypatch.setattr(retries, "_FIRST_S", 0.05)
    await fleet.start(backend="gated")
    ref = await fleet.board.send("api", "x")
    await fleet.gated.running.wait()
    fleet.fill_disk()
    for _ in range(2):  # whoever asks again is told again
        with pytest.raises(StoreUnavailable, match=r"'api' is being stopped.*disk is full; free some space"):
            await fleet.board.stop_session("api")
    fleet.free_disk()
    report = await fleet.board.stop_session("api")
    assert report.failed == (ref,)
    assert await fleet.board.list_sessions() == ()
    assert (await failed(fleet.board, "api", ref)).reason == "stopped"


@pytest.mark.slow
async def test_s12_closing_does_not_hang_on_a_full_disk(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "INTERRUPTED_S", 0.1)
    monkeypatch.setattr(switchboard, "STOP_S", 0.1)
    await fleet.start(backend="gated")
    ref = await fleet.board.send("api", "x")
    await fleet.gated.running.wait()
    fleet.fill_disk()
    assert await fleet.board.close(grace_s=0) == ("api",)
    fleet.free_disk()
    board = await fleet.kill()
    assert (await failed(board, "api", ref)).reason == "interrupted"


@pytest.mark.slow
async def test_u20_a_backend_that_will_not_end_is_named(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switchboard, "INTERRUPTED_S", 0.05)
    monkeypatch.setattr(switchboard, "STOP_S", 0.05)
    await fleet.start(backend="scripted", script=[{"stubborn": 0.5}])
    tail = fleet.board.tail(kinds=["turn.started"])
    await fleet.board.send("api", "x")
    await anext(tail)
    assert await fleet.board.close(grace_s=0) == ("api",)
