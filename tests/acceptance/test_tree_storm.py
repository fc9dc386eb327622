"""A storm over trees of sub-agents: three levels, parallel children, interrupts, kills of the real daemon.

Each round gives every session a tree that is drawn at random and says, node by node, where its models hang or ask a
person. When all is quiet, the round ends with an interrupt, a stop, a cancelled sub-agent or `kill -9`. Because nothing
is on its way then, the stand-in's bill is known to the token. Afterwards: each announced sub-agent has exactly one
terminal event in the feed, and the usage of all turns is what the stand-in billed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import DaemonProcess
from tollboard.daemon.client import Client
from tollboard.fleet.records import Entry, FeedItem, SubAgentRecord
from tollboard.testing.model_api import ModelAPI, Reply, Seen, ToolCall

pytest.importorskip("pydantic_ai", reason="pydantic-ai is missing: pip install 'tollboard[models]'")

INTERRUPTS = int(os.environ.get("TOLLBOARD_STORM_INTERRUPTS", "8"))
KILLS = int(os.environ.get("TOLLBOARD_STORM_KILLS", "2"))
SESSIONS = 4
LEVELS = ("low", "middle", "top")
ENDED = ("subagent.completed", "subagent.failed", "subagent.cancelled")
KINDS = ("subagent.started", *ENDED)
CONFIG = "feed_rows_per_session = 1000000\n"
QUIET_S = 40
USAGE = {"input_tokens": 7, "output_tokens": 3}


@dataclass
class Node:
    """One agent of a tree: whether it ends, hangs at its first or last model call, or asks; and those below it."""

    kind: str
    children: list[Node] = field(default_factory=list)

    def text(self, session: str) -> str:
        """The instructions from which the stand-in knows what to do."""
        return json.dumps(
            {"s": session, "kind": self.kind, "children": [c.text(session) for c in self.children]}
        )

    def all(self) -> Iterator[Node]:
        """This node and all below it that are reached."""
        yield self
        if self.kind != "first":
            for child in self.children:
                yield from child.all()

    def count(self, *kinds: str) -> int:
        """How many nodes of these kinds are reached."""
        return sum(node.kind in kinds for node in self.all())

    @property
    def ends(self) -> bool:
        """Whether it comes to its end by itself."""
        return not self.count("first", "last", "ask")


def drawn(rng: random.Random, depth: int, *, ends: bool, asks: bool) -> Node:
    """Return a tree of so many levels below the session; one that does not end hangs or asks somewhere.

    Not both in one turn: a question is put when everything beside it has come to its end or asks too.
    """
    if depth == 0:
        return Node("ends" if ends else "ask" if asks else "first")
    if ends:
        return Node("ends", [drawn(rng, depth - 1, ends=True, asks=asks) for _ in range(rng.randint(0, 2))])
    kind = "through" if asks else rng.choice(("first", "last", "through", "through", "through"))
    if kind != "through":
        return Node(kind, [drawn(rng, depth - 1, ends=True, asks=asks) for _ in range(rng.randint(1, 2))])
    count = rng.randint(1, 3)
    stuck = rng.randrange(count)
    return Node(
        "through",
        [drawn(rng, depth - 1, ends=n != stuck and rng.random() < 0.5, asks=asks) for n in range(count)],
    )


class StandIn:
    """Answers as the trees say, and keeps the bill."""

    def __init__(self) -> None:
        self.bill: Counter[str] = Counter()
        self.hanging: Counter[str] = Counter()
        """Calls that were never answered, by session; those of earlier rounds too."""
        self.changed = asyncio.Event()

    async def __call__(self, seen: Seen) -> Reply:
        node = json.loads(seen.last_user)
        level = next((name for name in LEVELS if f"You are {name}." in seen.system), "")
        last = seen.messages[-1]
        results = last.results if not last.text else ()  # with a new prompt come the calls that were given up
        if node["kind"] == ("last" if results else "first"):
            await self._hang(node["s"])
        self.bill[node["s"]] += 1
        if not results and node["kind"] == "ask":
            return Reply(calls=(ToolCall("run_command", {"command": "true"}),), **USAGE)
        if not results and node["children"]:
            below = {"": "top", "top": "middle", "middle": "low"}[level]
            tasks = [{"task_name": below, "instructions": child} for child in node["children"]]
            return Reply(calls=tuple(ToolCall("task", each) for each in tasks), **USAGE)
        return Reply("done", **USAGE)

    async def _hang(self, session: str) -> None:
        self.hanging[session] += 1
        self._tell()
        await asyncio.Event().wait()

    def _tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


def agents() -> dict[str, Any]:
    """The three levels below a session."""
    found: dict[str, Any] = {}
    for name in LEVELS:
        below = [found] if found else []
        found = {"name": name, "description": name, "system_prompt": f"You are {name}.", "sub_agents": below}
    return found


class Storm:
    """One daemon after another, the sessions in it, and what is known of them."""

    def __init__(self, home: Path, work: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.work = work
        self.stand_in = StandIn()
        self.daemon = DaemonProcess(home, config=CONFIG)
        self.home = home
        self.asked: Counter[str] = Counter()
        self.hung: Counter[str] = Counter()
        self.lives: dict[str, list[str]] = defaultdict(list)
        """The ids of the sessions that had a name, one after the other."""

    async def start_session(self, board: Client, url: str, name: str) -> None:
        status = await board.start_session(
            name, path=self.work, backend="model", model="anthropic:claude-sonnet-5-5", base_url=url,
            sub_agents=[agents()],
        )  # fmt: skip
        self.lives[name].append(status.id)

    async def stir(self, board: Client, name: str) -> Node:
        """Give a session a tree, and return it when all of it is quiet."""
        asks = self.random.random() < 0.4
        count = self.random.randint(1, 2)
        tree = Node("through", [drawn(self.random, 2, ends=False, asks=asks) for _ in range(count)])
        self.hung[name] = self.stand_in.hanging[name]
        told = await everything(board, name)
        before = told[-1].seq if told else 0
        self.asked[name] += 1
        await board.send(name, tree.text(name))
        reached = sum(child.count(*("ends", "first", "last", "through", "ask")) for child in tree.children)
        done = sum(node.ends for child in tree.children for node in child.all())
        await self.until(board, name, lambda items: _count(items, before) == (reached, done))
        return tree

    async def quiet(self, board: Client, name: str, tree: Node) -> None:
        """Wait until every model that is to hang does, and every question is asked."""
        async with asyncio.timeout(QUIET_S):
            while self.stand_in.hanging[name] - self.hung[name] != tree.count("first", "last"):
                await self.stand_in.changed.wait()
            questions = tree.count("ask")
            async for _ in board.tail(name, after=0, kinds=("approval.requested", "turn.started")):
                if len(await board.approvals(name)) == questions:
                    return

    async def until(self, board: Client, name: str, right: Callable[[Sequence[FeedItem]], bool]) -> None:
        """Follow the feed until it is as it should be."""
        items: list[FeedItem] = []
        try:
            async with asyncio.timeout(QUIET_S):
                async for item in board.tail(name, after=0, kinds=KINDS):
                    items.append(item)
                    if right(items):
                        return
        except TimeoutError:
            told = [f"{item.kind} {item.data.get('path') or item.data}" for item in items]
            raise AssertionError(f"{name} did not become quiet: {await board.status(name)} {told}") from None

    async def end_round(self, board: Client, name: str, tree: Node, url: str) -> None:
        """End what the round began, in one of the ways in which a person would."""
        way = self.random.choice(("interrupt", "interrupt", "interrupt", "stop", "cancel", "reject"))
        if way == "cancel":
            open_ = await board.subagents(name)
            for record in self.random.sample(open_, min(2, len(open_))):
                await board.cancel_subagent(record.id)
        if way == "reject":
            for approval in await board.approvals(name):
                await board.decide(approval.id, {"type": "reject"})
        if way == "stop":
            await board.stop_session(name)
            await self.start_session(board, url, name)
        else:
            await board.interrupt(name)


def _count(items: Sequence[FeedItem], after: int) -> tuple[int, int]:
    new = [item for item in items if item.seq > after]
    return sum(item.kind == "subagent.started" for item in new), sum(item.kind == ENDED[0] for item in new)


async def everything(board: Client, name: str) -> list[FeedItem]:
    """Every item of the feed that tells of sub-agents."""
    found: list[FeedItem] = []
    after = 0
    while True:
        page = await board.events(name, kinds=KINDS, after=after)
        found += page.items
        if not page.items:
            return found
        after = page.last_seq


async def entries(board: Client, session_id: str) -> list[Entry]:
    """The whole history of a session, a stopped one too."""
    found: list[Entry] = []
    before = None
    while True:
        page = await board.transcript(session_id, before=before)
        found[:0] = page.entries
        before = page.next_before
        if before is None:
            return found


async def records(board: Client, session_id: str) -> tuple[SubAgentRecord, ...]:
    """What is left open below a session."""
    return await board.subagents(session_id)


@pytest.mark.slow
@pytest.mark.chaos
async def test_a30_one_terminal_event_each_and_the_usage_is_the_bill(home: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("TOLLBOARD_STORM_SEED", time.time_ns() % 1_000_000))
    print(f"storm seed {seed} (TOLLBOARD_STORM_SEED)")
    storm = Storm(home, tmp_path, seed)
    names = [f"s{n}" for n in range(SESSIONS)]
    began, ends, kills = time.monotonic(), 0, 0
    async with ModelAPI(storm.stand_in) as api:
        url = api.anthropic_url
        try:
            storm.daemon.start()
            async with Client.connect(home, start=False) as board:
                for name in names:
                    await storm.start_session(board, url, name)
            while ends < INTERRUPTS or kills < KILLS:
                async with Client.connect(home, start=False) as board:
                    trees = await asyncio.gather(*(storm.stir(board, name) for name in names))
                    await asyncio.gather(*map(storm.quiet, [board] * SESSIONS, names, trees))
                    kill = kills < KILLS and storm.random.random() * (INTERRUPTS + KILLS) < 4 * KILLS
                    if not kill:
                        await asyncio.gather(
                            *(storm.end_round(board, n, t, url) for n, t in zip(names, trees, strict=True))
                        )
                        ends += SESSIONS
                        continue
                storm.daemon.signal(signal.SIGKILL)
                storm.daemon.wait()
                storm.daemon.start()
                kills += 1
                async with Client.connect(home, start=False) as board:
                    for name, tree in zip(names, trees, strict=True):
                        if tree.count("ask"):  # it goes on: what hung hangs again
                            await storm.quiet(board, name, tree)
                        await board.interrupt(name)
            async with Client.connect(home, start=False) as board:
                await _judge(storm, board, names)
                print(
                    f"{ends} ends, {kills} kills, {sum(storm.asked.values())} trees, "
                    f"{sum(storm.stand_in.bill.values())} model calls billed, {time.monotonic() - began:.0f} s"
                )
        finally:
            storm.daemon.end()


async def _judge(storm: Storm, board: Client, names: Sequence[str]) -> None:
    announced = 0
    for name in names:
        started: Counter[object] = Counter()
        ended: Counter[object] = Counter()
        for item in await everything(board, name):
            (started if item.kind == "subagent.started" else ended)[item.data["id"]] += 1
        assert set(started.values()) == {1}
        assert ended == started, f"{name}: {(ended - started) + (started - ended)}"
        announced += len(started)
        used: Counter[str] = Counter()
        for id in storm.lives[name]:
            assert not await records(board, id)
            for entry in await entries(board, id):
                for kind in USAGE:
                    used[kind] += getattr(entry.usage, kind, None) or 0
        billed = {kind: storm.stand_in.bill[name] * tokens for kind, tokens in USAGE.items()}
        assert dict(used) == billed, f"{name}: used {dict(used)}, billed {billed}"
    print(f"{announced} sub-agents announced, each with exactly one terminal event")
