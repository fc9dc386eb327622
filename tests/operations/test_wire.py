"""Values and errors as JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollboard import errors
from tollboard.errors import Overloaded, RateLimited, TollboardError, TurnFailed
from tollboard.operations.wire import error_answer, rebuild_error, status_of

CLASSES = sorted(errors.by_code().values(), key=lambda cls: cls.code)


def make(cls: type[TollboardError]) -> TollboardError:
    if cls is Overloaded:
        return Overloaded("mailbox", limit=10, size=11, unit="bytes")
    if cls is TurnFailed:
        return TurnFailed("timeout", "600 s")
    return RateLimited(2.5) if cls is RateLimited else cls("what happened")


def travel(error: TollboardError) -> TollboardError:
    return rebuild_error(json.loads(error_answer(error).model_dump_json()))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_s20_every_error_arrives_as_it_was(cls: type[TollboardError]) -> None:
    error = make(cls)
    arrived = travel(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_every_error_has_a_status_and_only_the_daemons_own_trouble_is_a_5xx(
    cls: type[TollboardError],
) -> None:
    ours = issubclass(cls, errors.StoreError | errors.DaemonError)
    assert (status_of(make(cls)) >= 500) == ours


@pytest.mark.parametrize(
    "answer",
    [
        None, [], "text", {}, {"error": None}, {"error": {"code": "denied"}}, {"error": {"code": 1, "message": "x"}},
        {"error": {"code": "overloaded", "message": "full", "data": {"colour": 1}}},
        {"error": {"code": "turn_failed", "message": "x", "data": {}}},
        {"error": {"code": "from_the_future", "message": "x"}},
    ],
)  # fmt: skip
def test_an_answer_that_nobody_understands_is_still_an_error(answer: Any) -> None:
    assert isinstance(rebuild_error(answer), TollboardError)


@given(
    st.recursive(st.none() | st.text() | st.integers(), lambda x: st.dictionaries(st.text(), x) | st.lists(x))
)
def test_any_json_is_rebuilt_as_some_error(answer: object) -> None:
    assert isinstance(rebuild_error(answer), TollboardError)
