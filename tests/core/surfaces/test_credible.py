"""What a backend may say of an answer and be believed."""

from typing import Any

from mcp_gateway.core.surfaces.credible import UsageBounds, read_finish_reason
from mcp_gateway.core.surfaces.usage import Usage, read_usage
from tests.cases import each


@each("usage", [Usage(0, 0), Usage(100, 16), Usage(100, 16, 100), Usage(1, 16, 0), Usage(5, 0, 5), Usage(5, 0, None)])
def test_what_the_window_and_the_limit_that_was_sent_allow_is_believed(usage: Usage) -> None:
    assert UsageBounds(100, 16).allow(usage)


@each(
    "usage",
    [Usage(101, 0), Usage(0, 17), Usage(2**62, 1), Usage(1, 2**63), Usage(-1, 1), Usage(1, -1), Usage(-(2**63), -1),
     Usage(5, 1, 6), Usage(5, 1, -1), Usage(5, 1, 2**62), Usage(5, 1, 2**63)],
)  # fmt: skip
def test_what_is_out_of_bounds_is_not(usage: Usage) -> None:
    assert not UsageBounds(100, 16).allow(usage)


@each("count", [-1, 1.5, "1.5", "", "x", "-5", "٣", "9" * 21, True, None, [], {}, 1e400, -0.5])
def test_a_count_that_is_no_number_is_no_usage(count: Any) -> None:
    assert read_usage({"prompt_tokens": count, "completion_tokens": 1}) is None
    assert read_usage(
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": count}}
    ) == (Usage(1, 1))


@each(
    ("value", "reason"),
    [("stop", "stop"), ("STOP-1", "STOP-1"), ("x" * 64, "x" * 64), ("x" * 65, None), ("", None), ("a\nb", None),
     ("\u202e", None), (None, None), (5, None), (True, None), ([], None), (["stop"], None), ({}, None)],
)  # fmt: skip
def test_a_finish_reason_is_a_word(value: Any, reason: str | None) -> None:
    assert read_finish_reason(value) == reason
