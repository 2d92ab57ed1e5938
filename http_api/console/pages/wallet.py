"""The wallet: what is in it and how it came there; paying into it, by itself too; statements; and its webhook."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any
from urllib.parse import quote

import orjson
from pydantic import Field

from http_api.auto_topups import AutoTopUpBody, AutoTopUpDoor
from http_api.billing import TRANSACTION_ID, Billing, TransactionObject, TransactionPage, TransactionsQuery
from http_api.console.addresses import older
from http_api.console.forms import Form
from http_api.console.pages.books import KIND_LABELS, WALLET, BookPages, latest_months
from http_api.console.pages.webhook import WebhookPages
from http_api.console.pages_of import OWN_HOME, PagesOf, told_of
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.operations import Answered, AnyOperation, Asked, Nothing
from http_api.statements import Statements
from http_api.topups import CheckoutBody, CheckoutObject, Empty, TopUps
from http_api.webhooks import WebhookDoor
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.payments.checkout import Pages

WALLET_PATH = f"{OWN_HOME}{WALLET}"
_PAGE_ROWS = 50
_LOOKED_THROUGH = 500
"""Of the newest transactions, among which a payment is looked for."""
_AUTO_FIELDS = ("threshold_usd", "max_per_day_usd", "auto_amount_usd")


class WalletQuery(TransactionsQuery):
    """From where on the ledger is shown; `after` is the newest transaction before a payment that is waited for."""

    after: Annotated[str, Field(pattern=f"^{TRANSACTION_ID.pattern}$")] | None = None
    saved: bool = False


@dataclass(frozen=True, slots=True)
class WalletDoors:
    """What of the API is shown here."""

    billing: Billing
    statements: Statements
    topups: TopUps
    auto_topups: AutoTopUpDoor
    webhooks: WebhookDoor


class WalletPages:
    """`base_url` is where Stripe's pages lead back to."""

    def __init__(self, doors: WalletDoors, now_ms: Callable[[], int], *, base_url: str) -> None:
        self._doors = doors
        self._now_ms = now_ms
        self._base_url = base_url

    def rows(self, console: Console) -> list[AnyOperation]:
        own, doors = PagesOf(), self._doors
        rows = [
            console.page(WALLET_PATH, self.show, query=WalletQuery, scope="read"),
            *BookPages(own, doors.billing.transactions, doors.statements).rows(console),
            *WebhookPages(own, doors.webhooks).rows(console),
            console.page(f"{WALLET_PATH}/auto-topup", self.set_auto_topup, method="POST", scope="billing"),
            console.page(f"{WALLET_PATH}/auto-topup/remove", self.remove_auto_topup, method="POST", scope="billing"),
        ]
        if not self._doors.topups.are_configured:
            return rows
        return [
            *rows,
            console.page(f"{WALLET_PATH}/checkout", self.check_out, method="POST", scope="billing"),
            console.page(f"{WALLET_PATH}/portal", self.portal, method="POST", scope="billing"),
        ]

    # The wallet and its books

    async def show(self, asked: Asked[WalletQuery, Form]) -> Shown:
        return Shown("wallet.html", {**await self._values(asked, asked.query), "error": None}, part="table")

    # Paying

    async def check_out(self, asked: AskedPage) -> Shown | SeeOther:
        """On to Stripe, which leads back here; what the way back says credits nothing."""
        form = asked.body
        amount = form.get("amount_usd").strip() or form.get("offered_usd")
        body = Form([("amount_usd", amount), ("save_payment_method", form.get("save_payment_method"))])
        home = f"{self._base_url}{WALLET_PATH}"
        pages = Pages(f"{home}?after={quote(form.get('after'), safe='')}", home)
        try:
            told = await self._doors.topups.checkout_between(asking(asked, body.as_body(CheckoutBody)), pages)
        except GatewayError as error:
            return again("wallet.html", await self._values(asked, WalletQuery()), error)
        return SeeOther(_url_of(told))

    async def portal(self, asked: AskedPage) -> SeeOther:
        told = await self._doors.topups.portal_back_to(asking(asked, Empty()), f"{self._base_url}{WALLET_PATH}")
        return SeeOther(told.url)

    async def set_auto_topup(self, asked: AskedPage) -> Shown | SeeOther:
        try:
            form = asked.body
            named = Form([
                ("threshold_usd", form.get("threshold_usd")),
                ("amount_usd", form.get("auto_amount_usd")),
                ("max_per_day_usd", form.get("max_per_day_usd")),
            ])  # fmt: skip
            await self._doors.auto_topups.put(asking(asked, named.as_body(AutoTopUpBody)))
        except GatewayError as error:
            if error.param == "amount_usd":
                error.param = "auto_amount_usd"
            return again("wallet.html", await self._values(asked, WalletQuery()), error)
        return SeeOther(f"{WALLET_PATH}?saved=1")

    async def remove_auto_topup(self, asked: AskedPage) -> SeeOther:
        await self._doors.auto_topups.remove(asking(asked, Nothing()))
        return SeeOther(f"{WALLET_PATH}?saved=1")

    async def _values(self, asked: Asked[Any, Form], query: WalletQuery) -> dict[str, Any]:
        doors, may_pay = self._doors, asked.may("billing")
        wallet = await doors.billing.get(asking(asked, Nothing()))
        newest = await self._transactions(asked, None, _LOOKED_THROUGH if query.after else 1)
        page = await self._transactions(asked, query.cursor, _PAGE_ROWS)
        webhook = await doors.webhooks.get(asking(asked, Nothing())) if asked.may("manage") else None
        auto = await doors.auto_topups.get(asking(asked, Nothing())) if may_pay else None
        sets_auto = auto is not None and auto.available and auto.has_payment_method
        return {
            **told_of(asked),
            "wallet": wallet,
            "rows": page.data,
            "older": older(page.next_cursor, {}),
            "kinds": KIND_LABELS,
            "after": newest.data[0].id if newest.data else "txn_0",
            "waits_after": query.after,
            "arrived": None if query.after is None else _arrived(newest.data, query.after),
            "is_saved": query.saved,
            "webhook": webhook,
            "may_pay": may_pay,
            "takes_payments": doors.topups.are_configured,
            "saves_methods": doors.topups.saves_methods,
            "offered": doors.topups.offered_usd,
            "auto": auto,
            "months": latest_months(self._now_ms),
            "typed": asked.body,
            "sets_auto": sets_auto,
            "fields": ("amount_usd", *(_AUTO_FIELDS if sets_auto else ())),
        }

    async def _transactions(self, asked: Asked[Any, Form], cursor: str | None, limit: int) -> TransactionPage:
        query = TransactionsQuery(limit=limit, format="json").model_copy(update={"cursor": cursor})  # read already
        told = await self._doors.billing.transactions(asking(asked, Nothing(), query))
        assert isinstance(told, TransactionPage)
        return told


def _url_of(told: CheckoutObject | Answered[CheckoutObject]) -> str:
    """Of the session, which is the first one where the same form was sent before."""
    if isinstance(told, CheckoutObject):
        return told.url
    assert isinstance(told.answer, bytes)
    return str(orjson.loads(told.answer)["url"])


def _arrived(newest: Sequence[TransactionObject], after: str) -> TransactionObject | None:
    """What was paid in since."""
    return next((row for row in takewhile(lambda row: row.id != after, newest) if row.kind == "credit"), None)
