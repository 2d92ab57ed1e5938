"""Auto top-ups over HTTP and MCP: a payment method is saved by paying, and a chat that empties the wallet fills it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.cases import each
from tests.fake_stripe import FakeStripe, event, saving_intent, session, settings_of, signed
from tests.patience import becomes
from tests.replaying import ReplayingBackend
from tests.serving import PRICED, Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH, CHECKOUT, WEBHOOK = "/v1/billing/auto-topup", "/v1/billing/checkout", "/v1/billing/webhook"
TERMS = {"threshold_usd": "5.00", "amount_usd": "20.00", "max_per_day_usd": "60.00"}
NEVER_SET = dict.fromkeys(("threshold_usd", "amount_usd", "max_per_day_usd", "off_reason", "off_at", "payment_due_at"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory, shared_stripe: FakeStripe) -> AsyncIterator[Door]:
    shared_stripe.forget()
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("auto"),
            vllm_urls=[backend.url],
            models=[PRICED],
            stripe=settings_of(shared_stripe, auto_topup=True, maximum_auto_topup_per_day_usd="100"),
        ) as door,
    ):
        yield door
        await door.nothing_is_left()


async def put(door: Door, key: str | None, **fields: Any) -> httpx2.Response:
    return await door.http.put(PATH, json=TERMS | fields, headers=bearer(key))


async def paid(door: Door, account_id: str, cents: int, payment: str, user_id: str | None = None) -> None:
    """A session in which the payer let the card be charged again, as Stripe tells of it."""
    [customer] = await door.rows(f"SELECT customer_id FROM stripe_customers WHERE account_id = '{account_id}'")
    intent = saving_intent(
        account_id, customer=customer[0], method=f"pm_of_{payment}", payment=payment, user_id=user_id
    )
    for kind, stated in (
        ("payment_intent.succeeded", intent),
        ("checkout.session.completed", session(account_id, cents, payment=payment)),
    ):
        body = event(kind, stated)
        assert (await door.post(body, None, WEBHOOK, stripe_signature=signed(body))).status_code == 200


async def minted(door: Door, key: str) -> str:
    made = await door.http.post(
        "/v1/keys", json={"budgets": [{"amount_usd": "1", "window": "day"}]}, headers=bearer(key)
    )
    return str(made.json()["key"])


async def test_a_wallet_that_a_chat_empties_is_filled_by_the_method_that_was_saved(
    door: Door, stripe: FakeStripe
) -> None:
    account_id = await door.account()
    key = await door.key(account_id)
    refused = await put(door, key)
    assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
    body = b'{"amount_usd":"5.00","save_payment_method":true}'
    assert (await door.post(body, key, CHECKOUT)).status_code == 201
    [checkout] = stripe.asked_for("/v1/checkout/sessions")
    assert checkout.form["payment_intent_data[setup_future_usage]"] == "off_session"
    await paid(door, account_id, 500, "pi_saving")
    set_up = (await put(door, key)).json()
    ours = {"object": "auto_topup", "available": True, "enabled": True, "has_payment_method": True}
    assert set_up == NEVER_SET | ours | {"paid_today_usd": "0.00"} | TERMS
    assert (await door.call("get_balance", key)).json()["result"]["structuredContent"]["auto_topup"] == {
        "enabled": True,
        "threshold_usd": "5.00",
        "amount_usd": "20.00",
    }
    for other in (await door.key(account_id, scopes={"inference", "read"}), await minted(door, key)):
        assert "auto_topup" not in (await door.call("get_balance", other)).json()["result"]["structuredContent"]
        assert (await door.get(PATH, other)).status_code == 403
    assert (await door.chat(key, model=PRICED["id"])).status_code == 200
    nano = await becomes(lambda: door.balance_nano(account_id), lambda nano: nano > 20 * 10**9)
    assert nano < 25 * 10**9
    assert (await door.get(PATH, key)).json()["paid_today_usd"] == "20.00"
    assert len(stripe.intents) == 1


async def test_a_card_that_is_declined_is_told_over_both_doors(door: Door, stripe: FakeStripe) -> None:
    account_id = await door.account()
    key = await door.key(account_id)
    await door.post(b'{"amount_usd":"5.00","save_payment_method":true}', key, CHECKOUT)
    await paid(door, account_id, 500, "pi_declined")
    stripe.methods["pm_of_pi_declined"] = "card_declined"
    await put(door, key, threshold_usd="6.00")

    async def standing() -> dict[str, Any]:
        told: dict[str, Any] = (await door.get(PATH, key)).json()
        return told

    told = await becomes(standing, lambda told: not told["enabled"])
    assert (told["off_reason"], told["payment_due_at"]) == ("card_declined", None)
    balance = (await door.call("get_balance", key)).json()["result"]
    assert balance["structuredContent"]["auto_topup"]["off_reason"] == "card_declined"
    assert "Auto top-up is off: card_declined." in balance["content"][0]["text"]
    assert "on_session" not in str(stripe.asked)
    removed = await door.http.delete(PATH, headers=bearer(key))
    assert removed.json() == {"object": "auto_topup", "deleted": True}
    assert (await door.http.delete(PATH, headers=bearer(key))).status_code == 404
    assert (await standing()).items() >= NEVER_SET.items()


async def test_an_administrator_switches_it_off_until_the_account_sets_it_anew(door: Door) -> None:
    account_id = await door.account("50")
    key, admin = await door.key(account_id), await door.admin_key()
    below = f"/v1/admin/accounts/{account_id}/billing/auto-topup"
    await door.post(b'{"amount_usd":"5.00","save_payment_method":true}', key, CHECKOUT)
    await paid(door, account_id, 500, "pi_switched")
    assert (await put(door, key)).json()["enabled"]
    for _ in range(2):  # the second of which changes nothing
        told = (await door.http.post(f"{below}/off", headers=bearer(admin))).json()
        assert (told["enabled"], told["off_reason"], told["threshold_usd"]) == (False, "operator", "5.00")
        assert told == (await door.get(PATH, key)).json() == (await door.get(below, admin)).json()
    [entry] = (await door.get(f"/v1/admin/audit?subject={account_id}", admin)).json()["data"]
    assert (entry["action"], entry["by"]["kind"]) == ("account.auto_topup", "admin_key")
    assert entry["after"] == {"enabled": False, "reason": "operator"}
    assert (await put(door, key)).json()["enabled"]


@each(
    ("change", "param"),
    [
        ({"amount_usd": "4.99"}, "amount_usd"),
        ({"amount_usd": "100.01"}, "amount_usd"),
        ({"amount_usd": "5.001"}, "amount_usd"),
        ({"threshold_usd": "0"}, "threshold_usd"),
        ({"threshold_usd": "-1"}, "threshold_usd"),
        ({"threshold_usd": "1000.01"}, "threshold_usd"),
        ({"max_per_day_usd": "19.99"}, "max_per_day_usd"),
        ({"max_per_day_usd": "100.01"}, "max_per_day_usd"),
        ({"max_per_day_usd": 60}, "max_per_day_usd"),
    ],
)
async def test_terms_that_cannot_be_are_refused_by_name(door: Door, change: dict[str, Any], param: str) -> None:
    refused = await put(door, await door.key(), **change)
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)


async def test_a_session_that_is_to_save_nothing_does_not(door: Door, stripe: FakeStripe) -> None:
    assert (await door.post(b'{"amount_usd":"5.00"}', await door.key(), CHECKOUT)).status_code == 201
    assert "payment_intent_data[setup_future_usage]" not in stripe.asked_for("/v1/checkout/sessions")[0].form


async def test_where_it_is_not_offered_nothing_is_saved_or_set_and_all_is_told(
    paying_door: Door, stripe: FakeStripe
) -> None:
    key = await paying_door.key()
    body = b'{"amount_usd":"5.00","save_payment_method":true}'
    for response in (await put(paying_door, key), await paying_door.post(body, key, CHECKOUT)):
        assert (response.status_code, error_of(response)["code"]) == (501, "not_configured")
    told = (await paying_door.get(PATH, key)).json()
    assert (told["available"], told["enabled"]) == (False, False)
    assert stripe.asked == []


async def test_nobody_is_charged_by_what_a_deleted_user_saved(door: Door, stripe: FakeStripe) -> None:
    account_id, admin = await door.account(), await door.person(is_administrator=True)
    payer, other, third = [await door.person(account_id) for _ in range(3)]
    payer_id, _, third_id = [(await door.get("/v1/auth/me", one)).json()["id"] for one in (payer, other, third)]
    body = b'{"amount_usd":"5.00","save_payment_method":true}'
    assert (await door.post(body, payer, CHECKOUT)).status_code == 201
    [checkout] = stripe.asked_for("/v1/checkout/sessions")
    assert checkout.form["payment_intent_data[metadata][gateway_user_id]"] == payer_id
    await paid(door, account_id, 5000, "pi_payer", payer_id)
    assert (await put(door, payer)).json()["enabled"] is True
    hook = {"url": "https://hooks.example.com/", "low_balance_usd": None}
    assert (await door.http.put("/v1/webhook", json=hook, headers=bearer(other))).status_code == 200
    for user_id, is_on in ((third_id, True), (payer_id, False)):
        deleted = await door.http.delete(f"/v1/admin/users/{user_id}", headers=bearer(admin))
        assert deleted.status_code == 200
        told = (await door.get(PATH, other)).json()
        assert (told["enabled"], told["has_payment_method"]) == (is_on, is_on)
        [entry] = (await door.get(f"/v1/admin/audit?subject={user_id}", admin)).json()["data"]
        assert ("auto_topup" in entry["after"]) is not is_on
    assert told["off_reason"] == "payer_deleted"
    bodies = await door.rows(f"SELECT body FROM webhook_outbox WHERE receiver = '{account_id}'")
    assert ["payer_deleted" in body and "auto_topup.off" in body for (body,) in bodies] == [True]
    await paid(door, account_id, 500, "pi_late", payer_id)  # begun before, told of afterwards
    assert (await put(door, other)).status_code == 409
    await paid(door, account_id, 500, "pi_other")
    assert (await put(door, other)).json()["enabled"] is True
