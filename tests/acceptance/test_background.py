"""The real Claude Code in a real daemon, with work in the background and `kill -9` in the middle (B01-B05).

A round is a session: a command and a sub-agent are left in the background, the sub-agent asks, a prompt is sent at a
random moment. In some rounds the daemon is killed at a random moment. Afterwards every answer is at its own entry,
every question could be answered, and the tokens of the entries are what the stand-in billed to that conversation; what
a kill cut off is bounded by that. Short in CI, long as `make background` (TOLLBOARD_BACKGROUND_ROUNDS).
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.daemon.process import DaemonProcess
from tests.fakes.messages_api import PRICED_MODEL, MessagesAPI
from tollboard.daemon.client import Client
from tollboard.errors import TollboardError
from tollboard.fleet.records import Entry, SessionStatus
from tollboard.runtime.approval import Approve

pytest.importorskip("claude_agent_sdk")

ROUNDS = int(os.environ.get("TOLLBOARD_BACKGROUND_ROUNDS", "2"))
KILLS = max(1, ROUNDS // 4)
LIMIT_S = 180.0
BILLED_IN, BILLED_OUT = 100, 10
"""What the stand-in bills for each call."""


@dataclass
class Lab:
    """A daemon whose programs talk to the stand-in."""

    daemon: DaemonProcess
    api: MessagesAPI
    home: Path
    random: random.Random
    asked: int = 0
    answered: int = 0
    expired: int = 0
    own: int = 0
    cut_off: int = 0
    billed: list[int] = field(default_factory=lambda: [0, 0])
    counted: list[int] = field(default_factory=lambda: [0, 0])
    unseen: list[int] = field(default_factory=lambda: [0, 0])
    """Tokens of calls that a kill cut off together with whoever would have counted them."""

    async def connect(self) -> Client:
        return await Client.connect(self.home, start=False, surface="test", client="background")

    async def kill(self) -> None:
        """Kill the daemon and start it again."""
        self.daemon.process.kill()
        await asyncio.to_thread(self.daemon.process.wait)
        assert await asyncio.to_thread(self.daemon.start) == "ready", self.daemon.said


async def _answering(board: Client, name: str) -> None:
    """Approve whatever this session asks."""
    while True:
        for approval in await board.approvals(name):
            await board.decide(approval.id, Approve())
        await asyncio.sleep(0.05)  # the feed would do; but a person too looks now and then


async def _until_quiet(board: Client, name: str) -> SessionStatus:
    while True:
        status = await board.status(name)
        if (
            status.phase == "idle"
            and not status.background
            and not status.queued
            and not status.needs_decision
        ):
            return status
        await asyncio.sleep(0.05)


async def _work(board: Client, name: str, delay_s: float) -> None:
    for prompt in ("background sleep 1", f"delegate run touch {name}"):
        await board.wait([await board.send(name, prompt, queue=True, key=prompt)], timeout=LIMIT_S)
    await asyncio.sleep(delay_s)
    await board.wait([await board.send(name, f"say {name}-mine", queue=True, key="mine")], timeout=LIMIT_S)


async def _live(lab: Lab, name: str, delay_s: float) -> None:
    """Do a round's work on one connection, and wait until the session is quiet."""
    async with await lab.connect() as board:
        answering = asyncio.create_task(_answering(board, name))
        try:
            await _work(board, name, delay_s)
            await _until_quiet(board, name)
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)


