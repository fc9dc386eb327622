"""`up` and `down` on a real Switchboard with real pools: what is started, left, replaced, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fleet.world import Fleet as World
from tollboard.errors import Conflict, Invalid, InvalidFleet, TollboardError
from tollboard.fleet.pools.pools import Pools
from tollboard.fleet.pools.records import PoolView
from tollboard.fleet.records import Life
from tollboard.fleet.switchboard import Switchboard
from tollboard.fleetfile import Action, Difference, Downed, Fleet, Step, carry_out, down, plan, up
from tollboard.pool.records import WorkerState

TEXT = """
[sessions.api]
backend = "echo"
[sessions.docs]
backend = "echo"
delay = 0
[pools.trivia]
backend = "echo"
size = 2
"""


@pytest.fixture
async def world(home: Path) -> AsyncIterator[World]:
    made = World(home)
    await made.open()
    yield made
    await made.close()


class Case:
    """A fleet file and the boards it is meant for."""

    def __init__(self, world: World, pools: Pools) -> None:
        self.world = world
        self.pools = pools
        self.work = world.work

    @property
    def board(self) -> Switchboard:
        return self.world.board

    def fleet(self, text: str = TEXT) -> Fleet:
        file = self.work / "fleet.toml"
        file.write_text(text)
        return Fleet.read(file, backends=self.world.shelf)

    async def up(self, text: str = TEXT, *, replace: bool = False) -> dict[str, Step]:
        return {
            step.name: step
            for step in await up(self.board, self.fleet(text), replace=replace, pools=self.pools)
        }

    async def down(self, text: str = TEXT, *, now: bool = False) -> dict[str, Downed]:
        return {one.name: one for one in await down(self.board, self.fleet(text), now=now, pools=self.pools)}


@pytest.fixture
async def case(world: World) -> AsyncIterator[Case]:
    pools = await Pools.open(world.store.pools, backends=world.shelf)
    yield Case(world, pools)
    await pools.close(grace_s=0)


def actions(steps: dict[str, Step]) -> list[str]:
    return [step.action for step in steps.values()]


async def test_it_starts_what_is_missing_and_can_be_done_again(case: Case) -> None:
    steps = await case.up()
    assert list(steps) == ["api", "docs", "trivia"]
    assert actions(steps) == ["start", "start", "start"]
    assert [status.name for status in await case.board.list_sessions()] == ["api", "docs"]
    assert (await case.pools.status("trivia")).size == {"worker": 2}
    before = await case.board.list_sessions()
    assert actions(await case.up()) == ["keep", "keep", "keep"]
    assert await case.board.list_sessions() == before
    await case.board.stop_session("docs")
    assert actions(await case.up()) == ["keep", "start", "keep"]


async def test_what_is_the_same_after_a_restart_is_kept(case: Case) -> None:
    text = """
    [sessions.s]
    backend = "scripted"
    script = ["a", {text = "b", chunks = 2}]
    watchdog_s = 60.0
    """
    await case.up(text)
    await case.world.restart()
    assert actions(await case.up(text)) == ["keep"]
    assert actions(await case.up(text.replace("60.0", "60"))) == ["keep"]


async def test_what_runs_otherwise_is_left_and_named(case: Case) -> None:
    await case.up()
    text = TEXT.replace("delay = 0", "delay = 1\nchunks = 2").replace("size = 2", "size = 3\nretries = 1")
    (case.work / "other").mkdir()
    steps = await case.up(text.replace("[sessions.api]", "[sessions.api]\npath = 'other'"))
    assert actions(steps) == ["leave", "leave", "leave"]
    assert steps["docs"].differences == (Difference("delay", 0, 1), Difference("chunks", None, 2))
    assert steps["api"].differences == (Difference("path", str(case.work), str(case.work / "other")),)
    assert steps["trivia"].differences == (
        Difference("size", {"worker": 2}, {"worker": 3}), Difference("retries", 0, 1),
    )  # fmt: skip
    assert (await case.board.definition("docs")).options == {"delay": 0}


async def test_what_runs_otherwise_is_replaced_when_asked(case: Case) -> None:
    await case.up()
    before = {status.name: status.id for status in await case.board.list_sessions()}
    await case.world.run("docs", "remember")
    text = TEXT.replace("delay = 0", "").replace("size = 2", "size = 3\nretries = 1")
    steps = await case.up(text, replace=True)
    assert actions(steps) == ["keep", "replace", "replace"]
    after = {status.name: status.id for status in await case.board.list_sessions()}
    assert after["api"] == before["api"]
    assert after["docs"] != before["docs"]
    assert (await case.board.definition("docs")).options == {}
    assert (await case.pools.status("trivia")).size == {"worker": 3}
    # Its history is still there, by its id.
    assert [entry.prompt for entry in (await case.board.transcript(before["docs"])).entries] == ["remember"]


async def test_a_pool_that_differs_in_its_size_alone_is_scaled_and_loses_nothing(case: Case) -> None:
    text = "[pools.p]\nbackend = 'gated'\nsize = 2\n"
    await case.up(text)
    before = await case.pools.status("p")
    first, *others = [one.ref for one in await case.pools.submit("p", ["a", "b", "c", "d"])]
    await case.world.gated.reached(first)
    for size, replace in ((4, False), (1, True)):
        changed = case.fleet(text.replace("2", str(size)))
        (step,) = await plan(case.board, changed, replace=replace, pools=case.pools)
        running = (await case.pools.definition("p")).size
        assert (step.action, step.differences) == (
            "scale", (Difference("size", running, {"worker": size}),),
        )  # fmt: skip
        assert await carry_out(case.board, changed, [step], pools=case.pools) == (step,)
        view = await case.pools.status("p")
        assert (view.id, view.size, view.failed) == (before.id, {"worker": size}, 0)
        assert sum(worker.state is not WorkerState.RETIRING for worker in view.workers) == size
        assert actions(await case.up(text.replace("2", str(size)))) == ["keep"]
    case.world.gated.gate.set()
    view = await case.pools.wait("p", timeout=20)
    assert (view.ok, view.failed) == (1 + len(others), 0)


async def test_only_the_roles_whose_size_differs_are_scaled(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "[pools.p]\nbackend = 'echo'\nroles = {a = 1, b = 2, c = 2}\nmin = {c = 1}\nmax = {c = 4}\n"
    await case.up(text)
    scaled = []
    scale = case.pools.scale

    async def noted(name: str, size: int, *, role: str | None = None) -> PoolView:
        scaled.append((role, size))
        return await scale(name, size, role=role)

    monkeypatch.setattr(case.pools, "scale", noted)
    assert actions(await case.up(text.replace("a = 1, b = 2", "a = 3, b = 1"))) == ["scale"]
    assert scaled == [("a", 3), ("b", 1)], "c scales by itself: what it has come to is left"
    assert actions(await case.up(text.replace("a = 1, b = 2, c = 2", "a = 3, b = 1, c = 4"))) == ["scale"]
    assert scaled[2:] == [("c", 4)]
    assert (await case.pools.status("p")).size == {"a": 3, "b": 1, "c": 4}


@pytest.mark.parametrize(
    ("running", "wanted"),
    [
        ("roles = {a = 1}", "roles = {a = 1, b = 1}"),
        ("roles = {a = 1}", "roles = {b = 2}"),
        ("size = 4\nmin = 2", "size = 5\nmin = 2"),  # what is not given is the size: its `max` was 4
        ("size = 2\nmin = 1\nmax = 3", "size = 4\nmin = 1\nmax = 5"),
        ("size = 2", "size = 3\nrate = '5/s'"),
    ],
)
async def test_what_scaling_cannot_make_so_is_replaced_as_before(
    case: Case, running: str, wanted: str
) -> None:
    text = "[pools.p]\nbackend = 'echo'\n"
    await case.up(text + running)
    before = await case.pools.status("p")
    assert actions(await case.up(text + wanted)) == ["leave"]
    assert (await case.pools.status("p")).id == before.id
    assert actions(await case.up(text + wanted, replace=True)) == ["replace"]
    assert (await case.pools.status("p")).id != before.id
    assert actions(await case.up(text + wanted)) == ["keep"]


async def test_a_dead_pool_is_not_scaled(case: Case) -> None:
    text = "[pools.p]\nbackend = 'gated'\nsize = 1\n"
    await case.up(text)
    await case.pools.close(grace_s=0)
    case.work.rename(case.work.with_name("away"))
    case.pools = await Pools.open(case.world.store.pools, backends=case.world.shelf)
    case.work.with_name("away").rename(case.work)
    larger = text.replace("1", "2")
    steps = await case.up(larger)
    assert actions(steps) == ["leave"]
    assert "does not exist" in str(steps["p"].problem)
    assert actions(await case.up(larger, replace=True)) == ["replace"]
    await case.pools.close(grace_s=0)


GATED = "[sessions.api]\nbackend = 'gated'\n"


async def test_a_turn_in_flight_ends_before_its_session_is_replaced(case: Case) -> None:
    await case.up(GATED)
    ref = await case.board.send("api", "long work")
    await case.world.gated.reached(ref)
    fleet = case.fleet(f"{GATED}silence_s = 60")
    (step,) = await plan(case.board, fleet, replace=True)
    assert (step.action, step.in_flight) == (Action.REPLACE, True)
    replacing = asyncio.create_task(carry_out(case.board, fleet, [step]))
    while not case.board._roster.live("api").machine.draining:  # type: ignore[union-attr]
        await asyncio.sleep(0)
    case.world.gated.let_go(ref)
    await replacing
    poll = await case.board.poll((await case.board.list_sessions(all=True))[0].id, ref)
    assert poll.status == "completed"


async def test_nothing_that_would_lose_work_is_replaced(case: Case) -> None:
    text = f"{GATED}[pools.p]\nbackend = 'gated'\nsize = 1\n"
    await case.up(text)
    first = await case.board.send("api", "first")
    await case.world.gated.reached(first)
    second = await case.board.send("api", "second", queue=True)
    await case.pools.submit("p", ["x"])
    changed = text.replace("'gated'", "'gated'\nsilence_s = 60") + "[sessions.new]\nbackend = 'echo'\n"
    with pytest.raises(Conflict) as refused:
        await case.up(changed, replace=True)
    assert "session 'api' has 1 queued, pool 'p' has tasks that are not done" in str(refused.value)
    assert [status.name for status in await case.board.list_sessions()] == ["api"]
    case.world.gated.gate.set()
    await case.world.done(first, second)
    await case.pools.wait("p", timeout=20)
    assert actions(await case.up(changed, replace=True)) == ["replace", "start", "replace"]


async def test_nothing_is_started_unless_all_of_it_could_be(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""
    {TEXT}
    [sessions.one]
    backend = "claude"
    env = {{MY_TOKEN = "$TOLLBOARD_TEST_UNSET"}}
    [pools.two]
    backend = "model"
    model = "nobody:x"
    size = 1
    """
    with pytest.raises(InvalidFleet) as refused:
        await case.up(text)
    first, second = refused.value.faults
    assert first.startswith("[sessions.one]: the variable TOLLBOARD_TEST_UNSET is not set in the daemon's")
    assert second.startswith("[pools.two]: there is no model 'nobody:x'")
    assert await case.board.list_sessions() == ()
    assert await case.pools.list() == ()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "x")
    # What runs as written down is not checked again: a key that is gone meanwhile does not matter to it.
    text = '[sessions.one]\nbackend = "claude"\nenv = {MY_TOKEN = "$TOLLBOARD_TEST_KEY"}\n'
    monkeypatch.setenv("TOLLBOARD_TEST_KEY", "x")
    assert actions(await case.up(text)) == ["start"]
    monkeypatch.delenv("TOLLBOARD_TEST_KEY")
    assert actions(await case.up(text)) == ["keep"]


