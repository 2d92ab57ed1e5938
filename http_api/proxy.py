"""/proxy/{provider}/{path}: a provider asked by its own paths, for accounts that may.

What the gateway reads itself takes the way of its own endpoints, bound to that provider; all else is passed on unread,
at a flat price, and nothing with it of the caller's or back of the operator's but what says what a body is.
"""

from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from http_api.idempotency import answering_once
from http_api.models import Models, ModelsQuery
from http_api.operations import Asked, Nothing, written
from http_api.query import read_query
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import CLIENT, CONTEXT, CallerLeft, Client, RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Repeats
from mcp_gateway.core.inference.exchange import Inference
from mcp_gateway.core.inference.passage import Passage, PassageOrder
from mcp_gateway.core.limits.limiter import Limiter, counted
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.prices import Price
from mcp_gateway.core.proxy_paths import (
    ProxiedAs,
    has_key,
    query_without_keys,
    read_provider_path,
    written_query,
)
from mcp_gateway.core.text import shown
from mcp_gateway.core.upstream.backend import BackendResponse
from mcp_gateway.core.upstream.provider import Passed, Provider, Proxy
from mcp_gateway.wire import event_streams
from mcp_gateway.wire.bodies import BodyLimits
from mcp_gateway.wire.whole_answers import JSON_TYPE, Headers, send_bytes

_ASKED = (b"accept", b"content-type", b"content-encoding")
_TOLD = (b"content-type", b"content-encoding", b"content-language", b"content-disposition")
"""Headers that say what a body is, or is to be: of a request and of an answer."""
_INERT: Headers = [(b"x-content-type-options", b"nosniff"), (b"content-security-policy", b"sandbox")]
"""What others say is no page of the gateway's, whatever they say that it is."""
_MEANING_NOTHING = frozenset({"beta"})
"""Parameters that clients add, and that the gateway's own paths pass over."""


