"""The MCP servers of a `model` session: each started within its own limit, each failing for itself.

A server that is broken or slow costs its own tools and nothing else: the turn runs without them, a notice names the
server and says why, and the next turn tries again. Its tools get names that every provider takes; people see the whole
name. Called by `_model_agent` (made) and `_model_turn` (begun and closed); the run of an agent does the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mcp.shared.exceptions import MCPError
from pydantic_ai import ApprovalRequired, ModelRetry, RunContext, ToolFailed
from pydantic_ai.exceptions import CallDeferred
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from tollboard.backends._environment import inherited
from tollboard.backends._model_options import START_LIMIT, START_LIMIT_S
from tollboard.backends._process import Marker
from tollboard.errors import InvalidOption

PATIENCE_S = 2.0
"""How long a turn waits for a server that did not start in time before: it goes on starting meanwhile."""
MAX_NAME = 64
"""What the strictest of the providers allow for a tool's name, in these characters."""
_GOOD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}\Z")
_DIGEST = 8
_TOP_LEVEL = ("anyOf", "oneOf", "allOf", "not", "enum", "const")
"""What providers refuse at the top of a tool's schema, and the whole request with it."""

logger = logging.getLogger("tollboard.backends")

Tell = Callable[[str], None]


class Server:
    """One MCP server of a session."""

    def __init__(self, name: str, toolset: MCPToolset[Any], *, start_limit_s: float, naming: Naming) -> None:
        self.name = name
        self.problem = ""
        """Why its tools are missing in this turn; empty while they are there."""
        self.tell: Tell = lambda message: None
        self.naming = naming
        self._toolset = toolset
        self._start_limit_s = start_limit_s
        self._looked = False
        self._was_slow = False
        self._starting: asyncio.Task[str] | None = None
        self._told: set[str] = set()

    def begin_turn(self, tell: Tell) -> None:
        """Look at it anew when it is needed, and tell this turn's reader what is wrong with it."""
        self.tell, self._looked = tell, False
        self._told.clear()

    def tools(self) -> AbstractToolset[Any]:
        """Return its tools, for an agent."""
        return _Tools(self._toolset, self)

    async def ready(self) -> None:
        """Start it if it does not run; afterwards `problem` says whether its tools are there in this turn."""
        if self._looked:
            return
        before = self.problem
        wait_s = min(PATIENCE_S, self._start_limit_s) if self._was_slow else None
        if (starting := self._starting) is None:
            self._toolset._invalidate_tools_cache()  # a server may change its tools without a word
            starting = self._starting = asyncio.create_task(self._start())
        await asyncio.wait({starting}, timeout=wait_s)
        if self._starting is not starting:
            return  # another agent of this turn has seen how it went
        self._looked = True
        if not starting.done():
            self.fail(f"it has not started yet; it has {self._start_limit_s:g} s ({START_LIMIT})")
            return
        problem, self._starting, self.problem = starting.result(), None, ""
        if problem:
            self.fail(problem)
        elif before:
            self.tell(f"{self.name} works again; its tools are there")

    async def _start(self) -> str:
        """Connect once, to see whether it can be done; return why not. Its process stays."""
        self._was_slow = False
        try:
            async with asyncio.timeout(self._start_limit_s), self._toolset:
                await self._toolset.list_tools()
        except TimeoutError:
            self._was_slow = True
            return f"it did not start within {self._start_limit_s:g} s ({START_LIMIT})"
        except Exception as failure:
            # A server is somebody else's program: whatever goes wrong with it is its own affair.
            return reason_of(failure)
        return ""

    def fail(self, why: str) -> None:
        """Let this turn go on without its tools."""
        self.problem = why
        self.say(f"{self.name} is not there, so its tools are missing in this turn: {why}")

    def say(self, message: str) -> None:
        """Tell something once in a turn."""
        if message not in self._told:
            self._told.add(message)
            self.tell(message)

    async def close(self) -> None:
        """Close the connection, if there is one; the process is ended by its marker."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        try:
            await self._toolset.client.close()  # type: ignore[no-untyped-call]
        except Exception as failure:
            logger.info("MCP server %s was not closed in order: %s", self.name, type(failure).__name__)


@dataclass
class _Tools(WrapperToolset[Any]):
    """The tools of one server, under names that providers take. In a run: `for_run` makes one for each."""

    server: Server
    entered: bool = False
    originals: dict[str, str] = field(default_factory=dict)

    async def for_run(self, ctx: RunContext[Any]) -> AbstractToolset[Any]:
        """Start the server; several of them at once, for this is called for all before the first is entered."""
        await self.server.ready()
        return _Tools(await self.wrapped.for_run(ctx), self.server)

    async def __aenter__(self) -> _Tools:
        if not self.server.problem:
            try:
                await self.wrapped.__aenter__()
                self.entered = True
            except Exception as failure:
                self.server.fail(reason_of(failure))
        return self

    async def __aexit__(self, *args: Any) -> bool | None:
        if self.entered:
            self.entered = False
            await self.wrapped.__aexit__(*args)
        return None

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        if not self.entered or self.server.problem:
            return {}
        try:
            tools = await self.wrapped.get_tools(ctx)
        except Exception as failure:
            self.server.fail(reason_of(failure))
            return {}
        found: dict[str, ToolsetTool[Any]] = {}
        for original, tool in tools.items():
            try:
                schema = sendable(tool.tool_def.parameters_json_schema)
            except ValueError as wrong:
                self.server.say(f"the tool {original!r} of {self.server.name} was left out: {wrong}")
                continue
            name = self.server.naming.name(self.server.name, original)
            self.originals[name] = original
            definition = replace(tool.tool_def, name=name, parameters_json_schema=schema)
            found[name] = replace(tool, toolset=self, tool_def=definition)
        return found

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        if (original := self.originals.get(name)) is None:
            raise ToolFailed(f"{name} is not there any more")
        ctx = replace(ctx, tool_name=original)
        tool = replace(tool, tool_def=replace(tool.tool_def, name=original))
        try:
            return await self.wrapped.call_tool(original, tool_args, ctx, tool)
        except (ToolFailed, ApprovalRequired, CallDeferred):
            raise
        except ModelRetry as refused:
            if not isinstance(refused.__cause__, MCPError) or "closed" not in refused.message:
                raise  # what the tool itself says
            raise ToolFailed(f"The MCP server {self.server.name!r} ended in this call.") from refused
        except Exception as failure:
            raise ToolFailed(
                f"The MCP server {self.server.name!r} failed in this call: {reason_of(failure)}"
            ) from failure


class Naming:
    """Names for the tools of a session's servers: the same one for the same tool, whatever else there is just now."""

    def __init__(self, servers: Sequence[str], taken: Collection[str]) -> None:
        self.full: dict[str, str] = {}
        """The whole name of each tool by the one that models use, where they differ."""
        self._servers = servers
        self._taken = taken

    def name(self, server: str, tool: str) -> str:
        """Return the name of a server's tool, `server_tool` where providers take that and nothing else is called so.

        Else it is made to fit, and its end is drawn from the whole name, so that no two tools share one.
        """
        full = f"{server}_{tool}"
        if _GOOD_NAME.match(full) and not self._is_ambiguous(server, full):
            return full
        digest = hashlib.sha256(f"{server}\0{tool}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
        words = re.sub(r"[^A-Za-z0-9_-]+", "_", full)[: MAX_NAME - _DIGEST - 2]
        short = f"{words if words[:1].isalpha() else f'_{words}'}_{digest}"
        self.full[short] = full
        return short

    def _is_ambiguous(self, server: str, full: str) -> bool:
        """Return whether a tool of ours has this name, or one of an earlier server could: `a` + `b_c`, `a_b` + `c`.

        Asked of the servers' names alone: a name must not change its meaning when a server is away.
        """
        earlier = self._servers[: self._servers.index(server)]
        return full in self._taken or any(full.startswith(f"{other}_") for other in earlier)


def sendable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool's schema as providers take it. Raises ValueError for what is none."""
    import jsonschema

    if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
        raise ValueError("its schema does not describe an object")
    try:
        jsonschema.Draft202012Validator.check_schema(dict(schema))
    except jsonschema.SchemaError as wrong:
        raise ValueError(f"its schema is not valid: {wrong.message[:200]}") from None
    found = {key: value for key, value in schema.items() if key not in (*_TOP_LEVEL, "$schema", "$id")}
    variants = [each for key in ("anyOf", "oneOf", "allOf") for each in schema.get(key, ())]
    properties = {key: value for each in variants for key, value in each.get("properties", {}).items()}
    found["type"], found["properties"] = "object", {**properties, **schema.get("properties", {})}
    return found


def servers_of(
    given: Mapping[str, Mapping[str, Any]], *, cwd: str | None, marker: Marker, taken: Collection[str],
    pass_env: Collection[str] = (),
) -> list[Server]:  # fmt: skip
    """Return the servers that the options name. Raises InvalidOption for one that cannot be."""
    naming, found = Naming(tuple(given), taken), []
    for name, said in given.items():
        options = dict(said)
        limit_s = float(options.pop(START_LIMIT, START_LIMIT_S))
        if "command" in options:
            options.setdefault("cwd", cwd)
            options["env"] = {**inherited(os.environ, pass_env), **options.get("env", {}), **dict([marker])}
        try:
            toolset = MCPToolset[Any]({"mcpServers": {name: options}}, init_timeout=limit_s)
        except ValueError as wrong:
            raise InvalidOption(f"backend 'model', option 'mcp_servers': {name!r}: {wrong}") from None
        found.append(Server(name, toolset, start_limit_s=limit_s, naming=naming))
    return found


def reason_of(failure: BaseException) -> str:
    """Return what went wrong with a server, in a line."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    deepest = failure
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    match deepest:
        case FileNotFoundError():
            return (
                f"there is no program {deepest.filename!r}"
                if deepest.filename
                else "its program is not there"
            )
        case PermissionError():
            return f"its program may not be run: {deepest.filename!r}"
        case TimeoutError():
            return "it did not answer in time"
    text = " ".join(str(deepest).split())[:300]
    if "Connection closed" in text or not text:
        return "its connection was closed: it ended, or does not speak MCP"
    return text
