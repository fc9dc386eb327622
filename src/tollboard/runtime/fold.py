"""Folding a turn's events into a `Response`: the bounded event log, text, usage (R31, R32)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from tollboard.runtime.event import (
    TERMINAL,
    Event,
    ResultEvent,
    TextEvent,
    ToolUseEvent,
    Usage,
    UsageEvent,
)
from tollboard.runtime.options import AgentOptions, EventLog
from tollboard.runtime.response import Response

EVENT_TYPES = frozenset(Event.__args__)


class EventLogOverflow(Exception):
    """The event log is full and may not leave anything out."""


class Fold:
    """What a turn's stream has come to so far."""

    __slots__ = ("_bytes_kept", "_bytes_left_out", "_events", "_left_out", "_messages", "_name", "_options", "_pieces",
                 "_text_size", "_usage")  # fmt: skip

    def __init__(self, options: AgentOptions) -> None:
        self._options = options
        self._events: list[Event] = []
        self._bytes_kept = 0
        self._left_out = 0
        self._bytes_left_out = 0
        self._usage: Usage | None = None
        self._messages: list[str] | None = None
        self._name = ""
        self._pieces: list[str] = []
        self._text_size = 0

    @property
    def acted(self) -> bool:
        """Return whether tools were called, as far as the log has it; a log that left things out is taken for yes."""
        return self._left_out > 0 or any(type(event) is ToolUseEvent for event in self._events)

    def add(self, event: Event) -> None:
        """Take the next event. Raises TypeError if it is none, EventLogOverflow in lossless mode."""
        kind = type(event)
        if kind not in EVENT_TYPES:
            raise TypeError(f"a backend may only yield events, not {kind.__name__}")
        size = event.size()
        kept = self._bytes_kept + size
        events = self._events
        options = self._options
        if kept <= options.max_event_bytes and len(events) < options.max_events:
            events.append(event)
            self._bytes_kept = kept
        else:
            self._leave_out(kind, size)
        if kind is TextEvent:
            self._text(event, size)  # type: ignore[arg-type] # its kind says so
        elif kind is UsageEvent:
            self._usage = event.usage  # type: ignore[union-attr] # its kind says so

    def _leave_out(self, kind: type[Event], size: int) -> None:
        options = self._options
        if options.event_log is EventLog.LOSSLESS and kind not in TERMINAL:
            limits = f"{options.max_events:,} events and {options.max_event_bytes:,} bytes"
            raise EventLogOverflow(f"the turn's event log holds at most {limits}")
        self._left_out += 1
        self._bytes_left_out += size

    def _text(self, event: TextEvent, size: int) -> None:
        if event.message != self._name:
            if self._pieces:
                if self._messages is None:
                    self._messages = []
                self._messages.append("".join(self._pieces))
                self._pieces = []
            self._name = event.message
        # A million lines of output fold into a bounded text; the result event, if it has text, is taken whole.
        whole = self._text_size + size
        if whole <= self._options.max_event_bytes:
            self._pieces.append(event.text)
        elif (room := self._options.max_event_bytes - self._text_size) > 0:
            self._pieces.append(event.text[:room])
        # Counted though it was left out: what is kept is a beginning, not a text with holes in it.
        self._text_size = whole

    def response(self, end: ResultEvent, duration_s: float, provider_session_id: str | None) -> Response:
        """Return the response that this stream, ended by `end`, comes to."""
        last = "".join(self._pieces)
        progress = tuple(self._messages) if self._messages is not None else ()
        text = end.text
        if text is None:
            text = last if not progress else "".join((*progress, last))
        draft: Any = _Draft()
        draft.text = text
        draft.final = last or text
        draft.progress = progress
        draft.events = tuple(self._events)
        draft.usage = end.usage or self._usage
        draft.duration_s = duration_s
        draft.provider_session_id = provider_session_id
        draft.bytes_kept = self._bytes_kept
        draft.events_left_out = self._left_out
        draft.bytes_left_out = self._bytes_left_out
        draft.note = end.note
        draft.__class__ = Response
        response: Response = draft
        return response


class _Draft:
    """A response that is being written: every turn makes one, and a frozen class pays a call for each of its fields."""

    __slots__ = tuple(field.name for field in fields(Response))
