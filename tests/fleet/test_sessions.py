"""Sessions begin, end, are found, and leave nothing half done."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fleet.world import Fleet, completed, failed, seen
from tollboard.errors import (
    AgentExists,
    AgentNotFound,
    BackendError,
    Conflict,
    Invalid,
    InvalidName,
    InvalidOption,
    InvalidPath,
    RequestNotFound,
    StoreUnavailable,
    UnknownBackend,
)
from tollboard.fleet.records import Caller, Life, RequestState, TurnStatus
from tollboard.fleet.switchboard import Switchboard
from tollboard.runtime.backend import ProcessReport

# -- starting


async def test_s01_a_session_starts_on_an_existing_directory_with_its_options(fleet: Fleet) -> None:
    status = await fleet.board.start_session("api", path=fleet.work, backend="gated", colour="red")
    assert (status.name, status.backend, status.life, status.phase) == ("api", "gated", Life.LIVE, "idle")
    assert status.path == os.path.realpath(fleet.work)
    given = fleet.gated.sessions[0]
    assert given["colour"] == "red"
    assert given["cwd"] == status.path
    assert given["env_marker"] == f"TOLLBOARD_SESSION=local:{status.id}"


async def test_s01_paths_are_checked(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    link = tmp_path / "link"
    link.symlink_to(fleet.work)
    for path in (tmp_path / "missing", file, "", "a\0b", b"bytes", "caf\udce9"):
        with pytest.raises(InvalidPath):
            await fleet.board.start_session("api", path=path, backend="echo")  # type: ignore[arg-type]
    status = await fleet.board.start_session("api", path=link, backend="echo")
    assert status.path == os.path.realpath(fleet.work)


async def test_s01_directories_may_be_limited_to_roots(fleet: Fleet, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (fleet.work / "out").symlink_to(outside)
    fleet.settings = replace(fleet.settings, roots=(str(fleet.work),))
    board = await fleet.restart()
    await board.start_session("api", path=fleet.work, backend="echo")
    for path in (outside, fleet.work / "out", f"{fleet.work}/../outside", f"{fleet.work}-not"):
        with pytest.raises(InvalidPath):
            await board.start_session("other", path=path, backend="echo")


async def test_s01_unknown_backends_name_the_known_ones(fleet: Fleet) -> None:
    with pytest.raises(UnknownBackend, match="echo"):
        await fleet.board.start_session("api", path=fleet.work, backend="nope")
    fleet.settings = replace(fleet.settings, backends=("echo",))
    board = await fleet.restart()
    with pytest.raises(UnknownBackend, match="not allowed"):
        await board.start_session("api", path=fleet.work, backend="scripted")
    assert [info.name for info in await board.backends()] == ["echo"]


async def test_s01_bad_options_start_nothing(fleet: Fleet) -> None:
    bad: list[dict[str, object]] = [
        {"delay": -1}, {"nope": 1}, {"watchdog_s": 0}, {"max_queued": -1}, {"cwd": "/"}, {"env_marker": "A=b"},
        {"answered": True}, {"_private": 1}, {"restart": "sometimes"},
    ]  # fmt: skip
    for options in bad:
        with pytest.raises(Invalid):
            await fleet.board.start_session("api", path=fleet.work, backend="echo", **options)
    assert await fleet.board.list_sessions(all=True) == ()
    await fleet.start()


@pytest.mark.parametrize("name", ["", "a b", "../x", ".", "..", "a" * 65, "é", "a\n", "a\0", "\ud800", "a/b"])
async def test_s17_names_are_checked(fleet: Fleet, name: str) -> None:
    with pytest.raises(InvalidName):
        await fleet.start(name)
    with pytest.raises(InvalidName):
        await fleet.board.inbox(reader=name)


async def test_s17_a_name_cannot_pass_for_another_sessions_id(fleet: Fleet) -> None:
    id = await fleet.start()
    for name in (id, id.upper()):
        with pytest.raises(InvalidName):
            await fleet.start(name)


async def test_s01_a_taken_name_is_refused_and_nothing_disturbed(fleet: Fleet) -> None:
    id = await fleet.start(backend="gated")
    with pytest.raises(AgentExists):
        await fleet.start()
    assert [status.id for status in await fleet.board.list_sessions()] == [id]
    fleet.gated.gate.set()
    await fleet.run("api", "still there")


async def test_s01_of_two_concurrent_starts_one_wins(fleet: Fleet) -> None:
    results = await asyncio.gather(*(fleet.start(backend="gated") for _ in range(3)), return_exceptions=True)
    assert sum(isinstance(result, AgentExists) for result in results) == 2
    assert len(fleet.gated.sessions) == 1
    assert len(await fleet.board.list_sessions(all=True)) == 1


async def test_s01_a_backend_that_fails_to_start_leaves_nothing(fleet: Fleet) -> None:
    async def fail() -> None:
        raise BackendError("no program")

    fleet.gated.on_start = fail
    with pytest.raises(BackendError):
        await fleet.start(backend="gated")
    assert await fleet.board.list_sessions(all=True) == ()
    await fleet.start()


async def test_s01_a_session_that_cannot_be_kept_is_taken_back(fleet: Fleet) -> None:
    fleet.fill_disk()
    with pytest.raises(StoreUnavailable):
        await fleet.start(backend="gated")
    assert fleet.gated.ended == ["gated-0"]
    fleet.free_disk()
    assert await fleet.board.list_sessions(all=True) == ()
    await fleet.start()
    await fleet.run("api", "hello")


async def test_s01_no_prompt_is_accepted_before_the_session_is_durable(fleet: Fleet) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        arrived.set()
        await release.wait()

    fleet.gated.on_start = wait
    starting = asyncio.ensure_future(fleet.start(backend="gated"))
    await arrived.wait()
    for call in (fleet.board.send("api", "x"), fleet.board.status("api"), fleet.board.stop_session("api")):
        with pytest.raises(AgentNotFound):
            await call
    release.set()
    await starting
    await fleet.board.send("api", "x")


async def test_s01_a_caller_that_gives_up_does_not_cut_the_start_in_half(fleet: Fleet) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        arrived.set()
        await release.wait()

    fleet.gated.on_start = wait
    starting = asyncio.ensure_future(fleet.start(backend="gated"))
    await arrived.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    release.set()
    tail = fleet.board.tail(after=0)
    assert (await anext(tail)).kind == "session.started"
    assert [s.name for s in await fleet.board.list_sessions()] == ["api"]
    await fleet.kill()
    assert [s.name for s in await fleet.board.list_sessions()] == ["api"]


# -- finding


async def test_s08_sessions_are_listed_oldest_first_whatever_happened_to_them(fleet: Fleet) -> None:
    for name in ("c", "a", "b"):
        await fleet.start(name)
    assert [s.name for s in await fleet.board.list_sessions()] == ["c", "a", "b"]
    await fleet.board.stop_session("a")
    assert [s.name for s in await fleet.board.list_sessions()] == ["c", "b"]
    shown = await fleet.board.list_sessions(all=True)
    assert [(s.name, s.phase) for s in shown] == [("c", "idle"), ("a", "stopped"), ("b", "idle")]
    board = await fleet.kill()
    assert [s.name for s in await board.list_sessions(all=True)] == ["c", "a", "b"]


async def test_s08_ids_work_wherever_names_do(fleet: Fleet) -> None:
    id = await fleet.start()
    ref = await fleet.board.send(id, "hello")
    await fleet.done(ref)
    assert (await fleet.board.status(id)).name == "api"
    assert (await completed(fleet.board, id, ref)).text == "echo: hello"
    assert (await fleet.board.transcript(id)).session == "api"
    assert (await fleet.board.stop_session(id)).session == "api"
    assert (await fleet.board.delete_session(id)).id == id


async def test_s08_what_is_not_there_is_said_so(fleet: Fleet) -> None:
    board = fleet.board
    for call in (
        board.status("no"), board.send("no", "x"), board.stop_session("no"), board.delete_session("no"),
        board.poll("no", "r"), board.halt("no"), board.resume("no"), board.interrupt("no"), board.inbox("no"),
        board.transcript("no"), board.summary_get("no"), board.cancel("no", "r"), board.approvals("no"),
        board.ack("no", 0), board.events("no"), anext(board.tail("no")),
    ):  # fmt: skip
        with pytest.raises(AgentNotFound, match="'no'"):
            await call  # type: ignore[misc]


# -- stopping


async def test_s08_a_stopped_session_keeps_its_history_until_it_is_deleted(fleet: Fleet) -> None:
    id = await fleet.start()
    await fleet.run("api", "hello")
    await fleet.board.summary_update("api", "a summary")
    report = await fleet.board.stop_session("api")
    assert (report.session, report.id, report.failed) == ("api", id, ())
    assert await fleet.board.list_sessions() == ()
    status = await fleet.board.status("api")
    assert (status.life, status.phase, status.turns) == (Life.STOPPED, "stopped", 1)
    assert status.stopped_at is not None
    assert len((await fleet.board.transcript("api")).entries) == 1
    assert (await fleet.board.summary_get("api")).text == "a summary"
    with pytest.raises(AgentNotFound):
        await fleet.board.send("api", "x")
    with pytest.raises(AgentNotFound):
        await fleet.board.stop_session("api")
    board = await fleet.kill()
    deleted = await board.delete_session("api")
    assert (deleted.session, deleted.id, deleted.turns) == ("api", id, 1)
    for call in (board.transcript("api"), board.status(id), board.delete_session("api")):
        with pytest.raises(AgentNotFound):
            await call
    assert await board.list_sessions(all=True) == ()
    assert (await board.inbox()).entries == ()


async def test_s08_a_live_session_is_not_deleted(fleet: Fleet) -> None:
    await fleet.start()
    with pytest.raises(Conflict, match="stop it"):
        await fleet.board.delete_session("api")


async def test_s08_stop_ends_what_is_in_flight_and_queued_and_names_it(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(3)]
    await fleet.gated.running.wait()
    report = await fleet.board.stop_session("api")
    assert list(report.failed) == refs
    assert fleet.gated.prompts == ["p0"]
    polls = [await failed(fleet.board, "api", ref) for ref in refs]
    assert [poll.reason for poll in polls] == ["stopped"] * 3
    assert [poll.entry is not None for poll in polls] == [True, False, False]
    assert polls[0].entry is not None
    assert polls[0].entry.status is TurnStatus.FAILED


async def test_s08_a_drained_session_finishes_its_turn_first(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    first = await fleet.board.send("api", "one")
    second = await fleet.board.send("api", "two", queue=True)
    await fleet.gated.running.wait()
    stopping = asyncio.ensure_future(fleet.board.stop_session("api", drain=True))
    await fleet.board.wait([second], timeout=10)
    fleet.gated.gate.set()
    report = await stopping
    assert report.failed == (second,)
    assert (await completed(fleet.board, "api", first)).text == "done: one"
    assert (await failed(fleet.board, "api", second)).reason == "draining"


async def test_s08_a_stop_does_not_wait_for_the_turn_that_a_drain_waits_for(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    first = await fleet.board.send("api", "one")
    second = await fleet.board.send("api", "two", queue=True)
    await fleet.gated.running.wait()
    draining = asyncio.ensure_future(fleet.board.stop_session("api", drain=True))
    await fleet.board.wait([second], timeout=10)
    report = await fleet.board.stop_session("api")
    assert report == await draining
    assert report.failed == (first, second)
    assert (await failed(fleet.board, "api", first)).reason == "stopped"
    assert await fleet.board.list_sessions() == ()


async def test_s08_two_stops_at_once_are_one(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    ref = await fleet.board.send("api", "x")
    reports = await asyncio.gather(*(fleet.board.stop_session("api") for _ in range(3)))
    assert reports[0].failed == (ref,)
    assert reports == [reports[0]] * 3
    assert fleet.gated.ended == ["gated-0"]


async def test_u20_a_stop_whose_caller_gives_up_goes_on(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    await fleet.board.send("api", "x")
    await fleet.gated.running.wait()
    stopping = asyncio.ensure_future(fleet.board.stop_session("api", drain=True))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    fleet.gated.gate.set()
    assert (await fleet.board.stop_session("api", drain=True)).failed == ()
    await fleet.start()


async def test_u20_a_stop_that_could_not_be_written_down_can_be_tried_again(fleet: Fleet) -> None:
    id = await fleet.start()
    await fleet.run("api", "x")
    fleet.fill_disk()
    with pytest.raises(StoreUnavailable):
        await fleet.board.stop_session("api")
    status = await fleet.board.status("api")
    assert status.life is Life.DEAD
    assert "stop it again" in (status.problem or "")
    fleet.free_disk()
    assert (await fleet.board.stop_session("api")).id == id
    assert await fleet.board.list_sessions() == ()


async def test_s26_stop_passes_on_what_was_killed_and_what_is_not_known(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    fleet.gated.report = ProcessReport(killed=(17,), unverified=("process 18 would not end",))
    tail = fleet.board.tail()
    report = await fleet.board.stop_session("api")
    assert report.killed == (17,)
    assert report.unverified == ("process 18 would not end",)
    item = await seen(tail, "session.stopped")
    assert item.data["unverified"] == ["process 18 would not end"]


@pytest.mark.slow
async def test_u37_stop_ends_the_processes_of_the_session(fleet: Fleet) -> None:
    await fleet.start(backend="scripted", script=[[{"process": ["sleep", "300"]}, {"hang": True}]])
    tail = fleet.board.tail()
    await fleet.board.send("api", "x")
    pid = int(str((await seen(tail, "notice")).data["message"]))
    report = await fleet.board.stop_session("api")
    assert report.unverified == ()
    assert not Path(f"/proc/{pid}").exists()


# -- names used again


async def test_u16_u21_a_name_used_again_does_not_answer_for_the_old_session(fleet: Fleet) -> None:
    old = await fleet.start()
    ref = await fleet.run("api", "old")
    await fleet.board.summary_update("api", "old summary")
    await fleet.board.stop_session("api")
    new = await fleet.start(backend="gated")
    other = await fleet.board.send("api", "new")
    with pytest.raises(RequestNotFound):
        await fleet.board.poll("api", ref)
    with pytest.raises(RequestNotFound):
        await fleet.board.poll(old, other)
    assert (await completed(fleet.board, old, ref)).text == "echo: old"
    assert (await fleet.board.poll(new, other)).receipt.state is not RequestState.ENDED
    assert (await fleet.board.transcript("api")).entries == ()
    assert (await fleet.board.transcript(old)).total == 1
    assert (await fleet.board.summary_get("api")).version == 0
    assert (await fleet.board.summary_get(old)).text == "old summary"
    shown = {s.id: s.life for s in await fleet.board.list_sessions(all=True)}
    assert shown == {old: Life.STOPPED, new: Life.LIVE}
    assert (await fleet.board.delete_session(old)).turns == 1
    assert (await fleet.board.status("api")).id == new


async def test_u21_the_last_stopped_session_of_a_name_answers_for_it(fleet: Fleet) -> None:
    ids = []
    for _ in range(3):
        ids.append(await fleet.start())
        await fleet.board.stop_session("api")
    assert (await fleet.board.status("api")).id == ids[-1]
    await fleet.board.delete_session("api")
    assert (await fleet.board.status("api")).id == ids[-2]


async def test_e53_a_ref_belongs_to_one_session_only(fleet: Fleet) -> None:
    await fleet.start("a")
    await fleet.start("b", backend="gated")
    done = await fleet.run("a", "x")
    running = await fleet.board.send("b", "y")
    for name, ref in (("a", running), ("b", done), ("a", "nonsense")):
        with pytest.raises(RequestNotFound):
            await fleet.board.poll(name, ref)
        with pytest.raises(RequestNotFound):
            await fleet.board.cancel(name, ref)


# -- what it really runs with


async def test_s24_what_the_backend_runs_with_is_shown_and_a_difference_is_an_alarm(fleet: Fleet) -> None:
    fleet.gated.effective = {"model": "claude-opus-4-1", "permission_mode": "auto", "cwd": str(fleet.work)}
    fleet.gated.gate.set()
    await fleet.start(backend="gated", model="opus", permission_mode="default")
    assert (await fleet.board.status("api")).effective == {}
    await fleet.run("api", "x")
    status = await fleet.board.status("api")
    assert status.asked == {"cwd": status.path, "model": "opus", "permission_mode": "default"}
    assert status.effective["model"] == "claude-opus-4-1"
    assert status.alarms == ("permission_mode is 'auto', asked was 'default'",)


async def test_s24_u28_after_a_restart_it_is_read_back_again(fleet: Fleet) -> None:
    fleet.gated.effective = {"permission_mode": "default", "cwd": str(fleet.work)}
    fleet.gated.gate.set()
    await fleet.start(backend="gated", permission_mode="default")
    await fleet.run("api", "x")
    assert (await fleet.board.status("api")).alarms == ()
    board = await fleet.kill()
    shown = (await board.status("api")).effective
    assert shown["permission_mode"] == "default", "the last report is shown until there is another"
    fleet.gated.effective = {"permission_mode": "bypass", "cwd": str(fleet.work.parent)}
    fleet.gated.gate.set()
    await fleet.run("api", "y")
    assert len((await board.status("api")).alarms) == 2


async def test_u05_a_directory_that_vanished_is_said_and_nothing_is_lost(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    refs = [await fleet.board.send("api", f"p{n}", queue=True) for n in range(3)]
    await fleet.gated.running.wait()
    shutil.rmtree(fleet.work)
    fleet.gated.gate.set()
    await fleet.done(refs[0], refs[1])
    assert (await failed(fleet.board, "api", refs[1])).reason == "halted"
    status = await fleet.board.status("api")
    assert status.halted
    assert any("is gone" in alarm for alarm in status.alarms)
    with pytest.raises(InvalidPath):
        await fleet.board.send("api", "another", queue=True)
    fleet.work.mkdir()
    assert (await fleet.board.resume("api")).sessions == ("api",)
    await fleet.done(refs[2])
    assert fleet.gated.prompts == ["p0", "p2"]
    assert (await fleet.board.status("api")).alarms == ()


# -- crashes


async def test_u03_u30_a_crashed_session_is_dead_and_says_why(fleet: Fleet) -> None:
    await fleet.start(backend="gated")
    waiting = asyncio.ensure_future(fleet.board.inbox(wait=20))
    ref = await fleet.board.send("api", "x")
    await fleet.gated.running.wait()
    machine = fleet.board._roster.get("api").machine
    assert machine is not None
    assert machine.task is not None
    machine.task.cancel()
    assert [e.ref for e in (await waiting).entries] == [ref]
    assert (await failed(fleet.board, "api", ref)).reason == "crashed"
    status = await fleet.board.status("api")
    assert (status.life, status.phase) == (Life.DEAD, "dead")
    assert "cancelled from outside" in (status.problem or "")
    assert status.problem in status.alarms
    with pytest.raises(AgentNotFound, match="is dead"):
        await fleet.board.send("api", "y")
    assert (await fleet.board.resume("api")).sessions == ("api",)
    fleet.gated.gate.set()
    await fleet.run("api", "z")
    assert (await fleet.board.status("api")).life is Life.LIVE


async def test_r35_a_session_that_asked_for_restarts_lives_again(fleet: Fleet) -> None:
    await fleet.start(backend="gated", restart="permanent")
    ref = await fleet.board.send("api", "x")
    await fleet.gated.running.wait()
    machine = fleet.board._roster.get("api").machine
    assert machine is not None
    assert machine.task is not None
    machine.task.cancel()
    await fleet.done(ref)
    fleet.gated.gate.set()
    async with asyncio.timeout(10):
        while (await fleet.board.status("api")).life is not Life.LIVE:
            await asyncio.sleep(0)
    await fleet.run("api", "y")
    board = await fleet.kill()
    assert (await board.status("api")).life is Life.LIVE


async def test_s16_two_surfaces_see_one_fleet(fleet: Fleet) -> None:
    one = fleet.board.on_behalf_of(Caller("cli", "alice"))
    two: Switchboard = fleet.board.on_behalf_of(Caller("mcp", "claude"))
    await one.start_session("api", path=fleet.work, backend="echo")
    ref = await two.send("api", "hello")
    await one.wait([ref], timeout=10)
    assert (await one.poll("api", ref)) == (await two.poll("api", ref))
    assert (await two.summary_update("api", "s")).author == "mcp:claude"
    assert (await one.summary_get("api")).author == "mcp:claude"
    await one.halt("api")
    assert (await two.status("api")).halted


async def test_s01_secrets_are_refused_by_name_and_passed_by_reference(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hush-4711-hush"
    monkeypatch.setenv("TB_TEST_VALUE", secret)
    tail = fleet.board.tail(after=0)
    for options in (
        {"env": {"API_KEY": secret}},
        {"mcp_servers": {"x": {"headers": {"Authorization": f"Bearer {secret}"}}}},
        {"servers": [{"env": {"TOKEN": secret}}]},
    ):
        with pytest.raises(InvalidOption) as refused:
            await fleet.start(backend="gated", **options)
        assert secret not in str(refused.value)
    with pytest.raises(InvalidOption, match="TB_MISSING"):
        await fleet.start(backend="gated", env={"API_KEY": "$TB_MISSING"})
    status = await fleet.board.start_session(
        "api", path=fleet.work, backend="gated",
        env={"API_KEY": "$TB_TEST_VALUE", "PLAIN": "$TB_TEST_VALUE", "HOME": "/x"},
        servers=[{"headers": {"Cookie": "$TB_TEST_VALUE"}}], model="$TB_TEST_VALUE",
    )  # fmt: skip
    given = fleet.gated.sessions[-1]
    assert given["env"] == {"API_KEY": secret, "PLAIN": secret, "HOME": "/x"}
    assert given["servers"] == [{"headers": {"Cookie": secret}}]
    assert given["model"] == "$TB_TEST_VALUE"
    fleet.gated.gate.set()
    await fleet.run("api", "x")
    shown = repr(status) + repr(fleet.board._roster.get("api")) + repr(await fleet.board.list_sessions())
    page = await fleet.board.events()
    shown += "".join(f"{item}{dict(item.data)}" for item in page.items) + repr(await anext(tail))
    assert secret not in shown
    board = await fleet.restart()
    assert fleet.gated.resumed[0][1]["env"] == given["env"]
    await board.stop_session("api")
    files = b"".join(file.read_bytes() for file in fleet.path.parent.glob("tollboard.db*"))
    assert b"TB_TEST_VALUE" in files
    assert secret.encode() not in files
