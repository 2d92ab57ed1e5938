"""One server that answers: what it lists, how it is and how busy, and the few things that are ever asked of it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal, Protocol, TypeGuard

import orjson

from mcp_gateway.core.catalog import Listing
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import holds_at_most
from mcp_gateway.core.request import ChatRequest
from mcp_gateway.core.text import is_one_line
from mcp_gateway.core.upstream import vllm
from mcp_gateway.core.upstream.breaker import Breaker
from mcp_gateway.core.upstream.transport import (
    BadResponse,
    ConnectFailed,
    ConnectionDied,
    Keep,
    NoResources,
    ResponseTooLarge,
    TimedOut,
    UpstreamError,
)

logger = logging.getLogger(__name__)

Headers = Sequence[tuple[bytes, bytes]]
_JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
_BUSY_REST_S = 1.0
_MAX_LIST_BYTES = 4 * 1024 * 1024
_MAX_LIST_VALUES = 100_000
_MAX_MODELS = 2000
"""Of one server's list; it is read again and again, and every list of ours is made from it."""
_MAX_METRICS_BYTES = 4 * 1024 * 1024
_BEGINNING_BYTES = 64 * 1024
"""Of an answer whose status is all that counts, or whose fact stands first."""
_MAX_NAME_CHARS = 256
_MAX_CONTEXT_TOKENS = 16_000_000
"""Of what a server lists; more than any model has, and little enough to reckon with."""
FAULTS = frozenset({"backend_died", "backend_error", "connect_failed", "first_token_timeout"})
"""Codes of what is a backend's fault. Not a client that leaves, a refused request, a full queue or a full gateway."""
Status = Literal["up", "busy", "failing", "down"]


class Response(Protocol):
    """A backend's answer whose head is there; `close` aborts what was not read, at once."""

    status: int

    def header(self, name: bytes) -> bytes | None: ...
    async def read(self, keep: Keep | None = None) -> bytes | bytearray: ...
    async def next_chunk(self, timeout_s: float | None = None) -> bytes: ...
    def close(self) -> None: ...


class Origin(Protocol):
    """What speaks HTTP to a backend: the transport, or the demo in its place."""

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes = b"", *, is_stream: bool = False
    ) -> Response: ...
    async def aclose(self) -> None: ...


