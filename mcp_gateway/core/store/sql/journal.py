"""What a run of the writer has read of wallets, and is about to write: each read once, all written together.

Lives within one transaction, so that it can be behind nobody and is forgotten with what is rolled back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mcp_gateway.core.ledger.budgets import Spent
from mcp_gateway.core.ledger.entries import Ended, WalletState
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.money import EntryKind
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sql import grants
from mcp_gateway.core.store.sql.auto_topups import THRESHOLD, begin_auto_payment
from mcp_gateway.core.store.sql.budgets import spend, take_from_pocket
from mcp_gateway.core.store.sql.requests import CORRECT, correction, insert_records
from mcp_gateway.core.store.sql.webhooks import MARK, tell_of_low_balance
from mcp_gateway.core.store.transaction import Row, Transaction

_WALLET = f"SELECT paid_nano, granted_nano, {MARK}, {THRESHOLD} FROM wallets WHERE account_id = ?"
_NEW_WALLET = "INSERT INTO wallets (paid_nano, granted_nano, account_id, held_nano) VALUES (?, ?, ?, 0)"
_CHANGED_WALLET = "UPDATE wallets SET paid_nano = ?, granted_nano = ? WHERE account_id = ?"
_BEGINNING: frozenset[EntryKind] = frozenset({"settle", "credit"})
"""What begins a payment where it leaves too little: what is spent, and a payment that was not enough. Nobody is charged
for what the operator takes away, or for a gift that expires."""
_TRANSACTION = """
INSERT INTO ledger_rows
    (account_number, kind, reference, paid_nano, granted_nano, held_nano, revenue_nano, grant_source_nano,
     clearing_nano, created_at_ms)
VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?)
"""


@dataclass(slots=True)
class Wallet:
    """An account's balances in nano-USD, with everything in the journal."""

    paid_nano: int
    granted_nano: int
    is_stored: bool
    mark_nano: int | None = None
    """Below what the account is to be told so, where it is not known to be below already."""
    threshold_nano: int | None = None
    """Below what a payment is begun that tops it up, where none is under way."""


class Journal:
    """The wallets that were asked for, and what is to be written.

    Amounts in nano-USD, `now_ms` in milliseconds.
    """

    def __init__(self, transaction: Transaction) -> None:
        self.now_ms = transaction.now_ms()
        self._transaction = transaction
        self._connection = transaction.connection
        self._wallets: dict[str, Wallet] = {}
        self._entries: list[Row] = []
        self._drawn: list[tuple[int, int]] = []
        self._ended: list[str] = []
        self._spent: list[tuple[str, Spent, int]] = []
        self._of_pockets: list[tuple[str, str, Amount]] = []
        self._records: list[RequestRecord] = []
        self._corrections: list[Row] = []

    def wallet(self, account_id: str) -> Wallet:
        """The account's balances as of now; empty for an account without any."""
        wallet = self._wallets.get(account_id)
        if wallet is None:
            row: Row | None = self._connection.execute(_WALLET, (account_id,)).fetchone()
            wallet = Wallet(0, 0, False) if row is None else Wallet(row[0], row[1], True, row[2], row[3])
            self._wallets[account_id] = wallet
        return wallet

    def settle(
        self, request_id: str, account_id: str, charge: Amount, windows: Sequence[Spent] = (), pocket: str | None = None
    ) -> None:
        """Earn what a request is charged, which is spent of these windows of budgets, too, and of a lease's money."""
        granted_nano = charge.granted_nano
        revenue_nano = charge.paid_nano + granted_nano
        self.post(account_id, "settle", request_id, paid=-charge.paid_nano, granted=-granted_nano, revenue=revenue_nano)
        self.take(charge)
        self.spend(account_id, windows, revenue_nano)
        if pocket is not None:
            self._of_pockets.append((account_id, pocket, charge))
        self._ended.append(request_id)

    def leave_uncharged(self, request_id: str) -> None:
        """Earn nothing by a request, which holds nothing any more."""
        self._ended.append(request_id)

    def spend(self, account_id: str, windows: Sequence[Spent], amount_nano: int) -> None:
        """So much more is spent of these windows, or less."""
        if windows:
            self._spent += [(account_id, window, amount_nano) for window in windows]

    def take(self, parts: Amount) -> None:
        """Take what of an amount is granted from its grants."""
        if parts.grants:
            self._drawn += [(part_nano, grant_id) for grant_id, part_nano in parts.grants]

    def post(
        self,
        account_id: str,
        kind: EntryKind,
        reference: str,
        *,
        paid: int = 0,
        granted: int = 0,
        revenue: int = 0,
        grant_source: int = 0,
        clearing: int = 0,
    ) -> None:
        """One fact, all amounts in nano-USD, and the balance that follows from it."""
        assert paid + granted + revenue + grant_source + clearing == 0, "an entry must sum to zero"
        wallet = self.wallet(account_id)
        wallet.paid_nano += paid
        wallet.granted_nano += granted
        number = self._transaction.numbers[(account_id,)][0]
        self._entries.append((number, kind, reference, paid, granted, revenue, grant_source, clearing, self.now_ms))

    def record(self, record: RequestRecord) -> None:
        """A row of the request log."""
        self._records.append(record)

    def correct(self, record: RequestRecord, *, keeps_cost: bool = False) -> None:
        """What a request's row says of its outcome from now on, and of its cost where that does not stay."""
        self._corrections.append(correction(record, keeps_cost=keeps_cost))

    def write(self) -> None:
        """Into the database, all at once. Raises sqlite3.Error, also for what one entry alone is to blame for."""
        if self._drawn:
            self._connection.executemany(grants.TAKE, self._drawn)
        if self._entries:
            self._write_entries()
        for spent in self._spent:
            spend(self._transaction, *spent)
        if self._ended:
            self._transaction.tell(Ended(tuple(self._ended)))
        for taken in self._of_pockets:  # told when nothing is held of it any more
            take_from_pocket(self._transaction, *taken)
        if self._records:
            insert_records(self._transaction, self._records)
        if self._corrections:
            self._connection.executemany(CORRECT, self._corrections)

    def _write_entries(self) -> None:
        *before, last = self._entries
        if before:
            self._connection.executemany(_TRANSACTION, before)
        version = self._connection.execute(_TRANSACTION, last).lastrowid  # executemany does not tell it
        assert version is not None
        for account_id, wallet in self._wallets.items():  # each that is looked at is posted to as well
            self._write_wallet(account_id, wallet, version)

    def _write_wallet(self, account_id: str, wallet: Wallet, version: int) -> None:
        row = (wallet.paid_nano, wallet.granted_nano, account_id)
        self._connection.execute(_CHANGED_WALLET if wallet.is_stored else _NEW_WALLET, row)
        balance_nano = wallet.paid_nano + wallet.granted_nano
        if wallet.mark_nano is not None and balance_nano < wallet.mark_nano:
            tell_of_low_balance(self._transaction, account_id, balance_nano, wallet.mark_nano)
        if wallet.threshold_nano is not None and balance_nano < wallet.threshold_nano and self._may_begin(account_id):
            begin_auto_payment(self._transaction, account_id)
        left = grants.left(self._connection, account_id) if wallet.granted_nano else ()
        self._transaction.tell(WalletState(account_id, wallet.paid_nano, left, version))

    def _may_begin(self, account_id: str) -> bool:
        """Whether something here may have an account topped up."""
        (number,) = self._transaction.numbers[(account_id,)]
        return any(one == number and kind in _BEGINNING for one, kind, *_ in self._entries)
