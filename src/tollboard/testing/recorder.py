"""Recorders: every telemetry event of a runtime, and everything one agent had to have remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tollboard.runtime.approval import Approval, Decision
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.event import Usage
from tollboard.runtime.memory import DictMemory
from tollboard.runtime.request import Request
from tollboard.runtime.results import Outcome
from tollboard.runtime.sub_agents import SubAgentNews
from tollboard.runtime.telemetry import ALL_EVENTS, EventName, Measurements, Metadata, Telemetry


@dataclass(frozen=True, slots=True)
class Recorded:
    """One telemetry event."""

    event: EventName
    measurements: Measurements
    metadata: Metadata


class TelemetryRecorder:
    """Keeps every event, in order, and lets a test wait for one."""

    def __init__(self, telemetry: Telemetry, id: str = "recorder") -> None:
        self.events: list[Recorded] = []
        self._news = asyncio.Event()
        telemetry.attach(id, ALL_EVENTS, self._heard)

    def _heard(self, event: EventName, measurements: Measurements, metadata: Metadata) -> None:
        self.events.append(Recorded(event, dict(measurements), dict(metadata)))
        news, self._news = self._news, asyncio.Event()
        news.set()

    def of(self, event: EventName) -> list[Recorded]:
        """Return the events of that name."""
        return [recorded for recorded in self.events if recorded.event == event]

    def names(self) -> list[EventName]:
        """Return the names of all events, in order."""
        return [recorded.event for recorded in self.events]

    async def seen(self, event: EventName, count: int = 1) -> Recorded:
        """Wait until there were `count` events of that name; return the last of them."""
        return await self.until(lambda: len(self.of(event)) >= count, lambda: self.of(event)[count - 1])

    async def until(self, condition: Callable[[], bool], then: Callable[[], Recorded]) -> Recorded:
        """Wait until the condition holds; it is looked at after each event."""
        while not condition():
            await self._news.wait()
        return then()


@dataclass
class RecordingJournal:
    """Implements Journal; commits at once, unless `hold` is set, and fails the kinds named in `failing`."""

    log: list[tuple[str, str]] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    usages: dict[str, Usage] = field(default_factory=dict)
    held: list[asyncio.Future[None]] = field(default_factory=list)
    hold: bool = False
    failing: dict[str, Exception] = field(default_factory=dict)
    kept: DictMemory = field(default_factory=DictMemory)

    def _note(self, kind: str, what: str) -> asyncio.Future[None]:
        self.log.append((kind, what))
        commit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A commit that fails and that nobody awaits is the journal's business.
        commit.add_done_callback(lambda done: done.cancelled() or done.exception())
        failure = self.failing.get(kind)
        if self.hold:
            self.held.append(commit)
        elif failure is not None:
            commit.set_exception(failure)
        else:
            commit.set_result(None)
        return commit

    def sub_agent(self, ref: str, news: SubAgentNews) -> None:
        """Note what is told of an agent below a turn."""
        self.log.append((type(news).__name__, news.id))

    def release(self) -> None:
        """Let every held commit resolve, in order."""
        held, self.held = self.held, []
        for commit in held:
            if not commit.done():
                commit.set_result(None)

    def accepted(self, request: Request) -> asyncio.Future[None]:
        """Note an acceptance."""
        return self._note("accepted", request.ref)

    def started(self, request: Request) -> asyncio.Future[None]:
        """Note a start."""
        return self._note("started", request.ref)

    def finished(self, request: Request, outcome: Outcome, duration_s: float) -> asyncio.Future[None]:
        """Note an outcome."""
        if request.ref in self.outcomes:
            raise AssertionError(f"{request.ref} ended twice")
        self.outcomes[request.ref] = outcome
        return self._note("finished", request.ref)

    def used(self, request: Request, usage: Usage) -> asyncio.Future[None]:
        """Note a usage."""
        self.usages[request.ref] = usage
        return self._note("used", request.ref)

    def checkpointed(
        self, provider_session_id: str, effective: Mapping[str, str] | None
    ) -> asyncio.Future[None]:
        """Note a checkpoint."""
        return self._note("checkpointed", provider_session_id)

    def halted(self, halted: bool) -> asyncio.Future[None]:
        """Note a halt or a resume."""
        return self._note("halted" if halted else "resumed", "")

    def background(self, running: Sequence[BackgroundTask]) -> asyncio.Future[None]:
        """Note what runs in the background."""
        return self._note("background", " ".join(task.id for task in running))

    def memory(self) -> DictMemory:
        """Return a memory that ends with this journal."""
        return self.kept

    def approval_requested(self, approval: Approval) -> asyncio.Future[None]:
        """Note a question."""
        return self._note("approval_requested", approval.id)

    def approval_closed(self, approval: Approval, decision: Decision | None, by: str) -> asyncio.Future[None]:
        """Note a decision."""
        return self._note("approval_closed", approval.id)
