"""What the operations on pools take: plain strings as tasks, roles with more than a number."""

from __future__ import annotations

import pytest

from tollboard.errors import Invalid
from tollboard.operations.catalogue import OPERATIONS
from tollboard.operations.wire import parse_arguments
from tollboard.pool.records import Task
from tollboard.pool.role import Role


def test_p14_tasks_may_be_plain_strings_beside_others() -> None:
    given = {"name": "p", "tasks": ["one", {"prompt": "two", "role": "coder"}]}
    assert parse_arguments(OPERATIONS["pool_submit"], given).given() == ["one", Task("two", "coder", None)]


def test_p16_roles_and_settings_reach_the_board_with_the_options() -> None:
    given = {
        "name": "p", "path": "/", "conversation": "kept", "recycle_turns": 9, "options": {"delay": 1},
        "roles": {"a": 2, "b": {"prompt": "You b.", "backend": "echo", "options": {"chunks": 2}}},
    }  # fmt: skip
    asked = parse_arguments(OPERATIONS["pool_start"], given).asked()
    assert asked["roles"] == {"a": 2, "b": Role(prompt="You b.", backend="echo", options={"chunks": 2})}
    assert (asked["conversation"], asked["recycle_turns"], asked["delay"]) == ("kept", 9, 1)


@pytest.mark.parametrize("name", ["roles", "conversation", "recycle_tokens", "size"])
def test_p16_a_setting_among_the_options_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="give it beside the options"):
        parse_arguments(OPERATIONS["pool_start"], {"name": "p", "path": "/", "options": {name: 1}})
