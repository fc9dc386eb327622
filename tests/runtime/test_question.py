"""Questions and answers as values: what an answer may say, and what it says once it is taken (B06)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollboard.errors import AnswerNeeded, InvalidDecision
from tollboard.runtime.approval import (
    ApprovalKind,
    ApprovalRequest,
    Approve,
    Edit,
    Reject,
    ask,
    fit_decision,
    parse_decision,
    plain_decision,
)
from tollboard.runtime.question import (
    Answer,
    Option,
    Question,
    Reply,
    fit_answer,
    plain_question,
    read_question,
)

STORE = Question("1", "Which store?", "Store", (Option("Alpha", "near"), Option("Beta")), free_text=False)
EXTRAS = Question("2", "Which extras?", "Extras", (Option("X"), Option("Y"), Option("12")), multiple=True)
WHY = Question("3", "Why?", "Reason")


def taken(answer: Answer, *questions: Question) -> dict[str, tuple[str, ...]]:
    return {id: reply.values for id, reply in fit_answer(answer, questions).answers.items()}  # type: ignore[union-attr] # fitted


@pytest.mark.parametrize(
    ("answer", "question", "values"),
    [
        (Answer(choose=["Beta"]), STORE, ("Beta",)),
        (Answer(choose=["beta"]), STORE, ("Beta",)),
        (Answer(choose=[2]), STORE, ("Beta",)),
        (Answer(choose=["2"]), STORE, ("Beta",)),
        (Answer("Beta"), STORE, ("Beta",)),
        (Answer(answers={"Store": [1]}), STORE, ("Alpha",)),
        (Answer(answers={"1": "Alpha"}), STORE, ("Alpha",)),
        (Answer(choose=[1, "Y", 1]), EXTRAS, ("X", "Y")),
        (Answer("my own", choose=["X"]), EXTRAS, ("X", "my own")),
        (Answer(choose=["12"]), EXTRAS, ("12",)),
        (Answer("because"), WHY, ("because",)),
        (Answer("2"), WHY, ("2",)),
    ],
)
def test_b06_an_answer_is_taken_as_labels_and_words(
    answer: Answer, question: Question, values: tuple[str, ...]
) -> None:
    assert taken(answer, question) == {question.id: values}


@pytest.mark.parametrize(
    ("answer", "question", "fault"),
    [
        (Answer(choose=[3]), STORE, "no option 3; choose one of: 1 'Alpha', 2 'Beta'"),
        (Answer(choose=[0]), STORE, "no option 0"),
        (Answer(choose=["Gamma"]), STORE, "no option 'Gamma'"),
        (Answer(choose=["-1"]), STORE, "no option '-1'"),
        (Answer(choose=["²"]), STORE, "no option '²'"),
        (Answer(choose=[1, 2]), STORE, "takes one option, 2 were chosen"),
        (Answer("Gamma"), STORE, "takes no words of your own; choose one of"),
        (Answer("words", choose=["X"], answers={"2": "X"}), EXTRAS, "either 'answers', or"),
        (Answer(answers={"4": "X"}), EXTRAS, "no question '4'; asked are: '2' (Extras)"),
        (Answer(), EXTRAS, "needs an answer; choose: 1 'X'"),
        (Answer("  "), WHY, "needs an answer; answer it in words"),
        (Answer(choose=[1]), WHY, "has no options; answer it in words"),
        (Answer("half \ud800"), WHY, "not valid Unicode"),
    ],
)
def test_b06_an_answer_that_does_not_fit_is_refused_with_what_would(
    answer: Answer, question: Question, fault: str
) -> None:
    with pytest.raises(InvalidDecision, match=fault.replace("(", r"\(").replace(")", r"\)")):
        fit_answer(answer, (question,))


def test_b06_several_questions_are_answered_one_by_one() -> None:
    both = Answer(answers={"store": "Beta", "Extras": Reply(choose=(2,))})
    assert taken(both, STORE, EXTRAS) == {"1": ("Beta",), "2": ("Y",)}
    for short in (Answer("Beta"), Answer(answers={"1": "Beta"})):
        with pytest.raises(InvalidDecision, match=r"Extras"):
            fit_answer(short, (STORE, EXTRAS))
    with pytest.raises(InvalidDecision, match="answered twice"):
        fit_answer(Answer(answers={"1": "Beta", "Store": "Alpha"}), (STORE,))


def test_b06_a_question_that_need_not_be_answered_may_be_left_out() -> None:
    note = Question("note", "A note?", required=False)
    assert taken(Answer(answers={"1": [1]}), STORE, note) == {"1": ("Alpha",)}


@pytest.mark.parametrize("decision", [Approve(), Edit({})])
def test_b06_a_question_is_not_approved(decision: Any) -> None:
    request = ask("AskUserQuestion", (STORE,))
    assert (request.kind, request.allowed, request.display) == (
        ApprovalKind.QUESTION,
        ("answer", "reject"),
        "Which store?",
    )
    with pytest.raises(AnswerNeeded, match="choose one of its options or say it in words, or reject it"):
        fit_decision(decision, request)
    assert fit_decision(Reject("no"), request) == Reject("no")


def test_b06_a_call_is_not_answered() -> None:
    with pytest.raises(InvalidDecision, match="answer is not allowed for 'Bash'; allowed: approve, edit"):
        fit_decision(Answer("yes"), ApprovalRequest("Bash", {}))


def test_b06_what_a_backend_refuses_is_no_answer() -> None:
    def number(answer: Answer) -> None:
        if not answer.reply("3").text.isdigit():
            raise InvalidDecision("a number, please")

    request = ask("form", (WHY,), check_answer=number)
    with pytest.raises(InvalidDecision, match="a number"):
        fit_decision(Answer("x"), request)
    assert fit_decision(Answer("7"), request) == Answer(answers={"3": Reply(text="7")})


def test_b06_a_secret_reply_is_left_out_of_what_is_kept() -> None:
    key = Question("key", "The key?", secret=True)
    decision = fit_decision(Answer(answers={"key": "hunter2", "1": "Beta"}), ask("login", (key, STORE)))
    plain = plain_decision(decision, (key, STORE))
    assert plain == {"type": "answer", "answers": {"key": {"secret": True}, "1": {"choose": ["Beta"]}}}
    assert "hunter2" not in repr(decision)


@pytest.mark.parametrize(
    "fault",
    [
        {"type": "answer", "txt": "x"},
        {"type": "answer", "text": 3},
        {"type": "answer", "choose": "Beta"},
        {"type": "answer", "choose": [True]},
        {"type": "answer", "choose": [["Beta"]]},
        {"type": "answer", "answers": ["Beta"]},
        {"type": "answer", "answers": {"1": 5}},
        {"type": "answer", "answers": {"1": {"label": "Beta"}}},
        {"type": "approve", "text": "x"},
    ],
)
def test_b06_an_answer_that_is_malformed_is_refused(fault: dict[str, object]) -> None:
    with pytest.raises(InvalidDecision):
        parse_decision(fault)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
asked = st.builds(
    Question,
    id=texts.filter(bool),
    text=texts,
    header=texts,
    options=st.lists(st.builds(Option, texts.filter(bool), texts), max_size=4).map(tuple),
    multiple=st.booleans(),
    free_text=st.booleans(),
    required=st.booleans(),
)
answers = st.builds(
    Answer, texts, st.lists(st.integers(-1, 5) | texts, max_size=3), st.dictionaries(texts, texts, max_size=2)
)


@given(asked)
def test_b06_a_question_survives_being_written_down(question: Question) -> None:
    assert read_question(plain_question(question)) == question


@given(asked, answers)
def test_b06_what_is_taken_is_what_was_asked_for_and_is_taken_again_unchanged(
    question: Question, answer: Answer
) -> None:
    try:
        fitted = fit_answer(answer, (question,))
    except InvalidDecision:
        return
    reply = fitted.reply(question.id)
    labels = {option.label for option in question.options}
    assert set(reply.choose) <= labels
    assert question.multiple or len(reply.values) <= 1
    assert question.free_text or not reply.text
    assert reply.values or not question.required
    again = parse_decision(plain_decision(fitted))
    assert isinstance(again, Answer)
    assert fit_answer(again, (question,)) == fitted
