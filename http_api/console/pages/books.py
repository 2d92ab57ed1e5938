"""An account's books: its ledger, as files too, and a statement for each month."""

from collections.abc import Callable
from typing import Any, Literal

from http_api.billing import TransactionsQuery
from http_api.console.forms import Form
from http_api.console.pages_of import PagesOf, told_of
from http_api.console.serving import Console, Shown, asking
from http_api.exports import attachment
from http_api.operations import Answered, AnyOperation, Asked, Handle, Nothing, Streamed, written
from http_api.query import Query
from http_api.statements import StatementQuery, Statements
from mcp_gateway.core.ledger.months import Month

WALLET = "/wallet"
"""Below which all of it is, for whichever account."""
_MONTHS = 12
KIND_LABELS = {
    "credit": "paid in",
    "grant": "granted",
    "adjustment": "corrected by hand",
    "refund": "refunded",
    "dispute": "disputed",
    "expire": "grant expired",
    "settle": "request",
    "refund_of_request": "request given back",
    "hold": "set aside",
    "void": "released",
    "archived": "requests of a month, archived",
}


class LedgerQuery(Query):
    """As which file."""

    format: Literal["csv", "jsonl"] = "csv"


class MonthQuery(Query):
    """As a page, or as which file."""

    format: Literal["html", "csv", "json"] = "html"


class BookPages:
    """`transactions` are as the reader may see them."""

    def __init__(
        self, pages: PagesOf, transactions: Handle[TransactionsQuery, Nothing, Any], statements: Statements
    ) -> None:
        self._pages = pages
        self._transactions = transactions
        self._statements = statements

    def rows(self, console: Console) -> list[AnyOperation]:
        page = self._pages.page
        return [
            page(console, f"{WALLET}/ledger", self.ledger, query=LedgerQuery, scope="read"),
            page(console, f"{WALLET}/statements/{{month}}", self.statement, query=MonthQuery, scope="read"),
        ]

    async def ledger(self, asked: Asked[LedgerQuery, Form]) -> Streamed:
        told = await self._transactions(asking(asked, Nothing(), TransactionsQuery(format=asked.query.format)))
        assert isinstance(told, Streamed)
        return told

    async def statement(self, asked: Asked[MonthQuery, Form]) -> Shown | Answered[Any]:
        form, month = asked.query.format, asked.path["month"]
        query = StatementQuery(format="csv" if form == "csv" else "json")
        told = await self._statements.get(asking(asked, Nothing(), query))
        if isinstance(told, Answered):
            return told
        if form == "json":
            file = attachment(f"statement-{month}.json")
            return Answered(written(told), None, (file,), "application/json")
        return Shown("statement.html", told_of(asked) | {"statement": told, "kinds": KIND_LABELS})


def latest_months(now_ms: Callable[[], int]) -> list[str]:
    """This one first."""
    months = [Month.at(now_ms())]
    while len(months) < _MONTHS:
        months.append(Month.at(months[-1].since_ms - 1))
    return [month.name for month in months]
