"""Holds every answer of a served gateway against /openapi.json: status, code, media type, headers and body.

An ASGI layer, so that it sees whatever asks: clients of others and bare sockets too. MCP's messages and what is passed
to a provider are not in the document; of those nothing is said.
"""

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from http import HTTPStatus
from typing import Any

import jsonschema_rs
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from http_api.bodies import BodyBounds
from http_api.openapi import Document, refusals_of
from http_api.operations import AnyOperation, Nothing
from http_api.routes import Routes
from mcp_gateway.core.json_bounds import JsonBounds

Json = dict[str, Any]
_JSON = "application/json"
_MOST_BYTES = 256 * 1024
"""Of a body that is looked at: longer ones are made by tests that ask about length."""
_OF_ANY = ("access-control-", "anthropic-ratelimit-")
_PLAIN = frozenset({
    "content-type", "content-length", "content-disposition", "content-security-policy", "allow", "vary", "connection",
    "date", "cache-control", "x-accel-buffering", "x-content-type-options", "referrer-policy",
    "cross-origin-opener-policy", "cross-origin-resource-policy", "permissions-policy",
})  # fmt: skip
"""Headers of HTTP, of proxies and of pages themselves."""


@dataclass(slots=True)
class Seen:
    """One answer, as far as it has come."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    def add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
            return
        if len(self.body) <= _MOST_BYTES and self.media_type == _JSON:
            self.body += message.get("body", b"")
        self.is_whole = not message.get("more_body")

    @property
    def media_type(self) -> str:
        return _plain(self.headers.get("content-type", ""))


class Declared:
    """The app, and what it has answered that the document does not tell."""

    def __init__(self, app: ASGIApp, operations: Sequence[AnyOperation]) -> None:
        self._app = app
        self._routes = cache(lambda: Routes(operations, BodyBounds(0, JsonBounds(0, 0))))
        self.faults: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked, seen = {"path": scope["path"], "method": scope["method"]}, Seen()

        def noted(message: Message) -> Awaitable[None]:
            seen.add(message)
            if seen.is_whole:
                self.faults += self.faults_of(asked["method"], asked["path"], seen)
            return send(message)

        await self._app(scope, receive, noted)

    async def check(self, _answer: object = None) -> None:
        """Fails where anything else was answered; as a hook of a client, in the test that asked."""
        assert not self.faults, self.faults[0]

    def faults_of(self, method: str, path: str, seen: Seen) -> list[str]:
        row = self._routes().find({"path": path, "method": method}).operation
        if row.answer is Nothing or (method == "OPTIONS" and seen.status == HTTPStatus.NO_CONTENT):
            return []
        return [
            f"{method} {path} ({row.name}): {fault}" for fault in promised(_without_code(row)).faults_of(seen, method)
        ]


class Promise:
    """What the document tells of one operation."""

    def __init__(self, row: AnyOperation) -> None:
        document = Document([row], version="1", base_url="http://gateway.test", serves_guests=lambda: True).as_object()
        (path, *_) = document["paths"].values()
        self._answers: Json = path[row.method.lower()]["responses"]
        self._components = document["components"]
        self._codes = refusals_of(row)
        self._body_is_valid = cache(self._validator_of)

    def faults_of(self, seen: Seen, method: str) -> Iterator[str]:
        if seen.status == HTTPStatus.METHOD_NOT_ALLOWED and "allow" in seen.headers:
            return
        told = self._answers.get(str(seen.status))
        if told is None:
            yield f"does not tell of status {seen.status}"
            return
        names = {name.lower() for name in told.get("headers", ())}
        if unknown := [name for name in seen.headers if name not in names | _PLAIN and not name.startswith(_OF_ANY)]:
            yield f"does not tell of the headers {unknown} beside {seen.status}"
        if seen.status == HTTPStatus.NOT_MODIFIED:
            return
        if seen.media_type not in map(_plain, told["content"]):
            yield f"does not tell of {seen.media_type} beside {seen.status}"
        elif method != "HEAD" and seen.media_type == _JSON and len(seen.body) <= _MOST_BYTES:
            yield from self._faults_of_body(seen)

    def _faults_of_body(self, seen: Seen) -> Iterator[str]:
        validator = self._body_is_valid(seen.status)
        body = orjson.loads(seen.body)
        yield from (f"{seen.status} is not as told: {error}"[:500] for error in validator.iter_errors(body))
        error = body.get("error") if seen.status >= HTTPStatus.BAD_REQUEST else None
        code = error.get("code") if isinstance(error, dict) else None
        if code is not None and code not in self._codes:  # which the shapes of Anthropic and of OAuth do not have
            yield f"does not tell of {code}"

    def _validator_of(self, status: int) -> Any:
        content: Mapping[str, Json] = self._answers[str(status)]["content"]
        (schema,) = [told["schema"] for media_type, told in content.items() if _plain(media_type) == _JSON]
        return jsonschema_rs.Draft202012Validator(schema | {"components": self._components})


@cache
def promised(row: AnyOperation) -> Promise:
    """Of each row once: most gateways that are opened have the same."""
    return Promise(row)


def _without_code(row: AnyOperation) -> AnyOperation:
    return replace(row, handle=None, endpoint=None)


def _plain(media_type: str) -> str:
    return media_type.partition(";")[0]
