"""How each part of the service is, and was in the last 90 days: a minute at a time, by day, of late by hour.

Knows no backend: how things are now is told by a function. A minute in which the gateway did not run, or was in
maintenance, is none that was looked at.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Literal, NamedTuple

from mcp_gateway.core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from mcp_gateway.core.engine import Engine, Scan, Write

SHOWN_DAYS = 90
LATE_HOURS = 24
"""Those of which is told by the hour; the present one is one of them."""
_SET_BACK_MINUTES = 60
"""A clock set back by less comes again to minutes that were counted; one set back by more was wrong before."""

ComponentState = Literal["operational", "degraded", "down", "maintenance"]


class Component(NamedTuple):
    """A part of the service as it is now; `id` is what its past is kept under, `model` is that of a model alone."""

    id: str
    name: str
    state: ComponentState
    model: str | None = None


class SeenMinutes(NamedTuple):
    """The minutes of a day or an hour, each since the Unix epoch, in which a component was looked at."""

    minutes: int = 0
    degraded_minutes: int = 0
    down_minutes: int = 0


class ComponentPast(NamedTuple):
    """The shown days, the oldest first, None for one in which nobody looked.

    The shares are of the minutes looked at in which it was not down, of these days and of the last 24 hours.
    """

    days: Sequence[SeenMinutes | None]
    up_share: float | None
    late_up_share: float | None


@dataclass(frozen=True, slots=True)
class NoteMinute(Write[None]):
    """Components were as told in a minute since the Unix epoch; what is no longer shown goes."""

    minute: int
    components: tuple[tuple[str, ComponentState], ...]

    @property
    def day(self) -> int:
        return self.minute * MINUTE_MS // DAY_MS

    @property
    def hour(self) -> int:
        return self.minute * MINUTE_MS // HOUR_MS


@dataclass(frozen=True, slots=True)
class DaysSince(Scan[Mapping[tuple[str, int], SeenMinutes]]):
    """By the component's id and the day."""

    day: int


@dataclass(frozen=True, slots=True)
class HoursSince(Scan[Mapping[tuple[str, int], SeenMinutes]]):
    """By the component's id and the hour."""

    hour: int


class _Times:
    """What was seen of components at days or hours; what is before the first that is told goes once that moves on."""

    def __init__(self, seen: Mapping[tuple[str, int], SeenMinutes]) -> None:
        self._seen = dict(seen)
        self._first_time = 0

    def learn(self, seen: Mapping[tuple[str, int], SeenMinutes]) -> None:
        """What is known of these by now."""
        self._seen |= seen

    def of(self, component_id: str, first_time: int, time: int) -> list[SeenMinutes | None]:
        return [self._seen.get((component_id, one)) for one in range(first_time, time + 1)]

    def add(self, first_time: int, time: int, components: Iterable[tuple[str, ComponentState]]) -> None:
        """One more minute."""
        if first_time != self._first_time:
            self._first_time = first_time
            self._seen = {key: minutes for key, minutes in self._seen.items() if key[1] >= first_time}
        for component_id, state in components:
            self._seen[component_id, time] = with_minute(self._seen.get((component_id, time), SeenMinutes()), state)


class StatusBoard:
    """`look` tells how every component is at the moment."""

    def __init__(self, store: Engine, look: Callable[[], Sequence[Component]], now_ms: Callable[[], int]) -> None:
        self._store = store
        self._look = look
        self._now_ms = now_ms
        self._days, self._hours = _Times({}), _Times({})
        self._noted_minute = 0
        self._pasts: dict[str, ComponentPast] = {}
        """Of the components that were asked for since the latest minute was counted, in `_pasts_hour`."""
        self._pasts_hour = 0

    async def restore(self) -> None:
        """Go on from what earlier runs saw; once, at start."""
        now_ms = self._now_ms()
        days = await self._store.read(DaysSince(first_day_at(now_ms // DAY_MS)))
        hours = await self._store.read(HoursSince(first_hour_at(now_ms // HOUR_MS)))
        self._days, self._hours = _Times(days), _Times(hours)
        self._pasts.clear()

    async def catch_up(self) -> None:
        """Take over what another server has counted of late."""
        now_ms = self._now_ms()
        self._days.learn(await self._store.read(DaysSince(now_ms // DAY_MS - 1)))
        self._hours.learn(await self._store.read(HoursSince(now_ms // HOUR_MS - 1)))
        self._pasts.clear()

    def components(self) -> Sequence[Component]:
        return self._look()

    def past_of(self, component_id: str) -> ComponentPast:
        """Found once for each minute that is counted, however often it is asked for."""
        now_ms = self._now_ms()
        if (hour := now_ms // HOUR_MS) != self._pasts_hour:
            self._pasts_hour = hour
            self._pasts.clear()
        past = self._pasts.get(component_id)
        if past is None:
            today = now_ms // DAY_MS
            days = self._days.of(component_id, first_day_at(today), today)
            past = ComponentPast(days, _up_share(days), self.late_up_share_of(component_id))
            self._pasts[component_id] = past
        return past

    def late_up_share_of(self, component_id: str) -> float | None:
        """As in its past, without looking through its days."""
        hour = self._now_ms() // HOUR_MS
        return _up_share(self._hours.of(component_id, first_hour_at(hour), hour))

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
        noted = NoteMinute(minute, counted)
        self._days.add(first_day_at(noted.day), noted.day, counted)
        self._hours.add(first_hour_at(noted.hour), noted.hour, counted)
        self._pasts.clear()
        return self._store.write(noted, is_durable=False, in_outage="wait")

    async def watch(self) -> None:
        """Count every minute, until cancelled; during an outage of the database once for all of it.

        Of several servers the elected one counts, as it sees the components.
        """
        while True:
            await asyncio.sleep(MINUTE_MS / 1000)
            if not self._store.is_elected:
                await self.catch_up()
            elif (written := self.note_minute()) is not None:
                await written


def model_component(model_id: str) -> str:
    """The id of the component that a model is."""
    return f"model/{model_id}"


def first_day_at(day: int) -> int:
    """The oldest that is shown on a day."""
    return day - SHOWN_DAYS + 1


def first_hour_at(hour: int) -> int:
    """The oldest that is told of in an hour."""
    return hour - LATE_HOURS + 1


def with_minute(seen: SeenMinutes, state: ComponentState) -> SeenMinutes:
    """One more minute."""
    return SeenMinutes(
        seen.minutes + 1, seen.degraded_minutes + (state == "degraded"), seen.down_minutes + (state == "down")
    )


def up_percent(share: float | None) -> float | None:
    """To three decimals, and never rounded up."""
    return None if share is None else floor(share * 100_000) / 1000


def _up_share(times: Iterable[SeenMinutes | None]) -> float | None:
    seen = [time for time in times if time is not None]
    minutes = sum(time.minutes for time in seen)
    return 1 - sum(time.down_minutes for time in seen) / minutes if minutes else None
