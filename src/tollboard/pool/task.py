"""A task on its way through a pool: the runtime's request, with the pool's part of its story added.

The crew and the desk write it; everybody else gets the frozen `TaskResult`. It is the very request that its worker's
agent runs, so the ref, the attempts and the start are the runtime's own. It is kept as the result too: `close` drops
whatever the garbage collector would have to walk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, overload

from tollboard.pool.records import STATUS_OF, Submission, TaskResult, TaskStatus
from tollboard.runtime.event import Usage
from tollboard.runtime.request import WAIT, Origin, Request, size_in_bytes
from tollboard.runtime.results import Completed, Outcome, Reason

if TYPE_CHECKING:
    from tollboard.pool.crew import Crew
    from tollboard.pool.worker import Worker


class Place(Enum):
    """Where a task is."""

    WAITING = "waiting"
    """In the crew's queues."""
    WITH_WORKER = "with worker"
    RECALLED = "recalled"
    """On its way back from a halted worker's mailbox."""
    WITHDRAWN = "withdrawn"
    """Still in a queue, but not to be run: whoever takes it out drops it."""
    ENDED = "ended"


WAITING, WITH_WORKER, ENDED = Place.WAITING, Place.WITH_WORKER, Place.ENDED
_TELL = Origin.TELL


class PoolTask(Request):
    """One accepted task: what was asked, where it is, how it ended."""

    __slots__ = (
        "completed_at", "crew", "detail", "duration_s", "hint_s", "holder", "index", "listener", "place", "reason",
        "recorded", "text", "usage", "worker",
    )  # fmt: skip

    index: int
    completed_at: float
    text: str
    detail: str
    duration_s: float
    usage: Usage | None
    reason: Reason | None

    def __init__(
        self, ref: str, prompt: str, submitted_at: float, crew: Crew, hint_s: float | None = None
    ) -> None:
        # As `Request.__init__` does it, without the call: a batch makes thousands of these in one go.
        self.ref = ref
        self.prompt = prompt
        self.origin = _TELL
        self.accepted_at = submitted_at
        self.on_halt = WAIT
        self.on_complete = self.asked = self.started_at = self.commit = self.outcome = self.spent = None
        self.attempt = 0
        self.size = len(prompt) if prompt.isascii() else size_in_bytes(prompt)
        self.future = self  # type: ignore[assignment] # see `done` and `set_result`
        self.crew = crew
        self.hint_s = hint_s
        self.place = WAITING
        self.worker: str | None = None
        self.holder: Worker | None = None
        """The worker that has it now."""
        self.listener: Callable[[PoolTask], None] | None = None
        self.recorded = False
        """The journal knows how it ended."""

    def __repr__(self) -> str:
        return f"<PoolTask {self.ref} {self.place.value} attempt={self.attempt}>"

    @property
    def role(self) -> str:
        """Return the role that runs it."""
        return self.crew.role

    @property
    def submitted_at(self) -> float:
        """Return when it was accepted, in Unix seconds."""
        return self.accepted_at

    @property
    def ok(self) -> bool:
        """Return whether it ended with an answer."""
        return self.reason is None

    # The agent's machine hands an outcome to the request's future. The task is that future itself: it needs neither
    # callbacks nor a loop, and an outcome can never reach anybody but the worker that has this very task (E45).

    def done(self) -> bool:
        """Return whether nobody has it, so that an outcome would be nobody's. Called by the machine."""
        return self.holder is None

    def set_result(self, outcome: Outcome) -> None:
        """Take the outcome, after commit. Called by the machine, once for each time a worker gets the task."""
        holder = self.holder
        if holder is not None:
            self.crew.finished(holder, self, outcome)

    def again(self) -> None:
        """Make it as it was before a worker had it; the attempts stay counted."""
        self.place = WAITING
        self.worker = self.holder = None
        self.started_at = None
        self.outcome = None

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
            self.text = ""
            self.usage = outcome.usage
            self.duration_s = 0.0 if self.started_at is None else max(0.0, now - self.started_at)
            self.detail = outcome.detail
            self.reason = outcome.reason

    def submission(self) -> Submission:
        """Return its ref, and its worker if that is known."""
        return Submission(self.worker, self.ref)

    def result(self) -> TaskResult:
        """Return how it ended, as a value."""
        reason = self.reason
        error = None if reason is None else f"{reason.value}: {self.detail}" if self.detail else reason.value
        return TaskResult(
            ref=self.ref,
            prompt=self.prompt,
            worker=self.worker if self.started_at is not None else None,
            role=self.crew.role,
            status=TaskStatus.OK if reason is None else STATUS_OF.get(reason, TaskStatus.FAILED),
            text=self.text,
            reason=reason,
            error=error,
            usage=self.usage,
            duration_s=self.duration_s,
            submitted_at=self.accepted_at,
            started_at=self.started_at,
            completed_at=self.completed_at,
            attempt=self.attempt,
            index=self.index,
        )


class Submissions(Sequence[Submission]):
    """What `submit_many` returns, in the order of its input: a worker and a ref for each task.

    Reads like a list. The pairs are made when they are looked at, because most callers only want to know that all were
    accepted; a worker that was not known at first (`shared_queue`) is there once it has pulled the task.
    """

    __slots__ = ("_tasks",)

    def __init__(self, tasks: list[PoolTask]) -> None:
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"<{len(self._tasks)} submissions>"

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, at: int) -> Submission: ...
    @overload
    def __getitem__(self, at: slice) -> list[Submission]: ...
    def __getitem__(self, at: int | slice) -> Submission | list[Submission]:
        if isinstance(at, slice):
            return [task.submission() for task in self._tasks[at]]
        return self._tasks[at].submission()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment] # like a list
