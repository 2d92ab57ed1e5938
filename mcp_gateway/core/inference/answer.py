"""One answer as it comes: in one piece, collected from a stream, or passed on. Knows no money and no other backend."""

from collections.abc import Callable
from math import ceil

from mcp_gateway.core.blame import AnswerTooLarge, GoingDown
from mcp_gateway.core.bytes_in_flight import SMALL_BYTES, STEP_BYTES
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.meter import Meter, Metered
from mcp_gateway.core.surfaces.credible import FailureTold, read_finish_reason
from mcp_gateway.core.surfaces.surface import BYTES_PER_TOKEN, Ask, Body, Collecting, Incoming, Reader, Seen
from mcp_gateway.core.upstream.attempt import Attempt
from mcp_gateway.core.upstream.backend import BackendResponse


class Answer:
    """What a backend brings for an ask. `body` is the whole of one that is no stream; `reader` passes one that is.

    `note` is called whenever an answer that is collected has grown. The request's id is the one that it was sent with.
    """

    body: Body = b""
    reader: Reader | None = None
    first = b""
    """The first frames of a stream, until they are taken."""
    collecting: Collecting | None = None
    first_token_at_s: float | None = None
    """By the clock that does not go back."""
    _reason: str | None = None
    _kept_bytes = 0

    def __init__(
        self,
        ask: Ask,
        request_id: str,
        meter: Meter,
        context: RequestContext | None,
        *,
        most_bytes: int,
        monotonic_s: Callable[[], float],
        note: Callable[[], None] | None = None,
    ) -> None:
        self._ask = ask
        self._request_id = request_id.encode()
        self._meter = meter
        self._context = context
        self._most_bytes = most_bytes
        self._monotonic_s = monotonic_s
        self._note = note

    @property
    def finish_reason(self) -> str | None:
        return self.reader.finish_reason if self.reader is not None else self._reason

    @property
    def incoming(self) -> Incoming | None:
        """What has come as a stream, if it does."""
        return self.reader or self.collecting

    async def keep(self, size_bytes: int) -> None:
        """Have room for so many bytes of the answer in all, taken in steps; without a context nothing is counted.

        Raises GatewayError: `overloaded`, or AnswerTooLarge for more than an answer may have that is held whole.
        """
        if size_bytes <= max(self._kept_bytes, SMALL_BYTES) or self._context is None:
            return
        if size_bytes > self._most_bytes:
            raise AnswerTooLarge
        wanted_bytes = ceil(size_bytes / STEP_BYTES) * STEP_BYTES
        await self._context.reservation.grow(wanted_bytes - self._kept_bytes)
        self._kept_bytes = wanted_bytes

    async def keep_beside(self, size_bytes: int) -> None:
        """Have room for so many bytes beside what is kept of the answer itself. Raises GatewayError `overloaded`."""
        held_bytes = 0 if self.incoming is None else self.incoming.held_bytes
        await self.keep(min(held_bytes + size_bytes, self._most_bytes))

    def keep_nothing(self) -> None:
        """Give that room back."""
        if self._kept_bytes and self._context is not None:
            self._context.reservation.shrink(self._kept_bytes)
            self._kept_bytes = 0

    def forget(self) -> None:
        """Keep nothing of what was not delivered."""
        self.collecting = None

    def why_cut(self, incoming: Incoming) -> GatewayError:
        """What kept an answer from being whole."""
        if incoming.failure is not None:
            return self._meter.target.error(incoming.failure)
        return GatewayError("backend_died", "The backend ended the stream in the middle of the answer.")

    async def take_whole(self, response: BackendResponse) -> Metered:
        """Read an answer in one piece; what is billed for it. Raises GatewayError or UpstreamError where it fails."""
        body = await response.read(self.keep)
        self._meter.answered()
        if len(body) > SMALL_BYTES:
            await self.keep(len(body))
        self._check_is_ours(body, response)
        translation = self._meter.target.translation
        try:
            whole = await translation.read(body, self._ask)
        except FailureTold as told:
            raise self._meter.target.error(told.failure) from None
        self._reason = whole.finish_reason
        if whole.finish_reason == "abort":
            raise GoingDown
        self.body = whole.body
        usage = self._meter.credible(whole.usage)
        if usage is not None and whole.is_usage_exact:
            return Metered(usage)
        if usage is not None:
            metered = Metered(usage)
        else:
            seen_tokens = ceil(await translation.text_bytes(self.body) / BYTES_PER_TOKEN)
            metered = await self._meter.assume(Seen(None, seen_tokens))
        assert metered.usage is not None
        self.body = await translation.with_usage(self.body, metered.usage)
        return metered

    async def begin_stream(self, response: BackendResponse, attempt: Attempt) -> None:
        """Wait for the first frame: until then a failure can still be an HTTP status, or go to another backend."""
        target = self._meter.target
        reader = target.translation.reader(self._ask, target.public_model, self._meter.bounds)
        self.first = await self._first_frames(response, reader, attempt)
        self.reader = reader
        self.keep_nothing()  # of a first frame that came in pieces
        attempt.began()

    async def collect(self, response: BackendResponse, attempt: Attempt) -> Metered:
        """Put a stream together to the answer in one piece; at its largest it is cut, and delivered so."""
        target = self._meter.target
        collecting = target.translation.collecting(self._ask, target.public_model, self._most_bytes)
        self.collecting = collecting
        await self._first_frames(response, collecting, attempt)
        attempt.began()
        await self._keep_collected(collecting)
        while not collecting.is_done and (piece := await response.next_chunk()):
            collecting.feed(piece)
            piece = b""  # which may be long, and is not kept while the next is waited for
            await self._keep_collected(collecting)
        self._meter.answered()
        collecting.feed_end()
        if collecting.is_full:
            response.close()  # what is made further is for nobody
        elif not collecting.is_whole:
            raise self.why_cut(collecting)
        self._reason = read_finish_reason(collecting.finish_reason)
        metered = await self._meter.measured(collecting)
        assert metered.usage is not None
        self.body, self.collecting = collecting.body(metered.usage), None
        return metered

    async def _first_frames(self, response: BackendResponse, incoming: Incoming, attempt: Attempt) -> bytes:
        """Wait for the first frame."""
        frames = b""
        while not incoming.has_started:
            piece = await response.next_chunk()
            frames = incoming.feed(piece) if piece else incoming.feed_end()
            if not frames:
                attempt.commented()
                await self.keep(incoming.held_bytes)
            if incoming.failure is not None and not incoming.has_told(frames):
                raise self._meter.target.error(incoming.failure)
            if not incoming.has_started and (incoming.is_done or not piece):
                raise GatewayError("backend_died", "The backend ended the stream before its first token.")
        self._check_is_ours(incoming.first_frame, response)
        self.first_token_at_s = self._monotonic_s()
        return frames

    async def _keep_collected(self, collecting: Collecting) -> None:
        """Have room for what has come, and tell who watches."""
        if (size_bytes := collecting.held_bytes) > SMALL_BYTES:
            await self.keep(min(size_bytes, self._most_bytes))
        if self._note is not None:
            self._note()

    def _check_is_ours(self, beginning: Body, response: BackendResponse) -> None:
        """Raise GatewayError `backend_error` for the answer to another request, and close its connection.

        A server may have an id of its own for it, or tell in a header which it gave the request: those pass. Nothing
        but the time in which it came then tells that the answer was to this one.
        """
        named = self._meter.target.dialect.request_named(beginning)
        if named == self._request_id:
            return
        if named is not None and named != response.header(b"x-request-id"):
            response.discard()
            raise GatewayError("backend_error", "The backend answered another request.")
        response.doubt()
