"""The agent behind a session of the fleet, and what the Switchboard holds of a session that is not stopped.

History is not kept here: the session's journal turns every ended request into a history entry (DESIGN, the way of a
prompt), so a turn costs the same whatever came before it (E36).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tollboard.fleet import settings
from tollboard.fleet.ledger import SessionJournal
from tollboard.fleet.records import Life, SessionRecord, SessionStatus, StopReport
from tollboard.runtime.agent import GenAgent, Halt
from tollboard.runtime.legal import LIVE
from tollboard.runtime.machine import Machine
from tollboard.runtime.request import Request
from tollboard.runtime.status import Phase, agent_status


class SessionAgent(GenAgent):
    """Runs prompts in a directory; decides nothing, the judgement stays with the manager."""

    __slots__ = ("_path",)

    def init_agent(self, **options: object) -> Mapping[str, object]:
        """Keep the working directory in mind; every option is the backend's."""
        self._path = str(options["cwd"])
        return options

    def pre_turn(self, prompt: str) -> str | Halt:
        """Halt when the directory is gone: the program would run somewhere else, and the queue would be burnt."""
        if os.path.isdir(self._path):
            return prompt
        return Halt(f"the working directory {self._path!r} is gone: put it back, then resume the session")


@dataclass(slots=True)
class LiveSession:
    """A session of the fleet: its record, and its agent unless it is dead."""

    record: SessionRecord
    journal: SessionJournal
    machine: Machine | None = None
    waiting: list[Request] = field(default_factory=list)
    """The queue of a session that is dead; of a living one its machine has it."""
    retrying: str | None = None
    """What the provider did not do yet, and when it is asked again; only while it is so."""
    stopping: asyncio.Task[StopReport] | None = None
    reviving: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Return the session's name."""
        return self.record.name

    @property
    def id(self) -> str:
        """Return the session's id."""
        return self.record.id

    @property
    def queue(self) -> tuple[Request, ...]:
        """Return what waits, oldest first."""
        return tuple(self.waiting if self.machine is None else self.machine.mailbox or ())

    def asked(self, ref: str) -> Request | None:
        """Return the request if it has asked people before a restart and has not ended since."""
        if self.machine is None:
            found = next((request for request in self.waiting if request.ref == ref), None)
        else:
            found = self.machine.pending(ref)
        return found if found is not None and found.asked is not None else None

    @property
    def halted(self) -> bool:
        """Return whether the queue is frozen."""
        return self.record.halted if self.machine is None else self.machine.halted

    def die(self, problem: str) -> None:
        """Note that there is no agent any more, and why."""
        self.machine = None
        self.record = replace(self.record, life=Life.DEAD, problem=problem)

    def live(self, machine: Machine) -> None:
        """Note that there is an agent, which has the queue now."""
        self.machine = machine
        self.waiting = []
        self.record = replace(self.record, life=Life.LIVE, problem=None)

    def freeze(self, halted: bool) -> bool:
        """Halt or resume, and write it down unless that was done before; return whether anything changed."""
        machine = self.machine
        if machine is None:
            acted = self.record.halted is not halted
        elif machine.phase not in LIVE:
            return False  # it is being stopped, and one such must not keep the whole fleet from being halted
        elif machine.halt() if halted else machine.resume():
            return True
        else:
            acted = False
        if self.record.halted is not halted:
            # An earlier attempt was not durable, or the agent halted by itself: the record is what is known to be.
            _ = self.journal.halted(halted)
        return acted

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
            asked = any(request.needs_decision for request in self.waiting)
            return status_of(
                self.record, turns=self.journal.turns, queued=len(self.waiting), needs_decision=asked
            )
        agent = agent_status(machine)
        return _status(
            self.record,
            retrying=self.retrying,
            background=machine.background,
            phase="idle" if agent.phase is Phase.IDLE else "processing",
            halted=agent.halted,
            needs_decision=agent.needs_decision,
            queued=agent.queued,
            in_flight=agent.in_flight,
            turns=self.journal.turns,
        )


def status_of(
    record: SessionRecord, *, turns: int | None = None, queued: int = 0, needs_decision: bool = False
) -> SessionStatus:
    """Return the status of a session that has no agent: stopped or dead."""
    return _status(
        record,
        phase="stopped" if record.life is Life.STOPPED else "dead",
        halted=record.halted,
        needs_decision=needs_decision,
        queued=queued,
        in_flight=None,
        turns=record.turns if turns is None else turns,
    )


def addressed(
    status: SessionStatus, cursors: Mapping[str, int], named: Sequence[tuple[str, str]] | None
) -> SessionStatus:
    """Return the status with what is unread by the cursors, and with what names the session among its namesakes."""
    unread = max(0, status.turns - cursors.get(status.id, 0))
    address = status.name
    if status.life is Life.STOPPED and named is not None:
        ids = [id for id, name in named if name == status.name]
        if status.id in ids and ids[-1] != status.id:
            address = f"{status.name}@{ids.index(status.id) + 1}"
    return replace(status, unread=unread, address=address)


def _status(record: SessionRecord, *, retrying: str | None = None, **now: object) -> SessionStatus:
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
        alarms=(*found, *(text for text in (record.notice, retrying, record.problem) if text is not None)),
        problem=record.problem,
        **now,  # type: ignore[arg-type] # the fields named in the two callers
    )
