"""A task on its way through a pool. The crew and the pool write it; everybody else gets the frozen `TaskResult`."""

from __future__ import annotations

from collections.abc import Callable

from tollboard.pool.records import STATUS_OF, TaskResult, TaskStatus
from tollboard.runtime.event import Usage
from tollboard.runtime.results import Completed, Outcome, Reason


class PoolTask:
    """One accepted task: what was asked, where it is, how it ended.

    It is kept as the result too, so it holds no request, response or future: the garbage collector would walk those.
    """

    __slots__ = (
        "attempt", "completed_at", "detail", "duration_s", "ended", "hint_s", "index", "listener", "prompt", "reason",
        "recalled", "recorded", "ref", "role", "size", "started_at", "submitted_at", "text", "usage", "withdrawn",
        "worker",
    )  # fmt: skip

    def __init__(
        self, ref: str, prompt: str, role: str, hint_s: float | None, size: int, submitted_at: float
    ) -> None:
        self.ref = ref
        self.prompt = prompt
        self.role = role
        self.hint_s = hint_s
        self.size = size
        self.submitted_at = submitted_at
        self.index = -1
        self.attempt = 0
        self.worker: str | None = None
        self.started_at: float | None = None
        self.ended = False
        self.withdrawn = False
        """It waits in a queue but is not to be run: whoever takes it out drops it."""
        self.recalled = False
        """It goes back from a halted worker's mailbox to the others."""
        self.recorded = False
        """The journal knows how it ended."""
        self.listener: Callable[[PoolTask], None] | None = None
        self.text = ""
        self.reason: Reason | None = None

    completed_at: float
    detail: str
    duration_s: float
    usage: Usage | None

    def __repr__(self) -> str:
        return f"<PoolTask {self.ref} attempt={self.attempt}{' ended' if self.ended else ''}>"

    def close(self, outcome: Outcome, now: float) -> None:
        """Take over how it ended."""
        self.completed_at = now
        if isinstance(outcome, Completed):
            response = outcome.response
            self.text = response.text.strip()
            self.usage = response.usage
            self.duration_s = response.duration_s
            self.detail = ""
            self.reason = None
        else:
            self.reason = outcome.reason
            self.detail = outcome.detail
            self.usage = None
            self.duration_s = 0.0 if self.started_at is None else max(0.0, now - self.started_at)

    @property
    def ok(self) -> bool:
        """Return whether it ended with an answer."""
        return self.reason is None

    def weight(self) -> int:
        """Return roughly how many bytes keeping it costs."""
        return len(self.prompt) + len(self.text) + len(self.detail)

    def result(self) -> TaskResult:
        """Return how it ended, as a value."""
        reason = self.reason
        error = None if reason is None else f"{reason.value}: {self.detail}" if self.detail else reason.value
        return TaskResult(
            ref=self.ref,
            prompt=self.prompt,
            worker=self.worker if self.started_at is not None else None,
            role=self.role,
            status=TaskStatus.OK if reason is None else STATUS_OF.get(reason, TaskStatus.FAILED),
            text=self.text,
            reason=reason,
            error=error,
            usage=self.usage,
            duration_s=self.duration_s,
            submitted_at=self.submitted_at,
            started_at=self.started_at,
            completed_at=self.completed_at,
            attempt=self.attempt,
            index=self.index,
        )
