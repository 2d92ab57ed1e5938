"""One backend after the other is asked, until one begins to answer; the hold is the same for all."""

from asyncio import sleep

from mcp_gateway.core.blame import AnswerTooLarge, Blame, blame_of
from mcp_gateway.core.catalog import Model
from mcp_gateway.core.dialects.dialect import Target
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.answer import Answer
from mcp_gateway.core.inference.fitting import terms_after
from mcp_gateway.core.inference.meter import Meter, Metered
from mcp_gateway.core.inference.parts import Call, Parts
from mcp_gateway.core.inference.rationed import Rationed
from mcp_gateway.core.inference.routing import unavailable
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.observe.failures import code_of
from mcp_gateway.core.record import OK
from mcp_gateway.core.routing.rank import Candidate, Ranking
from mcp_gateway.core.surfaces.error_shapes import MAX_REFUSAL_BYTES
from mcp_gateway.core.surfaces.surface import Ask, Headers, Terms
from mcp_gateway.core.upstream.attempt import Attempt
from mcp_gateway.core.upstream.backend import Backend, BackendResponse, failure, read_beginning
from mcp_gateway.core.upstream.transport import UpstreamError


class Attempts:
    """What is sent of an ask, to whom, and the connection on which its answer comes."""

    response: BackendResponse | None = None
    _attempt: Attempt | None = None
    _is_collected = False
    _written_by: tuple[Target, Terms] | None = None
    _headers: Headers = ()
    """What the body that is written goes with."""

    def __init__(
        self,
        parts: Parts,
        call: Call,
        ask: Ask,
        meter: Meter,
        ranking: Ranking[Backend],
        *,
        account_id: str,
    ) -> None:
        self._parts = parts
        self._call = call
        self._ask = ask
        self._meter = meter
        self._ranking = ranking
        self._account_id = account_id
        self.failures: dict[Candidate[Backend], Blame] = {}
        """Who was asked in vain, of another model that was asked before, too."""

    async def take(self, answer: Answer, model: Model) -> Metered | None:
        """Ask until an answer begins, or is there; what is billed of one that is whole.

        Raises GatewayError for a refusal, or when no backend answers.
        """
        if self._ask.is_long:
            await sleep(0)  # for others, between reading it and writing it
        pool, ranking, failures = self._parts.pool, self._ranking, self.failures
        is_fitted, body = False, b""
        candidate = pool.first_of(ranking, failures) if failures else pool.next_of(ranking, failures)
        while candidate is not None:
            self._meter.asks(candidate)
            body = self._written(model, body)
            try:
                return await self._ask_one(candidate.backend, body, answer)
            except GatewayError as error:
                self._meter.answered()
                is_only_slow = self._attempt is not None and self._attempt.is_only_slow(error)
                self.let_go(error)
                answer.forget()
                if error.code == "overloaded" or isinstance(error, AnswerTooLarge):
                    raise  # the answer was there: what failed is the room for it
                if self._meter.target.dialect.adapts_to(error, self._meter.target, body):
                    self._written_by = None
                    continue
                if not is_fitted and await self._fits_after(error, candidate, model):
                    is_fitted = True
                    continue
                self._note_failed(candidate, error, 1 + len(failures))
                failures[candidate] = blame_of(error)
                if is_only_slow:
                    raise  # elsewhere it would be as slow, and computed twice
                candidate = pool.next_of(ranking, failures)
                if candidate is None:
                    raise
        raise unavailable(model)

    def blame(self, error: GatewayError) -> None:
        """Let go of a backend whose answer had begun; its failure is counted as that of an attempt."""
        if self._attempt is not None and blame_of(error).whose == "backend":
            self._parts.failures.note(self._attempt.backend.name, error)
        self.let_go(error)

    def let_go(self, error: GatewayError | None) -> None:
        """Close the backend's connection (at once, where its answer was not read whole); tell how the attempt ended."""
        if self.response is not None:
            self.response.close()
            self.response = None
        if self._attempt is not None:
            self._attempt.end(error)
            self._attempt = None

    def _note_failed(self, candidate: Candidate[Backend], error: GatewayError, number: int) -> None:
        backend, call = candidate.backend.name, self._call
        self._parts.failures.note(backend, error)
        if blame_of(error).whose != "request":
            self._parts.records.note_failed_attempt(self._account_id, call.request_id, number, backend, code_of(error))

    def _written(self, model: Model, before: bytes) -> bytes:
        """The body by the target and the terms as they are now: the one before, or another; the parsed is put away."""
        ask, meter = self._ask, self._meter
        target, terms = written_by = meter.target, meter.terms
        if self._written_by == written_by:
            return before
        self._written_by = written_by
        ask.take_out()
        self._is_collected = self._shall_collect(model)
        is_stream = ask.is_stream or self._is_collected
        dialect, translation, is_mixed = target.dialect, target.translation, meter.spoken.is_mixed
        as_read = dump_json(ask.body) if is_mixed or dialect.rewrites else b""
        if is_mixed:
            translation.sift(ask.body)
        self._headers = () if dialect.headers_of is None else dialect.headers_of(ask)
        body = translation.body(ask, terms, target.backend_model, self._account_id, is_stream=is_stream)
        ask.put_away(as_read or body)
        return body

    async def _fits_after(self, error: GatewayError, asked: Candidate[Backend], model: Model) -> bool:
        """Whether there are other terms with which a request fits that was refused."""
        terms = await terms_after(error, self._ask, model, asked, self._meter)
        if terms is None:
            return False
        self._meter.terms = terms
        return True

    def _shall_collect(self, model: Model) -> bool:
        """Whether an answer in one piece is asked for as a stream: what is made is seen, and who leaves pays for it."""
        if self._ask.is_stream:
            return False
        if self._meter.running_hold is not None:
            return True  # else nobody would see what it costs so far
        most_tokens = self._call.collect_above_tokens
        if most_tokens is None:
            most_tokens = self._parts.settings.upstream.collect_above_tokens
        is_long = 0 <= most_tokens < (self._meter.terms.output_limit or model.max_output_tokens)
        return is_long and self._meter.target.translation.can_collect(self._ask)

    def _rationed(self, response: BackendResponse, answer: Answer) -> BackendResponse:
        """The stream, which ends where its account's money does, if it may."""
        meter = self._meter
        if meter.running_hold is None:
            return response
        return Rationed(response, meter.running_hold, meter.target.translation, meter.bounds, answer.keep_beside)

    async def _ask_one(self, backend: Backend, body: bytes, answer: Answer) -> Metered | None:
        meter, call, target = self._meter, self._call, self._meter.target
        is_collected = self._is_collected
        is_stream = is_collected or self._ask.is_stream
        attempt = self._attempt = Attempt(
            backend,
            target.backend_model,
            self._parts.settings.upstream,
            meter.estimated_tokens,
            is_stream=is_stream,
        )
        meter.asked_at_s = attempt.began_at_s
        try:
            response = self.response = await backend.infer(
                target.translation.path,
                body,
                ((b"x-request-id", call.request_id.encode()), *call.trace_headers, *self._headers),
                is_stream=is_stream,
                patience=attempt,
            )
            if response.status != OK:
                told = await read_beginning(response, MAX_REFUSAL_BYTES)
                failed = target.dialect.failure(response.status, told)
                raise target.error(failed, response.header(b"retry-after"))
            if not is_stream or (is_collected and _is_json(response)):
                return await answer.take_whole(response)
            response = self.response = self._rationed(response, answer)
            if is_collected:
                return await answer.collect(response, attempt)
            await answer.begin_stream(response, attempt)
            return None
        except UpstreamError as error:
            raise failure(error) from error


def _is_json(response: BackendResponse) -> bool:
    """Whether a backend that was asked for a stream answers in one piece all the same."""
    return (response.header(b"content-type") or b"").startswith(b"application/json")
