"""GET /billing, /billing/transactions, /credits and /credits/transactions: an account's wallet and its ledger."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal

from http_api.exports import Format, export, format_of, most_of, paged
from http_api.moments import timestamps
from http_api.operations import About, Absent, Asked, Nothing, Streamed, Told
from http_api.paging import Page, PageQuery, cursor_key, page_of
from http_api.query import Query
from http_api.usage import UsageTotals, end_of_hour_ms, recent_since_ms, totals_fields
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.rules import GrantLeft
from mcp_gateway.core.ledger.statement import LedgerTransaction, ListedKind, Statement
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.observe.history import Among, History, Totals
from mcp_gateway.core.wallet import WalletObject

_Reading = Callable[[str | None, int], Awaitable[Sequence[LedgerTransaction]]]


TRANSACTION_ID = re.compile("txn_[0-9]{1,18}a?")
"""With a letter behind it where it stands for what was archived of a month, ahead of the transaction of that number."""


class TransactionsQuery(PageQuery):
    cursor: Annotated[str | None, cursor_key(TRANSACTION_ID)] = None
    format: Format | None = None
    """csv and jsonl have every transaction, unless `limit` is said."""


class RecentUsage(UsageTotals):
    """Of the 30 days until now; times in Unix seconds."""

    since: int
    until: int


class GrantObject(Told):
    """What is left of granted credit, until `expires_at` (Unix seconds), null where it lasts."""

    object: Literal["grant"]
    left_usd: str
    expires_at: int | None


class BillingObject(WalletObject):
    """The wallet, with its recent usage for keys that may read it.

    `grants` are the parts of `granted_usd` in the order in which they are spent, the first to expire first.
    """

    object: Literal["wallet"]
    account_id: str
    grants: list[GrantObject]
    usage: RecentUsage | Absent = None


class CreditsObject(WalletObject):
    """The wallet alone, as another system's clients know it."""

    object: Literal["credits"]


class TransactionObject(Told):
    """What one fact changed in the wallet, in USD; `amount_usd` is what the account owns more than before.

    An `archived` one is all charges of the month in `reference` that were taken out of the ledger into a file: `time`
    is the end of that month, and all amounts still add up to what the account owns.
    """

    object: Literal["transaction"]
    id: str
    created_at: int
    time: str
    kind: ListedKind
    reference: str
    amount_usd: str
    balance_change_usd: str
    granted_change_usd: str
    held_change_usd: str


class TransactionPage(Page[TransactionObject]):
    """Transactions, the newest first."""


class NotedTransactionObject(TransactionObject):
    """The same with what the operator noted, which is for the operator alone."""

    note: str | None


class NotedTransactionPage(Page[NotedTransactionObject]):
    """Transactions with their notes, the newest first."""


class Billing:
    """The wallet with its recent usage, and every transaction."""

    def __init__(self, ledger: Ledger, statement: Statement, history: History, now_ms: Callable[[], int]) -> None:
        self._ledger = ledger
        self._statement = statement
        self._history = history
        self._now_ms = now_ms

    async def get(self, asked: Asked[Query, Nothing]) -> BillingObject:
        about = asked.about
        balance = await self._ledger.balance(about.account_id)
        wallet: dict[str, Any] = {
            "object": "wallet",
            "account_id": about.account_id,
            **dict(balance.as_object()),
            "grants": [_grant_object(grant) for grant in balance.grants],
        }
        if not asked.may("read"):
            return BillingObject(**wallet)
        return BillingObject(**wallet, usage=await self._recent_usage(about))

    async def _recent_usage(self, about: About) -> RecentUsage:
        until_ms = self._now_ms()
        since_ms = recent_since_ms(until_ms)
        until = end_of_hour_ms(until_ms)
        days = await self._history.totals(about.account_id, since_ms, until, "day", among=Among(within=about.within))
        totals = totals_fields(sum(days.values(), Totals()))
        return RecentUsage(since=since_ms // 1000, until=until_ms // 1000, **totals)

    async def transactions(self, asked: Asked[TransactionsQuery, Nothing]) -> TransactionPage | Streamed:
        return await self._page(asked, only_moves=False)

    async def noted_transactions(self, asked: Asked[TransactionsQuery, Nothing]) -> NotedTransactionPage | Streamed:
        """For administrators."""
        query, read = asked.query, self._reading(asked, only_moves=False)
        if (form := format_of(asked)) != "json":
            rows = paged(read, _public_id, self._noted_of, after=query.cursor, most=most_of(query))
            return export("transactions", form, NotedTransactionObject, rows)
        found = await read(query.cursor, query.limit + 1)
        return page_of(NotedTransactionPage, found, query.limit, _public_id, await self._noted_of(found))

    async def credits(self, asked: Asked[Query, Nothing]) -> CreditsObject:
        return CreditsObject(object="credits", **dict(await self._wallet(asked.about.account_id)))

    async def credit_transactions(self, asked: Asked[TransactionsQuery, Nothing]) -> TransactionPage | Streamed:
        """Deposits and deductions: transactions without the holds of earlier releases."""
        return await self._page(asked, only_moves=True)

    async def _wallet(self, account_id: str) -> WalletObject:
        return (await self._ledger.balance(account_id)).as_object()

    async def _page(self, asked: Asked[TransactionsQuery, Nothing], *, only_moves: bool) -> TransactionPage | Streamed:
        query, read = asked.query, self._reading(asked, only_moves=only_moves)
        if (form := format_of(asked)) != "json":
            rows = paged(read, _public_id, _shown_of, after=query.cursor, most=most_of(query))
            return export("transactions", form, TransactionObject, rows)
        found = await read(query.cursor, query.limit + 1)
        return page_of(TransactionPage, found, query.limit, _public_id, _transaction_object)

    def _reading(self, asked: Asked[TransactionsQuery, Nothing], *, only_moves: bool) -> _Reading:
        """Reads so many rows behind one."""
        account_id = asked.about.account_id

        async def read(last: str | None, limit: int) -> Sequence[LedgerTransaction]:
            before = None if last is None else _place(last)
            return await self._statement.page(account_id, before=before, limit=limit, only_moves=only_moves)

        return read

    async def _noted_of(
        self, rows: Sequence[LedgerTransaction]
    ) -> Callable[[LedgerTransaction], NotedTransactionObject]:
        notes = await self._statement.notes(rows)
        return lambda row: NotedTransactionObject(**_fields(row), note=notes.get(row))


def _grant_object(grant: GrantLeft) -> GrantObject:
    expires_at = None if grant.expires_at_ms is None else grant.expires_at_ms // 1000
    return GrantObject(object="grant", left_usd=format_usd(grant.left_nano), expires_at=expires_at)


def _public_id(transaction: LedgerTransaction) -> str:
    return f"txn_{transaction.id}{'a' if transaction.kind == 'archived' else ''}"


def _place(public_id: str) -> int:
    number = public_id.removeprefix("txn_")
    return 2 * int(number.removesuffix("a")) + number.endswith("a")


async def _shown_of(_: Sequence[LedgerTransaction]) -> Callable[[LedgerTransaction], TransactionObject]:
    return _transaction_object


def _transaction_object(transaction: LedgerTransaction) -> TransactionObject:
    return TransactionObject(**_fields(transaction))


def _fields(transaction: LedgerTransaction) -> dict[str, Any]:
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
