"""A fleet for a test: the real store in a file, the real runtime, and backends that can be steered."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import tollboard.backends as backends
from tollboard.clock import Clock
from tollboard.errors import UnknownBackend
from tollboard.fleet.records import FeedItem, PollCompleted, PollFailed
from tollboard.fleet.settings import FleetSettings
from tollboard.fleet.switchboard import Switchboard
from tollboard.runtime.backend import NO_PROCESSES, Backend, Host, ProcessReport, Turn
from tollboard.runtime.event import Event, NoticeEvent, ResultEvent, Usage
from tollboard.store.retention import Retention
from tollboard.store.store import Store


class Gated(Backend[dict[str, Any]]):
    """Answers `done: <prompt>` once its gate is open; counts what it was asked, and keeps what it was given."""

    name: ClassVar[str] = "gated"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.prompts: list[str] = []
        self.running = asyncio.Event()
        self.sessions: list[dict[str, Any]] = []
        self.resumed: list[tuple[str, dict[str, Any]]] = []
        self.ended: list[str] = []
        self.effective: Mapping[str, str] | None = None
        self.report = NO_PROCESSES
        self.on_start: Callable[[], Any] | None = None
        self.raises: BaseException | None = None
        self.notice: NoticeEvent | None = None
        self.hosts: dict[str, Host] = {}
        """The way to each session's agent, by its working name."""
        self._turns: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}

    async def start_session(self, options: Mapping[str, object]) -> dict[str, Any]:
        return await self._session(f"gated-{len(self.sessions)}", options)

    async def resume_session(self, provider_session_id: str, options: Mapping[str, object]) -> dict[str, Any]:
        self.resumed.append((provider_session_id, dict(options)))
        return await self._session(provider_session_id, options)

    async def _session(self, id: str, options: Mapping[str, object]) -> dict[str, Any]:
        if self.on_start is not None:
            await self.on_start()
        session = {**options, "id": id}
        self.sessions.append(session)
        return session

    async def prompt(self, session: dict[str, Any], text: str, turn: Turn) -> AsyncGenerator[Event, None]:
        self.prompts.append(text)
        await turn.checkpoint(session["id"], self.effective)
        self.running.set()
        if self.raises is not None:
            raise self.raises
        if self.notice is not None:
            yield self.notice
        self.reach(turn.ref).set()
        await _either(self.gate, self._passed(turn.ref))
        yield ResultEvent(f"done: {text}")

    def listen(self, session: dict[str, Any], host: Host) -> None:
        self.hosts[session["id"]] = host

    async def own_turn(self, session: dict[str, Any], turn: Turn) -> AsyncGenerator[Event, None]:
        self.reach(turn.ref).set()
        await _either(self.gate, self._passed(turn.ref))
        yield ResultEvent("by itself", Usage(3, 4, cost_usd=0.5))

    def reach(self, ref: str) -> asyncio.Event:
        return self._turns.setdefault(ref, (asyncio.Event(), asyncio.Event()))[0]

    def _passed(self, ref: str) -> asyncio.Event:
        return self._turns.setdefault(ref, (asyncio.Event(), asyncio.Event()))[1]

    async def reached(self, ref: str) -> None:
        """Wait until this request is at the gate."""
        await self.reach(ref).wait()

    def let_go(self, ref: str) -> None:
        """Open the gate for this request only."""
        self._passed(ref).set()

    async def terminate_session(self, session: dict[str, Any]) -> ProcessReport:
        self.ended.append(session["id"])
        return self.report


async def _either(*events: asyncio.Event) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class Shelf:
    """A backend directory: the built-in ones, and `gated`."""

    def __init__(self) -> None:
        self.gated = Gated()
        self.missing: set[str] = set()

    def load(self, name: str) -> Backend[Any]:
        if name in self.missing:
            raise UnknownBackend(f"no backend is called {name!r}")
        return self.gated if name == "gated" else backends.load(name)

    def known(self) -> tuple[str, ...]:
        return (*backends.known(), "gated")


class Fleet:
    """One board after another on one database; `work` is a directory for its sessions."""

    def __init__(self, home: Path) -> None:
        self.path = home / "tollboard.db"
        self.work = home / "work"
        self.work.mkdir()
        self.shelf = Shelf()
        self.settings = FleetSettings()
        self.clock: Clock | None = None
        self.retention: Retention | None = None
        self._abandoned: list[tuple[Store, Switchboard]] = []

    @property
    def gated(self) -> Gated:
        return self.shelf.gated

    async def open(self) -> Switchboard:
        self.store = await Store.open(
            self.path, take_over=True, clock=self.clock, retention=self.retention, synchronous="NORMAL"
        )
        self.board = await Switchboard.open(
            self.store, backends=self.shelf, settings=self.settings, clock=self.clock
        )
        return self.board

    async def kill(self) -> Switchboard:
        """Do what `kill -9` and a new start do: the old board gets no chance to write anything more."""
        self._abandoned.append((self.store, self.board))
        self.shelf = Shelf()
        return await self.open()

    async def restart(self, *, grace_s: float = 0) -> Switchboard:
        """Close properly and open again."""
        await self.board.close(grace_s=grace_s)
        await self.store.close()
        self.shelf = Shelf()
        return await self.open()

    async def close(self) -> None:
        for store, board in [*self._abandoned, (self.store, self.board)]:
            await board.close(grace_s=0)
            await store.close()

    # -- short forms

    async def start(self, name: str = "api", backend: str = "echo", **options: object) -> str:
        return (await self.board.start_session(name, path=self.work, backend=backend, **options)).id

    async def done(self, *refs: str) -> None:
        report = await self.board.wait(refs, timeout=20)
        assert not report.pending

    async def run(self, name: str, prompt: str) -> str:
        ref = await self.board.send(name, prompt, queue=True)
        await self.done(ref)
        return ref

    def fill_disk(self) -> None:
        """Let every write fail from now on, as on a full disk."""

        def full(writes: object, *, singly: bool) -> None:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        self.store._writer._transact = full  # type: ignore[method-assign]

    def free_disk(self) -> None:
        """Undo that."""
        del self.store._writer._transact


async def completed(board: Switchboard, name: str, ref: str) -> PollCompleted:
    poll = await board.poll(name, ref)
    assert isinstance(poll, PollCompleted), poll
    return poll


async def failed(board: Switchboard, name: str, ref: str) -> PollFailed:
    poll = await board.poll(name, ref)
    assert isinstance(poll, PollFailed), poll
    return poll


async def seen(tail: AsyncIterator[FeedItem], kind: str, ref: str | None = None) -> FeedItem:
    """Return the next item of a kind."""
    async with asyncio.timeout(20):
        while True:
            item = await anext(tail)
            if item.kind == kind and (ref is None or item.ref == ref):
                return item
