"""The console's list of models: what the API lists, filtered and in order, with prices that are never made up."""

import csv
import io
import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.ids import now_ms
from tests.recorded import recorded
from tests.serving import FREE, PRICED, Door, bearer, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEAR: dict[str, Any] = {
    "id": "maker//dear:beta",
    "name": "Dear <b>one</b>",
    "backend_model": "dear",
    "context_window": 200_000,
    "features": ["tools", "reasoning"],
    "quantization": "fp8",
    "pricing": {
        "prompt": "0.000003", "completion": "0.000015", "cached_prompt": "0.0000003", "request": "0.01",
        "tiers": [{"above_prompt_tokens": 100_000, "prompt": "0.000006", "completion": "0.00003"}],
    },
}  # fmt: skip
MODELS = [FREE | {"backend_model": "demo/echo"}, PRICED, DEAR]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("models"), models=MODELS) as door:
        yield door
        await door.nothing_is_left()


def shown(page: str) -> list[str]:
    """The ids of the models of a page, in its order."""
    rows = re.findall(r'<th scope="row">([^<]*)(?:<code>([^<]*)</code>)?', page)
    return [unescape(model_id or name).strip() for name, model_id in rows]


def row_of(page: str, name: str) -> str:
    """What stands in a model's row, without marks, and with the exact prices."""
    (row,) = (row for row in page.split("<tr>")[2:] if name in row.partition("</th>")[0])
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", row)).split())


async def test_it_has_the_models_of_the_api(door: Door) -> None:
    token = await door.person()
    listed = (await door.get("/v1/models", token)).json()
    assert shown((await door.get("/console/models", token)).text) == [model["id"] for model in listed["data"]]
    exported = await door.get("/console/models.json", token)
    assert exported.json() == listed
    assert exported.headers["content-disposition"] == 'attachment; filename="models.json"'


async def test_a_price_is_told_for_a_million_tokens_exactly_and_none_is_called_none(door: Door) -> None:
    page = (await door.get("/console/models")).text
    assert "$0.30 $0.70 as a prompt as a prompt" in row_of(page, "priced/tiny")
    dear = row_of(page, "maker//dear")
    assert "$3.00 $6.00 above 100k + $0.0100 a request $15.00 $30.00 above 100k $0.30 as a prompt" in dear
    free = row_of(page, "free/tiny")
    assert "no price: free" in free
    assert "$" not in free


async def test_it_tells_what_a_model_can_do_and_how_it_is(door: Door) -> None:
    page = (await door.get("/console/models")).text
    dear = row_of(page, "maker//dear")
    for told in ("200k context", "text → text", "fp8", "tools reasoning", "unavailable"):
        assert told in dear
    assert "ready" in row_of(page, "free/tiny")
    assert "<b>one</b>" not in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("text=maker//dear", ["maker//dear:beta"]),
        ("text=DEAR%20maker", ["maker//dear:beta"]),
        ("text=tiny", ["free/tiny", "priced/tiny"]),
        ("text=no-such", []),
        ("ability=reasoning", ["maker//dear:beta"]),
        ("text=&ability=&sort=&unknown=1", ["free/tiny", "priced/tiny", "maker//dear:beta"]),
        ("sort=completion&text=/", ["free/tiny", "priced/tiny", "maker//dear:beta"]),
        ("sort=context&text=/", ["maker//dear:beta", "free/tiny", "priced/tiny"]),
        ("sort=name&text=/", ["maker//dear:beta", "free/tiny", "priced/tiny"]),
        (f"text=/&after={quote('maker//dear:beta', safe='')}&sort=name", ["free/tiny", "priced/tiny"]),
        ("text=/&after=gone", ["free/tiny", "priced/tiny", "maker//dear:beta"]),
    ],
)
async def test_a_filter_and_an_order_are_in_the_address(door: Door, query: str, found: list[str]) -> None:
    page = (await door.get(f"/console/models?{query}")).text
    assert [model for model in shown(page) if model != "auto"] == found
    rows = csv.DictReader(io.StringIO((await door.get(f"/console/models.csv?{query}")).text))
    if "after" not in query:
        assert [row["id"] for row in rows if row["id"] != "auto"] == found


async def test_a_table_has_the_prices_of_the_api(door: Door) -> None:
    answer = await door.get("/console/models.csv?text=dear")
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["prompt_usd"], row["input_cache_read_usd"], row["input_cache_write_usd"]) == (
        "0.000003",
        "0.0000003",
        "",
    )
    assert answer.headers["content-type"].startswith("text/csv")
    free, *_ = csv.DictReader(io.StringIO((await door.get("/console/models.csv?text=free/tiny")).text))
    assert (row["free"], free["free"], free["prompt_usd"], free["completion_usd"]) == ("false", "true", "", "")


async def test_a_script_is_given_its_part(door: Door) -> None:
    page = (await door.get("/console/models", x_part="1")).text
    assert page.strip().startswith('<div id="model-table">')


async def test_an_order_that_there_is_not_is_refused_by_a_page(door: Door) -> None:
    answer = await door.get("/console/models?sort=beauty")
    assert answer.status_code == 400
    assert "<h1>Bad Request</h1>" in answer.text


async def test_a_visitor_may_sign_in_and_who_is_signed_in_may_try_a_model(door: Door) -> None:
    visitor = (await door.get("/console/models")).text
    assert 'href="/console/sign-in?next=/console/models"' in visitor
    assert "/console/playground" not in visitor
    answer = await door.get("/console/models", cookie="__Host-gw_console=over", sec_fetch_site="same-origin")
    assert answer.status_code == 200
    person = (await door.get("/console/models", await door.person())).text
    assert f'/console/playground?model={quote("maker//dear:beta")}"' in person


@pytest.mark.gateways
async def test_many_models_are_shown_by_the_page(tmp_path: Path) -> None:
    models = [FREE | {"id": f"many/model-{number:03}"} for number in range(101)]
    async with open_door(tmp_path, models=models) as door:
        seen, path = [], "/console/models?text=many&sort=name"
        while True:
            page = (await door.get(path)).text
            seen += [model for model in shown(page) if model != "auto"]
            more = re.findall(r'href="([^"]+)" rel="next"', page)
            if not more:
                break
            path = f"/console/models{unescape(more[0])}"
        assert seen == [model["id"] for model in models]


@pytest.mark.gateways
async def test_where_models_are_not_public_they_are_for_who_is_signed_in(tmp_path: Path) -> None:
    async with open_door(tmp_path, models=MODELS, public_models=False) as door:
        for path in ("/console/models", "/console/models.csv", "/console/models.json"):
            answer: httpx2.Response = await door.get(path)
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/console/sign-in")
            assert (await door.http.get(path, headers=bearer(await door.person()))).status_code == 200


@pytest.mark.gateways
async def test_how_models_did_is_told_to_everybody_only_where_the_status_tells_of_models(tmp_path: Path) -> None:
    async with open_door(tmp_path, models=MODELS, public_stats="status") as door:
        door.gateway.activity.note(recorded(now_ms(), model="free/tiny", first_token_ms=123))
        written = door.gateway.board.note_minute()
        assert written is not None
        await written
        person = await door.person()
        for path, texts in (("/console/models", ("120 ms", "100.000 %")), ("/console/models.csv", (",120,100.0",))):
            for text in texts:
                assert text not in (await door.get(path)).text
                assert text in (await door.get(path, person)).text
