"""An approval as a question to a person at a host: what they read, the form they fill in, and what they meant by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tollboard.errors import InvalidDecision
from tollboard.fleet.records import ApprovalRecord
from tollboard.runtime.approval import APPROVE, EDIT, REJECT
from tollboard.runtime.question import ANSWER, Question
from tollboard.surfaces.cli.text import one_line, safe

_OFFERED = (APPROVE, EDIT, REJECT)


def message(record: ApprovalRecord, fault: str = "") -> str:
    """Return what the person reads: every argument or question in full, and what was wrong with their last answer."""
    tool = one_line(record.tool)
    lines = [
        f"{record.session} asks ({tool})." if record.questions else f"{record.session} wants to use {tool}."
    ]
    if fault:
        lines.insert(0, f"That could not be taken: {one_line(fault)}\n")
    if record.path != record.session:
        lines.append(f"Asked by: {one_line(record.path)}")
    if record.display:
        lines.append(f"Shown as: {one_line(record.display)}")
    for question in record.questions:
        lines.append(f"{one_line(question.header or question.id)}: {_shown(question.text)}")
        lines.extend(_option_lines(question))
    for name, value in {} if record.questions else record.arguments.items():
        lines.append(f"{one_line(name)}: {_shown(value)}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return safe(text).replace("\n", "\n    ")  # a line of an argument cannot pass for the next one's name


def _option_lines(question: Question) -> Iterator[str]:
    for option in question.options:
        told = f": {_shown(option.description)}" if option.description else ""
        yield f"    - {one_line(option.label)}{told}"


def form(record: ApprovalRecord) -> dict[str, Any]:
    """Return the form: flat, as hosts demand. Nothing is chosen beforehand."""
    if answered(record):
        return _answer_form(record)
    properties: dict[str, Any] = {
        "decision": {
            "type": "string",
            "title": "Decision",
            "enum": [kind for kind in _OFFERED if kind in record.allowed],
        }
    }
    if EDIT in record.allowed:
        properties["arguments"] = {
            "type": "string",
            "title": "Changed arguments",
            "description": "Only for edit: all arguments, as a JSON object.",
        }
        text = json.dumps(dict(record.arguments), ensure_ascii=False)
        if safe(text) == text:
            properties["arguments"]["default"] = text
    if REJECT in record.allowed:
        properties["message"] = {
            "type": "string",
            "title": "Why not",
            "description": "Only for reject: what the agent is told.",
        }
    return {"type": "object", "properties": properties, "required": ["decision"]}


def decision(record: ApprovalRecord, filled: Mapping[str, object]) -> dict[str, object]:
    """Return the decision that the filled form means. Raises InvalidDecision for a form that means none."""
    if answered(record):
        return _answer(record, filled)
    kind, text = filled.get("decision"), filled.get("arguments")
    changed = text if isinstance(text, str) and text.strip() else None
    if kind == REJECT:
        return {"type": REJECT, "message": filled.get("message") or ""}
    if kind == EDIT:
        if changed is None:
            raise InvalidDecision("edit needs the changed arguments")
        return {"type": EDIT, "arguments": _object(changed)}
    if kind != APPROVE:
        raise InvalidDecision(f"choose one of {', '.join(record.allowed)}")
    if changed is not None and _object(changed) != dict(record.arguments):
        raise InvalidDecision("the arguments were changed: choose edit to have the call run with them")
    return {"type": APPROVE}


# -- questions


def answered(record: ApprovalRecord) -> bool:
    """Return whether it is decided by an answer; a plan is approved or rejected like a call."""
    return ANSWER in record.allowed and APPROVE not in record.allowed


def _answer_form(record: ApprovalRecord) -> dict[str, Any]:
    """Return a form with a field for each question, one for own words, and for each option where several count."""
    properties: dict[str, Any] = {}
    required = []
    for number, question in enumerate(record.questions, 1):
        title = one_line(question.header or question.text)
        if question.multiple:
            for place, option in enumerate(question.options, 1):
                properties[f"q{number}_{place}"] = {
                    "type": "boolean",
                    "title": f"{title}: {one_line(option.label)}",
                }
        elif question.options:
            labels = list(dict.fromkeys(option.label for option in question.options))
            properties[f"q{number}"] = {"type": "string", "title": title, "enum": labels}
            if question.required and not question.free_text:
                required.append(f"q{number}")
        if question.free_text:
            words = f"{title}, in your own words" if question.options else title
            properties[f"q{number}_text"] = {"type": "string", "title": words}
            if question.required and not question.options:
                required.append(f"q{number}_text")
    return {"type": "object", "properties": properties, "required": required}


def _answer(record: ApprovalRecord, filled: Mapping[str, object]) -> dict[str, object]:
    answers: dict[str, object] = {}
    for number, question in enumerate(record.questions, 1):
        chosen = [
            option.label
            for place, option in enumerate(question.options, 1)
            if (
                filled.get(f"q{number}_{place}")
                if question.multiple
                else filled.get(f"q{number}") == option.label
            )
        ]
        text = filled.get(f"q{number}_text")
        answers[question.id] = {
            "choose": list(dict.fromkeys(chosen)),
            "text": text if isinstance(text, str) else "",
        }
    return {"type": ANSWER, "answers": answers}


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidDecision("the arguments are not JSON") from None
    if not isinstance(value, dict):
        raise InvalidDecision("the arguments are not a JSON object")
    return value
