"""Pools in the daemon (P14): durable like any request, told apart after a restart, refused where they cannot be."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.hall import Hall
from tests.fleet.world import Gated
from tollboard.errors import (
    Conflict,
    DaemonError,
    Invalid,
    InvalidName,
    InvalidOption,
    InvalidPath,
    InvalidPrompt,
    NotCancellable,
    Overloaded,
    PoolExists,
    PoolNotFound,
    PoolStopped,
    RateLimited,
    RequestNotFound,
    StoreUnavailable,
    TollboardError,
    UnknownBackend,
)
from tollboard.fleet.pools import pools as pools_module
from tollboard.fleet.pools.pools import NOBODY_ASKS, Pools
from tollboard.fleet.pools.records import PoolLife, RoleSpec, TaskState
from tollboard.fleet.records import Caller
from tollboard.fleet.settings import FleetSettings
from tollboard.pool.records import Task, TaskStatus, WorkerState
from tollboard.pool.role import Role
from tollboard.runtime.backend import NO_PROCESSES, ProcessReport
from tollboard.testing.clock import FakeClock

ASK = {"approval": {"tool": "shell", "arguments": {"command": "ls"}}}


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    made = Hall(tmp_path)
    await made.open()
    yield made
    await made.close()


async def gated_pool(hall: Hall, prompts: int, **more: object) -> tuple[list[str], Gated]:
    """Start a pool of one gated worker; the first task is at the gate, the others wait."""
    await hall.start(backend="gated", **more)
    refs = await hall.submit(*(f"q{n}" for n in range(prompts)))
    await hall.gated.reached(refs[0])
    return refs, hall.gated


# -- the verbs


async def test_p14_a_pool_works_through_its_tasks(hall: Hall) -> None:
    view = await hall.start(size=3)
    assert (view.life, view.done, [w.name for w in view.workers]) == (
        PoolLife.LIVE,
        True,
        ["p-0", "p-1", "p-2"],
    )
    submitted = await hall.pools.submit("p", [f"q{n}" for n in range(7)])
    assert [one.worker for one in submitted] == ["p-0", "p-1", "p-2", "p-0", "p-1", "p-2", "p-0"]
    view = await hall.done()
    assert (view.submitted, view.ok, view.failed, view.queued, view.running) == (7, 7, 0, 0, 0)
    results = await hall.results()
    assert [(r.index, r.ref, r.text) for r in results] == [
        (n, one.ref, f"echo: q{n}") for n, one in enumerate(submitted)
    ]


async def test_p14_one_task_from_submission_to_answer(hall: Hall) -> None:
    refs, gated = await gated_pool(hall, 2)
    running, queued = [await hall.poll(ref) for ref in refs]
    assert (running.state, running.worker, running.attempt) == (TaskState.RUNNING, "p-0", 1)
    assert (queued.state, queued.started_at, queued.result) == (TaskState.QUEUED, None, None)
    gated.gate.set()
    await hall.done()
    ended = await hall.poll(refs[1])
    assert ended.result is not None
    assert (ended.state, ended.result.text, ended.prompt) == (TaskState.ENDED, "done: q1", "q1")
    with pytest.raises(RequestNotFound):
        await hall.poll("nothing")


async def test_p09_p14_roles_are_kept_with_their_tasks(hall: Hall) -> None:
    await hall.start(size={"coder": 1, "reviewer": 2}, strategy="shared_queue")
    await hall.pools.submit("p", [Task("a", "coder"), Task("b", "reviewer"), Task("c", "coder")])
    await hall.done()
    assert [(r.role, r.prompt) for r in await hall.results()] == [
        ("coder", "a"), ("reviewer", "b"), ("coder", "c"),
    ]  # fmt: skip
    with pytest.raises(
        InvalidOption, match=r"tasks\[1\]: this pool has no role 'cook'; its roles are 'coder'"
    ):
        await hall.pools.submit("p", [Task("a", "coder"), Task("b", "cook")])
    assert (await hall.pools.status("p")).submitted == 3, "nothing of it was accepted"


async def test_p08_longest_first_sees_a_request_before_it_begins(hall: Hall) -> None:
    await hall.start(backend="gated", strategy="longest_first")
    tasks = [Task(f"q{n}", hint_s=n) for n in range(4)]
    refs = [one.ref for one in await hall.pools.submit("p", tasks)]
    await hall.gated.reached(refs[3])
    assert [(await hall.poll(ref)).state for ref in refs] == ["queued", "queued", "queued", "running"]


async def test_results_come_in_pages(hall: Hall) -> None:
    await hall.start(size=2)
    await hall.submit(*(f"q{n}" for n in range(5)))
    await hall.done()
    first = await hall.pools.results("p", limit=2)
    assert ([r.index for r in first.results], first.next) == ([0, 1], 1)
    rest = await hall.pools.results("p", after=1, limit=3)
    assert ([r.index for r in rest.results], rest.next) == ([2, 3, 4], None)
    for bad in ({"limit": 0}, {"limit": 1_001}, {"limit": True}, {"after": "1"}):
        with pytest.raises(Invalid):
            await hall.pools.results("p", **bad)  # type: ignore[arg-type]


async def test_p06_failed_tasks_are_results_too(hall: Hall) -> None:
    await hall.start(fail="overloaded")
    await hall.submit("a")
    view = await hall.done()
    [result] = await hall.results()
    assert (view.failed, result.status) == (1, TaskStatus.FAILED)
    assert result.error is not None
    assert result.error.startswith("backend_error: ")


async def test_p07_p14_stop_ends_what_is_open_and_keeps_the_results(hall: Hall) -> None:
    refs, _ = await gated_pool(hall, 3)
    view = await hall.pools.stop("p")
    assert (view.life, view.failed, view.done) == (PoolLife.STOPPED, 3, True)
    assert [r.status for r in await hall.results()] == [TaskStatus.STOPPED] * 3
    assert (await hall.poll(refs[2])).state is TaskState.ENDED
    assert (await hall.pools.stop("p")).id == view.id, "idempotent"
    for verb in (hall.pools.submit("p", "x"), hall.pools.scale("p", 2), hall.pools.cancel("p", refs[0])):
        with pytest.raises(PoolNotFound):
            await verb


async def test_a_close_whose_caller_gives_up_goes_on(hall: Hall) -> None:
    refs, gated = await gated_pool(hall, 1)
    closing = asyncio.ensure_future(hall.pools.close(grace_s=20))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    again = asyncio.ensure_future(hall.pools.close())
    gated.let_go(refs[0])
    await again
    assert gated.ended == ["gated-0"]
    assert (await hall.results())[0].status is TaskStatus.OK


async def test_a_pool_that_was_left_to_the_next_start_is_not_stopped_any_more(hall: Hall) -> None:
    await gated_pool(hall, 3)
    ending, release = asyncio.Event(), asyncio.Event()

    async def slow(session: dict[str, Any]) -> ProcessReport:
        ending.set()
        await release.wait()
        return NO_PROCESSES

    hall.gated.terminate_session = slow  # type: ignore[method-assign]
    closing = asyncio.ensure_future(hall.pools.close(grace_s=0))
    await ending.wait()
    stopping = asyncio.ensure_future(hall.pools.stop("p"))
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(DaemonError, match="shutting down"):
        await stopping
    await closing
    await hall.restart()
    hall.gated.gate.set()
    await hall.done()
    assert [r.status for r in await hall.results()] == [TaskStatus.INTERRUPTED, TaskStatus.OK, TaskStatus.OK]


async def test_a_stopped_name_is_free_and_the_old_pool_is_found_by_id(hall: Hall) -> None:
    old = await hall.start()
    await hall.submit("old")
    await hall.done()
    await hall.pools.stop("p")
    new = await hall.start()
    assert (await hall.pools.status("p")).id == new.id
    assert (await hall.pools.status(old.id)).ok == 1
    assert [view.id for view in await hall.pools.list()] == [new.id]
    assert [view.id for view in await hall.pools.list(all=True)] == [old.id, new.id]


async def test_delete_removes_a_stopped_pool_only(hall: Hall) -> None:
    await hall.start()
    [ref] = await hall.submit("a")
    await hall.done()
    with pytest.raises(Conflict, match="pool 'p' is live: stop it before you delete it"):
        await hall.pools.delete("p")
    await hall.pools.stop("p")
    assert (await hall.pools.delete("p")).tasks == 1
    with pytest.raises(PoolNotFound):
        await hall.pools.status("p")
    assert await hall.store.pools.pool_task(ref) is None


async def test_cancel_withdraws_what_waits_only(hall: Hall) -> None:
    refs, gated = await gated_pool(hall, 2)
    withdrawn = await hall.pools.cancel("p", refs[1])
    assert withdrawn.result is not None
    assert withdrawn.result.status is TaskStatus.CANCELLED
    for ref in refs:
        with pytest.raises(NotCancellable):
            await hall.pools.cancel("p", ref)
    gated.gate.set()
    await hall.done()
    assert gated.prompts == ["q0"]


async def test_p05_wait_says_when_it_ran_out_of_time(hall: Hall) -> None:
    _, gated = await gated_pool(hall, 1)
    assert not (await hall.pools.wait("p", timeout=0.0)).done
    waiting = asyncio.create_task(hall.pools.wait("p"))
    gated.gate.set()
    assert (await waiting).done
    for bad in (-1, float("nan"), "1", True, 1e9):
        with pytest.raises(Invalid):
            await hall.pools.wait("p", timeout=bad)  # type: ignore[arg-type]


async def test_p11_scale_is_kept_over_a_restart(hall: Hall) -> None:
    await hall.start(size=1)
    assert len((await hall.pools.scale("p", 3)).workers) == 3
    pools = await hall.kill()
    assert len((await pools.status("p")).workers) == 3


@pytest.mark.parametrize(
    ("asked", "role", "size", "bounds"),
    [
        ({"size": 2, "min": 2, "max": 2}, None, 3, (None, None)),
        ({"size": 4, "min": 4}, None, 2, (None, None)),
        ({"size": 4, "min": 2}, None, 3, ({"worker": 2}, {"worker": 4})),
        ({"size": {"a": 1, "b": 2}, "min": {"a": 1}, "max": {"a": 4}}, "b", 3, ({"a": 1}, {"a": 4})),
    ],
)
async def test_p11_a_pool_that_was_scaled_beside_its_bounds_comes_back(
    hall: Hall, asked: dict[str, Any], role: str | None, size: int, bounds: tuple[object, object]
) -> None:
    # The bounds of a role that keeps its size were kept as they were first, and the pool was dead after a restart.
    await hall.start(**asked)
    scaled = await hall.pools.scale("p", size, role=role)
    pools = await hall.kill()
    after = await pools.status("p")
    assert (after.life, after.problem, after.size) == (PoolLife.LIVE, None, scaled.size)
    assert (after.min, after.max) == bounds


async def test_p11_of_two_that_scale_at_once_the_last_one_gets_its_size(hall: Hall) -> None:
    await hall.start(size=1)
    await asyncio.gather(hall.pools.scale("p", 4), hall.pools.scale("p", 2))
    view = await hall.pools.status("p")
    staying = [worker for worker in view.workers if worker.state is not WorkerState.RETIRING]
    assert (len(staying), view.starting, view.size) == (2, 0, {"worker": 2})
    await hall.restart()
    assert len((await hall.pools.status("p")).workers) == 2


async def test_p13_a_full_pool_takes_what_fits(hall: Hall) -> None:
    await hall.start(backend="gated", max_queued=2)
    first = await hall.pools.submit("p", ["a", "b", "c", "d"], timeout=0)
    assert len(first) in (2, 3), "the first may have left the queue already"
    await hall.gated.reached(first[0].ref)
    while len((await hall.pools.status("p")).workers) and (await hall.pools.status("p")).queued < 2:
        await hall.pools.submit("p", "more", timeout=0)
    with pytest.raises(Overloaded):
        await hall.pools.submit("p", ["e"], timeout=0)
    waiting = asyncio.create_task(hall.pools.submit("p", ["f", "g", "h"]))
    hall.gated.gate.set()
    assert len(await waiting) == 3
    await hall.done()


async def test_p10_a_rate_limit_says_how_long(hall: Hall) -> None:
    await hall.start(rate="6/min", burst=2)
    assert len(await hall.pools.submit("p", ["a", "b", "c"], timeout=0)) == 2
    with pytest.raises(RateLimited) as limited:
        await hall.pools.submit("p", "c", timeout=0)
    assert 9 < limited.value.retry_after <= 10


async def test_workers_do_not_ask_and_do_not_hang(hall: Hall) -> None:
    await hall.start(backend="scripted", script=[ASK, "went on"])
    await hall.submit("a")
    await hall.done()
    [result] = await hall.results()
    assert result.text.endswith(NOBODY_ASKS)
    assert result.text.startswith("rejected: shell")


async def test_s27_who_started_it_is_recorded(hall: Hall) -> None:
    await hall.pools.on_behalf_of(Caller("mcp", "ann")).start("p", 1, path=hall.work, backend="echo")
    assert (await hall.pools.status("p")).created_by == "mcp:ann"


# -- bad input


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"size": 0}, InvalidOption),
        ({"size": -1}, InvalidOption),
        ({"size": {}}, InvalidOption),
        ({"strategy": "best"}, InvalidOption),
        ({"backend": "nope"}, UnknownBackend),
        ({"rate": 0}, InvalidOption),
        ({"rate": "fast"}, InvalidOption),
        ({"burst": 2}, InvalidOption),
        ({"min": 4, "max": 2}, InvalidOption),
        ({"retries": -1}, InvalidOption),
        ({"max_queued": 0}, InvalidOption),
        ({"name": "a b"}, InvalidName),
        ({"name": "019a2b3c-4d5e-7f60-8a9b-0c1d2e3f4a5b"}, InvalidName),
        ({"watchdog_s": -1}, InvalidOption),
        ({"api_key": "sk-123"}, InvalidOption),
        ({"cwd": "/"}, Invalid),
        ({"runtime": 1}, Invalid),
        ({"_x": 1}, InvalidOption),
    ],
)
async def test_bad_input_starts_nothing(
    hall: Hall, given: dict[str, object], error: type[TollboardError]
) -> None:
    with pytest.raises(error):
        await hall.start(**given)  # type: ignore[arg-type]
    assert await hall.pools.list(all=True) == ()


async def test_a_directory_that_is_not_there_starts_nothing(hall: Hall) -> None:
    with pytest.raises(InvalidPath, match="does not exist"):
        await hall.pools.start("p", 1, path=hall.work / "nope", backend="echo")


async def test_what_the_configuration_forbids(tmp_path: Path) -> None:
    hall = Hall(tmp_path)
    hall.settings = FleetSettings(backends=("gated",), roots=(str(tmp_path / "work"),), max_prompt_bytes=10)
    await hall.open()
    with pytest.raises(UnknownBackend, match="not allowed here"):
        await hall.start()
    with pytest.raises(InvalidPath, match="outside of what is allowed"):
        await hall.pools.start("p", 1, path=tmp_path, backend="gated")
    await hall.start(backend="gated")
    with pytest.raises(InvalidPrompt, match="11 bytes"):
        await hall.submit("fine", "elevenbytes")
    assert (await hall.pools.status("p")).submitted == 0
    await hall.close()


async def test_a_name_that_is_taken_and_one_that_is_being_started(hall: Hall) -> None:
    first = asyncio.create_task(hall.start())
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(PoolExists):
            await hall.start()
        await first


@pytest.mark.parametrize("tasks", [[], [""], ["  "], [1], [Task("x", hint_s=-1)], ["\ud800"]])
async def test_bad_tasks_are_refused(hall: Hall, tasks: list[str]) -> None:
    await hall.start()
    with pytest.raises(Invalid):
        await hall.pools.submit("p", tasks)
    assert (await hall.pools.status("p")).submitted == 0


async def test_p01_a_worker_that_cannot_start_leaves_no_pool(hall: Hall) -> None:
    async def refuse() -> None:
        raise OSError("no more of these")

    hall.gated.on_start = refuse
    with pytest.raises(TollboardError, match="worker 'p-0' could not be started, the others were stopped"):
        await hall.start(size=3, backend="gated")
    assert await hall.pools.list(all=True) == ()
    hall.gated.on_start = None
    await hall.start(size=3, backend="gated")


# -- restarts


async def test_p14_after_a_kill_what_waited_runs_and_what_was_in_flight_is_interrupted(hall: Hall) -> None:
    refs, old = await gated_pool(hall, 3)
    pools = await hall.kill()
    hall.gated.gate.set()
    view = await hall.done()
    assert (view.submitted, view.ok, view.failed) == (3, 2, 1)
    assert [r.status.value for r in await hall.results()] == ["interrupted", "ok", "ok"]
    assert (old.prompts, hall.gated.prompts) == (["q0"], ["q1", "q2"]), "nothing ran twice"
    [lost] = [r for r in await hall.results() if not r.ok]
    assert (lost.ref, lost.error, lost.worker) == (
        refs[0],
        "interrupted: the daemon ended while it ran",
        "p-0",
    )
    later = await pools.submit("p", "new")
    await hall.done()
    assert (await hall.poll(later[0].ref)).index == 3, "indexes go on"


async def test_p12_p14_retries_run_again_what_was_in_flight(hall: Hall) -> None:
    refs, old = await gated_pool(hall, 2, retries=1)
    await hall.kill()
    await hall.gated.reached(refs[0])
    assert (await hall.poll(refs[0])).attempt == 2
    await hall.kill()
    hall.gated.gate.set()
    view = await hall.done()
    assert (view.ok, view.failed) == (1, 1)
    assert hall.gated.prompts == ["q1"], "one retry was allowed"
    assert old.prompts == ["q0"]


async def test_a_graceful_end_lets_tasks_in_flight_finish_and_keeps_the_others(hall: Hall) -> None:
    refs, old = await gated_pool(hall, 3)
    closing = asyncio.create_task(hall.pools.close(grace_s=20))
    await asyncio.sleep(0)
    with pytest.raises(DaemonError, match="shutting down"):
        await hall.submit("late")
    old.gate.set()
    await closing
    await hall.store.close()
    hall.shelf.gated = new = Gated()
    new.gate.set()
    await hall.open()
    view = await hall.done()
    assert (view.ok, view.failed) == (3, 0)
    assert (old.prompts, new.prompts) == (["q0"], ["q1", "q2"])
    assert [r.ref for r in await hall.results()] == refs


async def test_a_graceful_end_without_time_interrupts_what_is_in_flight(hall: Hall) -> None:
    await gated_pool(hall, 2)
    await hall.restart(grace_s=0)
    hall.gated.gate.set()
    await hall.done()
    assert [r.status.value for r in await hall.results()] == ["interrupted", "ok"]


async def test_who_waits_is_sent_home_when_the_daemon_ends(hall: Hall) -> None:
    await gated_pool(hall, 1)
    waiting = asyncio.create_task(hall.pools.wait("p"))
    await asyncio.sleep(0)
    await hall.pools.close(grace_s=0)
    with pytest.raises(DaemonError):
        await waiting


async def test_who_waits_for_room_is_sent_home_when_the_daemon_ends(hall: Hall) -> None:
    await gated_pool(hall, 1, max_queued=1)
    filled = await hall.pools.submit("p", "fits")
    waiting = asyncio.create_task(hall.pools.submit("p", "does not"))
    while not (await hall.pools.status("p")).waiting_submitters:
        await asyncio.sleep(0)
    await hall.pools.close(grace_s=0)
    with pytest.raises(DaemonError):
        await waiting
    pools = await hall.restart()
    hall.gated.gate.set()
    await hall.done()
    assert (await pools.status("p")).submitted == 2
    assert (await hall.poll(filled[0].ref)).state is TaskState.ENDED


async def test_a_pool_that_cannot_come_back_is_dead_and_keeps_its_tasks(hall: Hall) -> None:
    await gated_pool(hall, 2)
    gone = hall.work.rename(hall.work.with_name("moved"))
    pools = await hall.kill()
    view = await pools.status("p")
    assert (view.life, view.queued, view.workers, view.done) == (PoolLife.DEAD, 1, (), False)
    assert view.problem is not None
    assert "does not exist" in view.problem
    with pytest.raises(PoolStopped, match="pool 'p' is dead: the working directory"):
        await pools.submit("p", "x")
    gone.rename(hall.work)
    await hall.kill()
    hall.gated.gate.set()
    view = await hall.done()
    assert (view.life, view.problem, view.ok, view.failed) == (PoolLife.LIVE, None, 1, 1)


async def test_p15_a_pool_whose_workers_did_not_come_up_is_tried_again_and_says_when(hall: Hall) -> None:
    await gated_pool(hall, 2)
    clock = hall.clock = FakeClock()
    gone = hall.work.rename(hall.work.with_name("moved"))
    pools = await hall.kill()
    await _until_retry_at(pools, clock.time() + 5)
    clock.advance(5)
    await _until_retry_at(pools, clock.time() + 10)
    assert (await pools.status("p")).life is PoolLife.DEAD
    gone.rename(hall.work)
    hall.gated.gate.set()
    clock.advance(10)
    while (await pools.status("p")).life is PoolLife.DEAD:
        await asyncio.sleep(0.001)
    view = await hall.done()
    assert (view.problem, view.retry_at, view.submitted, view.ok, view.failed) == (None, None, 2, 1, 1)
    assert [record.life for record in await hall.store.pools.pools()] == [PoolLife.LIVE]


async def _until_retry_at(pools: Pools, at: float) -> None:
    async with asyncio.timeout(20):
        while (await pools.status("p")).retry_at != at:
            await asyncio.sleep(0.001)


async def test_a_dead_pool_can_be_stopped(hall: Hall) -> None:
    await gated_pool(hall, 3)
    hall.work.rmdir()
    pools = await hall.kill()
    view = await pools.stop("p")
    assert (view.life, view.submitted, view.failed) == (PoolLife.STOPPED, 3, 3)
    assert [r.status.value for r in await hall.results()] == ["interrupted", "stopped", "stopped"]


async def test_options_and_settings_come_back(hall: Hall) -> None:
    before = await hall.start(
        size={"a": 1, "b": 2}, min=1, max=4, rate="5/s", burst=9, retries=2, max_queued=77, strategy="longest_first",
        delay=0.001,
    )  # fmt: skip
    pools = await hall.kill()
    after = await pools.status("p")
    for name in ("id", "size", "min", "max", "rate", "burst", "retries", "max_queued", "strategy", "path", "backend",
                 "created_at", "created_by"):  # fmt: skip
        assert getattr(after, name) == getattr(before, name), name


async def test_p16_roles_and_the_kind_of_conversation_come_back(hall: Hall) -> None:
    roles = {"coder": Role(size=2, prompt="You code.", options={"delay": 0.001}), "reviewer": {"size": 1}}
    before = await hall.start(
        size=None,
        roles=roles,
        conversation="kept",
        recycle_turns=5,
        recycle_tokens=900,
        strategy="shared_queue",
    )  # type: ignore[arg-type]
    spec = await hall.pools.definition("p")
    assert (before.size, before.conversation) == ({"coder": 2, "reviewer": 1}, "kept")
    assert spec.roles == {"coder": RoleSpec(prompt="You code.", options={"delay": 0.001})}
    await hall.pools.scale("p", 3, role="coder")
    pools = await hall.kill()
    after = await pools.definition("p")
    assert after == replace(spec, size={"coder": 3, "reviewer": 1})
    await pools.submit("p", [Task("a", role="coder"), Task("b", role="reviewer")])
    assert (await hall.done()).ok == 2


@pytest.mark.parametrize(
    ("role", "error"),
    [
        (Role(backend="nobody"), UnknownBackend),
        (Role(options={"env": {"API_KEY": "sk-123"}}), InvalidOption),
        (Role(options={"cwd": "/"}), Invalid),
        (Role(options={"colour": "red"}), InvalidOption),
    ],
    ids=["backend", "secret", "directory", "unknown"],
)
async def test_p16_a_role_may_do_no_more_than_its_pool(
    hall: Hall, role: Role, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await hall.pools.check("p", path=hall.work, backend="echo", roles={"a": role})


# -- a medium that fails


def fill_disk(hall: Hall) -> None:
    def full(writes: object, *, singly: bool) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    hall.store._writer._transact = full  # type: ignore[method-assign]


async def test_a_full_disk_accepts_nothing_and_says_so(hall: Hall) -> None:
    await hall.start()
    fill_disk(hall)
    with pytest.raises(StoreUnavailable, match="the disk is full; free some space"):
        await hall.submit("a", "b")
    view = await hall.pools.wait("p", timeout=20)
    assert view.done, "nobody waits for what was refused"
    del hall.store._writer._transact
    await hall.submit("c")
    await hall.done()
    assert [(r.prompt, r.status.value) for r in await hall.results()] == [("c", "ok")]


async def test_stopping_on_a_full_disk_says_so_and_goes_on_once_there_is_space(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "STALL_S", 0.05)
    refs, _ = await gated_pool(hall, 2)
    fill_disk(hall)
    for _ in range(2):  # whoever asks again is told again
        with pytest.raises(StoreUnavailable, match=r"'p' is being stopped.*disk is full; free some space"):
            await hall.pools.stop("p")
    del hall.store._writer._transact
    view = await hall.pools.stop("p")
    assert (view.life, view.failed) == (PoolLife.STOPPED, 2)
    assert [(await hall.poll(ref)).state for ref in refs] == [TaskState.ENDED] * 2


async def test_closing_does_not_hang_on_a_full_disk(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools_module, "CLOSE_S", 0.1)
    refs, gated = await gated_pool(hall, 2)
    fill_disk(hall)
    gated.gate.set()
    await hall.pools.wait("p", timeout=0.05)
    await hall.pools.close(grace_s=0)
    del hall.store._writer._transact
    await hall.kill()
    hall.gated.gate.set()
    await hall.done()
    assert [(await hall.poll(ref)).state for ref in refs] == [TaskState.ENDED] * 2
    assert hall.gated.prompts == ["q1"]


async def test_an_answer_is_not_lost_to_a_disk_that_is_full_for_a_while(hall: Hall) -> None:
    refs, gated = await gated_pool(hall, 1)
    fill_disk(hall)
    gated.gate.set()
    assert not (await hall.pools.wait("p", timeout=0.05)).done, "commit, then resolve"
    del hall.store._writer._transact
    await hall.done()
    assert (await hall.poll(refs[0])).state is TaskState.ENDED
