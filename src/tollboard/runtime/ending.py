"""The ends of requests: of those that no turn will end, and a bounded cache of outcomes (R06-R08, R50)."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tollboard.errors import TollboardError
from tollboard.runtime.approvals import UNDECIDED, expire_unasked
from tollboard.runtime.callbacks import tell_complete
from tollboard.runtime.request import ASK, Request
from tollboard.runtime.results import Completed, Failed, Outcome, Pending, PollResult

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine


def _weight(outcome: Outcome) -> int:
    if isinstance(outcome, Completed):
        return len(outcome.response.text) + outcome.response.bytes_kept
    return len(outcome.detail)


class Endings:
    """One agent's outcomes by ref, oldest first. Made at the first told request that ends."""

    __slots__ = ("_bytes", "_machine", "_waiters", "results")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._bytes = 0
        self._waiters: dict[str, list[Future[Outcome]]] | None = None
        self.results: dict[str, Outcome] = {}

    def deliver(self, request: Request, outcome: Outcome) -> None:
        """Keep the outcome and hand it to everyone who waits; waiters get it even if it is evicted at once (E48)."""
        ref = request.ref
        self.results[ref] = outcome
        self._bytes += _weight(outcome)
        options = self._machine.options
        while len(self.results) > options.max_results or (
            self._bytes > options.max_result_bytes and self.results
        ):
            self._evict()
        if request.on_complete is not None:
            tell_complete(self._machine, request.on_complete, ref, outcome)
        if self._waiters is not None:
            for waiter in self._waiters.pop(ref, ()):
                if not waiter.done():
                    waiter.set_result(outcome)

    def wait(self, ref: str, waiter: Future[Outcome]) -> None:
        """Resolve the future with the outcome of this request, which has not ended yet."""
        if self._waiters is None:
            self._waiters = {}
        self._waiters.setdefault(ref, []).append(waiter)

    def forget(self, ref: str, waiter: Future[Outcome]) -> None:
        """Take a waiter back that no longer waits."""
        waiters = self._waiters.get(ref) if self._waiters is not None else None
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters and self._waiters is not None:
                del self._waiters[ref]

    def _evict(self) -> None:
        ref = next(iter(self.results))
        self._bytes -= _weight(self.results.pop(ref))
        self._machine.runtime.refs.pop(ref, None)


def poll(machine: Machine, ref: str) -> PollResult | None:
    """Return how a told request stands, `None` if it is unknown or evicted."""
    endings = machine.endings
    if endings is not None and (outcome := endings.results.get(ref)) is not None:
        return outcome
    request = machine.pending(ref)
    if request is None or request.origin is ASK:
        return None
    before = machine.waits_upnext()
    if request is machine.upnext:
        return Pending(before)
    position = machine.mailbox.position(ref) if machine.mailbox is not None else None
    return Pending(0 if position is None else position + before)


def end_unrun(
    machine: Machine, requests: list[Request], outcome: Failed, then: Callable[[Request], None] | None = None
) -> None:
    """End requests that no turn will end: remember it, then resolve them, then do what follows."""
    for request in requests:
        request.outcome = outcome
        expire_unasked(machine.journal, machine.telemetry, request, UNDECIDED)
        commit = machine.journal.finished(request, outcome, 0.0)
        if commit is None:
            machine.resolve(request, outcome)
            if then is not None:
                then(request)
            continue
        if machine.leaving is None:
            machine.leaving = {}
        task = machine.runtime.spawn(_resolve_after(machine, commit, request, outcome, then))
        machine.leaving[request.ref] = (request, task)


async def _resolve_after(
    machine: Machine, commit: Awaitable[None], request: Request, outcome: Failed,
    then: Callable[[Request], None] | None,
) -> None:  # fmt: skip
    try:
        await commit
    except TollboardError as exc:
        machine.runtime.supervisor.not_remembered(machine, request, exc)
    finally:
        if machine.leaving is not None:
            machine.leaving.pop(request.ref, None)
            machine.leaving = machine.leaving or None
        machine.resolve(request, outcome)
        if then is not None:
            then(request)
