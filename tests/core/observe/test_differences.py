"""What a backend counted beside what was billed: what lies between samples, and how far each reason reaches."""

from random import Random
from typing import Any

import pytest

from mcp_gateway.core.observe.counter_samples import CounterSample
from mcp_gateway.core.observe.differences import Comparison, Series
from mcp_gateway.core.observe.uses import NONE, BilledUse, Tokens
from mcp_gateway.core.token_counters import TokenCounters
from tests.cases import each

DAY_MS = 86_400_000


def sample(at_s: float, prompt: int = 0, completion: int = 0, **told: Any) -> CounterSample:
    """Read within 10 ms; `told` is of the sample or of its counters."""
    counters: dict[str, Any] = {"cached_tokens": 0, "finished_requests": 0, "more_choices": 0, "began_at_ms": 1}
    counters |= {name: told.pop(name) for name in list(told) if name in TokenCounters._fields}
    at_ms = round(at_s * 1000)
    named: dict[str, Any] = {"run_at_ms": 0, "ours": 0, "others": 0, "failed_requests": 0} | told
    return CounterSample(
        at_ms, at_ms - 10, "vllm-1", "tiny", counters=TokenCounters(prompt, completion, **counters), **named
    )


def use(from_s: float, to_s: float, prompt: int = 10, completion: int = 5, **told: Any) -> BilledUse:
    named: dict[str, Any] = {
        "cached_tokens": 0,
        "http_status": 200,
        "error_code": None,
        "policy": None,
        "ended_by": None,
    } | told
    return BilledUse("vllm-1", "m", round(from_s * 1000), round(to_s * 1000), prompt, completion, **named)


def compared(samples: list[CounterSample], *uses: BilledUse) -> Comparison:
    series = Series(samples)
    for one in uses:
        series.add(one)
    return series.compare()


def named(comparison: Comparison) -> dict[str, int | None]:
    return {reason.name: reason.times for reason in comparison.reasons}


def agrees(comparison: Comparison) -> bool:
    return (comparison.difference, comparison.reasons, comparison.unexplained) == (NONE, (), NONE)


def test_what_lies_between_the_first_sample_and_the_last_is_compared_over_any_samples_in_between() -> None:
    samples = [sample(10, 100, 50), sample(20, 110, 55), sample(30, 120, 60, others=1), sample(40, 130, 65)]
    uses = [use(1, 5), use(11, 12), use(19, 31), use(35, 39), use(41, 50)]
    found = compared(samples, *uses)
    assert (found.requests, found.counted, found.billed) == (3, Tokens(30, 15), Tokens(30, 15))
    assert agrees(found)


@each("ran", [(9.995, 9.999), (5, 10), (9.99, 10.0), (39.995, 39.999), (39, 41), (40, 50), (5, 50)])
@each("is_counted", [False, True])
def test_what_ran_as_a_sample_was_taken_is_taken_to_the_side_where_the_sums_agree(
    ran: tuple[float, float], is_counted: bool
) -> None:
    samples = [sample(10), sample(40, 10 + 10 * is_counted, 5 + 5 * is_counted)]
    assert agrees(compared(samples, use(20, 30), use(*ran)))


def test_what_was_counted_in_part_at_a_border_has_that_for_a_reason_and_no_more() -> None:
    found = compared([sample(10), sample(40, 20, 7)], use(20, 30), use(35, 45))
    assert (abs(found.difference.completion), named(found), found.unexplained) == (3, {"ran_at_the_border": 1}, NONE)
    beyond = compared([sample(10), sample(40, 20, 5 + 5 + 4)], use(20, 30), use(35, 45))
    assert beyond.unexplained == Tokens(0, 4)


@each("is_told", [False, True])
@each("lost", [(), ((11, 12),), ((5, 14),), ((11, 12), (13, 14))])
def test_a_restart_costs_at_most_what_was_billed_since_the_sample_before(
    lost: tuple[tuple[float, float], ...], is_told: bool
) -> None:
    began = 15_000 if is_told else None
    first = {} if is_told else {"began_at_ms": None}
    samples = [
        sample(0, 1000, 1000, **first), sample(10, 1010, 1005, **first),
        sample(20, 10, 5, began_at_ms=began), sample(30, 20, 10, began_at_ms=began),
    ]  # fmt: skip
    found = compared(samples, use(1, 2), use(16, 18), use(25, 26), *(use(*ran) for ran in lost))
    assert found.counted == Tokens(30, 15)
    reasons = {"backend_restarted": 1} if lost else {}
    assert (found.difference, named(found), found.unexplained) == (
        Tokens(-10 * len(lost), -5 * len(lost)), reasons, NONE,
    )  # fmt: skip


