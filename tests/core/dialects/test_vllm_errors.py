"""vLLM's shapes of error in the words of the gateway's table."""

from typing import Any

import orjson
import pytest

from mcp_gateway.core.blame import blame_of
from mcp_gateway.core.dialects.tokens_vllm import read_count
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.error_shapes import MAX_REFUSAL_BYTES
from tests.captured import captured
from tests.cases import each
from tests.refusals import error_of


def told(case: str) -> GatewayError:
    capture = captured(case)
    return error_of(capture.status, capture.body, "tiny", "pub/name")


@each(
    ("case", "code", "param", "message"),
    [
        ("112_top_logprobs_without", "invalid_value", "top_logprobs",
         "when using `top_logprobs`, `logprobs` must be set to true."),
        ("114_logprobs_int", "invalid_type", "logprobs",
         "`logprobs`: Input should be a valid boolean, unable to interpret input."),
        ("149_max_tokens_beyond", "context_length_exceeded", "max_tokens",
         "max_tokens=5000 cannot be greater than max_model_len=2048. Please request fewer output tokens."),
        ("165_response_format_unknown", "invalid_type", "response_format.type",
         "`response_format.type`: Input should be 'text', 'json_object' or 'json_schema'."),
        ("217_tools_no_function", "missing_parameter", "tools.0.function", "`tools.0.function`: Field required."),
        ("230_vision_on_text", "vision_disabled", "messages", "This model takes text only."),
        ("300_unknown_model", "model_unavailable", None, "The model 'pub/name' is not loaded at the moment."),
        ("313_message_no_role", "missing_parameter", "messages.0.role", "`messages.0.role`: Field required."),
        ("315_content_null", "invalid_type", "messages.0.content",
         "`messages.0.content`: Input should be a valid string."),
        ("325_top_p_2", "invalid_value", "top_p", "top_p must be in (0, 1], got 2.0."),
        ("347_bad_utf8", "invalid_value", None, "There was an error parsing the body"),
        ("419_two_content_length", "invalid_value", None, "Invalid HTTP request received."),
        ("800_auth_missing", "backend_error", None, "The backend of 'pub/name' failed (status 401)."),
        ("863_queue_full", "backend_busy", None, "Every place for 'pub/name' is taken; try again soon."),
        ("970_chat_on_embed", "backend_error", None, "The backend of 'pub/name' failed (status 404)."),
    ],
)  # fmt: skip
def test_a_captured_error_says_what_to_change(case: str, code: str, param: str | None, message: str) -> None:
    error = told(case)
    assert (error.code, error.param, error.message) == (code, param, message)


@pytest.mark.parametrize("case", ["152_prompt_too_long", "154_prompt_too_long_no_max", "423_huge_body"])
def test_a_prompt_that_is_too_long_has_openai_s_code_for_it(case: str) -> None:
    assert (told(case).code, told(case).param) == ("context_length_exceeded", "messages")


