"""What administrators do with the money of accounts over HTTP, and read of each; every change has its entry."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from http_api.table import _ASKED_BY_ADMINISTRATORS
from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.money import MAX_NANO, format_usd
from tests.cases import each
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("money")) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def admin(door: Door) -> str:
    return await door.admin_key()


def below(account: str, path: str) -> str:
    return f"/v1/admin/accounts/{account}/{path}"


async def enter(door: Door, admin: str, account: str, kind: str, **body: Any) -> httpx2.Response:
    key = body.pop("idempotency_key", None)
    headers = bearer(admin) | ({} if key is None else {"Idempotency-Key": key})
    return await door.http.post(below(account, kind), json=body, headers=headers)


async def entries(door: Door, admin: str, account: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = (await door.get(f"/v1/admin/audit?subject={account}", admin)).json()["data"]
    return told


async def test_money_is_added_given_and_put_right_with_exact_amounts(door: Door, admin: str) -> None:
    account = await door.account()
    for kind, body, balance in (
        ("credits", {"amount_usd": "12.000000001"}, "12.000000001"),
        ("grants", {"amount_usd": "1", "expires_in_s": 60}, "13.000000001"),
        ("adjustments", {"amount_usd": "-20.5", "note": "by mistake"}, "-7.499999999"),
        ("adjustments", {"amount_usd": "0.5", "reference": "put right"}, "-6.999999999"),
    ):
        answer = await enter(door, admin, account, kind, **body)
        told = answer.json()
        assert answer.status_code == 201, told
        assert (told["account_id"], told["balance_usd"], told["was_applied_before"]) == (account, balance, False)
        assert told["kind"] == kind.removesuffix("s")
    wallet = (await door.get(below(account, "billing"), admin)).json()
    assert (wallet["balance_usd"], wallet["granted_usd"]) == ("-6.999999999", "1.00")
    assert await door.gateway.ledger.check() == []


async def test_each_entry_is_noted_with_who_made_it_and_the_wallet_before_and_behind_it(door: Door, admin: str) -> None:
    account, chief = await door.account(), await door.person(is_administrator=True)
    await enter(door, admin, account, "credits", amount_usd="5", reference="wire-1", note="paid by wire")
    await enter(door, chief, account, "grants", amount_usd="2", expires_in_s=3600)
    granted, credited = await entries(door, admin, account)
    assert (credited["action"], credited["by"]["kind"]) == ("money.credit", "admin_key")
    assert credited["before"] == {"paid_usd": "0.00"}
    told = {"paid_usd": "5.00", "amount_usd": "5.00", "reference": "wire-1", "note": "paid by wire"}
    assert credited["after"] == told
    assert (granted["action"], granted["by"]["kind"], granted["by"]["where"]) == ("money.grant", "user", "127.0.0.1")
    assert (granted["before"], granted["after"]["granted_usd"]) == ({"granted_usd": "0.00"}, "2.00")
    assert granted["after"]["expires_at"] - granted["created_at"] in (3600, 3599, 3601)


async def test_a_reference_is_entered_once_and_stands_for_one_entry(door: Door, admin: str) -> None:
    account, other = await door.account(), await door.account()
    first = await enter(door, admin, account, "credits", amount_usd="5", reference=f"wire {account}")
    again = await enter(door, admin, account, "credits", amount_usd="5.0", reference=f"wire {account}")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"was_applied_before": True}
    for whose, amount in ((account, "6"), (other, "5")):
        refused = await enter(door, admin, whose, "credits", amount_usd=amount, reference=f"wire {account}")
        assert (refused.status_code, error_of(refused)["param"]) == (409, "reference")
    assert await door.balance_nano(account) == 5 * 10**9
    assert await door.balance_nano(other) == 0
    assert len(await entries(door, admin, account)) == 1


async def test_the_same_reference_by_a_command_is_the_same_entry(door: Door, admin: str) -> None:
    account = await door.account()
    desk = await door.desk()
    await desk.ledger.credit(account, 3 * 10**9, f"shell {account}")
    told = (await enter(door, admin, account, "credits", amount_usd="3", reference=f"shell {account}")).json()
    assert (told["was_applied_before"], told["balance_usd"]) == (True, "3.00")


async def test_an_idempotency_key_has_an_entry_made_once(door: Door, admin: str) -> None:
    account = await door.account()
    first = await enter(door, admin, account, "credits", amount_usd="5", idempotency_key="a")
    again = await enter(door, admin, account, "credits", amount_usd="5", idempotency_key="a")
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    other = await enter(door, admin, account, "credits", amount_usd="6", idempotency_key="a")
    assert error_of(other)["code"] == "idempotency_mismatch"
    elsewhere = await enter(door, admin, await door.account(), "credits", amount_usd="5", idempotency_key="a")
    assert elsewhere.status_code == 201
    by_another = await enter(door, await door.admin_key(), account, "credits", amount_usd="5", idempotency_key="a")
    assert by_another.status_code == 201
    assert await door.balance_nano(account) == 10 * 10**9


async def test_it_is_entered_once_even_if_its_answer_was_not_kept(
    door: Door, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process was killed between the two."""
    account = await door.account()
    with monkeypatch.context() as patch:

        async def forgets(*_: object) -> None: ...

        patch.setattr(Idempotency, "keep", forgets)
        assert (
            await enter(door, admin, account, "adjustments", amount_usd="-5", idempotency_key="b")
        ).status_code == 201
    again = await enter(door, admin, account, "adjustments", amount_usd="-5", idempotency_key="b")
    assert (again.status_code, again.json()["was_applied_before"]) == (200, True)
    assert await door.balance_nano(account) == -5 * 10**9


