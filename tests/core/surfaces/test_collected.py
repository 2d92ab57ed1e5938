"""A collected stream is the answer that vLLM gives in one piece, field by field."""

from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.collected import Collected, can_carry
from mcp_gateway.core.surfaces.splice import FrameRelay
from mcp_gateway.core.surfaces.usage import Usage, read_usage
from tests.captured import Capture, captured, captures
from tests.cases import each

OWN = {"id", "created"}
"""Fields that two answers never share."""


def pairs() -> list[tuple[str, str]]:
    cases = {capture.case for capture in captures() if capture.is_chat and capture.is_stream}
    asked = {
        _asked_for(capture): capture.case
        for capture in captures()
        if capture.is_chat and capture.status == 200 and not capture.is_stream and capture.is_request_whole
    }
    found = []
    for case in sorted(cases):
        stream = captured(case)
        if (whole := asked.get(_asked_for(stream))) is not None and b'"include_usage": true' in stream.request_body:
            found.append((whole, case))
    return found


def _asked_for(capture: Capture) -> bytes:
    try:
        body = orjson.loads(capture.request_body)
    except orjson.JSONDecodeError:
        return capture.case.encode()
    if not isinstance(body, dict):
        return capture.case.encode()
    kept = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)


def body_of(collected: Collected) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(collected.body(collected.usage or Usage(1, 2)))
    return body


def collect(stream: bytes, choices: int = 1) -> dict[str, Any]:
    relay = FrameRelay("tiny", wants_usage=True, choices=choices)
    collected = Collected(max_bytes=2**20)
    for frame in stream.split(b"\n\n"):
        collected.feed(relay.feed(frame + b"\n\n"))
    collected.feed(relay.end())
    assert relay.is_whole
    return body_of(collected)


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in answer.items() if name not in OWN}
    for choice in kept["choices"]:
        for call in choice["message"].get("tool_calls") or ():
            del call["id"]
    return kept


PAIRS = pairs()
CARRIED = [pair for pair in PAIRS if can_carry(orjson.loads(captured(pair[0]).request_body))]


@each(("whole", "stream"), CARRIED)
def test_a_collected_stream_is_the_answer_in_one_piece(whole: str, stream: str) -> None:
    request = orjson.loads(captured(whole).request_body)
    expected = orjson.loads(captured(whole).body)
    assert without_ids(collect(captured(stream).body, request.get("n") or 1)) == without_ids(expected)


def test_what_is_asked_for_in_one_piece_is_what_a_stream_tells_differently() -> None:
    """A forced function call, and a bias that forces the end of the reasoning: all others are equal."""
    left = {whole for pair in PAIRS if pair not in CARRIED for whole in pair[:1]}
    forced = {case for case in left if orjson.loads(captured(case).request_body).get("tool_choice") is not None}
    biased = {case for case in left if orjson.loads(captured(case).request_body).get("logit_bias")}
    assert left == forced | biased
    assert len(CARRIED) >= 12
    assert {"206_tools_required_cut", "204_tools_named_strict", "841_reasoning"} <= left


def test_all_choices_of_a_stream_are_put_together() -> None:
    """The two captures differ in their output limit: one is the beginning of the other."""
    expected, made = orjson.loads(captured("120_n2").body), collect(captured("121_n2_stream").body, 2)
    for choice, whole in zip(made["choices"], expected["choices"], strict=True):
        assert whole["message"]["content"].startswith(choice["message"]["content"])
        whole["message"]["content"] = choice["message"]["content"]
    expected["usage"] |= {"completion_tokens": 8, "total_tokens": 27}
    assert without_ids(made) == without_ids(expected)


def test_structured_output_is_put_together_as_it_is_in_one_piece() -> None:
    expected, made = orjson.loads(captured("161_json_schema").body), collect(captured("162_json_schema_stream").body)
    assert made["choices"] == expected["choices"]
    assert Usage(1, 2) == read_usage(made["usage"])  # that stream was not asked to tell it


def frame(*deltas: dict[str, Any], usage: int | None = None, finish: str | None = None, **rest: Any) -> bytes:
    choices = [{"index": index, "delta": delta, "finish_reason": finish} | rest for index, delta in enumerate(deltas)]
    told = None if usage is None else {"prompt_tokens": 10, "completion_tokens": usage, "total_tokens": 10 + usage}
    return (
        b"data: " + orjson.dumps({"id": "a", "created": 1, "model": "m", "choices": choices, "usage": told}) + b"\n\n"
    )


