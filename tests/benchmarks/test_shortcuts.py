"""The hot path's shortcuts keep what the plain way would promise."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import time
import uuid
from typing import Any

import pytest

from tollboard import ids
from tollboard.runtime.event import ResultEvent, TextEvent, Usage
from tollboard.runtime.fold import Fold
from tollboard.runtime.options import DEFAULTS
from tollboard.runtime.response import Coverage, Response
from tollboard.runtime.results import Completed


def drafted() -> Response:
    fold = Fold(DEFAULTS)
    fold.add(TextEvent("hello"))
    fold.add(ResultEvent())
    return fold.response(ResultEvent(), 1.5, "id")


def test_a_drafted_response_is_a_response() -> None:
    events = (TextEvent("hello"), ResultEvent())
    plain = Response("hello", "hello", (), events, None, 1.5, "id", 5)
    response = drafted()
    assert type(response) is Response
    assert response == plain
    assert hash(response) == hash(plain)
    assert repr(response) == repr(plain)
    assert response.coverage == Coverage(2, 2, 5, 5)
    assert pickle.loads(pickle.dumps(response)) == copy.copy(response) == plain


def test_a_drafted_response_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        drafted().text = "another"  # type: ignore[misc]
    assert dataclasses.replace(drafted(), text="another").text == "another"


VALUES = [TextEvent("secret", "m"), ResultEvent("secret", Usage(1, 2), "a session"), Completed(drafted())]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_of_every_turn_is_what_dataclass_would_have_made_of_it(value: Any) -> None:
    given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for same in (type(value)(**given), type(value)(*given.values()), dataclasses.replace(value)):
        assert same == value
        assert hash(same) == hash(value)
    assert pickle.loads(pickle.dumps(value)) == copy.copy(value) == value
    assert "secret" not in repr(value)
    for name in given:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(value, name)


def test_what_an_event_leaves_out_has_its_default() -> None:
    assert TextEvent("a").message == ""
    empty = ResultEvent()
    assert (empty.text, empty.usage, empty.session) == (None, None, None)


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


def test_refs_sort_when_a_millisecond_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    now = ids.time.time_ns()
    monkeypatch.setattr(ids.time, "time_ns", lambda: now)
    monkeypatch.setattr(ids, "_STEP_BITS", 44)
    refs = [ids.new_ref() for _ in range(200)]
    assert refs == sorted(set(refs))
    assert len({ref[:13] for ref in refs}) > 5
    assert all(str(uuid.UUID(ref)) == ref for ref in refs)


def test_a_forked_child_draws_refs_of_its_own() -> None:
    before = ids.new_ref()
    ids._reseed()
    assert ids.new_ref()[14:23] != before[14:23]