async def test_a_dead_session_is_brought_back_with_its_history(case: Case) -> None:
    await case.up(GATED)
    await case.world.board.close(grace_s=0)
    await case.world.store.close()
    case.work.rename(case.work.with_name("away"))
    board = await case.world.open()
    assert (await board.status("api")).life is Life.DEAD
    case.work.with_name("away").rename(case.work)
    assert actions(await case.up(GATED)) == ["resume"]
    assert (await board.status("api")).life is Life.LIVE


async def test_one_that_stays_dead_keeps_nothing_else_down(case: Case) -> None:
    await case.up(GATED)
    await case.board.close(grace_s=0)
    await case.world.store.close()
    case.world.shelf.missing.add("gated")
    await case.world.open()
    case.world.shelf.missing.clear()

    async def fail() -> None:
        raise Conflict("not today")

    case.world.gated.on_start = fail
    steps = await case.up(f"{GATED}[sessions.more]\nbackend = 'echo'\n")
    assert actions(steps) == ["keep", "start"]
    assert "not today" in str(steps["api"].problem)


async def test_a_dead_session_that_was_halted_stays_as_it_is(case: Case) -> None:
    await case.up(GATED)
    await case.board.halt("api")
    await case.world.board.close(grace_s=0)
    await case.world.store.close()
    case.work.rename(case.work.with_name("away"))
    board = await case.world.open()
    case.work.with_name("away").rename(case.work)
    steps = await case.up(GATED)
    assert actions(steps) == ["keep"]
    assert "does not exist" in str(steps["api"].problem)
    assert (await board.status("api")).halted


