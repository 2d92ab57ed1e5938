"""Idempotency-Key over HTTP: what was asked for twice is made once."""

import asyncio

import orjson
import pytest

from tests.cases import each
from tests.fake_stripe import FakeStripe
from tests.patience import PATIENCE_S
from tests.serving import Door, bearer, error_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHECKOUT = "/v1/billing/checkout"
TEN_USD = b'{"amount_usd":"10.00"}'


@pytest.fixture
def door(paying_door: Door) -> Door:
    return paying_door


async def test_a_key_that_is_asked_for_twice_is_made_once_and_shown_once(door: Door) -> None:
    account_id = await door.account()
    key = await door.key(account_id)
    first = await door.post(b'{"name":"one"}', key, "/v1/keys", idempotency_key="k1")
    again = await door.post(b'{"name":"one"}', key, "/api/v1/inference/keys", idempotency_key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    shown = first.json()
    raw = shown.pop("key")
    assert again.json() == shown
    assert len(await door.gateway.keys.list(account_id)) == 2
    assert raw not in str(await door.rows("SELECT * FROM idempotent_answers WHERE account_id = ?", account_id))


async def test_without_the_header_every_request_makes_something(door: Door) -> None:
    account_id = await door.account()
    key = await door.key(account_id)
    ids = {(await door.post(b"{}", key, "/v1/keys")).json()["id"] for _ in range(2)}
    assert len(ids) == 2
    assert await door.rows("SELECT * FROM idempotent_answers WHERE account_id = ?", account_id) == []


async def test_a_checkout_that_is_sent_twice_is_one_session(door: Door, stripe: FakeStripe) -> None:
    key = await door.key()
    answers = [await door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1") for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert [answer.status_code for answer in answers] == [201, 201]
    assert len(stripe.asked_for("/v1/checkout/sessions")) == 1
    await door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-2")
    assert len(stripe.asked_for("/v1/checkout/sessions")) == 2


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/keys", b'{"name":"two"}'), (CHECKOUT, TEN_USD), ("/v1/billing/portal", b"{}")]
)
async def test_the_key_of_another_request_is_422_and_nothing_is_made(
    door: Door, stripe: FakeStripe, path: str, body: bytes
) -> None:
    account_id = await door.account()
    key = await door.key(account_id)
    await door.post(b"{}", key, "/v1/keys", idempotency_key="k1")
    refused = await door.post(body, key, path, idempotency_key="k1")
    assert (refused.status_code, error_of(refused)["code"]) == (422, "idempotency_mismatch")
    assert len(await door.gateway.keys.list(account_id)) == 2
    assert stripe.asked == []


async def test_while_the_first_is_answered_the_second_is_409_and_later_the_first_s_answer(
    door: Door, stripe: FakeStripe
) -> None:
    key = await door.key()
    stripe.gate.clear()
    first = asyncio.ensure_future(door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1"))
    assert await asyncio.to_thread(stripe.has_arrived.wait, PATIENCE_S)
    second = await door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1")
    assert (second.status_code, error_of(second)["code"]) == (409, "conflict")
    stripe.gate.set()
    answer = await first
    third = await door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1")
    assert third.json() == answer.json()


async def test_keys_of_two_accounts_have_nothing_to_do_with_each_other(door: Door) -> None:
    answers = [await door.post(b"{}", await door.key(), "/v1/keys", idempotency_key="same") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert all("key" in answer.json() for answer in answers)


async def test_a_request_that_failed_may_be_sent_again_under_its_key(door: Door, stripe: FakeStripe) -> None:
    key = await door.key()
    stripe.failure = 429, {"error": {"type": "invalid_request_error", "message": "slow down", "code": "rate_limit"}}
    assert (await door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1")).status_code == 502
    stripe.failure = None
    again = await door.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1")
    assert again.status_code == 201
    assert "idempotent-replayed" not in again.headers


async def test_two_at_once_make_one(door: Door) -> None:
    account_id = await door.account()
    key = await door.key(account_id)
    answers = await asyncio.gather(*(door.post(b"{}", key, "/v1/keys", idempotency_key="k1") for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert [answer for answer in answers if "key" in answer.json()]
    assert len(await door.gateway.keys.list(account_id)) == 2


@each("value", ["", "two words", "é", "x" * 256])
async def test_a_header_that_is_no_key_is_400(door: Door, value: str) -> None:
    key = await door.key()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    pairs = [*headers.items(), ("idempotency-key", value.encode("latin-1"))]
    refused = await door.http.post("/v1/keys", content=b"{}", headers=pairs)  # type: ignore[arg-type]
    assert (refused.status_code, error_of(refused)["param"]) == (400, "Idempotency-Key")


async def test_two_headers_are_400(door: Door) -> None:
    key = await door.key()
    pairs = [("authorization", f"Bearer {key}"), ("content-type", "application/json")]
    pairs += [("idempotency-key", "a"), ("idempotency-key", "b")]
    assert (await door.http.post("/v1/keys", content=b"{}", headers=pairs)).status_code == 400


# Inference: no answer is kept


CHAT = orjson.dumps({"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}]})
SLOW = orjson.dumps({"model": "demo/paced", "messages": [{"role": "user", "content": "a b c d"}], "stream": True})


async def test_a_chat_that_is_sent_again_is_answered_anew_and_its_record_names_the_first(door: Door) -> None:
    key = await door.key()
    first, again, third = [await door.post(CHAT, key, idempotency_key="chat-1") for _ in range(3)]
    other = await door.post(CHAT, key, idempotency_key="chat-2")
    plain = await door.post(CHAT, key)
    ids = [answer.headers["x-request-id"] for answer in (first, again, third, other, plain)]
    assert "idempotent-replayed" not in again.headers
    for answer in (first, again, third, other, plain):
        await door.record(answer)
    listed = {row["id"]: row["repeat_of"] for row in (await door.get("/v1/requests", key)).json()["data"]}
    assert [listed[request_id] for request_id in ids] == [None, ids[0], ids[0], None, None]
    assert (await door.get(f"/v1/requests/{ids[1]}", key)).json()["repeat_of"] == ids[0]


async def test_while_a_chat_is_answered_the_same_key_is_409_for_its_account_alone(door: Door) -> None:
    account_id = await door.account()
    keys = [await door.key(account_id), await door.key(account_id)]
    async with door.http.stream(
        "POST",
        "/v1/chat/completions",
        content=SLOW,
        headers=bearer(keys[0]) | {"content-type": "application/json", "idempotency-key": "chat-1"},
    ) as running:
        assert running.status_code == 200
        refused = await door.post(CHAT, keys[1], idempotency_key="chat-1")
        assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
        assert int(refused.headers["retry-after"]) > 0
        assert (await door.post(CHAT, await door.key(), idempotency_key="chat-1")).status_code == 200
    await door.nothing_is_left()
    assert (await door.post(CHAT, keys[1], idempotency_key="chat-1")).status_code == 200


async def test_guests_do_not_share_their_keys(door: Door) -> None:
    answers = await asyncio.gather(*(door.post(CHAT, idempotency_key="same") for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4


@pytest.mark.parametrize("key", ["x" * 256, "a b", ""])
async def test_a_chat_s_key_that_is_none_is_400(door: Door, key: str) -> None:
    answer = await door.post(CHAT, await door.key(), idempotency_key=key)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_value")


async def test_only_so_many_first_requests_are_remembered(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.core.idempotency._MAX_REMEMBERED", 3)
    for number in range(10):
        await door.post(CHAT, await door.key(), idempotency_key=f"many-{number}")
    assert len(door.gateway.repeats._first) <= 10 + 3
    assert not door.gateway.repeats._in_flight._places
