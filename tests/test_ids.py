"""Refs: valid, unique, and sorted in the order they were made, whatever the clock does."""

from __future__ import annotations

import uuid

import pytest

from tollboard import ids


def test_refs_are_uuids_of_version_seven() -> None:
    made = uuid.UUID(ids.new_ref())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_refs_sort_in_the_order_they_were_made() -> None:
    made = [ids.new_ref() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_refs_stay_in_order_when_the_clock_stands_still_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [ids.time.time_ns() + 3_600_000_000_000]
    monkeypatch.setattr(ids.time, "time_ns", lambda: clock[0])
    monkeypatch.setattr(ids, "_STEP_BITS", 44)  # so that a millisecond is full after a few refs
    made = [ids.new_ref() for _ in range(100)]
    clock[0] -= 60_000_000_000
    made += [ids.new_ref() for _ in range(100)]
    assert made == sorted(set(made))
    assert all(uuid.UUID(ref).version == 7 for ref in made)
    ids._last_ms = 0  # the other tests have their own time back


def test_a_forked_child_draws_its_own_refs() -> None:
    before = ids.new_ref()
    ids._reseed()
    assert ids.new_ref()[:23] != before[:23]