def test_a_restart_explains_nothing_that_was_billed_at_another_time() -> None:
    samples = [sample(0), sample(10), sample(20, began_at_ms=15_000), sample(30, 7, began_at_ms=15_000)]
    for lost in (2, 100):
        found = compared(samples, use(12, 13, lost, 0), use(22, 23, 10, 0))
        assert (found.difference, found.unexplained) == (Tokens(-lost - 3), Tokens(-3))


def test_a_restart_that_counts_beyond_what_was_before_is_seen_by_its_beginning() -> None:
    samples = [sample(0, 10), sample(10, 10), sample(20, 500, began_at_ms=15_000)]
    found = compared(samples, use(16, 17, 500, 0))
    assert (found.counted, found.difference) == (Tokens(500), NONE)


def test_another_server_in_its_place_brings_nothing_of_what_it_counted_before() -> None:
    samples = [
        sample(1000, 10, began_at_ms=5),
        sample(2000, 10**9, began_at_ms=7),
        sample(3000, 10**9 + 30, began_at_ms=7),
    ]
    found = compared(samples, use(2500, 2600, 30, 0))
    assert (found.counted, found.difference) == (Tokens(30), NONE)


FATES: list[tuple[dict[str, Any], str]] = [
    ({"http_status": 499, "error_code": "client_closed"}, "aborted"),
    ({"http_status": 401, "error_code": "revoked_api_key"}, "aborted"),
    ({"http_status": 403, "error_code": "account_deactivated", "policy": "estimate"}, "aborted"),
    ({"ended_by": "balance"}, "cut"),
    ({"policy": "hold"}, "estimated"),
    ({"policy": "free"}, "estimated"),
    ({"http_status": 502, "error_code": "backend_died"}, "failed"),
    ({"http_status": 503, "error_code": "ledger_unavailable"}, "failed"),
]


@each(("told", "name"), FATES)
def test_a_request_that_ended_otherwise_may_have_been_counted_with_anything_more_or_with_less(
    told: dict[str, Any], name: str
) -> None:
    for counted, difference in (
        ((10, 900), Tokens(0, 895)),
        ((10, 5), NONE),
        ((10, 0), Tokens(0, -5)),
        ((0, 0), Tokens(-10, -5)),
    ):
        found = compared([sample(0), sample(9, *counted)], use(1, 2, **told))
        reasons = {} if difference == NONE else {name: 1}
        assert (found.difference, named(found), found.unexplained) == (difference, reasons, NONE)
    ordinary = compared([sample(0), sample(9, 10, 5)], use(1, 2, **told), use(3, 4), use(5, 6))
    assert ordinary.unexplained == Tokens(-10, -5)  # two were answered, and one of these was not counted


@each(
    ("first", "last", "times"),
    [({}, {"finished_requests": 3}, 2), ({"finished_requests": 7}, {"finished_requests": 9}, 1), ({"others": 4}, {}, 4),
     ({"finished_requests": None}, {"finished_requests": None}, None)],
)  # fmt: skip
def test_others_are_a_reason_where_there_is_a_trace_of_them(
    first: dict[str, Any], last: dict[str, Any], times: int | None
) -> None:
    found = compared([sample(0, **first), sample(9, 80, 45, **last)], use(1, 2))
    assert (found.difference, named(found), found.unexplained) == (Tokens(70, 40), {"by_others": times}, NONE)
    fewer = compared([sample(0, **first), sample(9, 80, 3, **last)], use(1, 2))
    assert fewer.unexplained == Tokens(0, -2)  # nobody else takes tokens away


@each("kind", ["prompt", "completion", "cached"])
def test_more_than_was_billed_without_a_trace_of_anybody_is_unexplained(kind: str) -> None:
    counted = Tokens(10, 5, 0) + Tokens(**{kind: 1})
    last = sample(9, counted.prompt, counted.completion, cached_tokens=counted.cached, finished_requests=1)
    found = compared([sample(0), last], use(1, 2))
    assert (found.difference, found.reasons, found.unexplained) == (Tokens(**{kind: 1}), (), Tokens(**{kind: 1}))


def test_what_has_not_ended_at_the_last_sample_has_no_bill_yet() -> None:
    for ours, unexplained in ((0, Tokens(30, 2)), (1, NONE)):
        found = compared([sample(0), sample(9, 40, 7, ours=ours, finished_requests=1)], use(1, 2))
        assert (found.unexplained, named(found)) == (unexplained, {"still_running": 1} if ours else {})
    ended_since = compared([sample(0), sample(9, 40, 7, ours=1, finished_requests=1)], use(1, 2), use(8, 10))
    assert (named(ended_since), ended_since.unexplained) == ({"ran_at_the_border": 1}, Tokens(20))


