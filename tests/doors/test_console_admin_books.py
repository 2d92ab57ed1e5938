"""What administrators see and change of one account on its pages: wallet, ledger, statements, webhook and budgets."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from html import unescape

import pytest
import pytest_asyncio

from mcp_gateway.core.ids import new_id
from tests.cases import each
from tests.doors.test_console_admin import ACCOUNTS, HOSTILE, Administration
from tests.doors.test_console_admin_people import noted
from tests.patience import PATIENCE_S
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("books")) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module")
async def admin(door: Door) -> Administration:
    return Administration(door, await door.person(is_administrator=True), await door.account("7.5"))


async def test_the_wallet_is_that_of_the_account_with_notes_and_as_files(admin: Administration) -> None:
    fields = {"kind": "grant", "amount_usd": "1.25", "note": HOSTILE, "once": new_id("form")}
    assert (await admin.send(f"{admin.page}/entries", **fields)).status_code == 303
    page = (await admin.get(f"{admin.page}/wallet")).text
    assert ('value="8.75"' in page, 'value="1.25"' in page) == (True, True)
    assert (HOSTILE in page, "&lt;script&gt;alert(1)" in page, "Off." in page) == (False, True, True)
    first = (await admin.get(f"{admin.page}/wallet?limit=1")).text
    (older,) = re.findall(r'href="(\?[^"]+)" rel="next"', first)
    second = (await admin.get(f"{admin.page}/wallet{unescape(older)}")).text
    assert ("granted</td>" in first, "paid in</td>" in first, "paid in</td>" in second) == (True, False, True)
    api = f"/v1/admin/accounts/{admin.account_id}/billing/transactions"
    for form in ("csv", "jsonl"):
        file = await admin.get(f"{admin.page}/wallet/ledger?format={form}")
        assert file.text == (await admin.door.get(f"{api}?format={form}", admin.token)).text
    month = f"{datetime.now(UTC):%Y-%m}"
    statement = (await admin.get(f"{admin.page}/wallet/statements/{month}")).text
    assert (f"Account {admin.account_id}" in statement, f"{admin.page}/wallet" in statement) == (True, True)
    api = f"/v1/admin/accounts/{admin.account_id}/billing/statements/{month}"
    for form in ("csv", "json"):
        file = await admin.get(f"{admin.page}/wallet/statements/{month}?format={form}")
        assert file.text == (await admin.door.get(f"{api}?format={form}", admin.token)).text


async def test_the_webhook_is_set_turned_and_removed_for_the_account(admin: Administration) -> None:
    here = f"{admin.page}/wallet/webhook"
    assert "no address" in (await admin.get(here)).text
    made = await admin.send(here, url="https://hooks.example.com/a", low_balance_usd="5")
    (secret,) = re.findall(r'<code id="webhook-secret">([^<]+)</code>', made.text)
    page = (await admin.get(here)).text
    assert (secret in page, "https://hooks.example.com/a" in page, f'action="{here}"' in page) == (False, True, True)
    assert (await admin.send(here, url=HOSTILE)).status_code == 400
    turned = await admin.send(f"{here}/rotate")
    assert secret not in re.findall(r'<code id="webhook-secret">([^<]+)</code>', turned.text) != []
    assert (await admin.send(f"{here}/remove")).headers["location"] == here
    told = (await admin.door.get(f"/v1/admin/accounts/{admin.account_id}/webhook", admin.token)).json()
    assert told["url"] is None
    assert await noted(admin, admin.account_id) == [
        "webhook.delete", "webhook.rotate", "account.low_balance", "webhook.set",
    ]  # fmt: skip


async def test_budgets_are_made_once_for_each_form_and_ended(admin: Administration) -> None:
    here = f"{admin.page}/budgets"
    assert "Nothing is bounded" in (await admin.get(here)).text
    key, _ = await admin.door.gateway.keys.create(admin.account_id)
    for fields in (
        {"amount_usd": "5", "window": "day"},
        {"amount_usd": "2", "window": "total", "key_id": key.id},
        {"amount_usd": "1", "window": "total", "group": "<b>agents</b>", "expires_in_s": "3600"},
    ):
        form = fields | {"once": new_id("form")}
        for _ in range(2):
            assert (await admin.send(here, **form)).headers["location"] == f"{here}?changed=1"
    page = (await admin.get(f"{here}?changed=1")).text
    ids = re.findall(r'<dialog id="end-(bud_\w+)"', page)
    assert (len(ids), "<b>agents" in page, "group &lt;b&gt;agents" in page) == (3, False, True)
    assert (page.count('<span class="tag">lease</span>'), "Done; it counts" in page) == (1, True)
    of_key = (await admin.get(f"{here}?holder={key.id}")).text
    assert of_key.count("<dialog") == 1
    first = (await admin.get(f"{here}?limit=2")).text
    (older,) = re.findall(r'href="(\?[^"]+)" rel="next"', first)
    assert (await admin.get(here + unescape(older))).text.count("<dialog") == 1
    assert 'value="1.00"' in (await admin.get(f"{admin.page}/wallet")).text  # is set aside
    for budget_id in ids:
        assert (await admin.send(f"{here}/{budget_id}/end")).status_code == 303
        assert (await admin.send(f"{here}/{budget_id}/end")).status_code == 404
    assert "Nothing is bounded" in (await admin.get(here)).text
    assert await noted(admin, admin.account_id) == ["budget.create"] * 3
    assert [await noted(admin, budget_id) for budget_id in ids] == [["budget.end"]] * 3


async def test_usage_and_requests_are_those_of_the_account_and_lead_on_to_it(admin: Administration) -> None:
    raw = await admin.door.key(admin.account_id, name=HOSTILE)
    own = await admin.door.key((await admin.door.get("/v1/auth/me", admin.token)).json()["account_id"])
    asked = (await admin.door.chat(raw, model="demo/echo")).headers["x-request-id"]
    mine = (await admin.door.chat(own, model="demo/echo")).headers["x-request-id"]
    assert await admin.door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    await admin.door.gateway.ledger._store.flushed()
    page = (await admin.get(f"{admin.page}/requests?model=&status=200")).text
    assert (asked in page, mine in page, HOSTILE in page, "in flight" in page) == (True, False, False, False)
    assert f'href="{admin.page}/requests/{asked}"' in page
    one = (await admin.get(f"{admin.page}/requests/{asked}")).text
    (key_id,) = re.findall(r'href="/console/admin/keys/(key_\w+)"', one)
    assert f"{admin.page}/requests?key={key_id}" in (await admin.get(f"/console/admin/keys/{key_id}")).text
    assert (await admin.get(f"{admin.page}/requests/{mine}")).status_code == 404
    (again,) = re.findall(r'data-again="([^"]+)"', page)
    await admin.door.chat(raw, model="demo/echo")
    assert await admin.door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    await admin.door.gateway.ledger._store.flushed()
    assert "1 new" in (await admin.get(unescape(again))).text
    usage = (await admin.get(f"{admin.page}/usage?range=24h&show=requests&by=key")).text
    assert (HOSTILE in usage, f"{admin.page}/requests?" in usage, 'href="/console/requests?' in usage) == (
        False, True, False,
    )  # fmt: skip
    assert '<dt>Requests</dt><dd><data value="2">2</data></dd>' in usage
    for file, api in (("requests/export?", "requests?"), ("usage/export?range=24h&by=model&", "")):
        told = await admin.get(f"{admin.page}/{file}format=csv")
        assert told.headers["content-type"] == "text/csv; charset=utf-8"
        if api:
            theirs = await admin.door.get(f"/v1/admin/accounts/{admin.account_id}/{api}format=csv", admin.token)
            assert told.text == theirs.text


@each(
    ("fields", "status", "field"),
    [
        ({"amount_usd": "lots", "window": "day"}, 400, "amount_usd"),
        ({"amount_usd": "1", "window": "total", "key_id": "a", "group": "b"}, 400, "group"),
        ({"amount_usd": "1", "window": "day", "key_id": HOSTILE}, 404, None),
        ({"amount_usd": "1", "window": "day", "group": "a", "expires_in_s": "60"}, 400, None),
        ({"amount_usd": "100", "window": "total", "group": "big", "expires_in_s": "60"}, 402, None),
    ],
)
async def test_what_bounds_nothing_is_told_at_its_field(
    admin: Administration, fields: dict[str, str], status: int, field: str | None
) -> None:
    refused = await admin.send(f"{admin.page}/budgets", **fields)
    assert (refused.status_code, HOSTILE in refused.text) == (status, False), refused.text
    assert (f'id="{field}-error"' if field else 'role="alert"') in refused.text
    assert f'value="{fields["amount_usd"]}"' in refused.text
    assert "Nothing is bounded" in refused.text


async def test_another_account_s_parts_are_not_there_and_no_account_has_none(admin: Administration) -> None:
    month = f"{datetime.now(UTC):%Y-%m}"
    other = await admin.door.account()
    (await admin.send(f"{ACCOUNTS}/{other}/budgets", amount_usd="5", window="day", once=new_id("form")))
    (budget_id,) = re.findall(r'id="end-(bud_\w+)"', (await admin.get(f"{ACCOUNTS}/{other}/budgets")).text)
    assert (await admin.send(f"{admin.page}/budgets/{budget_id}/end")).status_code == 404
    parts = ("", "/usage", "/usage/export", "/requests", "/requests/export?format=csv")
    for below in (*parts, "/wallet", "/wallet/ledger", f"/wallet/statements/{month}", "/wallet/webhook", "/budgets"):
        assert (await admin.get(f"{ACCOUNTS}/acc_nobody{below}")).status_code == 404, below
        mine = (await admin.get(f"{admin.page}{below}")).text
        assert other not in mine
    for below in ("/wallet/webhook", "/wallet/webhook/rotate", "/wallet/webhook/remove", "/budgets"):
        sent = await admin.send(f"{ACCOUNTS}/acc_nobody{below}", url="https://hooks.example.com/")
        assert sent.status_code == 404, below
