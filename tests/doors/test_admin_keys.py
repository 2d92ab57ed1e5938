"""Administrators' keys: what they open, what they do not, and how they end."""

import csv
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from http_api.operations import Access, Nothing
from mcp_gateway.core.identity.admin_keys import AdminKeys
from mcp_gateway.core.ids import new_id, now_ms
from tests.cases import each
from tests.databases import store_of
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECRETS: dict[str, Any] = {"operator_token": "operators-own-secret", "vllm_api_key": "backends-own-secret"}
PROVIDER = {
    "name": "work",
    "kind": "openai",
    "base_url": "http://127.0.0.1:9",
    "auth": "none",
    "headers": {"x-team-token": "teams-own-secret"},
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("admin"), providers=[PROVIDER], **SECRETS) as door:
        yield door
        await door.nothing_is_left()


async def test_only_administrators_do_what_the_operator_does(door: Door) -> None:
    admin, tenant, test = await door.admin_key(), await door.key(), await door.key(is_test=True)
    person, chief = await door.person(), await door.person(is_administrator=True)
    rows = [row for row in door.operations if row.access is Access.ADMINISTRATOR]
    assert rows
    for row in rows:
        path = "/v1" + row.path.replace("{", "").replace("}", "")
        for key, status, code in (
            (None, 401, "missing_credentials"),
            (tenant, 403, "insufficient_permissions"),
            (test, 403, "insufficient_permissions"),
            (person, 403, "insufficient_permissions"),
            (admin[:-1] + ("a" if admin[-1] != "a" else "b"), 401, "invalid_api_key"),
        ):
            refused = await door.http.request(row.method, path, headers=bearer(key), content=b"{}")
            assert (refused.status_code, error_of(refused)["code"]) == (status, code), row.name
        for key in (admin, chief):
            assert (await door.http.request(row.method, path, headers=bearer(key))).status_code not in (401, 403)


async def test_an_administrator_s_key_does_nothing_that_an_account_does(door: Door) -> None:
    admin = await door.admin_key()
    for row in door.operations:
        if row.access in (Access.OPEN, Access.SIGNED, Access.PUBLIC, Access.ADMINISTRATOR) or row.answer is Nothing:
            continue
        path = row.prefixes[0] + row.path.replace("{", "").replace("}", "")
        refused = await door.http.request(row.method, path, headers=bearer(admin), content=b"{}")
        assert (refused.status_code, refused.json()["error"].get("code", "insufficient_permissions")) == (
            403,
            "insufficient_permissions",
        ), row.name


@each("method", ["initialize", "tools/list", "tools/call"])
async def test_nor_over_mcp(door: Door, method: str) -> None:
    assert (await door.mcp(method, await door.admin_key())).status_code == 403


async def test_what_everybody_is_told_an_administrator_is_told_too(door: Door) -> None:
    admin = await door.admin_key()
    assert (await door.get("/v1/models", admin)).status_code == 200
    assert error_of(await door.get("/v1/admin/nothing", admin))["code"] == "unknown_url"
    assert error_of(await door.http.put("/v1/admin/config", headers=bearer(admin)))["code"] == "method_not_allowed"


async def test_a_revoked_and_an_expired_one_are_refused_by_the_next_request(door: Door) -> None:
    now = [now_ms()]
    keys = AdminKeys(store_of(door.gateway), new_id=new_id, now_ms=lambda: now[0])
    kept, raw = await keys.create("ends")
    assert (await door.get("/v1/admin/config", raw)).status_code == 200
    await keys.revoke(kept.id)
    assert error_of(await door.get("/v1/admin/config", raw))["code"] == "revoked_api_key"
    now[0] = 1_000_000
    _, old = await keys.create("old", expires_at_ms=1_000_001)
    assert error_of(await door.get("/v1/admin/config", old))["code"] == "expired_api_key"


async def test_it_may_come_in_any_header_for_keys(door: Door) -> None:
    for headers in (
        {"x-api-key": await door.admin_key()},
        {"authorization": "Basic x", "api-key": await door.admin_key()},
    ):
        assert (await door.http.get("/v1/admin/config", headers=headers)).status_code == 200


async def test_the_raw_key_is_kept_nowhere(door: Door) -> None:
    raw = await door.admin_key()
    (row,) = await door.rows("SELECT * FROM admin_keys ORDER BY created_at_ms DESC, id DESC LIMIT 1")
    assert not any(raw in str(value) or raw.encode() in str(value).encode() for value in row)


async def test_the_configuration_is_told_without_its_secrets(door: Door) -> None:
    admin = await door.admin_key()
    for path in ("config", "models", "prices", "providers"):
        told = await door.get(f"/v1/admin/{path}", admin)
        assert told.status_code == 200
        assert "own-secret" not in told.text
    settings = (await door.get("/v1/admin/config", admin)).json()["settings"]
    assert settings["operator_token"] == "**********"
    assert settings["limits"]["requests_per_minute"] == 60
    (provider,) = (await door.get("/v1/admin/providers", admin)).json()["data"]
    assert provider["headers"] == {"x-team-token": "**********"}


async def test_what_is_changed_beside_the_server_is_told_by_whom(door: Door) -> None:
    admin, desk = await door.admin_key(), await door.desk()
    account = await desk.accounts.create("audited")
    await desk.ledger.credit(account.id, 5_000_000_000, "wire-9")
    assert await desk.server.adjust(account.id, -1_000_000_000, "r-9")  # by the server, for who left the order
    told = (await door.get(f"/v1/admin/audit?subject={account.id}", admin)).json()
    assert [row["action"] for row in told["data"]] == ["money.adjustment", "money.credit", "account.create"]
    assert {row["by"]["id"] for row in told["data"]} == {"unknown"}
    assert told["data"][0]["before"] == {"paid_usd": "5.00"}
    page = (await door.get(f"/v1/admin/audit?subject={account.id}&limit=1", admin)).json()
    assert page["data"] == told["data"][:1]
    rest = await door.get(f"/v1/admin/audit?subject={account.id}&cursor={page['next_cursor']}", admin)
    assert rest.json()["data"] == told["data"][1:]
    assert error_of(await door.get("/v1/admin/audit?limit=0", admin))["param"] == "limit"
    lines = await door.get(f"/v1/admin/audit?subject={account.id}&format=jsonl", admin)
    assert [json.loads(line) for line in lines.text.splitlines()] == told["data"]
    table = await door.http.get(f"/v1/admin/audit?subject={account.id}", headers=bearer(admin) | {"accept": "text/csv"})
    assert table.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    assert [row["action"] for row in csv.DictReader(table.text.splitlines())] == [row["action"] for row in told["data"]]
