"""Endpoints of OpenAI's and Anthropic's APIs that are not served, and refusals in the shape of either."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import pytest_asyncio

from http_api.unserved import UNSERVED
from mcp_gateway.core.service_notice import SwitchMaintenance
from tests.cases import each
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
VERSION = {"anthropic-version": "2023-06-01"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("unserved")) as door:
        yield door
        await door.nothing_is_left()


def anthropic_error_of(response: httpx2.Response) -> dict[str, Any]:
    body = response.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    assert body["error"].keys() == {"type", "message"}
    error: dict[str, Any] = body["error"]
    return error


@each("path", [
    "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/images/generations", "/v1/files", "/v1/files/file-1/content",
    "/v1/batches", "/v1/batches/batch_1/cancel", "/v1/fine_tuning/jobs", "/v1/assistants", "/v1/threads/thread_1/runs",
    "/v1/moderations", "/v1/realtime", "/v1/realtime/sessions", "/v1/uploads", "/v1/vector_stores/vs_1/files",
    "/v1/chat/completions/chatcmpl-1", "/v1/chat/completions/chatcmpl-1/messages", "/v1/conversations", "/v1/files/",
    "/api/v1/inference/moderations", "/api/v1/inference/audio/speech",
])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_endpoint_of_openai_s_that_is_not_served_is_refused_as_such(
    door: Door, method: str, path: str
) -> None:
    response = await door.http.request(method, path, headers=bearer(None))
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (404, "unsupported_endpoint", "not_found")
    assert "not served here" in error["message"]


@each("path", [
    "/v1/complete", "/v1/messages/batches", "/v1/messages/batches/b_1/results", "/v1/organizations/me",
    "/api/v1/inference/messages/batches",
])  # fmt: skip
async def test_one_of_anthropic_s_is_refused_in_its_shape_whoever_asks(door: Door, path: str) -> None:
    response = await door.post(b"{}", path=path)
    assert response.status_code == 404
    error = anthropic_error_of(response)
    assert error["type"] == "not_found_error"
    assert "not served here" in error["message"]


@each("path", ["/v1/files", "/v1/skills", "/v1/nothing", "/v1/messages/nothing/at/all"])
async def test_where_both_have_a_path_or_neither_the_client_tells_by_its_version(door: Door, path: str) -> None:
    assert error_of(await door.get(path))["type"] == "not_found"
    response = await door.http.get(path, headers=bearer(None) | VERSION)
    assert (response.status_code, anthropic_error_of(response)["type"]) == (404, "not_found_error")


async def test_a_wrong_key_is_refused_in_the_same_shape(door: Door) -> None:
    response = await door.http.post("/v1/messages/batches", headers={"x-api-key": "sk-ant-nope"})
    assert (response.status_code, anthropic_error_of(response)["type"]) == (401, "authentication_error")
    response = await door.http.post("/v1/audio/speech", headers={"x-api-key": "sk-nope"})
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")


async def test_so_is_whatever_comes_while_in_maintenance(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await (await door.desk()).server.decide(SwitchMaintenance(is_on=True))
        response = await door.http.post("/v1/complete", headers=VERSION)
        assert (response.status_code, anthropic_error_of(response)["type"]) == (503, "overloaded_error")
        assert response.headers["retry-after"]


@each(("path", "code"), [
    ("/v1/realtime?model=x", "unsupported_endpoint"), ("/v1/audio", "unsupported_endpoint"),
    ("/v1/chat/completions", "method_not_allowed"),
])  # fmt: skip
async def test_a_websocket_is_refused_in_words(door: Door, path: str, code: str) -> None:
    nonce = base64.b64encode(b"0123456789abcdef").decode()
    head = (
        f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, close\r\nupgrade: websocket\r\n"
        f"sec-websocket-version: 13\r\nsec-websocket-key: {nonce}\r\n\r\n"
    )
    answer = (await door.raw(head.encode())).decode()
    assert code in answer
    assert "There are no WebSockets." in answer


async def test_a_path_that_only_begins_like_one_is_unknown(door: Door) -> None:
    for path in ("/v1/filesystem", "/v1/audiox/speech", "/files", "/v2/audio/speech", "/v1/v1/audio/speech"):
        assert error_of(await door.get(path))["code"] == "unknown_url"


async def test_the_sdk_raises_not_found(door: Door) -> None:
    async with door.openai(await door.key()) as client:
        with pytest.raises(openai.NotFoundError) as raised:
            await client.moderations.create(input="x")
        assert raised.value.code == "unsupported_endpoint"
        with pytest.raises(openai.NotFoundError):
            await client.files.list()


async def test_nothing_that_is_served_is_refused(door: Door) -> None:
    served = {row.path for row in door.operations if row.is_served}
    for one in UNSERVED:
        assert not [path for path in served if f"{path}/".startswith(f"{one.path}/")]
