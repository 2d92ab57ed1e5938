"""What a run of the writer has read of wallets and holds, and is about to write: each read once, all written together.

Lives within one transaction, so that it can be behind nobody and is forgotten with what is rolled back.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Literal

from mcp_gateway.core.ledger.decisions import Charged, OpenHold, Wallet
from mcp_gateway.core.money import EntryKind
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sql.requests import CORRECT, correction, insert_records
from mcp_gateway.core.store.sqlite import grants
from mcp_gateway.core.store.transaction import Row

_HOLDS = "SELECT request_id, account_id, paid_nano, granted_nano FROM holds"
_KINDS_OF_A_REQUEST = ("kind = 'hold'", "kind IN ('settle', 'void')", "kind = 'refund_of_request'")
"""Of the transactions that bear a request's id; each in the words by which SQLite knows that an index serves."""
_OF_A_REQUEST = " UNION ALL ".join(
    f"SELECT * FROM ledger_transactions WHERE reference = :id AND {kinds}" for kinds in _KINDS_OF_A_REQUEST
)
_CHARGED = (
    "SELECT COALESCE(-SUM(paid_nano), 0), COALESCE(-SUM(granted_nano), 0), COALESCE(SUM(revenue_nano), 0) "
    f"FROM ({_OF_A_REQUEST})"
)
_WALLET = "SELECT paid_nano, granted_nano, held_nano FROM wallets WHERE account_id = ?"
_NEW_WALLET = "INSERT INTO wallets (paid_nano, granted_nano, held_nano, account_id) VALUES (?, ?, ?, ?)"
_CHANGED_WALLET = "UPDATE wallets SET paid_nano = ?, granted_nano = ?, held_nano = ? WHERE account_id = ?"
_TRANSACTION = """
INSERT INTO ledger_transactions
    (account_id, kind, reference, paid_nano, granted_nano, held_nano, revenue_nano, grant_source_nano, clearing_nano,
     created_at_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class Journal:
    """The holds of the requests it was made for, the wallets that were asked for, and what is to be written.

    Amounts in nano-USD, `now_ms` in milliseconds.
    """

    def __init__(self, connection: sqlite3.Connection, now_ms: int, requests: Sequence[str] = ()) -> None:
        self.connection = connection
        self.now_ms = now_ms
        self._wallets: dict[str, Wallet] = {}
        self._holds = _open_holds(connection, requests) if requests else {}
        self._ended: list[tuple[str]] = []
        self._transactions: list[Row] = []
        self._records: list[RequestRecord] = []
        self._corrections: list[Row] = []

    @classmethod
    def of_all_holds(
        cls, connection: sqlite3.Connection, now_ms: int, created_before_ms: int | None = None
    ) -> "Journal":
        """One that knows every open hold there is, or of those the ones that were made before a time."""
        journal = cls(connection, now_ms)
        limit_ms = 2**63 - 1 if created_before_ms is None else created_before_ms
        journal._holds = _by_request(connection.execute(f"{_HOLDS} WHERE created_at_ms < ?", (limit_ms,)))
        return journal

    @property
    def open_requests(self) -> list[str]:
        return list(self._holds)

    def hold_of(self, request_id: str) -> OpenHold | None:
        """What the request holds; None where nothing is open."""
        return self._holds.get(request_id)

    def wallet(self, account_id: str) -> Wallet:
        """The account's balances as of now; empty for an account without any."""
        wallet = self._wallets.get(account_id)
        if wallet is None:
            row: tuple[int, int, int] | None = self.connection.execute(_WALLET, (account_id,)).fetchone()
            wallet = self._wallets[account_id] = Wallet(*(row or (0, 0, 0)), row is not None)
        return wallet

    def open(self, request_id: str, hold: OpenHold) -> None:
        """Set aside for the request what the wallet must have."""
        self._holds[request_id] = hold
        self.post(
            hold.account_id, "hold", request_id,
            paid=-hold.paid_nano, granted=-hold.granted_nano, held=hold.amount_nano,
        )  # fmt: skip

    def end(self, request_id: str, kind: Literal["settle", "void"], *, paid_back: int, granted_back: int) -> None:
        """Give back these parts of an open hold; the rest of it is earned."""
        hold = self._holds.pop(request_id)
        if hold.is_stored:
            self._ended.append((request_id,))
        charged = hold.amount_nano - paid_back - granted_back
        self.post(
            hold.account_id, kind, request_id,
            paid=paid_back, granted=granted_back, held=-hold.amount_nano, revenue=charged,
        )  # fmt: skip

    def post(
        self,
        account_id: str,
        kind: EntryKind,
        reference: str,
        *,
        paid: int = 0,
        granted: int = 0,
        held: int = 0,
        revenue: int = 0,
        grant_source: int = 0,
        clearing: int = 0,
    ) -> None:
        """One fact, all amounts in nano-USD, and the balance that follows from it."""
        wallet = self.wallet(account_id)
        wallet.paid_nano += paid
        wallet.granted_nano += granted
        wallet.held_nano += held
        wallet.is_changed = True
        entries = (paid, granted, held, revenue, grant_source, clearing)
        self._transactions.append((account_id, kind, reference, *entries, self.now_ms))

    def record(self, record: RequestRecord) -> None:
        """A row of the request log."""
        self._records.append(record)

    def correct(self, record: RequestRecord, *, keeps_cost: bool = False) -> None:
        """What a request's row says of its outcome from now on, and of its cost where that does not stay."""
        self._corrections.append(correction(record, keeps_cost=keeps_cost))

    def charged(self, request_id: str) -> Charged:
        """What a request has cost so far, as it stands in the database."""
        return Charged(*self.connection.execute(_CHARGED, {"id": request_id}).fetchone())

    def expire_grants(self, account_id: str) -> int:
        """Take back what is left, and not held, of grants whose time is over; returns how much."""
        expired = grants.take_expired(self.connection, account_id, self.now_ms)
        for grant_id, left_nano in expired:
            self.post(account_id, "expire", f"grant {grant_id}", granted=-left_nano, grant_source=left_nano)
        return sum(left_nano for _, left_nano in expired)

    def draw_grants(self, request_id: str, account_id: str, amount_nano: int) -> None:
        """Take `amount_nano` for a request's hold, and note how much from which grant."""
        grants.draw(self.connection, request_id, account_id, amount_nano)

    def take_grants(self, account_id: str, amount_nano: int) -> None:
        """Take `amount_nano` from the account's grants, the first to expire first."""
        grants.take(self.connection, account_id, amount_nano)

    def return_grants(self, request_id: str, amount_nano: int) -> None:
        """Return what a hold did not need to the grants it drew on, and forget its draws."""
        grants.give_back(self.connection, request_id, amount_nano)

    def return_charged(self, account_id: str, amount_nano: int) -> None:
        """Return what was charged to grants once, and whose draws are forgotten."""
        grants.return_charged(self.connection, account_id, amount_nano, self.now_ms)

    def write(self) -> None:
        """Into the database, all at once. Raises sqlite3.Error, also for what one entry alone is to blame for."""
        if self._ended:
            self.connection.executemany("DELETE FROM holds WHERE request_id = ?", self._ended)
        if opened := [self._row(request_id, hold) for request_id, hold in self._holds.items() if not hold.is_stored]:
            self.connection.executemany("INSERT INTO holds VALUES (?, ?, ?, ?, ?)", opened)
        if self._transactions:
            self.connection.executemany(_TRANSACTION, self._transactions)
        for account_id, wallet in self._wallets.items():
            if wallet.is_changed:
                row = (wallet.paid_nano, wallet.granted_nano, wallet.held_nano, account_id)
                self.connection.execute(_CHANGED_WALLET if wallet.is_stored else _NEW_WALLET, row)
        if self._records:
            insert_records(self.connection, self._records)
        if self._corrections:
            self.connection.executemany(CORRECT, self._corrections)

    def _row(self, request_id: str, hold: OpenHold) -> Row:
        return (request_id, hold.account_id, hold.paid_nano, hold.granted_nano, self.now_ms)


def _open_holds(connection: sqlite3.Connection, requests: Sequence[str]) -> dict[str, OpenHold]:
    """The open ones of some requests, by one query of a few sizes, each of which SQLite compiles once."""
    size = 1 << (len(requests) - 1).bit_length()
    padded = [*requests, *([requests[-1]] * (size - len(requests)))]
    return _by_request(connection.execute(f"{_HOLDS} WHERE request_id IN ({', '.join('?' * size)})", padded))


def _by_request(rows: Iterable[tuple[str, str, int, int]]) -> dict[str, OpenHold]:
    return {
        request_id: OpenHold(account_id, paid_nano, granted_nano, True)
        for request_id, account_id, paid_nano, granted_nano in rows
    }
