"""Sums by the day beside those by the hour, of days that are over: reports of many days read a twentieth as many rows.

Of each account they stand up to some day. What is booked into a day before (a request that took long, one that is
corrected, sums that are put right) takes that day and all later ones out, in its own commit, so that reports read
their hours until they are summed up again.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.engine import Engine, Scan, Write

_FIRST_S = 90.0
"""After a start, which has enough to do."""
_INTERVAL_S = 3600.0
_REST_S = 0.02


@dataclass(frozen=True, slots=True)
class SumUpDays(Write[None]):
    """Of an account, `until_day` exclusive; nothing where its sums do not stand up to `since_day` any more."""

    account_id: str
    since_day: int
    until_day: int


@dataclass(frozen=True, slots=True)
class DaysToSum(Scan[SumUpDays | None]):
    """A few days before `until_day`, of the first account from this one on that has any; None where none has."""

    from_account_id: str
    until_day: int


class DailySums:
    """Of all accounts."""

    def __init__(self, store: Engine, now_ms: Callable[[], int], *, rest_s: float = _REST_S) -> None:
        self._store = store
        self._now_ms = now_ms
        self._rest_s = rest_s

    async def sum_up(self) -> None:
        """All days that have been over for an hour, in steps of 2 ms or so. Raises GatewayError in an outage."""
        account_id, until_day = "", (self._now_ms() - HOUR_MS) // DAY_MS
        while (step := await self._store.read(DaysToSum(account_id, until_day))) is not None:
            account_id = step.account_id
            await self._store.write(step, is_durable=False)
            await asyncio.sleep(self._rest_s)

    async def watch(self) -> None:
        """Once an hour, until cancelled."""
        await asyncio.sleep(_FIRST_S)
        while True:
            if self._store.is_elected:
                await self.sum_up()
            await asyncio.sleep(_INTERVAL_S)
