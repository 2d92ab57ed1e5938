"""GET /billing, /billing/transactions, /credits and /credits/transactions: an account's wallet and its ledger."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from starlette.requests import Request
from starlette.responses import Response

from http_api.holders import balance_reader, key_holder
from http_api.paging import PageQuery, cursor_key, list_object
from http_api.query import Query, read_query
from http_api.responses import json_response, timestamps
from http_api.usage import DEFAULT_WINDOW_MS, totals_object
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.statement import Statement, Transaction
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.observe.history import History, Totals


class TransactionsQuery(PageQuery):
    cursor: Annotated[str | None, cursor_key(re.compile(r"txn_[0-9]{1,18}"))] = None


class Billing:
    """The wallet with its recent usage, and every transaction."""

    def __init__(
        self, ledger: Ledger, statement: Statement, history: History, limiter: Limiter, now_ms: Callable[[], int]
    ) -> None:
        self._ledger = ledger
        self._statement = statement
        self._history = history
        self._limiter = limiter
        self._now_ms = now_ms

    async def get(self, request: Request) -> Response:
        caller = balance_reader(request, self._limiter)
        read_query(request, Query)
        wallet = (await self._ledger.balance(caller.account_id)).as_object()
        told: dict[str, Any] = {"object": "wallet", "account_id": caller.account_id, **wallet}
        if "read" in caller.scopes:
            told["usage"] = await self._recent_usage(caller.account_id)
        return json_response(told)

    async def _recent_usage(self, account_id: str) -> dict[str, Any]:
        until_ms = self._now_ms()
        since_ms = until_ms - DEFAULT_WINDOW_MS
        days = await self._history.totals(account_id, since_ms, until_ms, "day")
        return {"since": since_ms // 1000, "until": until_ms // 1000, **totals_object(sum(days.values(), Totals()))}

    async def transactions(self, request: Request) -> Response:
        return await self._page(request, only_moves=False)

    async def credits(self, request: Request) -> Response:
        """The wallet alone, as another system's clients know it."""
        caller = balance_reader(request, self._limiter)
        read_query(request, Query)
        return json_response({"object": "credits", **(await self._ledger.balance(caller.account_id)).as_object()})

    async def credit_transactions(self, request: Request) -> Response:
        """Deposits and deductions: transactions without holds and voids."""
        return await self._page(request, only_moves=True)

    async def _page(self, request: Request, *, only_moves: bool) -> Response:
        caller = key_holder(request, self._limiter)
        asked = read_query(request, TransactionsQuery)
        rows = await self._statement.page(
            caller.account_id,
            before_id=int(asked.cursor.removeprefix("txn_")) if asked.cursor else None,
            limit=asked.limit + 1,
            only_moves=only_moves,
        )
        return json_response(list_object(rows, asked.limit, _public_id, _transaction_object))


def _public_id(transaction: Transaction) -> str:
    return f"txn_{transaction.id}"


def _transaction_object(transaction: Transaction) -> dict[str, Any]:
    return {
        "object": "transaction",
        "id": _public_id(transaction),
        **timestamps(transaction.created_at_ms),
        "kind": transaction.kind,
        "reference": transaction.reference,
        "amount_usd": format_usd(transaction.amount_nano),
        "balance_change_usd": format_usd(transaction.spendable_nano),
        "granted_change_usd": format_usd(transaction.granted_nano),
        "held_change_usd": format_usd(transaction.held_nano),
    }
