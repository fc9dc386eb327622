"""A daemon that does not answer: whether it still lives, found out for whoever waits, and what to say when it does not.

A call may take as long as it takes: a `wait` goes on for days. So its time is not limited. When nothing has come for a
few seconds, it is looked here, on another connection and with a question that costs next to nothing, whether the daemon
answers anything; as long as it does, the call is waited for. `connection` has its calls watched here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tollboard.clock import Clock, SystemClock, Timer
from tollboard.daemon.config import StateDirectory
from tollboard.daemon.single import may_be_starting, owner_pid
from tollboard.daemon.transport import Call, SocketTransport, Unanswered
from tollboard.errors import DaemonFrozen

if TYPE_CHECKING:
    from tollboard.operations.catalogue import AnyOperation

UNSURE = ": what was asked may have been done, or may be done yet"
KEYED = f"{UNSURE} (sent again with the same key, the prompt runs once)"
NOTHING_ASKED = ", so nothing was asked of it"


class Pulse:
    """Implements `Watch` for the calls of one client. Those that are silent at the same time share one look.

    One timer is for all. A call that begins sets it unless it is set, and nobody moves it: when it rings it sees who
    has waited for too long. So calls that are quick cost no timer each.
    """

    def __init__(
        self, http: SocketTransport, *, silence_s: float, look_s: float, clock: Clock | None = None
    ) -> None:
        self._silence_s = silence_s
        self._look_s = look_s
        self._http = http
        self._clock = clock or SystemClock()
        self._waiting: dict[Call, float] = {}
        """Since when, the oldest first."""
        self._timer: Timer | None = None
        self._looking = asyncio.Lock()
        self._looks = 0
        self._alive = True
        self._found: int | None = None
        """The process that answered the last look, if the system says."""

    def begin(self, call: Call) -> None:
        """See `Watch.begin`."""
        self._waiting[call] = self._clock.monotonic()
        if self._timer is None:
            self._timer = self._clock.call_later(self._silence_s, self._ring)

    def end(self, call: Call) -> None:
        """See `Watch.end`."""
        del self._waiting[call]

    def close(self) -> None:
        """Watch no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer, now = None, self._clock.monotonic()
        for call, since in self._waiting.items():
            left_s = since + self._silence_s - now
            if left_s > 0:
                self._timer = self._clock.call_later(left_s, self._ring)
                return
            call.fall_silent()

    async def doubt(self, pid: int | None) -> None:
        """See `Watch.doubt`: the daemon must answer, and be the process that was asked."""
        came, looks = self._clock.monotonic(), self._looks
        async with self._looking:
            if looks == self._looks:
                await self._look()
                self._looks += 1
        # Who was taken over from may stand still for good, and its successor knows nothing of the call.
        successor = self._found if pid is not None and self._found != pid else None
        if not self._alive or successor is not None:
            raise Unanswered(self._silence_s + self._clock.monotonic() - came, pid, successor)

    async def _look(self) -> None:
        self._alive, self._found = True, None
        try:
            async with self._http.stream("GET", "/v1/health", timeout_s=self._look_s) as answer:
                await answer.read(timeout_s=self._look_s)  # whatever it says
                self._found = answer.pid
        except Unanswered:
            self._alive = False
        except OSError:
            pass  # it has ended or is about to: then the call's own connection ends too, and that is what is told


def fate(operation: AnyOperation, given: Mapping[str, object]) -> str:
    """Return what is known of a call that was not answered, to be said after what happened."""
    if not operation.mutates and not given.get("ack"):
        return ""
    return KEYED if "key" in given else UNSURE


def frozen(home: StateDirectory, exc: Unanswered, known: str = "") -> DaemonFrozen:
    """Return the error for a daemon that did not answer in time; `known` is the fate of what it was asked."""
    pid = exc.pid or owner_pid(home)
    silent = f"has not answered for {exc.silent_s:.3g} s"
    if exc.successor is not None:
        return DaemonFrozen(
            f"the daemon (pid {pid}) {silent}, and another (pid {exc.successor}) has taken its place{known}; that one "
            "answers: see how things stand with `tollboard list`"
        )
    stopped = "is stopped and " if is_stopped(pid) else ""
    known = known if exc.asked else NOTHING_ASKED
    return DaemonFrozen(
        f"the daemon (pid {pid or 'unknown'}) {stopped}{silent}{known}; {remedies(home, pid)}"
    )


def remedies(home: StateDirectory, pid: int | None) -> str:
    """Return what a person can do about a daemon that is there and does nothing."""
    if is_stopped(pid):
        first = f"let it go on with `kill -CONT {pid}`,"
    else:
        first = f"{'it may be starting, ' if may_be_starting(home) else ''}see its log {str(home.log)!r}; if it hangs,"
    end = "that process" if pid is None else f"it with `kill -KILL {pid}`"
    return (
        f"{first} end {end} (what it had accepted is kept, and any command starts another), or replace it with "
        "`tollboard serve --take-over`"
    )


def is_stopped(pid: int | None) -> bool:
    """Whether a signal has stopped the process: then it is known what lets it go on."""
    import psutil

    if pid is None:
        return False
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
