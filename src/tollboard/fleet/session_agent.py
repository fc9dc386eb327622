"""The agent behind a session of the fleet, and what the Switchboard holds of a live session.

History is not kept here: the session's journal turns every ended request into a history entry (DESIGN, the way of a
prompt), so a turn costs the same whatever came before it (E36).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tollboard.fleet import settings
from tollboard.fleet.ledger import SessionJournal
from tollboard.fleet.records import Life, SessionRecord, SessionStatus
from tollboard.runtime.agent import GenAgent, Halt
from tollboard.runtime.machine import Machine
from tollboard.runtime.status import Phase


class SessionAgent(GenAgent):
    """Runs prompts in a directory; decides nothing, the judgement stays with the manager."""

    __slots__ = ("_path",)

    def init_agent(self, **options: object) -> Mapping[str, object]:
        """Keep the working directory in mind; every option is the backend's."""
        self._path = str(options["cwd"])
        return options

    def pre_turn(self, prompt: str) -> str | Halt:
        """Halt when the working directory is gone: the program would run somewhere else, and the queue would be burnt."""
        if os.path.isdir(self._path):
            return prompt
        return Halt(f"the working directory {self._path!r} is gone: put it back, then resume the session")


@dataclass(slots=True)
class LiveSession:
    """A session of the fleet: its record, and its agent unless it is dead."""

    record: SessionRecord
    journal: SessionJournal
    machine: Machine | None

    @property
    def name(self) -> str:
        """Return the session's name."""
        return self.record.name

    @property
    def id(self) -> str:
        """Return the session's id."""
        return self.record.id

    def report(self, provider_session_id: str, effective: Mapping[str, str] | None) -> None:
        """Take over what the provider says of the conversation."""
        self.record = replace(
            self.record,
            provider_session_id=provider_session_id,
            effective=self.record.effective if effective is None else dict(effective),
        )

    def status(self) -> SessionStatus:
        """Return how the session stands."""
        machine = self.machine
        if machine is None:
            return status_of(self.record, turns=self.journal.turns)
        agent = machine.status()
        return _status(
            self.record,
            phase="idle" if agent.phase is Phase.IDLE else "processing",
            halted=agent.halted,
            needs_decision=agent.needs_decision,
            queued=agent.queued,
            in_flight=agent.in_flight,
            turns=self.journal.turns,
        )


def status_of(record: SessionRecord, *, turns: int | None = None) -> SessionStatus:
    """Return the status of a session that has no agent: stopped or dead."""
    return _status(
        record,
        phase="stopped" if record.life is Life.STOPPED else "dead",
        halted=record.halted,
        needs_decision=False,
        queued=0,
        in_flight=None,
        turns=record.turns if turns is None else turns,
    )


def _status(record: SessionRecord, **now: object) -> SessionStatus:
    wanted = settings.asked(record.path, record.options)
    found = settings.alarms(wanted, record.effective)
    return SessionStatus(
        id=record.id,
        name=record.name,
        path=record.path,
        backend=record.backend,
        life=record.life,
        created_at=record.created_at,
        stopped_at=record.stopped_at,
        provider_session_id=record.provider_session_id,
        asked=wanted,
        effective=record.effective,
        alarms=found if record.problem is None else (*found, record.problem),
        problem=record.problem,
        **now,  # type: ignore[arg-type] # the fields named in the two callers
    )
