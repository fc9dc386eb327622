"""The tool `ask_person`: a model asks a person something, and reads the answer as the tool's result (B06).

It is handled like a guarded call whose decision is an answer: it waits, survives restarts and is shown as those are.
What is asked is made from the call's arguments, the same each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tollboard.runtime.approval import QUESTION_DECISIONS
from tollboard.runtime.question import ANSWER, Answer, Option, Question, fit_answer

ASK_PERSON = "ask_person"
ID = "answer"


@dataclass(slots=True)
class Choice:
    """One thing to choose: its label, and what it means."""

    label: str
    description: str = ""


def ask_person(
    question: str,
    options: list[Choice] | None = None,
    several: bool = False,
    free_text: bool = True,
    header: str = "",
) -> str:
    """Ask the person in charge something you cannot find out or decide yourself, and wait for their answer.

    Args:
        question: The whole question, so that it can be understood without the conversation.
        options: What they may choose from, each with a label and, if it says more, a description.
        several: Whether more than one option may be chosen.
        free_text: Whether they may answer in their own words instead.
        header: One or two words that say what it is about.
    """
    raise AssertionError("the loop answers this call; it never runs")


def asking_tool() -> Any:
    """Return the tool as an agent takes it."""
    from pydantic_ai import Tool

    from tollboard.subagents.building import GUARDED

    return Tool(ask_person, metadata={GUARDED: QUESTION_DECISIONS})


def questions_of(
    tool: str, arguments: Mapping[str, object], allowed: tuple[str, ...]
) -> tuple[Question, ...]:
    """Return what a call asks; nothing for one that is only guarded."""
    if ANSWER not in allowed or tool != ASK_PERSON:
        return ()
    given = arguments.get("options")
    options = tuple(_option(each) for each in given) if isinstance(given, list) else ()
    return (
        Question(
            ID, str(arguments.get("question", "")), str(arguments.get("header") or ""), options,
            multiple=_flag(arguments.get("several"), False),
            free_text=_flag(arguments.get("free_text"), True) or not options,
        ),
    )  # fmt: skip


def told(answer: Answer, questions: tuple[Question, ...]) -> str:
    """Return what the model reads. Raises InvalidDecision for an answer that does not fit."""
    return "The person answered: " + ", ".join(fit_answer(answer, questions).reply(ID).values)


def _option(given: object) -> Option:
    if isinstance(given, Mapping):
        return Option(str(given.get("label", "")), str(given.get("description") or ""))
    return Option(str(given))


def _flag(given: object, default: bool) -> bool:
    """Return a flag as the tool's schema reads it: a model may write it as text."""
    if isinstance(given, str):
        return given.strip().lower() in ("true", "1", "yes", "on", "t", "y")
    return default if given is None else bool(given)
