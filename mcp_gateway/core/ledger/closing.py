"""The ledger's past closed month by month into sums, so that whoever adds it up begins after the last of them.

A month is closed once it has been over for a day: entries are made at the time that it is, and nothing that a request
of it holds can be open any more. Its sums are held against its entries before they count. Whatever is posted later
counts in the month that is open then, whatever the clock says.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mcp_gateway.core.batches import in_batches
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Engine, Scan, Write
from mcp_gateway.core.ledger.entries import Discrepancies

logger = logging.getLogger(__name__)

_FIRST_S = 120.0
_INTERVAL_S = 3600.0
_SUMS_AT_ONCE = 200
_ENTRIES_AT_ONCE = 2000
_REST_S = 0.02


class MonthSum(NamedTuple):
    """What an account's entries of a kind come to, those of requests by model (`""` for none); in nano-USD."""

    account_id: str
    kind: str
    model: str
    entries: int
    paid_nano: int
    granted_nano: int
    held_nano: int
    revenue_nano: int
    grant_source_nano: int
    clearing_nano: int
    charged_grants_nano: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class DueMonth(NamedTuple):
    """A month to close, whose entries are those after one up to another."""

    month: str
    after_id: int
    last_id: int


class PassedEntries(NamedTuple):
    """What entries after one up to another come to, of each account: its id, paid and granted nano-USD.

    `entries` is how many were seen: with several writers one may be committed later than another with a later id.
    """

    after_id: int
    last_id: int
    entries: int
    sums: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class MonthToClose(Scan[DueMonth | None]):
    """The first that is not closed and was over by then; None where none was."""

    over_by_ms: int


@dataclass(frozen=True, slots=True)
class SumsOfEntries(Scan[list[MonthSum]]):
    """In the order of their names."""

    due: DueMonth


@dataclass(frozen=True, slots=True)
class SumsOfMonth(Scan[list[MonthSum]]):
    """That were kept, in the same order."""

    month: str


@dataclass(frozen=True, slots=True)
class ForgetSums(Write[None]):
    """Of a month that is not closed: what a process kept that was killed."""

    month: str


@dataclass(frozen=True, slots=True)
class KeepSums(Write[None]):
    """They count once the month is closed."""

    month: str
    sums: tuple[MonthSum, ...]


@dataclass(frozen=True, slots=True)
class CloseMonth(Write[None]):
    """From now on its sums stand for its entries."""

    due: DueMonth


@dataclass(frozen=True, slots=True)
class EntriesPassed(Scan[PassedEntries]):
    """Since the checkpoint of the books, of `most` entries."""

    most: int


@dataclass(frozen=True, slots=True)
class MoveCheckpoint(Write[None]):
    """Past these entries, unless it was moved meanwhile or there are more of them by now."""

    passed: PassedEntries


class Closing:
    """Closes months as they are over."""

    def __init__(
        self, store: Engine, now_ms: Callable[[], int], *, longest_hold_ms: int = 0, rest_s: float = _REST_S
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._rest_ms = max(DAY_MS, longest_hold_ms)
        self._rest_s = rest_s

    async def close_due(self) -> list[str]:
        """Close what can be; returns the months. One whose books differ stays open, and the log says so."""
        over_by_ms = self._now_ms() - self._rest_ms
        due = await self._store.read(MonthToClose(over_by_ms))
        if due is None:
            return []
        faults = await self._store.read(Discrepancies())  # once, of all months that are not closed
        if faults:
            logger.critical("the books differ, so that %s is not closed: run `mcp-gateway ledger check`", due.month)
            return []
        closed: list[str] = []
        while due is not None and await self._close(due):
            closed.append(due.month)
            due = await self._store.read(MonthToClose(over_by_ms))
        return closed

    async def move_checkpoint(self) -> None:
        """Up to now, so that a start has little to add up."""
        while (passed := await self._store.read(EntriesPassed(_ENTRIES_AT_ONCE))).last_id > passed.after_id:
            await self._step(MoveCheckpoint(passed))

    async def watch(self) -> None:
        """Once an hour, until cancelled."""
        await asyncio.sleep(_FIRST_S)
        while True:
            if self._store.is_elected:
                await self.close_due()
                await self.move_checkpoint()
            await asyncio.sleep(_INTERVAL_S)

    async def _close(self, due: DueMonth) -> bool:
        sums = await self._store.read(SumsOfEntries(due))
        await self._step(ForgetSums(due.month))
        for some in in_batches(sums, _SUMS_AT_ONCE):
            await self._step(KeepSums(due.month, some))
        if await self._store.read(SumsOfMonth(due.month)) != sums:
            logger.critical("the sums of %s were not kept as they are, so that it is not closed", due.month)
            return False
        await self._store.write(CloseMonth(due))
        logger.info("closed the ledger's %s: %d sums", due.month, len(sums))
        return True

    async def _step(self, write: Write[None]) -> None:
        await self._store.write(write, is_durable=False)
        await asyncio.sleep(self._rest_s)
