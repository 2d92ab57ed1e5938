"""The money of one request, from its hold to its settlement, and its record: each is done once."""

import logging
from asyncio import CancelledError

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model, Offer
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.answer import Answer
from mcp_gateway.core.inference.fitting import likely_prompt_tokens, terms_within
from mcp_gateway.core.inference.meter import NO_USAGE, Meter, Metered
from mcp_gateway.core.inference.parts import Call, Parts
from mcp_gateway.core.inference.routing import without_dearest
from mcp_gateway.core.inference.running_hold import RunningHold
from mcp_gateway.core.inference.terms import Quote, affordable_tokens, cost_nano, most_output_tokens, quote
from mcp_gateway.core.ledger.ledger import SettlementPending
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.money import NANO_PER_USD, format_usd
from mcp_gateway.core.prices import FREE, Price, dearest
from mcp_gateway.core.record import OK, EndedBy, RequestRecord
from mcp_gateway.core.routing.rank import Candidate
from mcp_gateway.core.surfaces.surface import Ask, Terms
from mcp_gateway.core.surfaces.usage import Usage
from mcp_gateway.core.upstream.backend import Backend

logger = logging.getLogger(__name__)

_TOO_DEAR = ("insufficient_balance", "budget_exhausted", "balance_held")
"""Codes of a hold that is refused for what it is for."""
CLIENT_CLOSED = GatewayError("client_closed", "The client left before the answer was whole.")
_SHORTEST_S = 0.001
"""No answer is taken to have come in less, for its tokens a second."""
_UNBILLED = GatewayError("ledger_unavailable", "The answer's bill cannot be written now: it is not billed.")
"""These two are told of and never raised: an error that is kept would keep what its traceback holds."""


def too_dear(most_nano: int) -> GatewayError:
    """What a caller is told whose own cap covers no useful answer."""
    problem = f"`gateway.max_cost_usd` ({format_usd(most_nano)} USD) covers no useful answer: raise it."
    return GatewayError("invalid_value", problem, param="gateway.max_cost_usd")


