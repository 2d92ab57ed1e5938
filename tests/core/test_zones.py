"""Time zones by the hours of UTC: how far clocks are ahead in each, and where days begin."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mcp_gateway.core.zones import day_begins_ms, offsets_in, zone_of, zone_or_utc
from tests.cases import each

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FROM = (datetime(2023, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(hours=1)
ZONES = [
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "America/Los_Angeles",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
]


@pytest.mark.parametrize("name", ZONES)
def test_each_hour_has_the_offset_that_it_begins_with(name: str) -> None:
    zone = ZoneInfo(name)
    until = FROM + 24 * 900
    offsets = offsets_in(zone, FROM, until)
    hour = FROM
    for before_hour, ahead_s in offsets:
        for one in (hour, before_hour - 1, (hour + before_hour) // 2):
            offset = (EPOCH + timedelta(hours=one)).astimezone(zone).utcoffset()
            assert offset == timedelta(seconds=ahead_s)
        hour = before_hour
    assert hour == until
    assert len(offsets) == 1 or [one.ahead_s for one in offsets[1:]] != [one.ahead_s for one in offsets[:-1]]


def test_utc_has_none_and_times_far_away_are_not_looked_into() -> None:
    assert offsets_in(UTC, 0, 10) == ()
    assert offsets_in(ZoneInfo("Asia/Kolkata"), 0, 10**9) == ((10**9, 19_800),)
    assert offsets_in(ZoneInfo("Asia/Kolkata"), 10**9, 10**9 + 5) == ((10**9 + 5, 19_800),)


@pytest.mark.parametrize(
    ("name", "begins"),
    [("UTC", "2026-03-08T00:00"), ("Asia/Kolkata", "2026-03-07T19:00"), ("America/Los_Angeles", "2026-03-08T08:00")],
)
def test_a_day_begins_with_the_first_full_hour_in_it(name: str, begins: str) -> None:
    at = EPOCH + timedelta(milliseconds=day_begins_ms(date(2026, 3, 8), zone_or_utc(name)))
    assert f"{at:%Y-%m-%dT%H:%M}" == begins


def test_a_zone_that_is_known_no_more_is_utc() -> None:
    assert zone_or_utc("Mars/Olympus") is UTC
    assert zone_or_utc(None) is UTC


@each(
    "name", ["right/Europe/Berlin", "right/UTC", "posix/Europe/Berlin", "localtime", "Factory", "../UTC", "UTC\0", ""]
)
def test_no_zone_is_what_counts_leap_seconds_or_is_the_machine_s(name: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone"):
        zone_of(name)