@each(
    ("kind", "body", "param"),
    [
        ("credits", {"amount_usd": "0"}, "amount_usd"),
        ("credits", {"amount_usd": "-1"}, "amount_usd"),
        ("grants", {"amount_usd": "-1"}, "amount_usd"),
        ("adjustments", {"amount_usd": "0.00"}, "amount_usd"),
        ("credits", {"amount_usd": "1e3"}, "amount_usd"),
        ("credits", {"amount_usd": "0.0000000001"}, "amount_usd"),
        ("credits", {"amount_usd": 5}, "amount_usd"),
        ("credits", {"amount_usd": format_usd(MAX_NANO)}, None),
        ("credits", {}, "amount_usd"),
        ("credits", {"amount_usd": "5", "reference": ""}, "reference"),
        ("credits", {"amount_usd": "5", "reference": "a\nb"}, "reference"),
        ("credits", {"amount_usd": "5", "note": "\u202egnp"}, "note"),
        ("credits", {"amount_usd": "5", "expires_in_s": 5}, "expires_in_s"),
        ("grants", {"amount_usd": "5", "expires_in_s": 0}, "expires_in_s"),
    ],
)
async def test_what_is_no_entry_is_refused_and_changes_nothing(
    door: Door, admin: str, kind: str, body: dict[str, Any], param: str | None
) -> None:
    account = await door.account("1")
    refused = await enter(door, admin, account, kind, **body)
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)
    assert await door.balance_nano(account) == 10**9
    assert await entries(door, admin, account) == []


async def test_an_account_that_there_is_not_and_the_guests_have_no_money(door: Door, admin: str) -> None:
    for account, status in (("acc_nobody", 404), (GUEST_ACCOUNT_ID, 409)):
        for kind in ("credits", "grants", "adjustments"):
            assert (await enter(door, admin, account, kind, amount_usd="5")).status_code == status


async def test_each_account_is_told_of_as_it_is_told_of_itself(door: Door, admin: str) -> None:
    account = await door.account("5")
    key = await door.key(account)
    record = recorded(now_ms(), account_id=account)
    await write_records(store_of(door.gateway), record)
    for path in (
        "usage?since=2026-01-01&until=2100-01-01",
        "requests",
        f"requests/{record.id}",
        "billing/statements/2026-01",
        "billing/auto-topup",
        "webhook",
    ):
        own, told = await door.get(f"/v1/{path}", key), await door.get(below(account, path), admin)
        assert (told.status_code, told.json()) == (200, own.json()), path
    own, told = (await door.get("/v1/billing", key)).json(), (await door.get(below(account, "billing"), admin)).json()
    for wallet in (own, told):
        del wallet["usage"]["until"]
    assert own == told
    (row,) = (await door.get("/v1/billing/transactions", key)).json()["data"]
    assert (await door.get(below(account, "billing/transactions"), admin)).json()["data"] == [row | {"note": None}]


