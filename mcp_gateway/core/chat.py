"""The one path of a chat request, whichever door it came in by: admission, hold, backend, settlement, record."""

import asyncio
import logging
import time
from asyncio import CancelledError, sleep
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from math import ceil
from types import TracebackType
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.bytes_in_flight import SMALL_BYTES, STEP_BYTES
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import (
    FREE,
    Model,
    Price,
    Published,
    affordable_tokens,
    most_output_tokens,
    most_prompt_tokens,
    quote,
    quoted_prompt_tokens,
)
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import CallerLeft, RequestContext
from mcp_gateway.core.errors import Code, GatewayError, internal_error
from mcp_gateway.core.identity.keys import refusal
from mcp_gateway.core.ledger.ledger import Hold, Ledger, SettlementPending
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.limits.limiter import Limiter, Turn
from mcp_gateway.core.log_limit import LogLimit
from mcp_gateway.core.money import NANO_PER_USD, format_usd
from mcp_gateway.core.observe.activity import Activity
from mcp_gateway.core.observe.failures import Failures
from mcp_gateway.core.observe.metrics import Metrics
from mcp_gateway.core.observe.records import Records
from mcp_gateway.core.policy.images import ImagePolicy
from mcp_gateway.core.record import OK, Door, RequestRecord
from mcp_gateway.core.request import ChatRequest
from mcp_gateway.core.upstream import vllm
from mcp_gateway.core.upstream.answer import Body, read_answer, request_named, text_bytes, with_model, with_usage
from mcp_gateway.core.upstream.attempt import Attempt
from mcp_gateway.core.upstream.backend import FAULTS, Backend, Headers, Response, failure, read_beginning
from mcp_gateway.core.upstream.choice import prefix_of
from mcp_gateway.core.upstream.collected import can_carry
from mcp_gateway.core.upstream.collector import Collector
from mcp_gateway.core.upstream.credible import UsageBounds, read_finish_reason
from mcp_gateway.core.upstream.error_shapes import status_in
from mcp_gateway.core.upstream.frames import DONE, FrameRelay, Seen
from mcp_gateway.core.upstream.pool import Pool
from mcp_gateway.core.upstream.transport import UpstreamError
from mcp_gateway.core.upstream.usage import Usage
from mcp_gateway.core.upstream.vllm_fields import ChatFields

logger = logging.getLogger(__name__)

_CLIENT_CLOSED = GatewayError("client_closed", "The client left before the answer was whole.")
_UNBILLED = GatewayError("ledger_unavailable", "The answer's bill cannot be written now: it is not billed.")
"""These two are told of and never raised: an error that is kept would keep what its traceback holds."""
DEMO_MODEL = "demo/echo"
_NO_USAGE = Usage(0, 0)
_ROOM_ENOUGH_TOKENS = 4096
"""Left for an answer by the prompt's bytes: it is not worth a question how many tokens they are."""
_BYTES_PER_TOKEN = 3
"""For the estimate that tokens a minute are reserved by; the bill never rests on it."""


class Call(NamedTuple):
    """What a door says of a request beside its body. `trace_headers` are passed on to the backend.

    What the request keeps in memory is counted by its `context`. `collect_above_tokens` stands for the setting of that
    name, where a door has one of its own.
    """

    request_id: str
    door: Door
    client_request_id: str | None = None
    trace_headers: Headers = ()
    context: RequestContext | None = None
    collect_above_tokens: int | None = None


class Route(NamedTuple):
    """Where a request may go, the name that those backends know the model by, and what it costs."""

    backends: list[Backend]
    backend_model: str
    price: Price

    async def count_prompt(self, request: ChatRequest) -> int | None:
        """The prompt's tokens, asked once of one of them that serves; None where it cannot tell."""
        if request.counted_tokens is None:
            serving = (backend for backend in self.backends if backend.serves(self.backend_model))
            counting = next(serving, self.backends[0])
            request.counted_tokens = await counting.count_prompt(request, self.backend_model)
        return request.counted_tokens


