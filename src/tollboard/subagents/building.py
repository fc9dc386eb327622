"""From a definition to an agent of Pydantic AI: its model, its tools, and the hook through which every call goes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    ModelRetry,
    RunContext,
    Tool,
    ToolDefinition,
    ToolFailed,
)
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import infer_provider_class
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import to_jsonable_python

from tollboard.errors import BackendUnavailable, InvalidOption
from tollboard.runtime.approval import ALL_DECISIONS
from tollboard.subagents.compatible import apart
from tollboard.subagents.hygiene import encodable, why_not_run
from tollboard.subagents.subagent import CompiledSubAgent, Definition, SubAgentConfig
from tollboard.subagents.task_tool import (
    TASK,
    TASK_INSTRUCTIONS,
    instructions_schema,
    task_description,
    task_schema,
)

if TYPE_CHECKING:
    from tollboard.subagents.loop import Loop

GUARDED = "tollboard.guarded"
"""The note on a tool that it waits for a person, and for which decisions."""
NO_KEY = "no-key-needed"
"""What servers on one's own machine are given, which want none."""
_KEY = re.compile(r"[Ss]et the `([A-Z][A-Z0-9_]*)` environment variable")
"""How Pydantic AI says that a key is missing; what it advises besides is for those who write Python."""
NO_LIMIT = 1_000_000
"""How often Pydantic AI lets a model get a call wrong: its own limit is 1, but ours is `max_runs` (L06)."""
UNAPPROVED = "unapproved"
"""How Pydantic AI marks a tool that was made with `requires_approval=True`."""


@dataclass(frozen=True, slots=True)
class Execution:
    """A tool call as Pydantic AI hands it over: what is called, with which checked arguments, and what runs it."""

    ctx: RunContext[Any]
    part: ToolCallPart
    tool: ToolDefinition
    args: dict[str, Any]
    handler: Callable[[dict[str, Any]], Any]


@dataclass
class Guard(AbstractCapability[Any]):
    """Leads every tool call of a run to its loop."""

    loop: Loop

    def at_run(self) -> dict[str, Any]:
        """Return what an agent is given at each run; one of ours has the rest since it was made (quicker)."""
        definition = self.loop.definition
        given: dict[str, Any] = {"retries": {"tools": NO_LIMIT, "output": NO_LIMIT}}
        if isinstance(definition, CompiledSubAgent):
            given["output_type"] = [definition.agent.output_type, DeferredToolRequests]
            given["capabilities"] = [self]
        return given

    async def prepare_tools(
        self, ctx: RunContext[Any], tool_defs: list[ToolDefinition]
    ) -> list[ToolDefinition]:
        """Let tools that want approval be asked for by us, so that there is one way to ask."""
        return [_asked_by_us(tool) if tool.kind == UNAPPROVED else tool for tool in tool_defs]

    def get_wrapper_model(self, model: Model) -> Model:
        """Keep the calls of a message apart, whatever the server calls them."""
        return apart(model)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Take the limits of the tools themselves off too: what is over one of them raises advice in a tool's place."""
        return _Patient(toolset)

    async def before_tool_validate(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: str | dict[str, Any],
    ) -> str | dict[str, Any]:
        """Refuse a call whose arguments could not be kept: what a person is shown is what runs."""
        if why := why_not_run(args):
            raise ToolFailed(why)
        return args

    async def on_tool_validate_error(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: str | dict[str, Any],
        error: ValidationError | ModelRetry,
    ) -> dict[str, Any]:
        """Tell the model what is wrong with a call, as often as `max_runs` lets it try."""
        raise ToolFailed(refusal_of(call.tool_name, error)) from None

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Any],
    ) -> Any:
        """Hand the call over."""
        return await self.loop.calls.handle(Execution(ctx, call, tool_def, args, handler))


class _Patient(WrapperToolset[Any]):
    """Lets every tool be tried as often as the loop lets the model try."""

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        tools = await super().get_tools(ctx)
        return {name: dataclasses.replace(tool, max_retries=NO_LIMIT) for name, tool in tools.items()}


def _asked_by_us(tool: ToolDefinition) -> ToolDefinition:
    metadata = {**(tool.metadata or {}), GUARDED: ALL_DECISIONS}
    return dataclasses.replace(tool, kind="function", metadata=metadata)


def refusal_of(tool: str, error: ValidationError | ModelRetry) -> str:
    """Return why a call was not run, in words that help a model to correct it."""
    if isinstance(error, ModelRetry):
        return error.message
    wrong = [
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}" if each["loc"] else each["msg"]
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return f"This call was not run: its arguments do not fit {tool}: {'; '.join(wrong)}. Correct it, and call again."


def agent_of(definition: SubAgentConfig | CompiledSubAgent, model: Any, guard: Guard) -> Agent[Any, Any]:
    """Return the agent on the model that `model_of` found; one made here has the guard and the pause built in."""
    if isinstance(definition, CompiledSubAgent):
        return definition.agent
    return Agent(
        model,
        name=definition.name,
        instructions=definition.system_prompt,
        tools=_tools(definition),
        toolsets=list(definition.toolsets),
        model_settings=definition.model_settings or None,  # type: ignore[arg-type] # a TypedDict, read from options
        capabilities=[*definition.capabilities, guard],
        output_type=[str, DeferredToolRequests],
    )


