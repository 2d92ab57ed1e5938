"""The frames of a stream that is one of several rounds, as they are taken one by one."""

from typing import Any

import orjson

from mcp_gateway.core.inference.round_frames import RoundFrames

SIGNED = {"extra_content": {"google": {"thought_signature": "c2lnbmVk"}}}


def frame(delta: dict[str, Any], **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: %b\n\n" % orjson.dumps({"id": "a", "created": 1, "model": "m", "choices": [choice]} | more)


def test_what_is_told_beside_the_texts_of_a_message_is_told_in_the_next_round() -> None:
    frames = RoundFrames(lambda _: True, {})
    frames.feed(frame({"role": "assistant", "content": "Yes", "reasoning_content": "H"}))
    frames.feed(frame({"content": ".", "reasoning_content": "m.", "refusal": None, **SIGNED}))
    frames.feed(frame({"content": "", "tool_calls": [{"index": 0, "function": {"name": "x", "arguments": "{}"}}]}))
    told = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", **SIGNED}
    assert frames.message == told


def test_lists_that_come_in_several_chunks_are_one() -> None:
    frames = RoundFrames(lambda _: True, {})
    for number in range(3):
        frames.feed(frame({"reasoning_details": [{"index": number}], "annotations": None}))
    frames.feed(frame({"annotations": {"a": 1}}))
    frames.feed(frame({"annotations": [1]}))
    assert frames.message["reasoning_details"] == [{"index": 0}, {"index": 1}, {"index": 2}]
    assert frames.message["annotations"] == [1]


def test_frames_around_one_that_cannot_be_understood_are_told() -> None:
    frames = RoundFrames(lambda _: True, {})
    odd = frame({"tool_calls": 1}) + b"data: [1]\n\n"
    came = frames.feed(frame({"content": "a"}) + odd + frame({"content": "b"}))
    assert not frames.is_understood
    texts = [orjson.loads(one[6:])["choices"][0]["delta"]["content"] for one in came.split(b"\n\n") if one]
    assert texts == ["a", "b"]


def test_an_error_bears_the_head_of_the_answer_that_it_ends() -> None:
    frames = RoundFrames(lambda _: True, {"id": "first", "created": 7, "model": "public"})
    came = frames.feed(frame({}, id="another", created=0, error={"code": "backend_died"}))
    told = orjson.loads(came[6:])
    assert (told["id"], told["created"], told["model"]) == ("first", 7, "public")
    assert told["error"] == {"code": "backend_died"}
    assert frames.is_failed
