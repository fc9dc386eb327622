"""The admin token of a state directory, and narrower ones made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tollboard.daemon.config import StateDirectory
from tollboard.daemon.tokens import admin_token, narrow_token
from tollboard.errors import Denied, Invalid, NotFound
from tollboard.fleet.records import Caller
from tollboard.operations.access import Capability, read_token


def test_s27_a_narrow_token_allows_what_was_named_and_is_recorded_under_its_name(tmp_path: Path) -> None:
    home = StateDirectory(tmp_path)
    home.token.write_text("the secret\n")
    access = read_token(
        admin_token(home), narrow_token(home, ["read", "send"], "ci"), Caller("http", "forged")
    )
    assert access.capabilities == {Capability.READ, Capability.SEND}
    assert access.caller == Caller("http", "ci")


@pytest.mark.parametrize("wrong", [["reed"], ["read", "Admin"], [""], []])
def test_a_capability_that_there_is_not_is_refused_with_the_known_ones(
    tmp_path: Path, wrong: list[str]
) -> None:
    home = StateDirectory(tmp_path)
    home.token.write_text("the secret\n")
    with pytest.raises(Invalid, match="read, send, approve, configure, admin"):
        narrow_token(home, wrong, "ci")


def test_a_token_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    home = StateDirectory(tmp_path)
    with pytest.raises(NotFound, match="first daemon makes it"):
        admin_token(home)
    home.token.write_bytes(b"\xff\xfe")
    with pytest.raises(Denied, match="not text; remove it"):
        admin_token(home)
    with pytest.raises(
        Denied, match="cannot be read: Not a directory; it is its owner's alone: be that user"
    ):
        admin_token(StateDirectory(home.token))
