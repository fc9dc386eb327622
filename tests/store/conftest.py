"""An open store in a directory of its own, and the manual clock it runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.store.samples import ManualClock
from tollboard.store.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tollboard.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    opened = await Store.open(path, clock=clock)
    yield opened
    await opened.close()
