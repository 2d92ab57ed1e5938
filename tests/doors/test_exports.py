"""Requests, transactions and usage as CSV and as lines of JSON: all of them, and safe in a spreadsheet."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from http_api import exports
from http_api.exports import safe_cell
from http_api.operations import Told
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ids import now_ms
from tests.cases import each
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATHS = ["/v1/requests", "/v1/billing/transactions", "/v1/credits/transactions", "/v1/usage?group_by=model"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("exports")) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(door: Door) -> str:
    """Of an account with seven requests and as many transactions."""
    account = await door.account()
    for number in range(7):
        await door.gateway.ledger.credit(account, 10**9 + number, f"=wire-{account}-{number}")
        record = recorded(now_ms() + number, account_id=account, model=f"+model/{number}")
        await write_records(store_of(door.gateway), record)
    return await door.key(account)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PAGE_ROWS", 3)
    monkeypatch.setattr(exports, "_ROWS_WITHOUT_A_TURN", 2)


def with_format(path: str, form: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}format={form}"


def table(response: httpx2.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(response.text)))


async def listed(door: Door, path: str, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await door.get(path, key)).json()["data"]
    return rows


@each("path", PATHS)
async def test_lines_of_json_are_the_rows_of_the_list(door: Door, key: str, path: str) -> None:
    exported = await door.get(with_format(path, "jsonl"), key)
    assert exported.headers["content-type"] == "application/x-ndjson"
    assert exported.headers["content-disposition"].endswith('.jsonl"')
    rows = await listed(door, path, key)
    assert [orjson.loads(line) for line in exported.text.splitlines()] == rows
    assert len(rows) == 7


@each("path", PATHS)
async def test_a_table_has_a_head_and_every_row(door: Door, key: str, path: str) -> None:
    exported = await door.get(with_format(path, "csv"), key)
    assert exported.headers["content-type"] == "text/csv; charset=utf-8"
    rows, listed_rows = table(exported), await listed(door, path, key)
    assert len(rows) == len(listed_rows)
    for name in ("id", "cost_usd", "amount_usd", "requests"):
        if name in listed_rows[0]:
            assert [row[name] for row in rows] == [str(row[name]) for row in listed_rows]


@each("accept", ["text/csv", "application/json;q=0.1, text/csv", "application/x-ndjson", "application/jsonl"])
async def test_a_client_may_ask_by_accept(door: Door, key: str, accept: str) -> None:
    exported = await door.get("/v1/requests", key, accept=accept)
    assert exported.headers["content-type"].startswith("text/csv" if "csv" in accept else "application/x-ndjson")


@each(
    ("accept", "media_type"),
    [
        ("application/json, text/csv", "application/json"), ("text/csv, application/json", "text/csv"),
        ("text/csv;q=0.1, application/json", "application/json"), ("text/csv; q=0.5, */*;q=0.1", "text/csv"),
        ("*/*, text/csv", "text/csv"), ("*/*, text/csv;q=0.9", "application/json"),
        ("text/csv;q=0", "application/json"), ("text/csv;q=0.000, */*", "application/json"),
        ("text/csv;q=0.2, application/x-ndjson;q=0.9", "application/x-ndjson"),
        ("TEXT/CSV;charset=utf-16;Q=0.3", "text/csv"), ("text/csv;q=nan, application/json;q=0.5", "text/csv"),
        ("text/csv;q=", "text/csv"), (",,;,;q=1", "application/json"),
    ],
)  # fmt: skip
async def test_of_what_accept_names_the_one_that_is_wanted_most_is_told(
    door: Door, key: str, accept: str, media_type: str
) -> None:
    exported = await door.get("/v1/requests", key, accept=accept)
    assert exported.headers["content-type"].partition(";")[0] == media_type


async def test_the_query_stands_before_accept_and_json_is_what_others_are_told(door: Door, key: str) -> None:
    for headers, path in (
        ({"accept": "text/csv"}, "/v1/requests?format=json"),
        ({"accept": "*/*"}, "/v1/requests"),
        ({"accept": "text/html"}, "/v1/requests"),
    ):
        assert (await door.get(path, key, **headers)).headers["content-type"] == "application/json"


async def test_filters_a_limit_and_a_cursor_hold_for_an_export_too(door: Door, key: str) -> None:
    assert len(table(await door.get("/v1/requests?format=csv&model=%2Bmodel/3", key))) == 1
    assert len(table(await door.get("/v1/requests?format=csv&limit=4", key))) == 4
    cursor = (await door.get("/v1/requests?limit=2", key)).json()["next_cursor"]
    assert len(table(await door.get(f"/v1/requests?format=csv&cursor={cursor}", key))) == 5


async def test_a_text_is_no_formula_in_a_spreadsheet(door: Door, key: str) -> None:
    assert {row["model"][:2] for row in table(await door.get("/v1/requests?format=csv", key))} == {"'+"}
    transactions = table(await door.get("/v1/billing/transactions?format=csv", key))
    assert {row["reference"][:2] for row in transactions} == {"'="}


@each(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "-1"), ("-1.50", "-1.50"), ("-1+1", "'-1+1"), ("@a", "'@a"),
        ("\tx", "'\tx"), ("\rx", "'\rx"), ("\n=1", "'\n=1"), ("plain", "plain"),
        ("\uff1d1+1", "'\uff1d1+1"), ("\uff0b1", "'\uff0b1"), ("\uff0d1", "'\uff0d1"), ("\uff20a", "'\uff20a"),
        ("", ""), (5, 5), (None, None), ("-", "'-"),
    ],
)  # fmt: skip
async def test_a_cell_is_a_number_or_a_text(value: object, cell: object) -> None:
    assert safe_cell(value) == cell


async def test_an_account_without_any_is_a_head_alone(door: Door) -> None:
    key = await door.key()
    assert (await door.get("/v1/requests?format=csv", key)).text.startswith("id,")
    assert (await door.get("/v1/requests?format=jsonl", key)).content == b""
    assert table(await door.get("/v1/billing/transactions?format=csv", key)) == []


async def test_another_account_s_rows_are_in_no_export(door: Door, key: str) -> None:
    assert "model/" not in (await door.get("/v1/requests?format=csv", await door.key())).text
    assert (await door.get("/v1/requests?format=csv")).status_code == 401
    assert error_of(await door.get("/v1/requests?format=xml", key))["param"] == "format"


async def test_what_fails_before_the_first_row_is_refused_as_ever(
    door: Door, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> Any:
        raise GatewayError("overloaded", "Later.")

    monkeypatch.setattr(door.gateway.history.__class__, "page", fails)
    assert error_of(await door.get("/v1/requests?format=csv", key))["code"] == "overloaded"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_head_has_the_head_of_an_export_and_reads_no_page(
    door: Door, key: str, path: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_format(path, form)
    usual = await door.get(path, key)

    async def pages(*_: object, **__: object) -> Any:
        raise AssertionError("a page is read")

    monkeypatch.setattr(door.gateway.history.__class__, "page", pages)
    monkeypatch.setattr(door.gateway.statement.__class__, "page", pages)
    head = await door.http.head(path, headers=bearer(key))
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-disposition", "cache-control"):
        assert head.headers[name] == usual.headers[name]


class Row(Told):
    number: int


@each("form", ["csv", "jsonl"])
@each(("rows", "parts"), [(0, 0), (1, 1), (2, 1), (3, 2), (7, 4)])
async def test_others_have_their_turn_between_the_parts_of_a_page(form: exports.Format, rows: int, parts: int) -> None:
    pieces = exports.export("rows", form, Row, exports.at_once([Row(number=number) for number in range(rows)])).pieces
    turns = -1

    def others() -> None:
        nonlocal turns
        turns += 1
        if not is_over:
            asyncio.get_running_loop().call_soon(others)

    is_over = False
    others()
    written = b"".join([piece async for piece in pieces])
    is_over = True
    assert (turns, len(written.splitlines())) == (parts, rows + (form == "csv"))
