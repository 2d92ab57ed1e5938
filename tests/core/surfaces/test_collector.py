"""The stream of an answer in one piece comes out the same however it arrives, and most of it without being parsed."""

from random import Random
from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.collected import Collected
from mcp_gateway.core.surfaces.collector import Collector
from mcp_gateway.core.surfaces.splice import DONE
from mcp_gateway.core.surfaces.text_collector import TextCollector
from mcp_gateway.core.surfaces.usage import Usage
from tests.captured import captured
from tests.cases import each
from tests.core.surfaces.test_collected import CARRIED, TEXTS, frame, without_ids
from tests.surfaces import text_part

SIZES = [1, 7, 64, 300, 5000, 10**7]


def collected(stream: bytes, size: int, choices: int = 1, max_bytes: int = 2**20) -> dict[str, Any]:
    """What comes out of a stream that arrives in pieces of a size."""
    collector = Collector("tiny", choices=choices, max_bytes=max_bytes)
    for at in range(0, len(stream), size):
        if not collector.is_done:
            collector.feed(stream[at : at + size])
    collector.feed_end()
    assert collector.is_whole
    return {"usage": collector.usage, "body": orjson.loads(collector.body(collector.usage or Usage(1, 2)))}


def one_by_one(*frames: bytes) -> dict[str, Any]:
    """The same by parsing each frame."""
    whole = Collected(max_bytes=2**20, public_model="tiny")
    for one in frames:
        whole.feed(one)
    return {"usage": whole.usage, "body": orjson.loads(whole.body(whole.usage or Usage(1, 2)))}


@each("size", SIZES)
@each(("whole", "stream"), CARRIED)
def test_a_captured_stream_is_the_answer_in_one_piece_however_it_arrives(whole: str, stream: str, size: int) -> None:
    choices = orjson.loads(captured(whole).request_body).get("n") or 1
    made = collected(captured(stream).body, size, choices)["body"]
    assert without_ids(made) == without_ids(orjson.loads(captured(whole).body))


def plain(text: str, tokens: int, name: str = "content") -> bytes:
    return frame({name: text}, usage=tokens, logprobs=None, token_ids=None)


LURES = ['"},"logprobs":null', '\\"},"logprobs":null,"finish_reason":null', '"}]}\n\ndata: {', "1", "\\", '"', "\n\n"]


@each("size", SIZES)
@each("name", ["content", "reasoning"])
def test_texts_of_any_kind_come_out_as_if_each_frame_was_parsed(name: str, size: int) -> None:
    random, words = Random(size), ["word"] * 20 + [*TEXTS, *LURES]
    frames = [plain(random.choice(words), number + 1, name) for number in range(200)]
    frames += [plain("and then", 201, "content"), *(plain("!", number) for number in range(202, 230))]
    frames.append(frame({"content": ""}, usage=230, finish="stop"))
    assert collected(b"".join(frames) + DONE, size) == one_by_one(*frames)


ODD = {
    "another key": frame({"content": "b"}, usage=3, logprobs=None, token_ids=None, new=1),
    "log probabilities": frame({"content": "b"}, usage=3, logprobs={"content": [{"token": "b"}]}, token_ids=None),
    "a function": frame({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]}),
    "two texts": frame({"content": "b", "reasoning": "c"}, usage=3, logprobs=None, token_ids=None),
    "no usage": frame({"content": "b"}, logprobs=None, token_ids=None),
    "usage of another shape": plain("b", 3).replace(b'"usage":{', b'"usage":{"more":"x",'),
    "escapes that nobody needs": plain("b", 3).replace(b'"b"', b'"\\u0062"'),
    "spaces": plain("b", 3).replace(b'":', b'": '),
    "a fingerprint": plain("b", 3).replace(b'"choices"', b'"system_fingerprint":"fp","choices"'),
    "a comment": b": working\n\n",
}


