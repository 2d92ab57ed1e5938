"""vLLM's counters of tokens, by model: what a page tells, and what it may not do."""

from mcp_gateway.core.dialects.vllm_metrics import read_counters
from mcp_gateway.core.token_counters import TokenCounters
from tests.captured import FOLDER
from tests.cases import each

PROMPT = b'vllm:prompt_tokens_total{engine="%d",model_name="%b"} %b\n'


def test_they_are_found_in_a_captured_page() -> None:
    page = (FOLDER / "600_metrics.txt").read_bytes()
    assert read_counters(page) == {"tiny": TokenCounters(15580, 4402, 10496, 165, 2, 1_795_227_635_574)}


def test_they_are_summed_over_engines_and_apart_by_model() -> None:
    page = PROMPT % (0, b"a", b"3.0") + PROMPT % (1, b"a", b"4.0") + PROMPT % (0, b"b", b"1.5e+03")
    finished = b'vllm:request_success_total{engine="%d",finished_reason="%b",model_name="a"} 2.0\n'
    page += finished % (0, b"stop") + finished % (0, b"length") + finished % (1, b"stop")
    assert read_counters(page) == {
        "a": TokenCounters(7, 0, finished_requests=6),
        "b": TokenCounters(1500, 0),
    }


def test_they_began_with_their_process_where_they_tell_no_beginning_of_their_own() -> None:
    began = b"process_start_time_seconds 1.79522761907e+09\n"
    created = b'vllm:prompt_tokens_created{engine="%d",model_name="a"} %b\n'
    page = PROMPT % (0, b"a", b"3.0") + PROMPT % (0, b"b", b"3.0")
    page += created % (0, b"1.7952276355744455e+09") + created % (1, b"1.7952276355744562e+09")
    told = read_counters(began + page)
    assert (told["a"].began_at_ms, told["b"].began_at_ms) == (1_795_227_635_574, 1_795_227_619_070)
    assert read_counters(page)["b"].began_at_ms is None


@each(
    ("label", "name"),
    [
        (b"a b}c", "a b}c"), (rb"a\"b", 'a"b'), (rb"a\\b", r"a\b"), (b"\xc3\xa4", "ä"), (b"n" * 256, "n" * 256),
        (b"", None), (rb"a\nb", None), (b"\x1b[2J", None), (b"n" * 257, None),
    ],
)  # fmt: skip
def test_a_model_is_known_by_its_label_where_that_is_a_name(label: bytes, name: str | None) -> None:
    assert list(read_counters(PROMPT % (0, label, b"3.0"))) == [name] * (name is not None)


@each(
    "page",
    [
        b"", b"<html>", b"vllm:prompt_tokens_total 12\n", PROMPT % (0, b"a", b"NaN"), PROMPT % (0, b"a", b"-3"),
        PROMPT % (0, b"a", b""), b'vllm:generation_tokens_total{model_name="a"} 3\n', b"#" + PROMPT % (0, b"a", b"3"),
        b'vllm:prompt_tokens_total{engine="0"} 3.0\n', b"\xff" * 1000,
    ],
)  # fmt: skip
def test_a_page_without_them_tells_none(page: bytes) -> None:
    assert read_counters(page) == {}


def test_a_page_of_very_many_or_very_large_ones_is_read_so_far() -> None:
    page = b"".join(PROMPT % (0, b"m%d" % number, b"1") for number in range(10_000))
    assert len(read_counters(page)) == 256
    assert read_counters(PROMPT % (0, b"a", b"9e99"))["a"].prompt_tokens == 10**15


@each(
    ("told", "goes_on"),
    [
        ({}, True), ({"prompt_tokens": 11, "completion_tokens": 9}, True), ({"cached_tokens": None}, True),
        ({"prompt_tokens": 9}, False), ({"completion_tokens": 4}, False), ({"cached_tokens": 2}, False),
        ({"finished_requests": 0}, False), ({"prompt_tokens": 99, "began_at_ms": 8}, False),
        ({"more_choices": 0}, True),
    ],
)  # fmt: skip
def test_counters_that_fall_or_begin_anew_are_those_of_a_backend_that_started_again(
    told: dict[str, int | None], goes_on: bool
) -> None:
    earlier = TokenCounters(10, 5, 3, 1, 1, 7)
    assert earlier._replace(**told).goes_on_from(earlier) is goes_on  # type: ignore[arg-type]
