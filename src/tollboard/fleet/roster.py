"""Who is in the fleet: live sessions by name and id, and how one is started and found."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from tollboard.clock import Clock
from tollboard.errors import AgentDead, AgentExists, AgentNotFound, Overloaded, UnknownBackend
from tollboard.fleet.ledger import Ledger
from tollboard.fleet.records import Life, SessionDefinition, SessionRecord
from tollboard.fleet.session_agent import LiveSession, SessionAgent
from tollboard.fleet.settings import FleetSettings, check_options, resolve_references
from tollboard.ids import SESSION_MARKER
from tollboard.runtime import telemetry
from tollboard.runtime.backend import Backend
from tollboard.runtime.event import NoticeEvent, TextEvent, ToolUseEvent
from tollboard.runtime.results import Reason
from tollboard.runtime.runtime import Runtime
from tollboard.runtime.telemetry import EventName, Measurements, Metadata

MAX_DIGITS = 6
"""Of the N in `NAME@N`."""


class BackendDirectory(Protocol):
    """Backends by name; the package `tollboard.backends` is one."""

    def load(self, name: str) -> Backend[Any]:
        """Return a new backend. Raises UnknownBackend."""

    def known(self) -> tuple[str, ...]:
        """Return the names that `load` takes."""


class Roster:
    """The sessions that are not stopped."""

    def __init__(
        self, ledger: Ledger, runtime: Runtime, backends: BackendDirectory, settings: FleetSettings
    ) -> None:
        self.ledger = ledger
        self.runtime = runtime
        self.clock: Clock = runtime.clock
        self.settings = settings
        self._backends = backends
        self._loaded: dict[str, Backend[Any]] = {}
        self._by_name: dict[str, LiveSession] = {}
        self._by_id: dict[str, LiveSession] = {}
        self._starting: set[str] = set()
        self.endings = asyncio.Event()
        """Set, and replaced by a new one, whenever a request has ended."""
        runtime.telemetry.attach("fleet.roster", tuple(_HEARD), self._heard)

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def backend(self, name: str) -> Backend[Any]:
        """Return the backend of that name; one serves all its sessions. Raises UnknownBackend."""
        found = self._loaded.get(name)
        if found is None:
            found = self._loaded[name] = self._backends.load(name)
        return found

    def goes_on(self, backend: str) -> bool:
        """Return whether that backend's turns go on after a restart once they have asked people."""
        try:
            return self.backend(backend).goes_on
        except UnknownBackend:
            return False

    def known_backends(self) -> tuple[str, ...]:
        """Return the names of the backends this fleet may use."""
        return tuple(
            name
            for name in self._backends.known()
            if not self.settings.backends or name in self.settings.backends
        )

    def reserve(self, name: str) -> None:
        """Take a name for a session that is being started; it is found once that is durable. Raises AgentExists."""
        if name in self._by_name or name in self._starting:
            raise AgentExists(f"a session {name!r} is in the fleet; stop it first or choose another name")
        self._starting.add(name)

    def release(self, name: str) -> None:
        """Give a reserved name back."""
        self._starting.discard(name)

    def tell_ended(self, *_: object) -> None:
        """Tell those who wait for a request that no agent has in hand; also the `on_complete` of every request."""
        endings, self.endings = self.endings, asyncio.Event()
        endings.set()

    async def check(self, asked: SessionDefinition) -> None:
        """Raise what its backend would raise if this session were started."""
        own = resolve_references(check_options(asked.options), os.environ)
        await self.backend(asked.backend).check_start({**own, "cwd": asked.path})

    async def start(self, session: LiveSession) -> None:
        """Start the session's agent, which takes over its queue.

        What it ran with before is shown until it reports anew: a list without models says less than the last report.
        """
        record = session.record
        path = self.settings.check_path(record.path)
        options = resolve_references(record.options, os.environ)
        for request in session.waiting:
            request.on_complete = self.tell_ended
        known = {} if record.provider_session_id is None else {"answered": record.answered}
        machine = await self.runtime.start_agent(
            SessionAgent,
            record.name,
            backend=self.backend(record.backend),
            journal=session.journal,
            backlog=session.waiting,
            halted=record.halted,
            provider_session_id=record.provider_session_id,
            # Results are in the ledger: the runtime need not keep them too.
            **{"max_results": 0, **options, **known, "cwd": path,
               "env_marker": f"{SESSION_MARKER}={self.settings.home_id}:{record.id}",
               **self.settings.ours()},
        )  # fmt: skip
        session.live(machine)

    def bury(self, session: LiveSession, problem: str) -> None:
        """Keep a session in the fleet that has no agent, and say why."""
        session.die(problem)
        self._note_life(session, Life.DEAD, problem)

    def _note_life(self, session: LiveSession, life: Life, problem: str | None = None) -> None:
        """Write it down if the ledger takes it: a full queue must not silence what listens here."""
        with contextlib.suppress(Overloaded):
            _ = self.ledger.set_life(session.id, life, at=self.clock.time(), problem=problem)

    def add(self, session: LiveSession) -> None:
        """Put a session into the fleet."""
        self._by_name[session.name] = session
        self._by_id[session.id] = session

    def remove(self, session: LiveSession) -> None:
        """Take a session out of the fleet; its name is free again."""
        if self._by_name.get(session.name) is session:
            del self._by_name[session.name]
        self._by_id.pop(session.id, None)

    def id_of(self, name: str) -> str | None:
        """Return the id of the session that has this name now."""
        session = self._by_name.get(name)
        return session.id if session is not None else None

    def find(self, name_or_id: str) -> LiveSession | None:
        """Return the session of the fleet with that name or id."""
        return self._by_name.get(name_or_id) or self._by_id.get(name_or_id)

    def get(self, name: str) -> LiveSession:
        """Return the session of the fleet with that name or id. Raises AgentNotFound."""
        session = self.find(name)
        if session is None:
            raise AgentNotFound(
                f"there is no session {name!r} in the fleet; `tollboard list --all` shows stopped ones too"
            )
        return session

    def live(self, name: str) -> LiveSession:
        """Return a session that can take prompts. Raises AgentNotFound, AgentDead with the reason."""
        session = self.get(name)
        if session.machine is None:
            raise AgentDead(f"session {session.name!r} is dead: {session.record.problem}")
        return session

    async def record(self, name: str) -> SessionRecord:
        """Return the record of a session, stopped ones included. Raises AgentNotFound."""
        wanted = await self._numbered(name)
        session = self.find(wanted)
        if session is not None:
            return replace(session.record, turns=session.journal.turns)
        record = await self.ledger.find_session(wanted)
        if record is None:
            raise AgentNotFound(f"there is no session {name!r}; `tollboard list --all` shows all there are")
        return record

    async def _numbered(self, name: str) -> str:
        """Return the id of what `NAME@N` means, the N-th session that had the name (V08); else the name as it is."""
        base, at, number = name.partition("@")
        if not at or not number.isascii() or not number.isdigit() or len(number) > MAX_DIGITS:
            return name
        named = await self.ledger.named(base)
        if not named:
            return name
        if not 1 <= int(number) <= len(named):
            raise AgentNotFound(
                f"there is no session {name!r}: {len(named)} have had that name, {base}@1 to {base}@{len(named)}"
            )
        return named[int(number) - 1][0]

    def _heard(self, event: EventName, measurements: Measurements, metadata: Metadata) -> None:
        session = self._by_name.get(str(metadata["agent"]))
        if session is not None:
            _HEARD[event](self, session, metadata)

    def _crashed(self, session: LiveSession, metadata: Metadata) -> None:
        self.bury(session, f"crashed: {metadata['reason']}")

    def _started(self, session: LiveSession, metadata: Metadata) -> None:
        """Take over the new agent of a session whose options ask for a restart after a crash (R35)."""
        machine = self.runtime.whereis(session.name)
        if machine is not None and session.machine is None and session.reviving is None:
            session.live(machine)
            self._note_life(session, Life.LIVE)
            if session.record.halted:
                machine.halt()

    def _checkpointed(self, session: LiveSession, metadata: Metadata) -> None:
        effective: Any = metadata["effective"]
        if isinstance(effective, Mapping) or effective is None:
            session.report(str(metadata["provider_session_id"]), effective)

    def _failed(self, session: LiveSession, metadata: Metadata) -> None:
        session.retrying = None
        if metadata["reason"] is Reason.HALTED:
            self._note(session, str(metadata["detail"]))

    def _resumed(self, session: LiveSession, metadata: Metadata) -> None:
        self._note(session, None)

    def _completed(self, session: LiveSession, metadata: Metadata) -> None:
        session.retrying = None
        self._note(session, None)

    def _received(self, session: LiveSession, metadata: Metadata) -> None:
        """Show what keeps a session from its work, until it speaks again (B08)."""
        match metadata["event"]:
            case NoticeEvent(message=message, alarm=True, retry_at=None):
                self._note(session, message)
            case NoticeEvent(message=message, alarm=True):
                session.retrying = message
            case TextEvent() | ToolUseEvent():
                session.retrying = None
                self._note(session, None)

    def _note(self, session: LiveSession, notice: str | None) -> None:
        """Keep why a session halted by itself, over a restart too, if the ledger takes it."""
        if session.record.notice != notice:
            session.record = replace(session.record, notice=notice)
            with contextlib.suppress(Overloaded):
                _ = self.ledger.set_notice(session.id, notice)


_HEARD: dict[EventName, Callable[[Roster, LiveSession, Metadata], None]] = {
    telemetry.AGENT_CRASHED: Roster._crashed,
    telemetry.AGENT_STARTED: Roster._started,
    telemetry.CHECKPOINTED: Roster._checkpointed,
    telemetry.EVENT_RECEIVED: Roster._received,
    telemetry.PROMPT_ERROR: Roster._failed,
    telemetry.PROMPT_STOP: Roster._completed,
    telemetry.RESUMED: Roster._resumed,
}
