"""`tollboard answer`, and questions in `approvals`: each command against a real Switchboard (B06)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.surfaces.person import Person

STORE: dict[str, Any] = {
    "id": "store", "text": "Which store?", "header": "Store",
    "options": [{"label": "Alpha", "description": "near"}, "Beta\x1b[8m"],
}  # fmt: skip
EXTRAS: dict[str, Any] = {
    "id": "extras",
    "text": "What else?",
    "options": ["X", "Y"],
    "multiple": True,
    "free_text": False,
}
KEY: dict[str, Any] = {"id": "key", "text": "The key?", "secret": True}


def asked(person: Person, *questions: dict[str, Any], **more: object) -> tuple[str, str]:
    """Have a session ask; return its ref and the approval's id."""
    turn = {
        "approval": {"tool": "Ask", "questions": list(questions), **more},
        "then": "{decision} {arguments}",
    }
    person.does("start", "deploy", "--backend", "scripted", "--option", f"script={json.dumps([turn])}")
    ref = person.sends("deploy", "go")
    person.types("send", "deploy", "more", "--wait", "-q", "--timeout", "0.05")
    (record,) = person.types("approvals", "--json").json
    return ref, record["id"]


def ended(person: Person, ref: str) -> str:
    """Return what a request came to, once it has ended."""
    person.does("wait", ref, "--timeout", "20")
    return person.does("poll", "deploy", ref)


def test_b06_a_question_is_listed_with_its_options_and_how_to_answer_it(person: Person) -> None:
    _, id = asked(person, STORE)
    said = person.types("approvals")
    assert "deploy asks (Ask)" in said.out
    assert "Store: Which store?" not in said.out, "the header says nothing new"
    assert "1  Alpha: near" in said.out
    assert "2  Beta\\x1b[8m" in said.out
    assert "one of these or your own words" in said.out
    assert f"tollboard answer {id} --choose N | TEXT" in said.out
    assert "answer ID --choose N or TEXT" in said.err
    (record,) = person.types("approvals", "--json").json
    assert (record["kind"], record["allowed"]) == ("question", ["answer", "reject"])
    assert record["questions"][0]["options"][0] == {"label": "Alpha", "description": "near"}


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--choose", "1"], "Alpha"),
        (["--choose", "alpha"], "Alpha"),
        (["--choose", "store=Alpha"], "Alpha"),
        (["Alpha"], "Alpha"),
        (["the one by the sea"], "the one by the sea"),
    ],
)
def test_b06_one_question_is_answered(person: Person, words: list[str], answer: str) -> None:
    ref, id = asked(person, STORE)
    assert person.does("answer", id[-6:], *words) == "answered: Ask of deploy\n"
    assert ended(person, ref).strip() == f'answered {{"store": "{answer}"}}'
    assert f"store         {answer}" in person.does("approvals", "--all")


def test_b06_an_answer_is_read_from_standard_input(person: Person) -> None:
    ref, id = asked(person, STORE)
    assert person.types("answer", id, "-", stdin="from a file\n").code == 0
    assert "from a file" in ended(person, ref)


def test_b06_several_questions_are_answered_by_name(person: Person) -> None:
    ref, id = asked(person, STORE, EXTRAS)
    listed = person.does("approvals")
    assert f"tollboard answer {id} --choose store=N --choose extras=N" in listed
    words = ["--reply", "Store=the third", "--choose", "extras=2", "--choose", "extras=X"]
    person.does("answer", id, *words)
    assert ended(person, ref).strip() == ('answered {"store": "the third", "extras": "Y, X"}')


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--choose", "3"], "no option '3'; choose"),
        (["--choose", "1", "--choose", "2"], "takes one option"),
        (["Alpha", "--choose", "1"], "either an option or your own words"),
        ([], "give TEXT or --choose"),
    ],
)
def test_b06_what_does_not_fit_exits_with_2_and_says_what_would(
    person: Person, words: list[str], advice: str
) -> None:
    _, id = asked(person, STORE)
    said = person.types("answer", id, *words)
    assert (said.code, said.out) == (2, "")
    assert advice.partition("; ")[0] in said.err
    assert advice.partition("; ")[2] in said.err
    assert [one["state"] for one in person.types("approvals", "--json").json] == ["pending"]


def test_b06_several_questions_need_the_name_of_each(person: Person) -> None:
    _, id = asked(person, STORE, EXTRAS)
    for words in (["--choose", "1"], ["Alpha"], ["--choose", "shop=1"], ["--choose", "store=1"]):
        said = person.types("answer", id, *words)
        assert said.code == 2, words
        assert "extras" in said.err, words


def test_b06_approving_a_question_is_refused_with_what_to_do_instead(person: Person) -> None:
    ref, id = asked(person, STORE)
    said = person.types("approve", id)
    assert said.code == 2
    assert "'Ask' asks a person something" in said.err
    assert "tollboard answer ID --choose N" in said.err
    error = json.loads(person.types("approve", id, "--json").out)["error"]
    assert error["code"] == "answer_needed"
    assert person.does("reject", id, "-m", "ask Bob") == "rejected: Ask of deploy\n"
    assert ended(person, ref).strip() == "rejected {}"


def test_b06_a_call_is_not_answered(person: Person) -> None:
    person.does("start", "deploy", "--backend", "scripted", "-o", 'script=[{"approval": {"tool": "shell"}}]')
    person.sends("deploy", "go")
    person.types("send", "deploy", "more", "--wait", "-q", "--timeout", "0.05")
    (record,) = person.types("approvals", "--json").json
    said = person.types("answer", record["id"], "yes")
    assert said.code == 2
    assert "allowed: approve, edit, reject" in said.err


def test_b06_what_was_said_to_a_secret_question_is_shown_nowhere(person: Person) -> None:
    _, id = asked(person, KEY)
    assert "kept nowhere" in person.does("approvals")
    decided = person.types("answer", id, "hunter2", "--json")
    assert "hunter2" not in decided.out + person.does("approvals", "--all")
