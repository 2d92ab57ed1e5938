"""The outermost layer: an id for each request, stamps for every answer, one error shape for whatever is raised."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

from starlette.types import Message, Receive, Scope, Send

from http_api.challenges import Challenges
from http_api.operations import AnyOperation
from http_api.rendering import Shape, send_error
from http_api.routes import Routes
from mcp_gateway.core.bytes_in_flight import BytesInFlight
from mcp_gateway.core.context import CLIENT, CONTEXT, SENT, CallerLeft, RequestContext
from mcp_gateway.core.errors import GatewayError, internal_error, outline
from mcp_gateway.core.identity.address import AddressReader
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.observe.refusals import Refusals
from mcp_gateway.core.policy_links import PolicyLinks

logger = logging.getLogger(__name__)

_CLIENT_ID = re.compile(rb"[\x21-\x7e]{1,128}")

Check = Callable[[Scope, RequestContext, AnyOperation], Awaitable[None] | None]
"""What is looked at before anything else, to be awaited where it cannot be told at once; raises GatewayError where the
request is refused.
"""


class Answers:
    """Finds the operation of every request, has it checked and run, and adds `X-Request-Id`, the client's own id, and
    the caller's limits to each answer.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        checks: Sequence[Check],
        new_id: Callable[[str], str],
        addresses: AddressReader,
        room: BytesInFlight,
        limiter: Limiter,
        refusals: Refusals,
        challenges: Challenges,
        limits_url: str,
        links: PolicyLinks,
    ) -> None:
        self._routes = routes
        self._checks = checks
        self._new_id = new_id
        self._addresses = addresses
        self._room = room
        self._limiter = limiter
        self._refusals = refusals
        self._challenges = challenges
        self._limits_url = limits_url
        self._links = links

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = scope[CONTEXT] = scope[CLIENT].context = self._context(scope)
        found = self._routes.find(scope)
        operation = found.operation
        has_started = False

        def stamped(message: Message) -> Awaitable[None]:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*message["headers"], *self._stamps(context, operation.shape)]
            return send(message)

        try:
            for check in self._checks:
                if (pending := check(scope, context, operation)) is not None:
                    await pending
            await found.run(scope, receive, stamped)
        except CallerLeft:
            pass  # nobody is left to answer
        except Exception as error:
            was_begun = has_started
            await self._refuse(error, scope, operation.shape, None if was_begun else stamped)
            if was_begun and isinstance(error, GatewayError):
                raise
        finally:
            context.release()

    async def _refuse(self, error: Exception, scope: Scope, shape: Shape, send: Send | None) -> None:
        """Count a refusal and tell it, where nothing has been told yet.

        Apart from where it is caught: a name for the error there would keep what its traceback holds, such as the body,
        until the garbage is collected.
        """
        context: RequestContext = scope[CONTEXT]
        refusal = error if isinstance(error, GatewayError) else _bug(error, context)
        self._refusals.note(refusal.code, context.address)
        if send is not None:
            if refusal.status == HTTPStatus.TOO_MANY_REQUESTS:
                refusal.details["limits_url"] = self._limits_url
            refusal = self._links.told(refusal)
            if shape.page is not None and await shape.page(scope, send, refusal):
                return
            challenge = self._challenges.of(refusal, scope["path"], context.caller)
            await send_error(send, refusal, shape.wording(refusal, context), challenge)

    def _context(self, scope: Scope) -> RequestContext:
        sent: dict[bytes, bytes] = scope[SENT]
        client_id = _client_id(sent, b"x-client-request-id") or _client_id(sent, b"x-request-id")
        forwarded = None
        if b"x-forwarded-for" in sent:
            forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        address = self._addresses.read(scope["client"], forwarded)
        return RequestContext(self._new_id("req"), client_id, address, self._room, sent=sent)

    def _stamps(self, context: RequestContext, shape: Shape) -> list[tuple[bytes, bytes]]:
        stamps = [(b"x-request-id", context.request_id.encode()), *context.headers]
        if context.client_request_id is not None:
            stamps.append((b"x-client-request-id", context.client_request_id.encode()))
        standing = None
        if context.caller is not None:
            standing = self._limiter.standing(context.caller)
            limit, remaining, resets_at_s = standing.requests
            if limit is not None and remaining is not None:
                most, left, reset = b"%d" % limit, b"%d" % remaining, b"%d" % resets_at_s
                stamps += (
                    (b"x-ratelimit-limit", most),
                    (b"x-ratelimit-remaining", left),
                    (b"x-ratelimit-reset", reset),
                    (b"x-ratelimit-limit-requests", most),
                    (b"x-ratelimit-remaining-requests", left),
                    (b"x-ratelimit-reset-requests", reset),
                )
            if standing.tokens_limit is not None and standing.tokens_remaining is not None:
                stamps += (
                    (b"x-ratelimit-limit-tokens", b"%d" % standing.tokens_limit),
                    (b"x-ratelimit-remaining-tokens", b"%d" % standing.tokens_remaining),
                    (b"x-ratelimit-reset-tokens", b"%d" % standing.minute_ends_at_s),
                )
        return stamps if shape.stamps is None else [*stamps, *shape.stamps(context, standing)]


def _bug(error: Exception, context: RequestContext) -> GatewayError:
    """What a client is told of it: the id under which the log has it."""
    logger.error("request %s failed with %s", context.request_id, outline(error))
    return internal_error(context.request_id)


def _client_id(sent: Mapping[bytes, bytes], name: bytes) -> str | None:
    """A client's own id; anything else than visible ASCII is not taken."""
    value = sent.get(name)
    return value.decode("ascii") if value is not None and _CLIENT_ID.fullmatch(value) else None
