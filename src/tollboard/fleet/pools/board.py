"""The verbs of durable pools: what `Pools` (in the daemon) and `PoolClient` (over its socket) both are (P14).

Names are pool names; a pool's id is taken too, which is how a stopped pool whose name was used again is reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Protocol

from tollboard.errors import TollboardError
from tollboard.fleet.board import DEFAULT_BACKEND
from tollboard.fleet.pools.records import PoolDeleted, PoolSpec, PoolView, ResultsPage, Submitted, TaskRecord
from tollboard.pool.records import Task

DEFAULT_STRATEGY = "round_robin"
DEFAULT_MAX_QUEUED = 10_000
MAX_TASKS = 1_000
"""Tasks of one request over a wire; a client splits what is longer."""
MAX_RESULTS_PAGE = 1_000
Size = int | Mapping[str, int]
SETTINGS = (
    "role", "roles", "conversation", "recycle_turns", "recycle_tokens", "strategy", "rate", "burst", "min", "max",
    "retries", "max_queued",
)  # fmt: skip
"""What a pool can be asked to be besides its size, path and backend; `Pool.start` takes the same. Their defaults are
those of `asking.ask`. All other keywords are options of the workers."""


def split(asked: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the settings of a pool, and the options of its workers."""
    settings = {key: value for key, value in asked.items() if key in SETTINGS}
    return settings, {key: value for key, value in asked.items() if key not in SETTINGS}


def note_accepted(error: TollboardError, done: int, wanted: int) -> None:
    """Note on the error how many tasks of a submission were accepted before it failed: none is to run twice."""
    if done:
        error.add_note(
            f"{done:,} of {wanted:,} tasks were accepted before: see their results before you submit those again"
        )


class PoolBoard(Protocol):
    """Drives the pools of a fleet."""

    async def start(
        self, /, name: str, size: Size | None = None, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND,
        **asked: object,
    ) -> PoolView:  # fmt: skip
        """Start a pool of workers that work in `path`; all have started when this returns (P01).

        `asked` are the settings named in `SETTINGS`, as `Pool.start` has them (`roles` may hold mappings too), and
        options that go to every worker, as a session's do to its backend. Workers do not ask: what would need an
        approval is rejected. Raises PoolExists, InvalidName, InvalidPath, InvalidOption, UnknownBackend,
        BackendError (which worker, and why), StoreError.
        """

    async def check(
        self, /, name: str, size: Size | None = None, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND,
        **asked: object,
    ) -> PoolSpec:  # fmt: skip
        """Raise what `start` would raise, and start nothing; whether the name is taken does not matter.

        Returns what the pool would be asked to be, as it would be kept.
        """

    async def list(self, *, all: bool = False) -> tuple[PoolView, ...]:
        """Return the pools, oldest first; with `all` the stopped ones too."""

    async def status(self, name: str) -> PoolView:
        """Return how a pool stands. Raises PoolNotFound."""

    async def definition(self, name: str) -> PoolSpec:
        """Return what a pool is asked to be; `scale` changes it. Raises PoolNotFound."""

    async def submit(
        self, name: str, tasks: str | Task | Sequence[str | Task], *, timeout: float | None = None
    ) -> tuple[Submitted, ...]:
        """Accept tasks, in order, and return a ref for each: durable when this returns (P03).

        With a `timeout` it accepts as many as there is room for, waiting up to that many seconds for the first, and
        returns those; it raises Overloaded or RateLimited if not even that one got in. Without, it waits for room for
        all of them. A task that can never be taken (InvalidPrompt, InvalidOption for its role) is raised before any
        is accepted. Raises PoolStopped, PoolNotFound, StoreError; what was accepted before stands in a note.
        """

    async def wait(self, name: str, *, timeout: float | None = None) -> PoolView:
        """Wait until nothing is queued or running, at most `timeout` seconds; `done` says which it was (P05)."""

    async def results(self, name: str, *, after: int = -1, limit: int = MAX_RESULTS_PAGE) -> ResultsPage:
        """Return ended tasks whose index is above `after`, in submission order; failed ones are among them (P06)."""

    async def poll(self, name: str, ref: str) -> TaskRecord:
        """Return one task. Raises RequestNotFound, also for a ref of another pool."""

    async def cancel(self, name: str, ref: str) -> TaskRecord:
        """Withdraw a task that waits. Raises NotCancellable, RequestNotFound."""

    async def scale(self, name: str, size: int, *, role: str | None = None) -> PoolView:
        """Grow or shrink a role; busy workers end their task first. Raises InvalidOption, PoolStopped."""

    async def stop(self, name: str) -> PoolView:
        """End a pool: what is queued or in flight ends with `stopped`, its results stay (P07)."""

    async def delete(self, name: str) -> PoolDeleted:
        """Remove a stopped pool with its tasks and results. Raises Conflict while it lives."""