async def test_a_start_that_fails_says_what_was_done(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[sessions.a]\nbackend = 'echo'\n[sessions.b]\nbackend = 'gated'\n"

    async def fail() -> None:
        raise Conflict("not today")

    case.world.gated.on_start = fail
    with pytest.raises(TollboardError) as refused:
        await case.up(text)
    assert refused.value.__notes__ == ["done so far: a; mend it, and `tollboard up` does the rest"]
    case.world.gated.on_start = None
    assert actions(await case.up(text)) == ["keep", "start"]


async def test_two_who_start_the_same_file_at_once(case: Case) -> None:
    fleet = case.fleet("[sessions.a]\nbackend = 'echo'\n[pools.p]\nbackend = 'echo'\nsize = 1\n")
    mine = await plan(case.board, fleet, pools=case.pools)
    await up(case.board, fleet, pools=case.pools)
    done = await carry_out(case.board, fleet, mine, pools=case.pools)
    assert [step.action for step in done] == ["keep", "keep"]
    await case.board.stop_session("a")
    await case.board.start_session("a", path=case.work, backend="echo", delay=1)
    await case.pools.scale("p", 2)
    done = await carry_out(case.board, fleet, mine, pools=case.pools)
    assert [step.action for step in done] == ["leave", "scale"]
    assert (await case.pools.status("p")).size == {"worker": 1}


async def test_pools_need_a_board_for_pools(case: Case) -> None:
    with pytest.raises(Invalid, match="has pools, and this board has none"):
        await up(case.board, case.fleet())
    with pytest.raises(Invalid, match="has pools, and this board has none"):
        await down(case.board, case.fleet())
    assert actions(await case.up("[sessions.a]\nbackend = 'echo'\n")) == ["start"]


# -- down


async def test_down_stops_what_the_file_names_and_nothing_else(case: Case) -> None:
    await case.up()
    await case.world.start("mine")
    assert await case.down() == {
        "api": Downed("session", "api", True),
        "docs": Downed("session", "docs", True),
        "trivia": Downed("pool", "trivia", True),
    }
    assert [status.name for status in await case.board.list_sessions()] == ["mine"]
    assert await case.pools.list() == ()
    assert {one.stopped for one in (await case.down()).values()} == {False}
    assert actions(await case.up()) == ["start", "start", "start"]


async def test_down_leaves_a_namesake_that_works_elsewhere(case: Case) -> None:
    (case.work / "other").mkdir()
    await case.board.start_session("api", path=case.work / "other", backend="echo")
    await case.pools.start("trivia", 1, path=case.work / "other", backend="echo")
    gone = await case.down()
    assert gone["api"] == Downed("session", "api", False, elsewhere=str(case.work / "other"))
    assert gone["trivia"] == Downed("pool", "trivia", False, elsewhere=str(case.work / "other"))
    assert (await case.board.status("api")).life is Life.LIVE


async def test_down_lets_turns_end_and_refuses_to_lose_what_is_queued(case: Case) -> None:
    text = f"{GATED}[sessions.free]\nbackend = 'echo'\n"
    await case.up(text)
    first = await case.board.send("api", "first")
    await case.world.gated.reached(first)
    second = await case.board.send("api", "second", queue=True)
    with pytest.raises(Conflict, match=r"'api' has 1 queued; nothing was stopped: .*down --now"):
        await case.down(text)
    assert len(await case.board.list_sessions()) == 2
    await case.board.cancel("api", second)
    downing = asyncio.create_task(case.down(text))
    while not case.board._roster.live("api").machine.draining:  # type: ignore[union-attr]
        await asyncio.sleep(0)
    case.world.gated.let_go(first)
    assert (await downing)["api"] == Downed("session", "api", True)
    assert (await case.board.poll("api", first)).status == "completed"


async def test_down_at_once_says_what_did_not_get_done(case: Case) -> None:
    text = f"{GATED}[pools.p]\nbackend = 'gated'\nsize = 1\n"
    await case.up(text)
    first = await case.board.send("api", "first")
    await case.world.gated.reached(first)
    second = await case.board.send("api", "second", queue=True)
    await case.pools.submit("p", ["x", "y"])
    gone = await case.down(text, now=True)
    assert gone["api"] == Downed("session", "api", True, 2, (first, second))
    assert gone["p"] == Downed("pool", "p", True, 2)
