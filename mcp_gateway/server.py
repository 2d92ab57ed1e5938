"""The MCP server: tools, resources and prompts on the SDK's server, behind the door's endpoints, as their caller."""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from logging import getLogger
from typing import Any, TypeVar, cast, get_args

import orjson
from mcp import MCPError, types
from mcp.server import Server, ServerRequestContext
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext
from mcp.types import INVALID_PARAMS, LOG_LEVEL_META_KEY
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, KNOWN_PROTOCOL_VERSIONS, is_version_at_least

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.catalog import Published
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError, internal_error, outline
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.identity.address import AddressReader
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.inference.exchange import Inference
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.minting import Mint
from mcp_gateway.core.optimization import AUTO
from mcp_gateway.core.payments.auto_topups import AutoTopUps
from mcp_gateway.core.payments.payments import Payments
from mcp_gateway.core.payments.topup_terms import TopupTerms
from mcp_gateway.core.policy_links import PolicyLinks
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.replicas import Replicas
from mcp_gateway.core.routing.auto_model import AutoModel
from mcp_gateway.core.text import shown
from mcp_gateway.core.upstream.pool import Pool
from mcp_gateway.mcp_door.calls import caller_of
from mcp_gateway.mcp_door.endpoints import McpDoor
from mcp_gateway.mcp_door.faults import no_resource
from mcp_gateway.mcp_door.jsonrpc import REFUSED, Message
from mcp_gateway.mcp_door.sessions import Session
from mcp_gateway.tools import prompts
from mcp_gateway.tools.chat_completion import ChatCompletion
from mcp_gateway.tools.completion import complete
from mcp_gateway.tools.create_budget import BudgetCreation
from mcp_gateway.tools.embeddings import Embeddings
from mcp_gateway.tools.end_budget import BudgetEnding
from mcp_gateway.tools.get_balance import GetBalance
from mcp_gateway.tools.list_models import ListModels
from mcp_gateway.tools.progress import ProgressReports, telling
from mcp_gateway.tools.prompts import Prompts
from mcp_gateway.tools.resources import Resources
from mcp_gateway.tools.tool import Invocation, Report, Result, Tool, error_result, text_block
from mcp_gateway.tools.tool_list import ToolList
from mcp_gateway.tools.topup import ASKING, TopUp
from mcp_gateway.wire.bodies import BodyLimits

logger = getLogger(__name__)

SERVER_NAME = "mcp-gateway"
SERVER_TITLE = "MCP Gateway"
SERVED_VERSIONS: Sequence[str] = KNOWN_PROTOCOL_VERSIONS
_SURFACES: dict[str, SurfaceName] = {
    ChatCompletion.definition.name: "chat",
    Embeddings.definition.name: "embeddings",
}
"""As what calls of the tools that ask models are recorded."""
_FIXED = CacheHint(ttl_ms=3_600_000, scope="public")
_TOOLS = CacheHint(ttl_ms=60_000, scope="private")
"""Those that make keys are listed only for callers that may."""
_CATALOG = CacheHint(ttl_ms=60_000, scope="private")
"""Who may see models, and at which prices, rests on the caller: no cache may give one's answer to another."""
_MODEL = CacheHint(ttl_ms=5_000, scope="private")
"""The same, with its health."""
_CACHE_HINTS: dict[Any, CacheHint] = {
    "server/discover": _FIXED,
    "tools/list": _TOOLS,
    "prompts/list": _FIXED,
    "resources/templates/list": _FIXED,
    "resources/list": _CATALOG,
    "resources/read": _MODEL,
}
_ANNOTATED_SINCE = "2025-03-26"
_STRUCTURED = frozenset(version for version in KNOWN_PROTOCOL_VERSIONS if is_version_at_least(version, "2025-06-18"))
"""The revisions with results, and schemas of them, as data."""
_PLAIN_PARAMS = frozenset({"name", "arguments", "_meta"})
_TITLED_SINCE = "2025-06-18"
_OF_CHOICE = frozenset({"resources/list", "resources/read", "prompts/get", "completion/complete"})
"""Asked by who may choose among models."""
_INSTRUCTIONS = (
    "Ask other language models through this gateway. Call list_models for the model ids, their prices and what they "
    "can do, chat_completion to get a model's reply (it says what the call cost), embeddings, where it is listed, for "
    "vectors of texts, and get_balance to see what is left. create_budget, where it is listed, makes an API key with "
    "an amount of its own for another agent. "
    "A failed call says in `code` and `message` what to change; where `retry_after_s` is given, wait that long."
)

