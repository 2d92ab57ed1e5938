"""All exchanges captured from vLLM, played through the gateway: its answers come out, its requests go in."""

import re
from collections.abc import AsyncIterator
from itertools import cycle
from typing import Any

import orjson
import pytest
import pytest_asyncio

from http_api.operations import PREFIXES
from mcp_gateway.core.money import format_usd
from tests.captured import Capture, captures
from tests.cases import each
from tests.replaying import COUNTING, DONE, ReplayingBackend, contents, replayed, whole
from tests.serving import FREE, Door, error_of, open_door
from tests.stage import CREDIT_NANO, PRICED, cost_nano, staged
from tests.surfaces import MODEL as PRICED_MODEL
from tests.surfaces import Spoken, answers, every_surface, every_way

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

MODEL = {"id": "public/name", "backend_model": "tiny", "context_window": 2048, "free": True}
CHATS = [capture for capture in captures() if capture.is_chat]
WHOLE = [capture for capture in CHATS if capture.status == 200 and not capture.is_stream]
STREAMS = [capture for capture in CHATS if capture.status == 200 and capture.is_stream]
_NOT_OURS_TO_SEND = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"authorization"}
Served = tuple[Door, ReplayingBackend, str]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("captures"),
            vllm_urls=[backend.url],
            models=[MODEL, FREE, PRICED],
            limits={"tokens_per_minute": "none"},
        ) as door,
    ):
        yield door, backend, await door.key()
        await door.nothing_is_left()


@each("capture", WHOLE)
async def test_a_whole_answer_comes_out_byte_for_byte_but_for_the_model_s_name(
    served: Served, capture: Capture
) -> None:
    door, backend, key = served
    backend.answer_with(replayed(capture))
    response = await door.chat(key, model="public/name")
    assert response.status_code == 200
    expected = re.sub(rb'("object":"chat.completion","created":\d+,"model":)"[^"]*"', rb'\1"public/name"', capture.body)
    assert response.content == expected


@each("capture", STREAMS)
async def test_a_stream_comes_out_unchanged_but_for_the_model_s_name_and_the_place_of_the_fingerprint(
    served: Served, capture: Capture
) -> None:
    door, backend, key = served
    backend.answer_with(replayed(capture))
    response = await door.chat(key, model="public/name", stream=True)
    said = contents([capture.body])
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.content.endswith(DONE)
    got = contents([response.content])
    assert [event["model"] for event in got] == ["public/name"] * len(got)
    assert [stripped(event) for event in got] == [stripped(event) for event in said if event["choices"]]
    assert [event.get("system_fingerprint") for event in got] == [None] * (len(got) - 1) + [fingerprint_of(said)]
    assert not any("usage" in event for event in got)


@each("capture", [capture for capture in STREAMS if b'"choices":[]' in capture.body])
async def test_a_stream_with_usage_asked_for_comes_out_unchanged_but_for_the_model_s_name_and_its_cost(
    served: Served, capture: Capture
) -> None:
    door, backend, key = served
    backend.answer_with(replayed(capture))
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = await door.chat(key, model="public/name", stream=True, stream_options=options)
    renamed = re.sub(rb'("created":\d+,"model":)"[^"]*"', rb'\1"public/name"', capture.body)
    assert response.content.count(b',"cost_usd":"0.00"') == 1
    assert response.content.replace(b',"cost_usd":"0.00"', b"").strip() == renamed.strip()


@every_surface
async def test_what_was_answered_comes_out_and_its_usage_is_told_recorded_and_billed(
    served: Served, spoken: Spoken
) -> None:
    """The prices are those of `tests.stage`; what else is changed, the contract says."""
    door, backend, _ = served
    for capture in answered(spoken):
        payer = await staged(door, backend)
        backend.answer_with(replayed(capture))
        response = await payer.ask(spoken, is_stream=capture.is_stream, **{spoken.limit_field: 2048})
        usage, cost_usd = spoken.told(response, is_stream=capture.is_stream)
        (record,) = await payer.records()
        assert usage is not None
        assert usage[:2] == (record["prompt_tokens"], record["completion_tokens"]), capture.case
        assert record["cost_nano"] == cost_nano(*usage[:2])
        assert cost_usd == format_usd(record["cost_nano"])
        if capture.is_stream:
            assert spoken.pieces(response.content) == spoken.pieces(capture.body), capture.case
            assert response.content.endswith(spoken.last_bytes)
            assert not any(map(spoken.failure_in, spoken.events(response.content)))
        elif spoken.path != "/v1/mcp":
            assert spoken.answer(response).get("model", PRICED_MODEL) == PRICED_MODEL
            told = spoken.usage_in(orjson.loads(capture.body))
            assert told is not None
            assert usage[:2] == told[:2], capture.case
        await payer.is_left_with(CREDIT_NANO - record["cost_nano"])


