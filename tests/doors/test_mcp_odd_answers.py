"""Answers of a backend that lack what they should have, over MCP: its error, told in words, and no bug of ours."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.replaying import ReplayingBackend, events, whole
from tests.serving import FREE, MESSAGES, PRICED, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE = {"content": "x"}
ODD = {
    "no message": {"finish_reason": "stop"},
    "a message that is a list": {"message": [], "finish_reason": "stop"},
    "a message that is text": {"message": "x", "finish_reason": "stop"},
    "no finish reason": {"message": MESSAGE},
    "content that is a number": {"message": {"content": 5}, "finish_reason": "stop"},
    "reasoning that is a number": {"message": {**MESSAGE, "reasoning": 5}, "finish_reason": "stop"},
    "a choice that is a number": 5,
}
FINE = {
    "content in parts": {"message": {"content": ["x", {"type": "image"}, 5]}, "finish_reason": "stop"},
    "content in parts of text": {"message": {"content": [{"type": "text", "text": "x"}]}, "finish_reason": "stop"},
    "a finish reason that is a list": {"message": MESSAGE, "finish_reason": ["stop"]},
    "tool calls that are text": {"message": {**MESSAGE, "tool_calls": "x"}, "finish_reason": "stop"},
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("odd"), vllm_urls=[backend.url], models=[FREE, PRICED]) as door,
    ):
        yield door, backend


async def asked(door: Door, key: str | None = None, **meta: object) -> str:
    """What the tool's result tells, as the text of the answer; of the model with a price where a key is named."""
    arguments = {"model": "free/tiny" if key is None else "priced/tiny", "messages": MESSAGES}
    params: dict[str, Any] = {"name": "chat_completion", "arguments": arguments, **({"_meta": meta} if meta else {})}
    answer = await door.mcp("tools/call", key or await door.key(), **params)
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("choice", ODD.values(), ids=ODD)
async def test_an_odd_answer_is_its_backend_s_error(served: tuple[Door, ReplayingBackend], choice: object) -> None:
    door, backend = served
    backend.answer_with(*[whole(orjson.dumps({"model": "tiny", "choices": [choice]}))] * 2)
    told = await asked(door)
    assert "could not be understood" in told
    assert "on our side" not in told
    await door.nothing_is_left()


@pytest.mark.parametrize("choice", ODD.values(), ids=ODD)
async def test_it_is_refused_by_both_doors_and_not_billed(
    served: tuple[Door, ReplayingBackend], choice: object
) -> None:
    door, backend = served
    account = await door.account("1")
    key = await door.key(account)
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    backend.answer_with(*[whole(orjson.dumps({"model": "tiny", "choices": [choice], "usage": usage}))] * 4)
    assert "could not be understood" in await asked(door, key)
    assert (await door.chat(key, model="priced/tiny")).status_code == 502
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9


async def test_a_call_that_failed_tells_the_id_of_its_record(served: tuple[Door, ReplayingBackend]) -> None:
    door, backend = served
    key = await door.key()
    backend.answer_with(*[whole(b"{}", 500)] * 4)
    told = orjson.loads((await asked(door, key)).removeprefix("event: message\ndata: "))["result"]["structuredContent"]
    await door.nothing_is_left()
    record = (await door.get(f"/v1/requests/{told['request_id']}", key)).json()
    assert (record["error_code"], record["door"]) == (told["code"], "mcp")


BROKEN_OFF = [
    {"choices": [{"message": MESSAGE, "finish_reason": "error"}]},
    {"choices": [{"message": MESSAGE, "finish_reason": "stop"}, {"message": MESSAGE, "finish_reason": "error"}]},
    {"choices": [{"message": MESSAGE, "finish_reason": "stop"}, {"message": MESSAGE, "finish_reason": "abort"}]},
    {"choices": [{"message": MESSAGE, "finish_reason": "stop"}], "error": {"message": "out of memory", "code": 500}},
    {"choices": [{"message": MESSAGE, "finish_reason": "stop"}], "error": "out of memory"},
    {"choices": [{"message": MESSAGE, "finish_reason": "stop", "error": {"message": "out of memory"}}]},
    {"choices": [{"message": {"content": "x" * 300_000}, "finish_reason": "error"}]},
]


@pytest.mark.parametrize("answer", BROKEN_OFF)
async def test_an_answer_in_one_piece_that_tells_of_a_failure_is_one(
    served: tuple[Door, ReplayingBackend], answer: dict[str, object]
) -> None:
    door, backend = served
    account = await door.account("1")
    key = await door.key(account)
    backend.answer_with(*[whole(orjson.dumps({"model": "tiny"} | answer))] * 4)
    assert '"isError":true' in await asked(door, key)
    refused = await door.chat(key, model="priced/tiny")
    assert refused.status_code in (502, 503)
    assert "out of memory" not in refused.text
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9


@pytest.mark.parametrize("answer", [{"error": None}, {"error": {}}])
async def test_an_error_that_is_none_is_none(served: tuple[Door, ReplayingBackend], answer: dict[str, object]) -> None:
    door, backend = served
    choice = {"message": MESSAGE, "finish_reason": "stop"}
    backend.answer_with(whole(orjson.dumps({"model": "tiny", "choices": [choice]} | answer)))
    assert '"text":"x"' in await asked(door)


@pytest.mark.parametrize("choice", FINE.values(), ids=FINE)
async def test_what_nobody_reads_may_be_odd(served: tuple[Door, ReplayingBackend], choice: object) -> None:
    door, backend = served
    backend.answer_with(whole(orjson.dumps({"model": "tiny", "choices": [choice]})))
    assert '"text":"x"' in await asked(door)


@pytest.mark.parametrize("body", [b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'])
async def test_an_answer_without_a_model_is_one_of_the_model_that_was_asked(
    served: tuple[Door, ReplayingBackend], body: bytes
) -> None:
    door, backend = served
    backend.answer_with(whole(body))
    await asked(door)
    backend.answer_with(whole(body.replace(b"{", b'{"model":null,', 1)))
    assert '"text":"x"' in await asked(door)


@pytest.mark.parametrize(
    "choice",
    [b"5", b'{"index":[]}', b'{"index":0,"delta":5}', b'{"index":0,"delta":{"content":5}}',
     b'{"index":0,"delta":{"tool_calls":[5]}}', b'{"delta":{}}'],
)  # fmt: skip
async def test_an_odd_stream_is_its_backend_s_error(served: tuple[Door, ReplayingBackend], choice: bytes) -> None:
    door, backend = served
    first = b'data: {"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    last = b'data: {"model":"tiny","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    backend.answer_with(events(first, b'data: {"model":"tiny","choices":[%b]}\n\n' % choice, last, b"data: [DONE]\n\n"))
    told = await asked(door, progressToken=1)
    assert "could not be understood" in told
    await door.nothing_is_left()


async def test_an_answer_that_is_nested_beyond_what_can_be_told_ends_its_call_alone(
    served: tuple[Door, ReplayingBackend],
) -> None:
    door, backend = served
    deep = b'{"model":"tiny","choices":[{"message":{"content":"x","tool_calls":[%b]},"finish_reason":"stop"}]}'
    backend.answer_with(whole(deep % (b"[" * 300 + b"]" * 300)))
    assert "error" in (await asked(door)).lower()
    door.errors.clear()  # it was logged
    backend.answer_with()
    assert '"isError":false' in await asked(door)
