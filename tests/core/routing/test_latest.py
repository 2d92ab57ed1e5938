"""The prompt that is read is what the user said last, whichever surface brought it."""

from typing import Any

from mcp_gateway.core.routing.classifier.excerpt import MOST_CHARS
from mcp_gateway.core.routing.latest import latest_text
from tests.cases import each

ANSWER = {"role": "assistant", "content": "I cannot see it."}


@each(
    "turns",
    [
        "What is this?",
        [{"role": "user", "content": "What is this?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is this?"}, ANSWER],
        [{"role": "user", "content": "Hello."}, ANSWER, {"role": "user", "content": "What is this?"}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {}}],
            }
        ],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is this?"}]}],
        [
            {"role": "user", "content": "What is this?"},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "tool", "content": "A long result that nobody asks."},
        ],
        [
            {"role": "user", "content": "What is this?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "a result"}]},
        ],
        [{"type": "function_call_output", "output": "x"}, {"role": "user", "content": ["What is this?"]}],
    ],
)
def test_it_is_found_in_each_surfaces_conversation(turns: Any) -> None:
    assert latest_text(turns) == "What is this?"


def test_the_texts_of_a_turn_stand_apart_so_that_instruction_and_document_do() -> None:
    parts = [{"type": "text", "text": "Summarize this."}, {"type": "text", "text": "The council met."}]
    assert latest_text([{"role": "user", "content": parts}]) == "Summarize this.\n\nThe council met."


@each(
    "turns",
    [
        None, 3, {}, [], [None], ["hello"], [[]], [{}], [{"role": "user"}], [{"role": "user", "content": None}],
        [{"role": "user", "content": 3}], [{"role": "user", "content": [None, 3, [], {}, {"text": None}, {"text": 3}]}],
        [{"role": ["user"], "content": "x"}], [ANSWER], [{"role": "user", "content": ""}],
    ],
)  # fmt: skip
def test_where_nothing_is_said_it_is_empty_and_no_failure(turns: Any) -> None:
    assert latest_text(turns) == ""


def test_a_long_conversation_is_read_at_its_end_alone() -> None:
    turns = [{"role": "user", "content": "Hello."}, *[ANSWER] * 10_000]
    assert latest_text(turns) == ""
    parts = [{"type": "text", "text": "word " * 10_000}] * 1000
    assert len(latest_text([{"role": "user", "content": parts}])) < 70 * MOST_CHARS
