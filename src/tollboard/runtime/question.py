"""Questions to a person and their answers: pure values. An answer counts once it is fitted to what was asked (B06)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from tollboard.errors import InvalidDecision

ANSWER = "answer"
LISTED_OPTIONS = 20
"""How many options an error names."""


@dataclass(frozen=True, slots=True)
class Option:
    """One choice. `label` is what the agent is told when it is chosen."""

    label: str
    description: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that is asked. `id` is unique among the questions of an approval, `header` is a word or two.

    With `multiple` several options may be chosen. `free_text` says whether the person's own words are an answer. The
    reply to a `secret` one reaches the agent and is kept nowhere. One that is not `required` may be left out.
    """

    id: str
    text: str = field(repr=False)
    header: str = ""
    options: tuple[Option, ...] = field(repr=False, default=())
    multiple: bool = False
    free_text: bool = True
    secret: bool = False
    required: bool = True

    @property
    def name(self) -> str:
        """Return how it is called to a person: its id, and its header if that says more."""
        return repr(self.id) if self.header in ("", self.id) else f"{self.id!r} ({self.header})"


def plain_question(question: Question) -> dict[str, object]:
    """Return a question as a plain mapping: what `read_question` reads."""
    options = [{"label": each.label, "description": each.description} for each in question.options]
    plain = {each.name: getattr(question, each.name) for each in fields(question)}
    return {**plain, "options": options}


def read_question(given: Mapping[str, Any]) -> Question:
    """Return the question that a plain mapping means; an option may be its label alone. Raises ValueError."""
    names = {each.name for each in fields(Question)}
    if unknown := given.keys() - names:
        raise ValueError(f"a question does not know {', '.join(sorted(map(str, unknown)))}")
    flags, texts = {"multiple", "free_text", "secret", "required"}, {"id", "text", "header"}
    for name, value in given.items():
        if name != "options" and not isinstance(value, bool if name in flags else str):
            raise ValueError(f"{name} of a question must be {'true or false' if name in flags else 'text'}")
    if missing := texts - {"header"} - given.keys():
        raise ValueError(f"a question needs {', '.join(sorted(missing))}")
    options = tuple(_read_option(each) for each in given.get("options", ()))
    return Question(**{**given, "options": options})


def _read_option(given: object) -> Option:
    match given:
        case str():
            return Option(given)
        case {"label": str(label), **more} if all(isinstance(text, str) for text in more.values()):
            return Option(label, str(more.get("description", "")))
    raise ValueError("an option of a question is its label, or an object with label and description")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a person says to one question: options by label or number (from 1), or words of their own."""

    choose: tuple[str | int, ...] = field(repr=False, default=())
    text: str = field(repr=False, default="")

    @property
    def values(self) -> tuple[str, ...]:
        """Return all that was said, options first."""
        return (*(str(each) for each in self.choose), *((self.text,) if self.text else ()))


GivenReply = Reply | str | Sequence[str | int]


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer a question: in words, by choosing options, or, where several are asked, with a reply for each.

        Answer("the second one")    Answer(choose=[2])    Answer(answers={"store": ["Beta"], "why": "it is near"})

    A question is named by its id or its header. Once taken, `answers` holds every reply by id, with whole labels.
    """

    type: ClassVar[str] = ANSWER
    text: str = field(repr=False, default="")
    choose: Sequence[str | int] = field(repr=False, default=())
    answers: Mapping[str, GivenReply] = field(repr=False, default_factory=dict)

    def reply(self, question: str) -> Reply:
        """Return what was said to a question, by its id; an empty reply when it was left out."""
        found = self.answers.get(question)
        return Reply() if found is None else as_reply(found)


def as_reply(given: object) -> Reply:
    """Return the reply that words, a list of options, or an object with `choose` and `text` mean.

    Raises InvalidDecision.
    """
    match given:
        case Reply():
            return Reply(_choices(given.choose), _words(given.text))
        case str():
            return Reply(text=_words(given))
        case Mapping():
            if extra := sorted(str(key) for key in given.keys() - {"choose", "text"}):
                raise InvalidDecision(f"a reply does not take {', '.join(extra)}: use choose or text")
            return Reply(_choices(given.get("choose", ())), _words(given.get("text", "")))
        case Sequence():
            return Reply(_choices(given))
    raise InvalidDecision(
        f"a reply is text, a list of options, or an object with either, not {type(given).__name__}"
    )


