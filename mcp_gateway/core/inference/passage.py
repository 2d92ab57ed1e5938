"""A request that is passed on to a provider as it is, by one of the provider's own paths, at a flat price.

Nothing of it is read. It is held for, charged once and recorded as any other; what it costs is known before it is sent.
"""

import asyncio
import logging
from asyncio import CancelledError
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType, TracebackType
from typing import NamedTuple

from mcp_gateway.core.blame import blame_of
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.identity.keys import refusal
from mcp_gateway.core.inference.attribution import attributed
from mcp_gateway.core.inference.bill import CLIENT_CLOSED
from mcp_gateway.core.inference.endings import cause_of, failure_in
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.ledger.ledger import SettlementPending
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.limits.limiter import Turn
from mcp_gateway.core.prices import Price
from mcp_gateway.core.record import OK, Attribution, RequestRecord
from mcp_gateway.core.surfaces.error_shapes import MAX_REFUSAL_BYTES
from mcp_gateway.core.upstream.backend import BackendResponse, failure, read_beginning
from mcp_gateway.core.upstream.provider import Passed, Provider
from mcp_gateway.core.upstream.transport import UpstreamError

logger = logging.getLogger(__name__)


class PassageOrder(NamedTuple):
    """Who is asked, and at what price."""

    request_id: str
    client_request_id: str | None
    provider: Provider
    price: Price
    sent: Mapping[bytes, bytes] = MappingProxyType({})
    """The headers of the request by their names in lower case."""


class Passage:
    """From admission to settlement: a context manager that cannot be left halfway.

    Charged is whatever the provider has begun to answer, and what its caller leaves once it is sent; not what it
    refuses, or fails to answer.
    """

    response: BackendResponse | None = None
    _hold: Hold | None = None
    _is_due = False
    """Whether it is charged."""
    _is_closed = False
    _ended_by: Code | None = None
    _beginning: asyncio.Task[object] | None = None

    def __init__(self, parts: Parts, caller: Caller, order: PassageOrder, turn: Turn, running: "set[Passage]") -> None:
        self._parts = parts
        self.caller = caller
        self._order = order
        self._turn = turn
        self._running = running
        self.cost_nano = order.price.most_nano(0, 0)
        self._started_at_s = parts.now_s()
        self._clock_start_s = parts.monotonic_s()

    def __enter__(self) -> "Passage":
        self._parts.lifecycle.enter()
        self._running.add(self)
        return self

    async def begin(self, passed: Passed) -> BackendResponse:
        """Hold the price and send it; the provider's answer. Raises GatewayError for a refusal, or where none comes."""
        self._beginning = asyncio.current_task()
        try:
            if self.cost_nano:
                caller, price_nano = self.caller, self.cost_nano
                self._hold = await self._parts.ledger.hold(
                    self._order.request_id, caller.account_id, price_nano, price_nano, caller.spent_by
                )
            return await self._answer_to(passed)
        except CancelledError as cancelled:
            if self.response is None:  # else its status has told
                self._is_due = self._is_due or (not isinstance(passed.body, bytes) and passed.body.is_whole)
            raise cause_of(cancelled, self._end, self._beginning) from None
        finally:
            self._beginning = None

    async def next_piece(self) -> bytes:
        """What has come of the answer; b"" once that is whole and settled. Raises GatewayError where it breaks off."""
        assert self.response is not None
        try:
            piece = await self.response.next_chunk()
        except UpstreamError as error:
            if self._end is not None:
                raise self._end from error
            raise self._noted(failure(error, has_started=True)) from error
        if not piece:
            await self._close(None)
        return piece

    def end_with(self, code: Code) -> None:
        """End it, since its key is refused with `code` from now on."""
        if self._is_closed or self._ended_by is not None:
            return
        self._ended_by = code
        if self._beginning is not None:
            self._beginning.cancel()
        else:
            assert self.response is not None
            self.response.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.response is not None:
            self.response.close()
        if not self._is_closed:
            self._parts.lifecycle.spawn(self._close(failure_in(error, self._order.request_id) or CLIENT_CLOSED))
        self._turn.release()
        self._parts.lifecycle.leave()
        self._running.discard(self)

    async def _answer_to(self, passed: Passed) -> BackendResponse:
        provider, proxy = self._order.provider, self._order.provider.proxy
        assert proxy is not None
        try:
            if isinstance(passed.body, bytes):
                await provider.reach()
                self._is_due = True  # from here on it may have been sent
            response = self.response = await provider.pass_on(passed)
            self._is_due = OK <= response.status < HTTPStatus.MULTIPLE_CHOICES
            if self._is_due:
                return response
            told = await read_beginning(response, MAX_REFUSAL_BYTES)
        except UpstreamError as error:
            raise self._noted(failure(error)) from error
        except GatewayError as error:
            self._is_due = False
            self._noted(error)
            raise
        raise self._noted(proxy.refusal(response.status, told, response.header(b"retry-after")))

    def _noted(self, error: GatewayError) -> GatewayError:
        """For the operator, where it is no fault of the request."""
        if blame_of(error).whose != "request":
            self._parts.failures.note(self._order.provider.name, error)
        return error

    @property
    def _end(self) -> GatewayError | None:
        """The refusal that it was ended with."""
        return None if self._ended_by is None else refusal(self._ended_by)

    async def _close(self, error: GatewayError | None) -> None:
        """Charge or release, once, and record it. What was delivered is charged as soon as that can be written."""
        self._is_closed = True
        if not self._is_due or self._hold is None:
            self.cost_nano = 0
        record, hold = self._record(error), self._hold
        try:
            if hold is not None and self.cost_nano:
                await self._parts.ledger.settle(hold, self.cost_nano, record)
            else:
                self._parts.ledger.release(self._order.request_id)
                self._parts.records.add(record)
        except SettlementPending:
            logger.warning("request %s is charged once that can be written", self._order.request_id)
        finally:
            self._parts.metrics.request_ended(record, record.latency_ms / 1000, None)
            self._parts.activity.note(record)

    @property
    def _attribution(self) -> Attribution | None:
        """By headers and the tags of the key alone: nothing else is read."""
        if not self.caller.is_attributed:
            return None
        headers = self._parts.settings.attribution.user_headers
        return attributed(self.caller.tags, self._order.sent, headers, {}).to

    def _record(self, error: GatewayError | None) -> RequestRecord:
        order, caller, parts = self._order, self.caller, self._parts
        status = OK if self.response is None else self.response.status
        return RequestRecord(
            id=order.request_id,
            client_request_id=order.client_request_id,
            account_id=caller.account_id,
            key_id=caller.key_id,
            door="http",
            model=None,
            backend=order.provider.name,
            is_stream=False,
            prompt_tokens=0,
            completion_tokens=0,
            cached_tokens=None,
            cost_nano=self.cost_nano,
            price_version=order.price.version,
            started_at_ms=int(self._started_at_s * 1000),
            latency_ms=int((parts.monotonic_s() - self._clock_start_s) * 1000),
            first_token_ms=None,
            http_status=status if error is None else error.status,
            error_code=None if error is None else error.code,
            finish_reason=None,
            surface="proxy",
            attribution=self._attribution,
        )
