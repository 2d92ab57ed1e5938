"""Who is told which models there are: everybody, with or without guests, unless the operator keeps them to keys."""

from pathlib import Path
from typing import Any

import pytest

from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.gateways
PATHS = ("/v1/models", "/v1/models/demo/echo", "/api/v1/inference/models", "/api/v1/inference/models/demo%2Fecho")


@pytest.mark.parametrize("guests", [True, False])
async def test_models_need_no_key(tmp_path: Path, guests: bool) -> None:
    async with open_door(tmp_path, guests={"enabled": guests}) as door:
        for path in PATHS:
            assert (await door.get(path)).status_code == 200
            assert (await door.http.head(path)).status_code == 200
        assert (await door.get("/v1/models/nope")).status_code == 404
        assert (await door.get("/v1/models", await door.key(scopes=["billing"]))).status_code == 200
        await door.nothing_is_left()


@pytest.mark.parametrize("guests", [True, False])
async def test_a_wrong_key_is_told_so_where_none_is_needed(tmp_path: Path, guests: bool) -> None:
    async with open_door(tmp_path, guests={"enabled": guests}) as door:
        for headers in (
            bearer("nope"),
            bearer("gw_live_" + "A" * 43),
            {"api-key": ""},
            {"authorization": "Basic eA=="},
        ):
            for path in PATHS:
                response = await door.http.get(path, headers=headers)
                assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")


async def test_who_asks_without_a_key_is_counted_also_where_guests_are_switched_off(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"guests": {"enabled": False}, "limits": {"listing_requests_per_minute": 2}}
    async with open_door(tmp_path, **settings) as door:
        statuses = [(await door.http.get("/v1/models")).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert (await door.chat(model="demo/echo")).status_code == 401
        assert (await door.get("/v1/models", await door.key())).status_code == 200


@pytest.mark.parametrize("guests", [True, False])
async def test_models_are_kept_to_holders_of_keys_where_they_are_not_public(tmp_path: Path, guests: bool) -> None:
    async with open_door(tmp_path, public_models=False, guests={"enabled": guests}) as door:
        for path in (*PATHS, "/v1/models/nope"):
            response = await door.get(path)
            assert (response.status_code, error_of(response)["code"]) == (401, "missing_credentials")
        key = await door.key(scopes=["inference"])
        assert [(await door.get(path, key)).status_code for path in PATHS] == [200] * 4
        refused = await door.get("/v1/models", await door.key(scopes=["billing"]))
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_scope")


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("tools/call", {"name": "list_models", "arguments": {}}),
    ("resources/list", {}),
    ("resources/read", {"uri": "models://catalog"}),
    ("resources/read", {"uri": "models://demo/echo"}),
    ("completion/complete", {"ref": {"type": "ref/resource", "uri": "models://{id}"},
                             "argument": {"name": "id", "value": "d"}}),
]  # fmt: skip


async def test_over_mcp_too(tmp_path: Path) -> None:
    async with open_door(tmp_path, public_models=False) as door:
        key = await door.key()
        for method, params in ASKED:
            refused, served = await asked(door, None, method, params), await asked(door, key, method, params)
            assert "missing_credentials" in refused
            assert "demo/echo" not in refused
            assert "demo/echo" in served


async def asked(door: Door, key: str | None, method: str, params: dict[str, Any]) -> str:
    return (await door.mcp(method, key, **params)).text
