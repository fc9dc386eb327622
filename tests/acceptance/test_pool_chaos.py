"""Chaos for pools: tasks go to pools of every strategy while the daemon is killed with SIGKILL at random moments.

Afterwards every ref that a client was given has exactly one outcome, indexes are gapless, and nothing ran more often
than `retries` allow: a witness outside the database counts.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acceptance.witness import WitnessDaemon, left_of, witnessed
from tollboard.daemon.client import Client
from tollboard.errors import TollboardError
from tollboard.pool.records import Task, TaskResult, TaskStatus

RETRIES = {"round_robin": 0, "least_loaded": 0, "shared_queue": 2, "longest_first": 0}
"""A pool for each strategy."""
ROLES = ("coder", "reviewer")
CLIENTS = 3
TASKS_PER_LIFE = (5, 60)


@dataclass
class Storm:
    """One run of the chaos."""

    home: Path
    seed: int
    refs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Every ref a client was given: its pool and its token."""
    sent: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.daemon = WitnessDaemon(self.home)
        self.enough = asyncio.Event()
        self.goal = 0

    async def client(self) -> None:
        """Submit tasks for ever; whatever the daemon's death does to a call is the next call's problem."""
        while True:
            try:
                async with await Client.connect(
                    self.home, start=False, surface="test", client="chaos"
                ) as board:
                    while True:
                        await self.submit_some(board)
            except (TollboardError, OSError):
                await asyncio.sleep(0.01)  # the daemon is dead: ask again when it may be back

    async def submit_some(self, board: Client) -> None:
        """Submit a few tasks at once, and keep the refs that came back."""
        pool = self.random.choice(list(RETRIES))
        tokens = [f"t{self.sent + n}" for n in range(self.random.randint(1, 8))]
        self.sent += len(tokens)
        tasks = [Task(token, self.random.choice(ROLES), self.random.random()) for token in tokens]
        accepted = await board.pools.submit(pool, tasks, timeout=5)
        self.refs |= {one.ref: (pool, token) for one, token in zip(accepted, tokens, strict=False)}
        if len(self.refs) >= self.goal:
            self.enough.set()

    async def one_life(self) -> None:
        """Let the daemon live until some more tasks were accepted, then kill it."""
        self.enough.clear()
        self.goal = len(self.refs) + self.random.randint(*TASKS_PER_LIFE)
        async with asyncio.timeout(60):
            await self.enough.wait()
        await self.daemon.kill()
        await self.daemon.start()


@pytest.mark.chaos
async def test_p12_p14_every_task_has_one_outcome_whatever_is_killed(
    home: Path, tmp_path: Path, chaos_kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("TOLLBOARD_CHAOS_SEED", time.time_ns() % 1_000_000))
    print(f"chaos seed {seed} (TOLLBOARD_CHAOS_SEED)")
    monkeypatch.setenv("CHAOS_HOME", str(home))
    storm = Storm(home, seed)
    try:
        await _storm(storm, tmp_path, max(8, chaos_kills // 3))
    finally:
        storm.daemon.end()


async def _storm(storm: Storm, tmp_path: Path, kills: int) -> None:
    await storm.daemon.start()
    async with await Client.connect(storm.home, start=False) as board:
        for strategy, retries in RETRIES.items():
            (tmp_path / strategy).mkdir()
            await board.pools.start(
                strategy, dict.fromkeys(ROLES, 2), path=tmp_path / strategy, backend="witness", strategy=strategy,
                retries=retries, max_queued=40,
            )  # fmt: skip
    clients = [asyncio.create_task(storm.client()) for _ in range(CLIENTS)]
    try:
        for _ in range(kills):
            await storm.one_life()
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    async with await Client.connect(storm.home, start=False) as board:
        for pool in RETRIES:
            view = await board.pools.wait(pool, timeout=120)
            assert view.done, f"{pool} did not end"
            results = await _results(board, pool)
            assert (view.submitted, view.ok) == (len(results), sum(r.ok for r in results))
            _judge(storm, pool, results, Counter(witnessed(tmp_path / pool)))
        await board.shutdown()
    await storm.daemon.ended()
    with sqlite3.connect(storm.home / "tollboard.db") as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert left_of(storm.home) == []
    print(f"{kills} kills, {len(storm.refs)} refs, {storm.sent} tasks sent")


async def _results(board: Client, pool: str) -> list[TaskResult]:
    found: list[TaskResult] = []
    after: int | None = -1
    while after is not None:
        page = await board.pools.results(pool, after=after)
        found += page.results
        after = page.next
    return found


def _judge(storm: Storm, pool: str, results: list[TaskResult], ran: Counter[str]) -> None:
    assert [result.index for result in results] == list(range(len(results))), "a gap"
    by_ref = {result.ref: result for result in results}
    given = {ref: token for ref, (its, token) in storm.refs.items() if its == pool}
    lost = given.keys() - by_ref.keys()
    assert not lost, f"lost: {len(lost)}"
    for result in results:
        assert ran[result.prompt] <= RETRIES[pool] + 1, "it ran more often than was asked for"
        assert ran[result.prompt] <= result.attempt, "it ran without that being written down"
        match result.status:
            case TaskStatus.OK:
                assert result.text == f"saw {result.prompt}"
                assert ran[result.prompt] >= 1
            case TaskStatus.INTERRUPTED:
                assert result.attempt == RETRIES[pool] + 1, "it was not run again though it could have been"
            case other:
                raise AssertionError(f"{result.ref} ended as {other}: {result.error}")
    assert all(by_ref[ref].prompt == token for ref, token in given.items())
