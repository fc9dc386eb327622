"""What a sub-agent is before it runs: its definition, checked when it is made, and the task it was given.

researcher = SubAgentConfig(
    name="researcher", description="Finds facts in the library.", system_prompt="You search and quote.",
    tools=(search, save), interrupt_on={"save": True},
)
subagent = SubAgent(researcher, "Who found the noble gases?")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from tollboard.errors import InvalidOption
from tollboard.ids import check_name, new_ref
from tollboard.runtime.approval import ALL_DECISIONS
from tollboard.subagents.ask_tool import ASK_PERSON

if TYPE_CHECKING:
    from pydantic_ai import Agent, Tool
    from pydantic_ai.messages import ModelMessage
    from pydantic_ai.models import Model
    from pydantic_ai.toolsets import AbstractToolset

    AnyTool = Tool[Any] | Callable[..., Any]

InterruptOn = Mapping[str, bool | Mapping[str, Sequence[str]]]
"""Which tools wait for a person: `True` allows every decision, `{"allowed_decisions": [...]}` only those."""

MAX_DESCRIPTION = 4_000
MAX_PROMPT = 200_000
MAX_RUNS = 50
GENERAL_PURPOSE = "general-purpose"
TASK_TOOLS = ("task", "get_task_instructions")
ASKING_TOOLS = ("ask_user", ASK_PERSON)
"""What a sub-agent never inherits: nobody watches it, so nobody would answer (E75)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What both kinds of sub-agents have.

    `interrupt_on` names the tools that wait for a person. `until_tool` ends the run with that tool's result, also when
    it is an error; `until_tool_success` only with a result that is none. `max_runs` bounds the model calls of a run.
    `use_instructions` is what `get_task_instructions` tells the parent. `sub_agents` may be given tasks by this one.
    """

    name: str
    description: str = field(repr=False)
    interrupt_on: InterruptOn = field(default_factory=dict)
    until_tool: str | None = None
    until_tool_success: str | None = None
    max_runs: int = MAX_RUNS
    initial_messages: Sequence[str | ModelMessage] = field(repr=False, default=())
    display_text: str = ""
    use_instructions: str = field(repr=False, default="")
    suppress_events: bool = False
    summarise_at: int | None = None
    """Tokens at which a summary takes the conversation's place; `None`: never."""
    sub_agents: tuple[Definition, ...] = ()
    list_sub_agents: bool = True
    """Whether the `task` tool's description lists them; off where the system prompt says it already."""

    def check(self) -> None:
        """Raise InvalidOption, or InvalidName, for the first thing that is wrong."""
        check_name(self.name)
        _text(self.name, "description", self.description, MAX_DESCRIPTION)
        if self.until_tool is not None and self.until_tool_success is not None:
            raise InvalidOption(f"sub-agent {self.name!r}: give until_tool or until_tool_success, not both")
        if isinstance(self.max_runs, bool) or not isinstance(self.max_runs, int) or self.max_runs < 1:
            raise InvalidOption(
                f"sub-agent {self.name!r}: max_runs is {self.max_runs!r}, it must be 1 or more"
            )
        names = [definition.name for definition in self.sub_agents]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidOption(f"sub-agent {self.name!r}: two of its sub-agents are called {doubled[0]!r}")
        guards(self)

    @property
    def until(self) -> str | None:
        """Return the name of the completion tool."""
        return self.until_tool or self.until_tool_success

    def check_tools(self, known: Sequence[str]) -> None:
        """Raise InvalidOption when a guard or the completion tool names a tool that is not among these."""
        wanted = [*self.interrupt_on, *([self.until] if self.until is not None else [])]
        for name in wanted:
            if name not in known:
                where = "interrupt_on" if name in self.interrupt_on else "until_tool"
                raise InvalidOption(
                    f"sub-agent {self.name!r}: {where} names {name!r}, which is none of its tools; "
                    f"they are: {', '.join(sorted(known)) or 'none'}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class SubAgentConfig(Definition):
    """A sub-agent made from parts. `tools` are functions or Pydantic AI tools, `toolsets` such as MCP servers.

    `model` is any model Pydantic AI knows, by name or as an object; `None` takes the parent's.
    """

    system_prompt: str = field(repr=False)
    tools: Sequence[AnyTool] = ()
    toolsets: Sequence[AbstractToolset[Any]] = ()
    model: Model | str | None = None
    model_settings: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Sequence[Any] = ()
    bare: bool = False
    """Whether it may have no tools at all: a session that only talks."""
    repeatable: frozenset[str] = frozenset()
    """Tools that only look: a crash in the middle of one lets it run again."""
    full_names: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Whole names of tools, as people see them and guards may say them, by names that were made to fit a provider."""
    built: list[Tool[Any]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The tools as Pydantic AI wants them, once they were needed."""

    def __post_init__(self) -> None:
        self.check()
        _text(self.name, "system_prompt", self.system_prompt, MAX_PROMPT)
        if not self.tools and not self.toolsets and not self.sub_agents and not self.bare:
            raise InvalidOption(f"sub-agent {self.name!r}: it has no tools; give it at least one")
        names = tool_names(self.tools)
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidOption(f"sub-agent {self.name!r}: two tools are called {doubled[0]!r}")
        if not self.toolsets:
            self.check_tools([*names, *(TASK_TOOLS if self.sub_agents else ())])


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledSubAgent(Definition):
    """A ready-made Pydantic AI agent under a name; guards and limits apply to its tools as to any."""

    agent: Agent[Any, Any]

    def __post_init__(self) -> None:
        self.check()
        if not callable(getattr(self.agent, "iter", None)):
            raise InvalidOption(
                f"sub-agent {self.name!r}: `agent` must be a Pydantic AI agent, not {self.agent!r:.60}"
            )


@dataclass(frozen=True, slots=True)
class SubAgent:
    """A definition with a task and an id; what `SubAgentServer.start` takes.

    `config` is a SubAgentConfig or a CompiledSubAgent. `deps` is handed to every tool, and on to the sub-agents below.
    `parent` is the id of the sub-agent that started it, or the name of the agent or session that hosts it.
    """

    config: Definition
    instructions: str = field(repr=False)
    id: str = field(default_factory=new_ref)
    parent: str | None = None
    deps: Any = field(repr=False, default=None)
    model: Model | str | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        _text(self.config.name, "instructions", self.instructions, MAX_PROMPT)
        if not self.id or "/" in self.id:
            raise InvalidOption(f"sub-agent {self.config.name!r}: {self.id!r} cannot be an id")

    @classmethod
    def from_config(cls, config: SubAgentConfig, instructions: str, **more: Any) -> Self:
        """Return a sub-agent made from a config."""
        return cls(config, instructions, **more)

    @classmethod
    def compiled(
        cls, name: str, description: str, agent: Agent[Any, Any], instructions: str, **more: Any
    ) -> Self:
        """Return a sub-agent around a ready-made agent."""
        return cls(CompiledSubAgent(name=name, description=description, agent=agent), instructions, **more)

    @classmethod
    def general_purpose(
        cls, parent: SubAgentConfig, instructions: str, *, block: Sequence[str] = (), **more: Any
    ) -> Self:
        """Return one that can do what its parent can, and start nothing below itself (A14)."""
        return cls(general_purpose(parent, block=block), instructions, **more)


def general_purpose(parent: SubAgentConfig, *, block: Sequence[str] = ()) -> SubAgentConfig:
    """Return the definition of a sub-agent with its parent's tools and capabilities.

    Without the tools that start sub-agents, so there is no recursion, without those that ask the user, and without
    those on the block list. Raises InvalidOption for a name on that list which is no tool of the parent.
    """
    names = tool_names(parent.tools)
    if unknown := sorted(set(block) - set(names)):
        raise InvalidOption(
            f"general-purpose cannot block {unknown[0]!r}: the parent's tools are {', '.join(sorted(names))}"
        )
    out = {*TASK_TOOLS, *ASKING_TOOLS, *block}
    tools = tuple(tool for tool, name in zip(parent.tools, names, strict=True) if name not in out)
    return replace(
        parent,
        name=GENERAL_PURPOSE,
        description="Does a task of several steps on its own, with the same tools, and reports the result.",
        tools=tools,
        interrupt_on={name: value for name, value in parent.interrupt_on.items() if name not in out},
        until_tool=None,
        until_tool_success=None,
        initial_messages=(),
        use_instructions="",
        sub_agents=(),
        list_sub_agents=True,
    )


def tool_names(tools: Sequence[AnyTool]) -> list[str]:
    """Return the names a model calls these tools by."""
    return [str(getattr(tool, "name", None) or getattr(tool, "__name__", "")) for tool in tools]


def guards(definition: Definition) -> dict[str, tuple[str, ...]]:
    """Return which decisions each guarded tool allows. Raises InvalidOption for what is none."""
    found: dict[str, tuple[str, ...]] = {}
    for tool, value in definition.interrupt_on.items():
        if isinstance(value, bool):
            allowed: tuple[str, ...] = ALL_DECISIONS if value else ()
        elif isinstance(value, Mapping) and set(value) == {"allowed_decisions"}:
            allowed = tuple(value["allowed_decisions"])
        else:
            raise InvalidOption(
                f"sub-agent {definition.name!r}: interrupt_on[{tool!r}] must be true, false or "
                f'{{"allowed_decisions": [...]}}, not {value!r:.60}'
            )
        if isinstance(value, Mapping) and (not allowed or set(allowed) - set(ALL_DECISIONS)):
            given = ", ".join(map(str, allowed)) or "nothing"
            raise InvalidOption(
                f"sub-agent {definition.name!r}: interrupt_on[{tool!r}] allows {given}; "
                f"choose from {', '.join(ALL_DECISIONS)}"
            )
        if allowed:
            found[tool] = allowed
    return found


def _text(name: str, what: str, value: object, limit: int) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InvalidOption(f"sub-agent {name!r}: {what} must be text that is not empty")
    if len(value) > limit:
        raise InvalidOption(
            f"sub-agent {name!r}: {what} has {len(value):,} characters, {limit:,} are allowed"
        )
