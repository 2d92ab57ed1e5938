"""What keys and accounts were admitted with today, written as it changes, so that a killed process forgives nobody.

The request log has what has ended; this, what still ran as well. Decides nothing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from mcp_gateway.core.engine import Engine, Scan, Write
from mcp_gateway.core.limits.limiter import Limiter

INTERVAL_S = 0.25
"""What began within the last one is all that a process that is killed may forget."""


@dataclass(frozen=True, slots=True)
class NoteAdmitted(Write[None]):
    """How many requests each key or account was admitted with on a day since the Unix epoch; those of past days go.

    Of two notes the larger stays: several servers count together, and one may know less of it than another.
    """

    day: int
    requests: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AdmittedOn(Scan[Mapping[str, int]]):
    """What was noted of a day."""

    day: int


class DayCounts:
    """Keeps the limiter's counts of the day over restarts."""

    def __init__(self, store: Engine, limiter: Limiter) -> None:
        self._store = store
        self._limiter = limiter

    async def restore(self) -> None:
        """Have the limiter go on from what earlier runs admitted today; once, at start."""
        self._limiter.restore_day(await self._store.read(AdmittedOn(self._limiter.day)))

    def write(self) -> "asyncio.Future[None] | None":
        """Write what has changed since the last call, in an outage as soon as it is over; None where nothing has."""
        requests = self._limiter.take_admitted()
        if not requests:
            return None
        return self._store.write(NoteAdmitted(self._limiter.day, requests), is_durable=False, in_outage="wait")

    async def watch(self) -> None:
        """Write what changes, until cancelled; during an outage once for all of it."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            if (written := self.write()) is not None:
                await written
