"""What must be done so that a board runs a fleet as it was written down. Looks, checks what is to be started, changes
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from tollboard.errors import BackendError, Conflict, Invalid, InvalidFleet
from tollboard.fleet.board import Board
from tollboard.fleet.pools.board import SETTINGS, PoolBoard
from tollboard.fleet.pools.records import PoolLife, PoolSpec, PoolView
from tollboard.fleet.records import Life, SessionDefinition, SessionStatus
from tollboard.fleetfile.fleet import Fleet

Kind = Literal["session", "pool"]


class Action(StrEnum):
    """What is done with a session or a pool of the file."""

    START = "start"
    """It does not run."""
    RESUME = "resume"
    """It is as written down, but dead: it is brought back, with its history and its queue."""
    SCALE = "scale"
    """It is a pool that is as written down but for its size: workers come or go, its tasks go on."""
    KEEP = "keep"
    """It runs as written down."""
    LEAVE = "leave"
    """It runs, but not as written down; it is left as it is."""
    REPLACE = "replace"
    """The same, but it is stopped after its turn and started anew."""


CHANGES = frozenset({Action.START, Action.RESUME, Action.SCALE, Action.REPLACE})


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as written down; `None` where it is not given at all."""

    key: str
    running: object = field(repr=False)
    wanted: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """What is done with one session or pool. `problem` is what a person should look at."""

    kind: Kind
    name: str
    action: Action
    differences: tuple[Difference, ...] = ()
    problem: str | None = None
    in_flight: bool = False
    """Whether a turn is running now, which ends first when the session is replaced."""


def pools_of(board: Board, fleet: Fleet, pools: PoolBoard | None = None) -> PoolBoard | None:
    """Return the pools that belong to a board: those given, else those it has; `None` when the file has none.

    Raises Invalid when the file has pools and the board has not.
    """
    if not fleet.pools:
        return None
    found: PoolBoard | None = pools if pools is not None else getattr(board, "pools", None)
    if found is None:
        raise Invalid(f"{fleet.file} has pools, and this board has none; give pools=")
    return found


async def plan(
    board: Board, fleet: Fleet, *, replace: bool = False, pools: PoolBoard | None = None
) -> tuple[Step, ...]:
    """Return what `up` would do, in the order of the file, the sessions first.

    What is to be started is checked as far as that is possible without starting it. `pools` are those that belong to
    the board; a `Client` has its own. Raises InvalidFleet with all that could not be started; Conflict when what is to
    be replaced has work that would be lost.
    """
    sides = _Sides(board, fleet, pools)
    await sides.look()
    steps = (*await sides.sessions(replace), *await sides.pool_steps(replace))
    await sides.check(steps)
    sides.refuse_losses(steps)
    return steps


