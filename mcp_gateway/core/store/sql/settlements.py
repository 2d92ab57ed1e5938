"""The ledger's transactions: what every request passes, and what is carried out in the same books."""

from collections.abc import Sequence
from dataclasses import replace

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger import rules
from mcp_gateway.core.ledger.entries import (
    CatchUp,
    Departure,
    Entry,
    ExpireGrants,
    GiveBack,
    Grant,
    LeaveUncharged,
    Move,
    Settle,
    SettleLate,
    VerifySinceCheckpoint,
)
from mcp_gateway.core.ledger.rules import NOTHING, Amount, Free
from mcp_gateway.core.money import MAX_NANO, OutsideKind
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.names import NAME_OF
from mcp_gateway.core.store.sql import grants
from mcp_gateway.core.store.sql.accounts import stop_sharing
from mcp_gateway.core.store.sql.budgets import put_into_pocket, with_returned
from mcp_gateway.core.store.sql.checkpoint import verify_since_checkpoint
from mcp_gateway.core.store.sql.journal import Journal
from mcp_gateway.core.store.sql.ledger import FROM_OUTSIDE
from mcp_gateway.core.store.sql.webhooks import note_money_in
from mcp_gateway.core.store.transaction import Executors, Transaction

_KINDS_OF_A_REQUEST = ("kind = 'hold'", "kind = 'settle'", "kind = 'refund_of_request'")
"""Of the transactions that bear a request's id; each in the words by which SQLite knows that an index serves."""
_OF_A_REQUEST = " UNION ALL ".join(
    f"SELECT * FROM ledger_rows WHERE reference = :id AND {kind}" for kind in _KINDS_OF_A_REQUEST
)
_CHARGED = (
    "SELECT COALESCE(-SUM(paid_nano), 0), COALESCE(-SUM(granted_nano), 0), COALESCE(SUM(revenue_nano), 0) "
    f"FROM ({_OF_A_REQUEST})"
)
_HELD = f"""
SELECT {NAME_OF.format("account_number")}, -paid_nano - granted_nano FROM ledger_rows
WHERE kind = 'hold' AND reference = ?
"""
_IS_SETTLED = "SELECT 1 FROM ledger_rows WHERE kind = 'settle' AND reference = ?"

_Ending = Settle | LeaveUncharged | GiveBack | Departure


def _carry_out(transaction: Transaction, writes: Sequence[_Ending]) -> list[int]:
    """What requests cost: read and written together."""
    journal = Journal(transaction)
    outcomes = []
    for one in writes:
        if isinstance(one, GiveBack):  # it reads what those before it have written
            journal.write()
            journal = Journal(transaction)
        outcomes.append(_outcome(transaction, journal, one))
    journal.write()
    return outcomes


def _outcome(transaction: Transaction, journal: Journal, one: _Ending) -> int:
    match one:
        case Settle():
            journal.settle(one.request_id, one.account_id, one.charge, one.windows, one.pocket)
            _record(journal, one.record)
            return one.charge.amount_nano
        case LeaveUncharged():
            journal.leave_uncharged(one.request_id)
        case GiveBack():
            return _give_back(transaction, journal, one)
        case _:
            departure: Departure = one  # all that is left, as the type checker sees
            journal.correct(departure.record, keeps_cost=True)
    return 0


def _give_back(transaction: Transaction, journal: Journal, back: GiveBack) -> int:
    """Return all that a request was charged, once, and correct its record; returns how much."""
    charged = transaction.first(_CHARGED, {"id": back.request_id})
    assert charged is not None
    paid_nano, granted_nano, revenue_nano = charged
    journal.correct(back.record)
    if not revenue_nano:
        return 0
    parts = Amount(paid_nano)
    if granted_nano:
        grant_id = grants.return_charged(transaction.connection, back.account_id, granted_nano, journal.now_ms)
        parts = Amount(paid_nano, ((grant_id, granted_nano),))
    journal.spend(back.account_id, with_returned(transaction, back.windows), -revenue_nano)
    if back.pocket is not None:
        put_into_pocket(transaction, back.account_id, back.pocket, parts)
    journal.post(
        back.account_id, "refund_of_request", back.request_id,
        paid=paid_nano, granted=granted_nano, revenue=-revenue_nano,
    )  # fmt: skip
    return int(revenue_nano)


def _catch_up(transaction: Transaction, write: CatchUp) -> None:
    for entry in write.entries:
        journal = Journal(transaction)
        if isinstance(entry, RequestRecord):
            journal.record(entry)
        else:
            _carry_out_late(transaction, journal, entry)
        journal.write()


