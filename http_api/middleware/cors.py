"""What lets a page in a browser call either door and read what it answers: CORS, of the Fetch standard.

Knows headers; which origins there are is told. No cookie is ever asked for: a page sends its key like any client.
"""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from http_api.routes import Routes
from mcp_gateway.core.context import SENT
from mcp_gateway.core.origins import Origins
from mcp_gateway.wire.whole_answers import Headers

_EXPOSED = (
    b"Mcp-Session-Id, X-Request-Id, Request-Id, X-Client-Request-Id, Retry-After, WWW-Authenticate, Allow, "
    b"Idempotent-Replayed, X-Cost-USD, X-Gateway-Overhead-Ms, X-Max-Tokens-Clamped, X-Ignored-Parameters, "
    b"X-Tokens-Estimated, "
    b"X-Should-Retry, X-Routing-Model, X-Routing-Task, X-Routing-Complexity, X-Routing-Confidence, X-Routing-Time-Ms, "
    b"X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, "
    b"X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, X-RateLimit-Reset-Requests, "
    b"X-RateLimit-Limit-Tokens, X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens, "
    b"Anthropic-RateLimit-Requests-Limit, Anthropic-RateLimit-Requests-Remaining, Anthropic-RateLimit-Requests-Reset, "
    b"Anthropic-RateLimit-Tokens-Limit, Anthropic-RateLimit-Tokens-Remaining, Anthropic-RateLimit-Tokens-Reset"
)
"""By name: a browser takes `*` for no name at all where a page sends credentials."""
_SENT = (
    b"Authorization, X-API-Key, Content-Type, Accept, Idempotency-Key, X-Client-Request-Id, MCP-Protocol-Version, "
    b"Mcp-Session-Id, Mcp-Method, Mcp-Name, Last-Event-ID"
)
"""What clients send of their own accord, named also where a preflight asks for less: browsers keep what it was told."""
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_MAX_AGE_S = 600


class Cors:
    """Answers preflights before anything asks for a key, and lets origins that may read every answer, refusals too.

    Whoever sends no Origin is no page, and passes for one look-up; other origins are told nothing.
    """

    def __init__(self, app: ASGIApp, origins: Origins, routes: Routes) -> None:
        self._app = app
        self._origins = origins
        self._routes = routes

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        origin = scope[SENT].get(b"origin")
        if origin is None or not self._may_read(origin, scope):
            return self._app(scope, receive, send)
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in scope[SENT]:
            return _answer_preflight(scope, send, origin)
        return self._app(scope, receive, _opened(send, origin))

    def _may_read(self, origin: bytes, scope: Scope) -> bool:
        if self._origins.admits(origin):
            return True
        operation = self._routes.find(scope).operation
        return operation.is_for_all_pages or (operation.is_for_mcp_pages and self._origins.admits_to_mcp(origin))


async def _answer_preflight(scope: Scope, send: Send, origin: bytes) -> None:
    """Whatever headers a page wants to send, it may: what they say is checked where they are read."""
    wanted = scope[SENT].get(b"access-control-request-headers")
    headers = [
        *_permission(origin),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", b"%b, %b" % (_SENT, wanted) if wanted else _SENT),
        (b"access-control-max-age", b"%d" % _MAX_AGE_S),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _opened(send: Send, origin: bytes) -> Send:
    def opened(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start" and not _is_open(message["headers"]):
            exposed = (b"access-control-expose-headers", _EXPOSED)
            message["headers"] = [*message["headers"], *_permission(origin), exposed]
        return send(message)

    return opened


def _is_open(headers: Headers) -> bool:
    """Whether an answer says itself who may read it: a browser believes none that says so twice."""
    return any(name == b"access-control-allow-origin" for name, _ in headers)


def _permission(origin: bytes) -> Headers:
    return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
