"""Finds the operation of a request by its path and method, before anything else is decided of it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from http_api.anthropic import BY_ITS_CLIENT
from http_api.bodies import BodyBounds
from http_api.operations import Access, AnyOperation, Counts, Nothing, Operation, endpoint_of
from http_api.query import AnyQuery
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import SHOWN_CHARS, shown

BELOW = "/{rest:path}"
"""At the end of a row's path: that path, and everything below it."""
_SEEN_BY_NOBODY = (Access.OPEN, Access.SIGNED)


@dataclass(frozen=True, slots=True)
class Found:
    """An operation, and what runs it."""

    operation: AnyOperation
    run: ASGIApp


@dataclass(frozen=True, slots=True)
class _Place:
    """All operations of one path; `otherwise` is for the methods that it does not have."""

    by_method: dict[str, Found]
    otherwise: Found


class Routes:
    """The operations by path. Every request finds one: for a path or method that there is not, one that refuses it."""

    def __init__(self, operations: Iterable[AnyOperation], bounds: BodyBounds) -> None:
        by_path: dict[str, list[AnyOperation]] = {}
        for operation in operations:
            for prefix in operation.prefixes:
                by_path.setdefault(prefix + operation.path, []).append(operation)
        places = {path: _place_of(group, bounds) for path, group in by_path.items()}
        self._exact = {path: place for path, place in places.items() if "{" not in path}
        below = {path: place for path, place in places.items() if path.endswith(BELOW)}
        self._below = {path.removesuffix(BELOW): place for path, place in below.items()}
        self._deepest = max((path.count("/") for path in self._below), default=0)
        patterns = places.keys() - self._exact.keys() - below.keys()
        self._patterns = [(compile_path(path)[0], place) for path, place in places.items() if path in patterns]
        self._unknown = _place_of([_unknown(self._exact.keys())], bounds)

    def find(self, scope: Scope) -> Found:
        """What is in the path for a parameter is put into the scope."""
        place = self._exact.get(scope["path"]) or self._search(scope)
        return place.by_method.get(scope["method"]) or place.otherwise

    def _search(self, scope: Scope) -> _Place:
        for pattern, place in self._patterns:
            if (match := pattern.fullmatch(scope["path"])) is not None:
                scope["path_params"] = match.groupdict()
                return place
        return self._above(scope["path"])

    def _above(self, path: str) -> _Place:
        """What has everything below one of the folders that a path lies in, the nearest first, or is that folder."""
        folders = path.split("/", self._deepest + 1)[: self._deepest + 1]
        while folders:
            if (place := self._below.get("/".join(folders))) is not None:
                return place
            folders.pop()
        return self._unknown


def unknown_url(path: str, known: Collection[str]) -> GatewayError:
    """For a path that is none, with the one of the known paths that it stands for: but for slashes, case or prefix."""
    plain = "/" + "/".join(part for part in path[:SHOWN_CHARS].lower().split("/") if part)
    meant = [name for name in known if name != "/" and f"/v1{plain}".endswith(name)]
    hint = f" Did you mean {max(meant, key=len)}?" if meant else ""
    return GatewayError("unknown_url", f"There is no {shown(path)} here.{hint}")


def without_sockets(message: str, scope: Scope) -> str:
    """A refusal's text, which tells a client that asks for a WebSocket that there is none."""
    return f"{message} There are no WebSockets." if b"sec-websocket-key" in scope[CONTEXT].sent else message


def refusing(path: str, name: str, refuse: ASGIApp, *, access: Access = Access.ANYONE, **row: Any) -> AnyOperation:
    """A row for whatever is asked of a path where nothing is."""
    return Operation(
        method="*",
        path=path,
        name=name,
        summary="",
        access=access,
        counts=Counts.NOTHING,
        query=AnyQuery,
        body=Nothing,
        answer=Nothing,
        endpoint=refuse,
        is_served=False,
        **row,
    )


def _place_of(operations: list[AnyOperation], bounds: BodyBounds) -> _Place:
    by_method: dict[str, Found] = {}
    for operation in operations:
        found = by_method[operation.method] = Found(operation, endpoint_of(operation, bounds))
        if operation.method == "GET" and operation.handle is not None:
            by_method["HEAD"] = found
    otherwise = by_method.pop("*", None) or _other_method(operations[0], ", ".join(sorted({*by_method, "OPTIONS"})))
    return _Place(by_method, otherwise)


def _other_method(known: AnyOperation, allow: str) -> Found:
    """204 for OPTIONS, else 405; told to whoever may see that there is something."""

    async def refuse(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow.encode())]})
            await send({"type": "http.response.body", "body": b""})
            return
        message = without_sockets(f"{scope['method']} is not possible here; use {allow}.", scope)
        raise GatewayError("method_not_allowed", message, details={"allow": allow})

    access = Access.OPEN if known.access in _SEEN_BY_NOBODY else _unless_public(known.access)
    return Found(replace(known, scope=None, access=access, counts=Counts.NOTHING), refuse)


def _unless_public(access: Access) -> Access:
    return access if access in (Access.PUBLIC, Access.ADMINISTRATOR) else Access.ANYONE


def _unknown(known: Collection[str]) -> AnyOperation:
    async def refuse(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise unknown_url(scope["path"], known)

    return refusing("", "unknown", refuse, shape=BY_ITS_CLIENT)