Context = ServerRequestContext[Any, Any]
Page = types.PaginatedRequestParams | None
Titled = TypeVar("Titled", types.Resource, types.ResourceTemplate, types.Prompt)


class Handlers:
    """What the server answers, each to the caller that asks and in the words of its revision."""

    def __init__(
        self,
        tools: ToolList,
        resources: Resources,
        prompts: Prompts,
        *,
        published: Published,
        auto_model: AutoModel,
        topup: TopUp,
        new_id: Callable[[str], str],
        note_refusal: Callable[[str, str], None],
        links: PolicyLinks,
    ) -> None:
        self._tools = tools
        self._resources = resources
        self._prompts = prompts
        self._published = published
        self._auto_model = auto_model
        self._topup = topup
        self._new_id = new_id
        self._note_refusal = note_refusal
        self._links = links

    async def list_tools(self, ctx: Context, params: Page) -> types.ListToolsResult:
        _check_page(params)
        listed = [
            _tool_at(ctx.protocol_version, tool.definition)
            for tool in self._tools.listed(caller_of(cast(RequestContext, ctx.request)))
        ]
        return types.ListToolsResult(tools=listed)

    async def call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> Any:
        return await self._answer_call(ctx, params.name, params.arguments, params.input_responses)

    async def call_plainly(self, ctx: Context, call_next: CallNext) -> Any:
        """The SDK's middleware: answer a plain call of a tool without the SDK's models, and anything else with them.

        They would look through such a call twice and through its result once, and find nothing wrong with either.
        """
        params = ctx.params
        if params is None or not _is_plain_call(ctx, params):
            return await call_next(ctx)
        answer = await self._answer_call(ctx, params["name"], params.get("arguments"))
        del answer["resultType"]  # which only 2026-07-28 knows
        return answer

    async def _answer_call(
        self, ctx: Context, name: str, arguments: dict[str, Any] | None, inputs: types.InputResponses | None = None
    ) -> Any:
        tool = self._tools.find(name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {shown(name)}")
        invocation = _invocation(ctx, self._new_id("req"))
        try:
            answer: Result | types.InputRequiredResult = await _called(tool, arguments or {}, invocation)
        except GatewayError as error:
            answer = await self._refusal(ctx, inputs, error, invocation)
        if isinstance(answer, types.InputRequiredResult):
            return answer
        if answer["isError"]:
            facts: dict[str, Any] = answer["structuredContent"]
            self._note_refusal(facts["code"], cast(RequestContext, ctx.request).address)
            facts["request_id"] = invocation.request_id
        await _log_call(ctx, name, answer)
        if ctx.protocol_version not in _STRUCTURED:
            structured = answer.pop("structuredContent")
            if not (tool.is_text_whole or answer["isError"]):
                answer["content"].append(text_block(orjson.dumps(structured).decode()))
        return answer

    def check_scope(self, method: str, params: Mapping[str, Any], caller: Caller) -> None:
        """Raises GatewayError `insufficient_scope` where a caller's token lacks a scope that it could be given."""
        tool = self._tools.find(str(params.get("name"))) if method == "tools/call" else None
        needed: KeyScope | None = "inference" if method in _OF_CHOICE else None if tool is None else tool.scope
        if needed in caller.scopes_to_ask_for:
            caller.check_scope(needed)

    async def list_resources(self, ctx: Context, params: Page) -> types.ListResourcesResult:
        try:
            self._check_may_choose(ctx)
            page = self._resources.listed(params.cursor if params is not None else None)
        except GatewayError as error:
            raise _protocol_error(error) from None
        return page.model_copy(update={"resources": _titled_at(ctx.protocol_version, page.resources)})

    async def list_templates(self, ctx: Context, params: Page) -> types.ListResourceTemplatesResult:
        _check_page(params)
        templates = _titled_at(ctx.protocol_version, self._resources.templates)
        return types.ListResourceTemplatesResult(resource_templates=templates)

    async def read_resource(self, ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        try:
            self._check_may_choose(ctx)
            return self._resources.read(params.uri, caller_of(cast(RequestContext, ctx.request)))
        except GatewayError as error:
            is_missing = error.code == "not_found"
            raise (no_resource(params.uri, ctx.protocol_version) if is_missing else _protocol_error(error)) from None

    async def list_prompts(self, ctx: Context, params: Page) -> types.ListPromptsResult:
        _check_page(params)
        return types.ListPromptsResult(prompts=_titled_at(ctx.protocol_version, prompts.DEFINITIONS))

    async def get_prompt(self, ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        try:
            self._check_may_choose(ctx)
            return self._prompts.get(params.name, params.arguments or {}, caller_of(cast(RequestContext, ctx.request)))
        except GatewayError as error:
            raise _protocol_error(error) from None

    async def complete(self, ctx: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
        try:
            self._check_may_choose(ctx)
            is_auto_there = self._auto_model.pool(caller_of(cast(RequestContext, ctx.request))).models
            others = [AUTO] if is_auto_there else []
            return types.CompleteResult(
                completion=complete(params.ref, params.argument, self._published.current, others)
            )
        except GatewayError as error:
            raise _protocol_error(error) from None

    async def _refusal(
        self, ctx: Context, inputs: types.InputResponses | None, error: GatewayError, invocation: Invocation
    ) -> Result | types.InputRequiredResult:
        """A failure as the tool's result; where money is missing, after the person was shown where to top up."""
        error = self._links.told(error)
        url = error.details.get("topup_url")
        if error.status != HTTPStatus.PAYMENT_REQUIRED or url is None:
            return error_result(error)
        async with telling(invocation.report, ASKING):
            outcome = await self._topup.offer(ctx, inputs, invocation.caller, self._new_id("elc"))
        if isinstance(outcome, types.InputRequiredResult):
            return outcome
        if outcome is None:
            return error_result(error, further_advice=f"Tell the person to top up at {url}.")
        if outcome.url is not None:
            error.details = error.details | {"topup_url": outcome.url}
        return error_result(error, further_advice=outcome.advice)

    def _check_may_choose(self, ctx: Context) -> None:
        """Raises GatewayError (401, 403) for a caller that may not choose among models."""
        caller = caller_of(cast(RequestContext, ctx.request))
        caller.check_scope("inference")
        self._published.check_reader(caller)


def build_server(handlers: Handlers, *, version: str, website_url: str | None) -> Server:
    """The SDK's server with these handlers on it."""
    server: Server = Server(
        SERVER_NAME,
        title=SERVER_TITLE,
        version=version,
        website_url=website_url,
        instructions=_INSTRUCTIONS,
        cache_hints=_CACHE_HINTS,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
        on_completion=handlers.complete,
    )
    server.middleware[:] = [handlers.call_plainly]  # in place of OpenTelemetry's, which records whole exceptions
    return server


def build_door(
    *,
    settings: Settings,
    version: str,
    new_id: Callable[[str], str],
    inference: Inference,
    published: Published,
    auto_model: AutoModel,
    pool: Pool,
    limiter: Limiter,
    ledger: Ledger,
    keys: KeyRing,
    mint: Mint,
    idempotency: Idempotency,
    payments: Payments | None,
    auto_topups: AutoTopUps,
    lifecycle: Lifecycle,
    addresses: AddressReader,
    note_refusal: Callable[[str, str], None],
    replicas: Replicas | None = None,
) -> McpDoor:
    """The door to the gateway's tools, which tells subscribers when the catalog changes."""
    json_bounds = JsonBounds.of(settings)
    tools: list[Tool] = [
        ChatCompletion(inference, json_bounds, collect_above_tokens=settings.mcp.collect_above_tokens),
        ListModels(published, auto_model, pool, limiter),
        GetBalance(
            ledger, auto_topups, keys, limiter, lambda: inference.parts.settings.guests, topup_url=settings.topup_url
        ),
        Embeddings(inference, json_bounds),
        BudgetCreation(
            mint,
            idempotency,
            limiter,
            json_bounds,
            max_lifetime_s=settings.mcp.max_budget_lifetime_s,
            now_ms=now_ms,
        ),
        BudgetEnding(keys, ledger, limiter),
    ]
    tool_list = ToolList(tools, published)
    resources = Resources(published, pool)
    terms = TopupTerms.of(settings.stripe, f"{settings.public_url}/")
    handlers = Handlers(
        tool_list,
        resources,
        Prompts(auto_model),
        published=published,
        auto_model=auto_model,
        topup=TopUp(settings.stripe.topup_url, terms, payments if settings.public_url is not None else None),
        new_id=new_id,
        note_refusal=note_refusal,
        links=settings.policy_links,
    )
    server = build_server(handlers, version=version, website_url=settings.public_url)

    def note_unplaced(message: Message, context: RequestContext, full: GatewayError) -> None:
        """Record a call that would have asked a model."""
        surface = _SURFACES.get(str((message.params or {}).get("name"))) if message.method == "tools/call" else None
        if surface is not None:
            call = Call(new_id("req"), "mcp", surface, context.client_request_id, context=context)
            inference.refused.note(caller_of(context), call, full)

    door = McpDoor(
        server,
        settings=settings,
        lifecycle=lifecycle,
        addresses=addresses,
        new_id=new_id,
        count_listing=limiter.count_listing,
        max_body_bytes=BodyLimits(settings, published).of,
        note_refusal=note_refusal,
        check_scope=handlers.check_scope,
        note_unplaced=note_unplaced,
        take_changes=lambda: [*tool_list.take_changes(), *resources.take_changes()],
        canonical_uri=resources.canonical_uri,
        replicas=replicas,
    )
    published.on_change(door.publish_changes)
    return door


def _tool_at(version: str, definition: types.Tool) -> types.Tool:
    """A tool as a revision knows tools."""
    lacking: dict[str, None] = {}
    if not is_version_at_least(version, _ANNOTATED_SINCE):
        lacking = {"annotations": None}
    if version not in _STRUCTURED:
        lacking |= {"output_schema": None, "title": None, "meta": None}
    return definition.model_copy(update=lacking)


def _titled_at(version: str, definitions: Sequence[Titled]) -> list[Titled]:
    if is_version_at_least(version, _TITLED_SINCE):
        return list(definitions)
    return [definition.model_copy(update={"title": None}) for definition in definitions]


def _check_page(params: Page) -> None:
    if params is not None and params.cursor:
        raise MCPError(INVALID_PARAMS, "There is no such page: the list comes whole.")


def _is_plain_call(ctx: Context, params: Mapping[str, Any]) -> bool:
    """Whether it is a call of a tool, in a revision with a handshake, whose parameters are all as they should be."""
    return (
        ctx.method == "tools/call"
        and ctx.request_id is not None  # else it is a notification, which calls nothing
        and ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS
        and params.keys() <= _PLAIN_PARAMS
        and isinstance(params.get("name"), str)
        and isinstance(params.get("arguments"), dict | None)
        and (ctx.meta is not None or "_meta" not in params)  # the SDK has read it, or could not
    )


async def _called(tool: Tool, arguments: dict[str, Any], invocation: Invocation) -> Result:
    """A tool's result; a bug in it is one that tells nothing but the request's id."""
    invocation.caller.check_scope(tool.scope)
    if tool.is_for_minters:
        invocation.caller.check_may_mint_over_mcp()
    if invocation.context.region_refusal is not None and tool.is_regional:
        raise invocation.context.region_refusal()
    try:
        return await tool(arguments, invocation)
    except GatewayError:
        raise
    except Exception as error:  # noqa: BLE001 - a tool's bug fails its call alone
        logger.error("request %s failed with %s", invocation.request_id, outline(error))
        raise internal_error(invocation.request_id) from None


def _invocation(ctx: Context, request_id: str) -> Invocation:
    context = cast(RequestContext, ctx.request)
    return Invocation(caller_of(context), request_id, context.client_request_id, _report_of(ctx), context)


def _report_of(ctx: Context) -> Report | None:
    """None where nobody listens."""
    if ctx.meta is None or ctx.meta.get("progress_token") is None:
        return None
    return ProgressReports(lambda progress, line: ctx.session.report_progress(progress, message=line))


def _protocol_error(error: GatewayError) -> MCPError:
    """A failure outside of a tool call: a JSON-RPC error with the same facts."""
    facts = cast(dict[str, Any], error_result(error)["structuredContent"])
    code = INVALID_PARAMS if error.status in (400, 404) else REFUSED
    return MCPError(code, facts["message"], {"code": error.code, "retry_after_s": error.retry_after_s})


_LEVELS: tuple[types.LoggingLevel, ...] = get_args(types.LoggingLevel)


async def _log_call(ctx: Context, tool: str, answer: Result) -> None:
    """Tell a client that asked for a log how its call went: facts of the bill or of the failure, no content."""
    facts: dict[str, Any] = answer["structuredContent"]
    level: types.LoggingLevel = "warning" if answer["isError"] else "info"
    if _is_wanted(ctx, level):
        names = ("code", "retry_after_s", "request_id", "model", "usage", "cost_usd", "finish_reason")
        data = {"tool": tool} | {name: facts[name] for name in names if name in facts}
        params = types.LoggingMessageNotificationParams(level=level, logger="mcp-gateway", data=data)
        notification = types.LoggingMessageNotification(params=params)
        await ctx.session.send_notification(notification, related_request_id=ctx.request_id)


def _is_wanted(ctx: Context, level: types.LoggingLevel) -> bool:
    """Sessions set a level once, 2026-07-28 with each request."""
    if isinstance(ctx.lifespan_context, Session):
        threshold: Any = ctx.lifespan_context.log_level
    else:
        threshold = (ctx.meta or {}).get(LOG_LEVEL_META_KEY)
    return threshold in _LEVELS and _LEVELS.index(level) >= _LEVELS.index(threshold)
