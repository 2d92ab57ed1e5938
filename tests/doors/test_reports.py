"""Reports that take long hold up nobody but their own account, and end when their client leaves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.databases import store_of
from tests.patience import eventually
from tests.serving import Door, error_of, open_door

LONG = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"


@pytest_asyncio.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """One whose reports of an account never end, once a client has begun one."""
    async with open_door(tmp_path) as door:
        yield door
        await door.nothing_is_left()


async def begun(door: Door, path: str, key: str) -> asyncio.StreamWriter:
    """A client that has asked for a report, which is being made."""
    reports = store_of(door.gateway)._readers._reports
    before = len(reports._asked)
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    await eventually(lambda: len(reports._asked) > before)
    return writer


def never_ending(door: Door) -> None:
    reports = store_of(door.gateway)._readers._reports
    read = reports.read
    reports.read = lambda _, report: read(lambda rows, _: rows.all(LONG), report)  # type: ignore[method-assign, assignment]


async def test_reports_of_clients_that_left_end_and_hold_up_no_revocation_and_no_balance(door: Door) -> None:
    keys = [await door.key() for _ in range(4)]
    other_account = await door.account("3")
    other = await door.key(other_account)
    revoked = await door.key()
    assert (await door.get("/v1/limits", revoked)).status_code == 200
    never_ending(door)
    paths = ("/v1/usage", "/v1/requests", "/v1/billing/transactions", "/v1/keys")
    clients = [await begun(door, path, key) for path, key in zip(paths, keys, strict=True)]
    assert (await door.get("/v1/credits", other)).json()["balance_usd"] == "3.00"
    key_id = (await door.gateway.known_keys.look_up(revoked)).id
    await (await door.desk()).keys.revoke(key_id)
    await door.gateway.known_keys.catch_up()
    refused = await door.get("/v1/limits", revoked)
    assert (refused.status_code, error_of(refused)["code"]) == (401, "revoked_api_key")
    assert (await door.get("/v1/limits", await door.key())).status_code == 200
    for client in clients:
        client.close()
    await eventually(lambda: not store_of(door.gateway)._readers._reports._asked)


async def test_a_report_beyond_its_time_is_503_and_names_what_to_do(tmp_path: Path) -> None:
    async with open_door(tmp_path, limits={"report_timeout_s": 0.01}) as door:
        key = await door.key()
        never_ending(door)
        response = await door.get("/v1/usage", key)
        assert (response.status_code, error_of(response)["code"]) == (503, "overloaded")
        assert "retry-after" in response.headers