@dataclass(slots=True, eq=False)
class Backend:
    """A named origin, with the models that it listed last; `fault` says why it is not up (empty when it is).

    `fault` is what asking it found (active health), the `breaker` what became of requests (passive health). `queue` is
    what its gauges told, `sent_by_others` how many of those requests were not ours.
    """

    name: str
    origin: Origin
    api_key: str | None = field(default=None, repr=False)
    breaker: Breaker = field(default_factory=Breaker)
    now_s: Callable[[], float] = monotonic
    listings: dict[str, Listing] = field(default_factory=dict)
    is_probed: bool = False
    fault: str = "not asked yet"
    in_flight: int = 0
    queue: vllm.Gauges | None = None
    sent_by_others: int = 0
    busy_until_s: float = 0.0
    nameless: int = 0
    missing: set[str] = field(default_factory=set)
    """Models that it listed and yet did not have: what fails so quickly would look idle and draw ever more."""

    @property
    def is_up(self) -> bool:
        return not self.fault

    @property
    def is_serving(self) -> bool:
        """Whether it is up, and its requests succeed."""
        return not self.fault and self.breaker.is_closed

    @property
    def is_busy(self) -> bool:
        """Whether it has just said that its queue is full."""
        return self.now_s() < self.busy_until_s

    @property
    def load(self) -> int:
        """The requests that a new one would share it with; those that wait count twice: it has no place free."""
        there = self.in_flight + self.sent_by_others
        return there + (min(self.queue.waiting, there) if self.queue is not None else 0)

    @property
    def status(self) -> Status:
        if self.fault:
            return "down"
        if not self.breaker.is_closed:
            return "failing"
        return "busy" if self.is_busy else "up"

    @property
    def reason(self) -> str | None:
        """Why it is not simply up, in words that name no address."""
        return self.fault or self.breaker.reason or ("its queue is full" if self.is_busy else None)

    def can_take(self, backend_model: str) -> bool:
        """Whether a request for the model may be sent now, if only for want of a better place."""
        return not self.fault and backend_model in self.listings

    def is_sound_for(self, backend_model: str) -> bool:
        """Whether a request for the model may be expected to be served, or is due as a trial."""
        return self.breaker.lets_in and not self.is_busy and backend_model not in self.missing

    def enter(self, backend_model: str) -> "Attempt":
        """Count a request in; whoever does ends the attempt."""
        self.in_flight += 1
        return Attempt(self, backend_model, self.breaker.enter())

    async def chat(self, body: bytes, headers: Headers, *, is_stream: bool) -> Response:
        """Send a chat. Raises GatewayError for a failure to reach the backend or to get the head of an answer."""
        return await self._ask("POST", vllm.CHAT_PATH, body, headers, is_stream=is_stream)

    async def discover(self) -> None:
        """Ask /health and /v1/models again; afterwards `listings` and `fault` tell what was found."""
        try:
            status, _ = await self._get(vllm.HEALTH_PATH, _BEGINNING_BYTES)
            if status not in (200, 404):  # other servers than vLLM may have none
                raise GatewayError("backend_error", f"its /health answered {status}")
            rows = await _rows(*await self._get(vllm.MODELS_PATH, _MAX_LIST_BYTES))
        except GatewayError as error:
            if error.code == "overloaded":  # it was not asked
                self.fault = self.fault and error.message
            else:
                self.lost(error.message)
            return
        if self.fault:  # it has come back: what became of requests before says nothing any more
            self.breaker.reset()
        self._take(rows)
        self.fault, self.is_probed = "", True
        self.missing.clear()

    def _take(self, rows: list[Any]) -> None:
        """List the models of these rows; one line tells how many have no name, each time that this number changes."""
        named = [row for row in rows if isinstance(row, dict) and _is_name(row.get("id"))]
        self.listings = {row["id"]: _listing(row) for row in named[:_MAX_MODELS]}
        before, self.nameless = self.nameless, len(rows) - len(named)
        if self.nameless and self.nameless != before:
            logger.warning("backend %s lists %d models by no name that can be understood", self.name, self.nameless)

    async def read_queue(self) -> None:
        """Read the queue gauges again; None where there are none."""
        try:
            status, body = await self._get(vllm.METRICS_PATH, _MAX_METRICS_BYTES)
        except GatewayError:
            status, body = 0, b""
        queue = self.queue = vllm.read_gauges(body) if status == 200 else None
        self.sent_by_others = max(0, queue.running + queue.waiting - self.in_flight) if queue is not None else 0

    def lost(self, fault: str) -> None:
        """Count as down until discovery finds it again; what it listed is remembered."""
        self.fault, self.is_probed = fault, True
        self.queue, self.sent_by_others = None, 0

    async def count_prompt(self, request: ChatRequest, backend_model: str) -> int | None:
        """Tokens of a chat's prompt by the backend's own count; None where it cannot tell."""
        try:
            response = await self._ask("POST", vllm.TOKENIZE_PATH, vllm.tokenize_body(request, backend_model), ())
            body = await _read_and_close(response, _BEGINNING_BYTES)
        except (GatewayError, UpstreamError):
            return None
        return vllm.read_count(body) if response.status == 200 else None

    async def _ask(self, method: str, path: str, body: bytes, headers: Headers, *, is_stream: bool = False) -> Response:
        assert path in vllm.ALLOWED_PATHS
        sent = [_JSON, *headers]
        if self.api_key:
            sent.append((b"authorization", b"Bearer " + self.api_key.encode()))
        try:
            return await self.origin.request(method, path, sent, body, is_stream=is_stream)
        except UpstreamError as error:
            raise failure(error) from error

    async def _get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        """Status and the first `max_bytes` of the body. Raises GatewayError."""
        response = await self._ask("GET", path, b"", ())
        try:
            return response.status, await _read_and_close(response, max_bytes)
        except UpstreamError as error:
            raise failure(error) from error


