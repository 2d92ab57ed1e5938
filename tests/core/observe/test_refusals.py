"""Refusals as the operator sees them: by code in a counter, by address in one line a minute."""

from collections import Counter

import pytest

from mcp_gateway.core.identity.address import counted_as
from mcp_gateway.core.observe.refusals import Refusals


@pytest.fixture
def codes() -> Counter[str]:
    return Counter()


@pytest.fixture
def refusals(codes: Counter[str]) -> Refusals:
    return Refusals(lambda code: codes.update([code]), counted_as)


def test_a_minute_is_one_line_with_the_addresses_that_were_refused_most(
    refusals: Refusals, codes: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(7):
        for _ in range(number + 1):
            refusals.note("invalid_api_key" if number == 6 else "in_flight", f"192.0.2.{number}")
    refusals.tell()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        "28 requests were refused in a minute, 7 for their keys: 7 from 192.0.2.6 (7 for their keys)"
    )
    assert ("6 from 192.0.2.5," in line, "192.0.2.1" in line) == (True, False)
    assert codes == {"invalid_api_key": 7, "in_flight": 21}


def test_a_minute_without_refusals_is_no_line_and_each_is_told_once(
    refusals: Refusals, caplog: pytest.LogCaptureFixture
) -> None:
    refusals.tell()
    refusals.note("unknown_url", "192.0.2.1")
    refusals.tell()
    refusals.tell()
    assert len(caplog.records) == 1


def test_addresses_of_one_household_are_one(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(9):
        refusals.note("revoked_api_key", f"2001:db8::{number}")
    refusals.tell()
    assert "9 from 2001:db8::/64 (9 for their keys)" in caplog.records[0].getMessage()


def test_very_many_addresses_keep_no_more_than_so_many(refusals: Refusals, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(10_500):
        refusals.note("guest", f"10.0.{number >> 8}.{number & 255}")
    refusals.note("guest", "10.0.0.1")
    assert len(refusals._by_address) == 10_000
    refusals.tell()
    assert (
        caplog.records[0].getMessage().startswith("10501 requests were refused in a minute, 0 for their keys: 2 from")
    )
