"""The sums by the hour held against the requests that they are of, and put right by what they differ.

A difference is found in one moment and added, so that what is summed up meanwhile stays right. Sums outlive their
requests: hours whose requests are gone are left as they are.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.engine import Engine, Scan, Write

SumsName = Literal["usage", "parts", "tasks", "attributed"]
"""All; of surfaces and failures; by task; by user and tag."""
_HOURS = DAY_MS // HOUR_MS


class RecordedHours(NamedTuple):
    """The hours, since the Unix epoch, that an account's requests reach back to and forth."""

    account_id: str
    first_hour: int
    last_hour: int


class SumsDifference(NamedTuple):
    """What requests come to, less what a sum says: requests, prompt, completion and cached tokens, nano-USD."""

    sums: SumsName
    names: tuple[str | int, ...]
    """Account, hour, key and model, and what else the sum is of."""
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReachOfRequests(Scan[list[RecordedHours]]):
    """Of all accounts that have requests; of an hour in which more were summed up, all after it."""


@dataclass(frozen=True, slots=True)
class DifferencesIn(Scan[list[SumsDifference]]):
    """Of an account's sums of one kind, `until_hour` exclusive."""

    sums: SumsName
    account_id: str
    since_hour: int
    until_hour: int


@dataclass(frozen=True, slots=True)
class AddToSums(Write[None]):
    """Put sums right."""

    differences: tuple[SumsDifference, ...]


class HourlySums:
    """Of all accounts."""

    def __init__(self, store: Engine) -> None:
        self._store = store

    async def rebuild(self, *, changes: bool) -> AsyncIterator[SumsDifference]:
        """Tell what differs, a day of an account after the other; unless it `changes` nothing, it is right then."""
        for reach in await self._store.read(ReachOfRequests()):
            for since_hour in range(reach.first_hour, reach.last_hour + 1, _HOURS):
                until_hour = min(since_hour + _HOURS, reach.last_hour + 1)
                for sums in get_args(SumsName):
                    found = await self._store.read(DifferencesIn(sums, reach.account_id, since_hour, until_hour))
                    if found and changes:
                        await self._store.write(AddToSums(tuple(found)))
                    for one in found:
                        yield one
