"""Time zones by name, and how far their clocks are ahead of UTC, by the hours that sums are kept of."""

from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.text import shown

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOURS_A_WEEK = 7 * 24
"""In which no clocks are changed twice."""
_FIRST_HOUR = (datetime(2020, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(hours=1)
_LAST_HOUR = (datetime(2100, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(hours=1)
"""Between these, clocks are looked at; there are no older requests."""

_NO_PLACES = ("right/", "posix/", "posixrules", "localtime", "Factory")


class ZoneOffset(NamedTuple):
    """How many seconds the clocks of a zone are ahead of UTC in the hours before this one, since the Unix epoch."""

    before_hour: int
    ahead_s: int


def zone_of(name: str) -> tzinfo:
    """Raises ValueError for a name that this system does not know, or that is no place's.

    Systems have clocks that count leap seconds beside all others (`right/Europe/Berlin`), whose hours begin in the
    midst of ours, and a name for what the machine itself is set to.
    """
    try:
        if name.startswith(_NO_PLACES):
            raise ValueError(name)
        return UTC if name == "UTC" else ZoneInfo(name)  # UTC is known without the system's table, too
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone '{shown(name)}' here; name one as in Europe/Berlin") from None


def offsets_in(zone: tzinfo, since_hour: int, until_hour: int) -> tuple[ZoneOffset, ...]:
    """Of a window of hours, in their order: none of UTC. An hour has the offset that it begins with."""
    if zone is UTC:
        return ()
    found: list[ZoneOffset] = []
    at, end = (min(max(hour, _FIRST_HOUR), _LAST_HOUR) for hour in (since_hour, until_hour))
    ahead_s = _ahead_s(zone, at)
    while at < end:
        after = min(at + _HOURS_A_WEEK, end)
        if (changed_s := _ahead_s(zone, after)) != ahead_s:
            found.append(ZoneOffset(_first_changed(zone, at, after), ahead_s))
            ahead_s = changed_s
        at = after
    return (*found, ZoneOffset(until_hour, ahead_s))


def day_begins_ms(day: date, zone: tzinfo) -> int:
    """The first full hour of UTC that begins on a day of the zone: sums of hours tell apart no less."""
    begins = datetime(day.year, day.month, day.day, tzinfo=zone)
    return -(-int(begins.timestamp()) * 1000 // HOUR_MS) * HOUR_MS


def _ahead_s(zone: tzinfo, hour: int) -> int:
    offset = (_EPOCH + timedelta(hours=hour)).astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def _first_changed(zone: tzinfo, before: int, after: int) -> int:
    """The hour between two, behind the first, from which on clocks are as in the second."""
    as_after = _ahead_s(zone, after)
    while after - before > 1:
        middle = (before + after) // 2
        if _ahead_s(zone, middle) == as_after:
            after = middle
        else:
            before = middle
    return after


def zone_or_utc(name: str | None) -> tzinfo:
    """Of a name that was known when it was chosen, and may be of a system that knew more."""
    try:
        return zone_of(name or "UTC")
    except ValueError:
        return UTC
