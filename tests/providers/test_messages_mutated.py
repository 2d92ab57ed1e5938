"""Whatever is changed in a message or in a provider's answer, both are taken by the rules, or refused in our words.

The changes follow from the number of a case, so that each is the same in every run.
"""

from random import Random
from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json, parse_exactly
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.messages import MESSAGES
from mcp_gateway.core.surfaces.surface import Terms
from tests.attack.mutations import mutated_json
from tests.message_streams import blocks_in, events_in
from tests.providers.kinds import sweep
from tests.providers.test_messages import TOOL, TRANSLATED, asked_for_stream, translated

CASES = range(40)
NAMES = ["type", "content", "index", "id", "function", "arguments", "tool_calls", "usage", "error", "finish_reason"]
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
BODY: dict[str, Any] = {
    "model": "m", "max_tokens": 9, "system": [{"type": "text", "text": "s"}],
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "image", "source": PNG},
            {"type": "document", "title": "t", "source": {"type": "text", "data": "d"}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "redacted_thinking", "data": "gateway.eyJhIjoxfQ=="},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [{"type": "text", "text": "r"}]},
            {"type": "mid_conv_system", "content": [{"type": "text", "text": "z"}]},
        ]},
        {"role": "system", "content": "now"}, {"role": "user", "content": "q"},
    ],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}, "stop_sequences": ["a"],
    "thinking": {"type": "enabled", "budget_tokens": 2000}, "top_k": 3, "anthropic_beta": ["a"],
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"a": 1}}},
}  # fmt: skip
each_kind = sweep("kind", TRANSLATED)


@each_kind
def test_a_request_that_was_changed_is_a_chat_or_refused_before_it_is_written(kind: str) -> None:
    translation, refused = translated(TRANSLATED[kind]()), set[int]()
    for number in CASES:
        raw = dump_json(mutated_json(Random(number), BODY, NAMES))
        try:
            ask = MESSAGES.read(parse_exactly(raw), len(raw))
            translation.sift(ask.body)
        except GatewayError as refusal:
            refused.add(refusal.status)
            continue
        chat = orjson.loads(translation.body(ask, Terms(9, 9), "m", "a", is_stream=False))
        assert all(message["role"] in ("system", "user", "assistant", "tool") for message in chat["messages"])
    assert refused == {400}


@each_kind
@pytest.mark.parametrize("tools", [[], [TOOL]], ids=["text", "call"])
def test_a_stream_that_was_changed_is_told_by_the_rules_of_events(kind: str, tools: list[Any]) -> None:
    manner = TRANSLATED[kind]()
    translation, bounds = translated(manner), UsageBounds(1000, 1000)
    events, faults = manner.stream({"stream": True, "messages": [], "tools": tools}), set[str]()
    for number in CASES:
        dice = Random(number)
        reader, told = translation.reader(asked_for_stream(), "m", bounds), b""
        try:
            for event in events:
                told += reader.feed(changed(dice, event))
            told += reader.feed_end()
        except GatewayError as fault:
            faults.add(fault.code)
        seen = events_in(told + reader.end())
        assert [event["type"] for event in seen[:1]] in ([], ["message_start"])
        blocks_in(seen[1:])
    assert faults <= {"backend_error"}


@each_kind
async def test_an_answer_that_was_changed_is_a_message_or_not_understood(kind: str) -> None:
    manner = TRANSLATED[kind]()
    translation, faults = translated(manner), set[str]()
    for number in CASES:
        dice = Random(number)
        answer = orjson.loads(manner.unary({"messages": [], "tools": dice.choice([[], [TOOL]])}))
        try:
            whole = await translation.read(dump_json(mutated_json(dice, answer, NAMES)), asked_for_stream())
        except GatewayError as fault:
            faults.add(fault.code)
            continue
        message = orjson.loads(whole.body)
        assert isinstance(message["stop_reason"], str)
        for block in message["content"]:
            assert isinstance(block.get("input", {}), dict)
            assert all(isinstance(block.get(name, ""), str) for name in ("type", "id", "name", "text", "thinking"))
    assert faults == {"backend_error"}


def changed(dice: Random, event: bytes) -> bytes:
    """An event with another one's JSON, one time in three."""
    data = event.partition(b"data:")[2].strip()
    if not data.startswith(b"{") or dice.randrange(3):
        return event
    return b"data: %b\n\n" % dump_json(mutated_json(dice, orjson.loads(data), NAMES))