TEXTS = ["", "plain", 'quoted " and \\ and \n', "\u0000\u001f", "ä 漢字 🙂", "data: {}"]


@each("name", ["content", "reasoning", "reasoning_content", "refusal"])
def test_any_text_comes_out_as_it_came(name: str) -> None:
    collected = Collected(max_bytes=2**20)
    for text in TEXTS:
        collected.feed(frame({name: text}))
    collected.feed(frame({}, finish="stop"))
    assert body_of(collected)["choices"][0]["message"][name] == "".join(TEXTS)


def test_an_answer_without_a_word_is_an_empty_text() -> None:
    collected = Collected(max_bytes=2**20)
    collected.feed(frame({"role": "assistant", "content": ""}) + frame({}, finish="stop"))
    assert body_of(collected)["choices"][0]["message"]["content"] == ""


def test_function_calls_are_put_together_by_their_place() -> None:
    collected = Collected(max_bytes=2**20)
    for index, piece in [(0, '{"a"'), (1, "{"), (0, ': "\\""}'), (1, "}")]:
        call = {"index": index, "function": {"arguments": piece}}
        if piece.startswith("{"):
            call |= {"id": f"call_{index}", "type": "function", "function": {"name": f"f{index}", "arguments": piece}}
        collected.feed(frame({"tool_calls": [call]}))
    collected.feed(frame({}, finish="tool_calls"))
    [choice] = body_of(collected)["choices"]
    assert choice["message"]["content"] is None
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["call_0", "call_1"]
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "f0", "arguments": '{"a": "\\""}'},
        {"name": "f1", "arguments": "{}"},
    ]


@each("text", ["a" * 10, "漢" * 10, "\n" * 10, "\u0001" * 10])
@each("choices", [1, 3])
def test_what_would_exceed_the_limit_is_not_kept_and_not_told_as_used(text: str, choices: int) -> None:
    collected, fed = Collected(max_bytes=8000), 0
    while not collected.is_full:
        fed += 1
        collected.feed(frame(*[{"content": text}] * choices, usage=fed))
    collected.feed(frame(*[{"content": text}] * choices, usage=1000, finish="stop"))
    collected.cut()
    answer = body_of(collected)
    body = orjson.dumps(answer)
    assert 4000 < len(body) <= 8000
    assert answer["gateway"] == {"ended_by": "size"}
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    kept = sum(len(choice["message"]["content"]) for choice in answer["choices"]) // 10
    assert answer["usage"]["completion_tokens"] == kept
    assert collected.usage is not None
    assert collected.usage.completion_tokens == kept


def test_log_probabilities_and_arguments_count_towards_the_limit() -> None:
    deltas: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"logprobs": {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": []}]}}),
        ({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "[1,"}}]}, {}),
    ]
    for delta, rest in deltas:
        collected = Collected(max_bytes=8000)
        for _ in range(1000):
            collected.feed(frame(delta, **rest))
        assert collected.is_full
        assert len(orjson.dumps(body_of(collected))) <= 8000


@each(
    "data",
    [
        b'{"id": 1}', b'{"choices": {}, "x": ', b'{"choices": [1]}', b'{"choices": [{"index": "0"}]}',
        b'{"choices": [{"index": 0, "delta": {"content": 1}}]}', b'{"choices": [{"index": 0, "delta": []}], "a": {}',
        b'{"choices": [{"index": 0, "delta": {"content": "\\ud800"}}]}',
        b'{"choices": [{"index": 0, "delta": {"tool_calls": [1]}}]}',
        b'{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}, {"index": "1"}]}}]}',
        b'{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": [0]}]}}]}',
        b'{"choices": [{"index": "0", "delta": {}}]}',
        b'{"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"arguments": [1]}}]}}]}',
        b'{"choices": [{"index": 0, "logprobs": {"content": {"a": 1}}}]}',
    ],
)  # fmt: skip
def test_what_is_no_piece_of_an_answer_is_a_failure_of_its_backend(data: bytes) -> None:
    with pytest.raises(GatewayError, match="backend_error"):
        Collected(max_bytes=2**20).feed(b"data: " + data + b"\n\n")


