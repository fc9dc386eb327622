"""Fairness: how many busy periods may be runnable at once, so that the loop keeps answering (R40).

A busy period is *runnable* from the moment its task is scheduled until it runs. asyncio runs everything that is
runnable in one pass before it looks at anything else, so a thousand runnable turns are a pass of a thousand turns.
Here at most `cap` are runnable; the others wait in a FIFO and each one that runs lets the next in. Turns that wait for
a model are not runnable and do not count.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future, get_running_loop, sleep
from collections import deque
from typing import TYPE_CHECKING

from tollboard.runtime import busy

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine

DEFAULT_CAP = 16


class Scheduler:
    """Starts busy periods and hands out slots between their turns."""

    __slots__ = ("_cap", "_loop", "_runnable", "_waiting")

    def __init__(self, cap: int = DEFAULT_CAP) -> None:
        self._cap = cap
        self._loop: AbstractEventLoop | None = None
        self._runnable = 0
        self._waiting: deque[Machine | Future[None]] = deque()

    def start(self, machine: Machine) -> None:
        """Begin a busy period for the machine, now or when its slot comes."""
        if self._runnable < self._cap:
            self._runnable += 1
            self._launch(machine)
        else:
            self._waiting.append(machine)

    def running(self) -> None:
        """Say that a runnable busy period has begun to run: its slot goes to the next in line."""
        while self._waiting:
            following = self._waiting.popleft()
            if isinstance(following, Future):
                if following.done():
                    continue
                following.set_result(None)
            else:
                self._launch(following)
            return
        self._runnable -= 1

    async def slot(self) -> None:
        """Let others run, then wait for a slot. Called by a busy period between turns."""
        if self._runnable < self._cap:
            self._runnable += 1
            try:
                await sleep(0)
            finally:
                self.running()
            return
        waiter: Future[None] = (self._loop or get_running_loop()).create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            # A waiter cancelled while it stood in line never held a slot; in every other case the slot goes on.
            if not waiter.cancelled():
                self.running()

    def _launch(self, machine: Machine) -> None:
        loop = self._loop
        if loop is None:
            loop = self._loop = get_running_loop()
        machine.task = loop.create_task(busy.busy_period(machine))
