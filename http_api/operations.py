"""A row of the table of operations: who may ask, what it counts, takes, answers and refuses, and what runs it.

Knows no operation; the rows stand in table.py, and whoever is let in by them is decided in middleware/.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.types import ASGIApp, Receive, Scope, Send

from http_api.bodies import SIGNED, BodyBounds, form_as, parsed_as, read_form_bytes, read_json_bytes
from http_api.query import AnyQuery, Query, read_query
from http_api.rendering import OPENAI_SHAPE, Shape
from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.context import CLIENT, CONTEXT, RequestContext
from mcp_gateway.core.errors import Code
from mcp_gateway.wire.whole_answers import Headers, send_bytes

OPENAI, INFERENCE = PREFIXES = ("/v1", "/api/v1/inference")
ROOT = ("",)

Q = TypeVar("Q", bound=Query)
B = TypeVar("B")
A = TypeVar("A")


class Access(Enum):
    """Who may ask."""

    OPEN = auto()
    """Anybody, whatever they send: nobody looks at a key."""
    SIGNED = auto()
    """Whoever signed the body, which is checked by what runs it; nobody looks at a key."""
    PUBLIC = auto()
    """Anybody, also where guests are switched off; a key that is sent must be good."""
    ANYONE = auto()
    """Guests too, where there are any."""
    HOLDER = auto()
    """Who has an account, which guests share one of."""
    LIVE_HOLDER = auto()
    """The same, but for test keys, which are made for others to try with."""
    PERSON = auto()
    """Who is signed in; no key is anybody."""
    ADMINISTRATOR = auto()
    """The operator's administrators, of whatever account or of none."""
    ACCOUNT_HOLDER = auto()
    """The same as HOLDER, but for minted keys, which see themselves alone."""


class Counts(Enum):
    """What a request counts against its caller's limits."""

    NOTHING = auto()
    """Also where what runs it counts by itself."""
    QUERY = auto()
    """One of the queries a minute."""
    INFERENCE = auto()
    """One request, tokens and a place in flight, counted by what runs it."""


class Told(BaseModel):
    """What an answer says. A field that is not given is not told."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Count = Annotated[int, Field(ge=1)]
"""Of tokens or of choices that are asked for."""
Absent = SkipJsonSchema[None]
"""Beside the type of a field that is not always told; it is never null."""


class AnswerHeader(NamedTuple):
    """A header of an answer that tells something of it; `description` says when it is there, and what it counts."""

    name: str
    kind: Literal["integer", "number", "string"]
    description: str


class Nothing:
    """Of a request whose body is not read."""


class About(NamedTuple):
    """Of which account something is told; `within` a key and what it has made alone, or all of it for None."""

    account_id: str
    within: str | None


@dataclass(frozen=True, slots=True)
class Asked(Generic[Q, B]):
    """A request that was let in: its head as ASGI has it, its query, its body as a value and as it was sent."""

    scope: Scope
    query: Q
    body: B
    raw: bytes
    of_account: str | None = None
    """An account that an administrator asks about; None where callers ask about their own."""

    @property
    def context(self) -> RequestContext:
        context: RequestContext = self.scope[CONTEXT]
        return context

    @property
    def caller(self) -> Caller:
        """Not to be asked where the access lets everybody in unseen."""
        caller = self.context.caller
        assert caller is not None
        return caller

    @property
    def about(self) -> About:
        if self.of_account is not None:
            return About(self.of_account, None)
        return About(self.caller.account_id, self.caller.within)

    def may(self, scope: KeyScope) -> bool:
        """Whether it may be told what needs the scope; administrators are told everything of an account."""
        return self.of_account is not None or self.caller.may(scope)

    @property
    def path(self) -> Mapping[str, str]:
        """What stands in the path for its parameters."""
        path: Mapping[str, str] = self.scope["path_params"]
        return path


@dataclass(frozen=True, slots=True)
class Answered(Generic[A]):
    """An answer with another status or media type than usual, or with headers of its own."""

    answer: A | bytes
    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer that is written while it is read; its length is not known."""

    pieces: AsyncIterator[bytes]
    media_type: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


Handle = Callable[[Asked[Q, B]], Awaitable[A | Answered[A] | Streamed | bytes]]
"""Answers what was asked; bytes are an answer that is written already. Raises GatewayError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[Q, B, A]):
    """A method and path, with either what handles it or a whole ASGI `endpoint` behind it.

    A method `*` stands for all that no other row of the path has. The types describe what is taken and answered; of an
    endpoint they are what it does by itself. HEAD is possible wherever a handler answers GET.
    """

    method: str
    path: str
    name: str
    summary: str
    access: Access
    scope: KeyScope | None = None
    """What a key needs; None for none, or where the endpoint looks at scopes by itself."""
    counts: Counts
    query: type[Q]
    body: type[B]
    answer: type[A]
    handle: Handle[Q, B, A] | None = None
    endpoint: ASGIApp | None = None
    statuses: tuple[int, ...] = (200,)
    """The usual one first."""
    media_types: tuple[str, ...] = ("application/json",)
    """The usual one first."""
    headers: tuple[AnswerHeader, ...] = ()
    refuses: frozenset[Code] = frozenset()
    """Codes beside those that access, counts, query and body imply."""
    prefixes: tuple[str, ...] = PREFIXES
    is_served: bool = True
    """Whether there is anything to ask; otherwise the row is there to refuse in its own way."""
    shape: Shape = OPENAI_SHAPE
    """Of which API its answers are."""
    is_always_answered: bool = False
    """Also while the gateway drains or is under maintenance."""
    is_regional: bool = False
    """Whether it is refused to the countries that the settings name: inference, and sign-up."""
    has_own_host_check: bool = False
    is_for_people: bool = False
    """Whether it is about people who sign in: no page of others may ask, and a program may send the cookie."""
    is_form: bool = False
    """Whether the body is a form, and no JSON."""
    is_for_mcp_pages: bool = False
    """Whether pages that may call the MCP door may read what it answers."""
    is_for_all_pages: bool = False
    """Whether every page may; its answers say so themselves, also to whoever is none."""


AnyOperation = Operation[Any, Any, Any]
WritePage = Callable[[str, Mapping[str, Any], Asked[Any, Any]], Awaitable[Answered[Any]]]
"""Fills a template of the console's with values for whoever asks, where a row of the API has a page, too."""


