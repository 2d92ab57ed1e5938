"""What a backend may say of an answer and be believed."""

from typing import Any

import pytest

from mcp_gateway.core.upstream.credible import credible, read_finish_reason
from mcp_gateway.core.upstream.frames import Usage, read_usage


@pytest.mark.parametrize(
    ("usage", "choices"),
    [(Usage(0, 0), 1), (Usage(100, 100), 1), (Usage(100, 200, 100), 2), (Usage(1, 800), 8), (Usage(5, 0, 0), 1)],
)
def test_what_fits_into_a_window_is_believed(usage: Usage, choices: int) -> None:
    assert credible(usage, 100, choices) == usage


@pytest.mark.parametrize(
    ("usage", "choices"),
    [(Usage(101, 0), 8), (Usage(0, 101), 1), (Usage(0, 801), 8), (Usage(2**62, 1), 1), (Usage(1, 2**63), 1)],
)
def test_what_does_not_is_not(usage: Usage, choices: int) -> None:
    assert credible(usage, 100, choices) is None


@pytest.mark.parametrize("cached", [6, 2**62, 2**63])
def test_more_cached_tokens_than_the_prompt_has_are_not_known(cached: int) -> None:
    assert credible(Usage(5, 1, cached), 100, 1) == Usage(5, 1)


@pytest.mark.parametrize("count", [-1, 1.5, "5", True, None, [], {}, 1e400])
def test_a_count_that_is_no_number_is_no_usage(count: Any) -> None:
    assert read_usage({"prompt_tokens": count, "completion_tokens": 1}) is None
    assert read_usage(
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": count}}
    ) == (Usage(1, 1))


@pytest.mark.parametrize(
    ("value", "reason"),
    [("stop", "stop"), ("STOP-1", "STOP-1"), ("x" * 64, "x" * 64), ("x" * 65, None), ("", None), ("a\nb", None),
     ("\u202e", None), (None, None), (5, None), (True, None), ([], None), (["stop"], None), ({}, None)],
)  # fmt: skip
def test_a_finish_reason_is_a_word(value: Any, reason: str | None) -> None:
    assert read_finish_reason(value) == reason
