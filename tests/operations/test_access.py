"""Capabilities and the tokens that carry them (S27)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollboard.errors import Denied, Invalid
from tollboard.fleet.records import Caller
from tollboard.operations.access import ALL, Access, Capability, derive_token, plain, read_token

SECRET = "s" * 43
CALLER = Caller("cli", "alice")
READ_SEND = frozenset({Capability.READ, Capability.SEND})


def test_s27_the_admin_token_may_do_everything_as_who_it_says_it_is() -> None:
    access = read_token(SECRET, SECRET, CALLER)
    assert access == Access(CALLER, ALL)
    for capability in Capability:
        access.require(capability)


def test_s27_a_derived_token_carries_its_own_name_and_no_more_than_its_capabilities() -> None:
    access = read_token(SECRET, derive_token(SECRET, "mcp", READ_SEND), CALLER)
    assert access == Access(Caller("cli", "mcp"), READ_SEND)
    access.require(Capability.READ)
    access.require(Capability.SEND)
    for missing in (Capability.APPROVE, Capability.CONFIGURE, Capability.ADMIN):
        with pytest.raises(Denied, match=f"may read, send, not {missing}"):
            access.require(missing)


def test_admin_includes_the_others() -> None:
    Access(CALLER, frozenset({Capability.ADMIN})).require(Capability.APPROVE)


def test_a_token_without_capabilities_is_not_made() -> None:
    with pytest.raises(Invalid, match="read, send, approve, configure, admin"):
        derive_token(SECRET, "x", frozenset())


@pytest.mark.parametrize("capability", Capability)
def test_a_token_of_another_daemon_is_refused(capability: Capability) -> None:
    with pytest.raises(Denied, match="not valid"):
        read_token(SECRET, derive_token("another", "mcp", frozenset({capability})), CALLER)


@given(st.text())
def test_no_other_text_is_a_token(text: str) -> None:
    if text != SECRET:
        with pytest.raises(Denied):
            read_token(SECRET, text.encode("utf-8", "replace").decode(), CALLER)


@given(st.integers(0, 120), st.characters(codec="ascii", categories=["L", "N"]))
def test_a_token_that_was_changed_is_refused(place: int, char: str) -> None:
    token = derive_token(SECRET, "mcp", READ_SEND)
    place %= len(token)
    changed = token[:place] + char + token[place + 1 :]
    if changed != token:
        with pytest.raises(Denied):
            read_token(SECRET, changed, CALLER)


@given(st.text())
def test_a_clients_own_word_for_itself_is_made_fit_for_a_record(text: str) -> None:
    said = plain(text)
    assert 0 < len(said) <= 64
    assert said.isascii()
    assert said.isprintable()
    assert ":" not in said