class ProviderPaths:
    """The endpoint; `surfaces` are the gateway's own for what it reads, which change nothing that is sent on."""

    def __init__(
        self,
        providers: Mapping[str, Provider],
        surfaces: Mapping[ProxiedAs, ASGIApp],
        inference: Inference,
        repeats: Repeats,
        body_limits: BodyLimits,
    ) -> None:
        self._providers = providers
        self._surfaces = surfaces
        self._inference = inference
        self._repeats = repeats
        self._body_limits = body_limits

    @property
    def are_asked(self) -> bool:
        """Whether any provider may be asked so."""
        return any(provider.proxy is not None for provider in self._providers.values())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_may(scope[CONTEXT].caller)
        provider, proxy, path = self._asked(scope["raw_path"])
        parameters = _parameters_of(scope["query_string"])
        surface = proxy.paths.surface_of(scope["method"], path)
        if surface is None:
            asked = scope["method"], path + written_query(parameters), _asked_headers(scope, proxy)
            order = self._order(scope, provider, proxy, path)
            async with answering_once(self._repeats, scope):
                await self._pass_on(asked, order, scope, receive, send)
            return
        if surface != "models":
            _check_means_nothing(parameters)
        bound = {**scope, "query_string": b"provider=" + provider.name.encode()}
        await self._surfaces[surface](bound, receive, send)

    def _asked(self, raw_path: bytes) -> tuple[Provider, Proxy, str]:
        """Who is asked, and by which path. Raises GatewayError `unknown_url`."""
        named = read_provider_path(raw_path)
        if named is None:
            raise GatewayError("unknown_url", "This is no path that can be asked of a provider: write it plainly.")
        provider = self._providers.get(named.provider)
        if provider is None or provider.proxy is None:
            there = ", ".join(one.name for one in self._providers.values() if one.proxy is not None)
            raise GatewayError(
                "unknown_url", f"There is no provider '{shown(named.provider)}' to be asked so: {there}."
            )
        return provider, provider.proxy, named.path

    def _order(self, scope: Scope, provider: Provider, proxy: Proxy, path: str) -> PassageOrder:
        """For what is passed on unread. Raises GatewayError where it may not be."""
        context: RequestContext = scope[CONTEXT]
        allowed, what = proxy.paths.allowed(scope["method"], path), f"{scope['method']} {shown(path)}"
        assert context.caller is not None
        if allowed is None:
            raise GatewayError("unsupported_endpoint", f"{what} is not passed on to {provider.name}.")
        if allowed.price_pico is None:
            raise GatewayError("unsupported_endpoint", f"{what} has no price here, and is not passed on.")
        if context.caller.models is not None:
            raise GatewayError(
                "insufficient_permissions", "This API key is for some models alone, and nobody reads which this is."
            )
        price = Price(0, 0, request_pico=allowed.price_pico).with_margin(context.caller.margin)
        return PassageOrder(context.request_id, context.client_request_id, provider, price, context.sent)

    async def _pass_on(
        self, asked: tuple[str, str, Headers], order: PassageOrder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        context, client = scope[CONTEXT], scope[CLIENT]
        self._inference.check(context.caller, order)  # who has nothing left is told so before the body is read
        body = _Body(context, client, receive, self._body_limits.of(context.caller))
        first = await body.first()
        with await self._inference.pass_on(context.caller, order) as passage:
            response = await passage.begin(Passed(*asked, body if first is None else first))
            context.headers.append((b"x-cost-usd", format_usd(passage.cost_nano).encode()))
            await _relay(passage, response, send)


def as_listing(endpoint: ASGIApp, limiter: Limiter) -> ASGIApp:
    """The endpoint, each of whose requests counts as one that asks about things: it is told of no row that says so."""

    async def listed(scope: Scope, receive: Receive, send: Send) -> None:
        await counted(limiter, scope[CONTEXT].caller)
        await endpoint(scope, receive, send)

    return listed


def sold_models(models: Models) -> ASGIApp:
    """A provider's list, which has what is sold of it and no more."""

    async def told(scope: Scope, _receive: Receive, send: Send) -> None:
        listed = await models.list(Asked(scope, read_query(scope, ModelsQuery), Nothing(), b""))
        await send_bytes(send, written(listed), [JSON_TYPE, (b"cache-control", b"private")])

    return told


async def _relay(passage: Passage, response: BackendResponse, send: Send) -> None:
    """The answer as it comes; the end leaves once it is paid for."""
    await send({"type": "http.response.start", "status": response.status, "headers": _told_headers(response)})
    while piece := await passage.next_piece():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        piece = b""  # which may be long, and is not kept while the next is waited for
    await send({"type": "http.response.body", "body": b""})


class _Body:
    """A request's body as it comes, of so many bytes at most."""

    def __init__(self, context: RequestContext, client: Client, receive: Receive, max_bytes: int) -> None:
        length = context.sent.get(b"content-length")
        self.size_bytes = None if b"transfer-encoding" in context.sent else int(length or 0)
        self.is_whole = False
        self._client = client
        self._receive = receive
        self._max_bytes = max_bytes
        self._came_bytes = 0
        self._waiting: list[bytes] = []
        if (self.size_bytes or 0) > max_bytes:
            raise self._too_large()

    async def first(self) -> bytes | None:
        """The body, where it is there as a whole; None for one that comes in pieces."""
        piece = await self._read()
        if self.is_whole:
            return piece
        self._waiting.append(piece)
        return None

    async def next_piece(self) -> bytes:
        """b"" at the end. Raises GatewayError `body_too_large`, or CallerLeft."""
        if self._waiting and (piece := self._waiting.pop()):
            return piece
        while not self.is_whole:
            if piece := await self._read():
                return piece
        return b""

    async def _read(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            raise CallerLeft
        piece: bytes = message.get("body", b"")
        self._came_bytes += len(piece)
        if self._came_bytes > self._max_bytes:
            raise self._too_large()
        if not message.get("more_body"):
            self.is_whole = self._client.is_cancelled_on_departure = True
        return piece

    def _too_large(self) -> GatewayError:
        return GatewayError("body_too_large", f"The request body may have at most {self._max_bytes} bytes.")


def _check_may(caller: Caller) -> None:
    """Raises GatewayError `insufficient_permissions`."""
    if caller.is_test:
        raise GatewayError("insufficient_permissions", "A test key asks no provider: the demo answers for it.")
    if not caller.may_proxy:
        raise GatewayError("insufficient_permissions", "This account may not ask providers by their own paths.")


def _parameters_of(query: bytes) -> dict[str, list[str]]:
    try:
        return query_without_keys(query)
    except ValueError:
        raise GatewayError("invalid_value", "The query has too many parameters.") from None


def _check_means_nothing(parameters: Iterable[str]) -> None:
    """Raises GatewayError `unsupported_parameter`: a surface of the gateway's takes no query."""
    if unknown := [name for name in parameters if name not in _MEANING_NOTHING]:
        name = shown(unknown[0])
        raise GatewayError("unsupported_parameter", f"`{name}` in the query is not passed on.", param=name)


def _asked_headers(scope: Scope, proxy: Proxy) -> Headers:
    passed = [header for header in scope["headers"] if header[0] in _ASKED or header[0] in proxy.passed_headers]
    return [(name, value) for name, value in passed if not has_key(value.decode("latin-1"))]


def _told_headers(response: BackendResponse) -> Headers:
    told = [(name, value) for name in _TOLD if (value := response.header(name)) is not None]
    is_stream = (response.header(b"content-type") or b"").startswith(b"text/event-stream")
    return [*told, *_INERT, *(event_streams.HEADERS if is_stream else ())]