def answered(spoken: Spoken) -> list[Capture]:
    return [one for one in spoken.exchanges() if one.status == 200 and (spoken.has_streams or not one.is_stream)]


@every_way
async def test_a_refusal_comes_out_in_the_surfaces_words_and_tells_nothing_of_the_backend(
    served: Served, spoken: Spoken, is_stream: bool
) -> None:
    door, backend, _ = served
    payer = await staged(door, backend)
    refusals = [capture for capture in spoken.exchanges() if capture.status >= 400]
    for capture in refusals:
        backend.answer_with(whole(capture.body.replace(b"tiny-embed", b"tiny"), capture.status))
        response = await payer.ask(spoken, is_stream=is_stream)
        refusal = spoken.refusal_of(response)
        record = (await payer.records())[-1]
        is_model_missing = capture.status == 404 and b"NotFoundError" in capture.body
        expected = {400: 400, 401: 502, 404: 503 if is_model_missing else 502, 503: 429}
        assert record["http_status"] == expected[capture.status], capture.case
        assert refusal == spoken.word_for(record["error_code"]), capture.case
        told = r"(?<![\w/])tiny|alias|vllm-1|127\.0\.0\.1|pydantic|validation error|parameter="
        assert not re.search(told, response.text), capture.case
        if spoken.path != "/v1/mcp":
            assert response.status_code == record["http_status"]
            assert ("retry-after" in response.headers) == (response.status_code in (429, 503))
    await payer.is_left_with(CREDIT_NANO)


REFUSED_THOUGH_VLLM_TAKES_IT = {
    "302_no_model": "missing_parameter",
    "303_model_null": "missing_parameter",
    "304_model_empty": "missing_parameter",
    "332_stream_str": "invalid_type",
    "361_modalities_audio": "unsupported_parameter",
    "365_web_search_options": "unsupported_parameter",
    "505_completion_echo_logprobs": "unsupported_parameter",
}
"""Where strictness is the point: vLLM guesses, or leaves out of the answer what was asked for."""


@every_surface
async def test_a_captured_request_is_served_or_refused_in_the_surfaces_words(served: Served, spoken: Spoken) -> None:
    """Under each prefix in turn."""
    door, backend, key = served
    asked = [one for one in spoken.exchanges() if one.is_request_whole and spoken.path != "/v1/mcp"]
    for capture, prefix in zip(asked, cycle(PREFIXES)):
        backend.answer_with(answers(spoken))
        headers = [header for header in capture.request_headers if header[0] not in _NOT_OURS_TO_SEND]
        body = re.sub(rb'("model"\s*:\s*)"tiny(-\w+)?"', rb'\1"free/tiny"', capture.request_body)
        own: Any = [(b"authorization", f"Bearer {key}".encode()), *headers]
        response = await door.http.post(spoken.path.replace("/v1", prefix, 1), content=body, headers=own)
        refusal, expected = spoken.refusal_of(response), REFUSED_THOUGH_VLLM_TAKES_IT.get(capture.case)
        if refusal is None:
            assert expected is None, capture.case
            assert len(backend.chats) == 1, capture.case
        else:
            assert 400 <= response.status_code < 500, capture.case
            assert expected in (None, refusal), (capture.case, response.text)
            assert capture.status >= 400 or expected, (capture.case, response.text)


QUESTIONS = [capture for capture in captures() if capture.method == "POST" and capture.path in COUNTING]


@each("capture", QUESTIONS)
async def test_what_is_only_counted_comes_out_as_it_was_told(served: Served, capture: Capture) -> None:
    door, backend, key = served
    backend.counts = replayed(capture)
    path = "/v1" + capture.path.removeprefix("/v1")
    asked = orjson.loads(capture.request_body) | {"model": "free/tiny"}
    response = await door.post(orjson.dumps(asked), key, path)
    backend.counts = None
    told = orjson.loads(capture.body)
    if capture.status == 200:
        assert response.status_code == 200, response.text
        assert response.json() == (told if "input_tokens" not in told else {"input_tokens": told["input_tokens"]})
    else:
        assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")


def stripped(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("model", "usage", "system_fingerprint")}


def fingerprint_of(events: list[dict[str, Any]]) -> str | None:
    found = [event["system_fingerprint"] for event in events if event.get("system_fingerprint")]
    return found[-1] if found else None
