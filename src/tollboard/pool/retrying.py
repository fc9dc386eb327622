"""What becomes of a task whose turn failed: whether it runs again, when, and whose fault it was (P17, P18)."""

from __future__ import annotations

import random

from tollboard.runtime.event import ErrorCause
from tollboard.runtime.results import Failed, Reason

GONE = frozenset({Reason.CRASHED, Reason.STOPPED, Reason.DRAINING, Reason.PRE_RUN_FAILED})
"""The worker is going away; a task that had not begun there moves on."""
_BACKEND = frozenset({Reason.BACKEND_ERROR, Reason.STREAM_CRASHED, Reason.NO_TERMINAL_EVENT, Reason.TIMEOUT})
_RETRIED = GONE | _BACKEND
_IN_VAIN = frozenset({ErrorCause.REFUSED, ErrorCause.OVERFLOW})
"""The same prompt would fail again. An overflow by the tasks before it is not looked at here."""
_NOT_THE_WORKERS = frozenset({ErrorCause.REFUSED, ErrorCause.OVERLOADED, ErrorCause.OVERFLOW})

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_ASKED_S = 300.0
"""A provider that asks for a longer pause is asked again after this one."""
FAILURES_IN_A_ROW = 3
"""After so many a worker is replaced."""


def may_succeed(outcome: Failed) -> bool:
    """Return whether the same prompt may succeed: after a lost worker, a timeout, an overload, an unknown failure.

    A person's decision (interrupt, cancel, stop) is never undone by a retry.
    """
    return (outcome.reason in _RETRIED or _lost(outcome)) and outcome.cause not in _IN_VAIN


def pause_s(outcome: Failed, attempt: int) -> float:
    """Return how long to wait before the next attempt: 0 unless the provider is overloaded.

    Twice as long after each attempt, spread at random so that the workers do not come back together; never shorter
    than the provider asked for.
    """
    if outcome.cause is not ErrorCause.OVERLOADED:
        return 0.0
    doubled = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 16))
    asked = min(LONGEST_ASKED_S, max(0.0, outcome.retry_after_s or 0.0))
    return max(asked, doubled * random.uniform(0.75, 1.0))


def is_the_workers(outcome: Failed) -> bool:
    """Return whether another worker might have succeeded: the failure is neither the provider's nor the request's."""
    return (outcome.reason in _BACKEND or _lost(outcome)) and outcome.cause not in _NOT_THE_WORKERS


def _lost(outcome: Failed) -> bool:
    """Tell a worker whose program ended in the middle from one that a person interrupted."""
    return outcome.reason is Reason.INTERRUPTED and outcome.cause is ErrorCause.BROKEN
