"""Chaos: prompts go to twenty sessions while the daemon is killed with SIGKILL at random moments.

Afterwards: every ref that a client was given has exactly one outcome, every history is gapless from 1, no prompt ran
twice (a witness outside the database counts), the database is sound, and no process is left. Short in CI (25 kills),
long as `make chaos` (500).
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
from tollboard.errors import RequestNotFound, TollboardError
from tollboard.fleet.records import Entry, PollCompleted, PollFailed

SESSIONS = 20
CLIENTS = 4
PROMPTS_PER_LIFE = (3, 40)
"""The daemon is killed after a random number of accepted prompts between these."""
TELL_EVERY = 50


@dataclass
class Storm:
    """One run of the chaos."""

    home: Path
    seed: int
    refs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Every ref a client was given: its session and its token."""
    sent: int = 0
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.daemon = WitnessDaemon(self.home)
        self.enough = asyncio.Event()
        self.goal = 0

    async def client(self) -> None:
        """Send prompts for ever; whatever the daemon's death does to a call is the next call's problem."""
        while True:
            try:
                async with await Client.connect(
                    self.home, start=False, surface="test", client="chaos"
                ) as board:
                    while True:
                        await self.send_one(board)
            except (TollboardError, OSError):
                await asyncio.sleep(0.01)  # the daemon is dead: ask again when it may be back

    async def send_one(self, board: Client) -> None:
        """Send one prompt, and keep its ref if one came back."""
        session = f"s{self.random.randrange(SESSIONS)}"
        self.sent += 1
        token = f"t{self.sent}"
        prompt = f"{token} child" if self.random.random() < 0.1 else token
        ref = await board.send(session, prompt, queue=True)
        self.refs[ref] = (session, token)
        if len(self.refs) >= self.goal:
            self.enough.set()

    async def one_life(self) -> None:
        """Let the daemon live until some more prompts were accepted, then kill it."""
        self.enough.clear()
        self.goal = len(self.refs) + self.random.randint(*PROMPTS_PER_LIFE)
        async with asyncio.timeout(60):
            await self.enough.wait()
        await self.daemon.kill()
        await self.daemon.start()


async def _all_entries(board: Client, session: str) -> list[Entry]:
    entries: list[Entry] = []
    before = None
    while True:
        page = await board.transcript(session, before=before)
        entries[:0] = page.entries
        before = page.next_before
        if before is None:
            return entries


@pytest.mark.chaos
async def test_every_ref_has_one_outcome_and_nothing_runs_twice_whatever_is_killed(
    home: Path, tmp_path: Path, chaos_kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = int(os.environ.get("TOLLBOARD_CHAOS_SEED", time.time_ns() % 1_000_000))
    print(f"chaos seed {seed} (TOLLBOARD_CHAOS_SEED)")
    monkeypatch.setenv("CHAOS_HOME", str(home))
    storm = Storm(home, seed)
    try:
        await _storm(storm, tmp_path, chaos_kills)
    finally:
        storm.daemon.end()


async def _storm(storm: Storm, tmp_path: Path, chaos_kills: int) -> None:
    home = storm.home
    await storm.daemon.start()
    async with await Client.connect(home, start=False) as board:
        for n in range(SESSIONS):
            (tmp_path / f"s{n}").mkdir()
            await board.start_session(f"s{n}", path=tmp_path / f"s{n}", backend="witness")

    clients = [asyncio.create_task(storm.client()) for _ in range(CLIENTS)]
    try:
        for kill in range(1, chaos_kills + 1):
            await storm.one_life()
            if kill % TELL_EVERY == 0:
                print(
                    f"{kill} kills, {len(storm.refs)} refs, {time.monotonic() - storm.began:.0f} s",
                    flush=True,
                )
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async with await Client.connect(home, start=False) as board:
        refs = list(storm.refs)
        for start in range(0, len(refs), 500):
            report = await board.wait(refs[start : start + 500], timeout=120)
            assert not report.pending, "a ref never ended"
        ran = Counter(token for n in range(SESSIONS) for token in witnessed(tmp_path / f"s{n}"))
        twice = [token for token, count in ran.items() if count > 1]
        assert not twice, f"ran twice: {twice[:5]}"
        for ref, (session, token) in storm.refs.items():
            poll = await board.poll(session, ref)
            match poll:
                case PollCompleted(text=text):
                    assert text == f"saw {token}"
                    assert ran[token] == 1
                case PollFailed(reason=reason):
                    assert reason == "interrupted"
                case _:
                    raise AssertionError(f"{ref} is {poll}")
        for n in range(SESSIONS):
            entries = await _all_entries(board, f"s{n}")
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            assert len({entry.ref for entry in entries}) == len(entries)
        with pytest.raises(RequestNotFound):
            await board.poll("s0", "no-such-ref")
        await board.shutdown()

    await storm.daemon.ended()
    with sqlite3.connect(home / "tollboard.db") as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert left_of(home) == []
    took_s = time.monotonic() - storm.began
    print(f"{chaos_kills} kills, {len(storm.refs)} refs, {storm.sent} prompts sent, {took_s:.0f} s")
