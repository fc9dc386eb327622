"""How agents end: stop, drain, crash, restart, and the closing of the whole runtime (R17, R35, R36, R41)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tollboard.errors import Crash, TollboardError
from tollboard.runtime import busy, callbacks, notifications, telemetry
from tollboard.runtime.approvals import expire_all
from tollboard.runtime.backend import NO_PROCESSES, ProcessReport
from tollboard.runtime.background import lose_background
from tollboard.runtime.ending import end_unrun
from tollboard.runtime.options import Restart
from tollboard.runtime.request import Request
from tollboard.runtime.results import Failed, Reason
from tollboard.runtime.status import Phase

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine
    from tollboard.runtime.runtime import Runtime

logger = logging.getLogger("tollboard.runtime")

MAX_RESTART_TIMES = 100
LAST_WORD_S = 1.0
CUT_OFF = {
    "stopped": "cut off when the agent was stopped",
    "the runtime closes": "cut off when the daemon was shut down",
}
"""What the history says of background work that ended with its agent, by the reason the agent ended for."""
"""How long what is cancelled at the deadline of a close may take to clean up."""
CUT_OFF = {
    "stopped": "cut off when the agent was stopped",
    "the runtime closes": "cut off when the daemon was shut down",
}
"""What the history says of background work that ended with its agent, by the reason the agent ended for."""


@dataclass(slots=True)
class Recipe:
    """How to start an agent again, and when it was."""

    again: Callable[[], Coroutine[object, object, object]]
    policy: Restart
    limit: int
    window_s: float
    times: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RESTART_TIMES))

    def allows(self, now: float) -> bool:
        """Return whether another restart keeps within the intensity limit, and count it."""
        recent = sum(1 for at in self.times if now - at <= self.window_s)
        if self.policy is Restart.TEMPORARY or recent >= self.limit:
            return False
        self.times.append(now)
        return True


@dataclass(frozen=True, slots=True)
class Stopped:
    """What stopping an agent did."""

    failed: tuple[str, ...]
    """Refs that ended with `stopped` or `draining`."""
    processes: ProcessReport


def _with_running(done: Stopped, running: Request | None, outcome: Reason) -> Stopped:
    """Return the report that names the turn in flight, which ended itself with `stopped`, like those that waited."""
    if running is None or running.ref in done.failed or not _ended_with(running, outcome):
        return done
    return Stopped((running.ref, *done.failed), done.processes)


def _ended_with(request: Request, reason: Reason) -> bool:
    return isinstance(request.outcome, Failed) and request.outcome.reason is reason


class Supervisor:
    """Ends agents. Every end is one task, owned here; callers wait for it, and cancelling a caller cancels nothing."""

    __slots__ = ("_ends", "_recipes", "_runtime", "_tasks")

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # By machine, not by name: a restarted agent may crash while the end of its namesake is still under way (E53).
        self._ends: dict[Machine, asyncio.Task[Stopped]] = {}
        self._recipes: dict[str, Recipe] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run something to its end on the runtime's behalf."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if (
            not task.cancelled()
            and (exc := task.exception()) is not None
            and not isinstance(exc, TollboardError)
        ):
            logger.error("background work %s", callbacks.describe(exc))

    def remember(self, name: str, recipe: Recipe) -> None:
        """Keep how to start this agent again."""
        self._recipes[name] = recipe

    def recipe(self, name: str) -> Recipe | None:
        """Return how this agent is started again, if it is."""
        return self._recipes.get(name)

    def stop(self, machine: Machine, reason: str, outcome: Reason = Reason.STOPPED) -> asyncio.Task[Stopped]:
        """Begin to end an agent, or join the end that is under way. It is not started again, whatever it died of."""
        self._recipes.pop(machine.name, None)
        task = self._ends.get(machine)
        if task is None:
            running = machine.turn.request if machine.turn is not None else None
            machine.stop()
            task = self._begin(machine, self._stop(machine, reason, outcome, running))
        elif machine.phase is not Phase.DEAD:
            machine.stop()  # a drain waits for its turn; a stop does not
        return task

    def drain(self, machine: Machine) -> asyncio.Task[Stopped]:
        """Begin to end an agent after the turn in flight, or join."""
        self._recipes.pop(machine.name, None)
        task = self._ends.get(machine)
        if task is None:
            running = machine.turn.request if machine.turn is not None else None
            queued = machine.drain()
            end_unrun(machine, queued, Failed(Reason.DRAINING))
            task = self._begin(
                machine, self._drain(machine, tuple(request.ref for request in queued), running)
            )
        return task

    def crashed(self, machine: Machine, reason: str, outcome: Reason = Reason.CRASHED) -> None:
        """Bury an agent: called by its own busy period, as the last thing it does."""
        logger.error("agent %s crashed: %s", machine.name, reason)
        machine.phase = Phase.STOPPING
        if machine not in self._ends:
            # Owned by `_ends`; nobody waits for a crash, `close` does.
            _ = self._begin(machine, self._crash(machine, reason, outcome))

    def _begin(self, machine: Machine, work: Coroutine[object, object, Stopped]) -> asyncio.Task[Stopped]:
        task = asyncio.get_running_loop().create_task(work)
        self._ends[machine] = task
        task.add_done_callback(lambda _: self._ends.pop(machine, None))
        return task

    async def _stop(self, machine: Machine, reason: str, outcome: Reason, running: Request | None) -> Stopped:
        if machine.rested is not None:
            await asyncio.shield(machine.rested)
        return _with_running(await self._end(machine, reason, outcome), running, outcome)

    async def _drain(self, machine: Machine, failed: tuple[str, ...], running: Request | None) -> Stopped:
        if machine.rested is not None:
            await asyncio.shield(machine.rested)
        if machine.phase in (Phase.IDLE, Phase.PROCESSING):
            machine.stop()
            if machine.rested is not None and not machine.rested.done():
                await asyncio.shield(machine.rested)
        done = await self._end(machine, "drained", Reason.DRAINING)
        # A stop that came meanwhile has ended the turn that was waited for.
        return _with_running(Stopped((*failed, *done.failed), done.processes), running, Reason.STOPPED)

    async def _crash(self, machine: Machine, reason: str, outcome: Reason) -> Stopped:
        runtime = self._runtime
        runtime.registry.bury(machine.name, reason, runtime.clock.time())
        done = await self._end(machine, reason, outcome, crashed=True)
        recipe = self._recipes.get(machine.name)
        if recipe is None or runtime.closing or not recipe.allows(runtime.clock.monotonic()):
            self._recipes.pop(machine.name, None)
            return done
        try:
            await recipe.again()
        except Exception as exc:
            self._recipes.pop(machine.name, None)
            logger.error("agent %s could not be restarted: it %s", machine.name, callbacks.describe(exc))
        return done

    async def _end(self, machine: Machine, reason: str, outcome: Reason, *, crashed: bool = False) -> Stopped:
        """Fail what waits, run `terminate_agent`, end the backend session, free the name: in this order."""
        try:
            failed = self._fail_all(machine, Failed(outcome, reason))
            await _remembered(machine)
            if machine.hooks.terminate_agent:
                await self._terminate_agent(machine, reason)
            processes = await self._terminate_backend(machine)
            lose_background(machine, CUT_OFF.get(reason, f"cut off: {reason}"))
            await _remembered(machine)
        finally:
            self._forget(machine)
        event = telemetry.AGENT_CRASHED if crashed else telemetry.AGENT_STOPPED
        machine.telemetry.execute(event, {}, {"agent": machine.name, "reason": reason})
        return Stopped(failed, processes)

    def _fail_all(self, machine: Machine, outcome: Failed) -> tuple[str, ...]:
        """End every request that is left, the one in flight first; return their refs."""
        failed = machine.take_all()
        notifications.drop(machine)
        if machine.alarm is not None:
            machine.alarm.cancel()
        expire_all(machine, "the session was stopped")
        turn, machine.turn = machine.turn, None
        if turn is not None:
            # The turn was left in the middle: a crash, or a stop between two attempts.
            busy.emit_end(machine, turn, turn.request.outcome or outcome)
            if turn.request.outcome is None:
                failed.insert(0, turn.request)
            else:
                machine.resolve(turn.request, turn.request.outcome)
        end_unrun(machine, failed, outcome)
        return tuple(request.ref for request in failed)

    def not_remembered(self, machine: Machine, request: Request, exc: TollboardError) -> None:
        """Report an end that could not be made durable; whoever waits hears of it all the same."""
        logger.error(
            "agent %s: the end of %s could not be remembered: %s", machine.name, request.ref, exc.code
        )

    async def _terminate_agent(self, machine: Machine, reason: str) -> None:
        token = callbacks.current.set(machine)
        try:
            value = callbacks.call(machine, "terminate_agent", machine.agent.terminate_agent, reason)
            await callbacks.finish(machine, "terminate_agent", value)
        except Crash as exc:
            # It is ending already: nothing may keep the backend session and the name.
            callbacks.report(machine, callbacks.Raised("terminate_agent", callbacks.describe(exc)))
        finally:
            callbacks.current.reset(token)

    async def _terminate_backend(self, machine: Machine) -> ProcessReport:
        if machine.session is None:
            return NO_PROCESSES
        try:
            return await machine.backend.terminate_session(machine.session)
        except Exception as exc:
            logger.error("agent %s: ending the backend session %s", machine.name, callbacks.describe(exc))
            return ProcessReport(unverified=(f"ending the backend session failed: {type(exc).__name__}",))

    def _forget(self, machine: Machine) -> None:
        machine.phase = Phase.DEAD
        for subscription in tuple(machine.subscriptions or ()):
            subscription.close()
        if machine.endings is not None:
            for ref in machine.endings.results:
                self._runtime.refs.pop(ref, None)
            machine.endings.results.clear()  # a handle that somebody kept keeps no responses
        self._runtime.registry.remove(machine)

    async def close(self, deadline_s: float) -> tuple[str, ...]:
        """Stop every agent, newest first, within the deadline; return the names of those that did not end in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        for machine in reversed(tuple(self._runtime.registry)):
            _ = self.stop(machine, "the runtime closes")
        ends = dict(self._ends)
        late: tuple[str, ...] = ()
        if ends:
            _, pending = await asyncio.wait(ends.values(), timeout=deadline_s)
            if pending:
                stuck = [machine for machine, task in ends.items() if task in pending]
                late = tuple(machine.name for machine in stuck)
                await self._abandon(stuck, [ends[machine] for machine in stuck])
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=max(0.0, until - loop.time()))
        for spawned in tuple(self._tasks):
            spawned.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=LAST_WORD_S)
        return late

    async def _abandon(self, machines: list[Machine], ends: list[asyncio.Task[Stopped]]) -> None:
        """Give up on agents that do not end: cancel what they wait for, and tell everyone who waits for them."""
        turns = [machine.task for machine in machines if machine.task is not None and not machine.task.done()]
        for turn in turns:
            turn.cancel()
        if turns:
            await asyncio.wait(ends, timeout=LAST_WORD_S)
        for end in ends:
            end.cancel()
        await asyncio.wait(ends, timeout=LAST_WORD_S)
        for machine in machines:
            left = machine.take_all() + [request for request, _ in (machine.leaving or {}).values()]
            if machine.turn is not None:
                left.insert(0, machine.turn.request)
            for request in left:
                machine.resolve(request, request.outcome or Failed(Reason.STOPPED, "the runtime was closed"))
                request.on_complete = None  # whatever still clings to life: nothing is told twice
            self._forget(machine)


async def _remembered(machine: Machine) -> None:
    """Wait until the end of everything that ended without a turn is durable."""
    while machine.leaving is not None:
        await asyncio.wait([task for _, task in machine.leaving.values()])
