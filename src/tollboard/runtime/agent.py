"""What a user writes: a `GenAgent` subclass with callbacks, and the few values they return.

    class Reviewer(GenAgent):
        def init_agent(self, **options):
            self.seen = 0
            return {"model": options["model"]}          # options for the backend

        def handle_response(self, ref, response):
            self.seen += 1
            return None if self.seen < 10 else Halt()

State lives on `self`. Callbacks may be plain or `async`; only `handle_stream_event` must be plain, because it runs
for every event. One callback of an agent runs at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field

from tollboard.runtime.event import Event
from tollboard.runtime.response import Response
from tollboard.runtime.results import Outcome, Reason


@dataclass(frozen=True, slots=True)
class Prompt:
    """Returned by a callback: run this prompt next. From a failed turn it is a retry (R25)."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Halt:
    """Returned by a callback: go idle and freeze the mailbox until `resume`; from `pre_turn` the request fails."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """Returned by `pre_turn`: do not run this prompt; the request fails with `skipped`."""

    reason: str = ""


Next = Prompt | Halt | None
NextOrAwaitable = Next | Awaitable[Next]


class GenAgent:
    """The callbacks of an agent. Every one has a default; override what you need."""

    __slots__ = ()

    def init_agent(
        self, **options: object
    ) -> Mapping[str, object] | None | Awaitable[Mapping[str, object] | None]:
        """Set up state and return the backend's options. Runs before `start_agent` returns; raising there fails it.

        The default passes every option on to the backend.
        """
        return options

    def pre_run(self) -> None | Awaitable[None]:
        """Run once, before the first turn and after `start_agent` has returned. Raising stops the agent."""

    def pre_turn(self, prompt: str) -> str | Skip | Halt | Awaitable[str | Skip | Halt]:
        """Return the prompt to run, rewritten or not, or `Skip(reason)` or `Halt()`. Raising skips the turn."""
        return prompt

    def handle_stream_event(self, event: Event) -> None:
        """See every event, in order, inside the turn. Must be plain. Raising fails the turn, never the agent."""

    def handle_response(self, ref: str, response: Response) -> NextOrAwaitable:
        """Decide what follows a completed turn. Raising fails that request with `callback_failed`."""
        return None

    def handle_error(self, ref: str, reason: Reason, detail: str) -> NextOrAwaitable:
        """Decide what follows a failed turn. `Prompt` retries the same request; after an interrupt it is a new one."""
        return None

    def post_turn(self, outcome: Outcome, ref: str) -> None | Awaitable[None]:
        """Run after the decision; cannot change it. Raising is logged."""

    def handle_event(self, event: object) -> NextOrAwaitable:
        """Handle a notification. Runs at once when idle, else after the turn. A `Prompt` goes to the mailbox's back."""
        return None

    def post_run(self) -> None | Awaitable[None]:
        """Run on every clean halt, before the `halted` telemetry event."""

    def terminate_agent(self, reason: str) -> None | Awaitable[None]:
        """Run last, when the agent is stopped or has crashed."""