class Chat:
    """What all chat requests share."""

    def __init__(
        self,
        *,
        settings: Settings,
        published: Published,
        pool: Pool,
        limiter: Limiter,
        ledger: Ledger,
        records: Records,
        images: ImagePolicy,
        fields: ChatFields,
        metrics: Metrics,
        failures: Failures,
        activity: Activity,
        lifecycle: Lifecycle,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.published = published
        self.pool = pool
        self.limiter = limiter
        self.ledger = ledger
        self.records = records
        self.images = images
        self.fields = fields
        self.metrics = metrics
        self.failures = failures
        self.activity = activity
        self.lifecycle = lifecycle
        self.now_s = now_s
        self.monotonic_s = monotonic_s
        self.usage_logs = defaultdict[str, LogLimit](lambda: LogLimit(logger, monotonic_s))
        """By backend: what its usage lacks."""
        self.running: set[Exchange] = set()

    def close_key(self, key_id: str, error: GatewayError) -> None:
        """End the answers that still run for a key, which is not valid any more."""
        for exchange in [exchange for exchange in self.running if exchange.key_id == key_id]:
            exchange.end_with(error.code)

    def check(self, caller: Caller) -> None:
        """Raise what entering an exchange would now, and count nothing: before a body is read for it."""
        self.limiter.check(caller)

    def exchange(self, caller: Caller, call: Call) -> "Exchange":
        """A request to come. Entering it counts it against the caller's limits, or raises GatewayError."""
        return Exchange(self, caller, call)


class Exchange:
    """One chat request from admission to settlement: a context manager that cannot be left halfway.

    After `begin` either `body` holds the whole answer, already settled, or `frames` yields the stream, which is settled
    before its last frame. Leaving early, by whatever exception, closes the backend's connection before anything else
    and settles what was used or voids the hold.
    """

    body: Body = b""
    cost_nano = 0
    clamped_to: int | None = None
    _request: ChatRequest | None = None
    _model: Model | None = None
    _price = FREE
    _route: Route | None = None
    _backend: Backend | None = None
    _response: Response | None = None
    _relay: FrameRelay | None = None
    _collector: Collector | None = None
    _note: Callable[[], None] | None = None
    _first = b""
    _first_token_s: float | None = None
    _attempt: Attempt | None = None
    _is_hold_asked = False
    _hold: Hold | None = None
    _usage: Usage | None = None
    _finish_reason: str | None = None
    _unbilled_tokens = 0
    _bounds: UsageBounds | None = None
    _policy: str | None = None
    _is_reported = True
    _is_accounted = False
    _is_bill_pending = False
    _status = OK
    _kept_bytes = 0
    _beginning: asyncio.Task[Any] | None = None
    _ended_by: Code | None = None
    _turn: Turn

    def __init__(self, chat: Chat, caller: Caller, call: Call) -> None:
        self._chat = chat
        self._caller = caller
        self._call = call
        self._started_at_s = chat.now_s()
        self._clock_start_s = chat.monotonic_s()

    # The three calls of a door

    def __enter__(self) -> "Exchange":
        if (code := self._caller.validity.ended_by) is not None:  # since the request's head was read
            raise refusal(code)
        self._turn = self._chat.limiter.admit(self._caller)
        self._chat.lifecycle.enter()
        self._chat.running.add(self)
        return self

    async def begin(self, request: ChatRequest, note: Callable[[], None] | None = None) -> None:
        """Decide, hold, and ask the backend. Raises GatewayError for a refusal or when no backend answers.

        `note` is called whenever an answer that is collected has grown.
        """
        if self._ended_by is not None:
            raise refusal(self._ended_by)
        self._beginning = asyncio.current_task()
        self._note = note
        try:
            self._request = request
            model = self._model = self._chat.published.current.find(request.model)
            request.ignored = self._chat.fields.sift(request.body)
            self._check(request, model)
            if request.images:
                await self._chat.images.check(request.images, model_sees="image" in model.input_modalities)
            route = self._route = self._find_route(model)
            self._price = route.price
            is_open_ended = request.max_tokens is None
            await self._cap(request, model, route)
            self._turn.reserve_tokens(self._estimate(request, model, is_open_ended=is_open_ended))
            if model.is_window_narrowed:
                await self._check_window(request, model, route)
            await self._place_hold(request, model, route)
            await self._ask_in_turn(request, model, route)
            if self._relay is None or self._relay.tells_usage:
                request.forget_body()  # else its prompt may have to be counted in the end
        except CancelledError as cancelled:
            raise self._cause_of(cancelled) from None
        finally:
            self._beginning = None

    def end_with(self, code: Code) -> None:
        """End the answer, since its key is refused with `code` from now on; one that is accounted for stays as it is.

        While it begins, its task is woken, and `begin` raises that refusal. A stream's backend is hung up on at once,
        which wakes who waits for it, and the next frames tell the refusal.
        """
        if self._is_accounted or self._ended_by is not None:
            return
        self._ended_by = code
        if self._beginning is not None:
            self._beginning.cancel()
        elif self._response is not None:
            self._response.close()

    async def next_frames(self) -> bytes:
        """Whole frames for the client, the last ones after the settlement; b"" after that.

        A failure on the way becomes an error frame. What came together with the end leaves with it, in one write.
        """
        if self._is_accounted:
            return b""
        relay = self._relay
        assert relay is not None
        frames = b""
        try:
            frames = await self._next_relayed(relay)
            if frames and not relay.is_done:
                return frames
            self._check_end(relay)
        except GatewayError as error:
            return frames + await self.frames_of(error)
        await self._account(self._credible(relay.usage) or await self._assume(relay.seen))
        cost_usd = format_usd(self.cost_nano)
        note = b": the bill of %b USD is written as soon as it can be\n\n" % cost_usd.encode()
        return b"".join((frames, relay.end(cost_usd, self._usage), note if self._is_bill_pending else b"", DONE))

    async def frames_of(self, error: GatewayError) -> bytes:
        """The end of a stream by a failure, accounted for: also of one that failed to begin after its head was sent.

        What came before it and was held back is delivered, as it is billed.
        """
        self._blame(error)
        await self._account_for_part(error)
        relay = self._relay
        held = relay.end(format_usd(self.cost_nano), self._usage) if relay is not None else b""
        return held + error_frame(error, self._call.request_id, self._public_name) + DONE

    async def frames(self) -> AsyncIterator[bytes]:
        """All of `next_frames`, for whoever reads them in a loop."""
        while frames := await self.next_frames():
            yield frames

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go(None if self._is_accounted and self._status == OK else _CLIENT_CLOSED)
        if not self._is_accounted:
            self._account_for_leaving(error)
        self._keep_nothing()
        self._turn.release()
        self._chat.lifecycle.leave()
        self._chat.running.discard(self)

    async def keep(self, size_bytes: int) -> None:
        """Have room for so many bytes of the answer in all, taken in steps, until the exchange is left.

        Raises GatewayError: `overloaded`, or for more than an answer may have that is held whole.
        """
        if size_bytes <= max(self._kept_bytes, SMALL_BYTES) or self._call.context is None:
            return
        if size_bytes > self._chat.settings.upstream.max_response_bytes:
            raise vllm.AnswerTooLarge
        wanted_bytes = ceil(size_bytes / STEP_BYTES) * STEP_BYTES
        await self._call.context.reservation.grow(wanted_bytes - self._kept_bytes)
        self._kept_bytes = wanted_bytes

    def _keep_nothing(self) -> None:
        if self._kept_bytes and self._call.context is not None:
            self._call.context.reservation.shrink(self._kept_bytes)
            self._kept_bytes = 0

    # What a door may tell its caller

    @property
    def key_id(self) -> str | None:
        return self._caller.key_id

    @property
    def is_stream(self) -> bool:
        return self._relay is not None

    @property
    def usage(self) -> Usage | None:
        return self._usage

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names in the request that were not sent on."""
        return self._request.ignored if self._request is not None else ()

    @property
    def latest_words(self) -> str:
        """The end of what has come of an answer that is collected."""
        return "" if self._collector is None else self._collector.latest_words

    @property
    def finish_reason(self) -> str | None:
        return self._finish_reason

    @property
    def _public_name(self) -> str:
        return self._model.id if self._model is not None else ""

    @property
    def _end(self) -> GatewayError | None:
        """The refusal that the answer was ended with."""
        return None if self._ended_by is None else refusal(self._ended_by)

    def _cause_of(self, cancelled: CancelledError) -> BaseException:
        """Why the task was cancelled: by `end_with`, or (as well) since the client has left."""
        end, task = self._end, self._beginning
        return cancelled if end is None or (task is not None and task.uncancel()) else end

    # Deciding

    def _check(self, request: ChatRequest, model: Model) -> None:
        limits = self._chat.settings.limits
        if self._caller.is_guest and not model.is_open_to_guests:
            raise GatewayError("guests_not_allowed", f"{model.id!r} needs an API key.", param="model")
        most = 1 if self._caller.is_guest else limits.max_choices
        if request.choices > most:
            raise GatewayError("invalid_value", f"`n` must be at most {most}, not {request.choices}.", param="n")

    def _find_route(self, model: Model) -> Route:
        if self._caller.is_test:
            demo = self._chat.pool.demo
            name = model.backend_model if model.backend_model in demo.listings else DEMO_MODEL
            return Route([demo], name, FREE)
        backends = self._chat.pool.candidates(model.backend_model)
        if not backends:
            raise _unavailable(model)
        return Route(backends, model.backend_model, FREE if self._caller.is_guest else model.price)

    async def _cap(self, request: ChatRequest, model: Model, route: Route) -> None:
        """Bound the answer by the caller's, the guests' and the model's limit; name none where no limit needs it."""
        limit = model.max_output_tokens
        listing = route.backends[0].listings.get(route.backend_model)
        if listing is not None and listing.max_model_len is not None:
            limit = min(limit, listing.max_model_len)  # the demo's, for a test key
        if self._caller.is_guest:
            limit = min(limit, self._chat.settings.guests.max_tokens)
        is_asked = request.max_tokens is not None
        if is_asked:
            if request.cap_output(limit):
                self.clamped_to = limit
        elif self._caller.is_guest or model.is_output_capped:
            request.cap_output(await self._fitting(limit, request, model, route))
        else:
            request.cap_output(limit, is_added=False)
        if not request.is_stream:
            self._bound_size(request, model, is_asked=is_asked)

    async def _fitting(self, limit: int, request: ChatRequest, model: Model, route: Route) -> int:
        """As much of a limit that the caller did not name as the window has room for beside the prompt.

        The prompt is its bytes where those leave enough, and else counted: vLLM before 0.32 refuses what does not fit.
        """
        if not model.is_window_known:
            return limit
        room = model.context_window - most_prompt_tokens(request, model, self._chat.settings.wallet)
        if room < min(limit, _ROOM_ENOUGH_TOKENS):
            count = await route.count_prompt(request)
            room = limit if count is None else model.context_window - count
        return max(1, min(limit, room))

    async def _check_window(self, request: ChatRequest, model: Model, route: Route) -> None:
        """Refuse a prompt above the window of the model, which a backend would take; it is counted where it may be."""
        if most_prompt_tokens(request, model, self._chat.settings.wallet) <= model.context_window:
            return
        count = await route.count_prompt(request)
        if count is not None and count > model.context_window:
            message = f"The prompt has {count} tokens; the context window of {model.id!r} is {model.context_window}."
            raise GatewayError("context_length_exceeded", message, param="messages")

    def _bound_size(self, request: ChatRequest, model: Model, *, is_asked: bool) -> None:
        """Have an answer in one piece stay below what is held of one."""
        most_bytes = self._chat.settings.upstream.max_response_bytes
        most_tokens = max(1, most_bytes // request.bytes_per_token)
        if (request.max_tokens or model.max_output_tokens) <= most_tokens:
            return
        if is_asked:
            raise _too_much(request, most_tokens)
        request.cap_output(most_tokens)

    def _estimate(self, request: ChatRequest, model: Model, *, is_open_ended: bool) -> int:
        output = request.max_tokens or model.max_output_tokens
        if is_open_ended:
            output = min(output, self._chat.settings.limits.assumed_output_tokens)
        return self._estimated_prompt(request, model) + output * request.choices

    def _estimated_prompt(self, request: ChatRequest, model: Model) -> int:
        image_tokens = self._chat.settings.wallet.max_image_tokens * len(request.images)
        return min(request.text_bytes // _BYTES_PER_TOKEN + image_tokens, model.context_window)

    async def _place_hold(self, request: ChatRequest, model: Model, route: Route) -> None:
        worst = quote(model, self._price, request, self._chat.settings.wallet)
        if worst.is_free:
            return
        self._is_hold_asked = True
        hold = self._hold = await self._chat.ledger.hold(
            self._call.request_id, self._caller.account_id, worst.minimum_nano, worst.maximum_nano
        )
        if hold.amount_nano < worst.maximum_nano:
            limit = affordable_tokens(hold.amount_nano, worst, self._price, request.choices)
            if request.max_tokens is None:
                limit = await self._fitting(min(limit, model.max_output_tokens), request, model, route)
            request.cap_output(limit)
            self.clamped_to = limit

    # Asking

    async def _ask_in_turn(self, request: ChatRequest, model: Model, route: Route) -> None:
        """Ask one backend after the other until one begins to answer; the hold is the same for all."""
        if request.is_long:
            await sleep(0)  # for others, between reading it and writing it
        is_collected = self._is_collected(request, model)
        is_stream = request.is_stream or is_collected
        body = vllm.chat_body(request, route.backend_model, self._caller.account_id, is_stream=is_stream)
        headers = ((b"x-request-id", self._call.request_id.encode()), *self._call.trace_headers)
        prefix = prefix_of(request, self._caller.account_id) if len(route.backends) > 1 else b""
        request.put_away(body)
        failures: dict[Backend, str] = {}
        is_fitted = False
        backend = self._chat.pool.next_backend(route.backends, route.backend_model, prefix, failures)
        while backend is not None:
            try:
                return await self._ask(backend, body, headers, request, model, is_collected=is_collected)
            except GatewayError as error:
                is_only_slow = self._attempt is not None and self._attempt.is_only_slow(error)
                self._let_go(error)
                self._collector = self._policy = None  # nothing of it was delivered
                self._is_reported = True
                if self._is_accounted or error.code == "overloaded" or isinstance(error, vllm.AnswerTooLarge):
                    raise  # the answer was there: what failed is the ledger, or the room for it
                if not is_fitted and await self._fits_after(error, backend, request, model):
                    is_fitted = True
                    body = vllm.chat_body(request, route.backend_model, self._caller.account_id, is_stream=is_stream)
                    request.put_away(body)
                    continue
                self._chat.failures.note(backend.name, error)
                if is_only_slow:
                    raise  # elsewhere it would be as slow, and computed twice
                failures[backend] = error.code
                backend = self._chat.pool.next_backend(route.backends, route.backend_model, prefix, failures)
                if backend is None:
                    raise
        raise _unavailable(model)

    async def _fits_after(self, error: GatewayError, backend: Backend, request: ChatRequest, model: Model) -> bool:
        """Whether a request that a backend refused, since prompt and limit exceed its window, fits now.

        A limit that only stood for the window is left out; one that caps is lowered to what the window leaves.
        """
        limit, window = request.max_tokens, vllm.window_told(error)
        if error.code != "context_length_exceeded" or limit is None or window is None:
            return False
        request.take_out()
        if limit >= model.context_window and not model.is_output_capped:
            request.uncap_output()
            return True
        prompt = vllm.prompt_told(error)
        if prompt is None and self._route is not None:
            prompt = await backend.count_prompt(request, self._route.backend_model)
        if prompt is None or not 0 < window - prompt < limit:
            return False
        request.cap_output(window - prompt)
        self.clamped_to = window - prompt
        return True

    def _is_collected(self, request: ChatRequest, model: Model) -> bool:
        """Whether an answer in one piece is asked for as a stream: what is made is seen, and who leaves pays for it."""
        if request.is_stream:
            return False
        most_tokens = self._call.collect_above_tokens
        if most_tokens is None:
            most_tokens = self._chat.settings.upstream.collect_above_tokens
        is_long = 0 <= most_tokens < (request.max_tokens or model.max_output_tokens)
        return is_long and can_carry(request.body)

    async def _ask(
        self,
        backend: Backend,
        body: bytes,
        headers: Headers,
        request: ChatRequest,
        model: Model,
        *,
        is_collected: bool,
    ) -> None:
        self._backend = backend
        is_stream = request.is_stream or is_collected
        attempt = self._attempt = Attempt(
            backend,
            self._route.backend_model if self._route else "",
            self._chat.settings.upstream,
            self._estimated_prompt(request, model),
            is_stream=is_stream,
        )
        try:
            response = self._response = await backend.chat(body, headers, is_stream=is_stream, patience=attempt)
            if response.status != OK:
                name = self._route.backend_model if self._route else ""
                told = await read_beginning(response, vllm.MAX_REFUSAL_BYTES)
                raise vllm.error_of(response.status, told, name, model.id, response.header(b"retry-after"))
            if request.is_stream:
                await self._begin_stream(response, attempt, request, model)
                attempt.began()
            elif is_collected and not _is_json(response):
                await self._collect(response, request, model, attempt)
            else:
                await self._take_whole(response, model)
        except UpstreamError as error:
            raise failure(error) from error

    async def _take_whole(self, response: Response, model: Model) -> None:
        body = await response.read(self.keep)
        if len(body) > SMALL_BYTES:
            await self.keep(len(body))
        self._check_is_ours(body, response)
        told = await read_answer(body)
        self._finish_reason = told.finish_reason
        if told.finish_reason == "abort":
            raise vllm.GoingDown
        self.body = body if told.model_at is None else with_model(body, told.model_at, model.id)
        usage = self._credible(told.usage)
        if usage is None:
            usage = await self._assume(Seen(None, ceil(await text_bytes(self.body) / _BYTES_PER_TOKEN)))
        if not (told.is_usage_exact and usage is told.usage):
            self.body = await with_usage(self.body, usage)
        await self._account(usage)

    async def _begin_stream(self, response: Response, attempt: Attempt, request: ChatRequest, model: Model) -> None:
        """Wait for the first frame: until then a failure can still be an HTTP status, or go to another backend."""
        self._bounds = self._usage_bounds(attempt.backend, request)
        relay = FrameRelay(
            model.id,
            wants_usage=request.wants_usage,
            wants_continuous_usage=request.wants_continuous_usage,
            choices=request.choices,
            bounds=self._bounds,
        )
        self._first = await self._first_frames(response, relay, attempt)
        self._relay = relay
        self._keep_nothing()  # of a first frame that came in pieces

    async def _first_frames(self, response: Response, relay: FrameRelay | Collector, attempt: Attempt) -> bytes:
        """Wait for the first frame."""
        frames = b""
        while not relay.has_started:
            piece = await response.next_chunk()
            frames = relay.feed(piece) if piece else relay.feed_end()
            if not frames:
                attempt.commented()
                await self.keep(relay.held_bytes)
            if relay.error is not None and not relay.has_told(frames):
                raise self._told(relay.error)
            if not relay.has_started and (relay.is_done or not piece):
                raise GatewayError("backend_died", "The backend ended the stream before its first token.")
        self._check_is_ours(relay.first_frame, response)
        self._first_token_s = self._chat.monotonic_s() - self._clock_start_s
        return frames

    async def _collect(self, response: Response, request: ChatRequest, model: Model, attempt: Attempt) -> None:
        """Put a stream together to the answer in one piece; at its largest it is cut, and delivered so."""
        most_bytes = self._chat.settings.upstream.max_response_bytes
        collector = self._collector = Collector(model.id, choices=request.choices, max_bytes=most_bytes)
        await self._first_frames(response, collector, attempt)
        attempt.began()
        await self._keep_collected(collector)
        while not collector.is_done and (piece := await response.next_chunk()):
            collector.feed(piece)
            piece = b""  # which may be long, and is not kept while the next is waited for
            await self._keep_collected(collector)
        collector.feed_end()
        if collector.is_full:
            response.close()  # what is made further is for nobody
        elif not collector.is_whole:
            raise self._cut(collector)
        self._finish_reason = read_finish_reason(collector.finish_reason)
        usage = self._credible(collector.usage) or await self._assume(collector.seen)
        self.body, self._collector = collector.body(usage), None
        await self._account(usage)

    async def _keep_collected(self, collector: Collector) -> None:
        """Have room for what has come, and tell who watches."""
        if (size_bytes := collector.held_bytes) > SMALL_BYTES:
            await self.keep(min(size_bytes, self._chat.settings.upstream.max_response_bytes))
        if self._note is not None:
            self._note()

    def _check_is_ours(self, beginning: Body, response: Response) -> None:
        """Raise GatewayError `backend_error` for the answer to another request, and close its connection.

        A server may have an id of its own for it, or tell in a header which it gave the request: those pass. Nothing
        but the time in which it came then tells that the answer was to this one.
        """
        named = request_named(beginning)
        if named == self._call.request_id.encode():
            return
        if named is not None and named != response.header(b"x-request-id"):
            response.discard()
            raise GatewayError("backend_error", "The backend answered another request.")
        response.doubt()

    async def _next_relayed(self, relay: FrameRelay) -> bytes:
        """The next frames of the answer itself; b"" when it has ended."""
        frames, self._first = self._first, b""
        response = self._response
        assert response is not None
        try:
            while not frames and not relay.is_done:
                piece = await response.next_chunk()
                if not piece:
                    return relay.feed_end()
                frames = relay.feed(piece)
                if not frames:
                    await self.keep(relay.held_bytes)
        except UpstreamError as error:
            if self._end is not None:
                raise self._end from error
            if not relay.is_whole:
                raise failure(error, has_started=True) from error
            self._blame(failure(error, has_started=True))
        return frames

    def _check_end(self, relay: FrameRelay) -> None:
        """Raise what kept the answer from being whole; of one that is whole, a failure is told to the breaker alone."""
        if not relay.is_whole:
            raise self._end or self._cut(relay)
        if relay.error is not None:
            self._blame(self._told(relay.error))

    def _cut(self, source: FrameRelay | Collector) -> GatewayError:
        """What kept an answer from being whole."""
        if source.error is not None:
            return self._told(source.error)
        return GatewayError("backend_died", "The backend ended the stream in the middle of the answer.")

    def _told(self, error: dict[str, Any]) -> GatewayError:
        """The error that a backend told in a frame."""
        name = self._route.backend_model if self._route else ""
        return vllm.error_told(status_in(error), vllm.told_by(error), name, self._public_name)

    # Accounting

    async def _account(self, usage: Usage | None, status: int = 200, error_code: Code | None = None) -> None:
        """Settle what was used, or void; record it either way. Once: later calls are a bug.

        Raises GatewayError `ledger_unavailable` where the answer is refused, since its bill cannot be written; nothing
        is billed then.
        """
        self._is_accounted = True
        self._status = status
        if self._relay is not None:
            self._finish_reason = self._relay.finish_reason
        self._usage = usage
        self._turn.true_up((usage or _NO_USAGE).total_tokens or self._unbilled_tokens)
        if usage is not None:
            self.cost_nano = self._price.cost_nano(usage.prompt_tokens, usage.completion_tokens)
        record = self._record(error_code)
        if self._policy is not None:
            self._chat.records.note_missing_usage(record, self._policy)
        try:
            await self._bill(record)
        except GatewayError as refusal:
            record = record._replace(http_status=refusal.status, error_code=refusal.code)
            raise
        except CancelledError:
            record = self._note_departure(record)
            raise
        finally:  # what is counted is what the caller is told, so only once that is known
            duration_s = self._chat.monotonic_s() - self._clock_start_s
            self._chat.metrics.request_ended(record, duration_s, self._first_token_s)
            self._chat.activity.note(record)

    def _note_departure(self, record: RequestRecord) -> RequestRecord:
        """Have recorded that the client left before it was told the whole; what was made is billed all the same."""
        if record.http_status != OK:
            return record
        record = record._replace(http_status=_CLIENT_CLOSED.status, error_code=_CLIENT_CLOSED.code)
        self._chat.ledger.note_departure(record)
        return record

    def _credible(self, usage: Usage | None) -> Usage | None:
        """A usage that the backend told, if any; None, and told ourselves, where it cannot have been so much."""
        backend, request = self._backend, self._request
        assert backend is not None
        assert request is not None
        if usage is None or (self._bounds or self._usage_bounds(backend, request)).allow(usage):
            return usage
        self._chat.metrics.usage_invalid.labels(backend.name).inc()
        self._chat.usage_logs[backend.name].warning("backend %s tells a usage that cannot be", backend.name)
        return None

    def _usage_bounds(self, backend: Backend, request: ChatRequest) -> UsageBounds:
        """An answer has at most what was asked for, for each choice; where nothing was sent, what the window holds."""
        window_tokens = self._window_tokens(backend)
        return UsageBounds(window_tokens, (request.max_tokens or window_tokens) * request.choices)

    async def _assume(self, seen: Seen, error: GatewayError | None = None) -> Usage:
        """The usage that is billed where the backend told none to believe, by the policy for that.

        Never more than the hold is for. A policy that bills the whole hold still estimates what a failure broke off.
        """
        request, model, backend, wallet = self._request, self._model, self._backend, self._chat.settings.wallet
        assert request is not None
        assert model is not None
        assert backend is not None
        policy = wallet.usage_missing
        if policy == "hold" and (self._hold is None or error not in (None, _CLIENT_CLOSED)):
            policy = "estimate"
        most = Usage(quoted_prompt_tokens(request, model, wallet), most_output_tokens(request, model))
        usage = most
        if policy == "estimate":
            prompt_tokens = seen.prompt_tokens or await self._count_prompt() or self._estimated_prompt(request, model)
            usage = Usage(min(prompt_tokens, most.prompt_tokens), min(seen.output_tokens, most.completion_tokens))
        elif policy == "free":
            self._unbilled_tokens = self._estimated_prompt(request, model) + seen.output_tokens
            usage = _NO_USAGE
        self._policy, self._is_reported = policy, False
        self._chat.metrics.usage_missing.labels(backend.name).inc()
        problem = "backend %s tells no usage that can be: wallet.usage_missing says what is billed"
        self._chat.usage_logs[backend.name].warning(problem, backend.name)
        return usage

    async def _count_prompt(self) -> int | None:
        """The prompt's tokens by the backend's own count; None where it cannot tell, or tells what cannot be."""
        backend, request, route = self._backend, self._request, self._route
        assert backend is not None
        assert request is not None
        assert route is not None
        request.take_out()
        if not request.body:
            return None
        count = await backend.count_prompt(request, route.backend_model)
        return count if count is not None and self._credible(Usage(count, 0)) is not None else None

    def _window_tokens(self, backend: Backend) -> int:
        """The larger of the windows that the settings and the backend tell, or told when the request came."""
        model, route = self._model, self._route
        assert model is not None
        listing = backend.listings.get(route.backend_model) if route is not None else None
        listed = listing.max_model_len if listing is not None else None
        return max(model.configured_window, listed or 0) or model.widest_window

    async def _bill(self, record: RequestRecord) -> None:
        """Charge `cost_nano`, which is afterwards what was charged. Raises GatewayError `ledger_unavailable`."""
        hold, ledger = self._hold, self._chat.ledger
        if hold is not None and self.cost_nano:
            try:
                charged_nano = await ledger.settle(hold, self.cost_nano, record, may_exceed=self._is_reported)
            except SettlementPending as pending:
                self._keep_or_refuse(pending, record)
            else:
                self._note_loss(hold, self.cost_nano - charged_nano)
                self.cost_nano = charged_nano
        elif self._is_hold_asked:  # given, refused, or left while it was decided
            with suppress(GatewayError):  # it catches up; what the caller is told does not depend on it
                await ledger.void(self._call.request_id, record)
        else:
            self._chat.records.add(record)

    def _keep_or_refuse(self, pending: SettlementPending, record: RequestRecord) -> None:
        """What was delivered is billed in the end; an answer that was not is refused, and not billed."""
        if self._relay is not None or self._status != OK:
            self._is_bill_pending = True
            return
        self.body, self.cost_nano, self._status = b"", 0, _UNBILLED.status
        refused = record._replace(cost_nano=0, http_status=_UNBILLED.status, error_code=_UNBILLED.code)
        self._chat.ledger.take_back(pending, refused)
        raise GatewayError(_UNBILLED.code, _UNBILLED.message)

    def _note_loss(self, hold: Hold, unpaid_nano: int) -> None:
        """Tell of a cost that neither the hold nor the rest of the wallet covered."""
        if unpaid_nano > 0:
            self._chat.metrics.unpaid_usd.labels(self._public_name).inc(unpaid_nano / NANO_PER_USD)
            logger.warning("request %s cost %s USD more than its account has", hold.request_id, format_usd(unpaid_nano))

    async def _account_for_failure(self, usage: Usage | None, error: GatewayError) -> None:
        """Account for what was used until an error."""
        await self._account(usage, error.status, error.code)

    async def _account_for_part(self, error: GatewayError) -> None:
        """Account for what had come of a stream, or of an answer that is collected, until an error."""
        source, usage = self._relay or self._collector, None
        if source is not None:
            usage = self._credible(source.usage) or await self._assume(source.seen, error)
        await self._account_for_failure(usage, error)

    def _account_for_leaving(self, error: BaseException | None) -> None:
        """Account for a request that ends without its answer: refused, failed, or left by its caller."""
        spawn = self._chat.lifecycle.spawn
        if error is not None and not isinstance(error, CancelledError | GeneratorExit | CallerLeft):
            told = error if isinstance(error, GatewayError) else internal_error(self._call.request_id)
            spawn(self._account_for_failure(None, told))
        elif self._relay is not None or (self._collector is not None and self._collector.has_any):
            spawn(self._account_for_part(_CLIENT_CLOSED))
        else:
            spawn(self._account_for_prompt())

    async def _account_for_prompt(self) -> None:
        """A backend that was asked has read the prompt: who left before its answer pays that, by its own count.

        Where it cannot count, nothing is billed; the estimate stays counted against tokens a minute, as it does where
        nothing has a price.
        """
        usage = None
        if self._backend is not None and self._request is not None and self._model is not None:
            self._unbilled_tokens = self._estimated_prompt(self._request, self._model)
            if self._hold is not None and (count := await self._count_prompt()) is not None:
                usage, self._is_reported = Usage(count, 0), False
        await self._account_for_failure(usage, _CLIENT_CLOSED)

    def _record(self, error_code: Code | None) -> RequestRecord:
        call, caller, usage = self._call, self._caller, self._usage or _NO_USAGE
        return RequestRecord(
            id=call.request_id,
            client_request_id=call.client_request_id,
            account_id=caller.account_id,
            key_id=caller.key_id,
            door=call.door,
            model=None if self._model is None else self._model.id,
            backend=None if self._backend is None else self._backend.name,
            is_stream=self._request is not None and self._request.is_stream,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            cost_nano=self.cost_nano,
            price_version=self._price.version,
            started_at_ms=int(self._started_at_s * 1000),
            latency_ms=int((self._chat.monotonic_s() - self._clock_start_s) * 1000),
            first_token_ms=None if self._first_token_s is None else int(self._first_token_s * 1000),
            http_status=self._status,
            error_code=error_code,
            finish_reason=self._finish_reason,
        )

    def _blame(self, error: GatewayError) -> None:
        """Let go of a backend whose answer had begun; its failure is counted as that of an attempt."""
        if self._attempt is not None and error.code in FAULTS:
            self._chat.failures.note(self._attempt.backend.name, error)
        self._let_go(error)

    def _let_go(self, error: GatewayError | None) -> None:
        """Close the backend's connection (at once, where its answer was not read whole); tell how the attempt ended."""
        if self._response is not None:
            self._response.close()
            self._response = None
        if self._attempt is not None:
            self._attempt.end(error)
            self._attempt = None


def _unavailable(model: Model) -> GatewayError:
    return GatewayError("model_unavailable", f"No backend that is up has {model.id!r} at the moment.")


def _too_much(request: ChatRequest, most_tokens: int) -> GatewayError:
    param = "top_logprobs" if request.top_logprobs else "n" if request.choices > 1 else "max_tokens"
    rest = "" if param == "max_tokens" else f", or lower `{param}`"
    problem = f"An answer this long is not held whole: ask for at most {most_tokens} `max_tokens`{rest}, or stream it."
    return GatewayError("invalid_value", problem, param=param)


def _is_json(response: Response) -> bool:
    """Whether a backend that was asked for a stream answers in one piece all the same."""
    return (response.header(b"content-type") or b"").startswith(b"application/json")


def error_frame(error: GatewayError, request_id: str, model: str) -> bytes:
    """A failure in the middle of a stream: OpenAI's SDK raises for `error`, a loop reader sees a finish reason."""
    chunk: dict[str, Any] = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "error"}],
        "error": error.as_object(),
    }
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
