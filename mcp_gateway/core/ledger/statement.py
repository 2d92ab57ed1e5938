"""An account's ledger for its owner to read, newest first. Reads only; what the rows mean is the ledger's to say."""

from collections.abc import Sequence
from dataclasses import dataclass

from mcp_gateway.core.engine import Engine, Report, Scan
from mcp_gateway.core.money import EntryKind


@dataclass(frozen=True, slots=True)
class LedgerTransaction:
    """What one fact changed in a wallet, in nano-USD. `id` grows with each commit; `reference` says what it was for."""

    id: int
    kind: EntryKind
    reference: str
    paid_nano: int
    granted_nano: int
    held_nano: int
    created_at_ms: int

    @property
    def spendable_nano(self) -> int:
        return self.paid_nano + self.granted_nano

    @property
    def amount_nano(self) -> int:
        """What the account owns more than before: deposits are positive, charges negative, holds and voids nothing."""
        return self.paid_nano + self.granted_nano + self.held_nano


@dataclass(frozen=True, slots=True)
class TransactionsPage(Report[list[LedgerTransaction]]):
    """Up to `limit` older than `before_id`, the newest first; `only_moves`: no holds and voids."""

    account_id: str
    before_id: int | None
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
        self, account_id: str, *, before_id: int | None, limit: int, only_moves: bool = False
    ) -> list[LedgerTransaction]:
        """Up to `limit` transactions older than `before_id` (the newest for None); `only_moves`: no holds and voids."""
        return await self._store.read(TransactionsPage(account_id, before_id, limit, only_moves))

    async def notes(self, transaction_ids: Sequence[int]) -> dict[int, str]:
        """What the operator noted of these, by their ids; for the operator alone."""
        return await self._store.read(NotesOf(tuple(transaction_ids)))
