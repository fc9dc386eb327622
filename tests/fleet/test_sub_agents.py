"""Sub-agents of sessions: each announced one ends exactly once, whatever ends it; listed, read, cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.fleet.world import Fleet
from tollboard.errors import AgentNotFound, Invalid, SubAgentNotFound
from tollboard.fleet.records import FeedItem, PollCompleted, SubAgentState
from tollboard.ids import new_ref
from tollboard.runtime.sub_agents import Said, SubAgentBegan, SubAgentEnded, SubAgentSaid
from tollboard.testing.model_api import ModelAPI, Reply, Seen, ToolCall

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")
pytestmark = pytest.mark.slow

ENDED = ("subagent.completed", "subagent.failed", "subagent.cancelled")
KINDS = ("subagent.started", *ENDED)
ASK = ToolCall("run_command", {"command": "true"})


def task(name: str, *more: str) -> Reply:
    return Reply(
        calls=tuple(
            ToolCall("task", {"task_name": each, "instructions": f"go, {each}"}) for each in (name, *more)
        )
    )


def below(name: str, *more: object) -> dict[str, object]:
    return {"name": name, "description": name, "system_prompt": f"You are {name}.", "sub_agents": list(more)}


class Tree:
    """A session `m` with `top` and `side` below it, and `low` below `top`; what `low` and `side` answer is given."""

    def __init__(self, fleet: Fleet, low: Reply, side: Reply) -> None:
        self.fleet = fleet
        self.low = low
        self.side = side
        self.api = ModelAPI(self._reply)

    def _reply(self, seen: Seen) -> Reply:
        done = bool(seen.messages[-1].results)
        if "You are low." in seen.system:
            return Reply("low is done") if done else self.low
        if "You are side." in seen.system:
            return Reply("side is done") if done else self.side
        if "You are top." in seen.system:
            return Reply("top is done") if done else task("low")
        return Reply("all is done") if done else task("top", "side")

    async def start(self) -> str:
        """Start the session and send it a prompt; return its ref."""
        agents = [below("top", below("low")), below("side")]
        await self.fleet.start(
            "m",
            "model",
            model="anthropic:claude-sonnet-5-5",
            base_url=self.api.anthropic_url,
            sub_agents=agents,
        )
        return await self.fleet.board.send("m", "go")

    async def items(self) -> list[FeedItem]:
        """What the feed has of sub-agents."""
        await self.fleet.store.flush()
        return list((await self.fleet.board.events("m", kinds=KINDS)).items)

    async def until(self, **counts: int) -> None:
        """Follow the feed until so many of each kind were told."""
        seen: Counter[str] = Counter()
        async with asyncio.timeout(20):
            async for item in self.fleet.board.tail("m", after=0):
                seen[item.kind.rpartition(".")[2] if item.kind in KINDS else item.kind.replace(".", "_")] += 1
                if all(seen[kind] >= count for kind, count in counts.items()):
                    return

    async def ended(self) -> dict[str, str]:
        """How each ended, by name. Fails unless each that was announced has exactly one terminal item."""
        items = await self.items()
        started = Counter(item.data["id"] for item in items if item.kind == "subagent.started")
        ended = Counter(item.data["id"] for item in items if item.kind in ENDED)
        assert set(started.values()) == {1}
        assert ended == started
        assert not await self.fleet.board.subagents("m")
        return {str(item.data["name"]): item.kind.partition(".")[2] for item in items if item.kind in ENDED}


Make = Callable[[Reply, Reply], Tree]
HANGS = Reply("…", hang=True)
ASKS = Reply(calls=(ASK,))


@pytest.fixture
async def tree(fleet: Fleet) -> AsyncIterator[Make]:
    made: list[Tree] = []

    def make(low: Reply, side: Reply) -> Tree:
        made.append(Tree(fleet, low, side))
        return made[-1]

    yield make
    for each in made:
        await fleet.close()
        await each.api.stop()


async def interrupted(fleet: Fleet) -> None:
    await fleet.board.interrupt("m")


async def stopped(fleet: Fleet) -> None:
    await fleet.board.stop_session("m")


async def killed(fleet: Fleet) -> None:
    await fleet.kill()


async def shut_down(fleet: Fleet) -> None:
    await fleet.restart()


End = Callable[[Fleet], Awaitable[None]]


@pytest.mark.parametrize("end", [interrupted, stopped, killed, shut_down])
async def test_a30_each_ends_once_when_its_turn_is_ended(fleet: Fleet, tree: Make, end: End) -> None:
    case = tree(HANGS, Reply("side is done"))
    async with case.api:
        await case.start()
        await asyncio.gather(case.until(started=3, completed=1), case.api.wait_for_hanging())
        await end(fleet)
        assert await case.ended() == {"side": "completed", "top": "cancelled", "low": "cancelled"}
        top = next(item for item in await case.items() if item.data["name"] == "top" and item.kind in ENDED)
        assert top.data["turns"] == 1
        assert [(m["role"], m.get("tool")) for m in top.data["messages"]] == [  # type: ignore[attr-defined]
            ("user", None), ("tool_use", "task"),
        ]  # fmt: skip
        await fleet.close()


@pytest.mark.parametrize("end", [killed, shut_down])
@pytest.mark.parametrize("then", ["decided", "interrupted", "stopped", "cancelled"])
async def test_a30_those_that_wait_for_people_go_on_after_a_restart(
    fleet: Fleet, tree: Make, end: End, then: str
) -> None:
    case = tree(ASKS, Reply("side is done"))
    async with case.api:
        ref = await case.start()
        await case.until(started=3, completed=1, approval_requested=1)
        await end(fleet)
        board = fleet.board
        assert [item.data["name"] for item in await case.items() if item.kind in ENDED] == ["side"]
        names = {record.name: record for record in await board.subagents("m")}
        assert set(names) == {"top", "low"}
        if then == "interrupted":
            await board.interrupt("m")
        elif then == "stopped":
            await board.stop_session("m")
        elif then == "cancelled":
            assert (await board.cancel_subagent(names["low"].id)).acted
        else:
            (asked,) = await board.approvals("m")
            await board.decide(asked.id, {"type": "approve"})
        assert not (await board.wait([ref], timeout=20)).pending
        low = {"decided": "completed"}.get(then, "cancelled")
        top = "completed" if then in ("decided", "cancelled") else "cancelled"
        assert await case.ended() == {"side": "completed", "top": top, "low": low}
        assert not await board.approvals("m")
        await fleet.close()


async def test_a30_a_model_that_fails_ends_its_sub_agent_failed(fleet: Fleet, tree: Make) -> None:
    case = tree(Reply("no luck", status=400), Reply("side is done"))
    async with case.api:
        ref = await case.start()
        assert not (await fleet.board.wait([ref], timeout=20)).pending
        assert await case.ended() == {"side": "completed", "top": "completed", "low": "failed"}
        failed = next(item for item in await case.items() if item.kind == "subagent.failed")
        assert "no luck" in str(failed.data["error"])
        await fleet.close()


async def test_a31_a_manager_lists_reads_and_cancels_one(fleet: Fleet, tree: Make) -> None:
    case = tree(HANGS, HANGS)
    async with case.api:
        ref = await case.start()
        await asyncio.gather(case.until(started=3), case.api.wait_for_hanging(2))
        board = fleet.board
        records = {record.name: record for record in await board.subagents("m")}
        assert {name: record.path for name, record in records.items()} == {
            "top": "m/top", "low": "m/top/low", "side": "m/side",
        }  # fmt: skip
        top, low = records["top"], records["low"]
        assert (top.parent, low.parent) == (None, top.id)
        assert (low.ref, low.instructions, low.status, low.turns) == (
            ref,
            "go, low",
            SubAgentState.RUNNING,
            0,
        )
        page = await board.subagent_messages(top.id)
        assert [(m.role, m.tool) for m in page.messages] == [("user", ""), ("tool_use", "task")]
        assert page.messages[0].text == "go, top"
        done = await board.cancel_subagent(top.id)
        assert (done.acted, done.status) == (True, SubAgentState.CANCELLED)
        again = await board.cancel_subagent(top.id)
        assert (again.acted, again.status) == (False, SubAgentState.CANCELLED)
        assert (await board.cancel_subagent(low.id)).status is SubAgentState.CANCELLED
        assert [record.name for record in await board.subagents("m")] == ["side"]
        assert (await board.status("m")).in_flight == ref  # its parent goes on
        await board.cancel_subagent(records["side"].id)
        assert not (await board.wait([ref], timeout=20)).pending
        assert isinstance(await board.poll("m", ref), PollCompleted)
        assert await case.ended() == {"side": "cancelled", "top": "cancelled", "low": "cancelled"}
        listed = await board.subagents("m", all=True)
        assert sorted(record.name for record in listed) == ["low", "side", "top"]
        assert {record.ended_at is not None for record in listed} == {True}
        await fleet.close()


async def test_a31_one_that_waits_for_a_person_is_cancelled_with_its_question(
    fleet: Fleet, tree: Make
) -> None:
    case = tree(ASKS, ASKS)
    async with case.api:
        ref = await case.start()
        await case.until(started=3, approval_requested=2)
        board = fleet.board
        records = {record.name: record for record in await board.subagents("m")}
        assert records["low"].status is SubAgentState.INTERRUPTED
        await board.cancel_subagent(records["top"].id)
        (left,) = await board.approvals("m")
        assert left.path == "m/side"
        await board.decide(left.id, {"type": "approve"})
        assert not (await board.wait([ref], timeout=20)).pending
        assert await case.ended() == {"side": "completed", "top": "cancelled", "low": "cancelled"}
        await fleet.close()


async def test_a31_what_is_not_there(fleet: Fleet) -> None:
    board = fleet.board
    await fleet.start("api")
    assert await board.subagents("api", all=True) == ()
    with pytest.raises(AgentNotFound):
        await board.subagents("nobody")
    with pytest.raises(SubAgentNotFound, match="nobody"):
        await board.subagent_messages("nobody")
    with pytest.raises(Invalid, match="limit"):
        await board.subagents("api", limit=0)
    unknown = await board.cancel_subagent("nobody")
    assert (unknown.acted, unknown.status) == (False, None)


async def _told(fleet: Fleet, *news: Any) -> list[tuple[str, object]]:
    status = await fleet.board.status("api")
    record = await fleet.store.find_session(status.id)
    assert record is not None
    journal = fleet.store.journal(record)
    for each in news:
        journal.sub_agent("r1", each)
    await fleet.store.flush()
    return [(item.kind, item.data["id"]) for item in await fleet.store.feed_after(0, kinds=KINDS, limit=100)]


def began(id: str) -> SubAgentBegan:
    return SubAgentBegan(id, None, "kid", "m/kid", "brain", "Go.")


async def test_a30_the_store_tells_each_beginning_and_each_end_once(fleet: Fleet) -> None:
    await fleet.start("api")
    one, ended = new_ref(), ("cancelled", "completed", "failed")
    told = await _told(
        fleet, began(one), began(one), *(SubAgentEnded(one, how, "x", 1, 0.5) for how in ended), began(one)
    )
    assert told == [("subagent.started", one), ("subagent.cancelled", one)]
    assert await _told(fleet, SubAgentEnded(new_ref(), "failed", "never announced", 0, 0.0)) == told


async def test_a31_texts_are_cut_and_pages_continue(fleet: Fleet) -> None:
    await fleet.start("api")
    one = new_ref()
    said = [SubAgentSaid(one, n, (Said("assistant", f"{n} " + "\ud800x" * 9_000),)) for n in range(1, 6)]
    await _told(fleet, began(one), *said)
    first = await fleet.board.subagent_messages(one, limit=3)
    assert [m.text[:2] for m in first.messages] == ["1 ", "2 ", "3 "]
    assert all(len(m.text) < 9_000 for m in first.messages)
    rest = await fleet.board.subagent_messages(one, after=first.next_after or 0)
    assert [m.text[:2] for m in rest.messages] == ["4 ", "5 "]
    assert rest.next_after is None
    assert rest.sub_agent.turns == 5
