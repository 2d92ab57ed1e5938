"""A stream of a message as a strict client reads it: each rule of the events is asserted, and the message put together.

An event stands by its name; blocks come one after the other, from 0; no event stands where it may not.
"""

from typing import Any

import orjson

_DELTAS = {"text_delta": ("text", "text"), "thinking_delta": ("thinking", "thinking")}


def events_in(stream: bytes) -> list[dict[str, Any]]:
    """The events, each of which is named as its data say."""
    assert stream == b"" or stream.endswith(b"\n\n")
    events = []
    for frame in stream.split(b"\n\n")[:-1]:
        if frame.startswith(b":"):
            continue
        name, data = frame.split(b"\n")
        event = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        events.append(event)
    return [event for event in events if event["type"] != "ping"]


def blocks_in(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that such events make; a call has the input that its pieces are."""
    blocks: list[dict[str, Any]] = []
    pieces: list[str] = []
    is_open = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                is_open, pieces = True, []
                blocks.append(event["content_block"])
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                _go_on(blocks[-1], event["delta"], pieces)
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(blocks) - 1
                is_open = False
                if blocks[-1]["type"] == "tool_use":
                    blocks[-1]["input"] = _input_of("".join(pieces))
            case other:
                raise AssertionError(other)
    assert not is_open
    return blocks


def message_in(stream: bytes) -> dict[str, Any]:
    """The message that a whole stream makes, with the usage that its end tells."""
    start, *middle, delta, stop = events_in(stream)
    assert (start["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
    message: dict[str, Any] = start["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    assert message["usage"]["input_tokens"] > 0
    return message | {"content": blocks_in(middle), "usage": delta["usage"], **delta["delta"]}


def _go_on(block: dict[str, Any], delta: dict[str, Any], pieces: list[str]) -> None:
    if delta["type"] == "input_json_delta":
        assert block["type"] == "tool_use"
        pieces.append(delta["partial_json"])
        return
    kind, name = _DELTAS[delta["type"]]
    assert block["type"] == kind
    block[name] += delta[name]


def _input_of(text: str) -> Any:
    try:
        return orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return text
