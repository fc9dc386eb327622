"""One turn as an object: what the backend sees of it, what can end it early, its watchdog. `busy` runs it.

How an interrupt cannot hit the wrong turn: `Turn.end` records the outcome on the turn object, and cancels the task
only while the task is suspended inside that turn's own stream or `pre_turn`. asyncio delivers such a cancel at exactly
that suspension point, which lies inside the turn. A stream that is being closed is left alone (`CLOSE`): its outcome
is known, and a cancel would cut the cleaning up that ends what the turn started; only the watchdog does that, which
runs anew for what cleans up after a turn that was ended early. When the task is running (a callback interrupts itself)
the cancel is posted for the next time it suspends, and dropped if the turn has left its stream by then (E06, R14). Once
the outcome is known only an awaitable callback may be cancelled (`in_callback`): anything else the busy period waits
for then (a slot, a commit) is its own, and a cancel there would be taken for one from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING

from tollboard.errors import StoreError
from tollboard.runtime import telemetry
from tollboard.runtime.approval import ApprovalRequest, Decision
from tollboard.runtime.approvals import ask_person, asks
from tollboard.runtime.event import Usage
from tollboard.runtime.memory import Memory
from tollboard.runtime.request import Request
from tollboard.runtime.results import Failed, Reason
from tollboard.runtime.sub_agents import SubAgentNews

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine


class Stage(IntEnum):
    """How far a turn has come. Up to STREAM it can still be ended early."""

    PRE_TURN = 0
    COMMIT = 1
    STREAM = 2
    CLOSE = 3
    DECIDE = 4
    OVER = 5


PRE_TURN, COMMIT, STREAM, CLOSE, DECIDE, OVER = Stage


class Turn:
    """One attempt at a request: what the backend sees of it, and what can end it."""

    __slots__ = (
        "_cancels", "_deadline", "_last_event", "_still_since", "announced", "attempt", "began", "callback_expired",
        "ending", "in_callback", "left", "machine", "no_retry", "ref", "request", "seen", "spent_before",
        "stage", "usage",
    )  # fmt: skip

    def __init__(self, machine: Machine, request: Request, now: float) -> None:
        self.machine = machine
        self.request = request
        self.ref = request.ref
        self.attempt = request.attempt
        self.stage = PRE_TURN
        self.began = now
        self.seen = 0
        self.ending: Failed | None = None
        self.usage: Usage | None = None
        self.spent_before = request.spent
        self.announced = self.in_callback = self.callback_expired = self.no_retry = self.left = False
        self._cancels = 0
        self._deadline = now + machine.options.watchdog_s
        self._last_event = now
        self._still_since: float | None = None

    # -- what the backend sees (runtime.backend.Turn) ----------------------------------------------

    async def request_approval(self, request: ApprovalRequest) -> Decision:
        """Wait for a person to decide."""
        return await ask_person(self, request)

    @property
    def memory(self) -> Memory | None:
        """Return what the session remembers from turn to turn, `None` when nothing is."""
        return self.machine.journal.memory()

    async def checkpoint(self, provider_session_id: str, effective: Mapping[str, str] | None = None) -> None:
        """Make the conversation's id durable (R34, E19). A turn that is over checkpoints nothing (E08)."""
        machine = self.machine
        if self.over or (effective is None and machine.provider_session_id == provider_session_id):
            return
        before, machine.provider_session_id = machine.provider_session_id, provider_session_id
        commit = machine.journal.checkpointed(provider_session_id, effective)
        if commit is not None:
            try:
                await commit
            except StoreError:
                # Or the next turn, which sees the same id, would take it for durable.
                machine.provider_session_id = before
                raise
        machine.telemetry.execute(
            telemetry.CHECKPOINTED,
            {},
            {"agent": machine.name, "provider_session_id": provider_session_id, "effective": effective},
        )

    def sub_agent(self, news: SubAgentNews) -> None:
        """Keep what is told of an agent below. One that goes on in another life has not ended with this turn (A30)."""
        if not self.left:
            self.machine.journal.sub_agent(self.ref, news)

    def report_usage(self, usage: Usage) -> None:
        """Note what this attempt has used so far; also when it is over (L08)."""
        self.usage = usage
        total = self.spent()
        if self.machine.remembers and total is not None:
            _ = self.machine.journal.used(self.request, total)

    def spent(self) -> Usage | None:
        """Return what the request has used so far, with the attempts before this one."""
        return self.spent_before if self.usage is None else self.usage.plus(self.spent_before)

    # -- ending it early ---------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether the backend has nothing more to say in this turn."""
        return self.stage >= CLOSE or self.ending is not None

    def end(self, outcome: Failed) -> bool:
        """End the turn with this outcome unless its outcome is known already; return whether it did."""
        if self.stage >= CLOSE:
            if self.stage < OVER and self.ending is None and self.machine.hooks.handle_error:
                self.no_retry = True
            return False
        if self.left:
            return False  # it goes on in another life: nothing has ended it
        if self.ending is None:
            self.ending = outcome
            self._still_since = None
            self._watch_cleaning_up()
            self._cancel()
        return True

    def leave(self) -> bool:
        """Let go of a turn that waits for people, without an outcome: it goes on when its agent is brought back."""
        if self.stage is not STREAM or self.ending is not None or not asks(self):
            return False
        if not self.machine.backend.goes_on:
            return False
        self.left = self.end(Failed(Reason.STOPPED))
        return self.left

    def stop(self) -> None:
        """End the turn because its agent stops: also out of a callback that is still deciding."""
        if self.stage < CLOSE:
            self.end(Failed(Reason.STOPPED))
        elif self.in_callback:
            self._cancel()

    def _cancel(self) -> None:
        task = self.machine.task
        if task is None or self.stage is COMMIT:
            return  # not interruptible there: it looks at `ending` when the commit is done
        if task is asyncio.current_task():
            asyncio.get_running_loop().call_soon(self._cancel_later, self.stage)
            return
        self._cancels += 1
        task.cancel()

    def cancel_if_ended(self) -> None:
        """Cancel the stream that is about to be read, if the turn was ended before: it runs elsewhere already."""
        if self.ending is not None:
            self._cancel()

    def _cancel_later(self, stage: Stage) -> None:
        still_there = self.stage is stage and (stage < DECIDE or self.in_callback)
        if still_there and self.machine.turn is self and self.machine.task is not None:
            self._cancels += 1
            self.machine.task.cancel()

    def absorb_cancel(self) -> None:
        """Take back the cancellations that this turn sent, so that the busy period goes on."""
        while self._cancels:
            self._cancels -= 1
            if self.machine.task is not None:
                self.machine.task.uncancel()

    # -- the watchdog ------------------------------------------------------------------------------

    def enter_callback(self) -> None:
        """Give an awaitable callback, once the outcome is known, a watchdog of its own."""
        if self.stage >= DECIDE:
            self.in_callback, self.callback_expired = True, False
            self._deadline = self.machine.clock.monotonic() + self.machine.options.watchdog_s
            self.machine.watch(self.machine.options.watchdog_s)

    def leave_callback(self) -> None:
        """Note that nothing is left that may be cancelled."""
        self.in_callback = False

    def check_deadline(self) -> None:
        """End what has run too long, or set the alarm again. Called by the machine's alarm."""
        if self._still_since is not None:
            return  # `go_on` sets the alarm again
        now = self.machine.clock.monotonic()
        options = self.machine.options
        due, why = self._deadline, f"the turn ran longer than {options.watchdog_s:g} s"
        if options.silence_s is not None and self.stage is STREAM and self.ending is None:
            silent_until = self._last_event + options.silence_s
            if silent_until < due:
                due, why = silent_until, f"no event for {options.silence_s:g} s"
        if now < due:
            delay = due - now
            if options.silence_s is not None:
                delay = min(delay, options.silence_s)
            self.machine.watch(delay)
        elif self.stage < DECIDE:
            if self.ending is None:
                self.ending = Failed(Reason.TIMEOUT, why)
            self._watch_cleaning_up()
            self._cancel()
        elif self.in_callback:
            self.callback_expired = True
            self._cancel()

    def _watch_cleaning_up(self) -> None:
        """Give what cleans up after an ended turn a watchdog of its own: if it hangs, it holds the agent for ever."""
        self._deadline = self.machine.clock.monotonic() + self.machine.options.watchdog_s
        self.machine.watch(self.machine.options.watchdog_s)

    def stand_still(self) -> None:
        """Stop the watchdog's clock: a person is being asked (R16)."""
        self._still_since = self.machine.clock.monotonic()

    def go_on(self) -> None:
        """Let the watchdog's clock run on from where it stood."""
        if self._still_since is None:
            return
        now = self.machine.clock.monotonic()
        stood = now - self._still_since
        self._still_since = None
        self._deadline += stood
        self._last_event = min(self._last_event + stood, now)  # it may have said something meanwhile
        self.check_deadline()

    def heard(self) -> None:
        """Note that an event arrived; only called when silence is limited."""
        self._last_event = self.machine.clock.monotonic()
