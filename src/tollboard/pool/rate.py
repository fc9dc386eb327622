"""The rate limit of a pool: a token bucket that says how long to wait and never waits itself (P10)."""

from __future__ import annotations

import re

from tollboard.clock import Clock
from tollboard.errors import InvalidOption

_PER = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
}
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*([a-z]+)\s*\Z")
_ROUNDING = 1e-6
_SHORTEST_S = 1e-6


class TokenBucket:
    """At most `burst` at once and `rate` per second in the long run.

    bucket = TokenBucket(rate=5, burst=10, clock=clock)
    if bucket.take(): ...
    else: clock.call_later(bucket.delay_s(), again)
    """

    __slots__ = ("_at", "_clock", "_tokens", "burst", "rate")

    def __init__(self, *, rate: float, burst: int, clock: Clock) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock.monotonic()

    def take(self) -> bool:
        """Take one token; return whether there was one."""
        self._refill()
        if self._tokens < 1.0 - _ROUNDING:
            return False
        self._tokens -= 1.0
        return True

    def give_back(self) -> None:
        """Return a token that was taken and not used."""
        self._tokens = min(float(self.burst), self._tokens + 1.0)

    def delay_s(self) -> float:
        """Return how long until there is a token; 0 if there is one."""
        self._refill()
        if self._tokens >= 1.0 - _ROUNDING:
            return 0.0
        # Never so short that rounding loses it: a timer would ring for ever at the same moment.
        return max(_SHORTEST_S, (1.0 - self._tokens) / self.rate)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(float(self.burst), self._tokens + (now - self._at) * self.rate)
        self._at = now


def parse_rate(value: object) -> float:
    """Return a rate per second from a number or from text such as `5/s`, `300/min`, `1000/h`. Raises InvalidOption."""
    rate: float | None = None
    if isinstance(value, str):
        if (match := _RATE.match(value)) is not None and match[2] in _PER:
            rate = float(match[1]) / _PER[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        rate = float(value)
    if rate is None or not 0 < rate < float("inf"):
        raise InvalidOption(
            f"rate is {value!r}: it must be above 0, as tasks per second or as '5/s', '300/min', '1000/h'"
        )
    return rate
