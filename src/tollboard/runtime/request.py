"""One accepted prompt on its way through a mailbox and a turn. The machine and the turn write it, others only read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from tollboard.runtime.approval import Asked
from tollboard.runtime.event import Usage
from tollboard.runtime.results import Outcome

if TYPE_CHECKING:
    from asyncio import Future

OnComplete = Callable[[str, Outcome], None]


class Origin(StrEnum):
    """Where a request came from."""

    ASK = "ask"
    TELL = "tell"
    CHAIN = "chain"
    """A callback returned `Prompt`."""
    EVENT = "event"
    """`handle_event` returned `Prompt`."""
    AGENT = "agent"
    """Nobody asked: the agent began the turn by itself, and the prompt says why."""


# On the hot path the members are reached by these names: looking one up on its class costs as much as a call.
ASK, TELL, CHAIN, EVENT, AGENT = Origin


class OnHalt(StrEnum):
    """What becomes of a queued request when its agent is halted."""

    WAIT = "wait"
    FAIL = "fail"


WAIT, FAIL = OnHalt


def size_in_bytes(text: str) -> int:
    """Return the UTF-8 length; lone surrogates count three."""
    return len(text.encode("utf-8", "surrogatepass"))


class Request:
    """One accepted prompt and its way: ref, prompt, origin, attempts and times (Unix seconds).

    `commit` is what its acceptance waits for in the journal, `None` when nothing is remembered.
    """

    __slots__ = (
        "accepted_at", "asked", "attempt", "commit", "doomed", "future", "on_complete", "on_halt", "origin", "outcome",
        "prompt", "ref", "size", "spent", "started_at",
    )  # fmt: skip

    def __init__(
        self, ref: str, prompt: str, origin: Origin, accepted_at: float, on_halt: OnHalt = WAIT,
        on_complete: OnComplete | None = None, future: Future[Outcome] | None = None,
    ) -> None:  # fmt: skip
        self.ref = ref
        self.prompt = prompt
        self.origin = origin
        self.accepted_at = accepted_at
        self.on_halt = on_halt
        self.future = future
        self.on_complete = on_complete
        self.asked: dict[str, Asked] | None = None
        """What it asked people before a restart, by id; then its turn goes on, also in a mailbox that is halted."""
        self.doomed = False
        """Whether it is to be ended as soon as it is followed: a turn of the agent's own, interrupted before that."""
        self.attempt = 0
        self.size = len(prompt) if prompt.isascii() else size_in_bytes(prompt)
        self.started_at: float | None = None
        self.commit: Awaitable[None] | None = None
        self.outcome: Outcome | None = None
        self.spent: Usage | None = None
        """What the attempts that have ended used."""

    @property
    def needs_decision(self) -> bool:
        """Whether a question from before a restart is open that its turn has not asked again."""
        return any(question.open for question in (self.asked or {}).values())

    def __repr__(self) -> str:
        return f"<Request {self.ref} {self.origin.value} attempt={self.attempt}>"
