"""Alarms and references, as plain functions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tollboard.errors import InvalidOption
from tollboard.fleet.secrets import refuse_secrets
from tollboard.fleet.settings import alarms, asked, resolve_references


@pytest.mark.parametrize(
    ("name", "wanted", "found", "alarm"),
    [
        ("model", "sonnet", "claude-sonnet-4-5", False),
        ("model", "claude-sonnet-4-5", "claude-sonnet-4-5", False),
        ("model", "opus", "claude-sonnet-4-5", True),
        ("permission_mode", "default", "default", False),
        ("permission_mode", "default", "bypassPermissions", True),
        ("cwd", "/tmp", "/", True),
    ],
)
def test_s24_each_difference_is_one_sentence(name: str, wanted: str, found: str, alarm: bool) -> None:
    said = alarms({name: wanted}, {name: found, "extra": "x"})
    assert len(said) == alarm
    assert all(wanted in text and found in text for text in said)


def test_s24_two_names_of_one_directory_are_no_difference(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert alarms(asked(str(tmp_path), {}), {"cwd": str(tmp_path / "link")}) == ()
    assert asked("/x", {"model": None, "permission_mode": "plan", "other": 1}) == {
        "cwd": "/x",
        "permission_mode": "plan",
    }


def test_s01_references_stand_only_where_secrets_do() -> None:
    options = {
        "env": {"A": "$NAME", "B": "$NAME and more", "C": "$5"}, "script": ["$NAME"], "n": 3,
        "servers": {"x": {"headers": {"H": "$NAME"}, "args": ["$NAME"], "list": [{"env": {"Z": "$NAME"}}]}},
    }  # fmt: skip
    resolved = resolve_references(options, {"NAME": "value"})
    assert resolved == {
        "env": {"A": "value", "B": "$NAME and more", "C": "$5"}, "script": ["$NAME"], "n": 3,
        "servers": {"x": {"headers": {"H": "value"}, "args": ["$NAME"], "list": [{"env": {"Z": "value"}}]}},
    }  # fmt: skip
    with pytest.raises(InvalidOption, match="NAME is not set"):
        resolve_references(options, {})
    refuse_secrets({"env": {"PATH": os.defpath, "API_KEY": "$API_KEY", "TOKEN": ""}, "api_key_helper": "x"})
