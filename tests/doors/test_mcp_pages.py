"""Lists of many models over MCP: in pages that clients and models can take, in which each model comes once."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from mcp.types import INVALID_PARAMS

from mcp_gateway.tools.pages import first_page
from tests.cases import each
from tests.doors.mcp_host import Host, call, open_host

pytestmark = pytest.mark.asyncio(loop_scope="module")

IDS = [f"org/tuned-für-customer-{number:04}" for number in range(1205)]
MIB = 1024 * 1024


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    models = tuple({"id": id, "features": ["tools"] if id.endswith("7") else []} for id in IDS)
    async with open_host(tmp_path_factory.mktemp("pages"), models=models) as host:
        yield host


async def listed(host: Host, **arguments: Any) -> dict[str, Any]:
    answer = await host.post(call("list_models", arguments))
    assert len(answer.content) < MIB // 4
    result: dict[str, Any] = answer.json()["result"]
    return result


async def asked(host: Host, method: str, **params: Any) -> dict[str, Any]:
    answer = await host.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert len(answer.content) < MIB
    message: dict[str, Any] = answer.json()
    return message


@each(
    ("conditions", "expected"),
    [({}, [*IDS, "auto"]), ({"capability": "tools"}, [*(id for id in IDS if id.endswith("7")), "auto"])],
)
async def test_list_models_tells_each_model_once(host: Host, conditions: dict[str, Any], expected: list[str]) -> None:
    told: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        result = await listed(host, **conditions, **cursor)
        structured = result["structuredContent"]
        assert 0 < len(structured["models"]) <= 100
        told += [row["id"] for row in structured["models"]]
        if "next_cursor" not in structured:
            assert "cursor" not in result["content"][0]["text"]
            break
        cursor = {"cursor": structured["next_cursor"]}
        assert orjson.dumps(cursor["cursor"]).decode() in result["content"][0]["text"].splitlines()[-1]
    assert told == expected


async def test_resources_are_listed_each_once(host: Host) -> None:
    first = (await asked(host, "resources/list"))["result"]
    second = (await asked(host, "resources/list", cursor=first["nextCursor"]))["result"]
    assert "nextCursor" not in second
    names = [resource["name"] for resource in first["resources"] + second["resources"]]
    assert names == ["catalog", *IDS]
    assert (await asked(host, "resources/read", uri=second["resources"][-1]["uri"]))["result"]


async def test_the_catalog_tells_from_where_list_models_goes_on(host: Host) -> None:
    content = (await asked(host, "resources/read", uri="models://catalog"))["result"]["contents"][0]["text"]
    catalog = orjson.loads(content)
    ids = [row["id"] for row in catalog["models"]]
    assert ids == IDS[: len(ids)] != IDS
    further = (await listed(host, cursor=catalog["next_cursor"]))["structuredContent"]["models"]
    assert further[0]["id"] == IDS[len(ids)]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_batch_of_long_answers_ends_with_errors(host: Host, accept: str) -> None:
    read = {"jsonrpc": "2.0", "method": "resources/read", "params": {"uri": "models://catalog"}}
    answer = await host.post(
        [read | {"id": number} for number in range(8)], {"Accept": accept, "MCP-Protocol-Version": "2025-03-26"}
    )
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    answers = [orjson.loads(line) for line in lines] or answer.json()
    served = sum("result" in one for one in answers)
    assert 1 < served < 8
    assert ["result" in one for one in answers] == [True] * served + [False] * (8 - served)
    assert "by itself" in answers[-1]["error"]["message"]
    assert len(answer.content) < 2 * MIB


async def test_a_page_that_there_is_not_is_refused(host: Host) -> None:
    for cursor in ("nope", "100", IDS[0].upper(), "x" * 20_000):
        failure = await listed(host, cursor=cursor)
        assert (failure["isError"], failure["structuredContent"]["code"]) == (True, "invalid_value")
        error = (await asked(host, "resources/list", cursor=cursor))["error"]
        assert (error["code"], "cursor" in error["message"]) == (INVALID_PARAMS, True)
    assert "next_cursor" not in (await listed(host, cursor=IDS[-100]))["structuredContent"]
    assert (await listed(host, cursor=""))["structuredContent"]["models"][0]["id"] == IDS[0]


async def test_long_descriptions_make_short_pages(tmp_path_factory: pytest.TempPathFactory) -> None:
    models = tuple({"id": f"m/{number}", "description": "ü\\" * 10_000} for number in range(60))
    async with open_host(tmp_path_factory.mktemp("long"), models=models) as host:
        page = (await listed(host))["structuredContent"]
        assert (len(page["models"]), page["next_cursor"]) == (3, "m/2")
        assert (await asked(host, "resources/list"))["result"]["nextCursor"]
        assert (
            "next_cursor"
            in (await asked(host, "resources/read", uri="models://catalog"))["result"]["contents"][0]["text"]
        )


async def test_a_page_has_one_entry_at_least() -> None:
    assert first_page([5, 6], lambda size: size, max_entries=9, max_bytes=4) == ([5], True)
    assert first_page([5], lambda size: size, max_entries=9, max_bytes=4) == ([5], False)
    assert first_page([1, 2, 3], lambda size: size, max_entries=2, max_bytes=9) == ([1, 2], True)
    assert first_page([1, 2, 3], lambda size: size, max_entries=3, max_bytes=6) == ([1, 2, 3], False)
    assert first_page([], lambda size: size, max_entries=3, max_bytes=6) == ([], False)
