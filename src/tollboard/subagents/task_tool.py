"""The tools by which a parent starts sub-agents, `task` and `get_task_instructions`, as schemas and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tollboard.subagents.subagent import Definition

TASK, TASK_INSTRUCTIONS = "task", "get_task_instructions"
MAX_LISTED = 20_000


def task_schema(definitions: Sequence[Definition]) -> dict[str, Any]:
    """Return the JSON schema of `task`: the configured names and no others."""
    return {
        "type": "object",
        "properties": {
            "task_name": {
                "type": "string",
                "enum": [definition.name for definition in definitions],
                "description": "Which sub-agent does it.",
            },
            "instructions": {
                "type": "string",
                "minLength": 1,
                "description": "Everything it needs to know: it sees nothing of this conversation.",
            },
        },
        "required": ["task_name", "instructions"],
        "additionalProperties": False,
    }


def task_description(definitions: Sequence[Definition], *, listed: bool = True) -> str:
    """Return what the model reads about `task`; without the list when the prompt says it already."""
    text = (
        "Hand a task to a sub-agent and wait for its result. It starts with a fresh mind and sees only your "
        "instructions; you see only its result. Several in one message run side by side."
    )
    if not listed:
        return text
    lines = [f"- {definition.name}: {definition.description}" for definition in definitions]
    return f"{text}\n\nSub-agents:\n" + "\n".join(lines)[:MAX_LISTED]


def instructions_schema(definitions: Sequence[Definition]) -> dict[str, Any]:
    """Return the JSON schema of `get_task_instructions`."""
    names = [definition.name for definition in definitions if definition.use_instructions]
    return {
        "type": "object",
        "properties": {"task_name": {"type": "string", "enum": names}},
        "required": ["task_name"],
        "additionalProperties": False,
    }


def use_instructions(definitions: Sequence[Definition], name: str) -> str:
    """Return how a sub-agent wants to be given tasks."""
    for definition in definitions:
        if definition.name == name:
            return definition.use_instructions or f"{name} needs nothing but clear instructions."
    return f"there is no sub-agent {name!r}"
