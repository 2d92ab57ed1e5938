"""What is over is deleted beside traffic: old records of requests, and what was of use for a time.

Rows are looked for by a reader and deleted by the writer, a few at a time with a rest between, so that nobody waits for
it. What a pass has not come to, the next finds, in whichever process. Sums of requests by the hour stay, as do the
ledger and the audit log, which only grow.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from mcp_gateway.core.batches import in_batches
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Engine, Scan, Write

logger = logging.getLogger(__name__)

T = TypeVar("T")

Over = Literal["kept_answer", "replaced_secret", "sign_in_secret", "user_session"]
"""What is of use for a time: an answer to an Idempotency-Key, a key's former secret, an invitation or what sets a
password, and a session."""
_KINDS: tuple[Over, ...] = ("kept_answer", "replaced_secret", "sign_in_secret", "user_session")
_STAYS_MS = DAY_MS
"""What is over is kept for another day, in which it is refused as what it was."""
_INTERVAL_S = 3600.0
_FIRST_S = 60.0
"""After a start, which has enough to do."""
_LOOKED_UP = 1000
_AT_ONCE = 50
"""Rows in one transaction: 2 ms or so."""
_PAGES_AT_ONCE = 64
_WORTH_PAGES = 1024
"""Fewer free pages than these are left for rows to come."""
_REST_S = 0.02
_RESTS = 9
"""Times what a step took: how long the next waits beside."""


class RequestPlace(NamedTuple):
    """Where a request's record is."""

    account_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class OldRequests(Scan[list[RequestPlace]]):
    """Up to `most` that began before, in order, beginning with an account."""

    before_ms: int
    from_account_id: str
    most: int


@dataclass(frozen=True, slots=True)
class ForgetRequests(Write[int]):
    """Delete their records, and what is noted of them elsewhere. Comes to how many there were."""

    places: tuple[RequestPlace, ...]


@dataclass(frozen=True, slots=True)
class RowsOver(Scan[list[tuple[str | bytes, ...]]]):
    """The names of up to `most` that were over before."""

    kind: Over
    before_ms: int
    most: int


@dataclass(frozen=True, slots=True)
class ForgetRows(Write[int]):
    """Delete those of these that were over before. Comes to how many there were."""

    kind: Over
    before_ms: int
    names: tuple[tuple[str | bytes, ...], ...]


class Space(NamedTuple):
    """Pages of the database: those that nothing is in, all, and whether it can be made shorter beside traffic."""

    free_pages: int
    pages: int
    can_shrink: bool


@dataclass(frozen=True, slots=True)
class SpaceOf(Scan[Space]):
    """Of the database."""


@dataclass(frozen=True, slots=True)
class GiveSpaceBack(Write[None]):
    """Make the database shorter, by so many free pages at most."""

    pages: int


class Retention:
    """Deletes what is over."""

    def __init__(
        self, store: Engine, now_ms: Callable[[], int], *, requests_keep_days: int, rest_s: float = _REST_S
    ) -> None:
        """Records of requests are kept for so many days; 0: for good."""
        self._store = store
        self._now_ms = now_ms
        self._kept_ms = requests_keep_days * DAY_MS
        self._rest_s = rest_s

    async def tidy(self) -> int:
        """Delete all that is over by now; returns how many requests that were. Raises GatewayError in an outage."""
        now_ms = self._now_ms()
        for kind in _KINDS:
            await self._forget_rows(kind, now_ms - _STAYS_MS)
        forgotten = await self._forget_requests(now_ms - self._kept_ms) if self._kept_ms else 0
        if forgotten:
            logger.info("deleted the records of %d requests", forgotten)
        await self._give_space_back()
        return forgotten

    async def watch(self) -> None:
        """Once an hour, until cancelled."""
        await asyncio.sleep(_FIRST_S)
        while True:
            if self._store.is_elected:
                await self.tidy()
            await asyncio.sleep(_INTERVAL_S)

    async def _forget_rows(self, kind: Over, before_ms: int) -> None:
        while names := await self._store.read(RowsOver(kind, before_ms, _LOOKED_UP)):
            for some in in_batches(names, _AT_ONCE):
                await self._step(ForgetRows(kind, before_ms, some))

    async def _forget_requests(self, before_ms: int) -> int:
        forgotten, account_id = 0, ""
        while places := await self._store.read(OldRequests(before_ms, account_id, _LOOKED_UP)):
            for some in in_batches(places, _AT_ONCE):
                forgotten += await self._step(ForgetRequests(some))
            account_id = places[-1].account_id
        return forgotten

    async def _give_space_back(self) -> None:
        """Where more than a quarter is free: what less is, new rows will need soon."""
        space = await self._store.read(SpaceOf())
        while space.can_shrink and space.free_pages > max(_WORTH_PAGES, space.pages // 4):
            await self._step(GiveSpaceBack(_PAGES_AT_ONCE))
            space = await self._store.read(SpaceOf())

    async def _step(self, write: Write[T]) -> T:
        began_s = time.perf_counter()
        outcome = await self._store.write(write, is_durable=False)
        await asyncio.sleep(self._rest_s and self._rest_s + _RESTS * (time.perf_counter() - began_s))
        return outcome
