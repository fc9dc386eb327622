"""Pieces of tool calls as servers send them that are compatible with Chat Completions more or less (L07)."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.models.test import TestModel

from tollboard.subagents.compatible import CallsApart, Piece, apart

TOOLS = ("read_file", "list_files", "read")
A, B = '{"path": "a"}', '{"path": "b"}'


def piece(index: object = 0, id: str = "", name: str = "", arguments: str = "") -> Piece:
    return Piece(index, id, name, arguments)


def put_together(chunks: list[list[Piece]]) -> list[tuple[str, str, str]]:
    """Do what Pydantic AI does with the pieces: it goes by the index."""
    apart, found = CallsApart(TOOLS), dict[int, list[str]]()
    for chunk in chunks:
        for number, news in apart.take(chunk):
            call = found.setdefault(number, ["", "", ""])
            call[0] = news.id or call[0]
            call[1] += news.name
            call[2] += news.arguments
    return [(id, name, arguments) for id, name, arguments in found.values()]


SHAPES: dict[str, tuple[list[list[Piece]], list[tuple[str, str, str]]]] = {
    "as OpenAI does": (
        [
            [piece(0, "x", "read_file")], [piece(0, arguments='{"path"')], [piece(0, arguments=': "a"}')],
            [piece(1, "y", "read_file")], [piece(1, arguments=B)],
        ],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
    "one index, whole calls": (
        [[piece(0, "x", "read_file", A)], [piece(0, "y", "read_file", B)]],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
    "one index, whole calls, one chunk": (
        [[piece(0, "x", "read_file", A), piece(0, "y", "read_file", B)]],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
    "one index, in pieces": (
        [
            [piece(0, "x", "read_file", '{"path"')], [piece(0, arguments=': "a"}')],
            [piece(0, "y", "read_file", '{"path"')], [piece(0, arguments=': "b"}')],
        ],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
    "one index, calls without arguments": (
        [[piece(0, "x", "list_files")], [piece(0, "y", "list_files")]],
        [("x", "list_files", ""), ("y", "list_files", "")],
    ),
    "no index, no ids": (
        [[piece(None, "", "read_file", A)], [piece(None, "", "read_file", B)]],
        [("", "read_file", A), ("", "read_file", B)],
    ),
    "no index, no ids, one chunk, no arguments": (
        [[piece(None, "", "list_files"), piece(None, "", "list_files")]],
        [("", "list_files", ""), ("", "list_files", "")],
    ),
    "no index, in pieces": (
        [
            [piece(None, "x", "read_file")], [piece(None, arguments='{"path"')], [piece(None, arguments=': "a"}')],
            [piece(None, "y", "read_file")], [piece(None, arguments=B)],
        ],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
    "one index, no ids, different tools without arguments": (
        [[piece(0, "", "list_files")], [piece(0, "", "read_file")]],
        [("", "list_files", ""), ("", "read_file", "")],
    ),
    "the id and the name in each piece": (
        [[piece(0, "x", "read_file", '{"path"')], [piece(0, "x", "read_file", ': "a"}')], [piece(0, "x", "read_file")]],
        [("x", "read_file", A)],
    ),
    "the name in each piece, no id": (
        [[piece(0, "", "read_file", '{"path"')], [piece(0, "", "read_file", ': "a"}')]],
        [("", "read_file", A)],
    ),
    "another id in each piece": (
        [[piece(0, "x", "read_file")], [piece(0, "y", "", '{"path"')], [piece(0, "z", "", ': "a"}')]],
        [("x", "read_file", A)],
    ),
    "another id and the name in each piece": (
        [[piece(0, "x", "read_file", '{"path"')], [piece(0, "y", "read_file", ': "a"}')]],
        [("x", "read_file", A)],
    ),
    "the name in pieces": (
        [[piece(0, "x", "list_")], [piece(0, "", "files")], [piece(0, arguments="{}")]],
        [("x", "list_files", "{}")],
    ),
    "the name in pieces, of which the first is a tool too": (
        [[piece(0, "x", "read")], [piece(0, "", "_file")], [piece(0, arguments=A)]],
        [("x", "read_file", A)],
    ),
    "the name growing": (
        [[piece(0, "x", "list_")], [piece(0, "x", "list_files")], [piece(0, arguments="{}")]],
        [("x", "list_files", "{}")],
    ),
    "the id late": (
        [[piece(0, "", "read_file", A)], [piece(0, "x")], [piece(0, "", "read_file", B)], [piece(0, "y")]],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
    "the whole call once more at the end": (
        [[piece(0, "x", "read_file")], [piece(0, arguments=A)], [piece(0, "x", "read_file", A)]],
        [("x", "read_file", A)],
    ),
    "one id for two calls": (
        [[piece(0, "x", "read_file", A)], [piece(1, "x", "read_file", B)]],
        [("x", "read_file", A), ("x", "read_file", B)],
    ),
    "one id and one index for two calls": (
        [[piece(0, "x", "read_file", A)], [piece(0, "x", "read_file", B)]],
        [("x", "read_file", A), ("x", "read_file", B)],
    ),
    "the index given once": (
        [
            [piece(0, "x", "read_file")], [piece(None, arguments=A)],
            [piece(1, "y", "read_file")], [piece(None, arguments=B)],
        ],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
    "interleaved": (
        [
            [piece(0, "x", "read_file"), piece(1, "y", "read_file")],
            [piece(0, arguments='{"path"'), piece(1, arguments='{"path"')],
            [piece(1, arguments=': "b"}'), piece(0, arguments=': "a"}')],
        ],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
    "interleaved, by id alone": (
        [
            [piece(0, "x", "read_file"), piece(0, "y", "read_file")],
            [piece(0, "x", "", A)],
            [piece(0, "y", "", B)],
        ],
        [("x", "read_file", A), ("y", "read_file", B)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_l07_calls_stay_apart(shape: str) -> None:
    chunks, calls = SHAPES[shape]
    assert put_together(chunks) == calls


arguments = st.dictionaries(st.text(max_size=3), st.text(max_size=6) | st.integers(), max_size=3)
called = st.lists(st.tuples(st.sampled_from(["read_file", "list_files"]), arguments), min_size=1, max_size=4)


@given(called, st.booleans(), st.sampled_from(["own", "same", "none"]), st.booleans(), st.integers(1, 9))
def test_l07_whatever_is_left_out_or_repeated_the_calls_are_the_same(
    calls: list[tuple[str, dict[str, Any]]], ids: bool, index: str, repeated: bool, size: int
) -> None:
    chunks: list[list[Piece]] = []
    expected: list[tuple[str, str, str]] = []
    for number, (name, given_arguments) in enumerate(calls):
        text = json.dumps(given_arguments)
        # Two equal calls in a row with nothing to tell them apart are one that is repeated.
        if not ids and index != "own" and expected and expected[-1][1:] == (name, text):
            continue
        id = f"c{number}" if ids else ""
        expected.append((id, name, text))
        at = {"own": number, "same": 0, "none": None}[index]
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        chunks.append([piece(at, id, name, pieces[0])])
        chunks += [[piece(at, id if repeated else "", name if repeated else "", more)] for more in pieces[1:]]
    if repeated and any("{" in text[1:] for _, _, text in expected):
        return  # a piece that looks like a beginning: nobody could tell
    assert put_together(chunks) == expected


class Whole(TestModel):
    """A model that reads answers which are not streamed; it keeps what it was given to read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Any] = []

    def _validate_completion(self, response: Any) -> Any:
        self.read += response.choices[0].message.tool_calls


def whole(**given: Any) -> SimpleNamespace:
    arguments = given.pop("arguments", None)
    return SimpleNamespace(**given, function=SimpleNamespace(name="read_file", arguments=arguments))


def test_l07_whole_answers_may_lack_ids_and_have_objects_as_arguments() -> None:
    model: Any = Whole()
    apart(model)
    apart(model)
    calls = [whole(id=None, arguments={"path": "a"}), whole(arguments=A), whole(id=7, arguments=None)]
    message = SimpleNamespace(tool_calls=calls)
    model._validate_completion(SimpleNamespace(choices=[SimpleNamespace(message=message)]))
    assert [(each.id, each.type, each.function.arguments) for each in model.read] == [
        ("call_0", "function", A), ("call_1", "function", A), ("7", "function", ""),
    ]  # fmt: skip
