"""The console's wallet: the books as the API tells them, paying at Stripe, and the account's webhook."""

import csv
import io
import re
from collections.abc import AsyncIterator
from html import unescape
from itertools import count
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.fake_stripe import FakeStripe, event, saving_intent, session, settings_of, signed
from tests.serving import Door, bearer, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
WALLET = "/console/wallet"
_numbers = count(1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory, shared_stripe: FakeStripe) -> AsyncIterator[Door]:
    settings = settings_of(shared_stripe, auto_topup=True, maximum_topup_usd="60")
    async with open_door(tmp_path_factory.mktemp("wallet"), stripe=settings) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("plain")) as door:
        yield door


async def send(door: Door, path: str, token: str, **fields: str) -> httpx2.Response:
    return await door.http.post(WALLET + path, data=fields, headers=bearer(token))


def text_of(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def hidden(page: str, name: str) -> str:
    return unescape(re.findall(rf'name="{name}" value="([^"]*)"', page)[0])


async def credited(door: Door, account_id: str, cents: int) -> None:
    """As Stripe tells of a payment."""
    body = event("checkout.session.completed", session(account_id, cents, payment=f"pi_page_{next(_numbers)}"))
    answer = await door.post(body, None, "/v1/billing/webhook", stripe_signature=signed(body))
    assert answer.status_code == 200


async def test_the_page_has_what_the_api_tells_exactly(door: Door) -> None:
    account = await door.account("3.123456789")
    ledger = (await door.desk()).ledger
    await ledger.grant(account, 500_000_000, f"{account} a")
    await ledger.grant(account, 250_000_000, f"{account} b", expires_at_ms=4_000_000_000_000)
    token = await door.person(account)
    page = (await door.get(WALLET, token)).text
    told = (await door.get("/v1/billing", token)).json()
    for name in ("balance_usd", "granted_usd", "held_usd"):
        assert f'<data value="{told[name]}"' in page
    assert "$0.2500 left, until 2096-10-02" in text_of(page)
    assert "$0.5000 left, without an end" in text_of(page)
    rows = (await door.get("/v1/billing/transactions", token)).json()["data"]
    shown = re.findall(r'<td class="num"><data value="([^"]*)"', page)
    assert shown == [row["amount_usd"] for row in rows]
    exported = (await door.get(f"{WALLET}/ledger?format=csv", token)).text
    assert exported == (await door.get("/v1/billing/transactions?format=csv", token)).text
    assert [row["id"] for row in csv.DictReader(io.StringIO(exported))] == [row["id"] for row in rows]
    lines = await door.get(f"{WALLET}/ledger?format=jsonl", token)
    assert lines.headers["cache-control"] == "no-store"
    assert len(lines.text.splitlines()) == 3


async def test_an_empty_wallet_says_so_and_a_part_is_given_to_a_script(door: Door) -> None:
    token = await door.person()
    assert "Nothing has been paid in or spent yet." in (await door.get(WALLET, token)).text
    assert (await door.get(WALLET, token, x_part="1")).text.strip().startswith('<div id="ledger-table">')


async def test_older_rows_are_behind_a_cursor(door: Door) -> None:
    account = await door.account("1")
    for number in range(60):
        await door.gateway.ledger.credit(account, 1_000_000, f"{account} {number}")
    token = await door.person(account)
    page = (await door.get(WALLET, token)).text
    (older,) = re.findall(r'href="(\?cursor=[^"]+)" rel="next"', page)
    second = (await door.get(WALLET + unescape(older), token)).text
    references = re.findall(rf"<code>({account}[^<]*)</code>", page + second)
    assert len(references) == len(set(references)) == 61
    assert (await door.get(f"{WALLET}?cursor=made-up", token)).status_code == 400


async def test_an_amount_leads_to_stripe_once_however_often_it_is_clicked(door: Door, stripe: FakeStripe) -> None:
    account = await door.account()
    token = await door.person(account)
    page = (await door.get(WALLET, token)).text
    assert [usd for usd in ("5.00", "50.00", "100.00") if f'value="{usd}"' in page] == ["5.00", "50.00"]
    form = {"once": hidden(page, "once"), "after": hidden(page, "after"), "offered_usd": "10.00"}
    answers = [await send(door, "/checkout", token, **form) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    (url,) = {answer.headers["location"] for answer in answers}
    assert url.startswith("https://checkout.stripe.test/c/")
    (asked,) = stripe.asked_for("/v1/checkout/sessions")
    assert asked.form["line_items[0][price_data][unit_amount]"] == "1000"
    assert asked.form["success_url"] == f"http://gateway.test{WALLET}?after=txn_0"
    assert asked.form["cancel_url"] == f"http://gateway.test{WALLET}"


async def test_who_comes_back_waits_until_stripe_says_that_it_was_paid(door: Door) -> None:
    account = await door.account("2")
    token = await door.person(account)
    after = hidden((await door.get(WALLET, token)).text, "after")
    back = f"{WALLET}?after={after}"
    assert "Waiting for Stripe" in (await door.get(back, token)).text
    assert (await door.get("/v1/billing", token)).json()["balance_usd"] == "2.00"
    await credited(door, account, 1000)
    assert "$10.00 has arrived" in text_of((await door.get(back, token)).text)
    assert (await door.get("/v1/billing", token)).json()["balance_usd"] == "12.00"


async def test_an_address_that_is_made_up_credits_nothing(door: Door) -> None:
    account = await door.account("2")
    token = await door.person(account)
    for made_up, status in (("txn_0", 200), ("txn_999999999", 200), ("<script>", 400), ("txn_0%0a", 400)):
        answer = await door.get(f"{WALLET}?after={made_up}&cursor=", token)
        assert answer.status_code == status
        assert "<script>alert" not in answer.text
    assert (await door.get("/v1/billing", token)).json()["balance_usd"] == "2.00"


async def test_an_amount_that_cannot_be_paid_is_told_at_its_field(door: Door, stripe: FakeStripe) -> None:
    token = await door.person()
    answer = await send(door, "/checkout", token, amount_usd="0.001", offered_usd="10.00", after="txn_0")
    assert answer.status_code == 400
    assert 'id="amount_usd-error"' in answer.text
    assert 'value="0.001"' in answer.text
    assert stripe.asked == []


async def test_the_portal_leads_back_to_the_wallet(door: Door, stripe: FakeStripe) -> None:
    token = await door.person()
    answer = await send(door, "/portal", token, once="portal-once-1")
    assert answer.headers["location"].startswith("https://billing.stripe.test/p/")
    (asked,) = stripe.asked_for("/v1/billing_portal/sessions")
    assert asked.form["return_url"] == f"http://gateway.test{WALLET}"


async def test_an_auto_top_up_is_set_with_a_saved_method_alone(door: Door) -> None:
    token = await door.person()
    page = text_of((await door.get(WALLET, token)).text)
    assert "No payment method is saved" in page
    terms = {"threshold_usd": "5", "auto_amount_usd": "1", "max_per_day_usd": "20"}
    refused = await send(door, "/auto-topup", token, **terms)
    assert (refused.status_code, "`amount_usd` must be" in refused.text) == (400, True)
    good = terms | {"auto_amount_usd": "10"}
    assert (await send(door, "/auto-topup", token, **good)).status_code == 409

    account = await door.account("50")
    token = await door.person(account)
    form = {"amount_usd": "5", "save_payment_method": "true", "after": "txn_0"}
    assert (await send(door, "/checkout", token, **form)).status_code == 303
    [[customer]] = await door.rows("SELECT customer_id FROM stripe_customers WHERE account_id = ?", account)
    paid = saving_intent(account, customer=customer, method="pm_page", payment="pi_page_saving")
    body = event("payment_intent.succeeded", paid)
    await door.post(body, None, "/v1/billing/webhook", stripe_signature=signed(body))
    refused = await send(door, "/auto-topup", token, **terms)
    assert (refused.status_code, 'id="auto_amount_usd-error"' in refused.text) == (400, True)
    assert (await send(door, "/auto-topup", token, **good)).headers["location"] == f"{WALLET}?saved=1"
    told = (await door.get("/v1/billing/auto-topup", token)).json()
    assert (told["threshold_usd"], told["amount_usd"], told["max_per_day_usd"]) == ("5.00", "10.00", "20.00")
    page = text_of((await door.get(f"{WALLET}?saved=1", token)).text)
    assert "On: below $5.00 , $10.00 is paid" in page
    assert (await send(door, "/auto-topup/remove", token)).headers["location"] == f"{WALLET}?saved=1"
    assert not (await door.get("/v1/billing/auto-topup", token)).json()["enabled"]


async def test_a_month_is_a_page_and_files_that_the_api_gives(door: Door) -> None:
    token = await door.person(await door.account("7"))
    month = re.findall(rf"{WALLET}/statements/(\d{{4}}-\d\d)", (await door.get(WALLET, token)).text)
    assert len(set(month)) == 12
    path = f"statements/{month[0]}"
    page = text_of((await door.get(f"{WALLET}/{path}", token)).text)
    assert "Closing balance $7.00" in page
    assert "the month is not over" in page
    api = f"/v1/billing/{path}"
    assert (await door.get(f"{WALLET}/{path}?format=json", token)).json() == (await door.get(api, token)).json()
    assert (await door.get(f"{WALLET}/{path}?format=csv", token)).text == (
        await door.get(f"{api}?format=csv", token)
    ).text
    assert (await door.get(f"{WALLET}/statements/2999-01", token)).status_code == 404


async def test_a_webhook_s_secret_is_shown_once(door: Door) -> None:
    token = await door.person()
    url = "https://hooks.example.com/in"
    refused = await send(door, "/webhook", token, url="not an address", low_balance_usd="2")
    assert (refused.status_code, 'value="not an address"' in refused.text) == (400, True)
    made = await send(door, "/webhook", token, url=url, low_balance_usd="2")
    (secret,) = re.findall(r"whsec_[\w+/=]+", made.text)
    seen = (await door.get(f"{WALLET}/webhook", token)).text
    assert url in seen
    assert secret not in seen
    assert "Low-balance mark $2.00" in text_of((await door.get(WALLET, token)).text)
    cleared = await send(door, "/webhook", token, url=url, low_balance_usd="")
    assert "whsec_" not in cleared.text
    assert (await door.get("/v1/webhook", token)).json()["low_balance_usd"] is None
    (newer,) = re.findall(r"whsec_[\w+/=]+", (await send(door, "/webhook/rotate", token)).text)
    assert newer != secret
    assert (await send(door, "/webhook/remove", token)).headers["location"] == f"{WALLET}/webhook"
    assert (await door.get("/v1/webhook", token)).json()["url"] is None


async def test_whoever_may_not_pay_is_shown_no_form_and_refused(door: Door) -> None:
    account = await door.account("1")
    for role, reads_webhook in (("member", True), ("viewer", False)):
        token = await door.person(account, role=role)  # type: ignore[arg-type]
        page = (await door.get(WALLET, token)).text
        assert "$1.00" in page
        assert "Pay in" not in page
        assert ("/console/wallet/webhook" in page) == reads_webhook
        for path in ("/checkout", "/portal", "/auto-topup", "/auto-topup/remove", "/webhook", "/webhook/rotate"):
            assert (await send(door, path, token)).status_code == 403


async def test_each_sees_their_own_wallet_alone(door: Door) -> None:
    rich, other = await door.account("77"), await door.person()
    assert "$77.00" in (await door.get(WALLET, await door.person(rich))).text
    for path in (WALLET, f"{WALLET}/ledger", f"{WALLET}?after=txn_0"):
        assert rich not in (await door.get(path, other)).text
    assert (await door.get(WALLET)).headers["location"].startswith("/console/sign-in?next=")


async def test_without_stripe_there_is_no_form_but_how_the_operator_credits(plain: Door) -> None:
    account = await plain.account()
    token = await plain.person(account)
    answer = await plain.get(WALLET, token)
    assert f"mcp-gateway accounts credit {account}" in answer.text
    assert "/checkout" not in answer.text
    assert (await send(plain, "/checkout", token)).status_code == 404
    assert _form_action(answer) == "form-action 'self'"


async def test_a_form_may_end_where_stripe_is_alone(door: Door, stripe: FakeStripe) -> None:
    answer: Any = await door.get(WALLET, await door.person())
    assert _form_action(answer) == f"form-action 'self' {stripe.url}"


def _form_action(answer: httpx2.Response) -> str:
    (found,) = re.findall(r"form-action [^;]*", answer.headers["content-security-policy"])
    return str(found).strip()
