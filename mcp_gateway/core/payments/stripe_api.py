"""Stripe through its own SDK: the calls that are used, and the signatures of its webhooks. Stores nothing.

The SDK's calls are synchronous: each runs in one of this room's threads, bounded in time.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson
import requests
import stripe
from stripe.params import CustomerCreateParams
from stripe.params import PaymentIntentCreateParams as IntentParams
from stripe.params import PaymentIntentListParams as IntentListParams
from stripe.params.billing_portal import SessionCreateParams as PortalParams
from stripe.params.checkout import SessionCreateParams as CheckoutParams
from stripe.params.checkout import SessionCreateParamsPaymentIntentData as CheckoutPaymentParams

from mcp_gateway.core.clock import DAY_S
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import NANO_PER_CENT
from mcp_gateway.core.payments.auto_topups import AutoPayment
from mcp_gateway.core.payments.checkout import Checkout, UnknownCustomer, WantedCheckout
from mcp_gateway.core.payments.facts import (
    ACCOUNT,
    AUTO_PAYMENT,
    USER,
    AutoFailed,
    AutoPaid,
    AutoPending,
    Unreadable,
    auto_payment_of,
    failure_code,
)
from mcp_gateway.core.text import shown

logger = logging.getLogger(__name__)

T = TypeVar("T")

stripe.enable_telemetry = False  # it would report the system's name, and leave an id in the home folder

_TOLERANCE_S = 300
_MOST_THREADS = 16
"""Of calls at once; asyncio's few are those of others, who do not wait until Stripe answers. Twice as many as run by
themselves, so that people who pay find one."""
_CREDIT = "API credit"
"""What people see that they pay for."""


class StripeApi:
    """The Till that is Stripe."""

    def __init__(self, secret_key: str, webhook_secret: str, *, base_url: str, timeout_s: float) -> None:
        self._webhook_secret = webhook_secret
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "stripe")
        self._session = requests.Session()
        self._v1 = stripe.StripeClient(
            secret_key,
            base_addresses={"api": base_url},
            max_network_retries=1,
            http_client=stripe.RequestsClient(timeout=timeout_s / 2, session=self._session),
        ).v1

    def close(self) -> None:
        """Close idle connections; what still runs ends by its own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    async def create_customer(self, account_id: str) -> str:
        """A new customer's id."""
        params: CustomerCreateParams = {"metadata": {ACCOUNT: account_id}}
        return (await self._ask(lambda: self._v1.customers.create(params))).id

    async def create_checkout(self, customer_id: str, wanted: WantedCheckout, idempotency_key: str | None) -> Checkout:
        """A session to pay into an account. Raises UnknownCustomer too."""
        metadata = {ACCOUNT: wanted.account_id}
        of_payment: CheckoutPaymentParams = {"metadata": metadata}
        if wanted.saves_method:
            of_payment["setup_future_usage"] = "off_session"
            if wanted.user_id is not None:
                of_payment["metadata"] = metadata | {USER: wanted.user_id}
        params: CheckoutParams = {
            "mode": "payment",
            "customer": customer_id,
            "client_reference_id": wanted.account_id,
            "metadata": metadata,
            "payment_intent_data": of_payment,
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": "usd",
                        "unit_amount": wanted.amount_nano // NANO_PER_CENT,
                        "product_data": {"name": _CREDIT},
                    },
                }
            ],
            "adaptive_pricing": {"enabled": False},
            "success_url": wanted.pages.success_url,
            "cancel_url": wanted.pages.cancel_url,
        }
        options: stripe.RequestOptions = {"idempotency_key": idempotency_key}
        session = await self._ask(lambda: self._v1.checkout.sessions.create(params, options))
        assert session.url is not None
        return Checkout(session.id, session.url, session.expires_at)

    async def create_portal(self, customer_id: str, return_url: str) -> str:
        """The address of a session in which a customer sees payments and invoices. Raises UnknownCustomer too."""
        params: PortalParams = {"customer": customer_id, "return_url": return_url}
        return (await self._ask(lambda: self._v1.billing_portal.sessions.create(params))).url

    async def make_payment(self, payment: AutoPayment, return_url: str) -> AutoPaid | AutoFailed | AutoPending:
        """Charge a saved payment method while its owner is away; the same payment for the same id.

        https://docs.stripe.com/payments/save-and-reuse: `return_url` is where a method that leads its owner elsewhere
        would lead back, which ends in a failure here.
        """
        params: IntentParams = {
            "amount": payment.amount_nano // NANO_PER_CENT,
            "currency": "usd",
            "customer": payment.customer_id,
            "payment_method": payment.method_id,
            "off_session": True,
            "confirm": True,
            "automatic_payment_methods": {"enabled": True},
            "return_url": return_url,
            "description": _CREDIT,
            "metadata": {ACCOUNT: payment.account_id, AUTO_PAYMENT: payment.id},
        }
        options: stripe.RequestOptions = {"idempotency_key": payment.id}
        try:
            intent = await self._in_thread(lambda: self._v1.payment_intents.create(params, options))
        except (stripe.CardError, stripe.InvalidRequestError) as error:
            _tell(error)
            return AutoFailed(payment.id, failure_code(error.code))
        except (stripe.StripeError, TimeoutError) as error:
            raise _unavailable(error) from None
        return _auto_payment(intent)

    async def find_payment(self, payment: AutoPayment) -> AutoPaid | AutoFailed | AutoPending | None:
        """None where Stripe has made none by this id."""
        since_s = payment.asked_at_ms // 1000 - DAY_S  # clocks differ
        params: IntentListParams = {"customer": payment.customer_id, "created": {"gte": since_s}, "limit": 100}

        def find() -> stripe.PaymentIntent | None:
            found = self._v1.payment_intents.list(params).auto_paging_iter()
            return next((one for one in found if _names(one, payment.id)), None)

        try:
            intent = await self._in_thread(find)
        except stripe.InvalidRequestError as error:
            if error.code != "resource_missing":
                raise _unavailable(error) from None
            return None  # of a customer that is gone
        except (stripe.StripeError, TimeoutError) as error:
            raise _unavailable(error) from None
        return None if intent is None else _auto_payment(intent)

    def verified_event(self, raw: bytes, signature: str) -> Any:
        """The event in a webhook's body. Raises GatewayError `invalid_value` unless Stripe signed these very bytes,
        and `invalid_json`.

        https://docs.stripe.com/webhooks#verify-events; a signature is good for 300 s, and any `v1` of several will do.
        """
        try:
            signature.encode("ascii")  # the SDK's comparison stumbles over anything else
            stripe.WebhookSignature.verify_header(raw, signature, self._webhook_secret, _TOLERANCE_S)
        except (stripe.SignatureVerificationError, ValueError):
            message = "The Stripe-Signature header does not sign this body, or no longer."
            raise GatewayError("invalid_value", message, param="Stripe-Signature") from None
        try:
            return orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise GatewayError("invalid_json", "The event is not JSON.") from None

    async def _ask(self, call: Callable[[], T]) -> T:
        try:
            return await self._in_thread(call)
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing" and error.param == "customer":
                raise UnknownCustomer from None
            raise _unavailable(error) from None
        except (stripe.StripeError, TimeoutError) as error:
            raise _unavailable(error) from None

    async def _in_thread(self, call: Callable[[], T]) -> T:
        async with asyncio.timeout(self._timeout_s):
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _names(intent: stripe.PaymentIntent, payment_id: str) -> bool:
    metadata = intent.to_dict().get("metadata")
    return isinstance(metadata, dict) and metadata.get(AUTO_PAYMENT) == payment_id


def _auto_payment(intent: stripe.PaymentIntent) -> AutoPaid | AutoFailed | AutoPending:
    try:
        return auto_payment_of(intent.to_dict())
    except Unreadable as error:
        raise _unavailable(error) from None


def _unavailable(error: Exception) -> GatewayError:
    _tell(error)
    return GatewayError("payments_unavailable", "The payment service does not answer as it should at the moment.")


def _tell(error: Exception) -> None:
    """What an operator needs is logged; Stripe's own words, which may quote the request, are not."""
    facts = [shown(str(getattr(error, name, None))) for name in ("http_status", "code", "request_id")]
    logger.warning("Stripe did not do as asked: %s (status %s, code %s, request %s)", type(error).__name__, *facts)
