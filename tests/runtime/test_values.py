"""The values that every turn makes: frozen, equal by content, silent about content, whoever wrote their `__init__`."""

from __future__ import annotations

from copy import copy
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from tollboard.runtime.event import ResultEvent, TextEvent, Usage
from tollboard.runtime.response import Coverage, Response
from tollboard.runtime.results import Completed

RESPONSE = Response("secret", "secret", (), (), None, 0.0, None, Coverage(0, 0, 0, 0))
VALUES = [TextEvent("secret", "m"), ResultEvent("secret", Usage(1, 2), "a session"), Completed(RESPONSE)]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_frozen_and_equal_by_content(value: Any) -> None:
    given = {field.name: getattr(value, field.name) for field in fields(value)}
    assert type(value)(**given) == type(value)(*given.values()) == replace(value) == copy(value) == value
    assert hash(type(value)(**given)) == hash(value)
    assert "secret" not in repr(value)
    for name in given:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)
        with pytest.raises(FrozenInstanceError):
            delattr(value, name)


def test_what_is_left_out_has_its_default() -> None:
    assert TextEvent("a").message == ""
    empty = ResultEvent()
    assert (empty.text, empty.usage, empty.session) == (None, None, None)
