"""The blocks of a message: one after the other, whichever way its texts and calls of tools come."""

from typing import Any

import pytest

from mcp_gateway.core.dialects.translation.message_blocks import MessageBlocks
from mcp_gateway.core.errors import GatewayError
from tests.cases import each
from tests.message_streams import blocks_in, events_in


def told(*steps: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The blocks that steps make: ("text" or "thinking", piece), or (number, name, piece) of a call."""
    blocks, events = MessageBlocks(), b""
    for step in steps:
        events += blocks.text(*step) if len(step) == 2 else blocks.call(step[0], f"c{step[0]}", step[1], step[2])
    return blocks_in(events_in(events + blocks.end()))


def call(number: int, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"c{number}", "name": "f", "input": given}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": ""}


@each(
    ("steps", "expected"),
    [
        ([], []),
        ([("text", "a"), ("text", "b")], [text("ab")]),
        ([("thinking", "H"), ("thinking", "m."), ("text", "a")], [THOUGHT, text("a")]),
        ([("text", "a"), ("thinking", "Hm."), ("text", "b")], [text("a"), THOUGHT, text("b")]),
        ([(0, "f", ""), (0, "", '{"a"'), (0, "", ":1}")], [call(0, a=1)]),
        ([(0, "f", "")], [call(0)]),
        ([("text", "a"), (0, "f", "{}"), ("text", "b")], [text("a"), call(0), text("b")]),
        ([(0, "f", '{"a":1}'), (1, "f", '{"b":2}')], [call(0, a=1), call(1, b=2)]),
        ([(0, "f", '{"a"'), (1, "f", '{"b"'), (0, "", ":1}"), (1, "", ":2}")], [call(0, a=1), call(1, b=2)]),
        ([(0, "f", ""), (1, "f", '{"b":2}'), (2, "f", "{}")], [call(0), call(1, b=2), call(2)]),
        ([(0, "f", '{"a"'), ("text", "x"), (0, "", ":1}")], [call(0, a=1), text("x")]),
        ([(0, "", '{"a"'), (0, "f", ":1}")], [call(0, a=1)]),
        ([(0, "f", "{}"), (1, "f", "{}"), (0, "", " ")], [call(0), call(1)]),
        ([(7, "f", "{}"), (3, "f", "{}")], [call(7), call(3)]),
    ],
)
def test_each_block_begins_goes_on_and_ends_before_the_next(
    steps: list[tuple[Any, ...]], expected: list[dict[str, Any]]
) -> None:
    assert told(*steps) == expected


def test_what_is_told_of_the_first_block_is_told_at_once() -> None:
    blocks = MessageBlocks()
    assert b'"partial_json":"{\\"a"' in blocks.call(0, "c0", "f", '{"a')
    assert b'"partial_json":"\\":1}"' in blocks.call(0, "c0", "", '":1}')
    second = blocks.call(1, "c1", "f", "{}")
    assert second.index(b"content_block_stop") < second.index(b'"index":1')


def test_a_call_that_goes_on_after_it_was_whole_is_not_understood() -> None:
    blocks = MessageBlocks()
    blocks.call(0, "c0", "f", "{}")
    blocks.call(1, "c1", "f", "{}")
    with pytest.raises(GatewayError, match="backend_error"):
        blocks.call(0, "c0", "", "{}")


def test_arguments_that_are_no_object_yet_may_go_on() -> None:
    blocks = MessageBlocks()
    events = blocks.call(0, "c0", "f", "1") + blocks.text("text", "x") + blocks.call(0, "c0", "", "2") + blocks.end()
    assert [block.get("input") for block in blocks_in(events_in(events))] == [12, None]


def test_what_waits_is_counted_and_let_go_with_its_block() -> None:
    blocks = MessageBlocks()
    blocks.call(0, "c0", "f", '{"a"')
    blocks.text("text", "x" * 100)
    assert blocks.held_bytes == 104
    blocks.end()
    assert blocks.held_bytes == 0
