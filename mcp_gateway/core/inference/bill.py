"""The money of one request, from its hold to its settlement, and its record: each is done once."""

import logging
from asyncio import CancelledError
from collections.abc import Mapping
from typing import Any

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model, Offer
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.answer import Answer
from mcp_gateway.core.inference.attribution import Attributed, attributed
from mcp_gateway.core.inference.auto_router import Choice
from mcp_gateway.core.inference.holding import Holding
from mcp_gateway.core.inference.meter import NO_USAGE, Metered
from mcp_gateway.core.inference.parts import Call, Parts
from mcp_gateway.core.inference.terms import cost_nano
from mcp_gateway.core.ledger.ledger import SettlementPending
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.money import NANO_PER_USD, format_usd
from mcp_gateway.core.prices import FREE, Price
from mcp_gateway.core.record import OK, EndedBy, RequestRecord
from mcp_gateway.core.routing.rank import Candidate
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.surfaces.usage import Usage
from mcp_gateway.core.upstream.backend import Backend

logger = logging.getLogger(__name__)

CLIENT_CLOSED = GatewayError("client_closed", "The client left before the answer was whole.")
_SHORTEST_S = 0.001
"""No answer is taken to have come in less, for its tokens a second."""
_UNBILLED = GatewayError("ledger_unavailable", "The answer's bill cannot be written now: it is not billed.")
"""These two are told of and never raised: an error that is kept would keep what its traceback holds."""


class Bill:
    """What a request is charged. Once it is closed, `cost_nano` is known, the `usage` that it was closed with, and how
    long the request took until then.

    `is_pending` is whether what was delivered could not be charged yet, and is once that can be written.
    """

    ask: Ask | None = None
    model: Model | None = None
    price: Price = FREE
    """Once it is closed, that of the offer that was asked last."""
    cost_nano = 0
    usage: Usage | None = None
    status: int | None = None
    """How the request ended, once it is closed."""
    took_s = 0.0
    is_pending = False
    choice: Choice | None = None
    """Of the models, where `auto` was asked for."""
    attributed = Attributed(None)
    """Whom it is for, where its account asks for that."""

    def __init__(self, parts: Parts, caller: Caller, call: Call) -> None:
        self.holding = Holding(parts, caller, call.request_id)
        self._parts = parts
        self._caller = caller
        self._call = call
        self._start_s = parts.now_s(), parts.monotonic_s()
        """By the wall clock and the monotonic one."""

    @property
    def model_id(self) -> str:
        """The model's public name; empty while none is known."""
        return self.model.id if self.model is not None else ""

    @property
    def ended_by(self) -> EndedBy | None:
        """What ended an answer that its backend would have gone on with."""
        running = self.holding.running
        return None if running is None else running.ended_by

    def attribute(self, body: Mapping[str, Any]) -> None:
        """Have recorded whom the request is for, as its headers and its body say, of which there may be none."""
        call, headers = self._call, self._parts.settings.attribution.user_headers
        sent = {} if call.context is None else call.context.sent
        self.attributed = attributed(self._caller.tags, sent, headers, body)

    async def close(
        self, metered: Metered, error: GatewayError | None, answer: Answer | None, asked: Candidate[Backend] | None
    ) -> None:
        """Settle what was used, or release the hold; record it either way. Once: later calls are a bug.

        `error` is what the request ended with, and `asked` whose answer it was, or would have been: what that offer
        costs is charged. Raises GatewayError `ledger_unavailable` where the answer is refused, since its bill cannot be
        written; nothing is billed then.
        """
        self.status = OK if error is None else error.status
        if self._caller.is_attributed and self.ask is None:
            self.attribute({})
        self.price = self.holding.price if asked is None else asked.offer.price
        usage = self.usage = metered.usage
        if usage is not None:
            self.cost_nano = cost_nano(usage, self.price, self._images)
        first_token_s = None
        if answer is not None and answer.first_token_at_s is not None:
            first_token_s = answer.first_token_at_s - self._start_s[1]
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
            self.took_s = self._parts.monotonic_s() - self._start_s[1]
            self._parts.metrics.request_ended(record, self.took_s, first_token_s, is_test=self._caller.is_test)
            if error is None and self.model is not None and len(self.model.offers) > 1 and asked is not None:
                self._note_pace(asked.offer, first_token_s)
            if self.choice is not None:
                self._note_choice(self.choice, record)
            self._parts.activity.note(record)

    def _note_choice(self, choice: Choice, record: RequestRecord) -> None:
        self._parts.metrics.routed(self.model_id, choice.facts)
        if record.error_code is None:
            self._parts.auto_router.note(choice, record, is_test=self._caller.is_test)

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
        hold, ledger = self.holding.hold, self._parts.ledger
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
        # By place: to find 25 names takes a fortieth of what a request takes.
        return RequestRecord(
            call.request_id,
            call.client_request_id,
            caller.account_id,
            caller.key_id,
            None if self.model is None else self.model.id,
            None if asked is None else asked.backend.name,
            self.price.version,
            call.door,
            self.ask is not None and self.ask.is_stream,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cached_tokens,
            self.cost_nano,
            int(self._start_s[0] * 1000),
            int((self._parts.monotonic_s() - self._start_s[1]) * 1000),
            None if first_token_s is None else int(first_token_s * 1000),
            self.status or OK,
            None if error is None else error.code,
            None if answer is None else answer.finish_reason,
            call.surface,
            usage.cache_write_tokens,
            self._images if self.price.image_pico and usage.total_tokens else 0,
            self.ended_by,
            None if self.choice is None else self.choice.facts,
            self.attributed.to,
        )
