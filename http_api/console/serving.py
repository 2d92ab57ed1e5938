"""How a page is asked for and answered: its query and form read, its template filled, its refusals shown as pages."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, quote, urlencode

from starlette.types import ASGIApp, Receive, Scope, Send

from http_api.console.forms import FORM_TYPE, Form
from http_api.console.templates import Templates, Viewer
from http_api.idempotency import KEY_HEADER
from http_api.operations import (
    ROOT,
    Access,
    Answered,
    AnyOperation,
    Asked,
    Counts,
    Handle,
    Nothing,
    Operation,
    Streamed,
    page_at_root,
    send_streamed,
)
from http_api.query import AnyQuery, Query, read_query
from http_api.rendering import HTML, OPENAI_SHAPE, Shape, Stamps, asks_for_page, error_headers
from http_api.routes import BELOW, refusing, unknown_url
from http_api.status import STATUS_PATH
from mcp_gateway.core.caller import Caller, User
from mcp_gateway.core.context import CLIENT, CONTEXT, SENT, RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.people import People
from mcp_gateway.core.zones import zone_or_utc
from mcp_gateway.wire.bodies import read_body
from mcp_gateway.wire.whole_answers import Headers, send_bytes

HTML_TYPE = (b"content-type", HTML.encode())
SIGN_IN_PATH = "/console/sign-in"
_NOT_STORED = (b"cache-control", b"no-store")
_MAX_FORM_BYTES = 64 * 1024
_ONCE = "once"
"""The field of a form that is its Idempotency-Key: a second click sends the same."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A page: its template, what stands in it, and the `part` of it that a script asks for instead of all."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    part: str | None = None
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class SeeOther:
    """Another page, or another site's address, is to be looked at next."""

    location: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


Q = TypeVar("Q", bound=Query)
B = TypeVar("B")
AskedPage = Asked[Any, Form]
Told = Shown | SeeOther | Answered[Any] | Streamed
Show = Callable[[AskedPage], Awaitable[Told]]
"""Answers with a page; bytes that are answered, or written as they are read, are an export.

Raises GatewayError, which becomes a page.
"""


