"""Folding a turn's events into a `Response`: the bounded event log, text, usage (R31, R32)."""

from __future__ import annotations

from tollboard.runtime.event import TERMINAL, Event, ResultEvent, TextEvent, Usage, UsageEvent
from tollboard.runtime.options import AgentOptions, EventLog
from tollboard.runtime.response import Coverage, Response

EVENT_TYPES = frozenset(Event.__args__)


class EventLogOverflow(Exception):
    """The event log is full and may not leave anything out."""


class Fold:
    """What a turn's stream has come to so far."""

    __slots__ = ("_bytes_kept", "_bytes_seen", "_events", "_messages", "_name", "_options", "_pieces", "_seen",
                 "_text_kept", "_usage")  # fmt: skip

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._events: list[Event] = []
        self._seen = 0
        self._bytes_seen = 0
        self._bytes_kept = 0
        self._usage: Usage | None = None
        self._messages: list[str] | None = None
        self._name = ""
        self._pieces: list[str] = []
        self._text_kept = 0

    def add(self, event: Event) -> None:
        """Take the next event. Raises TypeError if it is none, EventLogOverflow in lossless mode."""
        kind = type(event)
        if kind not in EVENT_TYPES:
            raise TypeError(f"a backend may only yield events, not {kind.__name__}")
        size = event.size()
        self._seen += 1
        self._bytes_seen += size
        options = self._options
        if len(self._events) < options.max_events and self._bytes_kept + size <= options.max_event_bytes:
            self._events.append(event)
            self._bytes_kept += size
        elif options.event_log is EventLog.LOSSLESS and kind not in TERMINAL:
            raise EventLogOverflow(
                f"the turn's event log holds at most {options.max_events:,} events and {options.max_event_bytes:,} bytes"
            )
        if isinstance(event, TextEvent):
            self._text(event, size)
        elif isinstance(event, UsageEvent):
            self._usage = event.usage

    def _text(self, event: TextEvent, size: int) -> None:
        if event.message != self._name:
            if self._pieces:
                if self._messages is None:
                    self._messages = []
                self._messages.append("".join(self._pieces))
                self._pieces = []
            self._name = event.message
        # A million lines of output fold into a bounded text; the result event, if it has text, is taken whole.
        if self._text_kept + size <= self._options.max_event_bytes:
            self._pieces.append(event.text)
            self._text_kept += size

    def response(self, end: ResultEvent, duration_s: float, provider_session_id: str | None) -> Response:
        """Return the response that this stream, ended by `end`, comes to."""
        last = "".join(self._pieces)
        progress = tuple(self._messages) if self._messages is not None else ()
        text = end.text
        if text is None:
            text = last if not progress else "".join((*progress, last))
        return Response(
            text,
            last or text,
            progress,
            tuple(self._events),
            end.usage or self._usage,
            duration_s,
            provider_session_id,
            Coverage(self._seen, len(self._events), self._bytes_seen, self._bytes_kept),
        )
