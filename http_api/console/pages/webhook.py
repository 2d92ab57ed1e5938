"""Where an account is told of its money, and below which balance; its secret is shown once."""

from typing import Any

from http_api.console.forms import Form
from http_api.console.pages.books import WALLET
from http_api.console.pages_of import PagesOf, home_of, told_of
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.operations import AnyOperation, Asked, Nothing
from http_api.query import Query
from http_api.webhooks import WebhookBody, WebhookDoor, WebhookObject
from mcp_gateway.core.errors import GatewayError

WEBHOOK = f"{WALLET}/webhook"


class WebhookPages:
    def __init__(self, pages: PagesOf, webhooks: WebhookDoor) -> None:
        self._pages = pages
        self._webhooks = webhooks

    def rows(self, console: Console) -> list[AnyOperation]:
        page = self._pages.page
        return [
            page(console, WEBHOOK, self.show, scope="manage"),
            page(console, WEBHOOK, self.set, method="POST", scope="billing"),
            page(console, f"{WEBHOOK}/rotate", self.rotate, method="POST", scope="billing"),
            page(console, f"{WEBHOOK}/remove", self.remove, method="POST", scope="billing"),
        ]

    async def show(self, asked: AskedPage) -> Shown:
        told = await self._webhooks.get(asking(asked, Nothing()))
        return Shown("webhook.html", {**_values(asked, told), "error": None})

    async def set(self, asked: AskedPage) -> Shown:
        try:
            body = asked.body.as_body(WebhookBody, clears=("low_balance_usd",))
            told = await self._webhooks.put(asking(asked, body))
        except GatewayError as error:
            now = await self._webhooks.get(asking(asked, Nothing()))
            return again("webhook.html", _values(asked, now), error)
        return Shown("webhook.html", {**_values(asked, told), "error": None, "is_saved": True})

    async def rotate(self, asked: AskedPage) -> Shown:
        told = await self._webhooks.rotate(asking(asked, Nothing()))
        return Shown("webhook.html", {**_values(asked, told), "error": None, "is_saved": True})

    async def remove(self, asked: AskedPage) -> SeeOther:
        await self._webhooks.remove(asking(asked, Nothing()))
        return SeeOther(f"{home_of(asked)}{WEBHOOK}")


def _values(asked: Asked[Query, Form], webhook: WebhookObject) -> dict[str, Any]:
    return {
        **told_of(asked),
        "webhook": webhook,
        "may_pay": asked.may("billing"),
        "is_saved": False,
        "typed": asked.body,
        "fields": ("url", "low_balance_usd"),
    }
