"""One server that answers: what it lists, how it is and how busy, and the few things that are ever asked of it."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, ClassVar, Literal, Protocol

import orjson

from mcp_gateway.core.blame import AnswerTooLarge, TooSlow
from mcp_gateway.core.dialects import vllm
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.tokens_vllm import read_count
from mcp_gateway.core.dialects.vllm_metrics import Gauges, read_counters, read_gauges
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.json_bounds import holds_at_most
from mcp_gateway.core.surfaces.surface import Headers
from mcp_gateway.core.token_counters import TokenCounters
from mcp_gateway.core.upstream.breaker import Breaker
from mcp_gateway.core.upstream.served_models import ServedModels
from mcp_gateway.core.upstream.transport import (
    BadResponse,
    BodyTooLarge,
    ConnectFailed,
    ConnectionDied,
    Keep,
    NoResources,
    Patience,
    ResponseTooLarge,
    TimedOut,
    UpstreamError,
)
from mcp_gateway.core.upstream.workload import Workload

logger = logging.getLogger(__name__)

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
_MAX_LIST_BYTES = 4 * 1024 * 1024
_MAX_LIST_VALUES = 100_000
_MAX_METRICS_BYTES = 4 * 1024 * 1024
_BEGINNING_BYTES = 64 * 1024
"""Of an answer whose status is all that counts, or whose fact stands first."""
COUNT_S = 5.0
"""A count of a prompt takes milliseconds, and an answer waits for it."""
_BUSY_REST_S = 1.0
"""How long one that said that it is full is left alone."""
_STUCK = "its engine makes no tokens while requests run"
Status = Literal["up", "busy", "failing", "down"]


class BackendResponse(Protocol):
    """A backend's answer whose head is there; `close` aborts what was not read, at once."""

    status: int

    def header(self, name: bytes) -> bytes | None: ...
    async def read(self, keep: Keep | None = None) -> bytes | bytearray: ...
    async def next_chunk(self) -> bytes: ...
    def close(self) -> None: ...
    def doubt(self) -> None: ...
    def discard(self) -> None: ...


class Origin(Protocol):
    """What speaks HTTP to a backend: the transport, or the demo in its place."""

    async def request(
        self,
        method: str,
        path: str,
        headers: Headers,
        body: bytes = b"",
        *,
        is_stream: bool = False,
        patience: Patience | None = None,
    ) -> BackendResponse: ...
    async def aclose(self) -> None: ...


