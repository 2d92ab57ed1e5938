"""All chat exchanges captured from vLLM, played through the gateway: its answers come out, its requests go in."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.captured import Capture, captures
from tests.cases import each
from tests.replaying import DONE, ReplayingBackend, contents, replayed
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = {"id": "public/name", "backend_model": "tiny", "context_window": 2048}
CHATS = [capture for capture in captures() if capture.is_chat]
WHOLE = [capture for capture in CHATS if capture.status == 200 and not capture.is_stream]
STREAMS = [capture for capture in CHATS if capture.status == 200 and capture.is_stream]
REFUSALS = [capture for capture in CHATS if capture.status >= 400]
_NOT_OURS_TO_SEND = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"authorization"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend, str]]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("captures"),
            vllm_urls=[backend.url],
            models=[MODEL],
            limits={"tokens_per_minute": "none"},
        ) as door,
    ):
        yield door, backend, await door.key()
        await door.nothing_is_left()


@each("capture", WHOLE)
async def test_a_whole_answer_comes_out_byte_for_byte_but_for_the_model_s_name(
    served: tuple[Door, ReplayingBackend, str], capture: Capture
) -> None:
    door, backend, key = served
    backend.answer_with(replayed(capture))
    response = await door.chat(key, model="public/name")
    assert response.status_code == 200
    expected = re.sub(rb'("object":"chat.completion","created":\d+,"model":)"[^"]*"', rb'\1"public/name"', capture.body)
    assert response.content == expected


@each("capture", STREAMS)
async def test_a_stream_comes_out_unchanged_but_for_the_model_s_name_and_the_place_of_the_fingerprint(
    served: tuple[Door, ReplayingBackend, str], capture: Capture
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
    served: tuple[Door, ReplayingBackend, str], capture: Capture
) -> None:
    door, backend, key = served
    backend.answer_with(replayed(capture))
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = await door.chat(key, model="public/name", stream=True, stream_options=options)
    renamed = re.sub(rb'("created":\d+,"model":)"[^"]*"', rb'\1"public/name"', capture.body)
    assert response.content.count(b',"cost_usd":"0.00"') == 1
    assert response.content.replace(b',"cost_usd":"0.00"', b"").strip() == renamed.strip()


@each("capture", REFUSALS)
async def test_a_refusal_comes_out_in_the_one_shape_and_tells_nothing_of_the_backend(
    served: tuple[Door, ReplayingBackend, str], capture: Capture
) -> None:
    door, backend, key = served
    backend.answer_with(replayed(capture))
    response = await door.chat(key, model="public/name", stream=b'"stream":true' in capture.request_body)
    error = error_of(response)
    is_model_missing = capture.status == 404 and b"does not exist" in capture.body
    expected = {400: 400, 401: 502, 404: 503 if is_model_missing else 502, 503: 429}
    assert response.status_code == expected[capture.status]
    told = r"(?<![\w/])tiny|alias|vllm-1|127\.0\.0\.1|pydantic|validation error|parameter="
    assert not re.search(told, error["message"])
    assert "\n" not in error["message"]
    assert error["param"] is None or not error["param"].startswith("body")
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503))


REFUSED_THOUGH_VLLM_TAKES_IT = {
    "302_no_model": "missing_parameter",
    "303_model_null": "missing_parameter",
    "304_model_empty": "missing_parameter",
    "332_stream_str": "invalid_type",
    "361_modalities_audio": "unsupported_parameter",
    "365_web_search_options": "unsupported_parameter",
}
"""Where strictness is the point: vLLM guesses, or leaves out of the answer what was asked for."""


@each("capture", [capture for capture in CHATS if capture.is_request_whole])
async def test_a_captured_request_is_served_or_refused_in_the_one_shape(
    served: tuple[Door, ReplayingBackend, str], capture: Capture
) -> None:
    door, backend, key = served
    backend.answer_with()
    headers = [header for header in capture.request_headers if header[0] not in _NOT_OURS_TO_SEND]
    body = re.sub(rb'("model"\s*:\s*)"tiny(-alias)?"', rb'\1"public/name"', capture.request_body)
    own: Any = [(b"authorization", f"Bearer {key}".encode()), *headers]
    response = await door.http.post("/v1/chat/completions", content=body, headers=own)
    expected = REFUSED_THOUGH_VLLM_TAKES_IT.get(capture.case)
    if expected is not None or response.status_code != 200:
        error = error_of(response)
        assert 400 <= response.status_code < 500
        assert expected in (None, error["code"])
        assert capture.status >= 400 or expected
    else:
        assert len(backend.chats) == 1


def stripped(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in ("model", "usage", "system_fingerprint")}


def fingerprint_of(events: list[dict[str, Any]]) -> str | None:
    found = [event["system_fingerprint"] for event in events if event.get("system_fingerprint")]
    return found[-1] if found else None
