"""What a person reads before they decide: nothing is left out, nothing of an agent's passes for ours."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollboard.errors import InvalidDecision
from tollboard.surfaces.cli.editor import arguments_text, parse_arguments
from tollboard.surfaces.cli.output import LABEL
from tollboard.surfaces.cli.question import MAX_DIFF_LINES, Line, argument_lines, changed_lines, fitted
from tollboard.surfaces.cli.text import cells, safe, wrapped

TEXT = st.text(st.characters(codec=None), max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3)
)


def shown(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


@given(TEXT.map(lambda text: text.replace("\n", " ").replace("\t", " ")), st.integers(2, 30))
def test_wrapping_leaves_nothing_out(text: str, width: int) -> None:
    lines = wrapped(text, width)
    assert "".join(lines) == safe(text)
    assert all(cells(line) <= width for line in lines)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_no_line_is_wider_than_the_terminal(arguments: dict[str, object]) -> None:
    for line in fitted(argument_lines(arguments), 60):
        taken = LABEL + 2 + cells(line.text) if line.name is not None else cells(line.text)
        assert taken <= 60
        assert "\n" not in line.text
        assert safe(line.text) == line.text


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_the_editor_shows_means_the_same_and_hides_nothing(arguments: dict[str, object]) -> None:
    text = arguments_text(arguments)
    assert safe(text) == text
    text.encode()
    assert parse_arguments(text) == arguments


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not list"),
        ('{"a": {"b": 1, "b": 2}}', "'b' stands twice"),
    ],
)
def test_what_is_no_object_of_arguments_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidDecision, match=says):
        parse_arguments(text)


def test_a_replacement_is_shown_whole_as_a_change() -> None:
    old = "\n".join(["same"] * 20 + ["old"])
    lines = list(changed_lines({"path": "x", "old": old, "new": old.replace("old", "new\r")}, None))
    assert shown(lines)[0] == "x"
    assert lines[1] == Line("old → new", "")
    assert shown(lines)[2:] == [" same"] * 20 + ["-old", "+new\r"]
    assert lines[-1].style == "green"


@pytest.mark.parametrize(
    "arguments",
    [
        {"old": "a", "new": 3},
        {"new": "b"},
        {"old": "\n".join("a" * MAX_DIFF_LINES), "new": "b"},
        {"content": "x"},
        {"path": 3, "content": "x"},
        {"path": "\0", "content": "x"},
        {"path": "missing", "content": "x"},
    ],
)
def test_what_is_no_change_is_shown_as_it_is(arguments: dict[str, object], tmp_path: Path) -> None:
    assert list(changed_lines(arguments, tmp_path)) == list(argument_lines(arguments))


def test_only_plain_files_of_text_are_compared(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_text("x" * 1_000_001)
    (tmp_path / "plain").write_text("a")
    for name in ("pipe", "binary", "large", ".", "/dev/zero"):
        assert shown(list(changed_lines({"path": name, "content": "b"}, tmp_path))) == [name, "b"]
    assert shown(list(changed_lines({"path": "plain", "content": "b"}, tmp_path)))[2:] == [
        "@@ -1 +1 @@",
        "-a",
        "+b",
    ]
    assert shown(list(changed_lines({"path": "plain", "content": "a"}, tmp_path)))[2:] == ["no difference"]
    assert list(changed_lines({}, tmp_path)) == [Line("arguments", "none")]


def test_arguments_within_arguments_are_readable() -> None:
    (line, *_) = argument_lines({"names": ["ü"]})
    assert json.loads("".join(shown(list(argument_lines({"names": ["ü"]}))))) == ["ü"]
    assert line.name == "names"