def _carry_out_late(transaction: Transaction, journal: Journal, entry: Entry) -> None:
    """An entry that an earlier process left; a settlement may have been written all the same."""
    if not isinstance(entry, Settle | SettleLate):
        _outcome(transaction, journal, entry)
    elif transaction.first(_IS_SETTLED, (entry.request_id,)) is not None:
        _record(journal, entry.record)
    elif isinstance(entry, Settle):
        _outcome(transaction, journal, replace(entry, windows=tuple(with_returned(transaction, entry.windows))))
    elif (held := transaction.first(_HELD, (entry.request_id,))) is not None:
        _outcome(transaction, journal, _as_settled(transaction, journal, entry, *held))
    else:  # which a power failure took: the disk had no need to take it at once, as it had for the file
        _record(journal, entry.record and entry.record._replace(cost_nano=0))


def _record(journal: Journal, record: RequestRecord | None) -> None:
    if record is not None:
        journal.record(record)


def _as_settled(
    transaction: Transaction, journal: Journal, late: SettleLate, account_id: str, held_nano: int
) -> Settle:
    """What it is charged: nobody holds anything at this time, so that all of the wallet is free."""
    cost_nano = late.cost_nano if late.may_exceed else min(late.cost_nano, held_nano)
    free = Free(journal.wallet(account_id).paid_nano, grants.left(transaction.connection, account_id))
    charge = rules.charge(NOTHING, cost_nano, free, journal.now_ms)
    record = late.record and late.record._replace(cost_nano=charge.amount_nano)
    return Settle(late.request_id, account_id, charge, record)


def _move(transaction: Transaction, write: Move) -> bool:
    if _is_applied(transaction, write.kind, write.reference):
        return False
    journal = Journal(transaction)
    journal.post(write.account_id, write.kind, write.reference, paid=write.amount_nano, clearing=-write.amount_nano)
    _check_fits(journal, write.account_id)
    journal.write()
    _note(transaction, write.kind, write.reference, write.note)
    note_money_in(transaction, write.account_id)
    if write.kind == "credit":
        stop_sharing(transaction, write.account_id)
    return True


def _grant(transaction: Transaction, write: Grant) -> bool:
    if _is_applied(transaction, "grant", write.reference):
        return False
    journal = Journal(transaction)
    amount_nano = write.amount_nano
    journal.post(write.account_id, "grant", write.reference, granted=amount_nano, grant_source=-amount_nano)
    _check_fits(journal, write.account_id)
    row = (write.account_id, amount_nano, write.expires_at_ms, journal.now_ms)
    transaction.execute(
        "INSERT INTO grants (account_id, remaining_nano, expires_at_ms, created_at_ms) VALUES (?, ?, ?, ?)", row
    )
    journal.write()
    _note(transaction, "grant", write.reference, write.note)
    note_money_in(transaction, write.account_id)
    stop_sharing(transaction, write.account_id)
    return True


def _expire_grants(transaction: Transaction, write: ExpireGrants) -> int:
    journal, taken_nano = Journal(transaction), 0
    for account_id, parts in write.left:
        for grant_id, left_nano in parts.grants:
            journal.post(account_id, "expire", f"grant {grant_id}", granted=-left_nano, grant_source=left_nano)
        journal.take(parts)
        taken_nano += parts.granted_nano
    journal.write()
    return taken_nano


def _check_fits(journal: Journal, account_id: str) -> None:
    """Before anything is written: paid and granted money together must fit in a number of the database."""
    wallet = journal.wallet(account_id)
    if not -MAX_NANO <= wallet.paid_nano <= MAX_NANO - wallet.granted_nano:
        raise GatewayError("invalid_value", "With this amount the account would have more than the ledger can hold.")


def _is_applied(transaction: Transaction, kind: OutsideKind, reference: str) -> bool:
    return transaction.first(f"SELECT 1 {FROM_OUTSIDE}", (kind, reference)) is not None


def _note(transaction: Transaction, kind: OutsideKind, reference: str, note: str | None) -> None:
    """Keep an operator's line with the entry that was just made."""
    if note is not None:
        transaction.execute(f"INSERT INTO transaction_notes SELECT id, ? {FROM_OUTSIDE}", (note, kind, reference))


EXECUTORS = Executors(
    alone={
        CatchUp: _catch_up,
        Move: _move,
        Grant: _grant,
        ExpireGrants: _expire_grants,
        VerifySinceCheckpoint: verify_since_checkpoint,
    },
    together=dict.fromkeys((Settle, LeaveUncharged, GiveBack, Departure), _carry_out),
)
