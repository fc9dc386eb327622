"""What `from tollboard import ...` gives, and that it costs nothing before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tollboard
from tests.daemon.process import DaemonProcess
from tollboard import (
    Client,
    Completed,
    Failed,
    Interrupted,
    Pending,
    Pool,
    Store,
    SubAgent,
    SubAgentServer,
    Switchboard,
    Task,
)
from tollboard.fleet import records
from tollboard.runtime import results
from tollboard.subagents import outcome


def test_every_public_name_is_there() -> None:
    for name in tollboard.__all__:
        assert getattr(tollboard, name) is not None
    assert {Client, Pool, SubAgent, SubAgentServer, Switchboard, Task, Interrupted}


def test_importing_tollboard_loads_nothing_of_it() -> None:
    code = "import sys; before = set(sys.modules); import tollboard; print(*(set(sys.modules) - before))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [one for one in loaded if one.startswith("tollboard.") or one in {"pydantic", "asyncio"}] == []


@pytest.mark.parametrize(
    ("exported", "kinds"),
    [
        (Completed, (results.Completed, records.PollCompleted, outcome.Completed)),
        (Failed, (results.Failed, records.PollFailed, outcome.Failed)),
        (Pending, (results.Pending, records.PollPending)),
    ],
)
def test_what_is_returned_is_a_kind_of_what_is_exported(exported: type, kinds: tuple[type, ...]) -> None:
    for kind in kinds:
        assert issubclass(kind, exported)
        assert kind.__slots__ is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Switchboard, Client])
async def test_the_example_runs_in_process_and_over_the_daemon(
    kind: type[Switchboard] | type[Client], home: Path, tmp_path: Path
) -> None:
    answers: list[str | None] = []
    daemon = DaemonProcess(home)
    if kind is Client:
        daemon.start()
    try:
        async with kind.open(home) as board:
            await board.start_session("project-a", path=tmp_path, backend="echo")
            await board.start_session("project-b", path=tmp_path, backend="echo")
            ref_a = await board.send("project-a", "what files are here?")
            ref_b = await board.send("project-b", "list tests in test/")
            await board.wait([ref_a, ref_b])
            for name, ref in (("project-a", ref_a), ("project-b", ref_b)):
                match await board.poll(name, ref):
                    case Pending():
                        raise AssertionError("it was waited for")
                    case Completed(response=r):
                        answers.append(r.text)
                    case Failed(reason=why):
                        raise AssertionError(why)
            assert answers == ["echo: what files are here?", "echo: list tests in test/"]
            assert len((await board.inbox("project-a")).entries) == 1
            await board.inbox("project-a", ack=True)
            assert (await board.inbox("project-a")).entries == ()
            await board.summary_update("project-a", "## Status\nworking on auth.")
            await board.stop_session("project-a")
            assert [one.name for one in await board.list_sessions()] == ["project-b"]
    finally:
        if kind is Client:
            daemon.end()


async def test_what_has_not_ended_is_pending(tmp_path: Path) -> None:
    async with Switchboard.open() as board:
        await board.start_session("slow", path=tmp_path, backend="echo", delay=600)
        ref = await board.send("slow", "x")
        assert isinstance(await board.poll("slow", ref), Pending)
        await board.interrupt("slow")
        match await board.poll("slow", ref):
            case Failed(reason=why):
                assert why == "interrupted"
            case other:
                raise AssertionError(other)


async def test_a_fleet_is_kept_where_its_opener_says(tmp_path: Path) -> None:
    kept = tmp_path / "fleet.db"
    async with Switchboard.open(kept) as board:
        await board.start_session("api", path=tmp_path, backend="echo")
    board = await Switchboard.open(str(kept))
    assert [one.name for one in await board.list_sessions()] == ["api"]
    await board.close()
    await board.close()
    async with Switchboard.open() as board:
        assert await board.list_sessions() == ()
    store = await Store.open(kept)
    async with Switchboard.open(store) as board:
        assert len(await board.list_sessions()) == 1
    await store.flush()  # it is still its opener's
    await store.close()
