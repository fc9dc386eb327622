"""A runtime on a fake clock, a puppet backend, and a recorder of everything that is emitted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.runtime.puppet import Puppet
from tollboard.runtime.runtime import Runtime
from tollboard.testing.clock import FakeClock
from tollboard.testing.recorder import TelemetryRecorder


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def backend() -> Puppet:
    return Puppet()


@pytest.fixture
async def runtime(clock: FakeClock) -> AsyncIterator[Runtime]:
    """Yield a runtime; closing it must leave no task behind (R36)."""
    before = asyncio.all_tasks()
    runtime = Runtime(clock=clock)
    yield runtime
    await runtime.close(deadline_s=5)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture
def seen(runtime: Runtime) -> TelemetryRecorder:
    return TelemetryRecorder(runtime.telemetry)
