"""A month's statement at the door: its sums, its forms, and what is refused."""

import csv
from collections.abc import AsyncIterator
from decimal import Decimal
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.ledger.archive import LedgerArchive
from mcp_gateway.core.ledger.closing import Closing
from mcp_gateway.core.ledger.months import Month
from tests.cases import each
from tests.databases import store_of
from tests.patience import PATIENCE_S
from tests.replaying import ReplayingBackend
from tests.serving import FREE, PRICED, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
FORMULA = PRICED | {"id": "=HYPERLINK(<b>)"}
OVERVIEW = "/v1/billing/statements"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    folder, models = tmp_path_factory.mktemp("statements"), [FREE, PRICED, FORMULA]
    async with ReplayingBackend() as backend, open_door(folder, vllm_urls=[backend.url], models=models) as door:
        yield door
        await door.nothing_is_left()


def month_of(door: Door) -> Month:
    """The one in which the door's ledger writes now."""
    return Month.at(door.gateway.ledger._now_ms())


async def used(door: Door, *models: str) -> str:
    """The key of a new account that has money and has asked these models."""
    account_id = await door.account("1")
    await (await door.desk()).ledger.grant(account_id, 250_000_000, account_id)
    await (await door.desk()).ledger.adjust(account_id, -50_000_000, account_id)
    key = await door.key(account_id)
    for model in models:
        assert (await door.chat(key, model=model)).status_code == 200
    assert await door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    return key


async def test_the_balance_moves_and_use_of_a_month_add_up(door: Door) -> None:
    key, month = await used(door, "priced/tiny", "free/tiny", "priced/tiny", FORMULA["id"]), month_of(door)
    told = (await door.get(f"{OVERVIEW}/{month.name}", key)).json()
    once = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, "cached_tokens": 0}
    twice = {name: 2 * tokens for name, tokens in once.items()}
    assert told == {
        "object": "statement",
        "account_id": told["account_id"],
        "month": month.name,
        "is_final": False,
        "is_archived": False,
        "since": month.since_ms // 1000,
        "until": month.until_ms // 1000,
        "currency": "USD",
        "opening_balance_usd": "0.00",
        "moves": [
            {"kind": "credit", "transactions": 1, "amount_usd": "1.00"},
            {"kind": "grant", "transactions": 1, "amount_usd": "0.25"},
            {"kind": "adjustment", "transactions": 1, "amount_usd": "-0.05"},
        ],
        "usage": [
            {"model": "priced/tiny", "requests": 2, "cost_usd": "0.0000116"} | twice,
            {"model": FORMULA["id"], "requests": 1, "cost_usd": "0.0000058"} | once,
        ],
        "cost_usd": "0.0000174",
        "closing_balance_usd": "1.1999826",
    }


async def test_the_wallet_is_what_the_running_month_closes_with(door: Door) -> None:
    key = await used(door, "priced/tiny")
    told = (await door.get(f"{OVERVIEW}/{month_of(door).name}", key)).json()
    assert told["closing_balance_usd"] == (await door.get("/v1/billing", key)).json()["balance_usd"]


async def test_a_month_that_is_over_is_final_and_empty_where_nothing_was(door: Door) -> None:
    told = (await door.get(f"{OVERVIEW}/2020-02", await used(door))).json()
    assert (told["is_final"], told["moves"], told["usage"]) == (True, [], [])
    assert (told["opening_balance_usd"], told["closing_balance_usd"]) == ("0.00", "0.00")


async def test_a_table_for_a_spreadsheet_adds_up_and_holds_no_formula(door: Door) -> None:
    key, month = await used(door, "priced/tiny", FORMULA["id"]), month_of(door)
    answer = await door.get(f"{OVERVIEW}/{month.name}?format=csv", key)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="statement-{month.name}.csv"'
    opening, *lines, closing = csv.DictReader(StringIO(answer.text, newline=""))
    assert [line["item"] for line in lines][3:] == ["'=HYPERLINK(<b>)", "priced/tiny"]
    assert (opening["item"], closing["item"]) == ("Opening balance", "Closing balance")
    amounts = [Decimal(line["amount_usd"]) for line in (opening, *lines)]
    assert sum(amounts) == Decimal(closing["amount_usd"]) == Decimal("1.1999884")
    assert [line["number"] for line in lines] == ["1"] * 5


