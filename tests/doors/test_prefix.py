"""A `public_url` with a path: the gateway is there below it, and at the root for a proxy that takes it off."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cases import each
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("prefix"), base_url="https://example.com/llm/gw") as door:
        yield door


@each("path", ["/health", "/v1/models", "/console/sign-in", "/"])
async def test_what_is_at_the_root_is_below_the_path_as_well(door: Door, path: str) -> None:
    assert (await door.http.get(path)).status_code == (await door.http.get(f"/llm/gw{path}")).status_code == 200


async def test_the_path_itself_is_the_root(door: Door) -> None:
    assert (await door.http.get("/llm/gw")).json()["name"] == "mcp-gateway"


async def test_what_only_begins_like_the_path_is_nothing(door: Door) -> None:
    for path in ("/llm/gwx/health", "/llm/health", "/llm/gw/llm/gw/health"):
        assert (await door.http.get(path)).status_code == 404


async def test_whoever_must_sign_in_is_sent_below_the_path(door: Door) -> None:
    answer = await door.http.get("/llm/gw/console/keys")
    assert answer.headers["location"] == "/llm/gw/console/sign-in?next=%2Fconsole%2Fkeys"
