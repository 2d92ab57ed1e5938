"""What accounts set of their webhooks. Their secrets are made here, and shown to whoever makes them alone."""

from collections.abc import Callable, Collection

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.webhook_secret import new_secret
from mcp_gateway.core.webhooks.outbox import (
    PutWebhook,
    RemoveWebhook,
    RotateSecret,
    SetLowBalance,
    WebhookOf,
    WebhookStanding,
)
from mcp_gateway.core.webhooks.sending import read_webhook_url

FORMER_SIGNS_MS = DAY_MS
"""For how long after a rotation the secret of before signs, too."""


class Webhooks:
    """One for each account that has set one."""

    def __init__(self, store: Engine, *, now_ms: Callable[[], int], ports: Collection[int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._ports = ports

    async def of(self, account_id: str) -> WebhookStanding:
        return await self._store.read(WebhookOf(account_id, self._now_ms()))

    async def put(self, account_id: str, url: str) -> str | None:
        """Have an account told at this address from now on; the secret of a new webhook, which is shown this once.

        Raises GatewayError `invalid_value` for an address that is none of the public internet.
        """
        try:
            read_webhook_url(url, self._ports)
        except ValueError as fault:
            message = f"`url` is not an address that events can go to: {fault}."
            raise GatewayError("invalid_value", message, param="url") from None
        secret = new_secret()
        return secret if await self._store.write(PutWebhook(account_id, url, secret)) else None

    async def rotate(self, account_id: str) -> str:
        """A new secret, which is shown this once; the former one signs beside it for a day. Raises GatewayError
        `not_found`.
        """
        secret = new_secret()
        if not await self._store.write(RotateSecret(account_id, secret, self._now_ms() + FORMER_SIGNS_MS)):
            raise no_webhook()
        return secret

    async def remove(self, account_id: str) -> None:
        """With what waits to be delivered there. Raises GatewayError `not_found`."""
        if not await self._store.write(RemoveWebhook(account_id)):
            raise no_webhook()

    async def set_low_balance(self, account_id: str, mark_nano: int | None) -> None:
        """Have an account told when it owns less; None: not any more."""
        await self._store.write(SetLowBalance(account_id, mark_nano))


def no_webhook() -> GatewayError:
    return GatewayError("not_found", "The account has no webhook; PUT /v1/webhook sets one.")
