"""Two gateways on one PostgreSQL and one Valkey, as whoever is sent to either of them sees them: each step may come to
another, and what is done once is done once.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx2
import pytest

from mcp_gateway.core.identity.oidc.browser_sign_in import CALLBACK
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.service_notice import SwitchMaintenance
from mcp_gateway.core.store.postgres.store import PostgresStore
from tests.databases import store_of
from tests.doors.test_oauth import PUBLIC, error_in, is_let_in, new_reader, refreshed, tokens_of
from tests.doors.test_oauth import registered as registered_client
from tests.doors.test_oidc_browser import CLIENT, ENVIRON, led_back, me, signed_in
from tests.doors.test_people import cheap, email, login, registered
from tests.fake_issuer import FakeIssuer
from tests.fake_stripe import FakeStripe, event, session, settings_of, signed
from tests.patience import PATIENCE_S, becomes, eventually
from tests.postgres_stores import lent_database
from tests.replaying import ReplayingBackend, held, unary
from tests.serving import BASE_URL, FREE, NO_TLS, Door, bearer, error_of, open_door

pytestmark = pytest.mark.engines

CHECKOUT, WEBHOOK = "/v1/billing/checkout", "/v1/billing/webhook"
TEN_USD = b'{"amount_usd":"10.00"}'


class Pair(NamedTuple):
    """`either` is asked by turns: each request of it comes to another one than the last."""

    one: Door
    two: Door
    either: Door


@asynccontextmanager
async def pair(folder: Path, valkey_url: str, **settings: Any) -> AsyncIterator[Pair]:
    with lent_database() as url:
        shared = {"database_url": url, "valkey_url": valkey_url} | settings
        async with (
            open_door(folder / "one", **dict(shared)) as one,
            open_door(folder / "two", **dict(shared)) as two,
            by_turns(one, two) as either,
        ):
            for door in (one, two):
                store = cast(PostgresStore, store_of(door.gateway))
                await eventually(lambda store=store: store.hears_others)  # type: ignore[misc]
            yield Pair(one, two, either)
            for door in (one, two):
                await door.nothing_is_left()


@asynccontextmanager
async def by_turns(*doors: Door) -> AsyncIterator[Door]:
    ports = cycle(door.port for door in doors)

    async def send_elsewhere(request: httpx2.Request) -> None:
        request.url = request.url.copy_with(port=next(ports))
        request.headers["host"] = f"127.0.0.1:{request.url.port}"

    async with httpx2.AsyncClient(
        base_url=doors[0].url,
        timeout=PATIENCE_S,
        verify=NO_TLS,
        trust_env=False,
        event_hooks={"request": [send_elsewhere]},
    ) as http:
        yield dataclasses.replace(doors[0], http=http)


def statuses(*answers: httpx2.Response) -> list[int]:
    return [answer.status_code for answer in answers]


# What a caller repeats


async def test_what_is_asked_of_both_at_once_is_made_once(valkey_url: str, tmp_path: Path) -> None:
    async with pair(tmp_path, valkey_url) as (one, two, either):
        account_id = await one.account()
        key = await one.key(account_id)
        asked = [door.post(b"{}", key, "/v1/keys", idempotency_key="k1") for door in (one, two)]
        told = await asyncio.gather(*asked)
        assert 201 in statuses(*told)
        assert {answer.status_code for answer in told} <= {201, 409}
        again = [await either.post(b"{}", key, "/v1/keys", idempotency_key="k1") for _ in range(2)]
        assert [answer.headers["idempotent-replayed"] for answer in again] == ["true"] * 2
        assert len(await two.gateway.keys.list(account_id)) == 2


async def test_a_chat_that_one_answers_the_other_refuses_until_it_has_ended(valkey_url: str, tmp_path: Path) -> None:
    async with (
        ReplayingBackend() as backend,
        pair(tmp_path, valkey_url, vllm_urls=[backend.url], models=[FREE]) as (one, two, _),
    ):
        key, go_on = await one.key(), asyncio.Event()
        body = b'{"model": "free/tiny", "messages": [{"role": "user", "content": "hi"}]}'
        backend.answer_with(held(go_on, unary()))
        running = asyncio.ensure_future(one.post(body, key, idempotency_key="c1"))
        await eventually(lambda: backend.asked)
        refused = await two.post(body, key, idempotency_key="c1")
        assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
        assert refused.headers["retry-after"] == "1"
        go_on.set()
        first = await running
        again = await becomes(
            lambda: two.post(body, key, idempotency_key="c1"), lambda answer: answer.status_code != 409
        )
        assert (first.status_code, again.status_code) == (200, 200)
        row = await becomes(
            lambda: two.get(f"/v1/requests/{again.headers['x-request-id']}", key),
            lambda answer: answer.status_code == 200 and answer.json()["repeat_of"] is not None,
        )
        assert row.json()["repeat_of"] == first.headers["x-request-id"]


async def test_checkouts_at_both_have_one_customer_and_one_payment_is_credited_once(
    valkey_url: str, tmp_path: Path, stripe: FakeStripe
) -> None:
    async with pair(tmp_path, valkey_url, stripe=settings_of(stripe)) as (one, two, either):
        account_id = await one.account()
        key = await one.key(account_id)
        await asyncio.gather(*(door.post(TEN_USD, key, CHECKOUT) for door in (one, two)))
        first, again = [await either.post(TEN_USD, key, CHECKOUT, idempotency_key="order-1") for _ in range(2)]
        assert first.json() == again.json()
        customers = {asked.form["customer"] for asked in stripe.asked_for("/v1/checkout/sessions")}
        assert customers == {row[0] for row in await one.rows("SELECT customer_id FROM stripe_customers")}
        paid = event("checkout.session.completed", session(account_id, 1000))
        told = [door.post(paid, None, WEBHOOK, stripe_signature=signed(paid)) for door in (one, two, one)]
        assert statuses(*await asyncio.gather(*told)) == [200] * 3
        for door in (one, two):
            assert await door.balance_nano(account_id) == parse_usd("10")


# What the operator says


async def test_maintenance_that_one_is_told_holds_at_both(valkey_url: str, tmp_path: Path) -> None:
    async with pair(tmp_path, valkey_url) as (one, two, either):
        admin, key = await one.admin_key(), await one.key()
        for path, body in (("maintenance", {"enabled": True}), ("incident", {"text": "A disk is full."})):
            assert (await one.http.put(f"/v1/admin/{path}", headers=bearer(admin), json=body)).status_code == 200
        await eventually(lambda: two.gateway.notices.incident == "A disk is full.")
        refused = [await either.chat(key, model="demo/echo") for _ in range(2)]
        assert [error_of(answer)["code"] for answer in refused] == ["maintenance"] * 2
        assert [(await either.http.get("/stats")).json()["incident"] for _ in range(2)] == ["A disk is full."] * 2
        told = [(await either.get("/v1/admin/service", admin)).json()["switched"] for _ in range(2)]
        assert told == [{"maintenance": True, "incident": "A disk is full."}] * 2
        await (await one.desk()).server.decide(SwitchMaintenance(is_on=False))
        await eventually(lambda: not any(door.gateway.lifecycle.is_in_maintenance for door in (one, two)))
        assert statuses(*[await either.chat(key, model="demo/echo") for _ in range(2)]) == [200, 200]


# How people and programs come in


async def test_a_person_who_signs_in_at_one_is_known_to_both_until_they_sign_out_at_either(
    valkey_url: str, tmp_path: Path
) -> None:
    async with pair(tmp_path, valkey_url, users={"registration": "open"}) as (one, two, either):
        for door in (one, two):
            cheap(door)
        address = email()
        await registered(either, address)
        token = (await login(either, address)).json()["token"]
        for _ in range(4):
            assert (await either.get("/auth/me", token)).json()["email"] == address
        assert (await either.http.post("/auth/logout", headers=bearer(token))).status_code == 200
        for door in (one, two):
            gone = await becomes(lambda door=door: door.get("/auth/me", token), lambda told: told.status_code == 401)  # type: ignore[misc]
            assert error_of(gone)["code"] == "expired_session"


async def test_a_program_is_let_in_whichever_of_them_each_step_comes_to(valkey_url: str, tmp_path: Path) -> None:
    settings = {"public_url": PUBLIC, "oauth": {"enabled": True}, "users": {"registration": "open"}}
    async with pair(tmp_path, valkey_url, **settings) as (one, two, either):
        for door in (one, two):
            cheap(door)
        reader = await new_reader(either)
        client_id = (await registered_client(either))["client_id"]
        tokens = await tokens_of(either, reader, client_id)
        assert [await is_let_in(either, tokens["access_token"]) for _ in range(2)] == [True] * 2
        before = tokens["refresh_token"]
        for _ in range(3):
            tokens = (await refreshed(either, client_id, tokens["refresh_token"])).json()
            assert [await is_let_in(either, tokens["access_token"]) for _ in range(2)] == [True] * 2
        stolen = await refreshed(either, client_id, before)
        assert error_in(stolen) == (400, "invalid_grant")
        for door in (one, two):
            await becomes(lambda door=door: is_let_in(door, tokens["access_token"]), lambda is_in: not is_in)  # type: ignore[misc]


async def test_a_browser_that_the_issuer_sends_back_may_come_to_another(valkey_url: str, tmp_path: Path) -> None:
    async with FakeIssuer(redirects={BASE_URL + CALLBACK}).serving() as fake:
        settings = {
            "public_url": BASE_URL,
            "oidc": {"issuer": fake.url, "creates_users": True} | CLIENT,
            "environ": ENVIRON,
        }
        async with pair(tmp_path, valkey_url, **settings) as (_, __, either):
            for _ in range(2):
                cookie = await signed_in(either)
                assert statuses(*[await me(either, cookie) for _ in range(2)]) == [200, 200]
                await led_back(either)  # an odd number of requests: the next begins at the other
