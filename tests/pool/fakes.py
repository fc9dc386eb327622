"""What the pool's tests share: a backend whose turns a test opens by hand, a journal that can be slow or fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from tollboard.errors import Crash, StoreUnavailable
from tollboard.pool.records import TaskResult
from tollboard.pool.task import PoolTask
from tollboard.runtime.backend import NO_PROCESSES, Backend, ProcessReport, Turn
from tollboard.runtime.event import ErrorEvent, Event, ResultEvent, TextEvent, Usage


class GateBackend(Backend[str]):
    """Every turn waits until the test lets it go on: `answer`, `fail` or `crash` by the prompt's text.

    With `open=True` turns end by themselves after one pass of the loop. `fail_start` names workers' ordinals (from 0)
    that cannot start.
    """

    name = "gate"

    def __init__(self, *, open: bool = False, fail_start: frozenset[int] = frozenset()) -> None:
        self.open = open
        self.fail_start = fail_start
        self.starts = 0
        self.ended: list[str] = []
        self.begun: list[tuple[str, str]] = []
        self.gates: dict[str, asyncio.Future[str]] = {}
        self.waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.hold_starts: asyncio.Event | None = None
        self.options: list[Mapping[str, object]] = []

    async def start_session(self, options: Mapping[str, object]) -> str:
        number = self.starts
        self.starts += 1
        self.options.append(dict(options))
        if self.hold_starts is not None:
            await self.hold_starts.wait()
        if number in self.fail_start:
            raise OSError("no such program")
        return f"session-{number}"

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> str:
        return provider_session_id

    async def prompt(self, session: str, text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        self.begun.append((session, text))
        for at_least, waiter in self.waiting:
            if len(self.begun) >= at_least and not waiter.done():
                waiter.set_result(None)
        if self.open:
            await asyncio.sleep(0)
            word = "answer"
        else:
            gate = self.gates[text] = asyncio.get_running_loop().create_future()
            word = await gate
        if word == "crash":
            raise Crash("killed by the test")
        if word == "fail":
            yield ErrorEvent("no luck")
            return
        yield TextEvent(f"  re: {text}\n")
        yield ResultEvent(None, Usage(input_tokens=1, output_tokens=2))

    async def reset_session(self, session: str) -> str:
        return session

    async def terminate_session(self, session: str) -> ProcessReport:
        self.ended.append(session)
        return NO_PROCESSES

    # -- what tests do ---------------------------------------------------------------------------

    async def wait_begun(self, number: int) -> None:
        """Wait until so many turns have begun."""
        if len(self.begun) < number:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append((number, waiter))
            await asyncio.wait_for(waiter, 5)

    def let(self, text: str, word: str = "answer") -> None:
        """Let a turn that has begun end."""
        self.gates.pop(text).set_result(word)

    def running(self) -> list[str]:
        """Return the prompts of the turns that wait for the test."""
        return [text for text, gate in self.gates.items() if not gate.done()]

    @property
    def prompts(self) -> list[str]:
        """Return the prompts that were begun, in order."""
        return [text for _, text in self.begun]


class RecordingJournal:
    """Keeps entries in order. With `slow=True` commits wait for `flush`; those in `fails` are refused."""

    def __init__(self, *, slow: bool = False, fails: frozenset[str] = frozenset()) -> None:
        self.slow = slow
        self.fails = fails
        self.entries: list[tuple[Any, ...]] = []
        self.commits: list[asyncio.Future[None]] = []

    def _commit(self, kind: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if kind in self.fails:
            future.set_exception(StoreUnavailable("disk full"))
        elif self.slow:
            self.commits.append(future)
        else:
            future.set_result(None)
        return future

    def flush(self) -> None:
        commits, self.commits = self.commits, []
        for commit in commits:
            commit.set_result(None)

    def accepted(self, task: PoolTask) -> asyncio.Future[None]:
        self.entries.append(("accepted", task.prompt))
        return self._commit("accepted")

    def started(self, task: PoolTask, worker: str, attempt: int) -> asyncio.Future[None]:
        self.entries.append(("started", task.prompt, attempt))
        return self._commit("started")

    def finished(self, result: TaskResult) -> asyncio.Future[None]:
        self.entries.append(("finished", result.prompt, result.status.value))
        return self._commit("finished")


async def settle(passes: int = 25) -> None:
    """Let everything run that can run without time passing."""
    for _ in range(passes):
        await asyncio.sleep(0)
