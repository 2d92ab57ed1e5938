"""The one path of a request for inference: admission, terms, hold, backend, settlement, record."""

import asyncio
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NamedTuple

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.identity.keys import Key, refusal
from mcp_gateway.core.inference.answer import Answer
from mcp_gateway.core.inference.attempts import Attempts
from mcp_gateway.core.inference.auto_router import ToldRouting
from mcp_gateway.core.inference.bill import CLIENT_CLOSED, Bill
from mcp_gateway.core.inference.counting import Count, FreeAnswer, answered, count_prompt
from mcp_gateway.core.inference.endings import cause_of, failure_in
from mcp_gateway.core.inference.fallbacks import Failures, kept, leads_on, models_in_turn
from mcp_gateway.core.inference.fitting import first_terms
from mcp_gateway.core.inference.meter import NO_USAGE, UNUSED, Meter, Metered, Spoken
from mcp_gateway.core.inference.parts import Call, Parts
from mcp_gateway.core.inference.passage import Passage, PassageOrder
from mcp_gateway.core.inference.refused_requests import RefusedRequests
from mcp_gateway.core.inference.remote_images import bring_images
from mcp_gateway.core.inference.routing import judged, offers_to, ranked, takers
from mcp_gateway.core.inference.terms import reserved_output_tokens
from mcp_gateway.core.inference.unchanged import checked_unchanged
from mcp_gateway.core.limits.limiter import Limiter, Turn
from mcp_gateway.core.mcp_client.servers import ToolServers
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.record import OK, EndedBy, round_id
from mcp_gateway.core.surfaces.openai import telling_its_cut
from mcp_gateway.core.surfaces.surface import Ask, Body, Reader
from mcp_gateway.core.surfaces.tokens import TokenQuestion
from mcp_gateway.core.surfaces.usage import Usage, with_both_costs, with_cost_number
from mcp_gateway.core.surfaces.wanted_route import WantedRoute
from mcp_gateway.core.upstream.backend import failure
from mcp_gateway.core.upstream.transport import UpstreamError


class Inference:
    """The door to the path of requests."""

    def __init__(self, parts: Parts, limiter: Limiter, tool_servers: ToolServers | None = None) -> None:
        self.parts = parts
        self._limiter = limiter
        self.refused = RefusedRequests(parts, limiter.minute)
        self.tool_servers = tool_servers or ToolServers()
        self.running: set[Exchange] = set()
        self.passing: set[Passage] = set()
        """What runs beside them and is not read."""

    async def admit(self, caller: Caller, call: Call) -> "Exchange":
        """A request that is counted against the caller's limits, to be entered at once. Raises GatewayError."""
        if (code := caller.validity.ended_by) is not None:  # since the request's head was read
            raise refusal(code)
        try:
            return Exchange(self.parts, caller, call, self._limiter.admit(caller), self.running)
        except GatewayError as refused:
            self.refused.note(caller, call, refused)
            raise

    async def pass_on(self, caller: Caller, order: PassageOrder) -> Passage:
        """A request that is passed on unread, counted against the caller's limits, to be entered at once.

        Raises GatewayError.
        """
        if (code := caller.validity.ended_by) is not None:
            raise refusal(code)
        try:
            return Passage(self.parts, caller, order, self._limiter.admit(caller), self.passing)
        except GatewayError as refused:
            self.refused.note(caller, order, refused)
            raise

    def another(self, caller: Caller, first: "Exchange", number: int) -> "Exchange":
        """A further round of a request, which is counted already, with a bill and a record of its own.

        Raises GatewayError where the key has ended.
        """
        if (code := caller.validity.ended_by) is not None:
            raise refusal(code)
        call = first.call._replace(request_id=round_id(first.call.request_id, number))
        return Exchange(self.parts, caller, call, first.turn.again(), self.running)

    async def count(self, caller: Caller, ask: Ask, provider: str | None = None) -> Count:
        """The tokens of a prompt, which costs nothing and is not recorded. Raises GatewayError."""
        return await count_prompt(self.parts, caller, ask, provider)

    async def answer(self, caller: Caller, question: TokenQuestion, context: RequestContext) -> FreeAnswer:
        """What a backend tells about tokens, which costs nothing and is not recorded either. Raises GatewayError."""
        return await answered(self.parts, caller, question, context.reservation)

    def check(self, caller: Caller, asked: Call | PassageOrder) -> None:
        """Raise what admission would now, and count nothing: before a body is read for it."""
        try:
            self._limiter.check(caller)
        except GatewayError as refused:
            self.refused.note(caller, asked, refused)
            raise

    def close_key(self, credential_id: str, error: GatewayError) -> None:
        """End the answers that still run for a key, or a session of a user, which is not valid any more."""
        self._end_those(lambda caller: caller.credential_id == credential_id, error.code)

    def close_secret(self, key: Key, error: GatewayError) -> None:
        """End those that were asked for by a secret of a key which has ended, whether the key goes on or not."""
        self._end_those(lambda caller: caller.key_id == key.id and caller.validity.ended_by is not None, error.code)

    def _end_those(self, are_asked_by: Callable[[Caller], bool], code: Code) -> None:
        for running in [running for running in self.running if are_asked_by(running.caller)]:
            running.end_with(code)
        for passing in [passing for passing in self.passing if are_asked_by(passing.caller)]:
            passing.end_with(code)


