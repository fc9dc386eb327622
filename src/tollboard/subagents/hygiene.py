"""What is kept of a conversation can always be sent back: a response is mended, or parts of it refused, when it comes.

Providers check the whole history with every request. One call with `NaN` in its arguments, one name that is too long,
half of a character anywhere, and they refuse every later prompt of the session. What a person is shown, what runs and
what is kept are the same: a call whose arguments had to be set aside is not run, and the model is told why.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
)

from tollboard.ids import new_ref

UNREADABLE = "unreadable_arguments"
"""The one argument of a call whose own arguments cannot be kept: their text."""
NOT_JSON = "This call was not run: its arguments are not JSON ({why}). Correct them, and call again."
NO_OBJECT = "This call was not run: its arguments must be a JSON object. Correct them, and call again."
NO_NUMBER = (
    "This call was not run: its arguments hold {name}, which JSON has not. Correct them, and call again."
)
MAX_NAME = 64
"""The longest name of a tool that every provider takes."""
MAX_ID = 256
UNNAMED = "unnamed_tool"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_NOT_IN_IDS = re.compile(r"[\s\x00-\x1f\x7f\ufffd]")


def encodable(value: Any) -> Any:
    """Return a value with texts that can be written as UTF-8; halves of characters are put together, or replaced.

    Names of files hold such halves, and what careless servers cut up. One in a conversation, and no request of it could
    be sent any more. So with numbers that JSON does not know: they become their names.
    """
    match value:
        case float() if not math.isfinite(value):
            return _odd_number(value)
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [encodable(item) for item in value]
        case dict():
            return {encodable(key): encodable(item) for key, item in value.items()}
    return value


def mend_response(response: ModelResponse, tools: Collection[str]) -> None:
    """Make a response fit to be kept and sent back; `tools` are the names of those there are."""
    parts = [part for part in response.parts if not _is_blank(part)]
    response.parts = parts or response.parts[:1]
    response.provider_details = encodable(response.provider_details)
    for part in response.parts:
        if isinstance(part, TextPart | ThinkingPart):
            part.content = encodable(part.content)
            part.provider_details = encodable(part.provider_details)
        elif isinstance(part, ToolCallPart):
            part.tool_name = _name(part.tool_name, tools)
            part.tool_call_id = _id(part.tool_call_id)
            _mend_arguments(part)


def mend_request(request: ModelRequest) -> None:
    """Make what is asked encodable; results of tools are made so where they come from."""
    for part in request.parts:
        if isinstance(part, UserPromptPart):
            content = part.content
            part.content = encodable(content if isinstance(content, str) else list(content))


def why_not_run(arguments: str | Mapping[str, Any] | None) -> str:
    """Return why a call with these arguments, as they are kept, is not run; nothing if it is to run."""
    if isinstance(arguments, str) and UNREADABLE in arguments:
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return ""
    if not isinstance(arguments, Mapping) or list(arguments) != [UNREADABLE]:
        return ""
    return _read(str(arguments[UNREADABLE]))[1] or NO_OBJECT


def _is_blank(part: object) -> bool:
    """Return whether a part is text without a word, which some providers refuse to be sent."""
    return isinstance(part, TextPart) and not part.content.strip()


def _name(name: str, tools: Collection[str]) -> str:
    """Return a tool's name as every provider takes it; one that no tool has is never made into one that a tool has."""
    if name in tools:
        return name
    fit = _NOT_IN_NAMES.sub("_", encodable(name))[:MAX_NAME] or UNNAMED
    while fit != name and fit in tools:
        fit = f"{fit[: MAX_NAME - 1]}_" if len(fit) < MAX_NAME else f"x{fit[1:-1]}x"
    return fit


def _id(id: str) -> str:
    fit = _NOT_IN_IDS.sub("_", encodable(id or ""))
    return fit if 0 < len(fit) <= MAX_ID else new_ref()


def _mend_arguments(part: ToolCallPart) -> None:
    given = part.args
    if given is None or given == "":
        return
    text = given if isinstance(given, str) else json.dumps(given)
    value, wrong = _read(text)
    if wrong:
        fit: Any = {UNREADABLE: encodable(text)}
    else:
        fit = encodable(value)
        if fit == value and encodable(text) == text:
            return  # as it came: a provider's cache knows it so
    part.args = fit if isinstance(given, dict) else json.dumps(fit)
    part.id = None  # OpenAI's Responses would take its own copy of a call that keeps its item's id


def _read(text: str) -> tuple[Any, str]:
    """Return the arguments that a text holds, or why they cannot be used."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        return None, NOT_JSON.format(why=str(wrong) or "nested too deeply")
    if not isinstance(value, dict):
        return None, NO_OBJECT
    if name := _odd_number(value):
        return None, NO_NUMBER.format(name=name)
    return value, ""


def _odd_number(value: Any) -> str:
    """Return the name of a number in a value that JSON does not know, nothing if there is none."""
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case dict():
            return next(filter(None, map(_odd_number, value.values())), "")
        case list():
            return next(filter(None, map(_odd_number, value)), "")
    return ""