@each("odd", ODD.values())
@each("size", [64, 10**7])
def test_a_frame_of_another_form_among_the_usual_ones_is_parsed(odd: bytes, size: int) -> None:
    frames = [*(plain("a", 1 + number) for number in range(9)), odd, *(plain("c", 10 + number) for number in range(9))]
    frames.append(frame({}, usage=20, finish="stop"))
    assert collected(b"".join(frames) + DONE, size) == one_by_one(*frames)


@each("inner", [b"\\ud800", b"\\x", b"\x01", b"\xff", b'a","b', b"a\\"])
@each("size", [64, 10**7])
def test_a_text_that_is_no_json_is_a_failure_of_its_backend(inner: bytes, size: int) -> None:
    bad = plain("here", 3).replace(b"here", inner)
    with pytest.raises(GatewayError, match="backend_error"):
        collected(plain("a", 1) * 3 + bad + plain("a", 4) * 3 + frame({}, finish="stop") + DONE, size)


@each("more", [b"\0", b"x"])
@each("size", [64, 10**7])
def test_a_usage_that_is_no_json_is_a_failure_of_its_backend(more: bytes, size: int) -> None:
    bad = plain("a", 3).replace(b'"usage":{', b'"usage":{' + more)
    with pytest.raises(GatewayError, match="backend_error"):
        collected(plain("a", 1) * 3 + bad + plain("a", 4) * 300 + frame({}, finish="stop") + DONE, size)


def test_a_failure_that_was_found_by_who_looks_meanwhile_is_told_to_who_reads() -> None:
    collector = Collector("tiny", choices=1, max_bytes=2**20)
    for number in range(2):
        collector.feed(plain("a", number))
    collector.feed(plain("here", 3).replace(b"here", b"\\ud800"))
    assert collector.latest_words == "aa"
    assert collector.usage is not None
    with pytest.raises(GatewayError, match="backend_error"):
        collector.feed(plain("a", 4))


@each("size", SIZES)
def test_what_exceeds_the_limit_is_cut_at_the_same_frame_however_it_arrives(size: int) -> None:
    frames = b"".join(plain("ten chars.", number + 1) for number in range(400))
    made = collected(frames, size, max_bytes=4000)
    text = made["body"]["choices"][0]["message"]["content"]
    assert made["body"]["gateway"] == {"ended_by": "size"}
    assert len(text) == (4000 - 1024 - 512) // 10 * 10
    assert made["usage"].completion_tokens == len(text) // 10


@pytest.mark.parametrize("stream", ["101_chat_stream", "103_chat_stream_continuous_usage"])
def test_of_the_frames_of_a_vllm_only_the_first_and_the_last_are_parsed(
    stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    feed = Collected.feed

    def noting_feed(self: Collected, frames: bytes) -> None:
        parsed.extend(one for one in frames.split(b"\n\n") if one)
        feed(self, frames)

    monkeypatch.setattr(Collected, "feed", noting_feed)
    body = captured(stream).body
    usual = [one for one in body.split(b"\n\n") if b'"finish_reason":null' in one and b'"role"' not in one]
    collected(body, 10**7)
    assert len(usual) > 1
    assert set(parsed) & set(usual) == {usual[0]}


def test_whoever_leaves_has_had_what_waits_to_be_read() -> None:
    collector = Collector("tiny", choices=1, max_bytes=2**20)
    for number in range(5):
        collector.feed(plain("a", number + 1))
    assert collector.usage is not None
    assert collector.usage.completion_tokens == 5
    assert collector.latest_words == "aaaaa"
    collector.feed(plain("b", 6))
    assert collector.latest_words == "aaaaab"


@each("odd", ["1", None, 1.0, True, [0], {"a": 1}])
def test_a_choice_of_a_completion_that_has_no_number_fails_its_backend(odd: Any) -> None:
    collector = TextCollector("tiny", choices=1, prompts=1, max_bytes=2**20)
    collector.feed(text_part("a", 0, 10, 1))
    with pytest.raises(GatewayError, match="backend_error"):
        collector.feed(text_part("b", odd, 10, 2))