@dataclass(slots=True, weakref_slot=True, eq=False)
class Backend:
    """A named origin, with its models and its workload; `fault` says why it is not up (empty when it is).

    `fault` is what asking it found (active health), the `breaker` what became of requests (passive health).
    """

    is_asked_how_it_is: ClassVar[bool] = True
    """Whether its health is read; otherwise nothing but its answers tells that it works."""
    paths: ClassVar[frozenset[str] | None] = vllm.ALLOWED_PATHS
    """Which alone it is asked by; None for any."""
    name: str
    origin: Origin
    own_headers: Headers = field(default=(), repr=False)
    """What it is sent of the operator's beside a body, such as a key."""
    breaker: Breaker = field(default_factory=Breaker)
    models: ServedModels = field(default_factory=ServedModels)
    work: Workload = field(default_factory=Workload)
    is_probed: bool = False
    fault: str = "it has not answered yet"
    gone_at_s: float | None = None
    """Since when it is down or stuck."""
    is_doubted: bool = False
    """Whether a request waits for longer than usual, so that how it is should be looked at soon."""
    counters: Mapping[str, TokenCounters] = field(default_factory=dict, repr=False)
    """Of tokens, by its names for its models, as they were read last."""
    failed_requests: int = 0
    """Of ours, that may have cost it tokens which nobody is billed for."""
    passed_headers: frozenset[bytes] | None = None
    """Names of a request's headers that it is sent; None for all."""

    @property
    def is_up(self) -> bool:
        return not self.fault

    @property
    def is_serving(self) -> bool:
        """Whether it is up, and its requests succeed."""
        return not self.fault and not self.work.is_stuck and self.breaker.is_closed

    @property
    def load(self) -> int:
        return self.work.load

    @property
    def status(self) -> Status:
        if self.fault:
            return "down"
        if not self.is_serving:
            return "failing"
        return "busy" if self.work.is_busy or self.work.has_queue else "up"

    @property
    def reason(self) -> str | None:
        """Why it is not simply up, in words that name no address."""
        if self.fault or self.work.is_stuck or self.breaker.reason:
            return self.fault or (_STUCK if self.work.is_stuck else self.breaker.reason)
        if self.work.is_busy:
            return "its queue is full"
        return "requests wait in its queue" if self.work.has_queue else None

    def can_take(self, backend_model: str) -> bool:
        """Whether a request for the model may be sent now, if only for want of a better place."""
        return not self.fault and backend_model in self.models.listings

    def is_sound_for(self, backend_model: str) -> bool:
        """Whether a request for the model may be expected to be served, or is due as a trial."""
        work = self.work
        has_room = self.breaker.lets_in and not work.is_busy and not work.is_stuck
        return has_room and backend_model not in self.models.missing

    def serves(self, backend_model: str) -> bool:
        """Whether it has the model and answers requests for it; a full queue is no hindrance."""
        return self.is_serving and self.can_take(backend_model) and backend_model not in self.models.missing

    def shows_work(self, since_s: float, *, still_s: float) -> bool | None:
        """Whether it works by its health and its gauges; None where it is well and no gauges were read since.

        It does where requests wait, or run and have brought tokens in the last `still_s`.
        """
        return False if self.gone_at_s is not None else self.work.shows(since_s, still_s=still_s)

    def infer(
        self, path: str, body: bytes, headers: Headers, *, is_stream: bool, patience: Patience | None = None
    ) -> Coroutine[Any, Any, BackendResponse]:
        """Send a request for inference. Awaited, it raises GatewayError where no head of an answer comes."""
        return self._ask("POST", path, body, headers, is_stream=is_stream, patience=patience)

    async def discover(self) -> None:
        """Ask /health and /v1/models again; afterwards `listings` and `fault` tell what was found."""
        try:
            status, _ = await _got(self, vllm.HEALTH_PATH, _BEGINNING_BYTES)
            if status not in (200, 404):  # other servers than vLLM may have none
                raise GatewayError("backend_error", f"its /health answered {status}")
            rows = await _rows(*await _got(self, vllm.MODELS_PATH, _MAX_LIST_BYTES))
        except GatewayError as error:
            if error.code == "overloaded":  # it was not asked
                self.fault = self.fault and error.message
            else:
                self.lost(error.message)
            return
        if self.fault:  # it has come back: what became of requests before says nothing any more
            self.breaker.reset()
            self.models.templates.clear()
        self.models.take(rows, self.name)
        self.fault, self.is_probed = "", True
        self._note_gone()

    async def read_metrics(self) -> None:
        """Read the queue gauges and the counters of tokens again; none where there is no page of them."""
        try:
            status, body = await _got(self, vllm.METRICS_PATH, _MAX_METRICS_BYTES)
        except GatewayError:
            status, body = 0, b""
        page = body if status == HTTPStatus.OK else b""
        self.note_gauges(read_gauges(page))
        self.counters = (
            read_counters(page) if len(page) < _MAX_METRICS_BYTES else {}
        )  # a page that is cut ends in a number

    def note_gauges(self, queue: Gauges | None) -> None:
        """Take gauges that were read now; None where there are none."""
        was_stuck = self.work.is_stuck
        self.work.note(queue)
        if self.work.is_stuck and not was_stuck:
            logger.warning("backend %s is stuck: %s", self.name, _STUCK)
        self._note_gone()

    def _note_gone(self) -> None:
        if not (self.fault or self.work.is_stuck):
            self.gone_at_s = None
        elif self.gone_at_s is None:
            self.gone_at_s = self.work.now_s()

    def lost(self, fault: str) -> None:
        """Count as down until discovery finds it again; what it listed is remembered."""
        self.fault, self.is_probed = fault, True
        self.work.forget()
        self._note_gone()

    def note_refusal(self, error: GatewayError, backend_model: str) -> None:
        """Take what an attempt failed with, for those that come after it."""
        match error.code:
            case "connect_failed":
                self.lost("no connection")
            case "backend_busy":
                self.work.busy_until_s = self.work.now_s() + _BUSY_REST_S
            case "model_unavailable":
                self.models.missing.add(backend_model)

    async def count_prompt(self, counting: Counting) -> int | None:
        """The tokens that it is asked to count; None where it cannot tell, or not in time."""
        try:
            async with asyncio.timeout(COUNT_S):
                return await self._count(counting)
        except (GatewayError, UpstreamError, TimeoutError):
            return None

    async def measure_templates(self) -> None:
        """Have it count the shortest chat of each model that is to be measured; where asking fails, the next time."""
        for name in self.models.unmeasured:
            with contextlib.suppress(GatewayError, UpstreamError):
                self.models.note_template(name, await self._count(vllm.shortest_chat(name)))

    async def _count(self, counting: Counting) -> int | None:
        """None from one that does not count. Raises GatewayError or UpstreamError where it cannot be asked now."""
        response = await self._ask("POST", counting.path, counting.body, counting.headers)
        answer = await _read_and_close(response, _BEGINNING_BYTES)
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise GatewayError("backend_error", f"its count of tokens answered {response.status}")
        return read_count(answer) if response.status == HTTPStatus.OK else None

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Headers,
        *,
        is_stream: bool = False,
        patience: Patience | None = None,
    ) -> BackendResponse:
        assert self.paths is None or path in self.paths
        passed = self.passed_headers
        sent = [JSON, *(headers if passed is None else [one for one in headers if one[0] in passed]), *self.own_headers]
        try:
            return await self.origin.request(method, path, sent, body, is_stream=is_stream, patience=patience)
        except UpstreamError as error:
            raise failure(error) from error


