"""Tools of the conformance suite that ask the client back: within the call (older era), or by a second call (newer).

The newer era's `InputRequiredResult` ends the call; the client asks its user, or its model, and calls again with the
answers and the state it was given. The state is sealed by the SDK: what comes back here is what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata

from tests.conformance.content import NO_ARGUMENTS, text
from tollboard.surfaces.mcp.server import Context

Params = types.CallToolRequestParams
Result = types.CallToolResult | types.InputRequiredResult
Asking = Callable[[Context, Params], Awaitable[Result]]


def said(words: str) -> types.CallToolResult:
    return types.CallToolResult(content=[text(words)])


def question(words: str, **properties: Any) -> types.ElicitRequest:
    """Return a question to the user, with everything in it required."""
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=words, requested_schema=schema))


def sampling(words: str, max_tokens: int = 100) -> types.CreateMessageRequest:
    """Return a question to the client's model."""
    message = types.SamplingMessage(role="user", content=text(words))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


STRING = {"type": "string"}
NAME = question("What is your name?", name=STRING)
CONFIRM = question("Please confirm", ok={"type": "boolean"})


# -- the older era: the server asks while the call is open


async def _elicited(context: Context, asked: types.ElicitRequest) -> types.ElicitResult:
    related = ServerMessageMetadata(related_request_id=context.request_id)
    return await context.session.send_request(asked, types.ElicitResult, metadata=related)


async def test_sampling(context: Context, params: Params) -> Result:
    related = ServerMessageMetadata(related_request_id=context.request_id)
    asked = sampling((params.arguments or {})["prompt"])
    answer = await context.session.send_request(asked, types.CreateMessageResult, metadata=related)
    return said(f"LLM response: {getattr(answer.content, 'text', '')}")


async def test_elicitation(context: Context, params: Params) -> Result:
    asked = question(
        (params.arguments or {})["message"],
        username={"type": "string", "description": "User's response"},
        email={"type": "string", "description": "User's email address"},
    )
    answer = await _elicited(context, asked)
    return said(f"User response: action={answer.action}, content={json.dumps(answer.content)}")


DEFAULTS = types.ElicitRequest(
    params=types.ElicitRequestFormParams(
        message="Please review the defaults",
        requested_schema={
            "type": "object",
            "properties": {
                "name": {"type": "string", "default": "John Doe"},
                "age": {"type": "integer", "default": 30},
                "score": {"type": "number", "default": 95.5},
                "status": {
                    "type": "string",
                    "enum": ["active", "inactive", "pending"],
                    "default": "active",
                },
                "verified": {"type": "boolean", "default": True},
            },
        },
    )
)


def _titled(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in pairs]


