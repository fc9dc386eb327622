"""Time behind a small port: what the runtime reads and what wakes it. Tests put `tollboard.testing.FakeClock` here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A wake-up that can be called off."""

    def cancel(self) -> None:
        """Call the wake-up off; nothing happens if it has fired."""


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Return seconds that only go forward; durations are differences of these."""

    def time(self) -> float:
        """Return seconds since the Unix epoch; what people and the database see."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the loop after `delay_s` seconds."""


class SystemClock:
    """The machine's clock and the running loop's timers."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the running loop after `delay_s` seconds."""
        return asyncio.get_running_loop().call_later(delay_s, callback)