class Bill:
    """What a request is charged. Once it is closed, `cost_nano` is known, the `usage` that it was closed with, and how
    long the request took until then.

    `is_pending` is whether what was delivered could not be charged yet, and is once that can be written.
    """

    ask: Ask | None = None
    model: Model | None = None
    price: Price = FREE
    """By which a hold is made; once it is closed, that of the offer that was asked last."""
    cost_nano = 0
    usage: Usage | None = None
    status: int | None = None
    """How the request ended, once it is closed."""
    took_s = 0.0
    is_pending = False
    _hold: Hold | None = None
    _running_hold: RunningHold | None = None

    def __init__(self, parts: Parts, caller: Caller, call: Call) -> None:
        self._parts = parts
        self._caller = caller
        self._call = call
        self._started_at_s = parts.now_s()
        self._clock_start_s = parts.monotonic_s()

    @property
    def model_id(self) -> str:
        """The model's public name; empty while none is known."""
        return self.model.id if self.model is not None else ""

    @property
    def ended_by(self) -> EndedBy | None:
        """What ended an answer that its backend would have gone on with."""
        return None if self._running_hold is None else self._running_hold.ended_by

    async def open_affordable(self, ask: Ask, model: Model, meter: Meter, *, can_be_cut: bool) -> Terms:
        """Hold for the dearest of who may be asked; those that the money is not enough for leave, the dearest first.

        The terms that are held. Raises GatewayError where it is not enough for any.
        """
        while True:
            self.price = dearest([*{one.offer.price for one in meter.ranking}])
            try:
                return await self.open(meter.terms, ask, model, meter, can_be_cut=can_be_cut)
            except GatewayError as error:
                is_too_dear = error.code in _TOO_DEAR and len(meter.ranking) > 1
                cheaper = without_dearest(meter.ranking, meter.quoted_prompt_tokens) if is_too_dear else ()
                if not cheaper:
                    raise
                meter.ranking = cheaper

    async def open(self, terms: Terms, ask: Ask, model: Model, meter: Meter, *, can_be_cut: bool) -> Terms:
        """Hold the worst case of the terms, or as much as the wallet has; the terms that are held.

        Where money is tight and an answer `can_be_cut`, only its prompt and a first slice are held, within the same
        terms. Raises GatewayError `insufficient_balance`, or what else the ledger refuses a hold with.
        """
        wallet = self._parts.settings.wallet
        worst = quote(terms, ask, model, self.price, meter.quoted_prompt_tokens, wallet)
        if not worst.maximum_nano:
            return terms
        if ask.wanted_tools is not None and ask.wanted_tools.caps(worst.maximum_nano):
            return await self._open_capped(ask.wanted_tools.left_nano, terms, worst, ask, model, meter)
        if can_be_cut and not await self._is_ample(worst.maximum_nano * wallet.ample_holds):
            await self._open_first(most_output_tokens(terms, ask, model), ask, model, meter)
            return terms
        hold = await self._held(worst.minimum_nano, worst.maximum_nano, meter)
        if hold.amount_nano >= worst.maximum_nano:
            return terms
        most = affordable_tokens(hold.amount_nano, worst, ask.choices)
        return await terms_within(terms, most, model, meter)

    async def _open_capped(
        self, most_nano: int, terms: Terms, worst: Quote, ask: Ask, model: Model, meter: Meter
    ) -> Terms:
        """Hold no more than the caller lets the request cost."""
        if most_nano < worst.minimum_nano:
            raise too_dear(most_nano)
        hold = await self._held(worst.minimum_nano, most_nano, meter)
        return await terms_within(terms, affordable_tokens(hold.amount_nano, worst, ask.choices), model, meter)

    async def _is_ample(self, amount_nano: int) -> bool:
        caller = self._caller
        return not amount_nano or await self._parts.ledger.is_ample(caller.account_id, amount_nano, caller.spent_by)

    async def _open_first(self, most_tokens: int, ask: Ask, model: Model, meter: Meter) -> None:
        """Hold what a request may cost at first; what follows is held as it comes.

        A prompt is not counted for an account that has no money for a word of it.
        """
        wallet, ledger, images = self._parts.settings.wallet, self._parts.ledger, len(ask.prompt.images)
        least_nano = self.price.most_nano(1, min(wallet.min_useful_tokens, most_tokens), images)
        await ledger.check_balance(self._caller.account_id, least_nano, self._caller.spent_by)
        prompt_tokens = await likely_prompt_tokens(ask, model, wallet, meter)
        running_hold = RunningHold(ledger, self.price, images, prompt_tokens, most_tokens)
        least_nano = running_hold.least_nano(wallet.min_useful_tokens)
        running_hold.begin(await self._held(least_nano, running_hold.first_nano, meter))
        meter.running_hold = self._running_hold = running_hold

    async def _held(self, minimum_nano: int, maximum_nano: int, meter: Meter) -> Hold:
        ledger, request_id, caller = self._parts.ledger, self._call.request_id, self._caller
        hold = self._hold = await ledger.hold(
            request_id, caller.account_id, minimum_nano, maximum_nano, caller.spent_by
        )
        meter.is_held = True
        return hold

    def start_over(self) -> None:
        """Hold nothing of what was tried, as another model is asked."""
        if self._hold is not None:
            self._parts.ledger.release(self._hold.request_id)
        self._hold, self._running_hold, self.price = None, None, FREE

    async def close(
        self, metered: Metered, error: GatewayError | None, answer: Answer | None, asked: Candidate[Backend] | None
    ) -> None:
        """Settle what was used, or release the hold; record it either way. Once: later calls are a bug.

        `error` is what the request ended with, and `asked` whose answer it was, or would have been: what that offer
        costs is charged. Raises GatewayError `ledger_unavailable` where the answer is refused, since its bill cannot be
        written; nothing is billed then.
        """
        self.status = OK if error is None else error.status
        if asked is not None:
            self.price = asked.offer.price
        usage = self.usage = metered.usage
        if usage is not None:
            self.cost_nano = cost_nano(usage, self.price, self._images)
        first_token_s = None
        if answer is not None and answer.first_token_at_s is not None:
            first_token_s = answer.first_token_at_s - self._clock_start_s
        record = self._record(error, answer, asked, first_token_s)
        is_delivered = error is not None or (answer is not None and answer.reader is not None)
        if metered.policy is not None:
            self._parts.records.note_missing_usage(record, metered.policy)
        try:
            await self._charge(record, metered, is_delivered=is_delivered)
        except GatewayError as refusal:
            record = record._replace(http_status=refusal.status, error_code=refusal.code)
            raise
        except CancelledError:
            record = self._note_departure(record)
            raise
        finally:  # what is counted is what the caller is told, so only once that is known
            self.took_s = self._parts.monotonic_s() - self._clock_start_s
            self._parts.metrics.request_ended(record, self.took_s, first_token_s)
            if error is None and self.model is not None and len(self.model.offers) > 1 and asked is not None:
                self._note_pace(asked.offer, first_token_s)
            self._parts.activity.note(record)

    def _note_pace(self, offer: Offer, first_token_s: float | None) -> None:
        """How quickly one of several answered, since the next request may go by that."""
        wait_s, tokens = first_token_s or 0.0, (self.usage or NO_USAGE).completion_tokens
        self._parts.pool.choosing.note(
            offer,
            self.took_s if first_token_s is None else first_token_s,
            is_stream=first_token_s is not None,
            tokens_per_s=tokens / max(self.took_s - wait_s, _SHORTEST_S),
        )

    @property
    def _images(self) -> int:
        return 0 if self.ask is None else len(self.ask.prompt.images)

    async def _charge(self, record: RequestRecord, metered: Metered, *, is_delivered: bool) -> None:
        """Charge `cost_nano`, which is afterwards what was charged. Raises GatewayError `ledger_unavailable`."""
        hold, ledger = self._hold, self._parts.ledger
        if hold is not None and self.cost_nano:
            try:
                charged_nano = await ledger.settle(hold, self.cost_nano, record, may_exceed=metered.is_reported)
            except SettlementPending as pending:
                self._keep_or_refuse(pending, record, is_delivered=is_delivered)
            else:
                self._note_loss(hold, self.cost_nano - charged_nano)
                self.cost_nano = charged_nano
            return
        if hold is not None:
            ledger.release(hold.request_id)
        self._parts.records.add(record)

    def _keep_or_refuse(self, pending: SettlementPending, record: RequestRecord, *, is_delivered: bool) -> None:
        """What was delivered is billed in the end; an answer that was not is refused, and not billed."""
        if is_delivered:
            self.is_pending = True
            return
        self.cost_nano, self.status = 0, _UNBILLED.status
        refused = record._replace(cost_nano=0, http_status=_UNBILLED.status, error_code=_UNBILLED.code)
        self._parts.ledger.take_back(pending, refused)
        raise GatewayError(_UNBILLED.code, _UNBILLED.message)

    def _note_loss(self, hold: Hold, unpaid_nano: int) -> None:
        """Tell of a cost that neither the hold nor the rest of the wallet covered."""
        if unpaid_nano > 0:
            self._parts.metrics.unpaid_usd.labels(self.model_id).inc(unpaid_nano / NANO_PER_USD)
            logger.warning("request %s cost %s USD more than its account has", hold.request_id, format_usd(unpaid_nano))

    def _note_departure(self, record: RequestRecord) -> RequestRecord:
        """Have recorded that the client left before it was told the whole; what was made is billed all the same."""
        if record.http_status != OK:
            return record
        record = record._replace(http_status=CLIENT_CLOSED.status, error_code=CLIENT_CLOSED.code)
        self._parts.ledger.note_departure(record)
        return record

    def _record(
        self,
        error: GatewayError | None,
        answer: Answer | None,
        asked: Candidate[Backend] | None,
        first_token_s: float | None,
    ) -> RequestRecord:
        call, caller, usage = self._call, self._caller, self.usage or NO_USAGE
        return RequestRecord(
            id=call.request_id,
            client_request_id=call.client_request_id,
            account_id=caller.account_id,
            key_id=caller.key_id,
            door=call.door,
            model=None if self.model is None else self.model.id,
            backend=None if asked is None else asked.backend.name,
            is_stream=self.ask is not None and self.ask.is_stream,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            images=self._images if self.price.image_pico and usage.total_tokens else 0,
            cost_nano=self.cost_nano,
            price_version=self.price.version,
            started_at_ms=int(self._started_at_s * 1000),
            latency_ms=int((self._parts.monotonic_s() - self._clock_start_s) * 1000),
            first_token_ms=None if first_token_s is None else int(first_token_s * 1000),
            http_status=self.status or OK,
            error_code=None if error is None else error.code,
            finish_reason=None if answer is None else answer.finish_reason,
            surface=call.surface,
            ended_by=self.ended_by,
        )