_OPTIONS = ["option1", "option2", "option3"]
ENUMS = question(
    "Please choose",
    untitledSingle={"type": "string", "enum": _OPTIONS},
    titledSingle={
        "type": "string",
        "oneOf": _titled(("value1", "First Option"), ("value2", "Second Option"), ("value3", "Third Option")),
    },
    legacyEnum={
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    untitledMulti={"type": "array", "items": {"type": "string", "enum": _OPTIONS}},
    titledMulti={
        "type": "array",
        "items": {
            "anyOf": _titled(
                ("value1", "First Choice"), ("value2", "Second Choice"), ("value3", "Third Choice")
            )
        },
    },
)


def _shows(asked: types.ElicitRequest) -> Asking:
    async def show(context: Context, params: Params) -> Result:
        answer = await _elicited(context, asked)
        return said(f"Elicitation completed: action={answer.action}, content={json.dumps(answer.content)}")

    return show


# -- the newer era: the call ends with what is asked, and comes again


def _answer(params: types.InputResponseRequestParams, key: str) -> Any:
    return (params.input_responses or {}).get(key)


def accepted(params: types.InputResponseRequestParams, key: str) -> dict[str, Any] | None:
    """Return what the user filled in, or None where nobody has."""
    answer = _answer(params, key)
    if isinstance(answer, types.ElicitResult) and answer.action == "accept":
        return dict(answer.content or {})
    return None


async def input_elicitation(context: Context, params: Params) -> Result:
    given = accepted(params, "user_name")
    if given is None:
        return types.InputRequiredResult(input_requests={"user_name": NAME})
    return said(f"Hello, {given['name']}!")


async def input_sampling(context: Context, params: Params) -> Result:
    answer = _answer(params, "capital_question")
    if answer is None:
        asked = sampling("What is the capital of France?")
        return types.InputRequiredResult(input_requests={"capital_question": asked})
    return said(answer.content.text)


async def input_roots(context: Context, params: Params) -> Result:
    answer = _answer(params, "client_roots")
    if answer is None:
        return types.InputRequiredResult(input_requests={"client_roots": types.ListRootsRequest()})
    return said(", ".join(str(root.uri) for root in answer.roots))


async def input_request_state(context: Context, params: Params) -> Result:
    if accepted(params, "confirm") is None:
        return types.InputRequiredResult(input_requests={"confirm": CONFIRM}, request_state="asked")
    if params.request_state != "asked":
        raise MCPError(types.INVALID_PARAMS, "this was never asked")
    return said("state-ok")


async def input_multiple(context: Context, params: Params) -> Result:
    keys = ("user_name", "greeting", "client_roots")
    if any(_answer(params, key) is None for key in keys):
        asked = (NAME, sampling("Generate a greeting", 50), types.ListRootsRequest())
        return types.InputRequiredResult(
            input_requests=dict(zip(keys, asked, strict=True)), request_state="asked"
        )
    return said("All three are here.")


async def input_multi_round(context: Context, params: Params) -> Result:
    first = question("Step 1: What is your name?", name=STRING)
    second = question("Step 2: What is your favorite color?", color=STRING)
    name, color = accepted(params, "step1"), accepted(params, "step2")
    if params.request_state is None or (name is None and color is None):
        return types.InputRequiredResult(input_requests={"step1": first}, request_state="round 1")
    if name is not None:
        return types.InputRequiredResult(input_requests={"step2": second}, request_state=str(name["name"]))
    assert color is not None
    return said(f"{params.request_state} likes {color['color']}.")


async def input_capabilities(context: Context, params: Params) -> Result:
    """Ask only for what the client has said it can answer."""
    able = context.session.client_capabilities or types.ClientCapabilities()
    asked: types.InputRequests = {}
    if able.elicitation is not None:
        asked["user_name"] = NAME
    if able.sampling is not None:
        asked["greeting"] = sampling("Generate a greeting", 50)
    return types.InputRequiredResult(input_requests=asked) if asked else said("Nothing can be asked.")


async def prompt(params: types.GetPromptRequestParams) -> types.GetPromptResult | types.InputRequiredResult:
    given = accepted(params, "user_context")
    if given is None:
        asked = question("What context should the prompt use?", context=STRING)
        return types.InputRequiredResult(input_requests={"user_context": asked})
    message = types.PromptMessage(role="user", content=text(f"In the context of {given['context']}: go on."))
    return types.GetPromptResult(messages=[message])


def _takes(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


ASKING: dict[str, tuple[Asking, dict[str, Any]]] = {
    "test_sampling": (test_sampling, _takes(prompt=STRING)),
    "test_elicitation": (test_elicitation, _takes(message=STRING)),
    "test_elicitation_sep1034_defaults": (_shows(DEFAULTS), NO_ARGUMENTS),
    "test_elicitation_sep1330_enums": (_shows(ENUMS), NO_ARGUMENTS),
    "test_streaming_elicitation": (input_elicitation, NO_ARGUMENTS),
    "test_input_required_result_elicitation": (input_elicitation, NO_ARGUMENTS),
    "test_input_required_result_sampling": (input_sampling, NO_ARGUMENTS),
    "test_input_required_result_list_roots": (input_roots, NO_ARGUMENTS),
    "test_input_required_result_request_state": (input_request_state, NO_ARGUMENTS),
    "test_input_required_result_multiple_inputs": (input_multiple, NO_ARGUMENTS),
    "test_input_required_result_multi_round": (input_multi_round, NO_ARGUMENTS),
    "test_input_required_result_tampered_state": (input_request_state, NO_ARGUMENTS),
    "test_input_required_result_capabilities": (input_capabilities, NO_ARGUMENTS),
}
"""Tools that ask, and what they take."""