class AnswerFacts(NamedTuple):
    """What a caller is told beside an answer, as far as it is known.

    `clamped_to` is the limit that stands in place of what was asked for, where one does; `ignored` are names in the
    request that were not sent on, or that its account has recorded and are no users or tags; `overhead_s` is what an
    answer in one piece took from its admission to its settlement, less the waits for backends and servers of images.
    `ended_by` is what ended an answer in the middle, and `model` the name by which the one was asked for that answers.
    `routing` is there where that was chosen.
    """

    cost_nano: int
    usage: Usage | None
    clamped_to: int | None
    ignored: tuple[str, ...]
    overhead_s: float
    ended_by: EndedBy | None
    model: str
    routing: ToldRouting | None = None


class Exchange:
    """One request from admission to settlement: a context manager that cannot be left halfway.

    After `begin` either `body` holds the whole answer, already settled, or `next_frames` brings the stream, which is
    settled before its last frames. Leaving early, by whatever exception, closes the backend's connection before
    anything else and settles what was used or releases the hold.
    """

    _ask: Ask | None = None
    _meter: Meter | None = None
    _attempts: Attempts | None = None
    _answer: Answer | None = None
    _beginning: asyncio.Task[object] | None = None
    _ended_by: Code | None = None
    _ignored: tuple[str, ...] = ()
    last_round: "Exchange | None" = None
    """The further one that runs of the same request, which ends with this one."""

    def __init__(self, parts: Parts, caller: Caller, call: Call, turn: Turn, running: "set[Exchange]") -> None:
        self._parts = parts
        self.caller = caller
        self.call = call
        self.turn = turn
        self._running = running
        self._bill = Bill(parts, caller, call)

    # The calls of a door

    def __enter__(self) -> "Exchange":
        self._parts.lifecycle.enter()
        self._running.add(self)
        return self

    async def begin(self, ask: Ask, note: Callable[[], None] | None = None) -> None:
        """Decide, hold, and ask the backend. Raises GatewayError for a refusal or when no backend answers.

        `note` is called whenever an answer that is collected has grown.
        """
        self._ask = self._bill.ask = ask
        ask.request_id = self.call.request_id
        if self.caller.is_attributed:
            self._bill.attribute(ask.body)
        if self._ended_by is not None:
            raise refusal(self._ended_by)
        self._beginning = asyncio.current_task()
        try:
            if ask.route is None:
                model = self._parts.published.found_at(self.call.provider, self.caller, ask.model)
                self._bill.model = model
                attempts = self._attempts = await self._decide(ask, model, note)
                assert self._answer is not None
                metered = await attempts.take(self._answer, model)
            else:
                metered = await self._take_in_turn(ask, ask.route, note)
                assert self._answer is not None
            if metered is not None:
                await self._close(metered)
                if ask.usage_wishes.with_cost:
                    self._answer.body = with_both_costs(self._answer.body, format_usd(self._bill.cost_nano))
            if self._answer.reader is None or self._answer.reader.tells_usage:
                ask.forget_body()  # else its prompt may have to be counted in the end
        except CancelledError as cancelled:
            raise cause_of(cancelled, self._end, self._beginning) from None
        finally:
            self._beginning = None

    def end_with(self, code: Code) -> None:
        """End the answer, since its key is refused with `code` from now on; one that is accounted for stays as it is.

        While it begins, its task is woken, and `begin` raises that refusal. A stream's backend is hung up on at once,
        which wakes who waits for it, and the next frames tell the refusal.
        """
        if self._bill.status is not None or self._ended_by is not None:
            return
        self._ended_by = code
        if self._beginning is not None:
            self._beginning.cancel()
        elif self._attempts is not None and self._attempts.response is not None:
            self._attempts.response.close()

    async def next_frames(self) -> bytes:
        """Whole frames for the client, the last ones after the settlement; b"" after that.

        A failure on the way becomes an error frame. What came together with the end leaves with it, in one write.
        """
        if self._bill.status is not None:
            return b""
        ask, meter, reader = self._ask, self._meter, self._reader
        assert ask is not None
        assert meter is not None
        assert reader is not None
        frames = b""
        try:
            frames = await self._next_relayed(reader)
            if frames and not reader.is_done:
                return frames
            assert self._answer is not None
            assert self._attempts is not None
            _check_end(reader, self._answer, self._attempts, self._end)
        except GatewayError as error:
            return frames + await self.frames_of(error)
        await self._close(await meter.measured(reader))
        pending = _note_of(self._bill) if self._bill.is_pending else b""
        return b"".join((frames, _end_of(reader, ask, self._bill), pending, ask.surface.done))

    async def frames_of(self, error: GatewayError) -> bytes:
        """The end of a stream by a failure, accounted for: also of one that failed to begin after its head was sent.

        What came before it and was held back is delivered, as it is billed. One that is accounted for stays so.
        """
        ask, reader = self._ask, self._reader
        assert ask is not None
        if self._bill.status is not None:
            return ask.last_frames(error)
        if self._attempts is not None:
            self._attempts.blame(error)
        await self._close_part(error)
        held = _end_of(reader, ask, self._bill) if reader is not None else b""
        return held + ask.last_frames(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.last_round is not None:
            self.last_round.__exit__(kind, error, trace)
        if self._attempts is not None:
            self._attempts.let_go(None if self._bill.status == OK else CLIENT_CLOSED)
        if self._bill.status is None:
            self._close_left(error)
        if self._answer is not None:
            self._answer.keep_nothing()
        self.turn.release()
        self._parts.lifecycle.leave()
        self._running.discard(self)

    # What a door may tell its caller

    @property
    def body(self) -> Body:
        """The answer in one piece; empty while there is none, and where it was refused since it could not be billed."""
        answer, bill = self._answer, self._bill
        if answer is None or bill.status != OK:
            return b""
        return answer.body if bill.ended_by is None else telling_its_cut(answer.body, bill.ended_by)

    @property
    def facts(self) -> AnswerFacts:
        bill, meter = self._bill, self._meter
        return AnswerFacts(  # by place, as a record is
            bill.cost_nano,
            bill.usage,
            None if meter is None else meter.terms.clamped_to,
            bill.attributed.unusable + self._ignored,
            bill.took_s if meter is None else bill.took_s - meter.waited_s,
            bill.ended_by,
            "" if self._ask is None else self._ask.model,
            None if bill.choice is None else bill.choice.told(bill.model_id),
        )

    @property
    def latest_words(self) -> str:
        """The end of what has come of an answer that is collected."""
        answer = self._answer
        return "" if answer is None or answer.collecting is None else answer.collecting.latest_words

    # One model after the other

    async def _take_in_turn(self, ask: Ask, wanted: WantedRoute, note: Callable[[], None] | None) -> Metered | None:
        """Ask each model on a hold of its own, until one begins to answer, or has answered.

        Raises GatewayError as the last one does, or as one does after which no other may be asked.
        """
        parts, failures, waited_s = self._parts, Failures(), 0.0
        models, unused, choice = await models_in_turn(ask, wanted, self.caller, self.call, parts)
        self._bill.choice = choice
        as_it_came = await kept(ask, self.call.context) if len(models) > 1 else None
        while True:
            (ask.model, model), *models = await self._bill.holding.cover(models, ask)
            self._bill.model = model
            try:
                attempts = self._attempts = await self._decide(ask, model, note)
                self._ignored = (*unused, *self._ignored)
                attempts.failures |= failures
                assert self._answer is not None
                assert self._meter is not None
                self._meter.waited_s += waited_s
                return await attempts.take(self._answer, model)
            except GatewayError as error:
                if not models or not leads_on(error, self._attempts, failures, parts.pool.may_go_on):
                    raise
            waited_s = 0.0 if self._meter is None else self._meter.waited_s
            self._start_over()
            assert as_it_came is not None
            as_it_came.restore(ask)

    def _start_over(self) -> None:
        """Reserve and keep nothing of what was tried."""
        self._bill.holding.start_over()
        self.turn.true_up(0)
        if self._answer is not None:
            self._answer.keep_nothing()
        self._answer = self._attempts = self._meter = None

    # Deciding

    async def _decide(self, ask: Ask, model: Model, note: Callable[[], None] | None) -> Attempts:
        """Check and hold, from what is cheap to refuse to what is dear. Raises GatewayError."""
        parts, caller, settings = self._parts, self.caller, self._parts.settings
        targets, sight = parts.targets, parts.pool.sight  # of one configuration, whatever is read again from now on
        offers = offers_to(caller, model, parts)
        is_mixed = False
        if len(offers) > 1:
            offers = await takers(parts.pool.choosing.arranged(offers, model, ask), ask, targets)
            is_mixed = len({offer.source for offer in offers}) > 1
        target = targets.at(offers[0], ask.surface, ask.model)
        self._ignored = await judged(parts, caller, ask, model, target, is_mixed=is_mixed)
        if self.call.as_sent is not None:
            self._ignored = await checked_unchanged(
                self.call.as_sent, self._ignored, ask, model, target, caller.account_id
            )
            self.call = self.call._replace(as_sent=None)
        ranking = ranked(offers, ask, model, caller, sight)
        meter = self._meter = Meter(parts, ask, model, ranking, Spoken(targets, is_mixed))
        meter.terms = await first_terms(ask, model, ranking[0], caller, settings, meter)
        tokens = meter.estimated_tokens + reserved_output_tokens(meter.terms, ask, model, settings.limits)
        if (pending := self.turn.reserve_tokens(tokens)) is not None:
            await pending
        if model.is_window_narrowed:
            await meter.check_window()
        if parts.lifecycle.in_flight > 1:
            await parts.lifecycle.cohort.join()
        can_be_cut = not is_mixed and target.translation.can_be_cut(ask)
        holding = self._bill.holding
        if len(offers) == 1:
            holding.price = offers[0].price
            meter.terms = await holding.open(meter.terms, ask, model, meter, can_be_cut=can_be_cut)
        else:
            meter.terms = await holding.open_affordable(ask, model, meter, can_be_cut=can_be_cut)
        if ask.prompt.remote_images:
            await bring_images(parts, caller.account_id, self.call.context, ask, meter)
        self._answer = Answer(
            ask,
            self.call.request_id,
            meter,
            self.call.context,
            most_bytes=settings.upstream.max_response_bytes,
            monotonic_s=parts.monotonic_s,
            note=note,
        )
        return Attempts(parts, self.call, ask, meter, meter.ranking, account_id=caller.account_id)

    @property
    def _end(self) -> GatewayError | None:
        """The refusal that the answer was ended with."""
        return None if self._ended_by is None else refusal(self._ended_by)

    # Passing a stream on

    @property
    def _reader(self) -> Reader | None:
        return None if self._answer is None else self._answer.reader

    async def _next_relayed(self, reader: Reader) -> bytes:
        """The next frames of the answer itself; b"" when it has ended."""
        answer, attempts = self._answer, self._attempts
        assert answer is not None
        assert attempts is not None
        response = attempts.response
        assert response is not None
        frames, answer.first = answer.first, b""
        try:
            while not frames and not reader.is_done:
                piece = await response.next_chunk()
                if not piece:
                    return reader.feed_end()
                frames = reader.feed(piece)
                if not frames:
                    await answer.keep(reader.held_bytes)
        except UpstreamError as error:
            if self._end is not None:
                raise self._end from error
            if not reader.is_whole:
                raise failure(error, has_started=True) from error
            attempts.blame(failure(error, has_started=True))
        return frames

    # Accounting

    def _close(self, metered: Metered, error: GatewayError | None = None) -> Coroutine[Any, Any, None]:
        """Have the bill closed, and recorded how it ended. Awaited, it raises GatewayError `ledger_unavailable`."""
        self.turn.true_up((metered.usage or NO_USAGE).total_tokens or metered.unbilled_tokens)
        asked = None if self._meter is None else self._meter.asked
        return self._bill.close(metered, error, self._answer, asked)

    async def _close_part(self, error: GatewayError) -> None:
        """Account for what had come of a stream, or of an answer that is collected, until an error."""
        metered, answer = UNUSED, self._answer
        if self._meter is not None and answer is not None and answer.incoming is not None:
            metered = await self._meter.measured(answer.incoming, is_failed=error is not CLIENT_CLOSED)
        await self._close(metered, error)

    def _close_left(self, error: BaseException | None) -> None:
        """Account for a request that ends without its answer: refused, failed, or left by its caller."""
        spawn, answer = self._parts.lifecycle.spawn, self._answer
        if (failed := failure_in(error, self.call.request_id)) is not None:
            spawn(self._close(UNUSED, failed))
        elif answer is not None and (answer.reader is not None or _has_any(answer)):
            spawn(self._close_part(CLIENT_CLOSED))
        else:
            spawn(self._close_for_prompt())

    async def _close_for_prompt(self) -> None:
        metered = UNUSED if self._meter is None else await self._meter.prompt_alone()
        await self._close(metered, CLIENT_CLOSED)


def _has_any(answer: Answer) -> bool:
    """Whether anything has come of an answer that is collected."""
    return answer.collecting is not None and answer.collecting.has_any


def _check_end(reader: Reader, answer: Answer, attempts: Attempts, end: GatewayError | None) -> None:
    """Raise what kept the answer from being whole; of one that is whole, a failure is told to the breaker alone."""
    if not reader.is_whole:
        raise end or answer.why_cut(reader)
    if reader.failure is not None:
        attempts.blame(answer.why_cut(reader))


def _end_of(reader: Reader, ask: Ask, bill: Bill) -> bytes:
    """What was held back of a stream, with what it cost."""
    cost_usd = format_usd(bill.cost_nano)
    frames = reader.end(cost_usd, bill.usage)
    return with_cost_number(frames, cost_usd) if ask.usage_wishes.with_cost else frames


def _note_of(bill: Bill) -> bytes:
    """A comment for who is billed once that can be written."""
    return b": the bill of %b USD is written as soon as it can be\n\n" % format_usd(bill.cost_nano).encode()
