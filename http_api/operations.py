"""One table entry an operation; the table makes the routes, and for each path one place that knows all its methods."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_gateway.core.caller import KeyScope
from mcp_gateway.core.context import CLIENT, CONTEXT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import SHOWN_CHARS, shown

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """A method and path with either a `handler` of requests or a whole ASGI `endpoint` behind it.

    A key needs the `scope`; None where anybody may ask, or where the endpoint looks at scopes by itself.
    """

    method: str
    path: str
    scope: KeyScope | None
    handler: Handler | None = None
    endpoint: ASGIApp | None = None


class PathEndpoint:
    """All operations of one path, for keys with the scope of each.

    Other methods are 405 with a complete Allow. HEAD is possible wherever a handler answers GET, a whole endpoint is
    asked for it only where the table says so: behind its GET may be a stream without an end.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._by_method: dict[str, tuple[KeyScope | None, ASGIApp]] = {}
        for operation in operations:
            found = self._by_method[operation.method] = operation.scope, _endpoint_of(operation)
            if operation.method == "GET" and operation.handler is not None:
                self._by_method["HEAD"] = found
        self._allow = ", ".join(sorted(self._by_method))

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        found = self._by_method.get(scope["method"]) or self._by_method.get("*")
        if found is None:
            message = f"{scope['method']} is not possible here; use {self._allow}."
            raise GatewayError("method_not_allowed", message, details={"allow": self._allow})
        key_scope, endpoint = found
        if key_scope is not None:
            scope[CONTEXT].caller.check_scope(key_scope)
        return endpoint(scope, receive, send)


class ExactPaths:
    """Goes straight to the endpoint of a path that has no parameters: a router tries its routes one after another."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._endpoints = {route.path: route.app for route in routes if not route.param_convertors}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._endpoints.get(scope["path"], self._app)(scope, receive, send)


def unknown_url(path: str, known: Collection[str]) -> GatewayError:
    """For a path that is none, with the one of the known paths that it stands for: but for slashes, case or prefix."""
    plain = "/" + "/".join(part for part in path[:SHOWN_CHARS].lower().split("/") if part)
    meant = [name for name in known if name != "/" and f"/v1{plain}".endswith(name)]
    hint = f" Did you mean {max(meant, key=len)}?" if meant else ""
    return GatewayError("unknown_url", f"There is no {shown(path)} here.{hint}")


def routes_of(operations: Iterable[Operation], prefixes: Iterable[str] = ("",)) -> list[Route]:
    """A route for each path under each prefix, in the order of the table."""
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    endpoints = {path: PathEndpoint(group) for path, group in by_path.items()}
    return [Route(prefix + path, endpoint) for prefix in prefixes for path, endpoint in endpoints.items()]


def _endpoint_of(operation: Operation) -> ASGIApp:
    if operation.endpoint is not None:
        return operation.endpoint
    handler, is_reading = operation.handler, operation.method == "GET"
    assert handler is not None

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CLIENT].is_cancelled_on_departure = is_reading  # what is only read, nobody needs any more
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)

    return endpoint