class Table(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if text := data.strip():
            self.cells.append(text)


async def test_a_page_to_print_says_the_same_and_runs_nothing(door: Door) -> None:
    key = await used(door, FORMULA["id"])
    answer = await door.get(f"{OVERVIEW}/{month_of(door).name}?format=html", key)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    table = Table()
    table.feed(answer.text)
    assert not table.tags & {"script", "b", "img", "link"}
    assert "=HYPERLINK(<b>)" in table.cells
    assert table.cells[-2:] == ["Closing balance", "1.1999942"]


@each(
    ("asked", "status", "code", "param"),
    [
        ("2026-13", 400, "invalid_value", "month"),
        ("2026", 400, "invalid_value", "month"),
        ("now", 400, "invalid_value", "month"),
        ("8999-12", 404, "not_found", "month"),
        ("2026-01?format=pdf", 400, "invalid_value", "format"),
        ("2026-01?form=csv", 400, "unsupported_parameter", "form"),
    ],
)
async def test_what_is_no_month_or_no_form_is_refused(
    door: Door, asked: str, status: int, code: str, param: str
) -> None:
    answer = await door.get(f"{OVERVIEW}/{asked}", await door.key())
    assert (answer.status_code, error_of(answer)["code"], error_of(answer)["param"]) == (status, code, param)


async def test_it_is_for_those_alone_who_may_read_the_account(door: Door) -> None:
    assert (await door.get(f"{OVERVIEW}/2026-01")).status_code == 401
    assert (await door.get(f"{OVERVIEW}/2026-01", await door.key(scopes=frozenset({"inference"})))).status_code == 403
    mine, other = await used(door, "priced/tiny"), await door.key()
    name = month_of(door).name
    told, others = [(await door.get(f"{OVERVIEW}/{name}", key)).json() for key in (mine, other)]
    assert told["account_id"] != others["account_id"]
    assert (others["moves"], others["usage"], others["closing_balance_usd"]) == ([], [], "0.00")


@pytest.mark.gateways
async def test_what_was_archived_is_told_in_lists_and_statements_and_all_adds_up(tmp_path: Path) -> None:
    async with open_door(tmp_path, models=[PRICED | {"backend_model": "demo/echo"}]) as door:
        account_id = await door.account("1")
        key, token = await door.key(account_id), await door.person(account_id)
        for _ in range(3):
            assert (await door.chat(key, model=PRICED["id"])).status_code == 200
        assert await door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
        await door.gateway.ledger.credit(account_id, 7, "the last entry")
        month, path = month_of(door), "/v1/billing/transactions"
        spent = Decimal((await door.get(f"{OVERVIEW}/{month.name}", key)).json()["cost_usd"])
        store = store_of(door.gateway)
        archive = LedgerArchive(store, Closing(store, lambda: month.until_ms + 2 * DAY_MS, rest_s=0), rest_s=0)
        taken = [one async for some in archive.entries(None) for one in some]
        assert await archive.remove(None, taken[-1].id) == 3
        rows, cursor = list[dict[str, Any]](), ""
        while cursor is not None:
            page = (await door.get(f"{path}?limit=1{cursor and f'&cursor={cursor}'}", key)).json()
            rows, cursor = rows + page["data"], page["next_cursor"]
        archived, last, first = rows
        assert (archived["id"], archived["kind"], archived["reference"]) == (f"{last['id']}a", "archived", month.name)
        assert (last["kind"], first["kind"], archived["created_at"]) == ("credit", "credit", month.until_ms // 1000 - 1)
        assert Decimal(archived["amount_usd"]) == -spent < 0
        owned = Decimal((await door.get("/v1/billing", key)).json()["balance_usd"])
        assert sum(Decimal(row["amount_usd"]) for row in rows) == owned
        for listing in (path, "/v1/credits/transactions"):
            table = csv.DictReader(StringIO((await door.get(f"{listing}?format=csv", key)).text, newline=""))
            assert [(row["id"], row["amount_usd"]) for row in table] == [(row["id"], row["amount_usd"]) for row in rows]
        told = csv.DictReader(StringIO((await door.get(f"{OVERVIEW}/{month.name}?format=csv", key)).text, newline=""))
        *lines, note, closing = told
        assert ("archived" in note["item"], note["amount_usd"]) == (True, "0.00")
        assert sum(Decimal(line["amount_usd"]) for line in lines) == Decimal(closing["amount_usd"]) == owned
        assert "archived" in (await door.get(f"{OVERVIEW}/{month.name}?format=html", key)).text
        wallet = (await door.get("/console/wallet", token)).text
        assert "requests of a month, archived" in wallet
        assert (await door.get(f"/console/wallet?after={archived['id']}", token)).status_code == 200
        statement = (await door.get(f"/console/wallet/statements/{month.name}", token)).text
        assert "were archived: the ledger lists their sum" in statement
        operator = await door.person(is_administrator=True)
        noted = (await door.get(f"/v1/admin/accounts/{account_id}/billing/transactions", operator)).json()["data"]
        assert [(row["id"], row["note"]) for row in noted] == [(row["id"], None) for row in rows]
        await door.nothing_is_left()
