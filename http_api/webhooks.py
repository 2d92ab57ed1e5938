"""GET, PUT and DELETE /webhook and POST /webhook/rotate: where an account is told of its money, and by which secret."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from http_api.operations import Absent, Asked, Nothing, Told
from http_api.query import Query
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.policy.image_url import MAX_URL_CHARS
from mcp_gateway.core.webhooks.outbox import WebhookStanding
from mcp_gateway.core.webhooks.webhooks import Webhooks


class WebhookBody(BaseModel):
    """What PUT takes. A `low_balance_usd` that is left out stays as it is; `null` clears it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, Field(max_length=MAX_URL_CHARS)]
    low_balance_usd: Annotated[str, Field(max_length=40)] | None = None


class WebhookObject(Told):
    """An account's webhook, null where it has none; times in Unix seconds.

    `former_secret_until` is when the secret before the last rotation signs no more. `secret` is shown once, where it
    was made by this very request.
    """

    object: Literal["webhook"]
    url: str | None
    set_at: int | None
    former_secret_until: int | None
    low_balance_usd: str | None
    secret: str | Absent = None


class RemovedWebhook(Told):
    """That an account has no webhook any more."""

    object: Literal["webhook"]
    deleted: Literal[True]


class WebhookDoor:
    """`webhooks_for` are those that who asks may change: what an administrator changes is noted."""

    def __init__(self, webhooks_for: Callable[[Asked[Any, Any]], Webhooks]) -> None:
        self._webhooks_for = webhooks_for

    async def get(self, asked: Asked[Query, Nothing]) -> WebhookObject:
        return _object(await self._webhooks_for(asked).of(asked.about.account_id))

    async def put(self, asked: Asked[Query, WebhookBody]) -> WebhookObject:
        webhooks, account_id, body = self._webhooks_for(asked), asked.about.account_id, asked.body
        mark_nano = _mark_of(body.low_balance_usd)
        secret = await webhooks.put(account_id, body.url)
        if "low_balance_usd" in body.model_fields_set:
            await webhooks.set_low_balance(account_id, mark_nano)
        return _object(await webhooks.of(account_id), secret)

    async def rotate(self, asked: Asked[Query, Nothing]) -> WebhookObject:
        webhooks, account_id = self._webhooks_for(asked), asked.about.account_id
        secret = await webhooks.rotate(account_id)
        return _object(await webhooks.of(account_id), secret)

    async def remove(self, asked: Asked[Query, Nothing]) -> RemovedWebhook:
        await self._webhooks_for(asked).remove(asked.about.account_id)
        return RemovedWebhook(object="webhook", deleted=True)


def _mark_of(text: str | None) -> int | None:
    """Raises GatewayError `invalid_value`."""
    if text is None:
        return None
    try:
        mark_nano = parse_usd(text)
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`low_balance_usd`: {fault}.", param="low_balance_usd") from None
    if mark_nano <= 0:
        raise GatewayError("invalid_value", "`low_balance_usd` is more than nothing, or null.", param="low_balance_usd")
    return mark_nano


def _object(standing: WebhookStanding, secret: str | None = None) -> WebhookObject:
    made = {} if secret is None else {"secret": secret}
    return WebhookObject(object="webhook", **(standing.as_object() | made))
