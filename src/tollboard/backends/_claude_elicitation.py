"""What an MCP server asks through Claude Code (elicitation), as an approval, and the answer as the server reads it.

The SDK knows no elicitation: `serve` takes these requests of the program before the SDK refuses them. A form has a
question for each of its fields; an address to open is asked about as it is.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tollboard.errors import InvalidDecision
from tollboard.runtime.approval import ApprovalRequest, Decision, ask
from tollboard.runtime.question import Answer, Option, Question

TOOL = "elicitation"
CONFIRM = "confirm"
ACCEPT, DECLINE = "accept", "decline"
YES_NO = (Option("yes"), Option("no"))

Ask = Callable[[ApprovalRequest], Awaitable[Decision]]


def serve(query: Any, put: Ask) -> None:
    """Answer the elicitations that come over this connection of the SDK with what a person decides."""
    others = query._handle_control_request

    async def handle(control: Mapping[str, Any]) -> None:
        asked = control["request"]
        if asked.get("subtype") != "elicitation":
            await others(control)
            return
        request = elicitation(asked)
        response = reply(request, await put(request), asked.get("requested_schema"))
        answer = {"subtype": "success", "request_id": control["request_id"], "response": response}
        await query.transport.write(json.dumps({"type": "control_response", "response": answer}) + "\n")

    # Looked up at each request; a request that the program withdraws cancels its task, as with the SDK's own.
    query._handle_control_request = handle


def elicitation(asked: Mapping[str, Any]) -> ApprovalRequest:
    """Return what to put to a person."""
    server, message = str(asked.get("mcp_server_name", "")), str(asked.get("message", ""))
    schema = asked.get("requested_schema")
    fields = _fields(schema)
    url = asked.get("url")
    if url:
        done = (Option(ACCEPT, "you have opened the address and done what it asks"), Option(DECLINE))
        questions: tuple[Question, ...] = (
            Question(CONFIRM, f"{message}\n{url}", "Open", done, free_text=False),
        )
    elif not fields:
        options = (Option(ACCEPT), Option(DECLINE))
        questions = (Question(CONFIRM, message, "Confirm", options, free_text=False),)
    else:
        needed = _names(schema, "required")
        order = [name for name in asked.get("property_order") or () if name in fields] or list(fields)
        questions = tuple(_question(name, fields[name], required=name in needed) for name in order)
    arguments = {"server": server, "message": message, **({"url": url} if url else {})}
    return ask(
        TOOL, questions, arguments=arguments, display=f"{server}: {message}",
        check_answer=lambda answer: _check(answer, questions, fields),
    )  # fmt: skip


def reply(request: ApprovalRequest, decision: Decision, schema: object) -> dict[str, object]:
    """Return what the server is told."""
    if not isinstance(decision, Answer):
        return {"action": DECLINE}
    if request.questions[0].id == CONFIRM and not _fields(schema):
        action = decision.reply(CONFIRM).values[0]
        return {"action": action, **({"content": {}} if action == ACCEPT else {})}
    return {"action": ACCEPT, "content": _content(decision, request.questions, _fields(schema))}


def _fields(schema: object) -> Mapping[str, Mapping[str, Any]]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return {}
    return {str(name): field for name, field in properties.items() if isinstance(field, Mapping)}


def _names(schema: object, key: str) -> Sequence[str]:
    found = schema.get(key) if isinstance(schema, Mapping) else None
    return [str(name) for name in found] if isinstance(found, list) else []


def _question(name: str, field: Mapping[str, Any], *, required: bool) -> Question:
    told = [str(field[key]) for key in ("title", "description") if field.get(key)]
    default = field.get("default")
    text = ": ".join(told) or name
    if default is not None:
        text += f" (default: {json.dumps(default, ensure_ascii=False)})"
    many = field.get("type") == "array"
    options = YES_NO if field.get("type") == "boolean" else _choices(field.get("items") if many else field)
    return Question(
        name, text, name, options, multiple=many, free_text=not options,
        secret=field.get("format") == "password" or bool(field.get("writeOnly")),
        required=required and default is None,
    )  # fmt: skip


def _choices(field: object) -> tuple[Option, ...]:
    """Return the values a field may have, in each of the shapes that the protocol knows."""
    if not isinstance(field, Mapping):
        return ()
    for key in ("oneOf", "anyOf"):
        if isinstance(titled := field.get(key), list):
            return tuple(Option(str(each.get("const")), str(each.get("title") or "")) for each in titled)
    values = field.get("enum")
    if not isinstance(values, list):
        return ()
    titles = field.get("enumNames")
    named = titles if isinstance(titles, list) and len(titles) == len(values) else [""] * len(values)
    return tuple(Option(str(value), str(title)) for value, title in zip(values, named, strict=True))


def _content(
    answer: Answer, questions: Sequence[Question], fields: Mapping[str, Mapping[str, Any]]
) -> dict[str, object]:
    content: dict[str, object] = {}
    for question in questions:
        field = fields[question.id]
        said = answer.reply(question.id).values
        if said:
            content[question.id] = _value(question, field, said)
        elif "default" in field:
            content[question.id] = field["default"]
    return content


def _check(answer: Answer, questions: Sequence[Question], fields: Mapping[str, Mapping[str, Any]]) -> None:
    if fields:
        _content(answer, questions, fields)


def _value(question: Question, field: Mapping[str, Any], said: tuple[str, ...]) -> object:
    """Return a reply as the type that the field wants. Raises InvalidDecision where it is none."""
    match field.get("type"):
        case "array":
            return list(said)
        case "boolean":
            return said[0] == "yes"
        case "integer" | "number" as kind:
            return _number(question, field, said[0].strip(), whole=kind == "integer")
    _bounded(question, field, len(said[0]), ("minLength", "maxLength"), "characters")
    return said[0]


def _number(question: Question, field: Mapping[str, Any], text: str, *, whole: bool) -> int | float:
    try:
        number: int | float = int(text) if whole else float(text)
    except ValueError:
        raise InvalidDecision(
            f"question {question.name} takes {'a whole number' if whole else 'a number'}, not {text[:40]!r}"
        ) from None
    if number != number or number in (float("inf"), float("-inf")):
        raise InvalidDecision(f"question {question.name} takes a finite number")
    _bounded(question, field, number, ("minimum", "maximum"), "")
    return number


def _bounded(
    question: Question, field: Mapping[str, Any], value: float, limits: tuple[str, str], unit: str
) -> None:
    low, high = (field.get(limit) for limit in limits)
    if isinstance(low, int | float) and value < low:
        raise InvalidDecision(f"question {question.name} takes at least {low:g} {unit}".rstrip())
    if isinstance(high, int | float) and value > high:
        raise InvalidDecision(f"question {question.name} takes at most {high:g} {unit}".rstrip())