class _Sides:
    """What is written down and what runs."""

    def __init__(self, board: Board, fleet: Fleet, pools: PoolBoard | None) -> None:
        self._board = board
        self._fleet = fleet
        self._pools = pools_of(board, fleet, pools)
        self._live: dict[str, SessionStatus] = {}
        self._views: dict[str, PoolView] = {}

    async def look(self) -> None:
        """See what runs."""
        self._live = {status.name: status for status in await self._board.list_sessions()}
        if self._pools is not None:
            self._views = {view.name: view for view in await self._pools.list()}

    def pools(self) -> PoolBoard:
        """Return the board of pools; asked for only where the file has some."""
        assert self._pools is not None
        return self._pools

    async def sessions(self, replace: bool) -> list[Step]:
        """Return a step for each session."""
        there = [name for name in self._fleet.sessions if name in self._live]
        found = await asyncio.gather(*(self._board.definition(name) for name in there))
        running = dict(zip(there, found, strict=True))
        return [
            self._session(wanted, running.get(name), replace) for name, wanted in self._fleet.sessions.items()
        ]

    def _session(self, wanted: SessionDefinition, running: SessionDefinition | None, replace: bool) -> Step:
        if running is None:
            return Step("session", wanted.session, Action.START)
        status = self._live[wanted.session]
        differences = differences_of_sessions(wanted, running)
        if differences:
            action = Action.REPLACE if replace else Action.LEAVE
        else:
            # To bring one back releases it: one that a person has halted stays as it is.
            action = Action.RESUME if status.life is Life.DEAD and not status.halted else Action.KEEP
        return Step(
            "session", wanted.session, action, differences, status.problem, status.in_flight is not None
        )

    async def pool_steps(self, replace: bool) -> list[Step]:
        """Return a step for each pool."""
        there = [name for name in self._fleet.pools if name in self._views]
        found = await asyncio.gather(*(self.pools().definition(name) for name in there))
        running = dict(zip(there, found, strict=True))
        return [
            self._pool(name, wanted, running.get(name), replace) for name, wanted in self._fleet.pools.items()
        ]

    def _pool(self, name: str, wanted: PoolSpec, running: PoolSpec | None, replace: bool) -> Step:
        if running is None:
            return Step("pool", name, Action.START)
        view = self._views[name]
        differences = differences_of_pools(wanted, running)
        if not differences:
            action = Action.KEEP
        elif view.life is PoolLife.LIVE and _is_scaled(wanted, running, differences):
            # It loses nothing, so nobody is asked whether it may.
            action = Action.SCALE
        else:
            action = Action.REPLACE if replace else Action.LEAVE
        return Step("pool", name, action, differences, view.problem)

    async def check(self, steps: tuple[Step, ...]) -> None:
        """Let the board check what is to be started. Raises InvalidFleet."""
        faults = [
            f"[{step.kind}s.{step.name}]: {fault}"
            for step in steps
            if step.action in (Action.START, Action.REPLACE)
            if (fault := await _fault(self._check(step))) is not None
        ]
        if faults:
            raise InvalidFleet(self._fleet.file, *faults)

    def _check(self, step: Step) -> Awaitable[object]:
        if step.kind == "pool":
            return self.pools().check(step.name, **pool_arguments(self._fleet.pools[step.name]))
        wanted = self._fleet.sessions[step.name]
        return self._board.check_session(
            step.name, path=wanted.path, backend=wanted.backend, **wanted.options
        )

    def refuse_losses(self, steps: tuple[Step, ...]) -> None:
        """Raise Conflict when what is to be replaced has work that would not be done."""
        replaced = [step for step in steps if step.action is Action.REPLACE]
        refuse_losses(
            [self._live[step.name] for step in replaced if step.kind == "session"],
            [self._views[step.name] for step in replaced if step.kind == "pool"],
            "nothing was changed: wait until that is done, or end it (`tollboard stop`, `tollboard pool stop`)",
        )


async def _fault(checked: Awaitable[object]) -> str | None:
    try:
        _ = await checked
    except (Invalid, BackendError) as wrong:
        return str(wrong)
    return None


def refuse_losses(sessions: list[SessionStatus], pools: list[PoolView], advice: str) -> None:
    """Raise Conflict when one of these has work that has not begun, or a pool any: to stop it would lose that."""
    held = [f"session {one.name!r} has {one.queued:,} queued" for one in sessions if one.queued]
    held += [f"pool {one.name!r} has tasks that are not done" for one in pools if not one.done]
    if held:
        raise Conflict(f"{', '.join(held)}; {advice}")


# -- the same or not


def differences_of_sessions(wanted: SessionDefinition, running: SessionDefinition) -> tuple[Difference, ...]:
    """Return in what a session is not as written down."""
    return tuple(
        _compared(
            {**running.options, "path": running.path, "backend": running.backend},
            {**wanted.options, "path": wanted.path, "backend": wanted.backend},
        )
    )


def differences_of_pools(wanted: PoolSpec, running: PoolSpec) -> tuple[Difference, ...]:
    """Return in what a pool is not as written down."""
    return tuple(_compared(pool_arguments(running), pool_arguments(wanted)))


def _is_scaled(wanted: PoolSpec, running: PoolSpec, differences: tuple[Difference, ...]) -> bool:
    """Return whether the sizes of its roles are all that differs."""
    return [one.key for one in differences] == ["size"] and wanted.size.keys() == running.size.keys()


def pool_arguments(spec: PoolSpec) -> dict[str, Any]:
    """Return what `PoolBoard.start` takes for a pool like that."""
    settings = {key: getattr(spec, key) for key in SETTINGS if key not in ("role", "roles")}
    asked = {**settings, "path": spec.path, "backend": spec.backend, **spec.options}
    if not spec.roles:
        return {"size": dict(spec.size), **asked}
    return {"roles": {role: asdict(spec.role(role)) for role in spec.size}, **asked}


def _compared(running: Mapping[str, object], wanted: Mapping[str, object]) -> Iterator[Difference]:
    for key in dict.fromkeys((*wanted, *running)):
        if not _same(running.get(key), wanted.get(key)):
            yield Difference(key, running.get(key), wanted.get(key))


def _same(one: object, other: object) -> bool:
    """Return whether two values are the same as JSON: a list is a list, 1 is 1.0, and true is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other