def _tools(definition: SubAgentConfig) -> list[Tool[Any]]:
    """Return its tools. Reading a function's schema takes longer than a whole run: it is done once for a definition."""
    if not definition.built:
        given = [tool if isinstance(tool, Tool) else Tool(tool) for tool in definition.tools]
        definition.built.extend([*given, *_task_tools(definition)])
    return list(definition.built)


def model_of(definition: SubAgentConfig | CompiledSubAgent, model: Any = None) -> Any:
    """Return the model it runs on. Raises InvalidOption for one nobody knows, BackendUnavailable without its key."""
    if isinstance(definition, CompiledSubAgent):
        return definition.agent.model
    wanted = definition.model if definition.model is not None else model
    if wanted is None:
        raise InvalidOption(
            f"sub-agent {definition.name!r}: it names no model, and there is no parent to take one from"
        )
    return find_model(wanted) if isinstance(wanted, str) else wanted


def find_model(name: str, *, base_url: str | None = None, env: Mapping[str, str] | None = None) -> Any:
    """Return the model of that name, such as `anthropic:claude-sonnet-5-5`.

    With a base URL the requests go there; `openai:` then means Chat Completions, which all compatible servers speak.
    Keys are looked for in `env`, then in the environment. Raises InvalidOption for a model Pydantic AI does not know,
    BackendUnavailable when a key or a package is missing; both say what to do.
    """
    try:
        if base_url is None and not env:
            return infer_model(name)
        if base_url is not None and name.startswith("openai:"):
            name = f"openai-chat:{name.removeprefix('openai:')}"
        return infer_model(name, lambda provider: _provider(provider, base_url, env or {}))
    except (UserError, ValueError, ImportError) as wrong:
        text = str(wrong)
        if variable := _KEY.search(text):
            raise BackendUnavailable(
                f"model {name!r} has no key: set {variable[1]} where it runs. Sessions run in the daemon: end it with "
                "`tollboard shutdown`, and the next command starts it with your environment"
            ) from None
        if "nvironment variable" in text or "api_key" in text.lower() or isinstance(wrong, ImportError):
            raise BackendUnavailable(f"model {name!r} cannot be used: {text}") from None
        raise InvalidOption(
            f"there is no model {name!r}: {text}; name provider and model, such as 'anthropic:claude-sonnet-5-5'"
        ) from None


def _provider(name: str, base_url: str | None, env: Mapping[str, str]) -> Any:
    """Return a provider with an address and a key of its own."""
    known = name.removeprefix("gateway/").split("-")[0].upper()
    key = next((env[n] for n in (f"{known}_API_KEY", "API_KEY") if n in env), None)
    if key is None and base_url is not None:
        key = os.environ.get(f"{known}_API_KEY", NO_KEY)
    given = {"base_url": base_url, "api_key": key}
    return infer_provider_class(name)(
        **{option: value for option, value in given.items() if value is not None}
    )


def _task_tools(definition: Definition) -> list[Tool[Any]]:
    """Return the tools that start sub-agents. Their bodies never run: the loop sees to those calls itself."""
    if not definition.sub_agents:
        return []
    tools = [
        Tool.from_schema(
            _not_called, name=TASK,
            description=task_description(definition.sub_agents, listed=definition.list_sub_agents),
            json_schema=task_schema(definition.sub_agents),
        )
    ]  # fmt: skip
    if any(sub_agent.use_instructions for sub_agent in definition.sub_agents):
        tools.append(
            Tool.from_schema(
                _not_called, name=TASK_INSTRUCTIONS, description="How a sub-agent wants to be given its task.",
                json_schema=instructions_schema(definition.sub_agents),
            )
        )  # fmt: skip
    return tools


async def _not_called(**_: object) -> str:
    raise AssertionError("calls of this tool are handled by the loop")


def misfit(arguments: Mapping[str, object], schema: Mapping[str, object] | None) -> str | None:
    """Return in what way arguments do not fit a tool's schema, `None` when they do."""
    if schema is None:
        return None
    import jsonschema

    errors = jsonschema.Draft202012Validator(schema).iter_errors(dict(arguments))
    worst = jsonschema.exceptions.best_match(errors)
    if worst is None:
        return None
    where = ".".join(str(step) for step in worst.absolute_path)
    return f"{where}: {worst.message}" if where else str(worst.message)


def jsonable(value: object) -> Any:
    """Return a tool's result as JSON can hold it: odd numbers by their names, what cannot be turned described."""
    try:
        return encodable(to_jsonable_python(encodable(value), fallback=repr))
    except (ValueError, RecursionError) as wrong:
        # Such as one that holds itself, which no text can be made of.
        return f"(a result of type {type(value).__name__} that cannot be shown: {wrong})"


def to_text(value: object) -> str:
    """Return a result as text for a model or a person."""
    return value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
