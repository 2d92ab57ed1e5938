"""Percent-encoding in paths: a model's id may be written with it, and no other route or open path is reached by it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cases import each
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("paths"), guests={"enabled": False}, public_models=False) as door:
        yield door


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def key(door: Door) -> str:
    return await door.key()


async def status_of(door: Door, path: str, key: str | None = None) -> int:
    """Of the path as it stands here: an HTTP client of today would write it anew."""
    credential = f"authorization: Bearer {key}\r\n" if key else ""
    head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{credential}connection: close\r\n\r\n"
    return int((await door.raw(head.encode()))[9:12])


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1/inference"])
@pytest.mark.parametrize("model", ["demo/echo", "demo%2Fecho", "demo%2fecho", "d%65mo%2Fecho"])
async def test_the_id_of_a_model_may_have_its_slash_encoded(door: Door, key: str, prefix: str, model: str) -> None:
    assert await status_of(door, f"{prefix}/models/{model}", key) == 200
    assert await status_of(door, f"{prefix}/models/{model}/health") == 200


async def test_sdks_find_a_model_whose_id_has_a_slash(door: Door, key: str) -> None:
    async with door.openai(key) as client:
        assert (await client.models.retrieve("demo/echo")).id == "demo/echo"


@each(
    "path",
    [
        "/v1%2fmodels", "/v1%2Fmodels/demo/echo", "/v1/models%2Fdemo/echo", "/v1/models/demo%252Fecho",
        "/v1/keys%2F", "/%2Fv1/models", "/v1/%2e%2e/v1/models", "/health%2F", "/v1/mcp%2Fsse",
    ],
)  # fmt: skip
async def test_an_encoded_slash_leads_to_no_other_route(door: Door, key: str, path: str) -> None:
    assert await status_of(door, path, key) == 404


@each(
    "path",
    [
        "/v1/models/demo/echo%2Fhealth", "/v1/models/demo%2Fecho%2Fhealth", "/v1%2Fmodels/demo/echo/health",
        "/v1/models%2Fa/health", "/v1%2F.well-known/x", "/v1/keys%2F.well-known/x", "/v1/models",
    ],
)  # fmt: skip
async def test_an_encoded_slash_opens_nothing_that_needs_a_key(door: Door, path: str) -> None:
    assert await status_of(door, path) == 401


@each("escape", ["%0a", "%0d%0a", "%00", "%7f"])
@each("path", ["/v1/models", "/v1/models/demo/echo/health", "/health", "/stats", "/v1/keys"])
async def test_a_control_character_behind_a_path_is_refused(door: Door, key: str, path: str, escape: str) -> None:
    assert await status_of(door, path + escape, key) == 400


@each(
    ("path", "meant"),
    [
        ("/v1/chat/completions/", "/v1/chat/completions"), ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"), ("//v1//models", "/v1/models"), ("/V1/Models", "/v1/models"),
        ("/openai/v1/usage", "/v1/usage"), ("/v1/models/", "/v1/models"), ("/api/v1/inference/models//", "/models"),
        ("/health/", "/health"),
    ],
)  # fmt: skip
async def test_a_path_that_is_nearly_one_is_told_the_one_that_is_meant(
    door: Door, key: str, path: str, meant: str
) -> None:
    head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
    answer = (await door.raw(head.encode())).decode()
    assert answer.startswith("HTTP/1.1 404")
    assert '"unknown_url"' in answer
    assert f"{meant}?" in answer


@each("path", ["/v1/nothing", "/", "/v1", "/v1/chat", "/v1" + "/" * 50, "/" + "x" * 500])
async def test_of_any_other_path_nothing_is_guessed(door: Door, key: str, path: str) -> None:
    answer = await door.get(path, key)
    assert "Did you mean" not in answer.text
