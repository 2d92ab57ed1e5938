"""How often a password may be tried, on a clock of ours."""

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits import sign_ins as module
from mcp_gateway.core.limits.sign_ins import SignIns


class Clock:
    now_s: float = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Clock:
    return Clock()


def wait_of(sign_ins: SignIns, name: str, address: str = "192.0.2.9") -> int:
    """How long the next try has to wait; 0 for one that was let through, and counts as failed."""
    try:
        sign_ins.begin(name, address)
    except GatewayError as refusal:
        return (refusal.retry_after_s or 0) if refusal.code == "too_many_sign_ins" else -1
    return 0


def test_each_failure_beyond_five_doubles_the_wait_up_to_a_quarter_of_an_hour(wall: Clock) -> None:
    sign_ins = SignIns(wall)
    assert [wait_of(sign_ins, "ann") for _ in range(5)] == [0] * 5
    waits = []
    for _ in range(14):
        waits.append(wait_of(sign_ins, "ann"))
        wall.now_s += waits[-1]
        assert wait_of(sign_ins, "ann") == 0
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]


def test_a_try_that_is_refused_counts_as_none_so_that_nobody_is_kept_out_by_asking(wall: Clock) -> None:
    sign_ins = SignIns(wall)
    for _ in range(1000):
        wait_of(sign_ins, "ann")
    assert wait_of(sign_ins, "ann") == 1


def test_names_count_apart_and_success_or_an_hour_forgets(wall: Clock) -> None:
    sign_ins = SignIns(wall)
    for _ in range(6):
        wait_of(sign_ins, "ann")
    assert wait_of(sign_ins, "bob") == 0
    sign_ins.succeed("ann", "192.0.2.1")
    assert [wait_of(sign_ins, "ann") for _ in range(6)] == [0] * 5 + [1]
    wall.now_s += 3601
    assert [wait_of(sign_ins, "ann") for _ in range(6)] == [0] * 5 + [1]


def test_who_tries_from_elsewhere_keeps_nobody_out_at_an_address_from_which_they_have_come_in(wall: Clock) -> None:
    sign_ins = SignIns(wall)
    sign_ins.begin("ann", "192.0.2.1")
    sign_ins.succeed("ann", "192.0.2.1")
    for number in range(31):
        wall.now_s += wait_of(sign_ins, "ann", f"198.51.100.{number}")
    assert wait_of(sign_ins, "ann", "192.0.2.2") > 0
    assert [wait_of(sign_ins, "ann", "192.0.2.1") for _ in range(6)] == [0] * 5 + [1], "its own count"
    wall.now_s += 1
    sign_ins.begin("ann", "192.0.2.1")
    sign_ins.succeed("ann", "192.0.2.1")
    assert wait_of(sign_ins, "ann", "192.0.2.1") == 0
    assert wait_of(sign_ins, "ann", "192.0.2.2") > 0, "others gain nothing by it"
    assert wait_of(sign_ins, "bob", "192.0.2.1") == 0


def test_an_address_has_twenty_tries_in_a_clock_minute(wall: Clock) -> None:
    sign_ins = SignIns(wall)
    wall.now_s = 60.0 * 1000 + 45
    for _ in range(20):
        sign_ins.count_address("192.0.2.1")
    with pytest.raises(GatewayError) as refused:
        sign_ins.count_address("192.0.2.1")
    assert refused.value.retry_after_s == 15
    sign_ins.count_address("192.0.2.2")
    wall.now_s += 15
    sign_ins.count_address("192.0.2.1")


def test_a_flood_of_names_and_addresses_is_kept_within_bounds(wall: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    sign_ins = SignIns(wall)
    for number in range(100):
        wait_of(sign_ins, f"user {number}")
        sign_ins.succeed(f"user {number - 50}", "192.0.2.1")
    assert len(sign_ins._failures) == len(sign_ins._familiar) == 10
    for number in range(10):
        sign_ins.count_address(f"address {number}")
    with pytest.raises(GatewayError):
        sign_ins.count_address("one more")


def test_a_site_has_two_hundred_however_many_networks_it_has(wall: Clock) -> None:
    sign_ins = SignIns(wall)
    for number in range(200):
        sign_ins.count_address(f"2001:db8:0:{number:x}::/64", "2001:db8::/48")
    with pytest.raises(GatewayError):
        sign_ins.count_address("2001:db8:0:ffff::/64", "2001:db8::/48")
    sign_ins.count_address("2001:db8:1::/64", "2001:db8:1::/48")
