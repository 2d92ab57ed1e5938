"""Top-ups over HTTP: the real gateway, Stripe's real SDK, and a server of ours that stands for Stripe."""

import asyncio
import logging
import socket
import time
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.cases import each
from tests.fake_stripe import (
    SECRET_KEY,
    WEBHOOK_SECRET,
    FakeStripe,
    dispute,
    event,
    session,
    settings_of,
    signed,
)
from tests.replaying import ReplayingBackend
from tests.serving import PRICED, Door, error_of, open_door

CHECKOUT, PORTAL, WEBHOOK = "/v1/billing/checkout", "/v1/billing/portal", "/v1/billing/webhook"
pytestmark = pytest.mark.asyncio(loop_scope="module")

TEN_USD = b'{"amount_usd":"10.00"}'
_payments = count(1)


@pytest.fixture
def door(paying_door: Door) -> Door:
    return paying_door


@pytest.fixture
def payment() -> str:
    """A payment that no other test has heard of."""
    return f"pi_of_{next(_payments)}"


async def sent(door: Door, body: bytes, signature: str | None = None) -> httpx2.Response:
    return await door.post(body, None, WEBHOOK, stripe_signature=signed(body) if signature is None else signature)


# Sessions


async def test_checkout_opens_a_session_for_the_account_and_answers_its_address(door: Door, stripe: FakeStripe) -> None:
    account_id = await door.account()
    response = await door.post(TEN_USD, await door.key(account_id), CHECKOUT)
    assert response.status_code == 201
    answer = response.json()
    assert answer.pop("url").startswith("https://checkout.stripe.test/")
    assert answer.pop("id").startswith("cs_")
    assert answer == {"object": "checkout", "amount_usd": "10.00", "expires_at": 1_900_000_000}

    customer, checkout = stripe.asked
    assert (customer.path, customer.form) == ("/v1/customers", {"metadata[gateway_account_id]": account_id})
    assert checkout.form == {
        "mode": "payment",
        "customer": checkout.form["customer"],
        "client_reference_id": account_id,
        "metadata[gateway_account_id]": account_id,
        "payment_intent_data[metadata][gateway_account_id]": account_id,
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "1000",
        "line_items[0][price_data][product_data][name]": "API credit",
        "adaptive_pricing[enabled]": "false",
        "success_url": "http://gateway.test/",
        "cancel_url": "http://gateway.test/",
    }


async def test_an_account_has_one_customer_even_when_its_first_sessions_are_opened_at_once(
    door: Door, stripe: FakeStripe
) -> None:
    key = await door.key()
    answers = await asyncio.gather(door.post(TEN_USD, key, CHECKOUT), door.post(b"{}", key, PORTAL))
    assert [answer.status_code for answer in answers] == [201, 201]
    assert len(stripe.asked_for("/v1/customers")) == 1


async def test_the_portal_is_the_account_s_own_and_leads_back(tmp_path: Path, stripe: FakeStripe) -> None:
    settings = settings_of(stripe, return_url="https://app.example.com/billing")
    async with open_door(tmp_path, stripe=settings) as door:
        response = await door.post(b"{}", await door.key(), PORTAL)
        assert response.json()["url"].startswith("https://billing.stripe.test/")
        [asked] = stripe.asked_for("/v1/billing_portal/sessions")
        assert asked.form == {"customer": asked.form["customer"], "return_url": settings["return_url"]}


async def test_a_portal_s_link_is_kept_nowhere_so_that_a_repetition_makes_a_new_session(
    door: Door, stripe: FakeStripe
) -> None:
    key = await door.key()
    answers = [await door.post(b"{}", key, PORTAL, idempotency_key="p1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["url"] != answers[1].json()["url"]
    assert not any("idempotent-replayed" in answer.headers for answer in answers)
    assert len(stripe.asked_for("/v1/billing_portal/sessions")) == 2
    assert "billing.stripe.test" not in str(await door.rows("SELECT * FROM idempotent_answers"))


async def test_a_customer_that_stripe_no_longer_knows_is_made_anew(door: Door, stripe: FakeStripe) -> None:
    key = await door.key()
    await door.post(b"{}", key, PORTAL)
    stripe.customers.clear()
    for path, body in ((CHECKOUT, TEN_USD), (PORTAL, b"{}")):
        assert (await door.post(body, key, path)).status_code == 201
    assert len(stripe.customers) == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"amount_usd":"4.99"}', "invalid_value"),
        (b'{"amount_usd":"1000.01"}', "invalid_value"),
        (b'{"amount_usd":"10.001"}', "invalid_value"),
        (b'{"amount_usd":"-10"}', "invalid_value"),
        (b'{"amount_usd":"1e1"}', "invalid_value"),
        (b'{"amount_usd":"ten"}', "invalid_value"),
        (b'{"amount_usd":10}', "invalid_type"),
        (b'{"amount_usd":null}', "invalid_type"),
        (b"{}", "missing_parameter"),
        (b'{"amount_usd":"10","account_id":"acc_x"}', "unsupported_parameter"),
        (b"[]", "invalid_type"),
        (b"", "invalid_json"),
    ],
)
async def test_an_amount_that_cannot_be_paid_is_refused_before_stripe_hears_of_it(
    door: Door, stripe: FakeStripe, body: bytes, code: str
) -> None:
    response = await door.post(body, await door.key(), CHECKOUT)
    assert response.status_code == 400
    assert error_of(response)["code"] == code
    assert stripe.asked == []


