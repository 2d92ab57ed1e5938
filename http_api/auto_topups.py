"""GET, PUT and DELETE /billing/auto-topup: by how much an account is topped up by itself, and when."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from http_api.operations import Asked, Nothing, Told
from http_api.query import Query
from http_api.topups import usd_as_text
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.payments.auto_topups import AutoTopUps
from mcp_gateway.core.payments.topup_terms import TopupTerms

_Usd = Annotated[str, BeforeValidator(usd_as_text)]


class AutoTopUpBody(BaseModel):
    """What PUT takes: decimal strings in USD, whole cents."""

    model_config = ConfigDict(extra="forbid", strict=True)

    threshold_usd: _Usd
    amount_usd: _Usd
    max_per_day_usd: _Usd


class AutoTopUpObject(Told):
    """How an account is topped up by itself, with nulls where it never was; times in Unix seconds.

    `off_reason` says why it is not any more: the code of Stripe's by which a payment failed, or another word.
    `paid_today_usd` counts since midnight UTC, with what is under way. `payment_due_at` is when the next payment is
    made, or was asked for, where one is under way.
    """

    object: Literal["auto_topup"]
    available: bool
    enabled: bool
    threshold_usd: str | None
    amount_usd: str | None
    max_per_day_usd: str | None
    has_payment_method: bool
    off_reason: str | None
    off_at: int | None
    paid_today_usd: str
    payment_due_at: int | None


class RemovedAutoTopUp(Told):
    """That an account is not topped up by itself any more."""

    object: Literal["auto_topup"]
    deleted: Literal[True]


class AutoTopUpDoor:
    """`is_offered` is whether the operator lets accounts be charged so; what was set can be seen and removed anyway.

    `auto_topups_for` are those that who asks may change: what an administrator changes is noted.
    """

    def __init__(
        self, auto_topups_for: Callable[[Asked[Any, Any]], AutoTopUps], terms: TopupTerms, *, is_offered: bool
    ) -> None:
        self._auto_topups_for = auto_topups_for
        self._terms = terms
        self._is_offered = is_offered

    async def get(self, asked: Asked[Query, Nothing]) -> AutoTopUpObject:
        return await self._told(asked)

    async def put(self, asked: Asked[Query, AutoTopUpBody]) -> AutoTopUpObject:
        if not self._is_offered:
            raise GatewayError("not_configured", "Accounts are not topped up by themselves on this gateway.")
        account_id, body = asked.about.account_id, asked.body
        terms = self._terms.auto_topup_of(
            threshold_usd=body.threshold_usd, amount_usd=body.amount_usd, max_per_day_usd=body.max_per_day_usd
        )
        await self._auto_topups_for(asked).put(account_id, terms)
        return await self._told(asked)

    async def remove(self, asked: Asked[Query, Nothing]) -> RemovedAutoTopUp:
        await self._auto_topups_for(asked).remove(asked.about.account_id)
        return RemovedAutoTopUp(object="auto_topup", deleted=True)

    async def switch_off(self, asked: Asked[Query, Nothing]) -> AutoTopUpObject:
        """By an administrator, until the account sets it anew."""
        await self._auto_topups_for(asked).switch_off(asked.about.account_id)
        return await self._told(asked)

    async def _told(self, asked: Asked[Any, Any]) -> AutoTopUpObject:
        standing = await self._auto_topups_for(asked).of(asked.about.account_id)
        return AutoTopUpObject(object="auto_topup", available=self._is_offered, **standing.as_object())
