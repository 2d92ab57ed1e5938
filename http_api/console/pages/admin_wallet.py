"""An account's wallet and budgets, for administrators, who read of them what the account does, and bound it."""

from collections.abc import Callable
from typing import Any

from http_api.admin.budgets import BudgetsQuery, NewAccountBudget
from http_api.admin.table import AdminEndpoints
from http_api.billing import Billing, NotedTransactionPage, TransactionsQuery
from http_api.console.addresses import filters_in, older
from http_api.console.forms import Form
from http_api.console.pages.books import KIND_LABELS, WALLET, BookPages, latest_months
from http_api.console.pages.keys import WINDOW_LABELS
from http_api.console.pages.webhook import WebhookPages
from http_api.console.pages_of import PagesOf, home_of, told_of
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.operations import AnyOperation, Asked, Nothing
from http_api.statements import Statements
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import BUDGET_WINDOWS

_BUDGETS = "/budgets"
_LASTS = [
    ("", "no"), ("3600", "for an hour"), ("86400", "for a day"), ("604800", "for a week"), ("2592000", "for 30 days"),
]  # fmt: skip
_FIELDS = ("amount_usd", "window", "key_id", "group", "expires_in_s")


class BudgetsFilter(BudgetsQuery):
    """Whether a change was just made, too."""

    changed: bool = False


class AccountWalletPages:
    def __init__(
        self, admin: AdminEndpoints, billing: Billing, statements: Statements, now_ms: Callable[[], int]
    ) -> None:
        self._pages = PagesOf(admin.of_account)
        self._admin = admin
        self._billing = billing
        self._statements = statements
        self._now_ms = now_ms

    def rows(self, console: Console) -> list[AnyOperation]:
        page = self._pages.page
        return [
            page(console, WALLET, self.show, query=TransactionsQuery),
            *BookPages(self._pages, self._billing.noted_transactions, self._statements).rows(console),
            *WebhookPages(self._pages, self._admin.webhooks).rows(console),
            page(console, _BUDGETS, self.budgets, query=BudgetsFilter),
            page(console, _BUDGETS, self.make_budget, method="POST"),
            page(console, f"{_BUDGETS}/{{budget_id}}/end", self.end_budget, method="POST"),
        ]

    async def show(self, asked: Asked[TransactionsQuery, Form]) -> Shown:
        query = asked.query.model_copy(update={"format": "json"})
        found = await self._billing.noted_transactions(asking(asked, Nothing(), query))
        assert isinstance(found, NotedTransactionPage)
        values = {
            **told_of(asked),
            "wallet": await self._billing.get(asking(asked, Nothing())),
            "auto": await self._admin.auto_topups.get(asking(asked, Nothing())),
            "rows": found.data,
            "older": older(found.next_cursor, {}),
            "kinds": KIND_LABELS,
            "months": latest_months(self._now_ms),
        }
        return Shown("admin_wallet.html", values)

    async def budgets(self, asked: Asked[BudgetsFilter, Form]) -> Shown:
        return await self._budgets(asked, asked.query, is_changed=asked.query.changed)

    async def make_budget(self, asked: AskedPage) -> Shown | SeeOther:
        """A lease, where it says for how long."""
        form = asked.body
        typed = [(name, form.get(name)) for name in _FIELDS]
        body = Form([*typed, ("lease", "true" if form.get("expires_in_s") else "false")])
        try:
            await self._admin.budgets.make(asking(asked, body.as_body(NewAccountBudget)))
        except GatewayError as error:
            shown = await self._budgets(asked, BudgetsFilter())
            return again(shown.template, shown.values, error)
        return SeeOther(f"{home_of(asked)}{_BUDGETS}?changed=1")

    async def end_budget(self, asked: AskedPage) -> SeeOther:
        await self._admin.budgets.end(asking(asked, Nothing()))
        return SeeOther(f"{home_of(asked)}{_BUDGETS}?changed=1")

    async def _budgets(self, asked: AskedPage, query: BudgetsFilter, *, is_changed: bool = False) -> Shown:
        found = await self._admin.budgets.list(asking(asked, Nothing(), query))
        values: dict[str, Any] = {
            **told_of(asked),
            "budgets": found.data,
            "holder": query.holder or "",
            "older": older(found.next_cursor, filters_in(asked, ("holder",))),
            "windows": [(window, WINDOW_LABELS[window]) for window in BUDGET_WINDOWS],
            "window_labels": WINDOW_LABELS,
            "lasts": _LASTS,
            "typed": asked.body,
            "fields": ("amount_usd", "key_id", "group"),
            "is_changed": is_changed,
            "error": None,
        }
        return Shown("admin_budgets.html", values, part="table")
