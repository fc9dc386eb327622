"""From the options of a `model` session to its agent and those below it: tools by name, guards, MCP servers, models."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tollboard.backends._directory_tools import READ_ONLY, DirectoryTools
from tollboard.backends._model_options import BUILT_IN, GUARDS, TODO_TOOL, AgentSpec, ModelOptions
from tollboard.backends._process import Marker
from tollboard.errors import InvalidOption
from tollboard.subagents.ask_tool import ASK_PERSON, asking_tool
from tollboard.subagents.building import find_model
from tollboard.subagents.subagent import TASK_TOOLS, SubAgentConfig, general_purpose

TOOL_GROUP = "tollboard.tools"
"""The entry points by which an installed package offers tools: a function, or a Pydantic AI tool."""
MAX_TODOS = 100


@dataclass(slots=True)
class Todo:
    """One thing to do."""

    content: str
    status: Literal["pending", "in_progress", "completed", "cancelled"] = "pending"


@dataclass(slots=True)
class Toolbox:
    """What the agents of one session share: the tools of the directory, the todo list, models that were made."""

    options: ModelOptions
    directory: DirectoryTools
    marker: Marker
    note: Callable[[Sequence[Todo]], None] = lambda todos: None
    models: dict[str, Any] = field(default_factory=dict)
    servers: list[Any] = field(default_factory=list)
    """The MCP servers. Their processes stay from turn to turn, and are ended with the session."""
    full_names: Mapping[str, str] = field(default_factory=dict)
    """The whole names of the servers' tools, by those that models use, where they differ."""

    async def write_todos(self, todos: list[Todo]) -> str:
        """Write your todo list anew, whole. Use it for work of several steps, and keep it up to date.

        Args:
            todos: All the items, in order, each with its status.
        """
        self.note(todos[:MAX_TODOS])
        left = sum(todo.status in ("pending", "in_progress") for todo in todos)
        return f"The list is kept; open are {left} of {len(todos)}."

    def find(self, name: str) -> Any:
        """Return the tool of that name. Raises InvalidOption that lists the known ones."""
        if name == TODO_TOOL:
            return self.write_todos
        if name == ASK_PERSON:
            return asking_tool()
        for tool in self.directory.tools():
            if tool.__name__ == name:
                return tool
        offered = importlib.metadata.entry_points(group=TOOL_GROUP)
        if name in offered.names:
            return offered[name].load()
        known = ", ".join((*BUILT_IN, ASK_PERSON, *sorted(offered.names)))
        raise InvalidOption(f"there is no tool {name!r}; known are: {known}")

    def model(self, name: str) -> Any:
        """Return the model of that name, one for all that use it. Raises what `find_model` raises."""
        if name not in self.models:
            self.models[name] = find_model(name, base_url=self.options.base_url, env=self.options.env)
        return self.models[name]

    def mcp(self) -> list[Any]:
        """Return the tools of the MCP servers, each with its server's name before its own (see `Naming`)."""
        if not self.options.mcp_servers:
            return []
        from tollboard.backends._mcp_servers import servers_of

        self.servers = servers_of(
            self.options.mcp_servers, cwd=self.options.cwd, marker=self.marker,
            taken={*_tool_names(self.options.agent), *TASK_TOOLS}, pass_env=self.options.pass_env,
        )  # fmt: skip
        self.full_names = self.servers[0].naming.full
        return [server.tools() for server in self.servers]


def _tool_names(spec: AgentSpec) -> set[str]:
    """Return the names of all tools of an agent and those below it, but for the MCP servers'."""
    own = set(BUILT_IN if spec.tools is None else spec.tools)
    return own.union(*(_tool_names(each) for each in spec.sub_agents))


def definition_of(options: ModelOptions, toolbox: Toolbox) -> SubAgentConfig:
    """Return the session's agent with everything below it. Raises InvalidOption, BackendUnavailable."""
    return _definition(options.agent, (*BUILT_IN, ASK_PERSON), toolbox, toolbox.mcp(), top=True)


def _definition(
    spec: AgentSpec,
    inherited: tuple[str, ...],
    toolbox: Toolbox,
    toolsets: Sequence[Any],
    *,
    top: bool = False,
) -> SubAgentConfig:
    names = inherited if spec.tools is None else spec.tools
    # Nobody watches a sub-agent, so what is handed down does not hold the tool that asks.
    handed = tuple(name for name in names if name != ASK_PERSON)
    below = tuple(_definition(each, handed, toolbox, toolsets) for each in spec.sub_agents)
    guards = {tool: guard for tool, guard in GUARDS.items() if tool in names}
    made = SubAgentConfig(
        name=spec.name,
        description=spec.description or "The session's own agent.",
        system_prompt=spec.system_prompt,
        model=None if spec.model is None else toolbox.model(spec.model),
        model_settings=dict(spec.settings),
        tools=tuple(toolbox.find(tool) for tool in names),
        toolsets=tuple(toolsets),
        interrupt_on={**guards, **spec.guards},
        until_tool=spec.until_tool,
        until_tool_success=spec.until_tool_success,
        max_runs=spec.max_runs,
        use_instructions=spec.use_instructions,
        display_text=spec.display_text,
        repeatable=frozenset(READ_ONLY),
        summarise_at=toolbox.options.summarise_at,
        sub_agents=below,
        list_sub_agents=spec.list_sub_agents,
        bare=top,
        full_names=toolbox.full_names,
    )
    if not spec.general_purpose:
        return made
    return replace(made, sub_agents=(*below, general_purpose(made)))


_MARKS = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]", "cancelled": "[-]"}


def todos_text(todos: Sequence[Todo]) -> str:
    """Return a list as people and models read it."""
    return " · ".join(f"{_MARKS[todo.status]} {todo.content}" for todo in todos) or "nothing"
