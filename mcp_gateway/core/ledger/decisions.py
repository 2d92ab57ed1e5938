"""What becomes of holds, their ends and money from outside, given what the books say. Knows no statement.

Runs inside a transaction, in the order in which things were asked; amounts in nano-USD.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.entries import Departure, End, Entry, GiveBack, Hold, PlaceHold, Short
from mcp_gateway.core.money import MAX_NANO, EntryKind
from mcp_gateway.core.record import RequestRecord


@dataclass(slots=True)
class Wallet:
    """An account's balances in nano-USD, with everything in the journal."""

    paid_nano: int
    granted_nano: int
    held_nano: int
    is_stored: bool
    is_changed: bool = False


class OpenHold(NamedTuple):
    """What a request holds, by where it came from, in nano-USD."""

    account_id: str
    paid_nano: int
    granted_nano: int
    is_stored: bool = False

    @property
    def amount_nano(self) -> int:
        return self.paid_nano + self.granted_nano


class Charged(NamedTuple):
    """What a request has cost so far, by where it came from: with what was given back, nothing."""

    paid_nano: int
    granted_nano: int
    revenue_nano: int


class Books(Protocol):
    """What decisions are made on and written to, within one transaction."""

    def hold_of(self, request_id: str) -> OpenHold | None: ...
    def wallet(self, account_id: str) -> Wallet: ...
    def open(self, request_id: str, hold: OpenHold) -> None: ...
    def end(self, request_id: str, kind: Literal["settle", "void"], *, paid_back: int, granted_back: int) -> None: ...
    def post(
        self, account_id: str, kind: EntryKind, reference: str, *, paid: int = 0, granted: int = 0, revenue: int = 0
    ) -> None: ...
    def record(self, record: RequestRecord) -> None: ...
    def correct(self, record: RequestRecord, *, keeps_cost: bool = False) -> None: ...
    def charged(self, request_id: str) -> Charged: ...
    def expire_grants(self, account_id: str) -> int: ...
    def draw_grants(self, request_id: str, account_id: str, amount_nano: int) -> None: ...
    def take_grants(self, account_id: str, amount_nano: int) -> None: ...
    def return_grants(self, request_id: str, amount_nano: int) -> None: ...
    def return_charged(self, account_id: str, amount_nano: int) -> None: ...


def decide(journal: Books, one: PlaceHold | Entry) -> Hold | Short | int:
    """What comes of one, with everything that follows from it in the journal."""
    if isinstance(one, PlaceHold):
        return _place(journal, one)
    if isinstance(one, Departure):
        journal.correct(one.record, keeps_cost=True)
        return 0
    return end(journal, one) if isinstance(one, End) else _give_back(journal, one)


def _place(journal: Books, ask: PlaceHold) -> Hold | Short:
    request_id, account_id = ask.request_id, ask.account_id
    if (before := journal.hold_of(request_id)) is not None:
        return Hold(request_id, account_id, before.amount_nano)
    wallet = journal.wallet(account_id)
    if wallet.granted_nano:
        journal.expire_grants(account_id)
    spendable_nano = wallet.paid_nano + wallet.granted_nano
    if spendable_nano < ask.needed_nano:
        return Short(spendable_nano, wallet.held_nano)
    amount_nano = min(ask.maximum_nano, spendable_nano)
    from_grants_nano = min(wallet.granted_nano, amount_nano)
    if from_grants_nano:
        journal.draw_grants(request_id, account_id, from_grants_nano)
    journal.open(request_id, OpenHold(account_id, amount_nano - from_grants_nano, from_grants_nano))
    return Hold(request_id, account_id, amount_nano)


def end(journal: Books, entry: End) -> int:
    hold = journal.hold_of(entry.request_id)
    charged_nano = 0 if hold is None else _charge(journal, hold, entry)
    if (record := entry.record) is not None:
        journal.record(record if record.cost_nano == charged_nano else record._replace(cost_nano=charged_nano))
    return charged_nano


def _charge(journal: Books, hold: OpenHold, end: End) -> int:
    """End the hold; returns what of the cost was charged."""
    excess_nano = end.cost_nano - hold.amount_nano
    if excess_nano > 0 and end.may_exceed:
        granted_nano, paid_nano = _take_free(journal, hold.account_id, excess_nano)
        granted_back_nano, paid_back_nano = -granted_nano, -paid_nano
    else:
        charged_nano = min(end.cost_nano, hold.amount_nano)
        granted_back_nano = max(hold.granted_nano - charged_nano, 0)
        paid_back_nano = hold.amount_nano - charged_nano - granted_back_nano
    if hold.granted_nano:
        journal.return_grants(end.request_id, max(granted_back_nano, 0))
    journal.end(end.request_id, end.kind, paid_back=paid_back_nano, granted_back=granted_back_nano)
    return hold.amount_nano - paid_back_nano - granted_back_nano


def _take_free(journal: Books, account_id: str, amount_nano: int) -> tuple[int, int]:
    """What of `amount_nano` the wallet has free, beyond all holds: (granted, paid). Takes it from the grants."""
    wallet = journal.wallet(account_id)
    if wallet.granted_nano:
        journal.expire_grants(account_id)
    granted_nano = min(amount_nano, wallet.granted_nano)
    if granted_nano:
        journal.take_grants(account_id, granted_nano)
    return granted_nano, min(amount_nano - granted_nano, max(wallet.paid_nano, 0))


def _give_back(journal: Books, back: GiveBack) -> int:
    """Return all that a request was charged, once, and correct its record; returns how much."""
    charged = journal.charged(back.request_id)
    journal.correct(back.record)
    if not charged.revenue_nano:
        return 0
    if charged.granted_nano:
        journal.return_charged(back.account_id, charged.granted_nano)
    journal.post(
        back.account_id, "refund_of_request", back.request_id,
        paid=charged.paid_nano, granted=charged.granted_nano, revenue=-charged.revenue_nano,
    )  # fmt: skip
    return charged.revenue_nano


def check_fits(wallet: Wallet) -> None:
    """Before anything is written: paid, granted and held money together must fit in a number of the database."""
    paid_nano, others_nano = wallet.paid_nano, wallet.granted_nano + wallet.held_nano
    if not -MAX_NANO <= paid_nano <= MAX_NANO - others_nano:
        raise GatewayError("invalid_value", "With this amount the account would have more than the ledger can hold.")
