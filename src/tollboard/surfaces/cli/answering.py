"""From what a person typed to an answer: options by number or label, or words. Whether it fits, the daemon says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tollboard.errors import InvalidDecision
from tollboard.runtime.question import Answer, Question, Reply, find_question

if TYPE_CHECKING:
    from tollboard.fleet.records import ApprovalRecord


def given_answer(record: ApprovalRecord, text: str, choose: Sequence[str], reply: Sequence[str]) -> Answer:
    """Return the answer that a command line means. Raises InvalidDecision for a question that is not asked."""
    if len(record.questions) < 2 and not reply:
        return Answer(text, [_of_only(record.questions, each) for each in choose])
    if text:
        raise _unnamed(record.questions, "--reply QUESTION=TEXT")
    chosen: dict[str, list[str]] = {}
    for each in choose:
        question, option = _parted(record.questions, each, "--choose", "N")
        chosen.setdefault(question, []).append(option)
    said = dict(_parted(record.questions, each, "--reply", "TEXT") for each in reply)
    ids = dict.fromkeys((*chosen, *said))
    return Answer(answers={id: Reply(tuple(chosen.get(id, ())), said.get(id, "")) for id in ids})


def _of_only(questions: Sequence[Question], given: str) -> str:
    """Return the option; the only question may be named too."""
    name, equals, option = given.partition("=")
    if not equals or not questions or any(each.label == given for each in questions[0].options):
        return given
    try:
        find_question(name, questions)
    except InvalidDecision:
        return given
    return option


def _parted(questions: Sequence[Question], given: str, option: str, what: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not equals:
        raise _unnamed(questions, f"{option} QUESTION={what}")
    return find_question(name, questions).id, value


def _unnamed(questions: Sequence[Question], form: str) -> InvalidDecision:
    asked = ", ".join(question.name for question in questions)
    return InvalidDecision(f"{len(questions)} questions are asked ({asked}); say which one is meant: {form}")


def typed_reply(question: Question, line: str) -> Reply:
    """Return what a line typed under a question means: numbers or labels with commas between them, else words."""
    parts = [part for part in (each.strip() for each in line.split(",")) if part]
    if len(parts) == 1 and question.multiple:
        parts = parts[0].split() if all(each.isdigit() for each in parts[0].split()) else parts
    if parts and all(_is_option(question, part) for part in parts):
        return Reply(tuple(parts))
    return Reply(text=line.strip())


def _is_option(question: Question, part: str) -> bool:
    labels = {option.label.casefold() for option in question.options}
    number = int(part) if part.isascii() and part.isdigit() and len(part) < 9 else 0
    return part.casefold() in labels or 1 <= number <= len(question.options)
