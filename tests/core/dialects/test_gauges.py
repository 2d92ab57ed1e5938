"""vLLM's queue gauges, and what they make of a backend's load."""

from mcp_gateway.core.dialects.vllm_metrics import Gauges, read_gauges
from mcp_gateway.core.upstream.workload import Workload
from tests.captured import FOLDER
from tests.cases import each

LINE = b'vllm:num_requests_%b{engine="%d",model_name="a b}c"} %b\n'


def test_they_are_found_in_a_captured_page() -> None:
    assert read_gauges((FOLDER / "600_metrics.txt").read_bytes()) == Gauges(0, 0, 15580.0 + 4402.0)


def test_they_are_summed_over_engines_and_models() -> None:
    page = LINE % (b"running", 0, b"3.0") + LINE % (b"running", 1, b"4.0") + LINE % (b"waiting", 0, b"12.0")
    by_reason = b'vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0\n'
    assert read_gauges(b"# HELP x\n" + page + by_reason) == Gauges(7, 12)


HUGE = b'vllm:num_requests_running{engine="0"} ' + b"9" * 5000 + b"\n"


@each("page", [b"", b"<html>", b'vllm:num_requests_running{engine="0"} NaN\n', b"\xff\n", b"\n" * 9000])
def test_a_page_without_them_tells_nothing(page: bytes) -> None:
    assert read_gauges(page) is None


def test_a_number_of_thousands_of_digits_is_no_failure() -> None:
    assert read_gauges(HUGE) == Gauges(int("9" * 15), 0)


def test_of_a_page_without_end_only_so_many_lines_are_read() -> None:
    assert read_gauges(LINE % (b"running", 0, b"1") * 100_000) == Gauges(4096, 0)


@each(
    ("in_flight", "others", "queue", "load"),
    [
        (3, 0, None, 3),
        (3, 0, Gauges(3, 0), 3),
        (3, 2, Gauges(5, 0), 5),
        (3, 0, Gauges(1, 2), 5),
        (1, 0, Gauges(9, 9), 2),
    ],
)
def test_load_counts_ours_and_others_and_again_what_waits(
    in_flight: int, others: int, queue: Gauges | None, load: int
) -> None:
    assert Workload(in_flight=in_flight, queue=queue, sent_by_others=others).load == load


@each(
    ("lines", "tokens"),
    [
        (b"vllm:generation_tokens_total{x} 5.0\nvllm:prompt_tokens_total{x} 7.0\n", 12),
        (b'vllm:generation_tokens_total{a="1"} 5\nvllm:generation_tokens_total{a="2"} 6\n', 11),
        (b"vllm:prompt_tokens_total{x} 1.234567e+06\n", 1_234_567),
        (b"vllm:generation_tokens_created{x} 5.0\nvllm:iteration_tokens_total{x} 9.0\n", None),
        (b"vllm:prompt_tokens_total{x} NaN\n", None),
        (b"vllm:prompt_tokens_total{x} 9e+99\n", 10**15),
    ],
)
def test_tokens_are_counted_over_prompts_answers_and_engines(lines: bytes, tokens: int | None) -> None:
    queue = read_gauges(LINE % (b"running", 0, b"1") + lines)
    assert queue is not None
    assert queue.tokens == tokens
