"""How long a request waits for its backend, by a clock that a test moves, and what is held against the backend."""

from typing import Any

import pytest

from mcp_gateway.core.catalog import Listing
from mcp_gateway.core.config import UpstreamSettings
from mcp_gateway.core.dialects.vllm_metrics import Gauges
from mcp_gateway.core.upstream.attempt import GRACE_S, LOOK_S, Attempt
from mcp_gateway.core.upstream.backend import Backend, failure
from mcp_gateway.core.upstream.breaker import Breaker
from mcp_gateway.core.upstream.demo import DemoBackend
from mcp_gateway.core.upstream.transport import ConnectionDied, TimedOut, UpstreamError
from mcp_gateway.core.upstream.workload import Workload
from tests.cases import each
from tests.core.upstream.clock import Clock

LONGEST_S = 1000


class Lab:
    """A backend that is well, on a clock of its own; `read` tells it gauges as if they were asked for now."""

    def __init__(self) -> None:
        self.clock = Clock()
        work = Workload(now_s=self.clock)
        self.backend = Backend("vllm-1", DemoBackend(), breaker=Breaker(1, 5.0, self.clock), work=work)
        self.backend.fault = ""
        self.backend.models.listings["tiny"] = Listing("tiny", "vllm", None)

    def attempt(self, prompt_tokens: int = 0, *, is_stream: bool = True, **settings: Any) -> Attempt:
        upstream = UpstreamSettings(**{"first_token_timeout_s": 20, "idle_timeout_s": 60} | settings)
        return Attempt(self.backend, "tiny", upstream, prompt_tokens, is_stream=is_stream)

    def read(self, queue: Gauges | None) -> None:
        self.backend.note_gauges(queue)

    def waits(self, attempt: Attempt, queue: Gauges | None = None) -> tuple[int, UpstreamError | None]:
        """The seconds until an attempt gives up, and how; gauges that are always the same are read every second."""
        left_s, began_at_s = attempt.look_s, self.clock.now_s
        while self.clock.now_s < began_at_s + LONGEST_S:
            self.clock.now_s += left_s
            if queue is not None:
                self.read(queue)
            try:
                left_s = attempt.look(self.clock.now_s - began_at_s)
            except UpstreamError as error:
                return round(self.clock.now_s - began_at_s), error
        return LONGEST_S, None


def which(error: UpstreamError | None) -> str | None:
    return error.which if isinstance(error, TimedOut) else None


@each(
    ("prompt_tokens", "settings", "limit_s"),
    [
        (0, {}, 20),
        (1000, {}, 22),
        (100_000, {}, 220),
        (1_000_000, {}, 300),
        (1_000_000, {"first_token_max_s": 5}, 20),
        (100_000, {"first_token_s_per_1k_prompt_tokens": 0}, 20),
        (100, {"first_token_timeout_s": 2, "first_token_s_per_1k_prompt_tokens": 0}, 2),
    ],
)
def test_a_first_token_is_waited_for_the_longer_the_longer_the_prompt_is(
    prompt_tokens: int, settings: dict[str, Any], limit_s: int
) -> None:
    lab = Lab()
    waited_s, error = lab.waits(lab.attempt(prompt_tokens, **settings), Gauges(0, 0))
    assert (waited_s, which(error)) == (limit_s, "first_token")


def test_a_head_and_a_first_token_share_one_limit() -> None:
    lab = Lab()
    attempt = lab.attempt(first_token_timeout_s=2)
    lab.clock.now_s += 1.8
    lab.read(Gauges(0, 0))
    assert attempt.look(1.8) == pytest.approx(0.2)
    lab.clock.now_s += 0.2
    with pytest.raises(TimedOut):
        attempt.look(0.2)


@each(
    ("queue", "limit_s", "how"),
    [
        (None, 40, "first_token"),
        (Gauges(0, 0), 20, "first_token"),
        (Gauges(3, 0), 300, "first_token"),
        (Gauges(3, 2), 300, "queue"),
        (Gauges(0, 1), 300, "queue"),
        (Gauges(1, 0, 500), 21, "first_token"),
    ],
)
def test_it_is_prolonged_by_gauges_that_show_work(queue: Gauges | None, limit_s: int, how: str) -> None:
    lab = Lab()
    waited_s, error = lab.waits(lab.attempt(), queue)
    assert (waited_s, which(error)) == (limit_s, how)


def test_comments_prolong_it_up_to_the_most() -> None:
    lab = Lab()
    attempt = lab.attempt()
    for _ in range(29):
        lab.clock.now_s += 10
        attempt.commented()
        lab.read(Gauges(0, 0))
        assert attempt.look(0) == LOOK_S
    waited_s, error = lab.waits(attempt, Gauges(0, 0))
    assert (waited_s, which(error)) == (10, "first_token")


