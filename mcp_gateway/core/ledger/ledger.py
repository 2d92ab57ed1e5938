"""The wallet of each account: integers in nano-USD, append-only facts, every decision in the writer's transaction.

A hold counts against the balance at once. Granted credit is used before what was paid, that which expires first before
the rest; a hold fixes which grants it draws on. Settling and voiding end a hold once, whoever asks again.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, cast

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.journal import Journal, OpenHold
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.store.store import Insertion, Store

_EXPIRY_INTERVAL_S = 10.0


class Hold(NamedTuple):
    """What is set aside for a request."""

    request_id: str
    account_id: str
    amount_nano: int


class _Ask(NamedTuple):
    """A hold that is asked for."""

    request_id: str
    account_id: str
    minimum_nano: int
    maximum_nano: int


class _End(NamedTuple):
    """A settlement or a void, and the record of the request, which goes into the same transaction."""

    request_id: str
    kind: str
    cost_nano: int
    also: Insertion | None


@dataclass(frozen=True, slots=True)
class Balance:
    """Nano-USD of an account: spendable are `paid_nano` and `granted_nano`; `held_nano` is set aside already."""

    paid_nano: int = 0
    granted_nano: int = 0
    held_nano: int = 0

    @property
    def spendable_nano(self) -> int:
        return self.paid_nano + self.granted_nano


class Ledger:
    """All wallets."""

    def __init__(
        self, store: Store, *, now_ms: Callable[[], int], minimum_balance_nano: int = 0, topup_url: str | None = None
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._minimum_balance_nano = minimum_balance_nano
        self._topup = {} if topup_url is None else {"topup_url": topup_url}
        self._group = self._hold_and_end

    async def hold(self, request_id: str, account_id: str, minimum_nano: int, maximum_nano: int) -> Hold:
        """Set aside up to `maximum_nano`, at least `minimum_nano`, for a request; asked again, the same hold.

        Raises GatewayError `insufficient_balance` or `below_minimum_balance` (402), `ledger_unavailable` (503).
        Not durable: a hold dies with the process that made it.
        """
        ask = _Ask(request_id, account_id, minimum_nano, maximum_nano)
        return cast(Hold, await self._store.write_grouped(self._group, ask, is_durable=False))

    async def settle(self, hold: Hold, cost_nano: int, also: Insertion | None) -> int:
        """End a hold by charging `cost_nano`, at most what is held; returns what was charged, 0 if it had ended before.

        `also` is written with it, whether or not the hold had ended. Durable. Raises GatewayError `ledger_unavailable`
        where that takes longer; it is still carried out.
        """
        end = _End(hold.request_id, "settle", cost_nano, also)
        return cast(int, await self._store.write_grouped(self._group, end, must_commit=True))

    async def void(self, request_id: str, also: Insertion | None) -> None:
        """End a request's hold, if there is one, by giving all of it back. Raises as settle."""
        end = _End(request_id, "void", 0, also)
        await self._store.write_grouped(self._group, end, is_durable=False, must_commit=True)

    async def credit(self, account_id: str, amount_nano: int, reference: str) -> bool:
        """Add paid money from outside; False if `reference` was applied before."""
        if amount_nano <= 0:
            raise ValueError("a credit is more than nothing")
        return await self._store.write(
            lambda connection: self.move(connection, account_id, "credit", amount_nano, reference)
        )

    async def grant(
        self, account_id: str, amount_nano: int, reference: str, *, expires_at_ms: int | None = None
    ) -> bool:
        """Give credit that nobody paid for; False if `reference` was applied before."""
        if amount_nano <= 0:
            raise ValueError("a grant is more than nothing")

        def work(connection: sqlite3.Connection) -> bool:
            if _is_applied(connection, "grant", reference):
                return False
            journal = self._journal(connection)
            journal.post(account_id, "grant", reference, granted=amount_nano, grant_source=-amount_nano)
            journal.write()
            row = (account_id, amount_nano, expires_at_ms, journal.now_ms)
            connection.execute(
                "INSERT INTO grants (account_id, remaining_nano, expires_at_ms, created_at_ms) VALUES (?, ?, ?, ?)", row
            )
            return True

        return await self._store.write(work)

    async def balance(self, account_id: str) -> Balance:
        """The account's wallet as of the last commit; empty for an account without one."""
        sql = "SELECT paid_nano, granted_nano, held_nano FROM wallets WHERE account_id = ?"
        row = await self._store.fetch_one(sql, (account_id,))
        return Balance(*row) if row else Balance()

    async def void_open_holds(self) -> int:
        """Void every hold there is; right only at start, before this process has made one. Returns how many."""

        def work(connection: sqlite3.Connection) -> int:
            journal = Journal.of_all_holds(connection, self._now_ms())
            requests = journal.open_requests
            for request_id in requests:
                _end(journal, _End(request_id, "void", 0, None))
            journal.write()
            return len(requests)

        return await self._store.write(work)

    async def expire_grants(self) -> int:
        """Take back what is left, and not held, of every grant whose time is over; returns nano-USD."""
        sql = "SELECT DISTINCT account_id FROM grants WHERE remaining_nano > 0 AND expires_at_ms <= ?"
        rows = await self._store.fetch_all(sql, (self._now_ms(),))

        def work(connection: sqlite3.Connection) -> int:
            journal = self._journal(connection)
            taken_nano = sum(_expire(journal, account_id) for (account_id,) in rows)
            journal.write()
            return taken_nano

        return await self._store.write(work) if rows else 0

    @property
    def is_writable(self) -> bool:
        """Whether holds and settlements go through now."""
        return self._store.is_available

    async def watch_grants(self) -> None:
        """Expire grants as their time comes, until cancelled; a hold does not wait for this."""
        while True:
            with suppress(GatewayError):  # the database cannot be written: the next round does it
                await self.expire_grants()
            await asyncio.sleep(_EXPIRY_INTERVAL_S)

    async def check(self) -> list[str]:
        """Every discrepancy between the facts and what is derived from them, in words; empty is good."""
        return [
            f"{what}: {', '.join(map(str, row))}"
            for what, sql in _CHECKS.items()
            for row in await self._store.fetch_all(sql)
        ]

    # Inside the writer's transaction

    def move(
        self, connection: sqlite3.Connection, account_id: str, kind: str, amount_nano: int, reference: str
    ) -> bool:
        """Add paid money from outside, or take it back where `amount_nano` is negative: for a write of someone else's.

        `kind` is credit, refund or dispute; False if its `reference` was applied before. May leave less than nothing.
        """
        if _is_applied(connection, kind, reference):
            return False
        journal = self._journal(connection)
        journal.post(account_id, kind, reference, paid=amount_nano, clearing=-amount_nano)
        journal.write()
        return True

    def _hold_and_end(
        self, connection: sqlite3.Connection, wanted: Sequence[_Ask | _End]
    ) -> list[Hold | int | GatewayError]:
        """The store's group for what a request costs: decided in order, read and written together."""
        journal = Journal(connection, self._now_ms(), [one.request_id for one in wanted])
        outcomes: list[Hold | int | GatewayError] = []
        for one in wanted:
            try:
                outcomes.append(self._hold(journal, one) if isinstance(one, _Ask) else _end(journal, one))
            except GatewayError as refusal:
                outcomes.append(refusal)
        journal.write()
        return outcomes

    def _hold(self, journal: Journal, ask: _Ask) -> Hold:
        request_id, account_id, minimum_nano, maximum_nano = ask
        if (before := journal.hold_of(request_id)) is not None:
            return Hold(request_id, account_id, before.amount_nano)
        wallet = journal.wallet(account_id)
        if wallet.granted_nano:
            _expire(journal, account_id)
        spendable_nano = wallet.paid_nano + wallet.granted_nano
        self._check_affordable(spendable_nano, minimum_nano)
        amount_nano = min(maximum_nano, spendable_nano)
        from_grants_nano = min(wallet.granted_nano, amount_nano)
        if from_grants_nano:
            _draw(journal.connection, request_id, account_id, from_grants_nano)
        journal.open(request_id, OpenHold(account_id, amount_nano - from_grants_nano, from_grants_nano))
        return Hold(request_id, account_id, amount_nano)

    def _check_affordable(self, spendable_nano: int, minimum_nano: int) -> None:
        if spendable_nano < minimum_nano:
            code = "insufficient_balance"
            message = (
                f"The balance of {format_usd(spendable_nano)} USD does not cover this request, "
                f"which may cost at least {format_usd(minimum_nano)} USD."
            )
        elif spendable_nano < self._minimum_balance_nano:
            code = "below_minimum_balance"
            message = f"Requests need a balance of {format_usd(self._minimum_balance_nano)} USD."
        else:
            return
        details = {"balance_usd": format_usd(spendable_nano), **self._topup}
        raise GatewayError(code, message, details=details)

    def _journal(self, connection: sqlite3.Connection) -> Journal:
        return Journal(connection, self._now_ms())


