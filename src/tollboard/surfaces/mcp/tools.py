"""Which operations are tools: their names, what a model is told about them, and limits that suit a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tollboard.operations.catalogue import OPERATIONS, AnyOperation

MAX_WAIT_S = 50.0
"""How long a tool may wait: hosts give a call a minute."""
READER = "mcp"
"""Whose inbox cursor a manager model moves: not the person's."""


@dataclass(frozen=True, slots=True)
class Tool:
    """An operation as a tool. `advice` goes behind its summary; `defaults` and `ceilings` replace the operation's."""

    operation: AnyOperation
    name: str
    advice: str = ""
    destructive: bool = False
    idempotent: bool = False
    spoken: bool = False
    """What it returns holds words of agents: data, never instructions."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    ceilings: Mapping[str, float] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """Return what a model is told."""
        return f"{self.operation.summary} {self.advice}".strip()

    def given(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with the defaults filled in and the ceilings held."""
        full = {**self.defaults, **arguments}
        for name, ceiling in self.ceilings.items():
            value = full.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > ceiling:
                full[name] = type(value)(ceiling)
        return full

    def input_schema(self) -> dict[str, Any]:
        """Return what it takes."""
        schema: dict[str, Any] = self.operation.arguments.model_json_schema()
        for name, value in self.defaults.items():
            schema["properties"][name]["default"] = value
        for name, ceiling in self.ceilings.items():
            schema["properties"][name]["maximum"] = ceiling
        return schema

    @property
    def wrapped(self) -> bool:
        """Whether its result stands under `result`: hosts of the older protocol want an object."""
        return bool(_result_schema(self.operation.name).get("type") != "object")

    def output_schema(self) -> dict[str, Any]:
        """Return what it gives."""
        schema = dict(_result_schema(self.operation.name))
        if not self.wrapped:
            return schema
        definitions = schema.pop("$defs", {})
        whole = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
        return whole | ({"$defs": definitions} if definitions else {})


@cache
def _result_schema(operation: str) -> Mapping[str, Any]:
    """Return the schema of what an operation gives. It takes a millisecond to make, a call should not."""
    schema: Mapping[str, Any] = _lean(OPERATIONS[operation].result.json_schema(mode="serialization"))
    return schema


def _lean(node: Any) -> Any:
    """Return the schema without titles, which say the name once more, and with `[string, null]` for a choice of the
    two: hosts keep it in mind and hold every result against it."""
    if isinstance(node, list):
        return [_lean(item) for item in node]
    if not isinstance(node, dict):
        return node
    lean = {key: _lean(value) for key, value in node.items() if key != "title" or not isinstance(value, str)}
    choices = lean.get("anyOf", [])
    if choices and all(choice.keys() == {"type"} for choice in choices):
        del lean["anyOf"]
        lean["type"] = [choice["type"] for choice in choices]
    return lean


def _tool(operation: str, advice: str = "", **more: Any) -> Tool:
    name = operation if operation.startswith("pool_") else f"switchboard_{operation}"
    return Tool(OPERATIONS[operation], name, advice, **more)


_WAIT = {"defaults": {"timeout": 25.0}, "ceilings": {"timeout": MAX_WAIT_S}}
_PAGE = {"defaults": {"limit": 20}, "ceilings": {"limit": 50}, "spoken": True}

TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        _tool("start_session", "Its name is how all other tools find it. `backends` says which backends there are."),
        _tool("list_sessions", idempotent=True),
        _tool("status", idempotent=True),
        _tool("send", "It does not wait: give the ref to switchboard_wait or switchboard_poll. A session that is at "
              "work refuses, unless queue=true."),
        _tool("poll", "`status` is pending, completed or failed.", idempotent=True, spoken=True),
        _tool("wait", f"Returns after at most {MAX_WAIT_S:g} s with what is done and what is not; call again for the "
              "rest.", spoken=True, idempotent=True, **_WAIT),
        _tool("inbox", "The cursor moves only with ack=true, to exactly what was shown.", spoken=True,
              defaults={"limit": 20, "reader": READER}, ceilings={"limit": 50, "wait": MAX_WAIT_S}),
        _tool("transcript", "Newest last; `before` reads further back.", idempotent=True, spoken=True,
              defaults={"limit": 10}, ceilings={"limit": 50}),
        _tool("summary_get", "Read it before you write a new one.", idempotent=True),
        _tool("summary_update", "Your own notes on the session: no agent reads or writes them."),
        _tool("broadcast"),
        _tool("interrupt", "Give the ref to be sure which turn is meant.", destructive=True, idempotent=True),
        _tool("halt", idempotent=True),
        _tool("resume", idempotent=True),
        _tool("cancel", destructive=True),
        _tool("stop_session", destructive=True, idempotent=True),
        _tool("approvals", "Show them to the person whose decision it is.", idempotent=True, spoken=True),
        _tool("decide", "Only when a person has said so: it lets an agent do something that cannot be undone.",
              destructive=True),
        _tool("subagents", idempotent=True, spoken=True, defaults={"limit": 20}, ceilings={"limit": 50}),
        _tool("subagent_messages", "`next_after` is the `after` of the next page.", idempotent=True, **_PAGE),
        _tool("cancel_subagent", destructive=True, idempotent=True),
        _tool("backends", idempotent=True),
        _tool("pool_start", "For a batch take strategy=shared_queue."),
        _tool("pool_submit", "Returns fewer refs than tasks when the pool is full: submit the rest again.",
              defaults={"timeout": 10.0}, ceilings={"timeout": MAX_WAIT_S}),
        _tool("pool_status", idempotent=True),
        _tool("pool_wait", f"Returns after at most {MAX_WAIT_S:g} s; `done` says whether all is done.", idempotent=True,
              **_WAIT),
        _tool("pool_results", "`next` is the `after` of the next page.", idempotent=True, **_PAGE),
        _tool("pool_list", idempotent=True),
        _tool("pool_stop", destructive=True, idempotent=True),
    )
}  # fmt: skip
"""Tools by name. Deleting, and shutting the daemon down, are a person's."""
