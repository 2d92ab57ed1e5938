"""POST /billing/checkout, /billing/portal and /billing/webhook: money from outside, through Stripe."""

from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from http_api.bodies import parsed_as, read_json_bytes
from http_api.holders import key_holder
from http_api.idempotency import idempotency_key_of, replayed
from http_api.responses import json_response
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.config import StripeSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.payments.payments import Payments
from mcp_gateway.core.payments.sessions import Checkout
from mcp_gateway.core.payments.terms import Terms

_MAX_BODY_BYTES = 1024 * 1024
_MAX_VALUES = 20_000
"""Stripe's events are far smaller, and anybody may send to the webhook."""
_BOUNDS = JsonBounds(_MAX_VALUES, _MAX_VALUES)


class Empty(BaseModel):
    """A body that says nothing: `{}`."""

    model_config = ConfigDict(extra="forbid")


class TopUp(BaseModel):
    """What checkout takes: a decimal string in USD, whole cents."""

    model_config = ConfigDict(extra="forbid", strict=True)

    amount_usd: str


class TopUps:
    """Sessions at Stripe for an account's people, and Stripe's events; 501 where Stripe is not configured."""

    def __init__(
        self,
        payments: Payments | None,
        idempotency: Idempotency,
        limiter: Limiter,
        settings: StripeSettings,
        *,
        base_url: str,
    ) -> None:
        home = f"{base_url}/"
        self._payments = payments
        self._idempotency = idempotency
        self._limiter = limiter
        self._terms = Terms.of(settings, home)
        self._return_url = settings.return_url or home

    async def checkout(self, request: Request) -> Response:
        payments, caller = self._admit(request)
        raw = await read_json_bytes(request.scope, request.receive, _MAX_BODY_BYTES, _BOUNDS)
        amount_nano = self._terms.payable_nano(parsed_as(raw, TopUp).amount_usd)

        key = idempotency_key_of(request)
        async with self._idempotency.attempt(caller.account_id, key, "billing/checkout", raw) as attempt:
            if attempt.kept is not None:
                return replayed(attempt.kept)
            session = await payments.start_checkout(
                caller.account_id, amount_nano, self._terms.pages, idempotency_key=attempt.name
            )
            answer = _checkout_object(session, amount_nano)
            await self._idempotency.keep(attempt, 201, answer)
            return json_response(answer, 201)

    async def portal(self, request: Request) -> Response:
        """A new session each time: its link lets whoever has it in, so that no answer is kept to be given again."""
        payments, caller = self._admit(request)
        raw = await read_json_bytes(request.scope, request.receive, _MAX_BODY_BYTES, _BOUNDS)
        parsed_as(raw, Empty)
        key = idempotency_key_of(request)
        async with self._idempotency.attempt(caller.account_id, key, "billing/portal", raw):
            url = await payments.open_portal(caller.account_id, self._return_url)
        return json_response({"object": "portal", "url": url}, 201)

    async def webhook(self, request: Request) -> Response:
        payments = self._configured()
        raw = await read_json_bytes(request.scope, request.receive, _MAX_BODY_BYTES, _BOUNDS)
        await payments.receive(raw, request.headers.get("stripe-signature", ""))
        return json_response({"received": True})

    def _admit(self, request: Request) -> tuple[Payments, Caller]:
        payments = self._configured()
        return payments, key_holder(request, self._limiter)

    def _configured(self) -> Payments:
        if self._payments is None:
            message = "Top-ups are not set up on this gateway; its operator can credit an account by hand."
            raise GatewayError("not_configured", message)
        return self._payments


def _checkout_object(session: Checkout, amount_nano: int) -> dict[str, Any]:
    return {
        "object": "checkout",
        "id": session.id,
        "url": session.url,
        "amount_usd": format_usd(amount_nano),
        "expires_at": session.expires_at_s,
    }