async def test_an_administrator_with_an_account_is_told_of_the_one_that_they_name(door: Door) -> None:
    account, chief = await door.account("7"), await door.person(is_administrator=True)
    assert (await door.get(below(account, "billing"), chief)).json()["account_id"] == account


@each("path", ["billing", "billing/transactions", "usage", "requests", "requests/req_1", "webhook"])
async def test_an_account_that_there_is_not_is_not_found(door: Door, admin: str, path: str) -> None:
    assert error_of(await door.get(below("acc_nobody", path), admin))["code"] == "not_found"


async def test_notes_are_told_to_administrators_page_by_page_and_in_exports(door: Door, admin: str) -> None:
    account = await door.account()
    for number in range(3):
        await enter(door, admin, account, "credits", amount_usd="1", note=f"=note {number}")
    page = (await door.get(below(account, "billing/transactions?limit=2"), admin)).json()
    rest = (await door.get(below(account, f"billing/transactions?cursor={page['next_cursor']}"), admin)).json()
    assert [row["note"] for row in page["data"] + rest["data"]] == ["=note 2", "=note 1", "=note 0"]
    lines = await door.get(below(account, "billing/transactions?format=jsonl"), admin)
    assert [orjson.loads(line) for line in lines.text.splitlines()] == page["data"] + rest["data"]
    table = await door.get(below(account, "billing/transactions"), admin, accept="text/csv")
    assert [row["note"] for row in csv.DictReader(io.StringIO(table.text))] == ["'=note 2", "'=note 1", "'=note 0"]
    own = await door.get("/v1/billing/transactions", await door.key(account))
    assert "note" not in own.text


@each("path", ["requests", "usage"])
@each("form", ["csv", "jsonl"])
async def test_requests_and_usage_are_exported_as_an_account_exports_its_own(
    door: Door, admin: str, path: str, form: str
) -> None:
    account = await door.account()
    await write_records(store_of(door.gateway), recorded(now_ms(), account_id=account))
    told = await door.get(below(account, f"{path}?format={form}"), admin)
    assert told.content == (await door.get(f"/v1/{path}?format={form}", await door.key(account))).content
    assert told.headers["content-disposition"].endswith(f'.{form}"')


async def test_what_administrators_ask_about_accounts_is_what_accounts_ask(door: Door) -> None:
    own = {row.name for row in door.operations}
    assert set(_ASKED_BY_ADMINISTRATORS) <= own
    assert {f"admin_{name}" for name in _ASKED_BY_ADMINISTRATORS} <= own


async def test_an_account_s_webhook_and_its_mark_are_set_and_noted(door: Door, admin: str) -> None:
    account = await door.account()
    path, body = below(account, "webhook"), {"url": "https://hooks.example.com/T0/path", "low_balance_usd": "5"}
    made = (await door.http.put(path, json=body, headers=bearer(admin))).json()
    assert made["secret"].startswith("whsec_")
    rotated = (await door.http.post(f"{path}/rotate", headers=bearer(admin))).json()
    assert rotated["secret"] != made["secret"]
    told = (await door.get("/v1/webhook", await door.key(account))).json()
    assert (told["url"], told["low_balance_usd"]) == (body["url"], "5.00")
    assert (await door.http.delete(path, headers=bearer(admin))).json() == {"object": "webhook", "deleted": True}
    assert (await door.http.post(f"{path}/rotate", headers=bearer(admin))).status_code == 404
    noted = await entries(door, admin, account)
    actions = ["webhook.delete", "webhook.rotate", "account.low_balance", "webhook.set"]
    assert [entry["action"] for entry in noted] == actions
    assert {entry["by"]["kind"] for entry in noted} == {"admin_key"}
    assert not any(word in str(noted) for word in (made["secret"], rotated["secret"], "path"))