@each(
    ("queue", "limit_s"),
    [(None, 120), (Gauges(0, 0), 60), (Gauges(1, 0), LONGEST_S), (Gauges(0, 1), LONGEST_S)],
)
def test_a_silence_amid_an_answer_is_waited_out_while_the_backend_works(queue: Gauges | None, limit_s: int) -> None:
    lab = Lab()
    attempt = lab.attempt()
    attempt.began()
    assert lab.waits(attempt, queue)[0] == limit_s


@each("is_stream", [False, True])
@each("how", ["lost", "stuck"])
def test_a_backend_that_is_gone_gives_what_was_not_delivered_some_seconds(how: str, is_stream: bool) -> None:
    lab = Lab()
    lab.read(Gauges(1, 0, 7))
    lab.clock.now_s += 15
    attempt = lab.attempt(is_stream=is_stream)
    lab.clock.now_s += 6
    if how == "lost":
        lab.backend.lost("no connection")
    else:
        lab.read(Gauges(1, 0, 7))
    waited_s, error = lab.waits(attempt)
    assert (waited_s, type(error)) == (GRACE_S, ConnectionDied)


def test_a_backend_that_is_back_in_time_loses_nothing() -> None:
    lab = Lab()
    attempt = lab.attempt()
    lab.backend.lost("no connection")
    lab.clock.now_s += GRACE_S - 1
    lab.backend.gone_at_s = None
    lab.clock.now_s += 2
    assert attempt.look(GRACE_S) == LOOK_S


def test_whole_answers_have_no_first_token_to_wait_for() -> None:
    lab = Lab()
    assert lab.waits(lab.attempt(is_stream=False), Gauges(0, 0)) == (LONGEST_S, None)


@each(
    ("queue", "status", "is_only_slow"),
    [
        (None, "up", True),
        (Gauges(2, 0), "up", True),
        (Gauges(2, 1), "busy", True),
        (Gauges(0, 0), "failing", False),
    ],
)
@each("how", ["first_token", "idle", "unary"])
def test_a_time_out_is_held_against_a_backend_only_where_it_shows_no_work(
    queue: Gauges | None, status: str, is_only_slow: bool, how: Any
) -> None:
    lab = Lab()
    attempt = lab.attempt()
    if queue is not None:
        lab.read(queue)
    error = failure(TimedOut(how))
    assert attempt.is_only_slow(error) == is_only_slow
    attempt.end(error)
    assert lab.backend.status == status


def test_a_wait_that_ends_in_the_queue_is_no_fault_and_is_told_as_a_full_backend() -> None:
    lab = Lab()
    attempt = lab.attempt()
    _, error = lab.waits(attempt, Gauges(1, 5))
    assert error is not None
    told = failure(error)
    assert (told.code, told.retry_after_s) == ("backend_busy", 2)
    assert not attempt.is_only_slow(told)
    attempt.end(told)
    assert lab.backend.status == "busy"


# -- stuck engines


def test_counters_that_stand_still_while_requests_run_make_a_backend_stuck_until_they_move() -> None:
    lab = Lab()
    for tokens in (5, 6, 7, 7, 7):
        lab.read(Gauges(1, 0, tokens))
        assert lab.backend.status == "up"
        lab.clock.now_s += 10
    lab.read(Gauges(1, 0, 7))
    assert (lab.backend.status, lab.backend.is_sound_for("tiny")) == ("failing", False)
    assert lab.backend.reason == "its engine makes no tokens while requests run"
    lab.read(Gauges(1, 0, 8))
    assert (lab.backend.status, lab.backend.gone_at_s) == ("up", None)


@pytest.mark.parametrize("queue", [Gauges(0, 0, 7), Gauges(1, 0), None], ids=["nothing runs", "no counter", "none"])
def test_without_requests_or_counters_none_is_stuck(queue: Gauges | None) -> None:
    lab = Lab()
    for _ in range(9):
        lab.read(queue)
        lab.clock.now_s += 100
    assert lab.backend.is_serving


def test_a_long_prompt_that_is_read_is_no_stuck_engine() -> None:
    lab = Lab()
    attempt = lab.attempt(100_000)
    for _ in range(22):
        lab.read(Gauges(1, 0, 7))
        assert lab.backend.is_serving
        lab.clock.now_s += 10
    attempt.end(None)
    lab.read(Gauges(1, 0, 7))
    assert not lab.backend.is_serving