def test_the_newer_text_of_a_prompt_that_is_too_long_is_known_too() -> None:
    message = "Input length (9000) exceeds model's maximum context length (2048)."
    body = orjson.dumps({"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}})
    assert error_of(400, body, "tiny", "pub/name").code == "context_length_exceeded"


def refusal(message: str, status: int = 400) -> GatewayError:
    return error_of(status, orjson.dumps({"error": {"message": message, "type": "x"}}), "org/tiny", "pub/name")


@each(
    ("said", "told"),
    [
        ("org/tiny cannot", "pub/name cannot"),
        ("the model `org/tiny`.", "the model `pub/name`."),
        ("(org/tiny, org/tiny)", "(pub/name, pub/name)"),
        ("my/org/tiny and org/tiny-2 and xorg/tiny", "my/org/tiny and org/tiny-2 and xorg/tiny"),
    ],
)
def test_the_backend_s_name_of_the_model_is_replaced_where_it_stands_alone(said: str, told: str) -> None:
    assert refusal(said).message == told


def test_a_long_message_is_cut() -> None:
    assert len(refusal("x" * 9000).message) <= 501


@each(
    "body",
    [b"", b"<html>", b"null", b"[]", b"{}", b'{"error":null}', b'{"error":{}}', b'{"error":{"message":5,"param":7}}',
     b'{"detail":[{"loc":["body"]}]}', b'"text"', b"\xff\xfe", b"[" * 5000],
)  # fmt: skip
@each("status", [204, 301, 400, 401, 403, 404, 413, 422, 429, 500, 501, 503, 599])
def test_whatever_a_backend_says_becomes_an_error_of_the_table(status: int, body: bytes) -> None:
    error = error_of(status, body, "tiny", "pub/name")
    assert error.message
    assert 400 <= error.status <= 503
    if status not in (400, 413, 422, 429, 503):
        assert error.code == "backend_error"


@each(
    ("detail", "told"),
    [
        ([{"loc": ["body", "top_k"], "msg": "Too small", "type": "x", "input": "MARK"}], "`top_k`: Too small"),
        ([{"loc": ["body", "messages", 0, "role"], "msg": "Field required"}], "`messages.0.role`: Field required"),
        ([{"msg": "One"}, {"loc": "body", "msg": "Two"}, "Three", {"msg": "Four"}], "One; Two; Three"),
        ([5, None, {"loc": []}, {"msg": ["MARK"]}, [["MARK"]]], "The backend refused the request."),
        ([{"loc": ["a"] * 9999, "msg": "x" * 9999}], "`" + "a." * 11 + "a`: " + "x" * 473 + "…"),
    ],
)
@each("name", ["detail", "error"])
def test_faults_that_come_as_a_list_are_told_in_words(name: str, detail: Any, told: str) -> None:
    assert error_of(422, orjson.dumps({name: detail}), "tiny", "pub/name").message == told


@each(
    "said",
    [
        "cannot identify image file <_io.BytesIO object at 0x7f0>",
        "Failed to load image: image file is truncated (5 bytes not processed)",
        "broken data stream when reading image file",
        "broken PNG file (chunk b'IDAT')",
    ],
)
def test_an_image_that_a_server_cannot_read_is_its_callers_fault_whatever_status_says_so(said: str) -> None:
    for status in (400, 500):
        assert blame_of(refusal(said, status)).whose == "request"
    error = refusal(said, 500)
    assert (error.code, error.message) == ("invalid_value", "An image of the request cannot be read.")
    assert refusal(f"{said[:9]}...", 500).code == "backend_error"


NOTE = " (parameter=a, value="


@each(
    ("said", "told"),
    [
        ("It is bad. (parameter=top_p, value=2.0)", "It is bad."),
        ("It is bad. (parameter=top_p)", "It is bad."),
        ("It is bad (parameter=top_p, value=2.0), in fact", "It is bad (parameter=top_p, value=2.0), in fact"),
        ("It is bad (parameter=x) or (parameter=y, value=(1, 2))", "It is bad (parameter=x) or"),
        ("It is bad." + NOTE + "x" * 9000 + ")", "It is bad."),
        ("2 validation errors:\n  It is bad.", "It is bad."),
        (NOTE * 9000 + ")", "The backend refused the request."),
    ],
)
def test_what_vllm_adds_before_and_after_is_taken_away(said: str, told: str) -> None:
    assert refusal(said).message == told


@each("quoted", [NOTE, "'type': 'x' ", "'msg': '", "'type': 'a', 'msg': '", "org/tiny", "\\'", "1"])
@each("kind", ["Bad Request", "BadRequestError"])
def test_a_refusal_that_quotes_its_caller_at_length_is_cut_before_it_is_searched(kind: str, quoted: str) -> None:
    message = 'Unsupported type "' + quoted * (MAX_REFUSAL_BYTES // 2 // len(quoted)) + '"'
    body = orjson.dumps({"error": {"message": message, "type": kind, "param": "body." + quoted * 9000}})
    error = error_of(400, body, "org/tiny", "pub/name")
    assert error.status == 400
    assert len(error.message) <= 501
    assert len(error.param or "") <= 2000


@pytest.mark.parametrize(
    ("message", "code", "told"),
    [
        ('Unsupported type "' + "é\\" * 90_000, "invalid_value", 'Unsupported type "éé'),
        ("1 validation error:\n  {'type': 'missing', 'loc': 'body.x', 'msg': \"It's due\", 'input': '" + "a" * 99_000,
         "missing_parameter", "It's due"),
    ],
)  # fmt: skip
def test_of_a_body_that_was_cut_the_message_still_tells(message: str, code: str, told: str) -> None:
    body = orjson.dumps({"error": {"message": message, "type": "BadRequestError", "param": None}})
    error = error_of(400, body[:MAX_REFUSAL_BYTES], "org/tiny", "pub/name")
    assert error.code == code
    assert error.message.replace("\\", "").startswith(told)


@each(
    ("body", "count"),
    [
        (b'{"count":12,"max_model_len":2048,"tokens":[1,2]}', 12),
        (b'{"max_model_len":2048, "count": 7}', 7),
        (b'{"count":12', None),
        (b'{"count":-1}', None),
        (b'{"count":' + b"9" * 5000 + b"}", None),
        (b'{"token_strs":["\\"count\\":3,"]}', None),
        (b"[1,2]", None),
        (b"", None),
    ],
)
def test_the_count_of_a_prompt_is_read_without_the_tokens_after_it(body: bytes, count: int | None) -> None:
    assert read_count(body) == count


@each("name", ["message", "type", "param"])
@each("depth", [3, 1000])
def test_an_error_made_of_lists_in_lists_is_a_refusal_like_any_other(name: str, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    assert error_of(400, b'{"error":{"%b":%b}}' % (name.encode(), nested), "tiny", "pub/name").status == 400
    assert error_of(400, b'{"detail":%b}' % nested, "tiny", "pub/name").status == 400