@each("amount", [10, 10.5, None, True, ["10"], {"usd": "10"}])
async def test_an_amount_that_is_no_text_is_refused_with_how_to_write_it(
    door: Door, stripe: FakeStripe, amount: Any
) -> None:
    response = await door.post(orjson.dumps({"amount_usd": amount}), await door.key(), CHECKOUT)
    assert error_of(response)["message"] == '`amount_usd` must be USD as text, such as "5" or "12.50".'
    assert stripe.asked == []


@pytest.mark.parametrize(("path", "body"), [(CHECKOUT, TEN_USD), (PORTAL, b"{}")])
async def test_guests_and_test_keys_open_no_sessions(door: Door, stripe: FakeStripe, path: str, body: bytes) -> None:
    assert (await door.post(body, None, path)).status_code == 401
    refused = await door.post(body, await door.key(is_test=True), path)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_scope")
    assert stripe.asked == []


async def test_without_stripe_each_endpoint_says_so_plainly(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        key = await door.key()
        for path in (CHECKOUT, PORTAL, WEBHOOK):
            response = await door.post(b"{}", key, path)
            assert (response.status_code, error_of(response)["code"]) == (501, "not_configured")


# Stripe in trouble


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"type": "invalid_request_error", "message": "MARK of a bad parameter", "param": "line_items"}),
        (401, {"type": "invalid_request_error", "message": f"Invalid API Key provided: {SECRET_KEY}"}),
        (429, {"type": "invalid_request_error", "message": "MARK too many", "code": "rate_limit"}),
        (402, {"type": "card_error", "message": "MARK declined", "code": "card_declined"}),
    ],
)
async def test_whatever_stripe_answers_the_caller_sees_one_clean_502(
    door: Door, stripe: FakeStripe, status: int, error: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stripe.failure = status, {"error": error}
    with caplog.at_level(logging.INFO, "mcp_gateway"):
        response = await door.post(TEN_USD, await door.key(), CHECKOUT)
    assert response.status_code == 502
    told = error_of(response)
    assert (told["type"], told["code"]) == ("backend_unavailable", "payments_unavailable")
    assert f"status {status}" in caplog.text
    assert "req_of_stripe" in caplog.text
    logged = "".join(record.getMessage() for record in caplog.records if record.name.startswith("mcp_gateway"))
    for secret in ("MARK", SECRET_KEY):
        assert secret not in logged + response.text


async def test_a_stripe_that_cannot_be_reached_is_502(tmp_path: Path, stripe: FakeStripe) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        settings = settings_of(stripe, api_base=f"http://127.0.0.1:{closed.getsockname()[1]}")
        async with open_door(tmp_path, stripe=settings) as door:
            response = await door.post(TEN_USD, await door.key(), CHECKOUT)
    assert error_of(response)["code"] == "payments_unavailable"


async def test_an_answer_that_was_not_waited_for_is_had_by_sending_the_same_key_again(
    tmp_path: Path, stripe: FakeStripe
) -> None:
    async with open_door(tmp_path, stripe=settings_of(stripe)) as door:
        key = await door.key()
        await door.post(b"{}", key, PORTAL)
    async with open_door(tmp_path, stripe=settings_of(stripe, timeout_s=0.2)) as door:
        stripe.gate.clear()
        hung = await door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1")
        assert error_of(hung)["code"] == "payments_unavailable"
    async with open_door(tmp_path, stripe=settings_of(stripe)) as door:
        stripe.gate.set()
        again = await door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1")
    assert again.status_code == 201
    assert {asked.idempotency_key for asked in stripe.asked_for("/v1/checkout/sessions")} == set(stripe.sessions)
    assert [again.json()["id"]] == list(stripe.sessions.values())


# Webhooks


async def test_a_webhook_credits_the_account_and_the_wallet_shows_it(door: Door, payment: str) -> None:
    account_id = await door.account()
    response = await sent(door, event("checkout.session.completed", session(account_id, 1050, payment=payment)))
    assert (response.status_code, response.json()) == (200, {"received": True})
    assert "x-ratelimit-limit" not in response.headers
    wallet = (await door.get("/v1/billing", await door.key(account_id))).json()
    assert wallet["balance_usd"] == "10.50"


async def test_the_same_webhook_five_times_at_once_and_its_twin_are_one_credit(door: Door, payment: str) -> None:
    account_id = await door.account()
    completed = event("checkout.session.completed", session(account_id, 1000, payment=payment))
    succeeded = event("checkout.session.async_payment_succeeded", session(account_id, 1000, payment=payment))
    answers = await asyncio.gather(*(sent(door, body) for body in [succeeded, *[completed] * 5, succeeded]))
    assert {answer.status_code for answer in answers} == {200}
    assert await door.balance_nano(account_id) == 10 * 10**9
    await door.nothing_is_left()


def _tampered(body: bytes) -> tuple[bytes, str]:
    return body.replace(b"1000", b"9000"), signed(body)


@pytest.mark.parametrize(
    "forge",
    [
        _tampered,
        lambda body: (body + b" ", signed(body)),
        lambda body: (body, ""),
        lambda body: (body, "nonsense"),
        lambda body: (body, "t=,v1="),
        lambda body: (body, f"t={time.time():.0f}"),
        lambda body: (body, signed(body, secret="whsec_of_someone_else")),
        lambda body: (body, signed(body).replace("v1=", "v0=")),
        lambda body: (body, signed(body, at_s=int(time.time()) - 301)),
        lambda body: (body, signed(body) + "é"),
        lambda body: (body + b"\xff", signed(body + b"\xff")),
    ],
    ids=["tampered", "longer", "none", "nonsense", "empty", "unsigned", "stranger", "v0", "old", "latin", "not-utf8"],
)
async def test_what_stripe_did_not_sign_just_now_is_400_and_changes_nothing(
    door: Door, payment: str, forge: Any
) -> None:
    account_id = await door.account()
    body, signature = forge(event("checkout.session.completed", session(account_id, 1000, payment=payment)))
    headers = {"content-type": "application/json", "stripe-signature": signature.encode("latin-1")}
    response = await door.http.post(WEBHOOK, content=body, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["param"] == "Stripe-Signature"
    assert await door.balance_nano(account_id) == 0


async def test_while_the_secret_rolls_one_good_signature_of_several_is_enough(door: Door, payment: str) -> None:
    account_id = await door.account()
    body = event("checkout.session.completed", session(account_id, 1000, payment=payment))
    old = signed(body, secret="whsec_of_last_week").partition(",")[2]
    time_part, _, good = signed(body, at_s=int(time.time()) - 290).partition(",")
    assert (await sent(door, body, f"{time_part},{old},{good}")).status_code == 200
    assert await door.balance_nano(account_id) == 10 * 10**9


async def test_a_webhook_beyond_any_event_s_size_is_not_read_to_its_end(door: Door) -> None:
    assert (await sent(door, b" " * (1024 * 1024 + 1))).status_code == 413


async def test_a_disputed_wallet_is_below_zero_and_chats_are_402_with_the_way_to_pay(
    tmp_path: Path, stripe: FakeStripe, payment: str
) -> None:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path,
            vllm_urls=[backend.url],
            models=[PRICED],
            stripe=settings_of(stripe),
            public_url="https://gateway.example.com",
        ) as door,
    ):
        account_id = await door.account("1")
        key = await door.key(account_id)
        await sent(door, event("checkout.session.completed", session(account_id, 1000, payment=payment)))
        assert (await door.chat(key, model=PRICED["id"])).status_code == 200
        await sent(
            door,
            event("charge.dispute.created", dispute(1000, "needs_response", payment=payment, id=f"dp_1_{payment}")),
        )
        await sent(
            door,
            event("charge.dispute.created", dispute(1000, "needs_response", payment=payment, id=f"dp_2_{payment}")),
        )

        refused = await door.chat(key, model=PRICED["id"])
        assert refused.status_code == 402
        error = error_of(refused)
        assert error["code"] == "insufficient_balance"
        assert error["balance_usd"].startswith("-9.0")
        assert error["topup_url"] == "https://gateway.example.com/v1/billing/checkout"
        await door.nothing_is_left()


async def test_the_secrets_of_stripe_are_in_no_file_and_no_repr(door: Door, payment: str) -> None:
    account_id = await door.account()
    await door.post(TEN_USD, await door.key(account_id), CHECKOUT)
    await sent(door, event("checkout.session.completed", session(account_id, 1000, payment=payment)))
    kept = await door.kept() + repr(door.gateway).encode()
    assert b"stripe_customers" in kept
    for secret in (SECRET_KEY, WEBHOOK_SECRET):
        assert secret.encode() not in kept


async def test_an_event_of_another_product_on_the_same_stripe_account_is_thanked_for(door: Door) -> None:
    for body in (
        event("checkout.session.completed", session(None, 1000)),
        event("invoice.paid", {"id": "in_1", "object": "invoice"}),
        orjson.dumps({"id": "evt_thin", "object": "v2.core.event", "type": "v1.billing.meter.no_meter_found"}),
    ):
        assert (await sent(door, body)).status_code == 200
