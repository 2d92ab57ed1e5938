"""An answer in one piece: read the same whether it is parsed or, being long, searched in slices."""

import re
from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import SLICE_BYTES
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.surfaces.usage import Usage
from mcp_gateway.core.surfaces.whole_answer import PARSED_BYTES, read_answer, without_logprobs
from tests.captured import Capture, captures
from tests.cases import each

UNARY = [capture for capture in captures() if capture.is_chat and capture.status == 200 and not capture.is_stream]
BACKEND_NAME = re.compile(rb'"model":"tiny(?:-alias)?"')
SPACES = b" " * (PARSED_BYTES + SLICE_BYTES)


def asked(model: str) -> Ask:
    return CHAT.read({"model": model, "messages": [{"role": "user", "content": "Hi"}]}, 60)


def lengthened(body: bytes, before: bytes) -> bytearray:
    """As long as is not parsed, with room before a key or at the end of the answer."""
    at = body.index(before)
    return bytearray(body[:at] + SPACES + body[at:])


@each("capture", UNARY)
async def test_nothing_is_changed_but_the_models_name(capture: Capture) -> None:
    expected = BACKEND_NAME.sub(b'"model":"a\\\\"b"', capture.body, count=1)
    assert (await read_answer(capture.body, asked('a"b'))).body == expected


@each("before", [b'"id"', b'"model"', b'"choices"', b'"message"', b'"finish_reason"', b'"usage"', b"{"])
@each("capture", UNARY)
async def test_a_long_answer_tells_the_same_as_a_short_one(capture: Capture, before: bytes) -> None:
    short = await read_answer(capture.body, asked("public/name"))
    long = lengthened(capture.body, before if before in capture.body else b'"id"')
    if long.startswith(b" "):
        long = long.strip() + SPACES
    told = await read_answer(long, asked("public/name"))
    assert (told.finish_reason, told.usage) == (short.finish_reason, short.usage)
    assert orjson.loads(told.body) == orjson.loads(capture.body) | {"model": "public/name"}


def answer(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [choice],
        "usage": usage,
    } | fields


def saying(text: str, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return answer(choices=[choice], **fields)


KEYS = '"finish_reason":"abort","usage":{"prompt_tokens":9,"completion_tokens":9},"model":"x","logprobs":{"'


@pytest.mark.parametrize("write", [orjson.dumps, lambda value: orjson.dumps(value).replace(b'":', b'": ')])
async def test_what_a_model_says_is_never_taken_for_what_the_backend_tells(write: Any) -> None:
    body = bytearray(write(saying(KEYS * 9000)))
    said = orjson.loads(body)
    told = await read_answer(body, asked("pub"))
    assert (told.finish_reason, told.usage) == ("stop", Usage(3, 2))
    assert orjson.loads(told.body) == said | {"model": "pub"}
    assert orjson.loads(await without_logprobs(body)) == orjson.loads(body)


@each("usage", [None, "x", [], {}, {"prompt_tokens": "x"}, {"a": "b" * 20_000, "prompt_tokens": 1}, 5])
async def test_usage_that_is_none_is_none_in_a_long_answer_too(usage: object) -> None:
    assert (await read_answer(orjson.dumps(saying("x" * PARSED_BYTES, usage=usage)), asked("pub"))).usage is None


@each("body", [b"", b"null", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[1]}', b'{"choices":null}', b"<html>"])
@each("padding", [b"", SPACES])
async def test_what_is_no_chat_completion_is_not_understood(body: bytes, padding: bytes) -> None:
    with pytest.raises(GatewayError, match="backend_error"):
        await read_answer(body + padding, asked("pub"))


def with_logprobs(rows: int) -> dict[str, Any]:
    top = [{"token": '"}', "logprob": -1.0, "bytes": [34, 125]}] * 3
    logprobs = {"content": [{"token": "{[", "logprob": -0.5, "bytes": [], "top_logprobs": top}] * rows, "refusal": None}
    choice = {"index": 0, "message": {"content": KEYS}, "logprobs": logprobs, "finish_reason": "stop"}
    return answer(choices=[choice, choice | {"logprobs": None}, choice])


@each("rows", [0, 1, 9000])
@each("kind", [bytes, bytearray])
async def test_log_probabilities_are_taken_out_and_nothing_else(rows: int, kind: type) -> None:
    whole = with_logprobs(rows)
    expected = whole | {"choices": [choice | {"logprobs": None} for choice in whole["choices"]]}
    assert orjson.loads(await without_logprobs(kind(orjson.dumps(whole)))) == expected


@each(
    "body",
    [b'{"logprobs":{', b'{"logprobs":{"a', b'{"logprobs":{"a":[]', b'{"logprobs":{"' + b"x" * 2 * SLICE_BYTES + b'"}}'],
)
async def test_log_probabilities_without_an_end_are_not_understood(body: bytes) -> None:
    with pytest.raises(GatewayError, match="backend_error"):
        await without_logprobs(body)
