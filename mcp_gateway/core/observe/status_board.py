"""How each part of the service is, and was in the last 90 days: a minute at a time, by day.

Knows no backend: how things are now is told by a function. A minute in which the gateway did not run, or was in
maintenance, is none that was looked at.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mcp_gateway.core.clock import DAY_MS, MINUTE_MS
from mcp_gateway.core.engine import Engine, Scan, Write

SHOWN_DAYS = 90
_SET_BACK_MINUTES = 60
"""A clock set back by less comes again to minutes that were counted; one set back by more was wrong before."""

ComponentState = Literal["operational", "degraded", "down", "maintenance"]


class Component(NamedTuple):
    """A part of the service as it is now; `id` is what its past is kept under."""

    id: str
    name: str
    state: ComponentState


class ComponentDay(NamedTuple):
    """The minutes of one day since the Unix epoch in which a component was looked at."""

    minutes: int = 0
    degraded_minutes: int = 0
    down_minutes: int = 0


class ComponentPast(NamedTuple):
    """The shown days, the oldest first, None for one in which nobody looked; the share of minutes it was not down."""

    days: Sequence[ComponentDay | None]
    up_share: float | None


@dataclass(frozen=True, slots=True)
class NoteMinute(Write[None]):
    """One more minute of a day in which components were as told; days before `kept_from_day` go."""

    day: int
    components: tuple[tuple[str, ComponentState], ...]
    kept_from_day: int


@dataclass(frozen=True, slots=True)
class DaysSince(Scan[Mapping[tuple[str, int], ComponentDay]]):
    """By the component's id and the day."""

    day: int


class StatusBoard:
    """`look` tells how every component is at the moment."""

    def __init__(self, store: Engine, look: Callable[[], Sequence[Component]], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._look = look
        self._now_ms = now_ms
        self._days: dict[tuple[str, int], ComponentDay] = {}
        self._noted_minute = 0

    async def restore(self) -> None:
        """Go on from what earlier runs saw; once, at start."""
        kept: Mapping[tuple[str, int], ComponentDay] = await self._store.read(DaysSince(self._first_day))
        self._days = dict(kept)

    def components(self) -> Sequence[Component]:
        return self._look()

    def past_of(self, component_id: str) -> ComponentPast:
        first = self._first_day
        days = [self._days.get((component_id, day)) for day in range(first, first + SHOWN_DAYS)]
        seen = [day for day in days if day is not None]
        minutes = sum(day.minutes for day in seen)
        down = sum(day.down_minutes for day in seen)
        return ComponentPast(days, 1 - down / minutes if minutes else None)

    def note_minute(self) -> "asyncio.Future[None] | None":
        """Count how everything is for the present minute; None where that was counted already, or nothing counts."""
        now_ms = self._now_ms()
        minute = now_ms // MINUTE_MS
        if 0 <= self._noted_minute - minute < _SET_BACK_MINUTES:
            return None
        self._noted_minute = minute
        counted = tuple((one.id, one.state) for one in self._look() if one.state != "maintenance")
        if not counted:
            return None
        day, first = now_ms // DAY_MS, self._first_day
        for component_id, state in counted:
            self._days[component_id, day] = with_minute(self._days.get((component_id, day), ComponentDay()), state)
        self._days = {key: value for key, value in self._days.items() if key[1] >= first}
        return self._store.write(NoteMinute(day, counted, first), is_durable=False, in_outage="wait")

    async def watch(self) -> None:
        """Count every minute, until cancelled; during an outage of the database once for all of it."""
        while True:
            await asyncio.sleep(MINUTE_MS / 1000)
            if (written := self.note_minute()) is not None:
                await written

    @property
    def _first_day(self) -> int:
        return self._now_ms() // DAY_MS - SHOWN_DAYS + 1


def with_minute(day: ComponentDay, state: ComponentState) -> ComponentDay:
    """A day with one more minute."""
    return ComponentDay(
        day.minutes + 1, day.degraded_minutes + (state == "degraded"), day.down_minutes + (state == "down")
    )
