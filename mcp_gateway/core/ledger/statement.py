"""An account's ledger for its owner to read, newest first. Reads only; what the rows mean is the ledger's to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mcp_gateway.core.engine import Engine, Report, Scan
from mcp_gateway.core.money import EntryKind

ListedKind = Literal[EntryKind, "archived"]
"""Of all that is listed: of entries, and of the charges of a month that the ledger has no entries of any more."""


@dataclass(frozen=True, slots=True)
class LedgerTransaction:
    """What one fact changed in a wallet, in nano-USD. `id` grows with each commit; `reference` says what it was for.

    An `archived` one is what all charges of its account came to that were taken out of a month, which it refers to: it
    stands ahead of the last entry of that month, whose id it has.
    """

    id: int
    kind: ListedKind
    reference: str
    paid_nano: int
    granted_nano: int
    held_nano: int
    created_at_ms: int

    @property
    def place(self) -> int:
        """Among all that are listed, which have another each; what is listed further on has a smaller one."""
        return 2 * self.id + (self.kind == "archived")

    @property
    def spendable_nano(self) -> int:
        return self.paid_nano + self.granted_nano

    @property
    def amount_nano(self) -> int:
        """What the account owns more than before: deposits are positive, charges negative, holds and voids nothing."""
        return self.paid_nano + self.granted_nano + self.held_nano


@dataclass(frozen=True, slots=True)
class TransactionsPage(Report[list[LedgerTransaction]]):
    """Up to `limit` behind the place `before`, the newest first; `only_moves`: no holds and voids."""

    account_id: str
    before: int | None
    limit: int
    only_moves: bool


@dataclass(frozen=True, slots=True)
class NotesOf(Scan[dict[int, str]]):
    """What the operator noted of these transactions, by their ids."""

    transaction_ids: tuple[int, ...]


class Statement:
    """The transactions of each account."""

    def __init__(self, store: Engine) -> None:
        self._store = store

    async def page(
        self, account_id: str, *, before: int | None, limit: int, only_moves: bool = False
    ) -> list[LedgerTransaction]:
        """Up to `limit` behind the place `before` (the newest for None); `only_moves`: no holds and voids.

        All that are listed add up to what the account owns, whatever was taken out into an archive.
        """
        return await self._store.read(TransactionsPage(account_id, before, limit, only_moves))

    async def notes(self, rows: Sequence[LedgerTransaction]) -> dict[LedgerTransaction, str]:
        """What the operator noted of these; for the operator alone."""
        entries = {row.id: row for row in rows if row.kind != "archived"}
        notes = await self._store.read(NotesOf(tuple(entries)))
        return {entries[entry_id]: note for entry_id, note in notes.items()}
