"""A surface's endpoint, such as POST /chat/completions: the hot path, a plain ASGI endpoint."""

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import Receive, Scope, Send

from http_api.bodies import read_bytes
from http_api.event_stream import EventStream
from http_api.idempotency import KEY_HEADER, answering_once
from http_api.operations import AnswerHeader
from http_api.query import AnyQuery, read_query
from http_api.routing import ROUTING_HEADERS, routing_event, routing_headers, wants_event
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import CLIENT, CONTEXT, CallerLeft, Client, RequestContext
from mcp_gateway.core.dialects.sifting import first_names
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Repeats
from mcp_gateway.core.inference.auto_router import ToldRouting
from mcp_gateway.core.inference.exchange import AnswerFacts, Exchange, Inference
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.inference.rounds import Rounds, in_rounds
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.json_fields import parse_json_object
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.surfaces.routed import read_ask
from mcp_gateway.core.surfaces.surface import Ask, Surface
from mcp_gateway.core.token_ids import IdsField, read_json_body
from mcp_gateway.core.trace_context import TRACEPARENT, trace_of
from mcp_gateway.wire.bodies import BodyLimits
from mcp_gateway.wire.whole_answers import JSON_TYPE, Headers, send_bytes

IGNORED = AnswerHeader(
    "X-Ignored-Parameters",
    "string",
    "The names in the request that were not sent on; and of an account whose requests are attributed, those of users "
    "and tags that are none.",
)
HEADERS = (
    AnswerHeader("X-Cost-USD", "string", "What an answer in one piece cost, in USD."),
    AnswerHeader(
        "X-Gateway-Overhead-Ms",
        "number",
        "The milliseconds that the gateway itself took for an answer in one piece: from when the request's body was "
        "there until the bill was written, less the waits for backends. Such a wait lasts from a request to a backend, "
        "with the connection that is made for it, until its answer has come whole or has failed.",
    ),
    AnswerHeader("X-Max-Tokens-Clamped", "integer", "The limit of tokens that stands in place of what was asked for."),
    IGNORED,
    *ROUTING_HEADERS,
)
"""What `InferenceEndpoint` tells of an answer beside it."""


Opening = Callable[[ToldRouting], bytes]
"""The frames before those of an answer."""


class InferenceQuery(AnyQuery):
    """Which source of answers is to be asked: a provider, or `vllm`."""

    provider: str | None = None


