"""One suite for everything that is a PoolBoard: `Pools` in this process, and `Client.pools` over a daemon's socket."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import tollboard.backends as backends
from tests.daemon.process import DaemonProcess
from tollboard.daemon.client import Client
from tollboard.errors import (
    Conflict,
    Invalid,
    InvalidName,
    InvalidOption,
    InvalidPath,
    InvalidPrompt,
    NotCancellable,
    Overloaded,
    PoolExists,
    PoolNotFound,
    RateLimited,
    RequestNotFound,
    TollboardError,
    UnknownBackend,
)
from tollboard.fleet.pools.board import PoolBoard
from tollboard.fleet.pools.pools import Pools
from tollboard.fleet.pools.records import PoolLife, PoolView, TaskRecord, TaskState
from tollboard.fleet.records import Caller
from tollboard.pool.records import Task, TaskResult, TaskStatus, WorkerState
from tollboard.store.store import Store

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def opened(kind: str, home: Path) -> AsyncIterator[PoolBoard]:
    if kind == "client":
        with DaemonProcess(home):
            async with Client.connect(home, start=False, surface="test", client="contract") as client:
                yield client.pools
        return
    store = await Store.open(home / "tollboard.db")
    pools = await Pools.open(store.pools, backends=backends)
    try:
        yield pools.on_behalf_of(Caller("test", "contract"))
    finally:
        await pools.close(grace_s=0)
        await store.close()


@pytest.fixture(params=["pools", "client"])
async def board(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[PoolBoard]:
    async with opened(request.param, home) as one:
        yield one


async def start(board: PoolBoard, path: Path, size: int | dict[str, int] = 2, **more: object) -> PoolView:
    return await board.start("p", size, path=path, backend="echo", **more)  # type: ignore[arg-type]


def test_p14_both_have_every_verb_with_the_same_arguments() -> None:
    from tollboard.daemon.pool_client import PoolClient

    for name, verb in vars(PoolBoard).items():
        if not name.startswith("_"):
            for cls in (Pools, PoolClient):
                assert inspect.signature(getattr(cls, name)) == inspect.signature(verb), (cls, name)


async def test_what_a_pool_is_asked_to_be(board: PoolBoard, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rate": "90/min", "min": 1, "max": 3, "delay": 0}
    checked = await board.check("p", 2, path=tmp_path, backend="echo", **options)
    assert await board.list(all=True) == ()
    assert (checked.size, checked.rate, checked.burst, checked.max) == ({"worker": 2}, 1.5, 1, {"worker": 3})
    assert checked.options == {"delay": 0}
    view = await start(board, tmp_path, **options)
    assert await board.definition("p") == checked
    await board.scale("p", 1)
    assert (await board.definition("p")).size == {"worker": 1}
    await board.stop("p")
    assert (await board.definition(view.id)).path == str(tmp_path)
    with pytest.raises(PoolNotFound):
        await board.definition("nobody")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"size": 0}, InvalidOption),
        ({"name": "a/b"}, InvalidName),
        ({"strategy": "best"}, InvalidOption),
        ({"path": "/nowhere/at/all"}, InvalidPath),
        ({"path": ""}, InvalidPath),
        ({"path": "~nobody-of-that-name/x"}, InvalidPath),
        ({"backend": "nothing"}, UnknownBackend),
        ({"colour": "green"}, InvalidOption),
        ({"worker": "x"}, Invalid),
    ],
)
async def test_a_pool_can_be_checked_without_a_start(
    board: PoolBoard, tmp_path: Path, change: dict[str, Any], error: type[TollboardError]
) -> None:
    given: dict[str, Any] = {"name": "p", "size": 2, "path": tmp_path, "backend": "echo", **change}
    with pytest.raises(error):
        await board.check(given.pop("name"), given.pop("size"), **given)
    assert await board.list(all=True) == ()


async def test_p14_the_whole_life_of_a_pool(board: PoolBoard, tmp_path: Path) -> None:
    view = await start(
        board, tmp_path, {"a": 1, "b": 2}, strategy="shared_queue", rate="100/s", burst=50, retries=1
    )
    assert (view.name, view.life, view.size, view.path) == (
        "p",
        PoolLife.LIVE,
        {"a": 1, "b": 2},
        str(tmp_path),
    )
    assert (view.rate, view.burst, view.retries, view.created_by) == (100.0, 50, 1, "test:contract")
    assert [(w.name, w.role, w.state) for w in view.workers] == [
        ("p-0", "a", WorkerState.IDLE), ("p-1", "b", WorkerState.IDLE), ("p-2", "b", WorkerState.IDLE),
    ]  # fmt: skip
    submitted = await board.submit("p", [Task("x", "a"), Task("y\nü", "b", hint_s=1.5)])
    waited = await board.wait("p", timeout=20)
    assert (waited.done, waited.ok) == (True, 2)
    page = await board.results("p")
    assert [type(one) for one in page.results] == [TaskResult] * 2
    assert [(r.text, r.status, r.reason, r.usage, r.attempt) for r in page.results] == [
        ("echo: x", TaskStatus.OK, None, None, 1), ("echo: y\nü", TaskStatus.OK, None, None, 1),
    ]  # fmt: skip
    task = await board.poll("p", submitted[1].ref)
    assert type(task) is TaskRecord
    assert (task.state, task.role, task.hint_s, task.result) == (TaskState.ENDED, "b", 1.5, page.results[1])
    assert len((await board.scale("p", 3, role="b")).workers) == 4
    assert [one.id for one in await board.list()] == [view.id]
    assert (await board.stop("p")).life is PoolLife.STOPPED
    assert await board.list() == ()
    assert (await board.delete("p")).tasks == 2


async def test_p14_many_tasks_at_once(board: PoolBoard, tmp_path: Path) -> None:
    await start(board, tmp_path, 4, max_queued=50)
    submitted = await board.submit("p", [f"q{n}" for n in range(2_500)])
    assert len({one.ref for one in submitted}) == 2_500
    assert (await board.wait("p", timeout=60)).ok == 2_500
    page = await board.results("p", after=2_400)
    assert [r.ref for r in page.results] == [one.ref for one in submitted[2_401:]]


async def test_a_long_submission_goes_through(board: PoolBoard, tmp_path: Path) -> None:
    await start(board, tmp_path)
    prompts = [f"{n}" + "x" * 900_000 for n in range(6)]
    await board.submit("p", prompts)
    assert (await board.wait("p", timeout=60)).ok == 6
    assert [r.prompt for r in (await board.results("p")).results] == prompts


async def test_errors_are_the_same(board: PoolBoard, tmp_path: Path) -> None:
    await start(board, tmp_path)
    [done] = await board.submit("p", "x")
    await board.wait("p", timeout=20)
    cases: list[tuple[type[TollboardError], object]] = [
        (PoolExists, start(board, tmp_path)),
        (PoolNotFound, board.status("nope")),
        (PoolNotFound, board.submit("nope", "x")),
        (RequestNotFound, board.poll("p", "nope")),
        (InvalidPrompt, board.submit("p", "")),
        (InvalidOption, board.submit("p", Task("x", "cook"))),
        (InvalidOption, board.scale("p", 0)),
        (NotCancellable, board.cancel("p", done.ref)),
        (Conflict, board.delete("p")),
        (InvalidOption, board.start("q", 0, path=tmp_path, backend="echo")),
        (UnknownBackend, board.start("q", 1, path=tmp_path, backend="ech")),
        (InvalidOption, board.start("q", 1, path=tmp_path, backend="echo", strategy="best")),
        (InvalidOption, board.start("q", 1, path=tmp_path, backend="echo", rate=0)),
        (InvalidOption, board.start("q", 1, path=tmp_path, backend="echo", min=2, max=1)),
    ]
    for error, verb in cases:
        with pytest.raises(error) as caught:
            await verb  # type: ignore[misc]
        assert type(caught.value) is error


async def test_p10_p13_what_has_no_room_says_so(board: PoolBoard, tmp_path: Path) -> None:
    await start(board, tmp_path, 1, rate="1/min", burst=1)
    assert len(await board.submit("p", ["a", "b"], timeout=0)) == 1
    with pytest.raises(RateLimited) as limited:
        await board.submit("p", "b", timeout=0)
    assert 50 < limited.value.retry_after <= 60
    await board.start("full", 1, path=tmp_path, backend="echo", delay=60, max_queued=1)
    await board.submit("full", "runs")
    while (await board.status("full")).queued:
        await asyncio.sleep(0)
    await board.submit("full", "waits")
    with pytest.raises(Overloaded):
        await board.submit("full", "no room", timeout=0)


async def test_p03_what_was_accepted_before_a_submission_failed_is_said(
    board: PoolBoard, tmp_path: Path
) -> None:
    await board.start("p", 1, path=tmp_path, backend="echo", delay=60, max_queued=1)
    submitting = asyncio.create_task(board.submit("p", [f"{n}" for n in range(9)]))
    while not (await board.status("p")).waiting_submitters:
        await asyncio.sleep(0)
    taken = (await board.stop("p")).submitted
    with pytest.raises(TollboardError) as caught:
        await submitting
    assert 0 < taken < 9
    assert caught.value.__notes__[0].startswith(f"{taken} of 9 tasks were accepted before")
