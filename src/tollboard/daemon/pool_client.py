"""The verbs of pools over the daemon's socket: `client.pools`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from os import PathLike
from typing import Any, cast

from tollboard.daemon.config import absolute
from tollboard.errors import Overloaded, RateLimited, TollboardError
from tollboard.fleet.board import DEFAULT_BACKEND
from tollboard.fleet.pools.board import MAX_RESULTS_PAGE, MAX_TASKS, PoolBoard, Size, note_accepted, split
from tollboard.fleet.pools.records import PoolDeleted, PoolSpec, PoolView, ResultsPage, Submitted, TaskRecord
from tollboard.pool.records import Task
from tollboard.pool.role import Role

Call = Callable[..., Awaitable[Any]]
MAX_BATCH_BYTES = 1024 * 1024
"""Prompt text of one request; a longer submission is sent in several."""
POOL_QUEUE = "pool"
"""What Overloaded names when it is the pool that is full, and not the store."""
ROOM_S = 30.0
"""How long one request waits for room before it is asked again: a daemon must be able to end meanwhile."""


class PoolClient:
    """Implements `PoolBoard` against a daemon."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def start(
        self, /, name: str, size: Size | None = None, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND,
        **asked: object,
    ) -> PoolView:  # fmt: skip
        """See `PoolBoard.start`. A relative path is this process's, not the daemon's."""
        given = _start_arguments(size, path, backend, asked)
        return cast("PoolView", await self._call("pool_start", name=name, **given))

    async def check(
        self, /, name: str, size: Size | None = None, *, path: str | PathLike[str], backend: str = DEFAULT_BACKEND,
        **asked: object,
    ) -> PoolSpec:  # fmt: skip
        """See `PoolBoard.check`. A relative path is this process's, not the daemon's."""
        given = _start_arguments(size, path, backend, asked)
        return cast("PoolSpec", await self._call("pool_check", name=name, **given))

    async def definition(self, name: str) -> PoolSpec:
        """See `PoolBoard.definition`."""
        return cast("PoolSpec", await self._call("pool_definition", name=name))

    async def list(self, *, all: bool = False) -> tuple[PoolView, ...]:
        """See `PoolBoard.list`."""
        return cast("tuple[PoolView, ...]", await self._call("pool_list", all=all))

    async def status(self, name: str) -> PoolView:
        """See `PoolBoard.status`."""
        return cast("PoolView", await self._call("pool_status", name=name))

    async def submit(
        self, name: str, tasks: str | Task | Sequence[str | Task], *, timeout: float | None = None
    ) -> tuple[Submitted, ...]:
        """See `PoolBoard.submit`. Without a timeout any number of tasks may be given; they go in several requests."""
        listed = [tasks] if isinstance(tasks, str | Task) else [*tasks]
        if timeout is not None:
            return await self._submit(name, listed, timeout)
        done: tuple[Submitted, ...] = ()
        try:
            async with aclosing(in_pieces(self, name, listed)) as pieces:
                async for accepted in pieces:
                    done += accepted
        except TollboardError as error:
            note_accepted(error, len(done), len(listed))
            raise
        return done

    async def _submit(self, name: str, tasks: Sequence[str | Task], timeout: float) -> tuple[Submitted, ...]:
        plain = [_plain(task) for task in tasks]
        accepted = await self._call("pool_submit", name=name, tasks=plain, timeout=timeout)
        return cast("tuple[Submitted, ...]", accepted)

    async def wait(self, name: str, *, timeout: float | None = None) -> PoolView:
        """See `PoolBoard.wait`."""
        return cast("PoolView", await self._call("pool_wait", name=name, timeout=timeout))

    async def results(self, name: str, *, after: int = -1, limit: int = MAX_RESULTS_PAGE) -> ResultsPage:
        """See `PoolBoard.results`."""
        return cast("ResultsPage", await self._call("pool_results", name=name, after=after, limit=limit))

    async def poll(self, name: str, ref: str) -> TaskRecord:
        """See `PoolBoard.poll`."""
        return cast("TaskRecord", await self._call("pool_poll", name=name, ref=ref))

    async def cancel(self, name: str, ref: str) -> TaskRecord:
        """See `PoolBoard.cancel`."""
        return cast("TaskRecord", await self._call("pool_cancel", name=name, ref=ref))

    async def scale(self, name: str, size: int, *, role: str | None = None) -> PoolView:
        """See `PoolBoard.scale`."""
        return cast("PoolView", await self._call("pool_scale", name=name, size=size, role=role))

    async def stop(self, name: str) -> PoolView:
        """See `PoolBoard.stop`."""
        return cast("PoolView", await self._call("pool_stop", name=name))

    async def delete(self, name: str) -> PoolDeleted:
        """See `PoolBoard.delete`."""
        return cast("PoolDeleted", await self._call("pool_delete", name=name))


async def in_pieces(
    pools: PoolBoard, name: str, tasks: Sequence[str | Task]
) -> AsyncGenerator[tuple[Submitted, ...]]:
    """Submit any number of tasks, waiting for room, and yield what was accepted each time.

    So whoever counts knows what is not to be submitted again when it fails. Raises what `submit` does.
    """
    done = 0
    while True:
        try:
            accepted = await pools.submit(name, _batch(tasks, done), timeout=ROOM_S)
        except RateLimited:
            continue
        except Overloaded as exc:
            if exc.queue != POOL_QUEUE:
                raise
            continue
        yield accepted
        done += len(accepted)
        if done >= len(tasks):
            return


def _start_arguments(
    size: Size | None, path: str | PathLike[str], backend: str, asked: Mapping[str, object]
) -> dict[str, object]:
    """Return what `pool_start` and `pool_check` take over a wire."""
    settings, options = split(asked)
    if isinstance(roles := settings.get("roles"), Mapping):
        settings["roles"] = {
            name: asdict(role) if isinstance(role, Role) else role for name, role in roles.items()
        }
    given = {"size": size, "min": settings.pop("min", None), "max": settings.pop("max", None)}
    sizes = {key: dict(value) if isinstance(value, Mapping) else value for key, value in given.items()}
    return {**settings, **sizes, "path": absolute(path), "backend": backend, "options": options}


def _plain(task: str | Task) -> dict[str, object]:
    if isinstance(task, Task):
        given = {"prompt": task.prompt, "role": task.role, "hint_s": task.hint_s}
        return {key: value for key, value in given.items() if value is not None}
    return {"prompt": task}


def _batch(tasks: Sequence[str | Task], start: int) -> Sequence[str | Task]:
    """Return the next tasks that fit into one request; at least one."""
    size, end = 0, start
    while end < len(tasks) and end - start < MAX_TASKS:
        task = tasks[end]
        prompt = task.prompt if isinstance(task, Task) else task
        size += len(prompt) if isinstance(prompt, str) else 0
        if size > MAX_BATCH_BYTES and end > start:
            break
        end += 1
    return tasks[start:end]
