"""The tree of errors as a whole."""

from __future__ import annotations

from tollboard import errors


def test_a_class_without_a_code_of_its_own_does_not_take_its_parents() -> None:
    class Narrower(errors.BackendError):
        pass

    assert errors.by_code()[Narrower.code] is errors.BackendError
