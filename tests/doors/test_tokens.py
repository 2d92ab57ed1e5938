"""POST /tokenize and /detokenize: a backend's own answers, free, counted as listings, within bounds."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.bytes_in_flight import Owner
from mcp_gateway.core.caller import Caller, KeyHolder
from mcp_gateway.core.surfaces.completions import COMPLETIONS
from tests.captured import captured
from tests.cases import each
from tests.loop_clock import pass_time
from tests.patience import eventually
from tests.replaying import Answer, Asked, ReplayingBackend, death, replayed, whole
from tests.serving import FREE, MESSAGES, PRICED, UNLIMITED, Door, error_of, fresh_guest, open_door

pytestmark = [pytest.mark.gateways, pytest.mark.asyncio(loop_scope="module")]
Stage = tuple[Door, ReplayingBackend, ReplayingBackend]
GUESTS = FREE | {"id": "guests/tiny", "guests": True}
ALIASED = FREE | {"id": "aliased/tiny", "aliases": ["gpt-4o-mini"]}
EMBED = {"id": "embed/tiny", "backend_model": "tiny", "task": "embed", "pricing": {"prompt": "0.0000003"}}
GONE = FREE | {"id": "gone/tiny", "backend_model": "gone"}
ROOTS = ("/v1", "/api/v1/inference", "")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend() as first,
        ReplayingBackend() as second,
        open_door(
            tmp_path_factory.mktemp("tokens"),
            vllm_urls=[first.url, second.url],
            models=[FREE, PRICED, GUESTS, ALIASED, EMBED, GONE],
            limits={"listing_requests_per_minute": 100_000},
        ) as door,
    ):
        yield door, first, second


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Stage) -> AsyncIterator[Stage]:
    door, *backends = _served
    for backend in backends:
        backend.answer_with()
        backend.counts, backend.is_mute = None, False
    yield _served
    await door.nothing_is_left()


def both(served: Stage, *answers: Answer) -> None:
    """The first that is asked gives the first answer, and so on; the last one stays."""
    left = list(answers)

    async def answer(asked: Asked) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(asked)

    for backend in served[1:]:
        backend.asked.clear()
        backend.counts = answer


def asked_of(served: Stage) -> list[Asked]:
    return [*served[1].counted, *served[2].counted]


async def tokenize(door: Door, key: str | None, root: str = "/v1", **fields: Any) -> httpx2.Response:
    return await door.post(orjson.dumps({"model": "priced/tiny"} | fields), key, f"{root}/tokenize")


async def detokenize(door: Door, key: str | None, tokens: Any, **fields: Any) -> httpx2.Response:
    return await door.post(orjson.dumps({"model": "priced/tiny", "tokens": tokens} | fields), key, "/v1/detokenize")


@each("case", ["560_tokenize", "561_tokenize_chat", "562_tokenize_strs", "568_tokenize_add_special", "565_detokenize"])
async def test_a_captured_question_is_asked_and_answered_as_it_was(served: Stage, case: str) -> None:
    door, capture = served[0], captured(case)
    key = await door.key(credit="1")
    both(served, replayed(capture))
    for root in ROOTS:
        body = orjson.dumps(orjson.loads(capture.request_body) | {"model": "priced/tiny"})
        answer = await door.post(body, key, root + capture.path)
        assert (answer.status_code, answer.content) == (200, capture.body)
    assert [asked.json for asked in asked_of(served)] == [orjson.loads(capture.request_body)] * len(ROOTS)


async def test_it_is_free_and_recorded_nowhere(served: Stage) -> None:
    door = served[0]
    account = await door.account("0.1")
    key = await door.key(account)
    both(served, replayed(captured("560_tokenize")))
    assert (await tokenize(door, key, prompt="import os")).status_code == 200
    assert await door.balance_nano(account) == 10**8
    assert await door.rows("SELECT * FROM requests WHERE account_id = ?", account) == []


async def test_it_counts_as_a_listing_and_never_as_a_request(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with open_door(tmp_path_factory.mktemp("limits"), limits={"listing_requests_per_minute": 3}) as door:
        key = await door.key(limits=replace(UNLIMITED, requests_per_minute=1))
        codes = [(await tokenize(door, key, model="demo/echo", prompt="a")).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        assert (await door.chat(key, model="demo/echo")).status_code == 200


async def test_any_name_of_a_model_will_do_whatever_it_is_there_for(served: Stage) -> None:
    door = served[0]
    key = await door.key(credit="1")
    both(served, replayed(captured("560_tokenize")))
    for name in ("aliased/tiny", "gpt-4o-mini", "embed/tiny", "free/tiny"):
        assert (await tokenize(door, key, model=name, prompt="x")).status_code == 200, name
    assert {asked.json["model"] for asked in asked_of(served)} == {"tiny"}
    refused = await tokenize(door, key, model="nobody/knows", prompt="x")
    assert error_of(refused)["code"] == "model_not_found"


async def test_a_guest_asks_for_models_that_are_open_to_guests(served: Stage) -> None:
    door = served[0]
    both(served, replayed(captured("560_tokenize")))
    assert (await tokenize(door, None, model="guests/tiny", prompt="x")).status_code == 200
    assert error_of(await tokenize(door, None, prompt="x"))["code"] == "guests_not_allowed"
    long = orjson.dumps({"model": "guests/tiny", "prompt": "x" * 300_000})
    assert error_of(await door.post(long, None, "/v1/tokenize", **fresh_guest()))["code"] == "body_too_large"


TEXTS = [
    "Say hello.",
    "",
    "  Ünïcode,  two spaces\tand\r\nlines; 日本語 🎉 snake_case 3.14 HELLO iPhone ",
    "\u0000\uffff\U0010ffff",
    "<|im_start|>assistant",
]


@each("text", TEXTS)
async def test_a_test_key_has_the_demo_s_tokens_and_back_their_text(served: Stage, text: str) -> None:
    door = served[0]
    key = await door.key(is_test=True)
    told = (await tokenize(door, key, prompt=text, return_token_strs=True)).json()
    assert told == (await tokenize(door, key, prompt=text, return_token_strs=True)).json()
    assert "".join(told["token_strs"]) == text
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert (await detokenize(door, key, told["tokens"])).json() == {"prompt": text}
    assert asked_of(served) == []


async def test_the_demo_s_tokens_of_a_conversation_are_the_text_of_its_template(served: Stage) -> None:
    door = served[0]
    key = await door.key(is_test=True)
    told = (await tokenize(door, key, messages=MESSAGES)).json()
    text = (await detokenize(door, key, told["tokens"])).json()["prompt"]
    assert text == "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n"
    billed = (await door.chat(key)).json()["usage"]["prompt_tokens"]
    assert told["count"] == billed
    assert error_of(await detokenize(door, key, [2**31 - 1]))["code"] == "invalid_value"


async def test_what_passes_is_in_a_table_and_the_rest_is_named(served: Stage) -> None:
    door = served[0]
    key = await door.key(credit="1")
    both(served, replayed(captured("561_tokenize_chat")))
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    passed: dict[str, Any] = {
        "messages": MESSAGES,
        "tools": tools,
        "chat_template_kwargs": {"enable_thinking": False},
        "add_generation_prompt": False,
        "continue_final_message": True,
        "add_special_tokens": True,
        "return_token_strs": True,
    }
    answer = await tokenize(
        door, key, **passed | {"chat_template": "{{ 1 }}", "chat_template_kwargs": {"enable_thinking": False, "x": 1}},
        mm_processor_kwargs={"a": 1}, temperature=1, guided_json={},
    )  # fmt: skip
    assert answer.status_code == 200
    assert asked_of(served)[-1].json == passed | {"model": "tiny"}
    ignored = set(answer.headers["x-ignored-parameters"].split(", "))
    assert ignored == {
        "chat_template", "chat_template_kwargs.x", "mm_processor_kwargs", "temperature", "guided_json",
    }  # fmt: skip
    both(served, replayed(captured("565_detokenize")))
    answer = await detokenize(door, key, [1], skip_special_tokens=True)
    assert answer.headers["x-ignored-parameters"] == "skip_special_tokens"
    assert [asked.json for asked in served[1].asked_at("/detokenize") + served[2].asked_at("/detokenize")] == [
        {"model": "tiny", "tokens": [1]}
    ]


@each(
    ("fields", "code", "param"),
    [
        ({}, "missing_parameter", "prompt"),
        ({"prompt": None, "messages": None}, "missing_parameter", "prompt"),
        ({"prompt": ["a", "b"]}, "invalid_type", "prompt"),
        ({"prompt": 5}, "invalid_type", "prompt"),
        ({"prompt": "a", "messages": MESSAGES}, "invalid_value", "messages"),
        ({"messages": []}, "missing_parameter", "messages"),
        ({"messages": "x"}, "invalid_type", "messages"),
        ({"messages": [5]}, "invalid_type", "messages[0]"),
        ({"messages": [{"content": "a"}]}, "missing_parameter", "messages[0].role"),
        ({"messages": MESSAGES, "tools": {}}, "invalid_type", "tools"),
        ({"messages": MESSAGES, "tools": [{}] * 1025}, "invalid_value", "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "http://a"}}]}]},
            "unsupported_parameter",
            "messages[0].content[0]",
        ),
        ({"prompt": "a", "model": None}, "missing_parameter", "model"),
        ({"prompt": "a", "model": "auto"}, "invalid_value", "model"),
        ({"messages": MESSAGES, "model": "auto"}, "invalid_value", "model"),
        ({"prompt": "a", "prompt_file": "/etc/passwd"}, "unsupported_parameter", "prompt_file"),
        ({"prompt": "x" * (2 * 1024 * 1024)}, "invalid_value", "prompt"),
        ({"messages": [{"role": "user", "content": "x" * (2 * 1024 * 1024)}]}, "invalid_value", "messages"),
    ],
)
async def test_an_odd_question_is_refused_and_nobody_asked(
    served: Stage, fields: dict[str, Any], code: str, param: str
) -> None:
    door = served[0]
    error = error_of(await tokenize(door, await door.key(), **fields))
    assert (error["code"], error["param"]) == (code, param)
    assert asked_of(served) == []


@each(
    ("tokens", "code"),
    [
        (None, "missing_parameter"), ("1", "invalid_type"), ({}, "invalid_type"), (5, "invalid_type"),
        ([1, "2"], "invalid_type"), ([1.0], "invalid_type"), ([True], "invalid_type"), ([None], "invalid_type"),
        ([[1]], "invalid_type"), ([-1], "invalid_value"), ([2**31], "invalid_value"),
        (b"[1%b]" % (b"0" * 30), "invalid_value"), (b"[1e3]", "invalid_type"),
    ],
)  # fmt: skip
async def test_odd_tokens_are_refused_and_nobody_asked(served: Stage, tokens: Any, code: str) -> None:
    door = served[0]
    told = tokens if isinstance(tokens, bytes) else orjson.dumps(tokens)
    body = b'{"model":"priced/tiny","tokens":%b}' % told
    error = error_of(await door.post(body, await door.key(), "/v1/detokenize"))
    assert (error["code"], error["param"]) == (code, "tokens")
    assert served[1].asked_at("/detokenize") == served[2].asked_at("/detokenize") == []


ODD = [
    b"",
    b"[]",
    b'{"count":1}',
    b'{"count":"1","tokens":[]}',
    b'{"count":true,"tokens":[]}',
    b'{"count":true,"tokens":[1]}',
    b'{"count":-1,"tokens":[]}',
    b'{"count":2,"tokens":[1]}',
    b'{"count":2,"tokens":[1,"2"]}',
    b'{"count":1,"tokens":[[1]]}',
    b'{"error":{"message":"x"}}',
]


@each("failing", [death, whole(b"no", 500), *map(whole, ODD)])
async def test_where_one_backend_fails_or_tells_nothing_the_other_is_asked(served: Stage, failing: Answer) -> None:
    door = served[0]
    both(served, failing, replayed(captured("560_tokenize")))
    answer = await tokenize(door, await door.key(credit="1"), prompt="import os")
    assert (answer.status_code, answer.content) == (200, captured("560_tokenize").body)
    assert len(asked_of(served)) >= 2


async def test_where_all_tell_nothing_it_is_a_failure_of_the_backend(served: Stage) -> None:
    door = served[0]
    for odd in (b'{"count":1}', b'{"prompt":5}', b"null", b'{"tokens":[1]}' + b" " * 300_000):
        both(served, whole(odd))
        answer = await tokenize(door, await door.key(), prompt="x")
        assert (answer.status_code, error_of(answer)["code"]) == (502, "backend_error")
        answer = await detokenize(door, await door.key(), [1])
        assert (answer.status_code, error_of(answer)["code"]) == (502, "backend_error")
    assert all(backend.is_serving for backend in door.gateway.pool.backends)


async def test_a_long_answer_passes_unread(served: Stage) -> None:
    door = served[0]
    long = b'{"count":%d,"max_model_len":2048,"tokens":[%b],"token_strs":null}' % (200_000, b",".join([b"1"] * 200_000))
    both(served, whole(long))
    assert (await tokenize(door, await door.key(), prompt="x")).content == long
    text = b'{"prompt":"%b"}' % (b"x" * 300_000)
    both(served, whole(text))
    assert (await detokenize(door, await door.key(), [1])).content == text


async def test_a_backend_that_does_not_tokenize_is_said_to(served: Stage) -> None:
    door = served[0]
    both(served, whole(b'{"detail":"Not Found"}', 404))
    error = error_of(await tokenize(door, await door.key(), prompt="x"))
    assert error["code"] == "unsupported_endpoint"


async def test_a_refusal_names_the_model_as_its_caller_does(served: Stage) -> None:
    door = served[0]
    both(served, replayed(captured("563_tokenize_unknown_model")))
    answer = await tokenize(door, await door.key(credit="1"), prompt="x")
    assert error_of(answer)["code"] == "model_unavailable"
    assert "tiny." not in answer.text


async def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_a_few_seconds(served: Stage) -> None:
    door, first, second = served
    first.is_mute = second.is_mute = True
    asking = asyncio.ensure_future(tokenize(door, await door.key(), prompt="x"))
    await eventually(lambda: first.counted or second.counted)
    pass_time(60)
    await eventually(lambda: first.counted and second.counted)
    pass_time(60)
    assert error_of(await asking)["code"] == "first_token_timeout"


async def test_two_million_ids_are_detokenized_as_they_came_and_one_more_is_not(served: Stage) -> None:
    door = served[0]
    key = await door.key()
    both(served, replayed(captured("565_detokenize")))
    ids = b"[" + b"5," * 1_999_999 + b"5]"
    body = b'{"model":"free/tiny","tokens":%b}'
    assert (await door.post(body % ids, key, "/v1/detokenize")).json() == {"prompt": "atingicode"}
    assert [asked.body.count(ids) for asked in asked_of(served)] == [1]
    for odd, code in ((ids[:-1] + b",5]", "invalid_value"), (b"[%b]" % ids, "invalid_type")):
        error = error_of(await door.post(body % odd, key, "/v1/detokenize"))
        assert (error["code"], error["param"]) == (code, "tokens")


async def test_an_answer_that_breaks_off_is_asked_of_the_other_backend(served: Stage) -> None:
    door = served[0]

    async def half(asked: Asked) -> None:
        asked.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"count":')
        asked.transport.abort()

    both(served, half, replayed(captured("560_tokenize")))
    answer = await tokenize(door, await door.key(), prompt="import os")
    assert (answer.status_code, answer.content) == (200, captured("560_tokenize").body)


async def test_a_model_that_no_backend_has_is_unavailable(served: Stage) -> None:
    door = served[0]
    answer = await tokenize(door, await door.key(), model="gone/tiny", prompt="x")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "model_unavailable")


async def test_a_prompt_of_another_surface_whose_count_tells_nothing_is_not_counted(served: Stage) -> None:
    """An answer without a count; and token ids, which nobody is asked to count."""
    door = served[0]
    both(served, whole(b"{}"))
    body = orjson.dumps({"model": "free/tiny", "messages": MESSAGES})
    assert (await door.post(body, await door.key(), "/v1/messages/count_tokens")).status_code == 404
    caller = Caller("acc_1", KeyHolder("key_1"), ())
    ask = COMPLETIONS.read({"model": "free/tiny", "prompt": [1, 2]}, 40)
    assert (await door.gateway.inference.count(caller, ask)).tokens == 2


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
KIB = 1024


async def test_images_are_judged_as_those_of_a_chat_are(served: Stage, tmp_path: Path) -> None:
    door, first, _ = served
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": [IMAGE]}]}
    assert error_of(await tokenize(door, await door.key(), **asked))["code"] == "vision_disabled"
    sees = PRICED | {"input_modalities": ["text", "image"]}
    both(served, replayed(captured("561_tokenize_chat")))
    async with open_door(tmp_path, vllm_urls=[first.url], models=[sees], enable_vision=True) as seeing:
        assert (await tokenize(seeing, await seeing.key(), **asked)).status_code == 200
    assert [sent.json["messages"] for sent in first.counted] == [asked["messages"]]


async def test_an_answer_has_bounds_and_needs_room(
    served: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first, second = served
    bounds: dict[str, Any] = {"max_body_bytes": 1024 * KIB, "max_in_flight_bytes": 8 * 1024 * KIB}
    urls, most = [first.url, second.url], {"max_response_bytes": 700 * KIB}
    async with open_door(tmp_path, vllm_urls=urls, models=[FREE], upstream=most, **bounds) as door:
        key = await door.key()
        both(served, whole(b'{"prompt":"%b"}' % (b"x" * 800 * KIB)))
        error = error_of(await detokenize(door, key, [1], model="free/tiny"))
        assert (error["code"], error["param"]) == ("invalid_value", "tokens")
        both(served, whole(b'{"prompt":"%b"}' % (b"x" * 600 * KIB)))
        assert (await detokenize(door, key, [1], model="free/tiny")).status_code == 200
        room = door.gateway.bytes_in_flight
        monkeypatch.setattr(room.large, "_wait_s", 0.0)
        (own,) = (await door.get("/v1/keys", key)).json()["data"]
        with room.reservation(Owner(own["id"], None, False)) as other:
            await other.grow(900 * KIB)
            both(served, whole(b'{"prompt":"%b"}' % (b"x" * 600 * KIB)))
            answer = await detokenize(door, key, [1], model="free/tiny")
            assert (answer.status_code, error_of(answer)["code"]) == (503, "overloaded")
        assert len(asked_of(served)) == 1
        await eventually(lambda: not room.used_bytes)
