"""Our own MCP surface with the fixtures of the conformance suite added: everything else on it is what users get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import mcp_types as types
from mcp.server import Server
from mcp.server.subscriptions import PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError

from tests.conformance import asking, content
from tests.conformance.content import text
from tollboard.surfaces.mcp.server import Context, Surface

ERROR = "This tool intentionally returns an error for testing"
CHANGES: dict[str, type[ToolsListChanged] | type[PromptsListChanged]] = {
    "test_trigger_tool_change": ToolsListChanged,
    "test_trigger_prompt_change": PromptsListChanged,
}
BEHAVING = (
    "test_error_handling", "test_tool_with_logging", "test_logging_tool", "test_tool_with_progress",
    "test_missing_capability", *CHANGES,
)  # fmt: skip
"""Tools that do something besides returning."""


def _schemas() -> dict[str, dict[str, Any]]:
    plain = dict.fromkeys((*content.CONTENT, *BEHAVING), content.NO_ARGUMENTS)
    return plain | {name: schema for name, (_, schema) in asking.ASKING.items()} | content.SCHEMAS


class Fixtures(Surface):
    """What is not a fixture goes to our own handlers."""

    def server(self) -> Server[Any]:
        """Return our server, and let it take a level of logging, which the older era has."""
        server = super().server()
        server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, self.set_level)
        return server

    async def set_level(self, context: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
        return types.EmptyResult()

    # -- tools

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        return _schemas().get(name) or super().input_schema(name)

    async def list_tools(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        ours = (await super().list_tools(context, params)).tools
        theirs = [
            types.Tool(name=name, description=f"A fixture: {name}", input_schema=schema)
            for name, schema in _schemas().items()
        ]
        return types.ListToolsResult(tools=[*ours, *theirs])

    async def call_tool(self, context: Context, params: types.CallToolRequestParams) -> Any:
        name = params.name
        if name in content.CONTENT:
            return types.CallToolResult(content=content.CONTENT[name])
        if name in content.SCHEMAS:
            return asking.said("Taken.")
        if name in asking.ASKING:
            return await asking.ASKING[name][0](context, params)
        if name in BEHAVING:
            return await self._behave(context, name)
        return await super().call_tool(context, params)

    async def _behave(self, context: Context, name: str) -> types.CallToolResult:
        if name == "test_error_handling":
            return types.CallToolResult(content=[text(ERROR)], is_error=True)
        if name == "test_missing_capability":
            needed = types.ClientCapabilities(sampling=types.SamplingCapability())
            missing = types.MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
            data = missing.model_dump(by_alias=True, exclude_none=True)
            raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "this needs sampling", data)
        if name in CHANGES:
            await (await self._begun(context)).publish(CHANGES[name]())
        elif name == "test_tool_with_progress":
            for done in (0, 50, 100):
                await context.session.report_progress(done, 100)
        else:
            for step in ("execution started", "processing data", "execution completed"):
                await context.session.send_log_message(
                    "info", f"Tool {step}", related_request_id=context.request_id
                )
        return asking.said("Done.")

    # -- resources

    async def list_resources(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        ours = (await super().list_resources(context, params)).resources
        theirs = [types.Resource(uri=uri, name=uri, description="A fixture") for uri in content.RESOURCES]
        return types.ListResourcesResult(resources=[*ours, *theirs])

    async def list_templates(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        ours = (await super().list_templates(context, params)).resource_templates
        theirs = types.ResourceTemplate(
            uri_template=content.TEMPLATE, name="template", description="A fixture"
        )
        return types.ListResourceTemplatesResult(resource_templates=[*ours, theirs])

    async def read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        found = content.read(str(params.uri))
        if found is not None:
            return types.ReadResourceResult(contents=[found])
        return await super().read_resource(context, params)

    # -- prompts

    async def list_prompts(
        self, context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        ours = (await super().list_prompts(context, params)).prompts
        theirs = [
            types.Prompt(
                name=name,
                description="A fixture",
                arguments=[types.PromptArgument(name=one, required=True) for one in arguments],
            )
            for name, arguments in content.PROMPTS.items()
        ]
        return types.ListPromptsResult(prompts=[*ours, *theirs])

    async def get_prompt(self, context: Context, params: types.GetPromptRequestParams) -> Any:
        if params.name == "test_input_required_result_prompt":
            return await asking.prompt(params)
        if params.name in content.PROMPTS:
            return content.prompt(params.name, cast("dict[str, str]", params.arguments or {}))
        return await super().get_prompt(context, params)
