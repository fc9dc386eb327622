"""What the operations on pools take, as JSON; the rules are those of `arguments`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from tollboard.errors import InvalidOption
from tollboard.fleet.board import DEFAULT_BACKEND
from tollboard.fleet.pools.board import (
    DEFAULT_MAX_QUEUED,
    DEFAULT_STRATEGY,
    MAX_RESULTS_PAGE,
    MAX_TASKS,
    SETTINGS,
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
from tollboard.pool.role import Role
from tollboard.pool.settings import MAX_WORKERS

_TAKEN = frozenset({"self", "name", "size", "path", "backend", *SETTINGS})


def _options(value: dict[str, object]) -> dict[str, object]:
    if taken := _TAKEN & value.keys():
        raise InvalidOption(f"{min(taken)} is not an option: give it beside the options")
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


class RoleArguments(Arguments):
    """See `tollboard.pool.role.Role`."""

    size: _Count = 1
    prompt: PromptText | None = Field(
        default=None, description="Begins its system prompt: `You are a {role}.`"
    )
    model: _Word | None = None
    backend: _Word | None = None
    options: JsonObject = Field(default_factory=dict)


_Roles = Annotated[
    dict[_Word, RoleArguments | _Count],
    Field(max_length=MAX_WORKERS),
    # One line instead of the schema of a role: a model keeps every tool in mind.
    WithJsonSchema({"type": "object", "description": "{role: {size, prompt, model, backend, options}}"}),
]


class PoolStart(Arguments):
    """See `PoolBoard.start`."""

    name: Annotated[str, AfterValidator(check_word), described(pattern=NAME_PATTERN)]
    size: _Size | None = None
    path: Annotated[str, AfterValidator(check_path), described(minLength=1, maxLength=MAX_PATH)]
    backend: _Word = DEFAULT_BACKEND
    role: _Word | None = None
    roles: _Roles | None = None
    conversation: _Word = Field(default="fresh", description="`fresh` or `kept`.")
    recycle_turns: int | None = None
    recycle_tokens: int | None = None
    strategy: _Word = DEFAULT_STRATEGY
    rate: float | _Word | None = Field(default=None, description="Such as `90/min`.")
    burst: int | None = None
    min: _Size | None = None
    max: _Size | None = None
    retries: int = 0
    max_queued: int = DEFAULT_MAX_QUEUED
    options: Annotated[JsonObject, AfterValidator(_options)] = Field(
        default_factory=dict, description="Of every worker."
    )

    def asked(self) -> dict[str, object]:
        """Return the settings and the options, as a board takes them."""
        settings: dict[str, object] = {name: getattr(self, name) for name in SETTINGS}
        if self.roles is not None:
            settings["roles"] = {
                name: Role(**dict(role)) if isinstance(role, RoleArguments) else role
                for name, role in self.roles.items()
            }
        return {**settings, **self.options}


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

    tasks: Annotated[list[PromptText | TaskArguments], described(minItems=1), Field(max_length=MAX_TASKS)]
    timeout: Seconds | None = Field(
        default=None,
        description="Accept as many as there is room for, after at most that many seconds; else all, however long.",
    )

    def given(self) -> list[str | Task]:
        """Return the tasks as the pool takes them."""
        return [task.task() if isinstance(task, TaskArguments) else task for task in self.tasks]


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
