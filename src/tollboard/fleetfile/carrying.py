"""Makes a board run a fleet as it was written down, and ends it again. Whatever is legal was decided by `plan`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tollboard.errors import AgentDead, AgentExists, AgentNotFound, PoolExists, TollboardError
from tollboard.fleet.board import Board
from tollboard.fleet.pools.board import PoolBoard
from tollboard.fleet.pools.records import PoolView
from tollboard.fleet.records import SessionStatus
from tollboard.fleetfile.fleet import Fleet
from tollboard.fleetfile.plan import (
    CHANGES,
    Action,
    Kind,
    Step,
    plan,
    pool_arguments,
    pools_of,
    refuse_losses,
)

ADVICE = (
    "nothing was stopped: wait until that is done (`tollboard list`, `tollboard pool wait`), or end it: "
    "`tollboard down --now`"
)


@dataclass(frozen=True, slots=True)
class Downed:
    """What became of one session or pool of the file.

    `elsewhere`: one of that name works in another directory; it is not that of the file, and goes on.
    """

    kind: Kind
    name: str
    stopped: bool
    lost: int = 0
    """How many prompts or tasks ended without having been done."""
    failed: tuple[str, ...] = ()
    """The refs of those prompts."""
    unverified: tuple[str, ...] = ()
    elsewhere: str | None = None


async def up(
    board: Board, fleet: Fleet, *, replace: bool = False, pools: PoolBoard | None = None
) -> tuple[Step, ...]:
    """Start what of a fleet does not run, and return what was done with each session and pool. Idempotent.

    What runs as written down is left alone, and a pool that differs in its size alone is scaled. What runs otherwise is
    left alone too, unless `replace`: then it is stopped after its turn and started anew, and its conversation begins
    anew. Nothing is started unless all of it could be: raises InvalidFleet, or Conflict when what is to be replaced has
    work that would be lost.
    """
    steps = await plan(board, fleet, replace=replace, pools=pools)
    return await carry_out(board, fleet, steps, pools=pools)


async def carry_out(
    board: Board, fleet: Fleet, steps: Sequence[Step], *, pools: PoolBoard | None = None
) -> tuple[Step, ...]:
    """Do what `plan` returned. An error names what was done before; the rest is done by the next `up`."""
    hands = _Hands(board, fleet, pools)
    done: list[Step] = []
    for step in steps:
        try:
            done.append(await hands.do(step))
        except TollboardError as wrong:
            before = ", ".join(one.name for one in done if one.action in CHANGES) or "nothing"
            wrong.add_note(f"done so far: {before}; mend it, and `tollboard up` does the rest")
            raise
    return tuple(done)


class _Hands:
    """Starts and replaces what is written down."""

    def __init__(self, board: Board, fleet: Fleet, pools: PoolBoard | None) -> None:
        self._board = board
        self._fleet = fleet
        self._pools = pools_of(board, fleet, pools)

    async def do(self, step: Step) -> Step:
        """Do one step and return what was done."""
        match step.action:
            case Action.RESUME:
                try:
                    _ = await self._board.resume(step.name)
                except AgentDead as wrong:
                    # It must not keep the others down.
                    return replace(step, action=Action.KEEP, problem=str(wrong))
            case Action.START:
                try:
                    await self._start(step)
                except (AgentExists, PoolExists):
                    return await self._again(step)
            case Action.SCALE:
                await self._scale(step.name)
            case Action.REPLACE:
                if step.kind == "session":
                    _ = await self._board.stop_session(step.name, drain=True)
                else:
                    _ = await self._of_pools().stop(step.name)
                await self._start(step)
        return step

    async def _again(self, step: Step) -> Step:
        """Do what is left now that somebody else was quicker. Raises AgentExists when that is still not clear."""
        only = _only(self._fleet, step)
        found = (await plan(self._board, only, pools=self._pools))[0]
        if found.action is Action.START:
            raise AgentExists(
                f"{step.kind} {step.name!r} is being started by somebody else; look again in a moment"
            )
        return await self.do(found)

    async def _scale(self, name: str) -> None:
        """Give the roles their sizes. Those that have them are left: they may have scaled by themselves since."""
        pools = self._of_pools()
        running = (await pools.definition(name)).size
        for role, size in self._fleet.pools[name].size.items():
            if running.get(role) != size:
                _ = await pools.scale(name, size, role=role)

    async def _start(self, step: Step) -> None:
        if step.kind == "session":
            wanted = self._fleet.sessions[step.name]
            await self._board.start_session(
                step.name, path=wanted.path, backend=wanted.backend, **wanted.options
            )
        else:
            await self._of_pools().start(step.name, **pool_arguments(self._fleet.pools[step.name]))

    def _of_pools(self) -> PoolBoard:
        assert self._pools is not None
        return self._pools


def _only(fleet: Fleet, step: Step) -> Fleet:
    """Return the fleet with nothing in it but what the step is about."""
    if step.kind == "session":
        return replace(fleet, sessions={step.name: fleet.sessions[step.name]}, pools={})
    return replace(fleet, sessions={}, pools={step.name: fleet.pools[step.name]})


async def down(
    board: Board, fleet: Fleet, *, now: bool = False, pools: PoolBoard | None = None
) -> tuple[Downed, ...]:
    """Stop what runs of a fleet, all at once, and return what became of each. Histories and results stay.

    Loses nothing: turns in flight finish first, and if prompts are queued or tasks are not done it raises Conflict and
    stops nothing. With `now` all of it is ended at once. A session of the same name in another directory is another
    one, and goes on.
    """
    theirs = pools_of(board, fleet, pools)
    live = {status.name: status for status in await board.list_sessions()}
    views = {} if theirs is None else {view.name: view for view in await theirs.list()}
    if not now:
        refuse_losses(
            [live[name] for name, asked in fleet.sessions.items() if _works_in(asked.path, live.get(name))],
            [views[name] for name, asked in fleet.pools.items() if _works_in(asked.path, views.get(name))],
            ADVICE,
        )
    ends = [_end_session(board, name, live.get(name), one.path, now) for name, one in fleet.sessions.items()]
    if theirs is not None:
        ends += [_end_pool(theirs, name, views.get(name), one.path) for name, one in fleet.pools.items()]
    ended = await asyncio.gather(*ends, return_exceptions=True)
    for wrong in ended:
        if isinstance(wrong, BaseException):
            raise wrong
    return tuple(one for one in ended if isinstance(one, Downed))


def _works_in(path: str, found: SessionStatus | PoolView | None) -> bool:
    return found is not None and found.path == path


async def _end_session(board: Board, name: str, found: SessionStatus | None, path: str, now: bool) -> Downed:
    if found is None or found.path != path:
        return Downed("session", name, False, elsewhere=None if found is None else found.path)
    try:
        report = await board.stop_session(found.id, drain=not now)
    except AgentNotFound:
        return Downed("session", name, False)  # somebody else has stopped it
    return Downed("session", name, True, len(report.failed), report.failed, report.unverified)


async def _end_pool(pools: PoolBoard, name: str, found: PoolView | None, path: str) -> Downed:
    if found is None or found.path != path:
        return Downed("pool", name, False, elsewhere=None if found is None else found.path)
    stopped = await pools.stop(found.id)
    return Downed("pool", name, True, stopped.failed - found.failed)