async def _got(backend: Backend, path: str, max_bytes: int) -> tuple[int, bytes]:
    """Status and the first `max_bytes` of the body. Raises GatewayError."""
    response = await backend._ask("GET", path, b"", ())
    try:
        return response.status, await _read_and_close(response, max_bytes)
    except UpstreamError as error:
        raise failure(error) from error


async def read_beginning(response: BackendResponse, max_bytes: int) -> bytes:
    """The first bytes of a body; what lies beyond is not read."""
    pieces, left_bytes = [], max_bytes
    while left_bytes > 0 and (piece := await response.next_chunk()):
        pieces.append(piece[:left_bytes])
        left_bytes -= len(piece)
    return b"".join(pieces)


async def _read_and_close(response: BackendResponse, max_bytes: int) -> bytes:
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
        case TimedOut(which="queue"):
            return GatewayError("backend_busy", "The request waited too long for a place; try again later.")
        case TimedOut(which="first_token"):
            return TooSlow("first_token_timeout", "The backend brought no token in time.")
        case TimedOut():
            code: Code = "backend_died" if has_started else "backend_error"
            return TooSlow(code, "The backend took too long to answer.")
        case ConnectionDied():
            return GatewayError("backend_died", "The backend's connection broke before the answer was whole.")
        case BodyTooLarge():
            return AnswerTooLarge()
        case BadResponse() | ResponseTooLarge():
            return GatewayError("backend_error", "The backend's answer could not be understood.")
    return GatewayError("backend_error", "The backend failed.")


async def _rows(status: int, body: bytes) -> list[Any]:
    """The rows of a list of models, as they came. Raises GatewayError."""
    if status != HTTPStatus.OK:
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
