"""The ledger's transactions: what every request passes, and what is carried out in the same books."""

from collections.abc import Sequence

from mcp_gateway.core.ledger.decisions import check_fits, decide, end
from mcp_gateway.core.ledger.entries import (
    CatchUp,
    Departure,
    End,
    Entry,
    ExpireGrants,
    GiveBack,
    Grant,
    Hold,
    Move,
    PlaceHold,
    Short,
    VerifySinceCheckpoint,
    VoidHolds,
)
from mcp_gateway.core.money import OutsideKind
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sql.ledger import FROM_OUTSIDE
from mcp_gateway.core.store.sqlite.checkpoint import verify_since_checkpoint
from mcp_gateway.core.store.sqlite.journal import Journal
from mcp_gateway.core.store.transaction import Executors, Transaction


def _carry_out(transaction: Transaction, writes: Sequence[PlaceHold | Entry]) -> list[Hold | Short | int]:
    """What requests cost: decided in order, read and written together."""
    request_ids = [one.request_id for one in writes]
    journal = Journal(transaction.connection, transaction.now_ms(), request_ids)
    outcomes: list[Hold | Short | int] = []
    for one in writes:
        if isinstance(one, GiveBack):  # it reads what those before it have written
            journal.write()
            journal = Journal(transaction.connection, transaction.now_ms(), request_ids)
        outcomes.append(decide(journal, one))
    journal.write()
    return outcomes


def _catch_up(transaction: Transaction, write: CatchUp) -> None:
    for entry in write.entries:
        request_id = entry.id if isinstance(entry, RequestRecord) else entry.request_id
        journal = Journal(transaction.connection, transaction.now_ms(), [request_id])
        if isinstance(entry, RequestRecord):
            journal.record(entry)
        else:
            decide(journal, entry)
        journal.write()


def _void_holds(transaction: Transaction, write: VoidHolds) -> int:
    journal = Journal.of_all_holds(transaction.connection, transaction.now_ms(), write.made_before_ms)
    requests = journal.open_requests
    for request_id in requests:
        end(journal, End(request_id, "void", 0, None))
    journal.write()
    return len(requests)


def _move(transaction: Transaction, write: Move) -> bool:
    if _is_applied(transaction, write.kind, write.reference):
        return False
    journal = Journal(transaction.connection, transaction.now_ms())
    journal.post(write.account_id, write.kind, write.reference, paid=write.amount_nano, clearing=-write.amount_nano)
    check_fits(journal.wallet(write.account_id))
    journal.write()
    _note(transaction, write.kind, write.reference, write.note)
    return True


def _grant(transaction: Transaction, write: Grant) -> bool:
    if _is_applied(transaction, "grant", write.reference):
        return False
    journal = Journal(transaction.connection, transaction.now_ms())
    amount_nano = write.amount_nano
    journal.post(write.account_id, "grant", write.reference, granted=amount_nano, grant_source=-amount_nano)
    check_fits(journal.wallet(write.account_id))
    journal.write()
    _note(transaction, "grant", write.reference, write.note)
    row = (write.account_id, amount_nano, write.expires_at_ms, journal.now_ms)
    transaction.execute(
        "INSERT INTO grants (account_id, remaining_nano, expires_at_ms, created_at_ms) VALUES (?, ?, ?, ?)", row
    )
    return True


def _expire_grants(transaction: Transaction, write: ExpireGrants) -> int:
    journal = Journal(transaction.connection, transaction.now_ms())
    taken_nano = sum(journal.expire_grants(account_id) for account_id in write.account_ids)
    journal.write()
    return taken_nano


def _is_applied(transaction: Transaction, kind: OutsideKind, reference: str) -> bool:
    return transaction.first(f"SELECT 1 {FROM_OUTSIDE}", (kind, reference)) is not None


def _note(transaction: Transaction, kind: OutsideKind, reference: str, note: str | None) -> None:
    """Keep an operator's line with the entry that was just made."""
    if note is not None:
        transaction.execute(f"INSERT INTO transaction_notes SELECT id, ? {FROM_OUTSIDE}", (note, kind, reference))


EXECUTORS = Executors(
    alone={
        CatchUp: _catch_up,
        VoidHolds: _void_holds,
        Move: _move,
        Grant: _grant,
        ExpireGrants: _expire_grants,
        VerifySinceCheckpoint: verify_since_checkpoint,
    },
    together={PlaceHold: _carry_out, End: _carry_out, GiveBack: _carry_out, Departure: _carry_out},
)
