"""GET /docs: that it has every operation, leads nowhere else, and shows no more of a key than its beginning."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from http_api.operations import Nothing
from mcp_gateway.core.errors import TABLE
from tests.serving import BASE_URL, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("reference")) as door:
        yield door


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(door: Door) -> str:
    response = await door.http.get("/docs")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    return response.text


async def test_it_has_every_operation_under_every_path_and_every_error(door: Door, page: str) -> None:
    for row in door.operations:
        if row.answer is not Nothing:
            assert page.count(f"<h3 id='{row.name}'>") == 1, row.name
            for prefix in row.prefixes:
                assert re.sub(":path", "", prefix + row.path) in page
    for code in TABLE:
        assert f"<code>{code}</code>" in page


async def test_every_link_leads_to_one_place_of_the_page_or_to_the_document_beside_it(page: str) -> None:
    ids = re.findall(r" id='([^']*)'", page)
    assert len(ids) == len(set(ids))
    links = set(re.findall(r"href='([^']*)'", page))
    assert {link for link in links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


async def test_it_loads_what_pages_of_the_console_load_and_nothing_of_others(door: Door, page: str) -> None:
    policy = (await door.http.get("/docs")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    head, main = page.split("<main ", 1)
    console = (await door.http.get("/console/sign-in")).text.split("<main ", 1)[0]
    loaded = r'(?:src|href)="([^"]+)"'
    assert re.findall(loaded, head) == re.findall(loaded, console)
    assert not re.search(r"<script|<img|<link|<iframe|<form|\bon\w+=|style=|src=|@import|url\(", main)


async def test_examples_have_the_beginning_of_the_reader_s_key_and_never_the_rest(door: Door, page: str) -> None:
    key = await door.key()
    own = (await door.get("/docs", key)).text
    (prefix,) = {row["prefix"] for row in (await door.get("/v1/keys", key)).json()["data"]}
    assert f"Authorization: Bearer {prefix}..." in own
    assert key not in own
    assert "Authorization: Bearer gw_live_...'" in page
    assert own.replace(f"{prefix}...", "gw_live_...") == page
    assert (await door.get("/docs", key)).headers["cache-control"] == "private"
    assert error_of(await door.get("/docs", "gw_live_wrong"))["code"] == "invalid_api_key"


async def test_an_example_is_a_command_for_the_address_that_clients_use(page: str) -> None:
    assert f"curl -X POST '{BASE_URL}/v1/chat/completions'" in page
    assert f"curl -X GET '{BASE_URL}/v1/keys/{{key_id}}'" in page


async def test_it_is_told_while_the_gateway_is_in_maintenance_and_where_there_are_no_guests(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("apart")
    url = "https://gateway.example.com/llm/gw"
    async with open_door(folder, maintenance=True, guests={"enabled": False}, public_url=url) as door:
        assert (await door.http.get("/docs")).status_code == 200
