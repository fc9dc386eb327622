"""The hot path's shortcuts keep what the plain way would promise."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import time
import uuid

import pytest

from tollboard import ids
from tollboard.runtime.event import ResultEvent, TextEvent
from tollboard.runtime.fold import Fold
from tollboard.runtime.options import DEFAULTS
from tollboard.runtime.response import Coverage, Response


def drafted() -> Response:
    fold = Fold(DEFAULTS)
    fold.add(TextEvent("hello"))
    fold.add(ResultEvent())
    return fold.response(ResultEvent(), 1.5, "id")


def test_a_drafted_response_is_a_response() -> None:
    events = (TextEvent("hello"), ResultEvent())
    plain = Response("hello", "hello", (), events, None, 1.5, "id", Coverage(2, 2, 5, 5))
    response = drafted()
    assert type(response) is Response
    assert response == plain
    assert hash(response) == hash(plain)
    assert repr(response) == repr(plain)
    assert pickle.loads(pickle.dumps(response)) == copy.copy(response) == plain


def test_a_drafted_response_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        drafted().text = "another"  # type: ignore[misc]
    assert dataclasses.replace(drafted(), text="another").text == "another"


def test_refs_are_uuids_of_version_7_and_sort_as_they_were_made() -> None:
    refs = [ids.new_ref() for _ in range(20_000)]
    assert refs == sorted(set(refs))
    for ref in refs[::1_000]:
        found = uuid.UUID(ref)
        assert str(found) == ref
        assert (found.version, found.variant) == (7, uuid.RFC_4122)
        assert abs((found.int >> 80) - time.time() * 1000) < 60_000


def test_refs_sort_while_the_clock_stands_still_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids.new_ref()
    later = ids._last_ms * 1_000_000
    monkeypatch.setattr(ids.time, "time_ns", lambda: later)
    still = [ids.new_ref() for _ in range(10_000)]
    monkeypatch.setattr(ids.time, "time_ns", lambda: later - 5_000_000_000)
    back = [ids.new_ref() for _ in range(10)]
    refs = [first, *still, *back]
    assert refs == sorted(set(refs))