def test_attempts_that_failed_are_counted_over_starts_of_the_gateway_and_less_those_that_have_a_record() -> None:
    samples = [
        sample(0, failed_requests=5), sample(5, failed_requests=7),
        sample(9, 80, 45, failed_requests=1, run_at_ms=6000),
    ]  # fmt: skip
    found = compared(samples, use(1, 2, http_status=502, error_code="backend_died"))
    assert named(found) == {"failed": 1, "failed_over": 2, "restarted": 1}


def test_replicas_that_read_side_by_side_are_no_restarts_and_not_each_others_others() -> None:
    """Nor is a backend that counted more as it was read by one than as it was read by the other just after."""
    samples = [
        sample(0, run_at_ms=-9), sample(1, run_at_ms=-8),
        sample(5, 20, 10, run_at_ms=-9, others=1, finished_requests=2),
        sample(5.001, 10, 5, run_at_ms=-8, others=1, finished_requests=1),
        sample(9, 30, 15, run_at_ms=-9, finished_requests=3), sample(9.5, 30, 15, run_at_ms=-8, finished_requests=3),
    ]  # fmt: skip
    found = compared(samples, use(1, 2), use(3, 4), use(6, 7))
    assert (found.counted, agrees(found)) == (Tokens(30, 15), True)


def test_what_failed_at_replicas_and_runs_there_is_that_of_all_and_one_that_ends_is_a_restart() -> None:
    samples = [
        sample(0, run_at_ms=-9, failed_requests=3), sample(1, run_at_ms=-8, failed_requests=5),
        sample(5, run_at_ms=-9, failed_requests=4, ours=1), sample(6, run_at_ms=-8, failed_requests=7),
        sample(7, run_at_ms=6500, failed_requests=1),
        sample(9, 1, run_at_ms=-9, failed_requests=4, ours=1),
        sample(9.5, 1, run_at_ms=6500, failed_requests=1, ours=2),
    ]  # fmt: skip
    assert named(compared(samples)) == {"failed_over": 1 + 2 + 1, "restarted": 1, "still_running": 3}


def test_a_server_that_counts_no_cached_tokens_is_compared_without() -> None:
    samples = [sample(0, cached_tokens=None), sample(9, 10, 5, cached_tokens=None)]
    found = compared(samples, use(1, 2, cached_tokens=8))
    assert (found.counts_cached, agrees(found)) == (False, True)


def test_further_choices_reach_as_far_as_the_largest_prompt_for_each() -> None:
    samples = [sample(0), sample(9, 40, 5, more_choices=3)]
    assert compared(samples, use(1, 2)).unexplained == NONE
    assert compared([*samples[:1], sample(9, 41, 5, more_choices=3)], use(1, 2)).unexplained == Tokens(1)


@pytest.mark.parametrize("spread_ms", [1, 10_000])
def test_many_requests_over_many_samples_are_added_up(spread_ms: int) -> None:
    samples = [sample(at, at * 10, at * 5) for at in range(1, 400)]
    uses = [use(at + 0.2, at + 0.7) for at in range(1, 399)]
    assert agrees(compared(samples, *uses))


def counted_by(tokens: list[tuple[float, int, int]], from_s: float, until_s: float) -> tuple[int, int]:
    """Of tokens with their times: of prompts, and of completions."""
    within = [(prompt, completion) for at_s, prompt, completion in tokens if from_s < at_s <= until_s]
    return sum(prompt for prompt, _ in within), sum(completion for _, completion in within)


def happened(random: Random) -> tuple[list[CounterSample], list[BilledUse]]:
    """Requests at any time, each counted somewhere between its ends, at a backend that starts again now and then."""
    last_s = random.choice([40, 200, 1000])
    starts = [-1000, *random.sample(range(last_s), random.choice([0, 0, 1, 3]))]
    uses, tokens = [], []
    for _ in range(random.randrange(15)):
        from_s, took_s = random.randrange(last_s), random.choice([0, 1, 5, 60])
        made = sorted(random.uniform(from_s, from_s + took_s) for _ in range(random.randrange(9)))
        prompt = random.randrange(20) if made else 0
        tokens += [(at_s, 0 if number else prompt, 1) for number, at_s in enumerate(made)]
        uses.append(use(from_s, from_s + took_s, prompt, len(made)))
    samples = []
    for at in sorted(random.sample(range(last_s), random.randrange(2, 20))):
        read_s = at + random.random()
        start = max(start for start in starts if start < read_s)
        counted = counted_by(tokens, start, read_s - 0.005)
        samples.append(sample(read_s, *counted, began_at_ms=start * 1000, finished_requests=0))
    return samples, uses


@each("seed", range(400))
def test_whatever_ran_when_and_however_often_the_backend_began_anew_nothing_is_unexplained(seed: int) -> None:
    samples, uses = happened(Random(seed))
    found = compared(samples, *uses)
    assert (found.unexplained, set(named(found)) <= {"ran_at_the_border", "backend_restarted"}) == (NONE, True)