@dataclass(slots=True, eq=False)
class Attempt:
    """One request at one backend, counted in by `Backend.enter` and ended once, with what it says of the backend."""

    backend: Backend
    backend_model: str
    number: int

    def began(self) -> None:
        """The first token came."""
        self.backend.breaker.proved(self.number)

    def end(self, error: GatewayError | None) -> None:
        """The answer came whole, or `error` ended it."""
        backend, breaker = self.backend, self.backend.breaker
        backend.in_flight -= 1
        if error is None:
            breaker.succeeded(self.number)
        elif error.code in FAULTS:
            breaker.failed(self.number, _reason(error), is_certain=isinstance(error, vllm.GoingDown))
        else:
            breaker.left(self.number)
        self._note(error)

    def _note(self, error: GatewayError | None) -> None:
        backend = self.backend
        match error.code if error is not None else None:
            case "connect_failed":
                backend.lost("no connection")
            case "backend_busy":
                backend.busy_until_s = backend.now_s() + _BUSY_REST_S
            case "model_unavailable":
                backend.missing.add(self.backend_model)


def _reason(error: GatewayError) -> str:
    if isinstance(error, vllm.GoingDown):
        return "it is shutting down"
    return f"its requests fail, the last with {error.code}"


async def read_beginning(response: Response, max_bytes: int) -> bytes:
    """The first bytes of a body; what lies beyond is not read."""
    pieces, left_bytes = [], max_bytes
    while left_bytes > 0 and (piece := await response.next_chunk()):
        pieces.append(piece[:left_bytes])
        left_bytes -= len(piece)
    return b"".join(pieces)


async def _read_and_close(response: Response, max_bytes: int) -> bytes:
    try:
        return await read_beginning(response, max_bytes)
    finally:
        response.close()


def failure(error: UpstreamError, *, has_started: bool = False) -> GatewayError:
    """A transport's error in the words of the error table: the one border between the two."""
    match error:
        case ConnectFailed() | TimedOut(which="connect"):
            return GatewayError("connect_failed", "The backend of this model cannot be reached.")
        case NoResources():
            return GatewayError("overloaded", "The gateway has no room for another connection to a backend now.")
        case TimedOut(which="first_token"):
            return GatewayError("first_token_timeout", "The backend brought no token in time.")
        case TimedOut():
            code = "backend_died" if has_started else "backend_error"
            return GatewayError(code, "The backend took too long to answer.")
        case ConnectionDied():
            return GatewayError("backend_died", "The backend's connection broke before the answer was whole.")
        case BadResponse() | ResponseTooLarge():
            return GatewayError("backend_error", "The backend's answer could not be understood.")
    return GatewayError("backend_error", "The backend failed.")


async def _rows(status: int, body: bytes) -> list[Any]:
    """The rows of a list of models, as they came. Raises GatewayError."""
    if status != 200:
        raise GatewayError("backend_error", f"its list of models answered {status}")
    if len(body) >= _MAX_LIST_BYTES or not await holds_at_most(body, _MAX_LIST_VALUES):
        raise GatewayError("backend_error", "its list of models is too long")
    try:
        rows = orjson.loads(body)["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        rows = None
    if not isinstance(rows, list):
        raise GatewayError("backend_error", "its list of models could not be understood")
    return rows


def _is_name(value: Any) -> TypeGuard[str]:
    """Whether it is text that can name something: short, in one line, without white space around it."""
    return (
        isinstance(value, str) and 0 < len(value) <= _MAX_NAME_CHARS and value == value.strip() and is_one_line(value)
    )


def _listing(row: dict[str, Any]) -> Listing:
    owner, length = row.get("owned_by"), row.get("max_model_len")
    is_length = isinstance(length, int) and not isinstance(length, bool) and 0 < length <= _MAX_CONTEXT_TOKENS
    return Listing(
        id=row["id"],
        owned_by=owner if _is_name(owner) else "vllm",
        created_at_s=0,  # vLLM writes the time of the call; a constant keeps lists the same
        max_model_len=length if is_length else None,
    )
