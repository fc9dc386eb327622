"""Which operations are tools: their names, what a model is told about them, and limits that suit a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tollboard.errors import Invalid
from tollboard.operations.catalogue import OPERATIONS, AnyOperation
from tollboard.surfaces.mcp.schemas import slim_input, slim_output

MAX_WAIT_S = 50.0
"""How long a tool may wait: hosts give a call a minute."""
AGAIN = {
    "timeout": "call again for the rest",
    "wait": "call again for the rest",
    "limit": "ask for the next page",
}
"""What to do instead of a call beyond a tool's limits, by the argument."""


@dataclass(frozen=True, slots=True)
class Tool:
    """An operation as a tool. `advice` goes behind its summary; `defaults` and `limits` replace the operation's."""

    operation: AnyOperation
    name: str
    advice: str = ""
    destructive: bool = False
    idempotent: bool = False
    spoken: bool = False
    """What it returns holds words of agents: data, never instructions."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The least and the most that an argument may be. More is refused, not cut: who asks for 300 s must not believe
    that 300 s have passed."""

    @property
    def description(self) -> str:
        """Return what a model is told."""
        return f"{self.operation.summary} {self.advice}".strip()

    def given(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with the defaults filled in; a null is the same as to leave it out.

        Raises Invalid for one beyond the tool's limits.
        """
        full = {**self.defaults, **{name: value for name, value in arguments.items() if value is not None}}
        for name, (least, most) in self.limits.items():
            value = full.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not least <= value <= most:
                raise Invalid(f"{name} is {value!r}: this tool takes {least:g} to {most:g}; {AGAIN[name]}")
        return full

    def input_schema(self) -> dict[str, Any]:
        """Return what it takes."""
        schema = slim_input(self.operation.arguments.model_json_schema())
        properties = schema.get("properties", {})
        for name, value in self.defaults.items():
            properties[name]["default"] = value
        for name, (least, most) in self.limits.items():
            properties[name] |= {"minimum": least, "maximum": most}
        if "reader" in properties:
            del properties["reader"]["default"]  # each client's own, see readers.py
        return schema

    @property
    def wrapped(self) -> bool:
        """Whether its result stands under `result`: hosts of the older protocol want an object."""
        return bool(_result_schema(self.operation.name).get("type") != "object")

    def output_schema(self) -> dict[str, Any]:
        """Return what it gives."""
        schema = slim_output(_result_schema(self.operation.name))
        return {"type": "object", "properties": {"result": schema}} if self.wrapped else schema


@cache
def _result_schema(operation: str) -> Mapping[str, Any]:
    """Return the schema of what an operation gives. It takes a millisecond to make, a call should not."""
    schema: Mapping[str, Any] = OPERATIONS[operation].result.json_schema(mode="serialization")
    return schema


def _tool(operation: str, advice: str = "", **more: Any) -> Tool:
    name = operation if operation.startswith("pool_") else f"switchboard_{operation}"
    return Tool(OPERATIONS[operation], name, advice, **more)


_SECONDS = (0.0, MAX_WAIT_S)
_ITEMS = (1, 50)
_WAIT = {"defaults": {"timeout": 25.0}, "limits": {"timeout": _SECONDS}}
_PAGE = {"defaults": {"limit": 20}, "limits": {"limit": _ITEMS}, "spoken": True}

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
              defaults={"limit": 20}, limits={"limit": _ITEMS, "wait": _SECONDS}),
        _tool("transcript", "Newest last; `before` reads further back.", idempotent=True, spoken=True,
              defaults={"limit": 10}, limits={"limit": _ITEMS}),
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
        _tool("subagents", idempotent=True, spoken=True, defaults={"limit": 20}, limits={"limit": _ITEMS}),
        _tool("subagent_messages", "`next_after` is the `after` of the next page.", idempotent=True, **_PAGE),
        _tool("cancel_subagent", destructive=True, idempotent=True),
        _tool("backends", idempotent=True),
        _tool("pool_start", "For a batch take strategy=shared_queue."),
        _tool("pool_submit", "Returns fewer refs than tasks when the pool is full: submit the rest again.",
              defaults={"timeout": 10.0}, limits={"timeout": _SECONDS}),
        _tool("pool_status", idempotent=True),
        _tool("pool_wait", f"Returns after at most {MAX_WAIT_S:g} s; `done` says whether all is done.", idempotent=True,
              **_WAIT),
        _tool("pool_results", "`next` is the `after` of the next page.", idempotent=True, **_PAGE),
        _tool("pool_list", idempotent=True),
        _tool("pool_stop", destructive=True, idempotent=True),
    )
}  # fmt: skip
"""Tools by name. Deleting, and shutting the daemon down, are a person's."""
