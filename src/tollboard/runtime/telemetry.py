"""Telemetry: named events that anyone may watch and that no handler can disturb (R37, R38).

`turn` events carry no content and are what metrics use; `prompt` and `event` events carry content. Durations are
monotonic seconds. OpenTelemetry, the fleet's tail and the pool's autoscaler are handlers, not part of the core.

| event | measurements | metadata |
|---|---|---|
| agent started | | agent |
| agent stopped | | agent, reason |
| agent crashed | | agent, reason |
| agent state changed | | agent, from, to |
| agent halted / agent resumed | queued | agent |
| agent mailbox queued / agent mailbox taken | depth, bytes | agent, ref |
| agent input rejected | | agent, input, reason |
| agent prompt start | | agent, ref, attempt, origin, prompt, original, rewritten |
| agent prompt stop | duration_s | agent, ref, response |
| agent prompt error | duration_s | agent, ref, reason, detail |
| agent turn start | attempt | agent, ref, origin |
| agent turn stop | duration_s, events | agent, ref, usage |
| agent turn error | duration_s | agent, ref, reason, retried |
| agent turn rejected | | agent, ref, origin, reason |
| agent event received | | agent, ref, event |
| agent approval requested | | agent, ref, approval |
| agent approval decided | waited_s | agent, ref, approval, decision, by |
| agent callback failed | | agent, callback, error |
| agent background changed | running | agent, running |
| agent session checkpointed | | agent, provider_session_id, effective |
| telemetry handler failed | | id, event, error |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from tollboard.errors import Invalid

logger = logging.getLogger("tollboard.runtime")

EventName = tuple[str, ...]
Measurements = Mapping[str, float]
Metadata = Mapping[str, object]
Handler = Callable[[EventName, Measurements, Metadata], None]

AGENT_STARTED = ("agent", "started")
AGENT_STOPPED = ("agent", "stopped")
AGENT_CRASHED = ("agent", "crashed")
STATE_CHANGED = ("agent", "state", "changed")
HALTED = ("agent", "halted")
RESUMED = ("agent", "resumed")
MAILBOX_QUEUED = ("agent", "mailbox", "queued")
MAILBOX_TAKEN = ("agent", "mailbox", "taken")
INPUT_REJECTED = ("agent", "input", "rejected")
PROMPT_START = ("agent", "prompt", "start")
PROMPT_STOP = ("agent", "prompt", "stop")
PROMPT_ERROR = ("agent", "prompt", "error")
TURN_START = ("agent", "turn", "start")
TURN_STOP = ("agent", "turn", "stop")
TURN_ERROR = ("agent", "turn", "error")
TURN_REJECTED = ("agent", "turn", "rejected")
EVENT_RECEIVED = ("agent", "event", "received")
APPROVAL_REQUESTED = ("agent", "approval", "requested")
APPROVAL_DECIDED = ("agent", "approval", "decided")
CALLBACK_FAILED = ("agent", "callback", "failed")
BACKGROUND_CHANGED = ("agent", "background", "changed")
CHECKPOINTED = ("agent", "session", "checkpointed")
HANDLER_FAILED = ("telemetry", "handler", "failed")

ALL_EVENTS: tuple[EventName, ...] = (
    AGENT_STARTED, AGENT_STOPPED, AGENT_CRASHED, STATE_CHANGED, HALTED, RESUMED, MAILBOX_QUEUED, MAILBOX_TAKEN,
    INPUT_REJECTED, PROMPT_START, PROMPT_STOP, PROMPT_ERROR, TURN_START, TURN_STOP, TURN_ERROR, TURN_REJECTED,
    EVENT_RECEIVED, APPROVAL_REQUESTED, APPROVAL_DECIDED, CALLBACK_FAILED, BACKGROUND_CHANGED, CHECKPOINTED,
    HANDLER_FAILED,
)  # fmt: skip


class Telemetry:
    """A table of handlers by event. `handlers` is public so that the hot path can skip building what nobody reads."""

    __slots__ = ("_attached", "handlers")

    def __init__(self) -> None:
        self.handlers: dict[EventName, tuple[tuple[str, Handler], ...]] = {}
        self._attached: dict[str, tuple[EventName, ...]] = {}

    def attach(self, id: str, events: Iterable[EventName], handler: Handler) -> None:
        """Call `handler` for each of the events from now on. Raises Invalid if the id is in use."""
        if id in self._attached:
            raise Invalid(f"a telemetry handler {id!r} is attached already; detach it first")
        names = tuple(events)
        self._attached[id] = names
        for name in names:
            self.handlers[name] = (*self.handlers.get(name, ()), (id, handler))

    def detach(self, id: str) -> bool:
        """Remove a handler; return whether it was there."""
        names = self._attached.pop(id, None)
        for name in names or ():
            kept = tuple(pair for pair in self.handlers.get(name, ()) if pair[0] != id)
            if kept:
                self.handlers[name] = kept
            else:
                self.handlers.pop(name, None)
        return names is not None

    def execute(self, event: EventName, measurements: Measurements, metadata: Metadata) -> None:
        """Call every handler of the event. One that raises is detached and reported; the caller never notices."""
        for id, handler in self.handlers.get(event, ()):
            try:
                handler(event, measurements, metadata)
            except Exception as exc:
                self.detach(id)
                # The message may quote a prompt: name the type only (R49).
                logger.error(
                    "telemetry handler %r raised %s on %s and was detached", id, type(exc).__name__, event
                )
                if event != HANDLER_FAILED:
                    self.execute(HANDLER_FAILED, {}, {"id": id, "event": event, "error": type(exc).__name__})

    @contextmanager
    def span(self, prefix: EventName, metadata: Metadata) -> Iterator[None]:
        """Execute `(*prefix, "start")`, then `stop` or `error` with `duration_s` around the block."""
        self.execute((*prefix, "start"), {}, metadata)
        began = time.monotonic()
        try:
            yield
        except BaseException as exc:
            took = {"duration_s": time.monotonic() - began}
            self.execute((*prefix, "error"), took, {**metadata, "error": type(exc).__name__})
            raise
        self.execute((*prefix, "stop"), {"duration_s": time.monotonic() - began}, metadata)