def _choices(given: object) -> tuple[str | int, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InvalidDecision("answer: 'choose' must be a list of options, by label or by number")
    if not all(isinstance(each, str | int) and not isinstance(each, bool) for each in given):
        raise InvalidDecision("answer: each option is given by its label or its number")
    return tuple(given)


def _words(given: object) -> str:
    if not isinstance(given, str):
        raise InvalidDecision("answer: 'text' must be text")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise InvalidDecision("answer: the text is not valid Unicode (a lone surrogate)") from None
    return given


def fit_answer(answer: Answer, questions: Sequence[Question]) -> Answer:
    """Return the answer with a checked reply to each question, by id, and options by their labels.

    Raises InvalidDecision for an option or question that does not exist, several options where one is asked for, words
    where only the options count, and a required question without a reply.
    """
    given = _by_question(answer, questions)
    replies = {
        question.id: reply
        for question in questions
        if (reply := _fit(question, given.get(question.id, Reply()))).values
    }
    return Answer(answers=replies)


def _by_question(answer: Answer, questions: Sequence[Question]) -> dict[str, Reply]:
    alone = Reply(_choices(answer.choose), _words(answer.text))
    if alone.values and answer.answers:
        raise InvalidDecision("answer takes either 'answers', or 'text' and 'choose'")
    if not alone.values:
        found: dict[str, Reply] = {}
        for key, reply in answer.answers.items():
            question = find_question(key, questions)
            if question.id in found:
                raise InvalidDecision(f"question {question.name} is answered twice")
            found[question.id] = as_reply(reply)
        return found
    if len(questions) != 1:
        raise InvalidDecision(f"{len(questions)} questions are asked; answer each: {_listed(questions)}")
    return {questions[0].id: alone}


def find_question(key: str, questions: Sequence[Question]) -> Question:
    """Return the question with that id or header, in any case. Raises InvalidDecision."""
    for names in (
        lambda each: each.id == key,
        lambda each: each.header == key,
        lambda each: key.casefold() in (each.id.casefold(), each.header.casefold()),
    ):
        found = [question for question in questions if names(question)]
        if len(found) == 1:
            return found[0]
    raise InvalidDecision(f"there is no question {key!r}; asked are: {_listed(questions)}")


def _listed(questions: Sequence[Question]) -> str:
    return ", ".join(question.name for question in questions)


def _fit(question: Question, reply: Reply) -> Reply:
    labels = tuple(dict.fromkeys(_label(question, each) for each in reply.choose))
    text = reply.text if reply.text.strip() else ""
    if text and not labels and (meant := _matching(question, text.strip())) is not None:
        labels, text = (meant,), ""
    if not labels and not text and question.required:
        raise InvalidDecision(f"question {question.name} needs an answer; {_wanted(question)}")
    if len(labels) > 1 and not question.multiple:
        raise InvalidDecision(f"question {question.name} takes one option, {len(labels)} were chosen")
    if text and not question.free_text:
        raise InvalidDecision(f"question {question.name} takes no words of your own; {_wanted(question)}")
    if text and labels and not question.multiple:
        raise InvalidDecision(f"question {question.name} takes either an option or your own words")
    return Reply(labels, text)


def _label(question: Question, chosen: str | int) -> str:
    """Return the label that is meant by a label or a number."""
    if not question.options:
        raise InvalidDecision(f"question {question.name} has no options; answer it in words")
    if isinstance(chosen, str) and (label := _matching(question, chosen.strip())) is not None:
        return label
    digits = str(chosen).strip()
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 9 else 0
    if not 1 <= number <= len(question.options):
        raise InvalidDecision(f"question {question.name} has no option {chosen!r}; {_wanted(question)}")
    return question.options[number - 1].label


def _matching(question: Question, text: str) -> str | None:
    """Return the label that the text is, in any case if only one is."""
    labels = [option.label for option in question.options]
    if text in labels:
        return text
    near = {label for label in labels if label.casefold() == text.casefold()}
    return near.pop() if len(near) == 1 else None


def _wanted(question: Question) -> str:
    if not question.options:
        return "answer it in words"
    named = [f"{number} {option.label!r}" for number, option in enumerate(question.options, 1)]
    more = ["..."] if len(named) > LISTED_OPTIONS else []
    many = "choose" if question.multiple else "choose one of"
    return f"{many}: {', '.join((*named[:LISTED_OPTIONS], *more))}"


def plain_answer(answer: Answer, questions: Sequence[Question] = ()) -> dict[str, object]:
    """Return an answer as a plain mapping; what was said to a secret question is left out of it."""
    secret = {question.id for question in questions if question.secret}
    plain: dict[str, object] = {}
    if answer.text:
        plain["text"] = answer.text
    if answer.choose:
        plain["choose"] = list(answer.choose)
    if answer.answers:
        plain["answers"] = {
            key: {"secret": True} if key in secret else _plain_reply(as_reply(reply))
            for key, reply in answer.answers.items()
        }
    return {"type": ANSWER, **plain}


def _plain_reply(reply: Reply) -> dict[str, object]:
    chosen: dict[str, object] = {"choose": list(reply.choose)} if reply.choose else {}
    return {**chosen, "text": reply.text} if reply.text else chosen
