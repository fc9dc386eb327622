"""An approval as a question to a person at a host: what they read, the form they fill in, and what they meant by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tollboard.errors import InvalidDecision
from tollboard.fleet.records import ApprovalRecord
from tollboard.runtime.approval import APPROVE, EDIT, REJECT
from tollboard.surfaces.cli.text import one_line, safe

_OFFERED = (APPROVE, EDIT, REJECT)


def message(record: ApprovalRecord, fault: str = "") -> str:
    """Return what the person reads: every argument in full, and what was wrong with their last answer."""
    lines = [f"{record.session} wants to use {one_line(record.tool)}."]
    if fault:
        lines.insert(0, f"That could not be taken: {one_line(fault)}\n")
    if record.path != record.session:
        lines.append(f"Asked by: {one_line(record.path)}")
    if record.display:
        lines.append(f"Shown as: {one_line(record.display)}")
    for name, value in record.arguments.items():
        lines.append(f"{one_line(name)}: {_shown(value)}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return safe(text).replace("\n", "\n    ")  # a line of an argument cannot pass for the next one's name


def form(record: ApprovalRecord) -> dict[str, Any]:
    """Return the form: flat, as hosts demand. Nothing is chosen beforehand."""
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


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidDecision("the arguments are not JSON") from None
    if not isinstance(value, dict):
        raise InvalidDecision("the arguments are not a JSON object")
    return value
