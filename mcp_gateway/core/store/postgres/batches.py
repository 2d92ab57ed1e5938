"""What requests cost and their rows, all of a batch in one statement: nothing is decided there, only written.

It writes what every request writes. Where more is to be told than a wallet's state, or more is kept of a request than
its row, the executors of any engine do it, one statement after the other.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import orjson

from mcp_gateway.core.engine import Write
from mcp_gateway.core.ledger.allotments import PAID, Allotted, Fund, of_money, of_windows
from mcp_gateway.core.ledger.budgets import BudgetSpent, Spent
from mcp_gateway.core.ledger.entries import Ended, LeaveUncharged, Settle, WalletState
from mcp_gateway.core.ledger.rules import GrantLeft
from mcp_gateway.core.record import UNNAMED_SURFACE, AddRecord, RequestRecord
from mcp_gateway.core.store.names import Names
from mcp_gateway.core.store.sql import grants
from mcp_gateway.core.store.sql.requests import BEFORE, BEHIND_AND_SURFACE, NOTHING_OF_THAT, OF_FEW
from mcp_gateway.core.store.transaction import Row, RunTogether, Transaction
from mcp_gateway.core.webhooks.events import PERCENTS

_FUNDS, _WHOSE_AND_WHEN = "tttnn", "...."
_CHARGES = "ntnn" + "tnn" + "nn" + "tnnn"
_RECORDS = "nnnnn" + "tttb" + "nnnnnnnn" + "ttt"
"""Parameters, in their order: a column of numbers, of texts or of booleans, or one value."""
_AS_SENT = {
    "n": "CAST(CAST(? AS text) AS bigint[])",
    "t": "CAST(CAST(? AS text) AS text[])",
    "b": "CAST(CAST(? AS text) AS boolean[])",
    ".": "?",
}
"""A column as one text, which costs the driver less than value by value."""


def _call(function: str, kinds: str) -> str:
    return f"SELECT * FROM {function}({', '.join(_AS_SENT[kind] for kind in kinds)})"


_SETTLE = _call("settle_batch_v1", _WHOSE_AND_WHEN + _CHARGES + _RECORDS)
_SETTLE_ALLOTTED = _call("settle_allotted_v1", _FUNDS + _WHOSE_AND_WHEN + _CHARGES + _RECORDS)
_OWN = "SELECT * FROM allotted_to_v1(?, ?)"
_NUMBER = "SELECT number_names_v1(?)"
_VERSION = "SELECT MAX(id) FROM ledger_rows WHERE kind = 'settle' AND reference IN (SELECT unnest(CAST(? AS text[])))"
_WALLET = "SELECT paid_nano, granted_nano FROM wallets WHERE account_id = ?"
_SPENT = "SELECT spent_nano FROM budget_windows WHERE budget_id = ? AND starts_at_ms = ?"
_OWN_FROM = 9
"""Where in what comes back what is left of the allotted stands."""

_Plain = Settle | LeaveUncharged | AddRecord


def is_plain(write: Write[Any]) -> bool:
    """Whether it is one that every request writes, and writes no more than that."""
    if isinstance(write, Settle):
        return write.pocket is None and _is_plain(write.record)
    return isinstance(write, LeaveUncharged) or (isinstance(write, AddRecord) and _is_plain(write.record))


def _is_plain(record: RequestRecord | None) -> bool:
    return record is None or record[OF_FEW] == NOTHING_OF_THAT


def account_of(write: Write[Any]) -> str | None:
    """Whose wallet or log it may change, where it says so."""
    found: str | None = getattr(write, "account_id", None) or getattr(
        getattr(write, "record", None), "account_id", None
    )
    return found


class RequestBatch:
    """Plain writes, as the database takes them."""

    def __init__(self, transaction: Transaction, writes: Sequence[_Plain]) -> None:
        """Names that are new are numbered at once, and keep their numbers whatever becomes of the batch."""
        self.outcomes = [one.charge.amount_nano if type(one) is Settle else _OUTCOMES[type(one)] for one in writes]
        self._transaction = transaction
        ended, settled, records = [], [], list[tuple[Names, Row]]()
        for one in writes:
            if not isinstance(one, AddRecord):
                ended.append(one.request_id)
            if isinstance(one, Settle):
                settled.append(one)
            if not isinstance(one, LeaveUncharged) and one.record is not None:
                records.append((_named(one.record), one.record))
        self._ended = tuple(ended)
        _number(transaction, {names for names, _ in records}.union([(one.account_id,) for one in settled]))
        numbers = transaction.numbers
        paid: dict[str, int] = {}
        granted: dict[str, int] = {}
        drawn: dict[int, int] = {}
        spent: dict[Spent, int] = {}
        self._holders: dict[Spent, str] = {}
        self._settled = settled
        entries = []
        for one in settled:
            account_id, charge = one.account_id, one.charge
            paid_nano, granted_nano = charge.paid_nano, 0
            if charge.grants:
                granted_nano = charge.granted_nano
                granted[account_id] = granted.get(account_id, 0) + granted_nano
                for grant_id, part_nano in charge.grants:
                    drawn[grant_id] = drawn.get(grant_id, 0) + part_nano
            entries.append((account_id, one.request_id, paid_nano, granted_nano))
            paid[account_id] = paid.get(account_id, 0) + paid_nano
            for window in one.windows:
                spent[window] = spent.get(window, 0) + paid_nano + granted_nano
                self._holders[window] = account_id
        accounts, self._references, *amounts = _columns(entries, 4)
        number_of = {account_id: numbers[(account_id,)][0] for account_id in paid}
        self._replica: int | None = None
        self._accounts = sorted(paid)
        self._windows = sorted(spent)
        charges = (
            [number_of[account_id] for account_id in accounts],
            self._references,
            *amounts,
            self._accounts,
            [paid[account_id] for account_id in self._accounts],
            [granted.get(account_id, 0) for account_id in self._accounts],
            list(drawn),
            list(drawn.values()),
            [budget_id for budget_id, _ in self._windows],
            [starts_at_ms for _, starts_at_ms in self._windows],
            [spent[window] for window in self._windows],
            PERCENTS if self._windows else (),
        )
        rows = [(*numbers[names], *record[BEFORE], *record[BEHIND_AND_SURFACE]) for names, record in records]
        *columns, surfaces = _columns(rows, len(_RECORDS))
        named = [None if one == UNNAMED_SURFACE else one for one in surfaces]
        self._parameters = (
            transaction.now_ms(),
            *map(_array, charges),
            *map(_array, (*columns, named)),
        )

    def run(self) -> bool:
        """As part of the transaction; False where the statement leaves it to others, and has changed nothing."""
        row = self._transaction.first(_SETTLE, (None, None, True, *self._parameters))
        assert row is not None
        is_done: bool = row[0]
        if is_done:
            for fact in self._facts(row):
                self._transaction.tell(fact)
        return is_done

    def run_alone(
        self, writer: int, number: int, *, is_durable: bool, is_replica: bool = False
    ) -> Sequence[object] | None:
        """As a transaction of its own, that writer's with this number; the facts, None as where `run` says False.

        What a replica settles is taken from what it is allotted, too, and is left to others where that is less.
        """
        parameters = (writer, number, is_durable, *self._parameters)
        if not is_replica:
            row = self._transaction.first(_SETTLE, parameters)
            assert row is not None
            return self._facts(row) if row[0] else None
        self._replica, funds = writer, self._funds()
        columns = _columns([(account_id, *fund, nano) for (account_id, fund), nano in funds.items()], len(_FUNDS))
        given = (*map(_array, columns), *parameters)
        row = self._transaction.first(_SETTLE_ALLOTTED, given)
        assert row is not None
        return [*self._allotted(row[_OWN_FROM:]), *self._facts(row[:_OWN_FROM])] if row[0] else None

    def facts_anew(self) -> Sequence[object]:
        """Of the batch, which is committed, and whose answer was lost; as of now, which may be later."""
        connection, all_left = self._transaction.connection, []
        (version,) = self._transaction.first(_VERSION, (self._references,)) or (None,)
        wallets = [self._transaction.first(_WALLET, (account_id,)) or (0, 0) for account_id in self._accounts]
        for account_id in self._accounts:
            all_left += [(account_id, *one) for one in grants.left(connection, account_id)]
        spent = [(self._transaction.first(_SPENT, window) or (0,))[0] for window in self._windows]
        columns = zip(*all_left, strict=True) if all_left else (None,) * 4
        facts = self._facts((True, version, *(zip(*wallets, strict=True) if wallets else ((), ())), *columns, spent))
        if self._replica is None:
            return facts
        own = self._transaction.first(_OWN, (self._replica, self._accounts))
        assert own is not None
        return [*self._allotted(own), *facts]

    def _funds(self) -> dict[tuple[str, Fund], int]:
        """What is spent of what a replica is allotted."""
        funds: dict[tuple[str, Fund], int] = {}
        for one in self._settled:
            for fund, nano in (of_money(None, one.charge) | of_windows(one.windows, one.charge.amount_nano)).items():
                funds[one.account_id, fund] = funds.get((one.account_id, fund), 0) + nano
        return funds

    def _allotted(self, own: Row) -> Sequence[Allotted]:
        """What is left of it, of each account of which some was spent."""
        charged = dict.fromkeys(one.account_id for one in self._settled if one.charge.amount_nano)
        amounts: dict[str, dict[Fund, int]] = {account_id: {} for account_id in charged}
        expiries: dict[str, dict[int, int | None]] = {account_id: {} for account_id in charged}
        for account_id, kind, of_id, part, nano, expires_at_ms in zip(*own, strict=True) if own[0] else ():
            if account_id in charged:
                amounts[account_id][Fund(kind, of_id, part)] = nano
                if kind != "window" and part != PAID:
                    expiries[account_id][part] = expires_at_ms
        return [Allotted(account_id, amounts[account_id], expiries[account_id]) for account_id in charged]

    def _facts(self, row: Row) -> Sequence[object]:
        """In the order in which executors of any engine tell them."""
        _, version, paid, granted, *all_left, spent = row
        left: dict[str, list[GrantLeft]] = {}
        if all_left[0] is not None:
            for account_id, *one in zip(*all_left, strict=True):
                left.setdefault(account_id, []).append(GrantLeft(*one))
        facts: list[object] = [
            WalletState(account_id, paid_nano, tuple(left.get(account_id, ())) if granted_nano else (), version)
            for account_id, paid_nano, granted_nano in zip(self._accounts, paid or (), granted or (), strict=True)
        ]
        for window, spent_nano in zip(self._windows, spent or (), strict=True):
            facts.append(BudgetSpent(self._holders[window], window, spent_nano))
        if self._ended:
            facts.append(Ended(self._ended))
        return facts


_OUTCOMES: dict[type[Write[Any]], int | None] = {LeaveUncharged: 0, AddRecord: None}


def carried_out_by(others: RunTogether) -> RunTogether:
    """Who carries out plain writes by the statement, and leaves to `others` what is none and what it leaves undone."""

    def carry_out(transaction: Transaction, writes: Sequence[Any]) -> Sequence[Any]:
        outcomes: list[Any] = []
        for are_plain, found in groupby(writes, is_plain):
            group = list(found)
            batch = RequestBatch(transaction, group) if are_plain else None
            outcomes += batch.outcomes if batch is not None and batch.run() else others(transaction, group)
        return outcomes

    return carry_out


def _number(transaction: Transaction, combined: Iterable[Names]) -> None:
    """See to it that these names have numbers, that are known."""
    known = transaction.numbers
    unknown = [names for names in combined if names not in known]
    if unknown:
        wanted = sorted({name for names in unknown for name in names if name is not None})
        row = transaction.first(_NUMBER, (wanted,))
        assert row is not None
        known.note(unknown, dict(zip(wanted, row[0] or (), strict=True)))


def _array(column: Sequence[str | int | None]) -> str | None:
    """As PostgreSQL reads one; without a value it is none at all, which is taken for NULLs, or for no rows."""
    if not column or (column[0] is None and column.count(None) == len(column)):
        return None
    # it is JSON in other brackets, but for what is escaped
    text = orjson.dumps(column)[1:-1].decode()
    if "\\" in text:
        text = ",".join("NULL" if one is None else _quoted(str(one)) for one in column)
    return f"{{{text}}}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _named(record: RequestRecord) -> Names:
    return record.account_id, record.key_id, record.model, record.backend, record.price_version


def _columns(rows: Sequence[Row], count: int) -> tuple[Sequence[Any], ...]:
    return tuple(zip(*rows, strict=True)) if rows else ((),) * count
