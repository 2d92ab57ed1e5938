"""Whatever a backend answers to one caller or says of itself, the next gets a whole answer, and the books balance."""

import asyncio
import re
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from tests.attack.at_random import OUR_FAULT, each_case, others_are_served_during
from tests.attack.mutations import cut, mutated_bytes, mutated_json
from tests.attack.target import CHAT, MESSAGES, MOST_HELD_MS, UNBOUNDED, Target, attacked, pinging
from tests.attack.wire import Answer, get, post, wires
from tests.replaying import Answer as Reply
from tests.replaying import Asked, Counters, ReplayingBackend, chunk, stream, unary

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
CONTROLS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\\\\u00[01][0-9a-f]")
"""Control characters, raw or as JSON writes them."""
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


# What a backend says of itself

ATTENTIVE = """
[upstream]
discovery_interval_s = 0.05
"""
LISTED = [
    {
        "id": name,
        "object": "model",
        "created": 1,
        "owned_by": "vllm",
        "max_model_len": 4096,
        "root": name,
        "parent": None,
    }
    for name in ("tiny", "org/large", "demo/echo")
]
NAMES = ["id", "max_model_len", "object", "data", "root", "owned_by", "permission"]
SAYINGS = {
    "/v1/models": [orjson.dumps({"object": "list", "data": LISTED})],
    "/metrics": [b'# HELP vllm:num_requests_running x\nvllm:num_requests_running{engine="0"} 1.0\n'
                 b'vllm:num_requests_waiting{engine="0"} 2.0\n',
                 b'vllm:num_requests_running{engine="0",model_name="tiny"} 1.0\n' + Counters(9, 4, 3, 2, 3).page()],
    "/health": [b"", b"{}"],
}  # fmt: skip


def said(dice: Random, path: str) -> bytes:
    """An answer to that path with its bytes or its values changed."""
    body = dice.choice(SAYINGS[path])
    if path == "/v1/models" and dice.random() < 0.7:
        return whole(orjson.dumps(mutated_json(dice, orjson.loads(body), NAMES)))
    return mutated_bytes(dice, whole(body))


class ChangingBackend(ReplayingBackend):
    """Says of itself, by path, what it is told to say."""

    def __init__(self) -> None:
        super().__init__("tiny", "demo/echo")
        self.says: dict[str, bytes] = {}

    def _answer_to(self, asked: Asked) -> Reply:
        return oddly(self.says[asked.path]) if asked.path in self.says else super()._answer_to(asked)


def oddly(data: bytes) -> Reply:
    async def answer(asked: Asked) -> None:
        asked.send(data)
        asked.transport.close()

    return answer


async def say_oddly(target: Target, backend: ChangingBackend, dice: Random) -> None:
    """Say something odd at the next look; meanwhile the catalog is asked for, and afterwards it is as before."""
    backend.says = {path: said(dice, path) for path in SAYINGS}
    for path in ("/v1/models", "/health", "/stats", "/metrics"):
        async with wires(target.port, 1) as (wire,):
            await wire.send(get(path))
            answer = await wire.answer()
        assert answer is not None, path
        assert answer.status in (200, 503), (path, answer)
        assert not OUR_FAULT.search(answer.head + answer.body), (path, answer)
        assert not CONTROLS.search(answer.body), (path, answer)


async def test_whatever_a_backend_says_of_itself_the_catalog_is_well_and_comes_back(tmp_path: Path) -> None:
    async with ChangingBackend() as backend:
        settings = f'vllm_urls = ["{backend.url}"]\n{UNBOUNDED}{ATTENTIVE}'
        async with attacked(tmp_path, settings, keys=2) as target:
            async with pinging(target.program) as pinger:
                await each_case(lambda dice: say_oddly(target, backend, dice))
                assert (await pinger.look()).held_ms < MOST_HELD_MS
            backend.says = {}
            await is_served_again(target)
        assert not CONTROLS.search((tmp_path / "server.log").read_bytes())


async def is_served_again(target: Target) -> None:
    """Once it has been looked at again; how long that takes is the attack's bound to say."""
    while (answer := await target.chat(target.key(-1))) is None or answer.status != 200:  # noqa: ASYNC110 - polled
        await asyncio.sleep(0.1)
