"""What is kept of told requests that have ended: a bounded cache of outcomes, and who waits for one (R06-R08, R50)."""

from __future__ import annotations

from asyncio import Future
from typing import TYPE_CHECKING

from tollboard.runtime.callbacks import tell_complete
from tollboard.runtime.request import Request
from tollboard.runtime.results import Completed, Outcome

if TYPE_CHECKING:
    from tollboard.runtime.machine import Machine


def _weight(outcome: Outcome) -> int:
    if isinstance(outcome, Completed):
        return len(outcome.response.text) + outcome.response.coverage.bytes_kept
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
