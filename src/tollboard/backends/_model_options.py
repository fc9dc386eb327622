"""The options of the `model` backend: checked, without importing anything heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tollboard.backends._options import (
    Check,
    directory,
    env_marker,
    flag,
    name,
    one_of,
    read_options,
    table,
    text,
    texts,
    variables,
    whole,
)
from tollboard.backends._sandbox import Wish
from tollboard.errors import InvalidOption, TollboardError
from tollboard.ids import check_name

DIRECTORY_TOOLS = ("list_files", "read_file", "write_file", "edit_file", "search_files", "run_command")
"""The built-in tools for the working directory."""
TODO_TOOL = "write_todos"
BUILT_IN = (*DIRECTORY_TOOLS, TODO_TOOL)
GUARDS: Mapping[str, Any] = {"write_file": True, "edit_file": True, "run_command": True}
"""What waits for a person unless the options say otherwise."""
SUMMARISE_AT = 150_000
START_LIMIT = "start_timeout_s"
"""The option of an MCP server that says how many seconds it may take to start."""
START_LIMIT_S = 30.0
MAX_RUNS = 100
PROMPT = (
    "You are a careful assistant that works in one directory, through the tools you are given. "
    "Some calls wait for a person to approve, change or reject them; accept what they decide."
)
WORKER_PROMPT = "Do the task that you are given and answer with its result: nobody can be asked."
LIMITS = (
    "request_limit",
    "tool_calls_limit",
    "input_tokens_limit",
    "output_tokens_limit",
    "total_tokens_limit",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """What the options say of one agent: the session's own, or one below it."""

    name: str
    description: str = ""
    system_prompt: str = PROMPT
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    """Names of built-in tools and of entry points; `None`: the built-in ones, or those of the agent above."""
    guards: Mapping[str, Any] = field(default_factory=dict)
    max_runs: int = MAX_RUNS
    until_tool: str | None = None
    until_tool_success: str | None = None
    use_instructions: str = ""
    display_text: str = ""
    sub_agents: tuple[AgentSpec, ...] = ()
    general_purpose: bool = False
    list_sub_agents: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What a session of the `model` backend was started with."""

    agent: AgentSpec
    base_url: str | None = None
    env: Mapping[str, str] = field(repr=False, default_factory=dict)
    mcp_servers: Mapping[str, Any] = field(repr=False, default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    summarise_at: int = SUMMARISE_AT
    cwd: str | None = None
    marker: tuple[str, str] | None = None
    answered: bool = True
    private: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    sandbox: str | None = None
    sandbox_network: bool = True
    sandbox_default: str = "off"


def _limits(value: object) -> dict[str, int]:
    given = table(value)
    if unknown := sorted(given.keys() - set(LIMITS)):
        raise ValueError(f"does not know {unknown[0]!r}; the limits are: {', '.join(LIMITS)}")
    return {key: whole(1)(limit) for key, limit in given.items()}


def _servers(value: object) -> dict[str, Any]:
    servers = {check_name(server): table(given) for server, given in table(value).items()}
    for server, given in servers.items():
        if ("command" in given) == ("url" in given):
            raise ValueError(f"{server!r} must have either a command (with args) or a url")
        limit_s = given.get(START_LIMIT, START_LIMIT_S)
        if isinstance(limit_s, bool) or not isinstance(limit_s, int | float) or not 0 < limit_s < math.inf:
            raise ValueError(
                f"{server!r}: {START_LIMIT} is {limit_s!r}; it must be a number of seconds above 0"
            )
    return servers


def _guards(value: object) -> dict[str, Any]:
    given = table(value)
    for tool, guard in given.items():
        allowed = guard.get("allowed_decisions") if isinstance(guard, Mapping) else None
        if not isinstance(guard, bool) and not (
            isinstance(allowed, list) and set(guard) == {"allowed_decisions"}
        ):
            raise ValueError(f'says {tool!r}: {guard!r}; use true, false or {{"allowed_decisions": [...]}}')
    return given


def _sub_agents(value: object) -> tuple[AgentSpec, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of sub-agents")
    return tuple(_sub_agent(number, each) for number, each in enumerate(value, 1))


def _sub_agent(number: int, value: object) -> AgentSpec:
    given = table(value)
    for wanted in ("name", "description", "system_prompt"):
        if wanted not in given:
            who = repr(given["name"]) if "name" in given else f"number {number}"
            raise ValueError(f"{who} has no {wanted}")
    if unknown := sorted(given.keys() - _AGENT.keys()):
        raise ValueError(
            f"{given['name']!r} has {unknown[0]!r}; a sub-agent has: {', '.join(sorted(_AGENT))}"
        )
    found: dict[str, Any] = {}
    for key, each in given.items():
        try:
            found[key] = _AGENT[key](each)
        except (ValueError, TollboardError) as wrong:
            raise ValueError(f"{given['name']!r}, {key}: {wrong}") from None
    return AgentSpec(**found)


def _tools(value: object) -> tuple[str, ...]:
    return tuple(texts(value))


_OF_EVERY_AGENT: dict[str, Check] = {
    "model": name,
    "system_prompt": name,
    "settings": table,
    "tools": _tools,
    "guards": _guards,
    "max_runs": whole(1),
    "sub_agents": _sub_agents,
    "general_purpose": flag,
    "list_sub_agents": flag,
}
_AGENT: dict[str, Check] = {
    **_OF_EVERY_AGENT,
    "name": lambda value: check_name(text(value)),
    "description": name,
    "until_tool": name,
    "until_tool_success": name,
    "use_instructions": text,
    "display_text": text,
}
_SESSION: dict[str, Check] = {
    **_OF_EVERY_AGENT,
    "base_url": name,
    "env": variables,
    "mcp_servers": _servers,
    "limits": _limits,
    "summarise_at": whole(1),
    "sandbox": one_of(*Wish),
    "sandbox_network": flag,
}


def check_model_option(option: str, value: object) -> None:
    """Raise ValueError, or a TollboardError, for what the option cannot be; it says what it should have been."""
    _SESSION[option](value)


def parse_model_options(options: Mapping[str, object]) -> ModelOptions:
    """Return the checked options. Raises InvalidOption that names the option and what it should have been."""
    ours: dict[str, Check] = {
        "cwd": directory, "env_marker": env_marker, "private": _tools, "pass_env": _tools,
        "sandbox_default": one_of(*Wish),
    }  # fmt: skip
    given = read_options("model", options, {**_SESSION, **ours})
    if "model" not in given:
        raise InvalidOption("backend 'model' needs the option 'model', such as 'anthropic:claude-sonnet-5-5'")
    agent = {key: given.pop(key) for key in tuple(given) if key in _OF_EVERY_AGENT}
    marker = given.pop("env_marker", None)
    return ModelOptions(agent=AgentSpec(name="session", **agent), marker=marker, **given)


def model_worker_options(
    options: Mapping[str, object], opening: str | None, *, retried: bool
) -> dict[str, object]:
    """Return the options of a pool's worker; see `Backend.worker_options`."""
    found = dict(options)
    if opening is not None:
        found["system_prompt"] = f"{opening}\n\n{found.get('system_prompt', WORKER_PROMPT)}"
    settings = found.get("settings", {})
    if retried and isinstance(settings, Mapping):
        found["settings"] = {"max_retries": 0, **settings}
    return found
