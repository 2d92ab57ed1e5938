"""Settlements of closed months taken out of the ledger, once a file has them.

Their sums by month stay, so that balances, statements and what was earned are told as before. Everything else stays,
and settlements that were given back or that holds of earlier releases belong to do, too.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

from mcp_gateway.core.batches import in_batches
from mcp_gateway.core.engine import Engine, Scan, Write
from mcp_gateway.core.ledger.closing import Closing

_READ_AT_ONCE = 5000
_REMOVED_AT_ONCE = 200
_REST_S = 0.01


class ArchivedEntry(NamedTuple):
    """A settlement: amounts in nano-USD, `reference` is its request's id."""

    id: int
    account_id: str
    kind: str
    reference: str
    paid_nano: int
    granted_nano: int
    revenue_nano: int
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class EntriesToArchive(Scan[list[ArchivedEntry]]):
    """Up to `most` after one, of months that are closed, before a month where one is named; in order."""

    before_month: str | None
    after_id: int
    most: int


@dataclass(frozen=True, slots=True)
class BeginArchive(Write[None]):
    """Let the settlements go of closed months up to this entry."""

    through_id: int


@dataclass(frozen=True, slots=True)
class RemoveEntries(Write[int]):
    """Comes to how many there were."""

    ids: tuple[int, ...]


class LedgerArchive:
    """What may be taken out, and the end of it."""

    def __init__(self, store: Engine, closing: Closing, *, rest_s: float = _REST_S) -> None:
        self._store = store
        self._closing = closing
        self._rest_s = rest_s

    async def entries(self, before_month: str | None) -> AsyncIterator[list[ArchivedEntry]]:
        """All that may be taken out, some at a time; what can be closed is closed first."""
        await self._closing.close_due()
        await self._closing.move_checkpoint()  # a start adds up what came after it: nothing that goes may have
        after_id = 0
        while found := await self._store.read(EntriesToArchive(before_month, after_id, _READ_AT_ONCE)):
            yield found
            after_id = found[-1].id

    async def remove(self, before_month: str | None, through_id: int) -> int:
        """Delete what `entries` told up to this id, a few at a time; returns how many. Only once a file has it."""
        await self._store.write(BeginArchive(through_id))
        removed = 0
        while ids := await self._ids(before_month, through_id):
            for some in in_batches(ids, _REMOVED_AT_ONCE):
                removed += await self._store.write(RemoveEntries(some))
                await asyncio.sleep(self._rest_s)
        return removed

    async def _ids(self, before_month: str | None, through_id: int) -> tuple[int, ...]:
        found = await self._store.read(EntriesToArchive(before_month, 0, _READ_AT_ONCE))
        return tuple(one.id for one in found if one.id <= through_id)