class InferenceEndpoint:
    """Reads the body, runs the exchange, and writes one JSON body or the frames as they come."""

    def __init__(
        self,
        surface: Surface,
        inference: Inference,
        repeats: Repeats,
        *,
        body_limits: BodyLimits,
        json_bounds: JsonBounds,
        comment_s: float,
        ids_in: IdsField | None = None,
        fields_in: Callable[[Scope], dict[str, Any]] | None = None,
        may_offer_tools: bool = False,
        tells_choice: bool = False,
        is_told_in_stream: Callable[[GatewayError, RequestContext], bool] = lambda _error, _context: False,
        passes_unchanged: bool = False,
    ) -> None:
        """`ids_in` is what of a body may be token ids, which have bounds of their own; `fields_in` are those fields
        that stand in headers. `may_offer_tools` is whether a key may have tools of servers offered by itself,
        `tells_choice` whether a stream may begin with how its model was chosen.

        Where a body `passes_unchanged`, one is refused of which anything would be left out or changed.

        `is_told_in_stream` says of which refusals a caller reads nothing but the end of a stream.
        """
        self._surface = surface
        self._inference = inference
        self._repeats = repeats
        self._comment_s = comment_s
        self._is_told_in_stream = is_told_in_stream
        self._body_limits = body_limits
        self._json_bounds = json_bounds
        self._ids_in = ids_in
        self._fields_in = fields_in
        self._passes_unchanged = passes_unchanged
        self._may_offer_tools = may_offer_tools
        self._tells_choice = tells_choice

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        once = KEY_HEADER in scope[CONTEXT].sent
        return self._answer_once(scope, receive, send) if once else self._answer(scope, receive, send)

    async def _answer_once(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with answering_once(self._repeats, scope):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[CONTEXT]
        caller = context.caller
        assert caller is not None
        client: Client = scope[CLIENT]
        path: str = scope["path"]
        call = self._call_of(scope, context)
        if not client.is_whole:
            self._inference.check(caller, call)  # who has nothing left is told so before the body is read
        try:
            raw = await read_bytes(scope, receive, self._body_limits.of(caller))
        except (GatewayError, CallerLeft):
            if client.refusal is not None:
                raise  # it is no HTTP, and no request
            with await self._inference.admit(caller, call):
                raise  # counted and recorded like any other
        client.is_cancelled_on_departure = True
        # no sooner: a body that comes slowly takes no place from anybody
        with await self._inference.admit(caller, call) as exchange:
            if self._ids_in is None:
                await self._json_bounds.check(raw, caller)
                body = parse_json_object(raw)
            else:
                body = await read_json_body(raw, self._ids_in, self._json_bounds, caller)
            if self._fields_in is not None:
                body |= self._fields_in(scope)
            ask = read_ask(self._surface, body, len(raw))
            if self._passes_unchanged:
                exchange.call = call._replace(as_sent=await self._parsed_again(raw, caller))
            del raw, body
            answering: Exchange | Rounds = exchange
            if ask.wanted_tools is not None or (caller.offers_mcp_tools and self._may_offer_tools):
                answering = in_rounds(exchange, ask, caller, self._inference, context)
            if ask.is_stream:
                stream = EventStream(
                    send, ask.waiting_frames, self._comment_s, lambda: _tell_changes(answering.facts, context, path)
                )
                await self._relay(answering, ask, stream, context, self._opening_of(ask, caller, path))
                return
            await answering.begin(ask)
            facts = answering.facts
            _tell_changes(facts, context, path)
            context.headers.append((b"x-cost-usd", format_usd(facts.cost_nano).encode()))
            context.headers.append((b"x-gateway-overhead-ms", b"%.2f" % (facts.overhead_s * 1000)))
            await send_bytes(send, answering.body, [JSON_TYPE])

    async def _parsed_again(self, raw: bytes, caller: Caller) -> dict[str, Any]:
        if self._ids_in is None:
            return parse_json_object(raw)
        return await read_json_body(raw, self._ids_in, self._json_bounds, caller)

    def _call_of(self, scope: Scope, context: RequestContext) -> Call:
        """Of a client's headers its trace alone passes to a backend."""
        trace = trace_of(scope["headers"]) if TRACEPARENT in context.sent else ()
        call = Call(context.request_id, "http", self._surface.name, context.client_request_id, trace, context)
        if not scope["query_string"]:
            return call
        return call._replace(provider=read_query(scope, InferenceQuery).provider)

    def _opening_of(self, ask: Ask, caller: Caller, path: str) -> Opening | None:
        """How a stream begins whose model is chosen, where that is to be told in it."""
        if ask.routing is None or not self._tells_choice or not wants_event(ask.routing, caller, path):
            return None
        return lambda routing: routing_event(routing, ask.request_id, path)

    async def _relay(
        self,
        exchange: Exchange | Rounds,
        ask: Ask,
        stream: EventStream,
        context: RequestContext,
        opening: Opening | None,
    ) -> None:
        async with stream:
            try:
                await exchange.begin(ask)
                if not ask.body:  # else it is needed to the end
                    context.release()
                if opening is not None and (routing := exchange.facts.routing) is not None:
                    await stream.send(opening(routing))
            except GatewayError as error:
                await stream.hush()  # or a comment would begin the answer behind this decision
                if not (stream.has_begun or self._is_told_in_stream(error, context)):
                    raise
                await stream.send(await exchange.frames_of(error))
            while frames := await exchange.next_frames():
                await stream.send(frames)
                frames = b""  # which may be long, and is not kept while the next are waited for
        await stream.end()


def _tell_changes(facts: AnswerFacts, context: RequestContext, path: str) -> None:
    """Say in the answer's headers in what it was asked otherwise than its caller did."""
    if facts.clamped_to is not None:
        context.headers.append((b"x-max-tokens-clamped", b"%d" % facts.clamped_to))
    if facts.routing is not None:
        context.headers += routing_headers(facts.routing, path)
    if facts.ignored:
        context.headers += ignored_parameters(facts.ignored)


def ignored_parameters(names: tuple[str, ...]) -> Headers:
    """Says which were not sent on, if any."""
    return [(b"x-ignored-parameters", ", ".join(first_names(names)).encode())] if names else []
