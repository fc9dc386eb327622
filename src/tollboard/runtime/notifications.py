"""What agents are told besides prompts: handled at once when idle, else kept, bounded, for later (R28, R29)."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from tollboard.errors import Crash, Overloaded, TollboardError
from tollboard.runtime import callbacks
from tollboard.runtime.agent import Halt, Prompt
from tollboard.runtime.callbacks import Begun, Raised
from tollboard.runtime.legal import Input
from tollboard.runtime.request import EVENT, Request
from tollboard.runtime.status import IDLE

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine
    from tollboard.runtime.options import AgentOptions


class Notifications:
    """The events that one agent has still to handle. Exists only while there are some."""

    __slots__ = ("bytes", "events")

    def __init__(self) -> None:
        self.bytes = 0
        self.events: list[object] = []

    def __len__(self) -> int:
        return len(self.events)

    def put(self, event: object, options: AgentOptions) -> None:
        """Append an event; raise Overloaded, with nothing changed, when a bound would be passed."""
        size = self.bytes + (len(event) if isinstance(event, str | bytes) else sys.getsizeof(event))
        count = len(self.events) + 1
        if count > options.max_notifications:
            raise Overloaded(
                "notification buffer", limit=options.max_notifications, size=count, unit="events"
            )
        if size > options.max_notification_bytes:
            raise Overloaded(
                "notification buffer", limit=options.max_notification_bytes, size=size, unit="bytes"
            )
        self.events.append(event)
        self.bytes = size


def notify(machine: Machine, event: object) -> None:
    """Handle an event now if the agent is idle, else keep it for after the turn. Raises Overloaded (R28-R30)."""
    machine.require(Input.NOTIFY)
    hooks = machine.hooks
    if not hooks.handle_event:
        return
    if machine.phase is IDLE and not hooks.handle_event_waits and callbacks.current.get() is not machine:
        _handle_now(machine, event)
        return
    kept = machine.notifications or Notifications()
    try:
        kept.put(event, machine.options)
    except Overloaded:
        machine.rejected(Input.NOTIFY, "overloaded")
        raise
    machine.notifications = kept
    if machine.phase is IDLE:
        machine.work()


def _handle_now(machine: Machine, event: object) -> None:
    """Call `handle_event` of an idle agent. What it turns out to await is awaited in a busy period."""
    token = callbacks.current.set(machine)
    try:
        value = callbacks.call(machine, "handle_event", machine.agent.handle_event, event)
    except Crash as exc:
        # Not the notifier's failure: the agent dies of it, as in any other callback.
        machine.runtime.crashed(machine, str(exc))
        return
    finally:
        callbacks.current.reset(token)
    if not isinstance(value, Awaitable):
        apply(machine, value)
        return
    kept = machine.notifications = machine.notifications or Notifications()
    kept.events.insert(0, Begun(value))
    if machine.phase is IDLE:
        machine.work()


def apply(machine: Machine, value: object) -> None:
    """Apply what `handle_event` returned: a prompt goes to the back of the mailbox, a halt freezes (R28)."""
    match callbacks.as_next(machine, "handle_event", value):
        case Prompt(text):
            request = Request(machine.runtime.new_ref(), text, EVENT, machine.clock.time())
            try:
                machine.accept(request)
            except TollboardError as exc:
                callbacks.report(machine, Raised("handle_event", f"returned a prompt, refused: {exc.code}"))
        case Halt():
            if machine.freeze() and machine.phase is IDLE:
                machine.announce_halt()


def drop(machine: Machine) -> None:
    """Forget the events that wait: the agent ends and nobody will handle them."""
    kept, machine.notifications = machine.notifications, None
    for event in kept.events if kept is not None else ():
        if isinstance(event, Begun):
            event.drop()
