"""What runs beside an agent's turns: commands and sub-agents in the background, and the turns an agent begins itself.

A backend session that can act by itself is given an `AgentHost` (`Backend.listen`). Through it the session announces a
turn that no request began, tells what runs in the background, and asks a person outside of any turn. Nothing here is
about one provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tollboard.runtime import telemetry
from tollboard.runtime.approval import ApprovalRequest, Decision, Reject
from tollboard.runtime.approvals import ask_outside
from tollboard.runtime.background_task import BackgroundTask
from tollboard.runtime.ending import end_unrun
from tollboard.runtime.legal import LEGAL, Input
from tollboard.runtime.request import AGENT, Request
from tollboard.runtime.results import Failed, Reason

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine

STOPPED = Reject("The session was stopped; this call was not allowed.")


class AgentHost:
    """What a backend session may tell its agent between prompts; the implementation of `backend.Host`.

    It belongs to one session: once the agent has ended, or has another session, it does nothing.
    """

    __slots__ = ("_machine",)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def begin_turn(self, cause: str) -> bool:
        """Announce a turn that the agent has begun by itself; return whether it will be taken up.

        `cause` says why, for people: it stands where a request has its prompt. The runtime calls `Backend.own_turn`
        once for each announced turn, in their order, after the turn in flight if there is one.
        """
        machine = self._machine
        if not self._valid or machine.phase not in LEGAL[Input.OWN_TURN]:
            return False
        machine.begin_own_turn(cause)
        return True

    def background(self, running: Sequence[BackgroundTask], *, lost: str = "") -> None:
        """Tell what runs in the background now. `lost` says why what is missing since the last call was cut off;
        each of those becomes an `interrupted` entry of the history. Empty: they ended by themselves."""
        if self._valid:
            change_background(self._machine, running, lost)

    async def ask(self, request: ApprovalRequest, ref: str = "") -> Decision:
        """Wait for a person to decide on a call that belongs to no turn, such as a background sub-agent's.

        The question waits as long as any other, whatever turns run meanwhile; cancel the call to withdraw it. `ref`
        names the request that started the asker.
        """
        machine = self._machine
        if not self._valid or machine.phase not in LEGAL[Input.OWN_TURN]:
            return STOPPED
        return await ask_outside(machine, request, ref)

    @property
    def _valid(self) -> bool:
        return self._machine.host is self


def change_background(machine: Machine, running: Sequence[BackgroundTask], lost: str = "") -> None:
    """Take over what runs in the background; note what was cut off as entries of their own."""
    before, now = machine.background, tuple(running)
    if before == now:
        return
    machine.background = now
    ids = {task.id for task in now}
    gone = [task for task in before if task.id not in ids]
    machine.journal.background(now)
    machine.telemetry.execute(
        telemetry.BACKGROUND_CHANGED, {"running": len(now)}, {"agent": machine.name, "running": now}
    )
    if lost:
        for task in gone:
            _note_lost(machine, task, lost)


def lose_background(machine: Machine, why: str) -> None:
    """Note that everything in the background was cut off."""
    if machine.background:
        change_background(machine, (), why)


def _note_lost(machine: Machine, task: BackgroundTask, why: str) -> None:
    """Write an interrupted turn of the agent's own into the history: it says what was cut off, and why."""
    now = machine.clock.time()
    request = Request(machine.runtime.new_ref(), cause_of(task), AGENT, now)
    request.started_at = now
    machine.journal.accepted(request)
    machine.journal.started(request)
    outcome = Failed(Reason.INTERRUPTED, why)
    end_unrun(machine, [request], outcome, lambda ended: _tell(machine, ended, outcome))


def _tell(machine: Machine, request: Request, outcome: Failed) -> None:
    metadata = {"agent": machine.name, "ref": request.ref, "reason": outcome.reason, "detail": outcome.detail}
    machine.telemetry.execute(telemetry.PROMPT_ERROR, {"duration_s": 0.0}, metadata)


def cause_of(task: BackgroundTask) -> str:
    """Return what stands in the history for a background task that was cut off."""
    return f"{task.kind} in the background: {task.what}"