def _end(journal: Journal, end: _End) -> int:
    if end.also is not None:
        journal.insert(end.also)
    hold = journal.hold_of(end.request_id)
    if hold is None:
        return 0
    charged_nano = min(end.cost_nano, hold.amount_nano)
    granted_back_nano = max(hold.granted_nano - charged_nano, 0)
    if hold.granted_nano:
        _give_back(journal.connection, end.request_id, granted_back_nano)
    paid_back_nano = hold.amount_nano - charged_nano - granted_back_nano
    journal.end(end.request_id, end.kind, paid_back=paid_back_nano, granted_back=granted_back_nano)
    return charged_nano


def _expire(journal: Journal, account_id: str) -> int:
    """Take back what is left, and not held, of grants whose time is over; returns how much."""
    sql = "SELECT id, remaining_nano FROM grants WHERE account_id = ? AND remaining_nano > 0 AND expires_at_ms <= ?"
    expired: list[tuple[int, int]] = journal.connection.execute(sql, (account_id, journal.now_ms)).fetchall()
    for grant_id, left_nano in expired:
        journal.connection.execute("UPDATE grants SET remaining_nano = 0 WHERE id = ?", (grant_id,))
        journal.post(account_id, "expire", f"grant {grant_id}", granted=-left_nano, grant_source=left_nano)
    return sum(left_nano for _, left_nano in expired)


