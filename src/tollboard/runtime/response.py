"""What a completed turn answers, and how a stream of events folds into it (R31, R32)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tollboard.runtime.event import Event, Usage


class Coverage(NamedTuple):
    """What the event log of a turn kept. `complete` is true when nothing was left out."""

    events_seen: int
    events_kept: int
    bytes_seen: int
    bytes_kept: int

    @property
    def complete(self) -> bool:
        """Return whether the log holds every event of the turn."""
        return self.events_seen == self.events_kept


@dataclass(frozen=True, slots=True)
class Response:
    """The answer of one turn. `text` is the terminal event's text, else the joined deltas.

    `progress` holds the messages before the last one, `final` the last one alone. `duration_s` is monotonic seconds.
    """

    text: str = field(repr=False)
    final: str = field(repr=False)
    progress: tuple[str, ...] = field(repr=False)
    events: tuple[Event, ...] = field(repr=False)
    usage: Usage | None
    duration_s: float
    provider_session_id: str | None
    bytes_kept: int = 0
    events_left_out: int = 0
    bytes_left_out: int = 0
    note: str = ""
    """What a reader has to be told about the answer, such as that its end is missing; empty: nothing."""

    @property
    def coverage(self) -> Coverage:
        """Return what the event log kept, from three numbers: an object more in each answer is one more to collect."""
        kept = len(self.events)
        return Coverage(
            kept + self.events_left_out, kept, self.bytes_kept + self.bytes_left_out, self.bytes_kept
        )
