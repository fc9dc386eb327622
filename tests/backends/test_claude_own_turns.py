"""The real Claude Code on the loopback, with work in the background: whose each answer is (B01-B05)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.messages_api import Hang, MessagesAPI
from tests.runtime.puppet import Plain
from tollboard.backends._process import find_processes
from tollboard.backends.claude import ClaudeBackend, ClaudeSession
from tollboard.runtime import telemetry
from tollboard.runtime.approval import Approve
from tollboard.runtime.results import Completed, Failed, Outcome, Reason
from tollboard.runtime.runtime import Runtime
from tollboard.testing.recorder import RecordingJournal, TelemetryRecorder

pytestmark = [pytest.mark.claude, pytest.mark.slow]
MARKER = ("TOLLBOARD_SESSION", "test:own-turns")
BILLED = (100, 10)
"""What the stand-in bills for each call, in and out."""


class World:
    """One agent on the real program."""

    def __init__(self, runtime: Runtime, api: MessagesAPI) -> None:
        self.runtime = runtime
        self.api = api
        self.seen = TelemetryRecorder(runtime.telemetry)
        self.journal = RecordingJournal()

    @property
    def session(self) -> ClaudeSession:
        machine = self.runtime.whereis("a")
        assert machine is not None
        session = machine.session
        assert isinstance(session, ClaudeSession)
        return session

    async def answer(self, text: str) -> str:
        outcome = await self.runtime.wait(self.runtime.tell("a", text), 60)
        assert isinstance(outcome, Completed), outcome
        return outcome.response.text

    async def own(self, count: int = 1) -> list[tuple[str, Outcome]]:
        """Wait until so many turns of the agent's own have ended; return cause and outcome of each."""

        def ended() -> list[tuple[str, Outcome]]:
            causes = {
                str(e.metadata["ref"]): str(e.metadata["prompt"])
                for e in self.seen.of(telemetry.PROMPT_START) if e.metadata["origin"] == "agent"
            }  # fmt: skip
            return [
                (cause, self.journal.outcomes[ref])
                for ref, cause in causes.items()
                if ref in self.journal.outcomes
            ]

        async with asyncio.timeout(60):
            await self.seen.until(lambda: len(ended()) >= count, lambda: self.seen.events[-1])
        return ended()


@pytest.fixture
async def world(claude_options: dict[str, object], messages_api: MessagesAPI) -> AsyncIterator[World]:
    runtime = Runtime()
    world = World(runtime, messages_api)
    options = {
        **claude_options,
        "env_marker": "=".join(MARKER),
        "allowed_tools": ["Bash(sleep:*)", "Bash(true)"],
    }
    await runtime.start_agent(Plain, "a", backend=ClaudeBackend(), journal=world.journal, **options)
    yield world
    with contextlib.suppress(Exception):
        await runtime.stop("a")
    await runtime.close()
    assert not await find_processes(marker=MARKER)


async def test_b01_b02_a_command_that_ends_begins_a_turn_and_a_prompt_meanwhile_gets_its_own_answer(
    world: World,
) -> None:
    await world.answer("background sleep 0.5")
    await world.seen.seen(telemetry.BACKGROUND_CHANGED, 2)
    mine = world.runtime.tell("a", "say mine")
    ((cause, outcome),) = await world.own()
    assert "sleep 0.5" in cause
    assert isinstance(outcome, Completed)
    assert outcome.response.text == "told"
    answered = await world.runtime.wait(mine, 60)
    assert isinstance(answered, Completed)
    assert answered.response.text == "mine"
    outcomes = [each for each in world.journal.outcomes.values() if isinstance(each, Completed)]
    used = [each.response.usage for each in outcomes]
    assert sum(u.input_tokens or 0 for u in used if u) == BILLED[0] * len(world.api.requests)
    assert sum(u.output_tokens or 0 for u in used if u) == BILLED[1] * len(world.api.requests)


async def test_b04_a_background_sub_agent_asks_and_its_answer_arrives(
    world: World, claude_options: dict[str, object]
) -> None:
    await world.answer("delegate run touch made")
    async with asyncio.timeout(60):
        asked = await world.seen.seen(telemetry.APPROVAL_REQUESTED)
    approval = asked.metadata["approval"]
    assert approval.path == "a/general-purpose"  # type: ignore[attr-defined]
    await world.runtime.decide(approval.id, Approve())  # type: ignore[attr-defined]
    ((_, outcome),) = await world.own()
    assert isinstance(outcome, Completed)
    assert (Path(str(claude_options["cwd"])) / "made").exists()
    outcomes = [each for each in world.journal.outcomes.values() if isinstance(each, Completed)]
    used = [each.response.usage for each in outcomes]
    assert sum(u.input_tokens or 0 for u in used if u) == BILLED[0] * len(world.api.requests)


async def test_b02_b05_a_program_killed_with_work_in_the_background(world: World) -> None:
    """The pipe stays open in the command that it left; what was lost is said, and the next answer is the next one's."""
    await world.answer("background sleep 3600")
    held = world.runtime.tell("a", "hang")
    await world.api.wait_held()
    process = world.session.program
    assert process is not None
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGKILL)
    outcome = await world.runtime.wait(held, 60)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.INTERRUPTED
    assert await world.answer("say next") == "next"
    lost = [
        each
        for each in world.journal.outcomes.values()
        if isinstance(each, Failed) and "cut off" in each.detail
    ]
    assert [each.reason for each in lost] == [Reason.INTERRUPTED]


async def test_b03_an_interrupt_ends_a_turn_of_its_own_and_the_program_stays(world: World) -> None:
    await world.answer("background sleep 0.5")
    world.api.handler = lambda request: Hang() if request.notified else None
    await world.api.wait_held()
    assert world.runtime.interrupt("a")
    ((_, outcome),) = await world.own()
    assert outcome == Failed(Reason.INTERRUPTED)
    assert await world.answer("say on") == "on"
