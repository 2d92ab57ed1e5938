"""Whatever a backend answers to one caller, the next gets a whole answer, and the books balance."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from tests.attack.at_random import OUR_FAULT, others_are_served_during
from tests.attack.mutations import cut, mutated_bytes
from tests.attack.target import CHAT, MESSAGES, Target, attacked
from tests.attack.wire import Answer, post, wires
from tests.replaying import Asked, ReplayingBackend, chunk, stream, unary

pytestmark = pytest.mark.slow

BRIEF = """
[upstream]
first_token_timeout_s = 5
unary_timeout_s = 5
idle_timeout_s = 5
breaker_failures = 1000000
discovery_interval_s = 600
[[models]]
id = "demo/echo"
backend_model = "tiny"
guests = true
[models.pricing]
prompt = "0.000001"
completion = "0.000001"
"""
CLEAN = "this answer is whole"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
REFUSAL = b'{"error":{"message":"a (parameter=b, value=c)","type":"BadRequestError","param":"b","code":400}}'


def whole(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", *headers, f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def completion(**fields: object) -> bytes:
    message = {"role": "assistant", "content": 'say "usage":{"a":1} and "model":"tiny"', "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice]}
    return orjson.dumps(body | {"usage": usage} | fields)


def in_chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


WHOLE_ANSWERS = [
    whole(completion()),
    whole(completion(usage=None)),
    whole(completion(choices=[])),
    whole(completion(system_fingerprint="f", prompt_logprobs=None, kv_transfer_params=None)),
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    + in_chunks(completion()),
    b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + completion(),
    whole(REFUSAL, "400 Bad Request"),
    whole(b'{"detail":"Not Found"}', "404 Not Found"),
    whole(b'{"error":"x"}', "500 Internal Server Error"),
    whole(b'{"error":{"message":"queue is full","code":503}}', "503 Service Unavailable", "retry-after: 1"),
    whole(b"", "204 No Content"),
    b"HTTP/1.1 100 Continue\r\n\r\n" + whole(completion()),
]
STREAMS = [
    STREAM + in_chunks(*stream(5, 4)),
    STREAM + in_chunks(chunk('"usage":{"prompt_tokens":9}', 5, 1), chunk('\\"model\\":"tiny"', 5, 2), *stream(5, 4)),
    STREAM + in_chunks(chunk("", 5, 0), b'data: {"error":{"message":"boom","code":500}}\n\n', b"data: [DONE]\n\n"),
    STREAM + in_chunks(b": comment\n\n", *stream(5, 3)),
]


class OddBackend:
    """Answers a chat that names a case with that case's bytes, and any other with a whole one."""

    def __init__(self) -> None:
        self.cases: dict[str, tuple[list[bytes], bool]] = {}

    async def __call__(self, asked: Asked) -> None:
        pieces, hangs_up = self.cases.pop(asked.json["messages"][0]["content"], ([], False))
        if not pieces:
            return await unary(content=CLEAN)(asked)
        for piece in pieces:
            asked.send(piece)
            await asyncio.sleep(0)
        if hangs_up:
            asked.transport.close()
        return None


async def answer_oddly(target: Target, backend: OddBackend, dice: Random) -> None:
    """A changed answer for one caller; the next one's must be whole."""
    is_stream = dice.random() < 0.5
    data = mutated_bytes(dice, dice.choice(STREAMS if is_stream and dice.random() < 0.9 else WHOLE_ANSWERS))
    name = f"case {dice.getrandbits(64)}"
    backend.cases[name] = cut(dice, data), dice.random() < 0.95
    body = CHAT | {"messages": [{"role": "user", "content": name}], "stream": is_stream, "max_tokens": 5}
    body |= {"n": 2} if dice.random() < 0.3 else {}
    body |= {"stream_options": {"include_usage": True}} if is_stream and dice.random() < 0.5 else {}
    answer = await chat(target, target.key(0), body)
    backend.cases.pop(name, None)
    assert answer is not None, data
    assert answer.status != 500, (data, answer)
    assert not OUR_FAULT.search(answer.head + answer.body), (data, answer)
    other = await chat(target, target.key(1), CHAT | {"messages": MESSAGES})
    assert other is not None
    assert CLEAN.encode() in other.body, (data, other)


async def chat(target: Target, who: str, body: dict[str, Any]) -> Answer | None:
    async with wires(target.port, 1) as (wire,):
        await wire.send(post("/v1/chat/completions", body, who))
        return await wire.answer()


async def test_whatever_a_backend_answers_others_get_whole_answers_and_the_books_balance(tmp_path: Path) -> None:
    odd = OddBackend()
    async with ReplayingBackend(max_model_len=10**6) as backend:
        backend.standing = odd
        settings = f'vllm_urls = ["{backend.url}"]\n{BRIEF}'
        async with attacked(tmp_path, settings, keys=3) as target:
            await others_are_served_during(target, lambda dice: answer_oddly(target, odd, dice))