class Console:
    """Makes the rows of pages, which are operations like all others that no document tells of.

    `stamps` are the headers of every answer.
    """

    def __init__(self, templates: Templates, people: People, stamps: Stamps) -> None:
        self.templates = templates
        self._people = people
        self._stamps = stamps
        self._shape = Shape(OPENAI_SHAPE.wording, OPENAI_SHAPE.body, stamps, self._refuse)
        self._shape_of_hidden = self._shape._replace(page=self._refuse_hidden)
        self._shape_for_browsers = OPENAI_SHAPE._replace(page=self._refuse_in_browser)

    def page(
        self,
        path: str,
        show: Show,
        *,
        method: str = "GET",
        access: Access = Access.PERSON,
        query: type[Query] = AnyQuery,
        counts: Counts = Counts.QUERY,
        **row: Any,
    ) -> AnyOperation:
        """A row; forms are POSTed. Administrators' pages are not there for others."""
        return Operation(
            method=method,
            path=path,
            name=f"console {method} {path}",
            summary="",
            access=access,
            counts=counts if access is not Access.OPEN else Counts.NOTHING,
            query=query,
            body=Nothing,
            answer=Nothing,
            endpoint=self._endpoint_of(show, query),
            prefixes=ROOT,
            shape=self._shape_of_hidden if access is Access.ADMINISTRATOR else self._shape,
            is_for_people=True,
            **row,
        )

    def file(self, path: str, get: Handle[AnyQuery, Nothing, Nothing]) -> AnyOperation:
        """A row for what pages refer to."""
        row = page_at_root(path, f"console {path}", "", Nothing, get, refuses=frozenset({"unknown_url"}))
        return replace(row, shape=self._shape)

    def stream(self, path: str, endpoint: ASGIApp) -> AnyOperation:
        """A row for what a page that is open listens to, whoever has it open."""
        return Operation(
            method="GET",
            path=path,
            name=f"console {path}",
            summary="",
            access=Access.OPEN,
            counts=Counts.NOTHING,
            query=AnyQuery,
            body=Nothing,
            answer=Nothing,
            endpoint=endpoint,
            prefixes=ROOT,
            shape=self._shape,
            is_always_answered=True,
        )

    def part(self, template: str, values: Mapping[str, Any], part: str) -> str:
        """A part of a page that is the same for everybody."""
        return self.templates.write_part(template, values, part)

    def unknown(self) -> list[AnyOperation]:
        """Rows for all that no page is at."""

        async def refuse(scope: Scope, _receive: Receive, _send: Send) -> None:
            raise unknown_url(scope["path"], ())

        return [
            refusing(f"{folder}{BELOW}", f"{folder} unknown", refuse, access=Access.OPEN, shape=shape, prefixes=ROOT)
            for folder, shape in (("/console", self._shape), (STATUS_PATH, self._shape_for_browsers))
        ]

    def for_browsers(self, row: AnyOperation) -> AnyOperation:
        """The same row of the API where a browser that is led there is refused by a page."""
        return replace(row, shape=self._shape_for_browsers)

    async def write_page(self, template: str, values: Mapping[str, Any], asked: Asked[Any, Any]) -> Answered[Any]:
        """A page of a row of the API, with the headers that all pages have."""
        text = await self.templates.write(template, values, None, await self._viewer(asked.context.caller), asked.scope)
        headers = ((b"vary", b"Accept, Cookie"), *self._stamps(asked.context, None))
        return Answered(text.encode(), headers=headers, media_type=HTML)

    def _endpoint_of(self, show: Show, query: type[Query]) -> ASGIApp:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            scope[CLIENT].is_cancelled_on_departure = scope["method"] in ("GET", "HEAD")
            raw = b"" if scope["method"] in ("GET", "HEAD") else await _read_form(scope, receive)
            form = Form.read(raw)
            if once := form.get(_ONCE):
                _send_once(scope, once)
            asked = Asked(scope, _query_in(scope, query), form, raw)
            await self._send(scope, send, asked, await show(asked))

        return answer

    async def _send(self, scope: Scope, send: Send, asked: AskedPage, told: Told) -> None:
        if isinstance(told, Streamed):
            await send_streamed(scope, send, told, (_NOT_STORED,))
        elif isinstance(told, SeeOther):
            location = told.location
            if location.startswith("/"):
                location = self.templates.at(location)
            headers: Headers = [(b"location", location.encode()), _NOT_STORED, *told.headers]
            await send_bytes(send, b"", headers, HTTPStatus.SEE_OTHER)
        elif isinstance(told, Answered):
            assert isinstance(told.answer, bytes)
            assert told.media_type is not None
            headers = [(b"content-type", told.media_type.encode()), _NOT_STORED, *told.headers]
            await send_bytes(send, told.answer, headers, told.status or HTTPStatus.OK)
        else:
            part = told.part if b"x-part" in asked.context.sent else None
            viewer = await self._viewer(asked.context.caller)
            text = await self.templates.write(told.template, told.values, part, viewer, scope)
            headers = [HTML_TYPE, _NOT_STORED, (b"vary", b"X-Part, Cookie"), *told.headers]
            await send_bytes(send, text.encode(), headers, told.status)

    async def _viewer(self, caller: Caller | None) -> Viewer | None:
        if caller is None or not isinstance(caller.principal, User):
            return None
        person = await self._people.get(caller.principal.user_id)
        name, zone = person.email or person.id, zone_or_utc(person.zone)
        return Viewer(name, person.role, person.account_id, person.is_administrator, zone)

    async def _refuse(self, scope: Scope, send: Send, refusal: GatewayError) -> bool:
        """Whoever must sign in first comes back to where they were; all others are told what is wrong."""
        if refusal.status == HTTPStatus.UNAUTHORIZED:
            back = f"?next={quote(_path_of(scope), safe='')}" if scope["method"] == "GET" else ""
            await self._send(scope, send, Asked(scope, AnyQuery(), Form(), b""), SeeOther(f"{SIGN_IN_PATH}{back}"))
        else:
            await self._tell(scope, send, refusal, ())
        return True

    async def _refuse_in_browser(self, scope: Scope, send: Send, refusal: GatewayError) -> bool:
        """Of a row of the API, which has no headers of pages."""
        if not asks_for_page(scope[SENT]):
            return False
        await self._tell(scope, send, refusal, [(b"vary", b"Accept"), *self._stamps(scope[CONTEXT], None)])
        return True

    async def _tell(self, scope: Scope, send: Send, refusal: GatewayError, more: Sequence[tuple[bytes, bytes]]) -> None:
        context: RequestContext = scope[CONTEXT]
        values = {"error": refusal, "status": HTTPStatus(refusal.status), "request_id": context.request_id}
        text = await self.templates.write("error.html", values, None, None, scope)
        headers: Headers = [HTML_TYPE, _NOT_STORED, *more, *error_headers(refusal)]
        await send_bytes(send, text.encode(), headers, refusal.status)

    async def _refuse_hidden(self, scope: Scope, send: Send, refusal: GatewayError) -> bool:
        """An administrator's page is not there for whoever is none."""
        if refusal.status == HTTPStatus.FORBIDDEN:
            refusal = GatewayError("unknown_url", "There is no such page.")
        return await self._refuse(scope, send, refusal)


def asking(asked: AskedPage, body: B, query: Q | None = None) -> Asked[Q, B]:
    """What a page asks of a row of the API, as if its reader had, about the same account; without a query, by none."""
    return Asked(asked.scope, query or cast(Q, Query()), body, asked.raw, asked.of_account)


async def _read_form(scope: Scope, receive: Receive) -> bytes:
    context: RequestContext = scope[CONTEXT]
    if context.sent.get(b"content-type", FORM_TYPE).partition(b";")[0].strip().lower() != FORM_TYPE:
        raise GatewayError("invalid_type", "Send a form, as application/x-www-form-urlencoded.")
    return await read_body(context, receive, _MAX_FORM_BYTES)


def _query_in(scope: Scope, kind: type[Query]) -> Query:
    """A filter that is not set is sent as an empty text by a form."""
    given = parse_qsl(scope["query_string"].decode("latin-1"))
    return read_query({"query_string": urlencode(given).encode()}, kind)


def _send_once(scope: Scope, once: str) -> None:
    """As if it had been sent as a header, where what reads those finds it."""
    value = once.encode("latin-1", "replace")
    scope["headers"] = [*(pair for pair in scope["headers"] if pair[0] != KEY_HEADER), (KEY_HEADER, value)]
    scope[SENT][KEY_HEADER] = value


def again(template: str, values: Mapping[str, Any], error: GatewayError) -> Shown:
    """A form once more, with what was typed and what is wrong with it. What the reader cannot mend is raised."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.status == HTTPStatus.UNAUTHORIZED:
        raise error
    return Shown(template, {**values, "error": error}, None, error.status, tuple(error_headers(error)))


def _path_of(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    path: str = scope["path"]
    return f"{path}?{query}" if query else path
