"""What the operations on pools take, as JSON; the rules are those of `arguments`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tollboard.errors import InvalidOption
from tollboard.fleet.pools.board import (
    DEFAULT_MAX_QUEUED,
    DEFAULT_STRATEGY,
    MAX_RESULTS_PAGE,
    MAX_TASKS,
)
from tollboard.ids import NAME_PATTERN
from tollboard.operations.arguments import (
    MAX_PATH,
    MAX_WORD,
    Arguments,
    JsonObject,
    PromptText,
    Ref,
    Seconds,
    check_path,
    check_word,
    described,
)
from tollboard.pool.records import Task
from tollboard.pool.settings import MAX_WORKERS

_START = frozenset(
    {"self", "name", "size", "path", "backend", "role", "strategy", "rate", "burst", "min", "max", "retries",
     "max_queued"}
)  # fmt: skip


def _options(value: dict[str, object]) -> dict[str, object]:
    if taken := _START & value.keys():
        raise InvalidOption(f"{sorted(taken)[0]} is not an option: give it beside the options")
    return value


PoolName = Annotated[
    str, AfterValidator(check_word), described(pattern=NAME_PATTERN), Field(description="A pool's name, or its id.")
]  # fmt: skip
_Word = Annotated[str, Field(max_length=MAX_WORD)]
_Count = Annotated[int, described(minimum=1, maximum=MAX_WORKERS)]
_Size = _Count | Annotated[dict[_Word, _Count], Field(max_length=MAX_WORKERS)]


class OfPool(Arguments):
    """Names a pool."""

    name: PoolName


class PoolStart(Arguments):
    """See `PoolBoard.start`."""

    name: Annotated[str, AfterValidator(check_word), described(pattern=NAME_PATTERN)]
    size: _Size = Field(description="How many workers, or how many of each role.")
    path: Annotated[str, AfterValidator(check_path), described(minLength=1, maxLength=MAX_PATH)]
    backend: _Word
    role: _Word | None = None
    strategy: _Word = DEFAULT_STRATEGY
    rate: float | _Word | None = Field(
        default=None, description="Submissions: per second, or such as `90/min`."
    )
    burst: int | None = None
    min: _Size | None = None
    max: _Size | None = None
    retries: int = 0
    max_queued: int = DEFAULT_MAX_QUEUED
    options: Annotated[JsonObject, AfterValidator(_options)] = Field(
        default_factory=dict, description="The backend's own options and the runtime's, for every worker."
    )


class PoolList(Arguments):
    """See `PoolBoard.list`."""

    all: bool = False


class TaskArguments(Arguments):
    """One task; see `tollboard.pool.records.Task`."""

    prompt: PromptText
    role: _Word | None = None
    hint_s: float | None = None

    def task(self) -> Task:
        """Return it as the pool takes it."""
        return Task(self.prompt, self.role, self.hint_s)


class PoolSubmit(OfPool):
    """See `PoolBoard.submit`."""

    tasks: Annotated[list[TaskArguments], described(minItems=1), Field(max_length=MAX_TASKS)]
    timeout: Seconds | None = Field(
        default=None,
        description="Accept as many as there is room for, after at most that many seconds; else all, however long.",
    )


class PoolWait(OfPool):
    """See `PoolBoard.wait`."""

    timeout: Seconds | None = None


class PoolResultsArguments(OfPool):
    """See `PoolBoard.results`."""

    after: Annotated[int, Field(ge=-1, lt=2**62)] = -1
    limit: Annotated[int, described(minimum=1, maximum=MAX_RESULTS_PAGE)] = MAX_RESULTS_PAGE


class OfTask(OfPool):
    """Names a task of a pool."""

    ref: Ref


class PoolScale(OfPool):
    """See `PoolBoard.scale`."""

    size: _Count
    role: _Word | None = None