def page_at_root(
    path: str,
    name: str,
    summary: str,
    answer: type[A],
    handle: Handle[AnyQuery, Nothing, A],
    *,
    access: Access = Access.OPEN,
    statuses: tuple[int, ...] = (200,),
    media_types: tuple[str, ...] = ("application/json",),
    refuses: frozenset[Code] = frozenset(),
    prefixes: tuple[str, ...] = ROOT,
    is_for_all_pages: bool = False,
) -> Operation[AnyQuery, Nothing, A]:
    """A row of what is told to whoever asks, about the gateway itself and whatever its state, and counts nothing."""
    return Operation(
        method="GET",
        path=path,
        name=name,
        summary=summary,
        access=access,
        counts=Counts.NOTHING,
        query=AnyQuery,
        body=Nothing,
        answer=answer,
        handle=handle,
        statuses=statuses,
        media_types=media_types,
        refuses=refuses,
        prefixes=prefixes,
        is_always_answered=True,
        is_for_all_pages=is_for_all_pages,
    )


def endpoint_of(operation: AnyOperation, bounds: BodyBounds) -> ASGIApp:
    """What runs an operation, as an ASGI app; `bounds` are for its body."""
    return operation.endpoint or _Handling(operation, SIGNED if operation.access is Access.SIGNED else bounds)


_PRIVATE = ((b"cache-control", b"private"),)
"""Of what depends on who asks: a cache knows `Authorization`, but not the other headers that bring a key."""


class _Handling:
    """Reads what is asked as the row says, has it handled, and writes what comes of it."""

    def __init__(self, operation: AnyOperation, bounds: BodyBounds) -> None:
        assert operation.handle is not None
        self._handle = operation.handle
        self._query = operation.query
        self._body = operation.body
        self._bounds = bounds
        self._read, self._parse = (read_form_bytes, form_as) if operation.is_form else (read_json_bytes, parsed_as)
        self._status = operation.statuses[0]
        self._media_type = operation.media_types[0]
        self._is_reading = operation.method == "GET"
        is_the_caller_s = self._is_reading and operation.access is not Access.OPEN
        self._headers = _PRIVATE if is_the_caller_s else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CLIENT].is_cancelled_on_departure = self._is_reading  # what is only read, nobody needs any more
        query = read_query(scope, self._query)
        raw = b"" if self._body is Nothing else await self._read(scope, receive, self._bounds)
        told = await self._handle(Asked(scope, query, self._body_of(raw), raw))
        if isinstance(told, Streamed):
            return await send_streamed(scope, send, told, self._headers)
        if not isinstance(told, Answered):
            told = Answered(told)
        media_type = (told.media_type or self._media_type).encode()
        headers: Headers = [(b"content-type", media_type), *self._headers, *told.headers]
        await send_bytes(send, written(told.answer), headers, told.status or self._status)
        return None

    def _body_of(self, raw: bytes) -> Any:
        if self._body is Nothing:
            return Nothing()
        return raw if self._body is bytes else self._parse(raw, self._body)


async def send_streamed(scope: Scope, send: Send, told: Streamed, more: tuple[tuple[bytes, bytes], ...]) -> None:
    """To HEAD the head alone: nothing is read for what nobody is sent."""
    if scope["method"] == "HEAD":
        await _begin(send, told, more)
        await send({"type": "http.response.body", "body": b""})
    else:
        await _send_pieces(send, told, more)


async def _send_pieces(send: Send, told: Streamed, more: tuple[tuple[bytes, bytes], ...]) -> None:
    """The head goes out with the first piece: what fails before is told as a refusal, and what fails later cuts it."""
    has_begun = False
    async for piece in told.pieces:
        if not has_begun:
            await _begin(send, told, more)
            has_begun = True
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    if not has_begun:
        await _begin(send, told, more)
    await send({"type": "http.response.body", "body": b""})


async def _begin(send: Send, told: Streamed, more: tuple[tuple[bytes, bytes], ...]) -> None:
    headers = [(b"content-type", told.media_type.encode()), *more, *told.headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


def written(answer: BaseModel | bytes) -> bytes:
    """An answer as JSON, unless it is written already."""
    return answer if isinstance(answer, bytes) else answer.model_dump_json(exclude_unset=True).encode()