async def _round(lab: Lab, number: int, directory: Path, *, killed: bool) -> None:
    name = f"s{number}"
    directory.mkdir()
    async with await lab.connect() as board:
        await board.start_session(
            name, path=directory, backend="claude", model=PRICED_MODEL, allowed_tools=["Bash(sleep:*)"]
        )
    delay_s = lab.random.uniform(0, 2)
    living = asyncio.create_task(_live(lab, name, delay_s))
    if killed:
        await asyncio.wait({living}, timeout=lab.random.uniform(1, 9))
        await lab.kill()
        await asyncio.wait({living})
        if living.exception() is not None:
            assert isinstance(living.exception(), TollboardError | OSError), living.exception()
        living = asyncio.create_task(_live(lab, name, delay_s))
    await living
    async with await lab.connect() as board:
        ref = await board.send(name, f"say {name}-last", queue=True)
        await board.wait([ref], timeout=LIMIT_S)
        status = await _until_quiet(board, name)
        entries = (await board.transcript(name)).entries
        approvals = await board.approvals(name, all=True)
        await board.stop_session(name)
    _check(lab, name, entries, killed=killed)
    lab.asked += len(approvals)
    lab.answered += sum(approval.state == "approved" for approval in approvals)
    lab.expired += sum(approval.state == "expired" for approval in approvals)
    assert all(approval.state == "approved" for approval in approvals) or killed
    assert all(approval.path == f"{name}/general-purpose" for approval in approvals)
    _count(lab, status.provider_session_id or "", entries, killed=killed)


def _check(lab: Lab, name: str, entries: tuple[Entry, ...], *, killed: bool) -> None:
    """Every answer at its own entry."""
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    for entry in entries:
        if entry.origin == "agent":
            lab.own += entry.status == "ok"
            lab.cut_off += entry.status == "interrupted"
            assert (entry.status, entry.text) in (("ok", "told"), ("interrupted", None)), entry
            assert killed or entry.status == "ok", entry.error
        elif entry.status == "ok":
            wanted = entry.prompt.removeprefix("say ") if entry.prompt.startswith("say ") else "output: "
            assert (entry.text or "").startswith(wanted), (entry.prompt, entry.text)
        else:
            assert killed, entry
            assert entry.status == "interrupted", entry
    assert entries[-1].text == f"{name}-last" or entries[-1].origin == "agent"
    assert f"{name}-last" in [entry.text for entry in entries]


def _count(lab: Lab, conversation: str, entries: tuple[Entry, ...], *, killed: bool) -> None:
    """The tokens of the entries are those of the calls that were answered."""
    calls = [r for r in lab.api.requests if r.session == conversation and not r.closed.is_set()]
    billed = (BILLED_IN * len(calls), BILLED_OUT * len(calls))
    used = [entry.usage for entry in entries if entry.usage is not None]
    counted = (sum(u.input_tokens or 0 for u in used), sum(u.output_tokens or 0 for u in used))
    for n in (0, 1):
        lab.billed[n] += billed[n]
        lab.counted[n] += counted[n]
        lab.unseen[n] += billed[n] - counted[n] if killed else 0
    assert counted == billed or (killed and counted <= billed), (counted, billed, entries)


@pytest.mark.claude
@pytest.mark.slow
@pytest.mark.background
@pytest.mark.timeout(max(300, 60 * ROUNDS))
async def test_b01_b02_b04_b05_rounds_of_work_in_the_background(tmp_path: Path) -> None:
    seed = int(os.environ.get("TOLLBOARD_CHAOS_SEED", time.time_ns() % 1_000_000))
    print(f"seed {seed} (TOLLBOARD_CHAOS_SEED)")
    chance = random.Random(seed)
    kills = set(chance.sample(range(ROUNDS), KILLS))
    home = tmp_path / "state"
    async with MessagesAPI() as api:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC", "CLAUDE"))},
            "HOME": str(tmp_path), "CLAUDE_CONFIG_DIR": str(tmp_path / "claude"), "ANTHROPIC_API_KEY": "dummy",
            "ANTHROPIC_BASE_URL": api.url,
        }  # fmt: skip
        with DaemonProcess(home, env=env) as daemon:
            lab = Lab(daemon, api, home, chance)
            for number in range(ROUNDS):
                await _round(lab, number, tmp_path / f"s{number}", killed=number in kills)
    print(
        f"{ROUNDS} rounds, {KILLS} with a kill: {lab.own} turns of the agent's own, {lab.cut_off} entries cut off, "
        f"{lab.asked} questions ({lab.answered} answered, {lab.expired} expired by a kill); "
        f"tokens billed {lab.billed}, counted {lab.counted}, cut off with a kill {lab.unseen}"
    )