def _is_applied(connection: sqlite3.Connection, kind: str, reference: str) -> bool:
    sql = (
        "SELECT 1 FROM ledger_transactions WHERE kind = ? AND reference = ? "
        "AND kind IN ('credit', 'grant', 'refund', 'dispute')"  # the words by which SQLite knows that the index serves
    )
    return connection.execute(sql, (kind, reference)).fetchone() is not None


def _draw(connection: sqlite3.Connection, request_id: str, account_id: str, amount_nano: int) -> None:
    """Take `amount_nano` from the account's grants, the first to expire first, and note how much from which."""
    sql = (
        "SELECT id, remaining_nano FROM grants WHERE account_id = ? AND remaining_nano > 0 "
        "ORDER BY expires_at_ms IS NULL, expires_at_ms, id"
    )
    for grant_id, remaining_nano in connection.execute(sql, (account_id,)).fetchall():
        part_nano = min(remaining_nano, amount_nano)
        connection.execute("UPDATE grants SET remaining_nano = remaining_nano - ? WHERE id = ?", (part_nano, grant_id))
        connection.execute("INSERT INTO hold_grants VALUES (?, ?, ?)", (request_id, grant_id, part_nano))
        amount_nano -= part_nano
        if not amount_nano:
            return
    raise AssertionError("grants hold less than the wallet says")


