"""The last day's sums: counted as requests end, read back at start, forgotten after a day."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.observe.activity import Activity, quantile
from tests.databases import open_store
from tests.recorded import recorded, write_records

NOW_MS = 1_900_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


def test_requests_and_tokens_are_summed_over_the_slots_of_a_day() -> None:
    activity = Activity(Clock())
    for age_ms in (0, 1, 3_600_000, DAY_MS - 1_200_000):
        activity.note(recorded(NOW_MS - age_ms))
    day = activity.last_day()
    assert (day.requests, day.prompt_tokens, day.completion_tokens) == (4, 40, 16)


def test_what_is_older_than_a_day_is_forgotten() -> None:
    clock = Clock()
    activity = Activity(clock)
    activity.note(recorded(NOW_MS))
    clock.ms += DAY_MS + 600_000
    assert activity.last_day().requests == 0
    activity.note(recorded(clock.ms))
    assert activity.last_day().requests == 1
    assert len(activity._slots) == 1


def test_only_answers_that_succeeded_count_towards_the_latencies() -> None:
    activity = Activity(Clock())
    activity.note(recorded(NOW_MS, latency_ms=70, first_token_ms=30))
    activity.note(recorded(NOW_MS, latency_ms=20_000, http_status=502))
    day = activity.last_day()
    assert (day.requests, dict(day.latencies_ms), dict(day.first_tokens_ms)) == (2, {70: 1}, {30: 1})


async def test_a_restart_reads_back_what_had_been_counted(tmp_path: Path) -> None:
    records = [
        recorded(
            NOW_MS - number * 700_000,
            account_id="acc_guest",
            latency_ms=7**number,
            first_token_ms=3**number,
            http_status=status,
        )
        for number, status in enumerate([200, 200, 499, 200, 200, 502, 200, 200])
    ]
    old = [
        recorded(NOW_MS - 2 * DAY_MS, account_id="acc_guest"),
        recorded(NOW_MS, account_id="acc_guest")._replace(first_token_ms=None),
    ]
    clock = Clock()
    counted, restored = Activity(clock), Activity(clock)
    for record in [*records, *old]:
        counted.note(record)
    store = await open_store(tmp_path / "gateway.sqlite3")
    await write_records(store, *records, *old)
    await restored.restore(store)
    await store.close()
    assert restored.last_day() == counted.last_day()
    assert restored.last_day().requests == 9


async def test_each_models_median_is_that_of_its_latest_streams_over_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    times_ms: dict[str, tuple[int | None, ...]] = {
        "org/large": (9999,) * 5 + (120,) * 49 + (345,) * 51,
        "org/small": (40, 20, 30),
        "org/none": (None,),
    }
    records = [
        recorded(NOW_MS + number, account_id="acc_guest", model=model, first_token_ms=time_ms)
        for model, times in times_ms.items()
        for number, time_ms in enumerate(times)
    ]
    records += [
        recorded(NOW_MS - DAY_MS - 1, account_id="acc_guest", model="org/small", first_token_ms=9999),
        recorded(NOW_MS, account_id="acc_guest", model="org/small", first_token_ms=9999, http_status=502),
    ]
    counted, restored = Activity(clock), Activity(clock)
    for record in sorted(records, key=lambda record: record.started_at_ms):
        counted.note(record)
    store = await open_store(tmp_path / "gateway.sqlite3")
    await write_records(store, *records)
    await restored.restore(store)
    await store.close()
    for activity in (counted, restored):
        medians = [activity.first_token_ms(model) for model in (*times_ms, "org/unknown")]
        assert medians == [340, 30, None, None]


def test_a_median_is_taken_once_a_minute_and_a_model_without_streams_for_a_day_is_forgotten() -> None:
    clock = Clock()
    activity = Activity(clock)
    activity.note(recorded(NOW_MS, model="a", first_token_ms=10))
    assert activity.first_token_ms("a") == 10
    activity.note(recorded(NOW_MS + 1, model="a", first_token_ms=5))
    clock.ms += 59_999
    assert activity.first_token_ms("a") == 10
    clock.ms += 1
    assert activity.first_token_ms("a") == 5
    clock.ms += DAY_MS
    assert activity.first_token_ms("a") is None
    assert activity._streams == {}


@given(st.lists(st.integers(0, 5_000_000), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_within_a_tenth_of_the_exact_one(latencies_ms: list[int], share: float) -> None:
    activity = Activity(Clock())
    for latency_ms in latencies_ms:
        activity.note(recorded(NOW_MS, latency_ms=latency_ms))
    rank = -int(-share * len(latencies_ms) // 1) - 1
    exact = sorted(latencies_ms)[rank]
    estimate = quantile(activity.last_day().latencies_ms, share)
    assert estimate is not None
    assert estimate <= exact <= estimate * 1.1 + 1


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile({}, 0.5) is None


@pytest.mark.parametrize("number", [2**62, 2**63 - 1, -(2**63)])
async def test_no_row_that_stands_in_the_log_already_makes_a_start_fail(tmp_path: Path, number: int) -> None:
    counts = dict.fromkeys(
        ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano", "latency_ms", "first_token_ms"), number
    )
    restored = Activity(Clock())
    store = await open_store(tmp_path / "gateway.sqlite3")
    await write_records(store, *(recorded(NOW_MS, account_id="acc_guest", **counts) for _ in range(3)))
    await restored.restore(store)
    await store.close()
    day = restored.last_day()
    assert (day.requests, day.prompt_tokens) == (3, 3 * 2**32 if number > 0 else 0)
