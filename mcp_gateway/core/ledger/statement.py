"""An account's ledger for its owner to read, newest first. Reads only; what the rows mean is the ledger's to say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from mcp_gateway.core.engine import Engine
from mcp_gateway.core.money import EntryKind

_MOVES = "AND kind NOT IN ('hold', 'void')"
"""Setting aside and giving back change nothing of what an account owns."""


@dataclass(frozen=True, slots=True)
class Transaction:
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


class Statement:
    """The transactions of each account."""

    def __init__(self, store: Engine) -> None:
        self._store = store

    async def page(
        self, account_id: str, *, before_id: int | None, limit: int, only_moves: bool = False
    ) -> list[Transaction]:
        """Up to `limit` transactions older than `before_id` (the newest for None); `only_moves`: no holds and voids."""
        sql = (
            "SELECT id, kind, reference, paid_nano, granted_nano, held_nano, created_at_ms FROM ledger_transactions "
            f"WHERE account_id = ? AND id < ? {_MOVES if only_moves else ''} ORDER BY id DESC LIMIT ?"
        )
        below_id = 2**63 - 1 if before_id is None else before_id
        rows = await self._store.fetch_report(account_id, sql, (account_id, below_id, limit))
        return [Transaction(*row) for row in rows]

    async def notes(self, transaction_ids: Sequence[int]) -> dict[int, str]:
        """What the operator noted of these, by their ids; for the operator alone."""
        sql = (
            "SELECT transaction_id, note FROM transaction_notes "
            "WHERE transaction_id IN (SELECT value FROM json_each(?))"
        )
        rows = await self._store.fetch_all(sql, (orjson.dumps(list(transaction_ids)).decode(),))
        return dict(cast("list[tuple[int, str]]", rows))
