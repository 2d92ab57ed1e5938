"""A wall clock that somebody sets: limits and grants go on."""

import pytest

from mcp_gateway.core.clock import DAY_S, SteadyClock


class Watch:
    """Both clocks of a machine; `wall_s` can be set."""

    def __init__(self) -> None:
        self.wall_s = 1_900_000_000.0
        self.monotonic_s = 50.0
        self.clock = SteadyClock(lambda: self.wall_s, lambda: self.monotonic_s)

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_it_tells_the_wall_clocks_time(watch: Watch) -> None:
    watch.pass_s(12.5)
    assert watch.clock.now_s() == watch.wall_s
    assert watch.clock.now_ms() == int(watch.wall_s * 1000)


def test_it_does_not_go_back_and_does_not_stand_still(watch: Watch) -> None:
    before_s = watch.clock.now_s()
    watch.wall_s -= 3600
    assert watch.clock.now_s() == before_s
    watch.pass_s(10)
    assert watch.clock.now_s() == before_s + 10
    watch.wall_s += 3600
    watch.pass_s(1)
    assert watch.clock.now_s() == before_s + 11


@pytest.mark.parametrize("step_s", [1.0, 3600.0, DAY_S])
def test_a_step_forward_of_up_to_a_day_is_followed_within_a_second(watch: Watch, step_s: float) -> None:
    before_s = watch.clock.now_s()
    watch.wall_s += step_s
    watch.pass_s(1)
    assert watch.clock.now_s() == before_s + step_s + 1


def test_a_leap_is_believed_at_a_second_look_a_minute_later(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    before_s = watch.clock.now_s()
    watch.wall_s += 40 * DAY_S
    watch.pass_s(1)
    for _ in range(3):
        assert watch.clock.now_s() - before_s < 61
        watch.pass_s(19)
    watch.pass_s(3)
    assert watch.clock.now_s() == watch.wall_s
    assert caplog.text.count("the clock leapt forward") == 1


def test_a_leap_that_is_taken_back_within_the_minute_has_never_been(watch: Watch) -> None:
    before_s = watch.clock.now_s()
    watch.wall_s += 40 * DAY_S
    watch.pass_s(1)
    watch.clock.now_s()
    watch.pass_s(30)
    watch.wall_s -= 40 * DAY_S
    watch.pass_s(3600)
    assert watch.clock.now_s() == before_s + 3631


def test_a_second_leap_is_doubted_anew(watch: Watch) -> None:
    watch.wall_s += 40 * DAY_S
    watch.pass_s(1)
    watch.clock.now_s()
    watch.wall_s -= 40 * DAY_S  # taken back
    watch.pass_s(1)
    before_s = watch.clock.now_s()
    watch.pass_s(120)
    watch.wall_s += 40 * DAY_S
    assert watch.clock.now_s() == before_s + 120
