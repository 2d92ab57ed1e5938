"""POST /v1/completions: in every form of prompt, in one piece and as a stream, paid for however it ends."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.money import format_usd
from tests.captured import captured
from tests.cases import each
from tests.loop_clock import pass_time
from tests.patience import settled
from tests.replaying import (
    DONE,
    ReplayingBackend,
    contents,
    events,
    replayed,
    silence,
)
from tests.serving import FREE, PRICED, WORST, Door, bearer, error_of, open_door
from tests.stage import staged
from tests.surfaces import Completions, text_part, text_total

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/completions"
PROMPT_PICO, COMPLETION_PICO = 300_000, 700_000
Stage = tuple[Door, ReplayingBackend]
SILENCE_S = 60.0
"""The longest that a backend may make in a stream."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("completions"),
            vllm_urls=[backend.url],
            models=[FREE, PRICED],
            wallet=WORST,
        ) as door,
    ):
        yield door, backend
        await door.nothing_is_left()


def body_of(**fields: Any) -> bytes:
    return orjson.dumps({"model": "priced/tiny", "prompt": "import os", "max_tokens": 5} | fields)


def cost_nano(prompt_tokens: int, completion_tokens: int) -> int:
    return -(-(prompt_tokens * PROMPT_PICO + completion_tokens * COMPLETION_PICO) // 1000)


async def paid(door: Door, response: httpx2.Response) -> tuple[int, int, int]:
    record = await door.record(response)
    return record["prompt_tokens"], record["completion_tokens"], record["cost_nano"]


@each("is_stream", [False, True])
@each("prompt", ["import os", ["import os", "def f"], [1, 5, 9], [[1, 5], [9]]])
async def test_the_demo_goes_on_with_every_form_of_prompt(stage: Stage, prompt: Any, is_stream: bool) -> None:
    door, _ = stage
    key = await door.key(is_test=True)
    body = body_of(model="free/tiny", prompt=prompt, stream=is_stream, n=2, logprobs=1, seed=1)
    response = await door.post(body, key, PATH)
    assert response.status_code == 200
    told = contents([response.content]) if is_stream else [response.json()]
    choices = [choice for chunk in told for choice in chunk["choices"]]
    wanted = 2 * (2 if isinstance(prompt[0], list) or prompt[0] == "import os" else 1)
    assert {choice["index"] for choice in choices} == set(range(wanted))
    assert "".join(choice["text"] for choice in choices if choice["index"] == 0) == "This is the demo backe"
    assert {(chunk["object"], chunk["model"]) for chunk in told} == {("text_completion", "free/tiny")}
    assert (await paid(door, response))[1:] == (5 * wanted, 0)


async def test_without_max_tokens_an_answer_has_sixteen(stage: Stage) -> None:
    door, backend = stage
    backend.answer_with(replayed(captured("508_completion_default_max")))
    response = await door.post(orjson.dumps({"model": "free/tiny", "prompt": "import"}), None, PATH)
    assert (response.status_code, response.json()["model"]) == (200, "free/tiny")
    assert backend.asked_at(PATH)[0].json["max_tokens"] == 16


async def test_a_guest_may_send_one_prompt(stage: Stage) -> None:
    door, _ = stage
    for fields, param in (({"prompt": ["a", "b"]}, "prompt"), ({"n": 2}, "n"), ({"best_of": 2}, "best_of")):
        error = error_of(await door.post(body_of(model="free/tiny", **fields), None, PATH))
        assert (error["code"], error["param"]) == ("invalid_value", param)


@each(
    ("fields", "code", "param"),
    [
        ({"prompt": ""}, "missing_parameter", "prompt"),
        ({"prompt": []}, "missing_parameter", "prompt"),
        ({"prompt": None}, "missing_parameter", "prompt"),
        ({"prompt": 5}, "invalid_type", "prompt"),
        ({"prompt": {}}, "invalid_type", "prompt"),
        ({"prompt": ["a", 5]}, "invalid_type", "prompt[1]"),
        ({"prompt": [1, True]}, "invalid_type", "prompt[1]"),
        ({"prompt": [1.5]}, "invalid_type", "prompt[0]"),
        ({"prompt": [[1], []]}, "missing_parameter", "prompt[1]"),
        ({"prompt": [[1], ["a"]]}, "invalid_type", "prompt[1]"),
        ({"prompt": [-1]}, "invalid_value", "prompt"),
        ({"prompt": ["a"] * 129}, "invalid_value", "prompt"),
        ({"n": 9}, "invalid_value", "n"),
        ({"best_of": 9}, "invalid_value", "best_of"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"logprobs": 21}, "invalid_value", "logprobs"),
        ({"logprobs": -1}, "invalid_value", "logprobs"),
        ({"logprobs": True}, "invalid_type", "logprobs"),
        ({"echo": True}, "unsupported_parameter", "echo"),
        ({"prompt_logprobs": 1}, "unsupported_parameter", "prompt_logprobs"),
        ({"prompt_embeds": "AAAA"}, "unsupported_parameter", "prompt_embeds"),
        ({"stream_options": {}}, "invalid_value", "stream_options"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name_and_costs_nothing(
    stage: Stage, fields: dict[str, Any], code: str, param: str
) -> None:
    door, backend = stage
    backend.answer_with()
    response = await door.post(body_of(**fields), await door.key(credit="1"), PATH)
    assert (response.status_code, error_of(response)["code"], error_of(response)["param"]) == (400, code, param)
    assert backend.asked_at(PATH) == []
    assert (await paid(door, response))[2] == 0


async def test_what_is_not_of_this_surface_is_left_out_and_told(stage: Stage) -> None:
    door, backend = stage
    backend.answer_with(replayed(captured("500_completion")))
    fields = {"echo": False, "messages": [], "tools": [1], "top_logprobs": 2, "suffix": "x", "cache_salt": "mine"}
    response = await door.post(body_of(model="free/tiny", **fields), None, PATH)
    assert response.headers["x-ignored-parameters"] == "tools, top_logprobs, cache_salt"
    sent = backend.asked_at(PATH)[0].json
    assert sent.keys() == {"model", "prompt", "max_tokens", "suffix", "cache_salt"}
    assert sent["cache_salt"] != "mine"


TWO = [
    text_part("a", 0, 2, 1),
    text_part("b", 1, 3, 1),
    text_part("c", 0, 2, 2, "stop"),
    text_part("d", 1, 3, 2, "length"),
]


async def test_a_stream_of_several_prompts_is_paid_for_all_of_them(stage: Stage) -> None:
    door, backend = stage
    backend.answer_with(events(*TWO, text_total(5, 4), DONE))
    fields = {"prompt": ["import os", "def f"], "stream": True, "stream_options": {"include_usage": True}}
    response = await door.post(body_of(**fields), await door.key(credit="1"), PATH)
    told = contents([response.content])
    assert [choice["text"] for chunk in told for choice in chunk["choices"]] == ["a", "b", "c", "d"]
    assert all("usage" not in chunk for chunk in told[:-1])
    assert told[-1]["usage"]["total_tokens"] == 9
    assert await paid(door, response) == (5, 4, cost_nano(5, 4))
    assert backend.asked_at(PATH)[0].json["stream_options"]["continuous_usage_stats"] is True


@each(("frames", "used"), [(1, (2, 1)), (2, (5, 2)), (3, (5, 3)), (4, (5, 4))])
async def test_who_leaves_a_stream_pays_for_what_was_made(stage: Stage, frames: int, used: tuple[int, int]) -> None:
    door, backend = stage
    account_id = await door.account("1")

    async def half(asked: Any) -> None:
        asked.start_stream()
        for frame in TWO[:frames]:
            asked.send_event(frame)
        while frames == len(TWO) and not asked.is_gone.is_set():  # the last frame is told once the stream has ended
            await settled()
            pass_time(SILENCE_S)
        await silence(asked)

    backend.answer_with(half)
    body = body_of(prompt=["import os", "def f"], stream=True)
    headers = bearer(await door.key(account_id)) | {"content-type": "application/json"}
    async with door.http.stream("POST", PATH, content=body, headers=headers, timeout=None) as response:
        came = b""
        async for piece in response.aiter_bytes():
            came += piece
            if came.count(b"data:") == frames:
                break
    await door.nothing_is_left()
    assert await door.balance_nano(account_id) == 10**9 - cost_nano(*used)


async def test_who_leaves_before_the_answer_pays_the_prompt(stage: Stage) -> None:
    door, backend = stage
    for prompt, tokens in (("import os", 10), ([1, 2, 3], 3), ([[1], [2, 3]], 3), (["a", "b"], 10)):
        leaver = await staged(door, backend)
        backend.answer_with(silence)
        await leaver.leave_once_asked(Completions(), prompt=prompt)
        await leaver.is_left_with(10**9 - cost_nano(tokens, 0))


@each(("fields", "outputs"), [({}, 1), ({"n": 3}, 3), ({"n": 2, "best_of": 4}, 4), ({"prompt": ["a", "b"], "n": 2}, 4)])
async def test_the_hold_is_for_all_that_may_be_made(stage: Stage, fields: dict[str, Any], outputs: int) -> None:
    door, backend = stage
    backend.answer_with(replayed(captured("500_completion")))
    prompt_tokens = len(body_of(max_tokens=100, **fields)) + 10  # and the shortest chat, by the backend's count
    worst = cost_nano(prompt_tokens, 100 * outputs)
    enough, less = await door.account(format_usd(worst)), await door.account(format_usd(worst - 1))
    whole_one = await door.post(body_of(max_tokens=100, **fields), await door.key(enough), PATH)
    assert "x-max-tokens-clamped" not in whole_one.headers
    backend.answer_with(replayed(captured("500_completion")))
    clamped = await door.post(body_of(max_tokens=100, **fields), await door.key(less), PATH)
    assert clamped.headers["x-max-tokens-clamped"] == "99"
    assert backend.asked_at(PATH)[0].json["max_tokens"] == 99


async def test_a_prompt_that_is_too_long_is_told_by_its_field(stage: Stage) -> None:
    door, backend = stage
    backend.answer_with(replayed(captured("511_completion_too_long")))
    error = error_of(await door.post(body_of(model="free/tiny"), None, PATH))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


@each("fields", [{}, {"n": 2}, {"prompt": ["import os", "def f"]}, {"logprobs": 2}])
async def test_a_long_answer_in_one_piece_is_put_together_from_a_stream(stage: Stage, fields: dict[str, Any]) -> None:
    """What a client that leaves has used is known then; it is what the demo says in one piece."""
    door, _ = stage
    key = await door.key(is_test=True)
    asked = fields | {"model": "free/tiny"}
    short = (await door.post(body_of(max_tokens=40, **asked), key, PATH)).json()
    long = (await door.post(body_of(max_tokens=600, **asked), key, PATH)).json()
    assert short.keys() == long.keys()
    assert long["choices"][0].keys() == short["choices"][0].keys()
    for one, other in zip(short["choices"], long["choices"], strict=True):
        assert one["text"] == other["text"]
        assert one["logprobs"] == other["logprobs"]
        assert one["finish_reason"] == other["finish_reason"] == "stop"
    assert short["usage"] == long["usage"]


async def test_the_sdk_completes_and_streams(stage: Stage) -> None:
    door, backend = stage
    client = door.openai(await door.key(credit="1"))
    backend.answer_with(replayed(captured("500_completion")))
    whole_one = await client.completions.create(model="priced/tiny", prompt="import os", max_tokens=5)
    backend.answer_with(replayed(captured("502_completion_stream_usage")))
    pieces = [
        piece.choices[0].text
        async for piece in await client.completions.create(
            model="priced/tiny", prompt="import os", max_tokens=5, stream=True
        )
    ]
    assert whole_one.choices[0].text == "".join(pieces)
    await client.close()


async def test_a_token_that_is_named_like_a_field_keeps_its_log_probability(stage: Stage) -> None:
    """vLLM tells the likeliest tokens of a completion as the names of an object."""
    door, backend = stage
    names = ("usage", "error", "model", "choices", "finish_reason", "system_fingerprint")
    top = dict.fromkeys(names, -1.5)
    scores = {"text_offset": [0], "token_logprobs": [-1.5], "tokens": ["usage"], "top_logprobs": [top]}

    def scored(completion_tokens: int, reason: str | None = None) -> bytes:
        frame = orjson.loads(text_part("usage", 0, 2, completion_tokens, reason).removeprefix(b"data: "))
        frame["choices"][0]["logprobs"] = scores
        return b"data: %b\n\n" % orjson.dumps(frame)

    backend.answer_with(events(scored(1), scored(2), scored(3), scored(4, "stop"), text_total(2, 4), DONE))
    response = await door.post(body_of(stream=True, logprobs=5), await door.key(credit="1"), PATH)
    told = contents([response.content])
    assert [chunk["choices"][0]["logprobs"] for chunk in told] == [scores] * 4
    assert {chunk["model"] for chunk in told} == {"priced/tiny"}
    assert not any("usage" in chunk for chunk in told)
    assert await paid(door, response) == (2, 4, cost_nano(2, 4))


async def test_token_ids_are_no_values_of_json_and_go_out_as_they_came(stage: Stage) -> None:
    door, backend = stage
    ids = b"[" + b"619," * 300_000 + b"825]"
    for prompt in (ids, b"[%b,[1]]" % ids):
        backend.answer_with(replayed(captured("504_completion_tokens")))
        response = await door.post(b'{"model":"free/tiny","prompt":%b}' % prompt, await door.key(), PATH)
        assert response.status_code == 200, response.text
        assert prompt in backend.chats[0].body