@each("usage", [[], 5, "x", {}, {"prompt_tokens": -1}, {"prompt_tokens": "x", "more": {"a": 1}}])
@each("choices", ['"choices": [], ', '"choices": null, ', ""])
def test_a_usage_that_cannot_be_read_is_told_as_it_is_billed(usage: Any, choices: str) -> None:
    collected = Collected(max_bytes=2**20)
    told = b'data: {%b"usage": %b}\n\n' % (choices.encode(), orjson.dumps(usage))
    collected.feed(frame({"content": "a"}) + frame({"content": "b"}, finish="stop") + told)
    assert (collected.usage, collected.text_frames) == (None, 2)
    assert read_usage(body_of(collected)["usage"]) == Usage(1, 2)


@each("details", ["x", 5, [{"cached_tokens": 3}], [[[]]], True])
def test_details_of_a_usage_that_are_no_object_do_not_cost_the_answer(details: Any) -> None:
    collected = Collected(max_bytes=2**20)
    counts = {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": details}
    told = orjson.dumps({"choices": [], "usage": counts})
    collected.feed(frame({"content": "a"}, finish="stop") + b"data: %b\n\n" % told)
    assert body_of(collected)["usage"]["prompt_tokens_details"] is None


def test_a_whole_message_in_a_frame_is_not_lost() -> None:
    collected = Collected(max_bytes=2**20)
    choice = {"index": 0, "message": {"role": "assistant", "content": "all of it"}, "finish_reason": "stop"}
    collected.feed(b"data: " + orjson.dumps({"id": "c", "choices": [choice]}) + b"\n\n")
    assert body_of(collected)["choices"][0]["message"]["content"] == "all of it"
    assert collected.text_frames == 1


def test_frames_with_text_are_counted_whatever_they_bring() -> None:
    collected = Collected(max_bytes=2**20)
    call = {"index": 0, "function": {"name": "f", "arguments": ""}}
    for delta in ({"role": "assistant", "content": ""}, {"content": "a"}, {"reasoning": "b"}, {"refusal": "c"}):
        collected.feed(frame(delta))
    collected.feed(frame({"tool_calls": [call]}) + frame({"tool_calls": [{"function": {"arguments": "{"}}]}))
    collected.feed(frame({}, finish="stop"))
    assert collected.text_frames == 4


def test_comments_and_names_of_events_are_no_pieces() -> None:
    collected = Collected(max_bytes=2**20)
    collected.feed(
        b": {comment}\n\nevent: x\ndata: " + frame({"content": "a"}, finish="stop")[6:] + b"data: [DONE]\n\n"
    )
    assert body_of(collected)["choices"][0]["message"]["content"] == "a"


def test_a_frame_that_would_take_a_parser_too_long_is_a_failure_of_its_backend() -> None:
    collected = Collected(max_bytes=2**20)
    long = b'data: {"choices":[],"x":[%b]}\n\n'
    collected.feed(long % (b"[]," * 80_000 + b"1"))
    collected.feed(long % (b'"' + b"a" * 2_000_000 + b'"'))
    with pytest.raises(GatewayError, match="backend_error"):
        collected.feed(long % (b"[]," * 300_000 + b"1"))


def test_the_latest_words_are_the_text_or_the_reasoning_before_there_is_any() -> None:
    collected = Collected(max_bytes=2**20)
    assert collected.latest_words == ""
    collected.feed(frame({"reasoning": "hm"}, {"content": "other"}))
    assert collected.latest_words == "hm"
    collected.feed(frame({"content": "a"}) + frame({"content": "b"}))
    assert collected.latest_words == "ab"


@each("word", ["word ", "without-any", "\u65e5\u672c\u8a9e\U0001f600", 'quo"te ', "back\\slash \n", "\x1b[0m "])
@each("count", [1, 700, 5000])
def test_the_latest_words_of_a_long_text_are_its_end_whatever_it_holds(word: str, count: int) -> None:
    collected = Collected(max_bytes=2**20)
    for _ in range(10):
        collected.feed(frame({"content": word * (count // 10 or 1)}))
    text = word * (count // 10 or 1) * 10
    assert text.endswith(collected.latest_words)
    assert len(collected.latest_words.encode()) >= min(1000, len(text.encode()))
