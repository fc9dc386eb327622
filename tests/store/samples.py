"""Ready-made values and small steps for the store's tests."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from tollboard.fleet.ledger import NewFeedItem
from tollboard.fleet.records import Life, SessionRecord
from tollboard.ids import new_ref
from tollboard.runtime.event import Usage
from tollboard.runtime.request import Origin, Request
from tollboard.runtime.response import Response
from tollboard.runtime.results import Completed, Failed, Outcome, Reason
from tollboard.store.journal import StoreJournal
from tollboard.store.store import Store

_count = itertools.count(1)


def record(name: str = "", **more: object) -> SessionRecord:
    number = next(_count)
    values: dict[str, object] = {
        "id": new_ref(), "name": name or f"session-{number}", "path": "/tmp", "backend": "echo", "options": {},
        "life": Life.LIVE, "halted": False, "created_at": float(number),
    }  # fmt: skip
    return SessionRecord(**{**values, **more})  # type: ignore[arg-type]


async def started_session(store: Store, name: str = "") -> tuple[SessionRecord, StoreJournal]:
    made = record(name)
    await store.create_session(made)
    return made, store.journal(made)


def request(prompt: str = "do it", *, ref: str = "", at: float = 10.0) -> Request:
    return Request(ref or new_ref(), prompt, Origin.TELL, at)


def completed(text: str = "done", usage: Usage | None = None) -> Completed:
    return Completed(Response(text, text, (), (), usage, 1.5, None))


def failed(reason: Reason = Reason.BACKEND_ERROR, detail: str = "no luck") -> Failed:
    return Failed(reason, detail)


def begin(journal: StoreJournal, made: Request, *, at: float = 11.0) -> None:
    """Accept and start a request without waiting."""
    made.commit = journal.accepted(made)
    start(journal, made, at=at)


def start(journal: StoreJournal, made: Request, *, at: float = 11.0) -> None:
    made.attempt += 1
    made.started_at = at
    _ = journal.started(made)


async def turn(journal: StoreJournal, prompt: str = "do it", outcome: Outcome | None = None) -> Request:
    """Take a request all the way."""
    made = request(prompt)
    begin(journal, made)
    commit = journal.finished(made, outcome or completed(), 1.5)
    assert commit is not None
    await commit
    return made


def item(session: SessionRecord, kind: str = "turn.started", *, ref: str | None = None, at: float = 1.0,
         data: Mapping[str, object] | None = None) -> NewFeedItem:  # fmt: skip
    return NewFeedItem(at, session.id, session.name, ref, kind, data or {})


def raw(path: Path) -> sqlite3.Connection:
    """Return a connection of somebody else."""
    return sqlite3.connect(path, isolation_level=None)


def value(path: Path, sql: str, *params: object) -> object:
    connection = raw(path)
    try:
        return connection.execute(sql, params).fetchone()[0]
    finally:
        connection.close()


class ManualTimer:
    def __init__(self, clock: ManualClock, due: float, callback: Callable[[], None]) -> None:
        self.clock, self.due, self.callback = clock, due, callback

    def cancel(self) -> None:
        if self in self.clock.timers:
            self.clock.timers.remove(self)


class ManualClock:
    """Time that goes on only when a test says so."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self.timers: list[ManualTimer] = []
        self.waits: list[float] = []
        self._changed = asyncio.Event()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> ManualTimer:
        timer = ManualTimer(self, self.now + delay_s, callback)
        self.timers.append(timer)
        self.waits.append(delay_s)
        self._changed.set()
        return timer

    def advance(self, by_s: float) -> None:
        self.now += by_s
        for timer in [t for t in self.timers if t.due <= self.now]:
            self.timers.remove(timer)
            timer.callback()

    async def waiting(self, timers: int = 1) -> None:
        """Return once so many timers wait."""
        while len(self.timers) < timers:
            self._changed.clear()
            await self._changed.wait()
