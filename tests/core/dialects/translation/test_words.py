"""What chats and messages call differently: each word has one in the other language, and unknown ones stop."""

from typing import Any

import pytest

from mcp_gateway.core.dialects.translation.words import (
    EFFORTS,
    FINISH_REASONS,
    STOP_REASONS,
    choice_of_tools,
    effort_of_tokens,
    finish_reason_of,
    stop_reason_of,
)
from tests.cases import each


def test_a_reason_that_has_a_word_in_both_languages_returns_as_it_was() -> None:
    for reason in FINISH_REASONS.values():
        assert finish_reason_of(stop_reason_of(reason)) == reason
    assert {stop_reason_of(reason) for reason in STOP_REASONS} <= FINISH_REASONS.keys()


def test_a_reason_that_nobody_knows_is_why_an_answer_stopped() -> None:
    assert (stop_reason_of("eos"), finish_reason_of("eos")) == ("end_turn", "stop")


@each(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_choice_of_tools_has_openais_word(choice: dict[str, Any], expected: Any) -> None:
    assert choice_of_tools(choice) == expected


@each("choice", [{}, {"type": "tool"}, {"type": "some"}])
def test_what_is_no_choice_of_tools_is_a_lookup_error(choice: dict[str, Any]) -> None:
    with pytest.raises(LookupError):
        choice_of_tools(choice)


@each(("tokens", "effort"), [(1024, "low"), (4096, "low"), (4097, "medium"), (16_384, "medium"), (31_999, "high")])
def test_a_budget_for_thinking_stands_for_an_effort(tokens: int, effort: str) -> None:
    assert effort_of_tokens(tokens) == effort
    assert effort in EFFORTS
