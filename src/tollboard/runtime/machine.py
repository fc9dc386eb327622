"""THE state machine of an agent: phases, flags, one synchronous method per input. `legal.py` has the table it obeys.

Rules:
1. Every change of an agent's phase and flags happens here or, inside a busy period, in `busy.py`; only what a field
   holds has a file of its own (mailbox, notifications, endings, approvals).
2. A method here never awaits and never calls user code.
3. The loop is the lock: a method runs to completion, so a check and the change that depends on it cannot be parted
   (E35: "is it busy?" and "then queue it" are one step).
4. An idle agent owns no task, no mailbox object and no future. A busy period owns one task, which runs turns until
   nothing is left to run. At most one lingering timer is shared by all turns of an agent.
5. Control never queues behind work: interrupt, halt, cancel, status and stop act at once, in any phase that allows
   them, and an interrupt acts on the turn it was meant for or on none (see `Turn.end`).
6. There is one door to halted (`freeze`), one ending of a request (`settle`), one way out of a busy period (`rest`).

    phase       may go to                 when
    IDLE        PROCESSING                a prompt or an event arrives, resume with a full mailbox
    PROCESSING  IDLE                      nothing is left that may run
    IDLE, PROCESSING  STOPPING            stop, drain once the turn ended, a crash
    STOPPING    DEAD                      everything that belonged to the agent has ended

`halted` and `draining` are flags beside the phase.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tollboard.errors import (
    AgentNotFound,
    Draining,
    NotCancellable,
    Overloaded,
    RequestNotFound,
    SessionHalted,
)
from tollboard.runtime import callbacks, telemetry
from tollboard.runtime.agent import GenAgent, Prompt
from tollboard.runtime.background import AgentHost
from tollboard.runtime.ending import Endings, end_unrun
from tollboard.runtime.journal import Journal, NullJournal
from tollboard.runtime.legal import LEGAL, Input
from tollboard.runtime.mailbox import Mailbox
from tollboard.runtime.request import AGENT, CHAIN, FAIL, TELL, Request
from tollboard.runtime.results import Failed, Reason
from tollboard.runtime.status import IDLE, PROCESSING, STOPPING

if TYPE_CHECKING:
    from tollboard.clock import Clock, Timer
    from tollboard.runtime.approvals import PendingApproval
    from tollboard.runtime.backend import Backend
    from tollboard.runtime.background_task import BackgroundTask
    from tollboard.runtime.notifications import Notifications
    from tollboard.runtime.options import AgentOptions
    from tollboard.runtime.runtime import Runtime
    from tollboard.runtime.subscription import Subscription
    from tollboard.runtime.turn import Turn


class Machine:
    """One agent."""

    __slots__ = (
        "agent", "alarm", "approvals", "asking", "backend", "background", "between", "clock", "draining", "endings",
        "halt_announced", "halted", "hooks", "host", "journal", "leaving", "mailbox", "name", "notifications",
        "options", "own", "phase", "pre_run_due", "provider_session_id", "remembers", "renew", "rested", "runtime",
        "session", "subscriptions", "task", "telemetry", "turn", "upnext",
    )  # fmt: skip

    def __init__(
        self, runtime: Runtime, name: str, agent: GenAgent, backend: Backend[Any], options: AgentOptions,
        journal: Journal,
    ) -> None:  # fmt: skip
        self.runtime = runtime
        self.clock: Clock = runtime.clock
        self.telemetry = runtime.telemetry
        self.name = name
        self.agent = agent
        self.hooks = callbacks.hooks_of(type(agent))
        self.backend = backend
        self.session: object = None
        self.host: AgentHost | None = None
        """What the session has to tell this agent by; that of an earlier session is not listened to any more."""
        self.provider_session_id: str | None = None
        self.renew: Callable[[], Awaitable[None]] | None = None
        """Called in each turn, before the backend gets the prompt: it may give the turn another conversation."""
        self.options = options
        self.journal = journal
        self.remembers = type(journal) is not NullJournal
        """Whether the journal keeps anything: where it does not, no turn pays for its calls."""
        self.phase = IDLE
        self.halted = False
        self.halt_announced = False
        self.draining = False
        self.pre_run_due = self.hooks.pre_run
        self.upnext: Request | None = None
        self.own: deque[Request] | None = None
        """Turns that the agent has begun by itself and nobody follows yet: they come before all else, halted or not."""
        self.background: tuple[BackgroundTask, ...] = ()
        self.mailbox: Mailbox | None = None
        self.leaving: dict[str, tuple[Request, asyncio.Task[None]]] | None = None
        """What ended without a turn and is being remembered as such: still pending for whoever asks."""
        self.notifications: Notifications | None = None
        self.turn: Turn | None = None
        self.task: asyncio.Task[None] | None = None
        self.alarm: Timer | None = None
        self.endings: Endings | None = None
        self.approvals: dict[str, PendingApproval] | None = None
        self.subscriptions: list[Subscription] | None = None
        self.asking: list[Machine] | None = None
        self.rested: asyncio.Future[None] | None = None
        self.between = False
        """Whether the busy period awaits a callback outside of any turn."""

    def __repr__(self) -> str:
        return f"<Machine {self.name!r} {self.phase.value}{' halted' if self.halted else ''}>"

    # -- prompts -------------------------------------------------------------------------------

    def accept(self, request: Request) -> None:
        """Take a request: start its turn if the agent is free, else queue it. Raises before anything is changed."""
        phase = self.phase
        if phase is not IDLE and phase is not PROCESSING:
            raise self.refusal(Input.PROMPT)
        if self.draining:
            self.rejected(Input.PROMPT, "draining")
            raise Draining(f"agent {self.name!r} is being drained and takes no new prompts")
        if self.halted and request.on_halt is FAIL:
            self.rejected(Input.PROMPT, "halted")
            raise SessionHalted(f"agent {self.name!r} is halted; resume it or let the prompt wait")
        options = self.options
        if request.size > options.max_queued_bytes:
            self.rejected(Input.PROMPT, "overloaded")
            raise Overloaded("mailbox", limit=options.max_queued_bytes, size=request.size, unit="bytes")
        if phase is IDLE and not self.halted and self.upnext is None and not self.mailbox:
            if self.remembers:
                request.commit = self.journal.accepted(request)
            self.upnext = request
            self.work()
            return
        self.queue(request)

    def begin_own_turn(self, cause: str) -> Request:
        """Take up a turn that the agent has begun by itself: it is under way, so it waits only for the one in flight.

        A halt does not keep it: what is frozen is the mailbox, and this turn runs already.
        """
        self.require(Input.OWN_TURN)
        request = Request(self.runtime.new_ref(), cause, AGENT, self.clock.time())
        if self.remembers:
            request.commit = self.journal.accepted(request)
        own = self.own = self.own or deque()
        own.append(request)
        self.runtime.refs[request.ref] = self
        if self.phase is IDLE:
            self.work()
        return request

    def queue(self, request: Request) -> None:
        """Put a request at the back of the mailbox."""
        options = self.options
        mailbox = self.mailbox
        if mailbox is None:
            mailbox = self.mailbox = Mailbox()
        try:
            mailbox.put(request, options.max_queued, options.max_queued_bytes)
        except Overloaded:
            self.rejected(Input.PROMPT, "overloaded")
            raise
        try:
            if self.remembers:
                request.commit = self.journal.accepted(request)
        except BaseException:
            mailbox.remove(request.ref)
            raise
        if self.telemetry.handlers:
            self.telemetry.execute(
                telemetry.MAILBOX_QUEUED,
                {"depth": len(mailbox), "bytes": mailbox.bytes},
                {"agent": self.name, "ref": request.ref},
            )

    def restore(self, requests: list[Request]) -> None:
        """Refill the mailbox at start-up with requests that were accepted before; bounds do not apply again."""
        if not requests:
            return
        if requests[0].asked is not None:
            self.upnext = requests.pop(0)
        mailbox = self.mailbox = self.mailbox or Mailbox()
        for request in requests:
            mailbox.items.append(request)
            mailbox.bytes += request.size

    def take(self) -> Request | None:
        """Return the next that may run: a turn of the agent's own, a self-chained one (R09), then the mailbox.

        None but the agent's own when halted.
        """
        if self.own:
            return self.own.popleft()
        if self.halted and not self.goes_on:
            return None
        request = self.upnext
        if request is not None:
            self.upnext = None
            return request
        mailbox = self.mailbox
        if mailbox is None or not mailbox.items:
            return None
        request = mailbox.take()
        if self.telemetry.handlers:
            self.telemetry.execute(
                telemetry.MAILBOX_TAKEN,
                {"depth": len(mailbox), "bytes": mailbox.bytes},
                {"agent": self.name, "ref": request.ref},
            )
        return request

    def chain(self, prompt: Prompt) -> None:
        """Let a prompt of the agent's own run before the mailbox; it has its own slot (R30)."""
        request = Request(self.runtime.new_ref(), prompt.text, CHAIN, self.clock.time())
        if self.draining:
            self.rejected(Input.PROMPT, "draining")
            return
        request.commit = self.journal.accepted(request)
        self.upnext = request

    def cancel(self, ref: str, reason: Reason = Reason.CANCELLED) -> Request:
        """Withdraw a queued request. Raises NotCancellable if it is in flight or done, RequestNotFound if unknown."""
        self.require(Input.CANCEL)
        # What `status` shows as in flight is in flight, also while its turn is only about to begin.
        if self.in_flight() == ref:
            raise NotCancellable(f"request {ref} is in flight: interrupt it instead")
        request = self.withdraw(ref, reason)
        if request is not None:
            return request
        if any(request.ref == ref for request in self.own or ()):
            raise NotCancellable(
                f"request {ref} is a turn that the agent began by itself: interrupt it instead"
            )
        if self.pending(ref) is not None or (self.endings is not None and ref in self.endings.results):
            raise NotCancellable(f"request {ref} is done")
        raise RequestNotFound(f"agent {self.name!r} has no request {ref}")

    def withdraw(self, ref: str, reason: Reason) -> Request | None:
        """Take a request that has not been dispatched out of the queue and end it; `None` if there is none."""
        request = self.upnext
        if request is not None and request.ref == ref:
            self.upnext = None
        else:
            request = self.mailbox.remove(ref) if self.mailbox is not None else None
            if request is None:
                return None
        end_unrun(self, [request], Failed(reason))
        return request

    def resolve(self, request: Request, outcome: Any) -> None:
        """Deliver the one outcome of a request to whoever waits for it. Its journal entry is durable by now."""
        request.outcome = outcome
        future = request.future
        if future is not None:
            if not future.done():
                future.set_result(outcome)
        elif request.origin is TELL or request.origin is AGENT:
            endings = self.endings
            if endings is None:
                endings = self.endings = Endings(self)
            endings.deliver(request, outcome)
        if self.subscriptions is not None:
            for subscription in tuple(self.subscriptions):
                subscription.ended(request.ref, outcome)

    def pending(self, ref: str) -> Request | None:
        """Return the request if it is in flight or queued."""
        if self.turn is not None and self.turn.ref == ref:
            return self.turn.request
        if self.upnext is not None and self.upnext.ref == ref:
            return self.upnext
        for request in self.own or ():
            if request.ref == ref:
                return request
        for request in self.mailbox or ():
            if request.ref == ref:
                return request
        if self.leaving is not None and (leaving := self.leaving.get(ref)) is not None:
            return leaving[0]
        return None

    def waits_upnext(self) -> int:
        """Return 1 if a request stands before the mailbox and cannot go on because the agent is halted, else 0."""
        return 1 if self.upnext is not None and self.halted and not self.goes_on else 0

    @property
    def goes_on(self) -> bool:
        """Whether what stands before the mailbox is a turn that a restart cut off: it is in flight, halted or not."""
        return self.upnext is not None and self.upnext.asked is not None

    @property
    def needs_decision(self) -> bool:
        """Whether a person is waited for; also by a turn that a restart cut off, before it has asked again."""
        if self.approvals:
            return True
        request = self.turn.request if self.turn is not None else self.upnext
        return request is not None and request.needs_decision

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return self.waits_upnext() + (len(self.mailbox) if self.mailbox is not None else 0)

    def in_flight(self) -> str | None:
        """Return the ref of the turn in flight, or of the one that is about to begin."""
        if self.turn is not None:
            return self.turn.ref
        if self.own and self.phase is PROCESSING:
            return self.own[0].ref
        if self.upnext is not None and self.phase is PROCESSING and (not self.halted or self.goes_on):
            return self.upnext.ref
        return None

    # -- control -------------------------------------------------------------------------------

    def interrupt(self, ref: str | None) -> bool:
        """End the turn in flight, if it is the one meant; return whether it did (R14)."""
        self.require(Input.INTERRUPT)
        turn = self.turn
        if turn is None:
            return self._interrupt_upnext(ref)
        if ref is not None and turn.ref != ref:
            return False
        return turn.end(Failed(Reason.INTERRUPTED))

    def _interrupt_upnext(self, ref: str | None) -> bool:
        """End the request that found the agent idle and whose turn is about to begin: it counts as in flight (R01).

        A self-chained one is the next turn already: only an interrupt that names it may have it (R14).
        """
        if self.own:
            # It runs already, where nothing is withdrawn: it is ended as soon as it is followed.
            meant = self.own[0].ref == (ref or self.own[0].ref)
            self.own[0].doomed |= meant
            return meant
        request = self.upnext
        if request is None or self.halted or request.ref != (ref or request.ref):
            return False
        if ref is None and request.origin is CHAIN:
            return False
        return self.withdraw(request.ref, Reason.INTERRUPTED) is not None

    def halt(self) -> bool:
        """Freeze the mailbox, now or after the turn in flight; return whether this froze it, and it is frozen now.

        Who hears of it may resume at once; then this returns False.
        """
        self.require(Input.HALT)
        if not self.freeze():
            return False
        if self.phase is IDLE:
            self.announce_halt()
        return self.halted

    def freeze(self) -> bool:
        """Set the flag: the one door to halted. What asked to fail rather than wait ends here.

        Return whether this froze it, and it is frozen now: the end of a request calls its `on_complete`, which may
        resume the agent. That comes last, when nothing is left to change.
        """
        if self.halted:
            return False
        self.halted = True
        self.halt_announced = False
        self.journal.halted(True)
        # E04: before anything else is queued, so that doomed prompts hold no capacity.
        end_unrun(self, self._take_doomed(), Failed(Reason.HALTED))
        return self.halted

    def _take_doomed(self) -> list[Request]:
        """Take what asked to fail rather than wait out of the queue, oldest first."""
        doomed = []
        if self.upnext is not None and self.upnext.on_halt is FAIL:
            doomed.append(self.upnext)
            self.upnext = None
        for request in [one for one in self.mailbox or () if one.on_halt is FAIL]:
            assert self.mailbox is not None
            self.mailbox.remove(request.ref)
            doomed.append(request)
        return doomed

    def announce_halt(self) -> None:
        """Run `post_run` and emit `halted`, once for each clean halt; an awaitable hook moves into a busy period."""
        if self.hooks.post_run:
            self.work()
            return
        self.halt_announced = True
        self.emit_halted()

    def emit_halted(self) -> None:
        """Emit `halted`."""
        self.telemetry.execute(telemetry.HALTED, {"queued": self.queued}, {"agent": self.name})

    def resume(self) -> bool:
        """Release the mailbox; return whether this released it, and it is not frozen now.

        During a turn it calls a pending halt off (E25).
        """
        self.require(Input.RESUME)
        if not self.halted:
            return False
        self.halted = False
        self.halt_announced = False
        self.journal.halted(False)
        queued = self.queued + (self.upnext is not None)
        self.telemetry.execute(telemetry.RESUMED, {"queued": queued}, {"agent": self.name})
        if not self.halted and self.phase is IDLE and (self.upnext is not None or self.mailbox):
            self.work()
        return not self.halted

    # -- life ----------------------------------------------------------------------------------

    def work(self) -> None:
        """Begin a busy period."""
        self.phase = PROCESSING
        if self.telemetry.handlers:
            self._state_changed("idle", "processing")
        self.runtime.scheduler.start(self)

    def rest(self) -> None:
        """Leave the busy period: nothing is left that may run."""
        self.phase = IDLE
        self.task = None
        self.turn = None
        self.own = None
        if not self.mailbox:
            self.mailbox = None
        if self.telemetry.handlers:
            self._state_changed("processing", "idle")

    def rest_after_reset(self) -> None:
        """End the phase in which the backend session was exchanged, and go on with what came meanwhile (R42)."""
        if self.phase is PROCESSING:
            self.rest()
        if self.rested is not None and not self.rested.done():
            self.rested.set_result(None)
        due = self.mailbox if not self.halted else not self.halt_announced
        if self.phase is IDLE and (due or self.notifications or self.own):
            self.work()

    def stop(self) -> None:
        """Refuse everything from now on and end the turn in flight. The runtime does the rest."""
        self.require(Input.STOP)
        if self.phase is STOPPING:
            return
        idle = self.phase is IDLE
        self.phase = STOPPING
        if idle:
            return
        if self.rested is None or self.rested.done():
            self.rested = asyncio.get_running_loop().create_future()
        if self.turn is not None:
            self.turn.stop()
        elif self.between and self.task is not None:
            self.task.cancel()

    def drain(self) -> list[Request]:
        """Refuse new work and return everything that was queued, to be failed; the turn in flight goes on.

        So do turns that the agent has begun by itself: they are in flight where it runs.
        """
        self.require(Input.DRAIN)
        self.draining = True
        if self.phase is PROCESSING and (self.rested is None or self.rested.done()):
            self.rested = asyncio.get_running_loop().create_future()
        own, self.own = self.own, None
        queued, self.own = self.take_all(), own
        return queued

    def leave(self) -> bool:
        """Let go of a turn that waits for people and can go on in another life; return whether there was one."""
        return self.turn is not None and self.turn.leave()

    def suspend(self) -> None:
        """Take nothing more, and forget the queue without ending it: what is durable runs after the next start."""
        self.drain()

    def take_all(self) -> list[Request]:
        """Empty the queue and return what was in it, oldest first."""
        requests = list(self.own or ())
        if self.upnext is not None:
            requests.append(self.upnext)
        requests.extend(self.mailbox or ())
        self.upnext = self.own = None
        self.mailbox = None
        return requests

    def require(self, input: Input) -> None:
        """Raise unless this input is legal in this phase."""
        if self.phase not in LEGAL[input]:
            raise self.refusal(input)

    def refusal(self, input: Input) -> AgentNotFound:
        """Return the error for an input in a phase that does not allow it."""
        self.rejected(input, self.phase.value)
        return AgentNotFound(f"agent {self.name!r} is {self.phase.value}: it does not take {input.value!r}")

    def rejected(self, input: Input, reason: str) -> None:
        """Emit that an input was refused."""
        self.telemetry.execute(
            telemetry.INPUT_REJECTED, {}, {"agent": self.name, "input": input.value, "reason": reason}
        )

    def _state_changed(self, before: str, after: str) -> None:
        self.telemetry.execute(telemetry.STATE_CHANGED, {}, {"agent": self.name, "from": before, "to": after})

    def listen(self) -> None:
        """Let the backend session tell this agent what happens between prompts. Again for each new session."""
        self.host = AgentHost(self)
        self.backend.listen(self.session, self.host)

    # -- the watchdog --------------------------------------------------------------------------

    def watch(self, delay_s: float) -> None:
        """Make sure the alarm rings within `delay_s`. One timer serves many turns: it is never moved, only re-armed."""
        if self.alarm is None:
            self.alarm = self.clock.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self.alarm = None
        if self.turn is not None:
            self.turn.check_deadline()