def _give_back(connection: sqlite3.Connection, request_id: str, amount_nano: int) -> None:
    """Return what a hold did not need to the grants it drew on, the last to expire first; forget its draws."""
    sql = (
        "SELECT grant_id, amount_nano FROM hold_grants JOIN grants ON id = grant_id WHERE request_id = ? "
        "ORDER BY expires_at_ms IS NULL DESC, expires_at_ms DESC, grant_id DESC"
    )
    for grant_id, drawn_nano in connection.execute(sql, (request_id,)).fetchall():
        part_nano = min(drawn_nano, amount_nano)
        connection.execute("UPDATE grants SET remaining_nano = remaining_nano + ? WHERE id = ?", (part_nano, grant_id))
        amount_nano -= part_nano
    connection.execute("DELETE FROM hold_grants WHERE request_id = ?", (request_id,))


_CHECKS = {
    "a transaction does not sum to zero (id)": """
        SELECT id FROM ledger_transactions
        WHERE paid_nano + granted_nano + held_nano + revenue_nano + grant_source_nano + clearing_nano <> 0""",
    "a wallet differs from its transactions (account, paid, granted, held by the wallet; by the transactions)": """
        SELECT id, w.paid_nano, w.granted_nano, w.held_nano, t.paid, t.granted, t.held
        FROM accounts LEFT JOIN wallets AS w ON w.account_id = id LEFT JOIN (
            SELECT account_id, SUM(paid_nano) AS paid, SUM(granted_nano) AS granted, SUM(held_nano) AS held
            FROM ledger_transactions GROUP BY account_id
        ) AS t ON t.account_id = id
        WHERE w.paid_nano IS NOT t.paid OR w.granted_nano IS NOT t.granted OR w.held_nano IS NOT t.held""",
    "open holds differ from what a wallet holds (account, wallet, holds)": """
        SELECT account_id, held_nano, total FROM (
            SELECT w.account_id, w.held_nano, COALESCE(
                (SELECT SUM(paid_nano + granted_nano) FROM holds AS h WHERE h.account_id = w.account_id), 0) AS total
            FROM wallets AS w)
        WHERE held_nano <> total""",
    "grants differ from what a wallet was granted (account, wallet, grants)": """
        SELECT account_id, granted_nano, total FROM (
            SELECT w.account_id, w.granted_nano, COALESCE(
                (SELECT SUM(remaining_nano) FROM grants AS g WHERE g.account_id = w.account_id), 0) AS total
            FROM wallets AS w)
        WHERE granted_nano <> total""",
    "a hold differs from what it drew on grants (request, hold, draws)": """
        SELECT request_id, granted_nano, total FROM (
            SELECT h.request_id, h.granted_nano, COALESCE(
                (SELECT SUM(amount_nano) FROM hold_grants AS d WHERE d.request_id = h.request_id), 0) AS total
            FROM holds AS h)
        WHERE granted_nano <> total""",
    "a hold is neither open nor ended, or both (request, not ended by its transactions, open)": """
        SELECT reference, t.held, COALESCE(h.paid_nano + h.granted_nano, 0) FROM (
            SELECT reference, SUM(held_nano) AS held FROM ledger_transactions
            WHERE kind IN ('hold', 'settle', 'void') GROUP BY reference
        ) AS t LEFT JOIN holds AS h ON h.request_id = reference
        WHERE t.held <> COALESCE(h.paid_nano + h.granted_nano, 0)""",
    "a request's record differs from its settlement (request, recorded, charged)": """
        SELECT reference, cost_nano, revenue_nano FROM ledger_transactions AS t
        JOIN requests AS r ON r.id = reference AND r.account_id = t.account_id
        WHERE kind = 'settle' AND cost_nano <> revenue_nano""",
    "a request was settled or voided twice (request, times)": """
        SELECT reference, COUNT(*) FROM ledger_transactions WHERE kind IN ('settle', 'void')
        GROUP BY reference HAVING COUNT(*) > 1""",
}
