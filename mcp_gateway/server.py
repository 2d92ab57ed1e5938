"""The MCP server: its tools on the SDK's server, behind the door's endpoints, and its view of the caller."""

import traceback
from collections.abc import Callable
from logging import getLogger
from typing import Any, cast

from mcp import MCPError, types
from mcp.server import Server, ServerRequestContext
from mcp.server.caching import CacheHint
from mcp.types import INVALID_PARAMS
from mcp.types.version import KNOWN_PROTOCOL_VERSIONS, is_version_at_least

from mcp_gateway.core.catalog import Published
from mcp_gateway.core.chat import Chat
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError, internal_error
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.upstream.pool import Pool
from mcp_gateway.door.endpoints import McpDoor
from mcp_gateway.tools.chat_completion import ChatCompletion
from mcp_gateway.tools.get_balance import GetBalance, Wallets
from mcp_gateway.tools.list_models import ListModels
from mcp_gateway.tools.tool import Invocation, Report, Result, Tool, error_result

logger = getLogger(__name__)

_LIST_TTL_MS = 3_600_000
_ANNOTATED_SINCE = "2025-03-26"
_STRUCTURED_SINCE = "2025-06-18"
_INSTRUCTIONS = (
    "Ask other language models through this gateway. Call list_models for the model ids, their prices and what they "
    "can do, chat_completion to get a model's reply (it says what the call cost), and get_balance to see what is left. "
    "A failed call says in `code` and `message` what to change; where `retry_after_s` is given, wait that long."
)


def build_server(tools: list[Tool], *, version: str, website_url: str | None, new_id: Callable[[str], str]) -> Server:
    """The SDK's server with these tools on it."""
    by_name = {tool.definition.name: tool for tool in tools}
    listed = {
        version: types.ListToolsResult(tools=[_definition_at(version, tool.definition) for tool in tools])
        for version in KNOWN_PROTOCOL_VERSIONS
    }

    async def list_tools(ctx: ServerRequestContext, _params: types.PaginatedRequestParams | None) -> Any:
        return listed[ctx.protocol_version]

    async def call_tool(ctx: ServerRequestContext, params: types.CallToolRequestParams) -> Any:
        tool = by_name.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name[:100]}")
        result = await _called(tool, params.arguments or {}, _invocation(ctx, new_id("req")))
        if not is_version_at_least(ctx.protocol_version, _STRUCTURED_SINCE):
            del result["structuredContent"]
        return result

    server: Server = Server(
        "mcp-gateway",
        title="MCP Gateway",
        version=version,
        website_url=website_url,
        instructions=_INSTRUCTIONS,
        cache_hints={"tools/list": CacheHint(ttl_ms=_LIST_TTL_MS, scope="public")},
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    server.middleware.clear()  # OpenTelemetry's records whole exceptions
    return server


def _definition_at(version: str, definition: types.Tool) -> types.Tool:
    """A tool as a revision knows tools."""
    lacking: dict[str, None] = {}
    if not is_version_at_least(version, _ANNOTATED_SINCE):
        lacking = {"annotations": None}
    if not is_version_at_least(version, _STRUCTURED_SINCE):
        lacking |= {"output_schema": None, "title": None}
    return definition.model_copy(update=lacking)


async def _called(tool: Tool, arguments: dict[str, Any], invocation: Invocation) -> Result:
    try:
        return await tool(arguments, invocation)
    except GatewayError as error:
        return error_result(error)
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("request %s failed with %s\n%s", invocation.request_id, type(error).__name__, where)
        return error_result(internal_error(invocation.request_id))


def _invocation(ctx: ServerRequestContext, request_id: str) -> Invocation:
    context = cast(RequestContext, ctx.request)
    assert context.caller is not None
    report: Report | None = None
    if ctx.meta is not None and ctx.meta.get("progress_token") is not None:

        async def report(progress: float, message: str) -> None:
            await ctx.session.report_progress(progress, message=message)

    return Invocation(context.caller, request_id, context.client_request_id, report)


def build_door(
    *,
    settings: Settings,
    version: str,
    new_id: Callable[[str], str],
    chat: Chat,
    published: Published,
    pool: Pool,
    limiter: Limiter,
    ledger: Wallets,
    lifecycle: Lifecycle,
) -> McpDoor:
    """The door to the gateway's tools."""
    tools: list[Tool] = [
        ChatCompletion(chat),
        ListModels(published, pool, limiter),
        GetBalance(ledger, limiter, settings.guests),
    ]
    server = build_server(tools, version=version, website_url=settings.public_url, new_id=new_id)
    return McpDoor(server, settings=settings, lifecycle=lifecycle, new_id=new_id)
