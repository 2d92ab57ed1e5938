"""POST /billing/checkout, /billing/portal and /billing/webhook: money from outside, through Stripe."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from http_api.idempotency import idempotency_key_of, replayed
from http_api.operations import Answered, Asked, Nothing, Told
from http_api.query import AnyQuery, Query
from mcp_gateway.core.caller import User
from mcp_gateway.core.config import StripeSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.money import NANO_PER_USD, format_usd
from mcp_gateway.core.payments.checkout import Checkout, Pages, WantedCheckout
from mcp_gateway.core.payments.payments import Payments
from mcp_gateway.core.payments.topup_terms import TopupTerms

_SIGNATURE = b"stripe-signature"


class Empty(BaseModel):
    """A body that says nothing: `{}`."""

    model_config = ConfigDict(extra="forbid")


def usd_as_text(value: Any) -> Any:
    """Raises ValueError for what is no text, in words of what to write."""
    if not isinstance(value, str):
        raise ValueError('must be USD as text, such as "5" or "12.50"')
    return value


class CheckoutBody(BaseModel):
    """What checkout takes: a decimal string in USD, whole cents, and whether to ask to charge the method again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    amount_usd: Annotated[str, BeforeValidator(usd_as_text)]
    save_payment_method: bool = False


class CheckoutObject(Told):
    """A session in which a person pays at `url`, until `expires_at` (Unix seconds)."""

    object: Literal["checkout"]
    id: str
    url: str
    amount_usd: str
    expires_at: int


class PortalObject(Told):
    """Where a person sees what was paid and with what."""

    object: Literal["portal"]
    url: str


class Receipt(Told):
    """That an event was taken."""

    received: Literal[True]


class TopUps:
    """Sessions at Stripe for an account's people, and Stripe's events; 501 where Stripe is not configured."""

    def __init__(
        self,
        payments: Payments | None,
        idempotency: Idempotency,
        settings: StripeSettings,
        *,
        base_url: str,
    ) -> None:
        home = f"{base_url}/"
        self._saves_methods = settings.auto_topup
        self._payments = payments
        self._idempotency = idempotency
        self._terms = TopupTerms.of(settings, home)
        self._return_url = settings.return_url or home

    @property
    def are_configured(self) -> bool:
        return self._payments is not None

    async def refuse(self, asked: Asked[Any, Any]) -> Nothing:
        """Where they are not."""
        message = "Top-ups are not set up on this gateway; its operator can credit an account by hand."
        raise GatewayError("not_configured", message)

    @property
    def offered_usd(self) -> list[str]:
        """Amounts that a page offers, of those that can be paid."""
        least, most = self._terms.minimum_nano, self._terms.maximum_nano
        offered = sorted({least, *(usd * NANO_PER_USD for usd in (5, 10, 25, 50, 100, 250))})
        return [format_usd(nano) for nano in offered if least <= nano <= most]

    @property
    def saves_methods(self) -> bool:
        """Whether a payer may let the method be charged again."""
        return self._saves_methods

    async def checkout(self, asked: Asked[Query, CheckoutBody]) -> CheckoutObject | Answered[CheckoutObject]:
        return await self.checkout_between(asked, self._terms.pages)

    async def checkout_between(
        self, asked: Asked[Query, CheckoutBody], pages: Pages
    ) -> CheckoutObject | Answered[CheckoutObject]:
        """The same, with a way back to other pages."""
        payments, account_id = self._stripe(), asked.caller.account_id
        amount_nano = self._terms.payable_nano(asked.body.amount_usd)
        if asked.body.save_payment_method and not self._saves_methods:
            raise GatewayError("not_configured", "Payment methods are not saved on this gateway.")
        principal = asked.caller.principal
        user_id = principal.user_id if isinstance(principal, User) else None
        wanted = WantedCheckout(account_id, amount_nano, pages, asked.body.save_payment_method, user_id)
        key = idempotency_key_of(asked)
        async with self._idempotency.answering(account_id, key, "billing/checkout", asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            session = await payments.start_checkout(wanted, idempotency_key=request.name)
            answer = _checkout_object(session, amount_nano)
            await self._idempotency.keep(request, 201, answer.model_dump())
            return answer

    async def portal(self, asked: Asked[Query, Empty]) -> PortalObject:
        """A new session each time: its link lets whoever has it in, so that no answer is kept to be given again."""
        return await self.portal_back_to(asked, self._return_url)

    async def portal_back_to(self, asked: Asked[Query, Empty], return_url: str) -> PortalObject:
        """The same, with a way back to another page."""
        payments, account_id = self._stripe(), asked.caller.account_id
        key = idempotency_key_of(asked)
        async with self._idempotency.answering(account_id, key, "billing/portal", asked.raw):
            url = await payments.open_portal(account_id, return_url)
        return PortalObject(object="portal", url=url)

    async def webhook(self, asked: Asked[AnyQuery, bytes]) -> Receipt:
        signature = asked.context.sent.get(_SIGNATURE, b"").decode("latin-1")
        await self._stripe().receive(asked.raw, signature)
        return Receipt(received=True)

    def _stripe(self) -> Payments:
        assert self._payments is not None
        return self._payments


def _checkout_object(session: Checkout, amount_nano: int) -> CheckoutObject:
    return CheckoutObject(
        object="checkout",
        id=session.id,
        url=session.url,
        amount_usd=format_usd(amount_nano),
        expires_at=session.expires_at_s,
    )
