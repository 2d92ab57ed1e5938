"""People over HTTP: how they come in and go, what their tokens and cookies open, and what an attacker is told."""

import asyncio
import base64
import hmac
import io
import json
import logging
import re
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from http_api.program import _greeting, first_secret
from mcp_gateway.core.caller import ROLES
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.passwords import Passwords
from mcp_gateway.core.identity.people import People
from mcp_gateway.core.identity.sessions import NoteSeen
from mcp_gateway.core.identity.sign_in import SignedIn
from mcp_gateway.core.ids import new_id, now_ms
from tests.cases import each
from tests.databases import store_of
from tests.logged import lines_logged
from tests.patience import eventually
from tests.serving import Door, error_of, fresh_guest, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "a quiet river in May"
OTHER = "another river in June"
COOKIE = "__Host-gw_console"
_numbers = count(1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("people"), users={"registration": "open"}) as door:
        cheap(door)
        yield door
        await door.nothing_is_left()


def cheap(door: Door) -> None:
    """Hashes that take no 16 ms: what they cost is told of elsewhere."""
    door.gateway.sign_in._passwords.close()
    door.gateway.sign_in._passwords = Passwords(time_cost=1, memory_kib=8)


def email() -> str:
    return f"user{next(_numbers)}@example.com"


async def post(door: Door, path: str, body: Any = None, **headers: str) -> httpx2.Response:
    named = fresh_guest() | {name.replace("_", "-"): value for name, value in headers.items()}
    return await door.http.post(path, json={} if body is None else body, headers=named)


async def registered(door: Door, address: str | None = None, password: str = PASSWORD) -> dict[str, Any]:
    response = await post(door, "/auth/register", {"email": address or email(), "password": password})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    door.http.cookies.clear()
    return body


async def login(door: Door, address: str, password: str = PASSWORD, **headers: str) -> httpx2.Response:
    response = await post(door, "/auth/login", {"email": address, "password": password}, **headers)
    door.http.cookies.clear()
    return response


def code_of(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, error_of(response)["code"]


# In and out


async def test_who_registers_is_signed_in_and_owns_an_account(door: Door) -> None:
    response = await post(door, "/auth/register", {"email": " Ann@Example.COM ", "password": PASSWORD})
    door.http.cookies.clear()
    body = response.json()
    assert response.status_code == 201
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 900)
    assert (body["user"]["email"], body["user"]["role"], body["user"]["administrator"]) == (
        "ann@example.com",
        "owner",
        False,
    )
    me = await door.get("/auth/me", body["token"])
    assert me.json() == body["user"] | {"session_id": body["session_id"], "signed_in_by": "password"}


@each("prefix", ["", "/v1", "/api/v1/inference"])
async def test_a_person_signs_in_under_each_base_path_and_the_token_works_wherever_a_key_does(
    door: Door, prefix: str
) -> None:
    address = (await registered(door))["user"]["email"]
    response = await post(door, f"{prefix}/auth/login", {"email": address.upper(), "password": PASSWORD})
    door.http.cookies.clear()
    token = response.json()["token"]
    for path in ("/v1/keys", "/v1/limits", "/v1/billing", "/v1/requests", "/v1/usage", "/api/v1/inference/usage"):
        assert (await door.get(path, token)).status_code == 200, path
    assert (await door.http.get("/v1/limits", headers={"x-api-key": token})).json()["is_guest"] is False


async def test_a_token_chats_for_its_account_by_both_doors_within_its_limits(door: Door) -> None:
    body = await registered(door)
    chat = await door.chat(body["token"], model="demo/echo")
    assert chat.status_code == 200, chat.text
    assert chat.headers["x-ratelimit-limit"] == "60"
    record = await door.record(chat)
    assert (record["account_id"], record["key_id"]) == (body["user"]["account_id"], None)
    tool = await door.call(
        "chat_completion", body["token"], model="demo/echo", messages=[{"role": "user", "content": "x"}]
    )
    assert tool.json()["result"]["isError"] is False, tool.text
    limits = (await door.get("/v1/limits", body["token"])).json()
    assert limits["is_guest"] is False


async def test_a_sign_out_ends_the_session_its_cookie_and_all_of_its_tokens_and_no_other_session(door: Door) -> None:
    body = await registered(door)
    again = (await login(door, body["user"]["email"])).json()
    refreshed = (await post(door, "/auth/refresh", authorization=f"Bearer {body['token']}")).json()["token"]
    out = await post(door, "/auth/logout", authorization=f"Bearer {refreshed}")
    assert out.status_code == 200
    assert "Max-Age=0" in out.headers["set-cookie"]
    for token in (body["token"], refreshed):
        assert code_of(await door.get("/auth/me", token)) == (401, "expired_session")
        assert code_of(await door.get("/v1/models", token)) == (401, "expired_session")
    assert (await door.get("/auth/me", again["token"])).status_code == 200


async def test_what_another_process_ends_is_ended_here_by_the_next_look(door: Door) -> None:
    body = await registered(door)
    assert (await door.get("/auth/me", body["token"])).status_code == 200
    desk = await door.desk()
    await desk.people.set_active(body["user"]["id"], is_active=False)
    await door.gateway.known_keys.catch_up()
    assert code_of(await door.get("/auth/me", body["token"])) == (401, "expired_session")
    assert code_of(await login(door, body["user"]["email"])) == (401, "invalid_credentials")
    await desk.people.set_active(body["user"]["id"], is_active=True)
    assert (await login(door, body["user"]["email"])).status_code == 200


async def test_the_users_of_an_account_that_is_switched_off_are_told_so(door: Door) -> None:
    body = await registered(door)
    await (await door.desk()).accounts.change(body["user"]["account_id"], is_active=False)
    await door.gateway.known_keys.catch_up()
    assert code_of(await door.get("/v1/limits", body["token"])) == (403, "account_deactivated")


async def test_sessions_are_listed_and_ended_one_by_one_or_all_but_the_one_that_asks(door: Door) -> None:
    body = await registered(door)
    others = [(await login(door, body["user"]["email"], user_agent=f"browser {n}")).json() for n in range(3)]
    listed = (await door.get("/auth/sessions", body["token"])).json()["data"]
    assert len(listed) == 4
    assert [one["id"] for one in listed if one["current"]] == [body["session_id"]]
    assert {one["agent"] for one in listed} >= {"browser 0", "browser 1", "browser 2"}
    assert all(one["network"].endswith(".0/24") for one in listed)
    ended = await door.http.delete(
        f"/auth/sessions/{others[0]['session_id']}", headers={"authorization": f"Bearer {body['token']}"}
    )
    assert ended.json() == {"ended": 1}
    assert code_of(await door.get("/auth/me", others[0]["token"])) == (401, "expired_session")
    rest = await door.http.delete("/auth/sessions", headers={"authorization": f"Bearer {body['token']}"})
    assert rest.json() == {"ended": 2}
    assert code_of(await door.get("/auth/me", others[1]["token"])) == (401, "expired_session")
    assert (await door.get("/auth/me", body["token"])).status_code == 200


async def test_the_session_of_another_user_is_404(door: Door) -> None:
    ann, bob = await registered(door), await registered(door)
    refused = await door.http.delete(
        f"/auth/sessions/{bob['session_id']}", headers={"authorization": f"Bearer {ann['token']}"}
    )
    assert code_of(refused) == (404, "not_found")
    assert (await door.get("/auth/me", bob["token"])).status_code == 200


@each("named", ["acc_", "ses_", "rubbish", "ses_" + "a" * 500, "ses_%C3%A9", "limits_of_", "the session of another"])
async def test_what_is_no_session_of_the_caller_s_is_404_and_nothing_of_it_is_noted(door: Door, named: str) -> None:
    ann, bob = await registered(door), await registered(door)
    others = {
        "acc_": bob["user"]["account_id"],
        "ses_": "ses_0123456789abcdef",
        "limits_of_": f"limits_of_{bob['user']['account_id']}",
        "the session of another": bob["session_id"],
    }
    noted = "SELECT COUNT(*), MAX(number) FROM identity_changes"
    before = await door.rows(noted)
    path = f"/auth/sessions/{others.get(named, named)}"
    refused = await door.http.delete(path, headers={"authorization": f"Bearer {ann['token']}"})
    assert code_of(refused) == (404, "not_found")
    assert await door.rows(noted) == before
    assert (await door.get("/auth/me", bob["token"])).status_code == 200


async def test_the_first_requests_of_a_person_may_come_at_once_after_a_restart(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is remembered before its account is known: here, while that cannot be read and then is awaited."""
    known, token = door.gateway.known_keys, (await registered(door))["token"]
    learn, go = known.learn, asyncio.Event()
    waiting: list[str] = []

    async def slow(account_id: str) -> None:
        waiting.append(account_id)
        await go.wait()
        await learn(account_id)

    async def failing(account_id: str) -> None:
        raise GatewayError("ledger_unavailable", "not now")

    monkeypatch.setattr(known, "learn", failing)
    for _ in range(2):
        assert (await door.get("/v1/limits", token)).status_code == 503
    monkeypatch.setattr(known, "learn", slow)
    asked = [asyncio.create_task(door.get("/v1/limits", token)) for _ in range(4)]
    await eventually(lambda: len(waiting) == 4)
    go.set()
    assert [response.status_code for response in await asyncio.gather(*asked)] == [200] * 4


# Keys


async def test_a_person_makes_sees_and_ends_keys_of_their_account_and_of_no_other(door: Door) -> None:
    ann, bob = await registered(door), await registered(door)
    for path in ("/auth/keys", "/v1/keys"):
        made = await post(door, path, {"name": "mine"}, authorization=f"Bearer {ann['token']}")
        assert made.status_code == 201, made.text
    assert len((await door.get("/auth/keys", ann["token"])).json()["data"]) == 2
    assert (await door.get("/auth/keys", bob["token"])).json()["data"] == []
    key = made.json()
    assert (await door.get("/v1/limits", key["key"])).status_code == 200
    assert code_of(await door.get(f"/v1/keys/{key['id']}", bob["token"])) == (404, "not_found")
    ended = await door.http.delete(f"/v1/keys/{key['id']}", headers={"authorization": f"Bearer {ann['token']}"})
    assert ended.status_code == 200
    assert code_of(await door.get("/v1/limits", key["key"])) == (401, "revoked_api_key")


async def test_a_key_of_a_person_may_no_more_than_a_key_of_the_account_by_default(door: Door) -> None:
    token = (await registered(door))["token"]
    for wanted in (
        {"mint_over_mcp": True},
        {"mcp_servers": ["*"]},
        {"requests_per_minute": 61},
        {"requests_per_day": 1001},
    ):
        refused = await post(door, "/auth/keys", wanted, authorization=f"Bearer {token}")
        assert code_of(refused) == (403, "insufficient_permissions"), wanted
    assert code_of(await door.get("/v1/key", token)) == (404, "not_found")


async def test_a_key_is_no_person(door: Door) -> None:
    key = await door.key()
    for method, path in (
        ("GET", "/auth/me"),
        ("POST", "/auth/logout"),
        ("DELETE", "/auth/me"),
        ("GET", "/auth/sessions"),
    ):
        refused = await door.http.request(method, path, headers={"authorization": f"Bearer {key}"})
        assert code_of(refused) == (403, "insufficient_permissions")
        assert code_of(await door.http.request(method, path, headers=fresh_guest())) == (401, "missing_credentials")


async def test_roles_bound_what_a_person_may(door: Door) -> None:
    account_id = await door.account("5")
    desk = await door.desk()
    seen = {}
    for role in ROLES:
        address = email()
        secret = await desk.people.invite(address, account_id=account_id, role=role)
        body = {"email": address, "password": PASSWORD, "token": secret.raw}
        token = (await post(door, "/auth/register", body)).json()["token"]
        door.http.cookies.clear()
        seen[role] = [
            (await door.get("/v1/requests", token)).status_code,
            (await door.get("/v1/keys", token)).status_code,
            (await door.chat(token, model="demo/echo")).status_code,
            (await post(door, "/v1/billing/portal", authorization=f"Bearer {token}")).status_code,
        ]
    assert seen == {"owner": [200, 200, 200, 501], "member": [200, 200, 200, 403], "viewer": [200, 403, 403, 403]}


# Passwords


async def test_a_new_password_ends_the_other_sessions_and_the_old_one(door: Door) -> None:
    body = await registered(door)
    other = (await login(door, body["user"]["email"])).json()
    bearer = f"Bearer {body['token']}"
    wrong = await post(door, "/auth/password", {"password": OTHER, "current_password": "x"}, authorization=bearer)
    assert code_of(wrong) == (401, "invalid_credentials")
    changed = await post(
        door, "/auth/password", {"password": OTHER, "current_password": PASSWORD}, authorization=bearer
    )
    assert changed.json() == {"changed": True}
    assert (await door.get("/auth/me", body["token"])).status_code == 200
    assert code_of(await door.get("/auth/me", other["token"])) == (401, "expired_session")
    assert code_of(await login(door, body["user"]["email"])) == (401, "invalid_credentials")
    assert (await login(door, body["user"]["email"], OTHER)).status_code == 200


async def test_a_forgotten_password_is_set_by_a_secret_that_works_once(door: Door) -> None:
    body = await registered(door)
    people = (await door.desk()).people
    first = await people.password_secret(body["user"]["id"])
    secret = await people.password_secret(body["user"]["id"])
    for raw in (first.raw, "gw_reset_" + "A" * 43, "x"):
        assert code_of(await post(door, "/auth/password", {"password": OTHER, "token": raw})) == (400, "invalid_value")
    weak = await post(door, "/auth/password", {"password": "short", "token": secret.raw})
    assert code_of(weak) == (400, "invalid_value")
    assert (await post(door, "/auth/password", {"password": OTHER, "token": secret.raw})).status_code == 200
    again = await post(door, "/auth/password", {"password": PASSWORD, "token": secret.raw})
    assert code_of(again) == (400, "invalid_value")
    assert code_of(await door.get("/auth/me", body["token"])) == (401, "expired_session")
    assert (await login(door, body["user"]["email"], OTHER)).status_code == 200


@each("password", ["short", "x" * 129, "password1234", "123456789012", "qwertyuiop12", "aaaaaaaaaaaa", "iloveyou1234"])
async def test_a_password_that_is_guessed_first_is_refused(door: Door, password: str) -> None:
    refused = await post(door, "/auth/register", {"email": email(), "password": password})
    assert code_of(refused) == (400, "invalid_value")
    assert error_of(refused)["param"] == "password"


@each("body", [{}, {"password": OTHER}, {"password": OTHER, "token": "x", "current_password": "y"}])
async def test_a_password_is_changed_by_one_proof(door: Door, body: dict[str, str]) -> None:
    assert code_of(await post(door, "/auth/password", body)) == (400, "missing_parameter")


@each(
    "address",
    ["", "ann", "ann@", "@example.com", "a b@example.com", "ann@exa mple.com", "ann@example..com", "a" * 65 + "@b.c"],
)
async def test_what_is_no_address_is_refused_when_it_registers(door: Door, address: str) -> None:
    assert code_of(await post(door, "/auth/register", {"email": address, "password": PASSWORD})) == (
        400,
        "invalid_value",
    )
    assert code_of(await login(door, address)) == (401, "invalid_credentials")


async def test_one_address_is_one_user_however_it_is_written(door: Door) -> None:
    await registered(door, "jörg@exämple.com")
    for written in ("JÖRG@EXÄMPLE.COM", "jörg@xn--exmple-cua.com", " jo\u0308rg@exa\u0308mple.com"):
        assert code_of(await post(door, "/auth/register", {"email": written, "password": PASSWORD})) == (
            409,
            "conflict",
        )
        assert (await login(door, written)).status_code == 200


# What an attacker sees


async def test_an_unknown_user_and_a_wrong_password_are_told_alike_and_cost_the_same_work(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = (await registered(door))["user"]["email"]
    compared: list[str] = []
    compare = Passwords._compare

    def counted(passwords: Passwords, password: str, known_hash: str) -> bool:
        compared.append(known_hash[:20])
        return compare(passwords, password, known_hash)

    monkeypatch.setattr(Passwords, "_compare", counted)
    wrong, unknown = await login(door, known, "x" * 20), await login(door, email(), "x" * 20)
    assert (wrong.status_code, wrong.json()) == (unknown.status_code, unknown.json())
    assert wrong.headers.keys() == unknown.headers.keys()
    assert len(compared) == 2
    assert compared[0] == compared[1], "with the same parameters"


async def test_after_five_failures_a_user_waits_known_or_not_and_a_thousand_at_once_count_each(door: Door) -> None:
    for address in ((await registered(door))["user"]["email"], email()):
        answers = await asyncio.gather(*(login(door, address, "x" * 20) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 3
        refused = await login(door, address)
        assert code_of(refused) == (429, "too_many_sign_ins")
        assert int(refused.headers["retry-after"]) == 1
        door.clock.now_s += 2
        assert code_of(await login(door, address, "x" * 20)) == (401, "invalid_credentials")
        assert int((await login(door, address)).headers["retry-after"]) == 2


async def test_a_user_comes_in_from_where_they_came_in_before_whoever_tries_elsewhere(door: Door) -> None:
    address, home = (await registered(door))["user"]["email"], {"x_forwarded_for": "203.0.113.200"}
    assert (await login(door, address, **home)).status_code == 200
    for _ in range(5):
        assert (await login(door, address, "x" * 20)).status_code == 401
    assert code_of(await login(door, address)) == (429, "too_many_sign_ins")
    assert (await login(door, address, **home)).status_code == 200
    assert code_of(await login(door, address)) == (429, "too_many_sign_ins")


async def test_the_right_password_forgets_the_failures(door: Door) -> None:
    address = (await registered(door))["user"]["email"]
    for _ in range(3):
        for _ in range(4):
            assert (await login(door, address, "x" * 20)).status_code == 401
        assert (await login(door, address)).status_code == 200


async def test_an_address_tries_twenty_times_a_minute(door: Door) -> None:
    here = {"x_forwarded_for": "203.0.113.77"}
    tries = [(await login(door, email(), "x" * 20, **here)).status_code for _ in range(21)]
    assert tries == [401] * 20 + [429]
    assert code_of(await post(door, "/auth/register", {"email": email(), "password": PASSWORD}, **here)) == (
        429,
        "too_many_sign_ins",
    )
    assert (await login(door, email(), "x" * 20)).status_code == 401
    door.clock.now_s += 60
    assert (await login(door, email(), "x" * 20, **here)).status_code == 401


async def test_nothing_that_lets_somebody_in_is_kept_or_logged(door: Door) -> None:
    with lines_logged(logging.DEBUG) as lines:
        response = await post(door, "/auth/register", {"email": email(), "password": PASSWORD})
        await login(door, response.json()["user"]["email"], "a wrong password of mine")
        secret = await (await door.desk()).people.password_secret(response.json()["user"]["id"])
    cookie = response.headers["set-cookie"].partition("=")[2].partition(";")[0]
    door.http.cookies.clear()
    kept = await door.kept()
    for canary in (PASSWORD, "a wrong password of mine", cookie, response.json()["token"], secret.raw):
        assert not any(canary in line for line in lines)
        assert canary.encode() not in kept


async def test_a_cookie_that_somebody_brings_along_is_not_taken_over_by_a_sign_in(door: Door) -> None:
    """So nobody can have another one use a session that they know."""
    address = (await registered(door))["user"]["email"]
    fixed = "gws_" + "A" * 43
    response = await login(door, address, cookie=f"{COOKIE}={fixed}")
    assert response.status_code == 200
    assert fixed not in response.headers["set-cookie"]
    refused = await door.http.get("/auth/me", headers={"cookie": f"{COOKIE}={fixed}"})
    assert code_of(refused) == (401, "expired_session")


# Cookies and pages


async def cookie_of(door: Door) -> str:
    response = await post(door, "/auth/register", {"email": email(), "password": PASSWORD})
    door.http.cookies.clear()
    header = response.headers["set-cookie"]
    assert header.startswith(f"{COOKIE}=gws_")
    assert {"Path=/", "HttpOnly", "SameSite=Lax", "Secure"} <= set(header.split("; "))
    assert "Domain" not in header
    return header.partition(";")[0]


@each(
    ("sent", "is_taken_there", "is_taken_by_the_api"),
    [
        ({"sec-fetch-site": "same-origin"}, True, True),
        ({"sec-fetch-site": "none"}, True, False),
        ({}, True, False),
        ({"sec-fetch-site": "same-site"}, False, False),
        ({"sec-fetch-site": "cross-site"}, False, False),
        ({"origin": "null"}, False, False),
        ({"origin": "http://127.0.0.1:1"}, False, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, False, False),
    ],
)
async def test_a_cookie_is_taken_from_pages_of_the_gateway_alone(
    door: Door, sent: dict[str, str], is_taken_there: bool, is_taken_by_the_api: bool
) -> None:
    headers = fresh_guest() | {"cookie": f"a=b; {await cookie_of(door)}"} | sent
    assert ((await door.http.get("/auth/me", headers=headers)).status_code == 200) is is_taken_there
    for prefix in ("/v1", "/api/v1/inference"):
        limits = await door.http.get(f"{prefix}/limits", headers=headers)
        assert limits.json()["is_guest"] is not is_taken_by_the_api
    out = await door.http.post("/auth/logout", json={}, headers=headers)
    if is_taken_there:
        assert out.status_code == 200
    else:
        assert code_of(out) == (403, "foreign_origin")


@each("path", ["/auth/login", "/auth/register", "/auth/password", "/auth/keys", "/auth/logout", "/auth/refresh"])
async def test_no_page_of_others_signs_anybody_in_or_out(door: Door, path: str) -> None:
    for sent in ({"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}, {"origin": "null"}):
        assert code_of(await post(door, path, {}, **sent)) == (403, "foreign_origin")


async def test_an_authorization_stands_before_a_cookie(door: Door) -> None:
    cookie, other = await cookie_of(door), await registered(door)
    me = await door.http.get(
        "/auth/me",
        headers={"cookie": cookie, "authorization": f"Bearer {other['token']}", "sec-fetch-site": "same-origin"},
    )
    assert me.json()["id"] == other["user"]["id"]


async def test_a_cookie_whose_session_is_over_is_401_and_a_guest_where_everybody_may_ask(door: Door) -> None:
    cookie = await cookie_of(door)
    headers = {"cookie": cookie, "sec-fetch-site": "same-origin"} | fresh_guest()
    assert (await door.http.post("/auth/logout", json={}, headers=headers)).status_code == 200
    door.http.cookies.clear()
    assert code_of(await door.http.get("/v1/limits", headers=headers)) == (401, "expired_session")
    assert (await door.http.get("/v1/models", headers=headers)).status_code == 200


# Two credentials


async def test_two_credentials_of_one_account_are_the_key_and_of_two_accounts_401(door: Door) -> None:
    ann, bob = await registered(door), await registered(door)
    key = (await post(door, "/auth/keys", {}, authorization=f"Bearer {ann['token']}")).json()
    for first, second in ((ann["token"], key["key"]), (key["key"], ann["token"])):
        told = await door.http.get("/v1/key", headers={"authorization": f"Bearer {first}", "x-api-key": second})
        assert told.status_code == 200, "the key counts"
    for others in (bob["token"], await door.key()):
        for first, second in ((others, key["key"]), (key["key"], others)):
            headers = {"authorization": f"Bearer {first}", "x-api-key": second}
            assert code_of(await door.http.get("/v1/limits", headers=headers)) == (401, "invalid_api_key")
        lines = [(b"authorization", f"Bearer {one}".encode()) for one in (key["key"], others)]
        assert code_of(await door.http.get("/v1/limits", headers=lines)) == (401, "invalid_api_key")


@each("junk", ["eyJhbGciOiJub25lIn0.e30.", "sk-1234", "gw_live_" + "A" * 43])
async def test_what_is_no_credential_of_ours_is_passed_over_beside_a_token(door: Door, junk: str) -> None:
    token = (await registered(door))["token"]
    for headers in (
        {"authorization": f"Bearer {token}", "x-api-key": junk},
        {"authorization": f"Bearer {junk}", "x-api-key": token},
    ):
        assert (await door.http.get("/auth/me", headers=headers)).status_code == 200


# Tokens


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def parts_of(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, claims = (json.loads(base64.urlsafe_b64decode(text + "==")) for text in token.split(".")[:2])
    return head, claims


async def forged(door: Door, token: str) -> AsyncIterator[tuple[str, str]]:
    """Tokens that are not ours, or not as we make them."""
    head, claims = parts_of(token)
    ((secret,),) = await door.rows("SELECT secret FROM signing_keys")

    def signed(head: dict[str, Any], claims: Any, key: bytes = secret, digest: str = "sha256") -> str:
        text = f"{part(head)}.{part(claims)}"
        return f"{text}.{part(hmac.new(key, text.encode(), digest).digest())}"

    yield "none", f"{part(head | {'alg': 'none'})}.{part(claims)}."
    yield "unsigned", f"{part(head)}.{part(claims)}."
    yield "another key", signed(head, claims, b"x" * 32)
    yield "another algorithm", signed(head | {"alg": "HS512"}, claims, digest="sha512")
    yield "no kid", signed({name: value for name, value in head.items() if name != "kid"}, claims)
    yield "unknown kid", signed(head | {"kid": "sgn_none"}, claims)
    yield "odd kid", signed(head | {"kid": 7}, claims)
    yield "an ID token", signed(head | {"typ": "JWT"}, claims)
    for name in ("iss", "aud"):
        yield f"another {name}", signed(head, claims | {name: "https://evil.example"})
    for name in ("iss", "aud", "exp", "sub", "sid"):
        yield f"no {name}", signed(head, {key: value for key, value in claims.items() if key != name})
    yield "no object", signed(head, [claims])
    yield "another's session", signed(head, claims | {"sub": "usr_other"})
    yield "no session", signed(head, claims | {"sid": "ses_none"})
    yield "over", signed(head, claims | {"exp": 1_000_000_000})
    yield "changed", token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    yield "long", token + "A" * 100_000
    yield "a part", token.rpartition(".")[0]
    yield "rubbish", "eyJ" + "é" * 10
    yield "dots", "eyJ..."


async def test_a_token_that_is_not_ours_or_not_as_we_made_it_is_401(door: Door) -> None:
    token = (await registered(door))["token"]
    names = []
    async for name, text in forged(door, token):
        if len(text) > 10_000:
            continue  # no head holds it
        response = await door.http.get("/v1/limits", headers=[(b"authorization", b"Bearer " + text.encode())])
        assert response.status_code == 401, name
        assert error_of(response)["code"] in ("invalid_api_key", "expired_session"), name
        names.append(name)
    assert len(names) > 20
    assert (await door.get("/auth/me", token)).status_code == 200


async def test_what_a_token_says_is_what_its_reader_may_know(door: Door) -> None:
    body = await registered(door)
    head, claims = parts_of(body["token"])
    assert head == {"alg": "HS256", "typ": "at+jwt", "kid": head["kid"]}
    assert claims == {
        "iss": "mcp-gateway",
        "aud": "mcp-gateway",
        "sub": body["user"]["id"],
        "sid": body["session_id"],
        "scope": "inference read billing manage",
        "iat": claims["iat"],
        "exp": claims["iat"] + 900,
    }


# Gone


async def test_a_user_who_deletes_themselves_leaves_the_books_and_no_name(door: Door) -> None:
    body = await registered(door)
    account_id = body["user"]["account_id"]
    key = (await post(door, "/auth/keys", {}, authorization=f"Bearer {body['token']}")).json()["key"]
    by_operator = await door.key(account_id)
    await door.gateway.ledger.credit(account_id, 5_000_000_000, "paid before")
    for raw in (key, by_operator):
        assert (await door.get("/v1/limits", raw)).status_code == 200
    gone = await door.http.delete("/auth/me", headers={"authorization": f"Bearer {body['token']}"})
    assert gone.json() == {"id": body["user"]["id"], "deleted": True}
    assert code_of(await door.get("/auth/me", body["token"])) == (401, "expired_session")
    for raw in (key, by_operator):
        assert code_of(await door.get("/v1/limits", raw)) == (401, "revoked_api_key")
    assert code_of(await login(door, body["user"]["email"])) == (401, "invalid_credentials")
    assert await door.rows("SELECT name FROM accounts WHERE id = ?", account_id) == [("",)]
    assert await door.balance_nano(account_id) == 5_000_000_000
    await registered(door, body["user"]["email"])


async def test_with_one_of_several_users_of_an_account_go_their_keys_alone(door: Door) -> None:
    ann = await registered(door)
    people, address = (await door.desk()).people, email()
    secret = await people.invite(address, account_id=ann["user"]["account_id"], role="member")
    bob = (await post(door, "/auth/register", {"email": address, "password": PASSWORD, "token": secret.raw})).json()
    door.http.cookies.clear()
    hers, his = [
        (await post(door, "/auth/keys", {}, authorization=f"Bearer {one['token']}")).json()["key"] for one in (ann, bob)
    ]
    await people.delete(bob["user"]["id"])
    await door.gateway.known_keys.catch_up()
    assert code_of(await door.get("/v1/limits", his)) == (401, "revoked_api_key")
    assert (await door.get("/v1/limits", hers)).status_code == 200
    assert (await door.get("/auth/me", ann["token"])).status_code == 200


async def test_with_a_user_go_the_keys_that_their_keys_made_whichever_of_them_had_ended(door: Door) -> None:
    ann = await registered(door)
    account_id, people = ann["user"]["account_id"], (await door.desk()).people
    token = await door.person(account_id, role="owner")

    async def made(bearer: str, **fields: Any) -> dict[str, Any]:
        response = await post(door, "/v1/keys", fields, authorization=f"Bearer {bearer}")
        assert response.status_code == 201, response.text
        return dict(response.json())

    scopes = ["inference", "read", "manage"]
    first = await made(ann["token"], scopes=scopes)
    second = await made(first["key"], scopes=scopes)
    third = await made(second["key"])
    other = await made((await made(token, scopes=scopes))["key"])
    ended = await door.http.delete(f"/v1/keys/{second['id']}", headers={"authorization": f"Bearer {first['key']}"})
    assert ended.status_code == 200
    for key in (first, third, other):
        assert (await door.get("/v1/limits", key["key"])).status_code == 200
    await people.delete(ann["user"]["id"])
    await door.gateway.known_keys.catch_up()
    for key in (first, second, third):
        assert code_of(await door.get("/v1/limits", key["key"])) == (401, "revoked_api_key")
    assert (await door.get("/v1/limits", other["key"])).status_code == 200


async def test_an_address_goes_from_the_name_of_an_account_that_has_other_users_and_from_no_other_account_s(
    door: Door,
) -> None:
    ann = await registered(door)
    address, account_id = ann["user"]["email"], ann["user"]["account_id"]
    accounts = (await door.desk()).accounts
    named_alike = await accounts.create(address)
    await door.person(account_id, role="member")
    bob = await registered(door)
    colleague = await door.person(named := (await accounts.create("Smiths")).id, role="owner")
    for token in (ann["token"], colleague):
        assert (await door.http.delete("/auth/me", headers={"authorization": f"Bearer {token}"})).status_code == 200
    names = [(await accounts.get(one)).name for one in (account_id, named_alike.id, named)]
    assert names == ["", address, "Smiths"]
    assert (await accounts.get(bob["user"]["account_id"])).name == bob["user"]["email"]


async def test_an_account_that_its_last_user_has_left_is_told_nothing_more(door: Door) -> None:
    ann, bob = await registered(door), await registered(door)
    for one in (ann, bob):
        body = {"url": "https://example.com/hook", "low_balance_usd": "5"}
        put = await door.http.put("/v1/webhook", json=body, headers={"authorization": f"Bearer {one['token']}"})
        assert put.status_code == 200, put.text
    await door.http.delete("/auth/me", headers={"authorization": f"Bearer {ann['token']}"})

    async def kept(body: dict[str, Any]) -> list[int]:
        places = ("webhooks WHERE receiver", "webhook_outbox WHERE receiver", "low_balances WHERE account_id")
        account_id = body["user"]["account_id"]
        found = [await door.rows(f"SELECT COUNT(*) FROM {place} = ?", account_id) for place in places]
        return [count for ((count,),) in found]

    assert await kept(ann) == [0, 0, 0]
    assert (await kept(bob))[::2] == [1, 1]
    assert (await door.http.delete("/v1/webhook", headers={"authorization": f"Bearer {bob['token']}"})).is_success


# Accounts of one address


async def test_accounts_that_were_registered_from_one_address_share_the_limits_of_one_until_they_have_paid(
    door: Door,
) -> None:
    here = {"x_forwarded_for": "203.0.113.99"}
    accounts = []
    for _ in range(2):
        response = await post(door, "/auth/register", {"email": email(), "password": PASSWORD}, **here)
        door.http.cookies.clear()
        accounts.append(response.json())
    other = await registered(door)

    async def remaining(body: dict[str, Any]) -> int:
        response = await door.chat(body["token"], model="demo/echo")
        return int(response.headers["x-ratelimit-remaining-requests"])

    assert [await remaining(accounts[0]), await remaining(accounts[1]), await remaining(other)] == [59, 58, 59]
    await door.gateway.ledger.credit(accounts[1]["user"]["account_id"], 1_000_000_000, "paid")
    await door.gateway.known_keys.catch_up()
    assert [await remaining(accounts[1]), await remaining(accounts[0])] == [58, 57]


# Who may register


@pytest.mark.gateways
async def test_the_first_account_registers_by_itself_and_then_nobody_without_an_invitation(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with open_door(tmp_path_factory.mktemp("closed")) as door:
        cheap(door)
        firsts = await asyncio.gather(
            *(post(door, "/auth/register", {"email": email(), "password": PASSWORD}) for _ in range(4))
        )
        assert sorted(one.status_code for one in firsts) == [201, 403, 403, 403]
        assert {error_of(one)["code"] for one in firsts if one.status_code != 201} == {"registration_closed"}
        people, address = (await door.desk()).people, email()
        secret = await people.invite(address, is_administrator=True)
        body = {"password": PASSWORD, "token": secret.raw}
        assert code_of(await post(door, "/auth/register", body | {"email": email()})) == (400, "invalid_value")
        both = await asyncio.gather(*(post(door, "/auth/register", body | {"email": address}) for _ in range(2)))
        assert sorted(one.status_code for one in both) in ([201, 400], [201, 409])
        assert next(one for one in both if one.status_code == 201).json()["user"]["administrator"] is True
        assert await people.first_administrator_secret() is None


@pytest.mark.gateways
@each("registration", ["invite", "closed"])
async def test_where_nobody_registers_the_first_does_not_either_but_by_the_secret_that_a_terminal_showed(
    tmp_path_factory: pytest.TempPathFactory, registration: str
) -> None:
    async with open_door(tmp_path_factory.mktemp("first"), users={"registration": registration}) as door:
        cheap(door)
        body = {"email": email(), "password": PASSWORD}
        assert code_of(await post(door, "/auth/register", body)) == (403, "registration_closed")
        people = (await door.desk()).people
        old, secret = await people.first_administrator_secret(), await people.first_administrator_secret()
        assert old is not None
        assert secret is not None
        assert code_of(await post(door, "/auth/register", body | {"token": old.raw})) == (400, "invalid_value")
        made = await post(door, "/auth/register", body | {"token": secret.raw})
        assert (made.status_code, made.json()["user"]["administrator"]) == (201, True)
        again = {"email": email(), "password": PASSWORD, "token": secret.raw}
        assert code_of(await post(door, "/auth/register", again)) == (400, "invalid_value")


async def test_a_secret_ends_with_its_time(door: Door) -> None:
    body = await registered(door)
    before = People(store_of(door.gateway), new_id=new_id, now_ms=lambda: now_ms() - 7 * DAY_MS - 1)
    for secret in (await before.password_secret(body["user"]["id"]), await before.invite(None)):
        path = "/auth/password" if secret.raw.startswith("gw_reset") else "/auth/register"
        sent = {"password": OTHER, "token": secret.raw} | ({"email": email()} if path == "/auth/register" else {})
        assert code_of(await post(door, path, sent)) == (400, "invalid_value")


# Owners, and the first administrator


async def test_an_owner_invites_into_their_account_and_nobody_else_does(door: Door) -> None:
    owner = await registered(door)
    account_id = owner["user"]["account_id"]
    bearer = {"authorization": f"Bearer {owner['token']}"}
    address = email()
    invitation = await post(door, "/auth/invitations", {"email": address, "role": "viewer"}, **bearer)
    assert invitation.status_code == 201
    body = {"email": address, "password": PASSWORD, "token": invitation.json()["token"]}
    viewer = (await post(door, "/auth/register", body)).json()
    door.http.cookies.clear()
    assert (viewer["user"]["account_id"], viewer["user"]["role"]) == (account_id, "viewer")
    listed = (await door.get("/auth/users", owner["token"])).json()["data"]
    assert [one["email"] for one in listed] == [owner["user"]["email"], address]
    for role in ("member", "viewer"):
        token = await door.person(account_id, role="member" if role == "member" else "viewer")
        assert code_of(await door.get("/auth/users", token)) == (403, "insufficient_permissions")
        for path in ("/auth/invitations", f"/auth/users/{owner['user']['id']}/password"):
            refused = await post(door, path, authorization=f"Bearer {token}")
            assert code_of(refused) == (403, "insufficient_permissions")


async def test_an_owner_lets_their_users_choose_a_password_but_neither_strangers_nor_administrators(door: Door) -> None:
    owner, stranger = await registered(door), await registered(door)
    account_id, bearer = owner["user"]["account_id"], f"Bearer {owner['token']}"
    await door.person(account_id, role="member")
    await door.person(account_id, role="member", is_administrator=True)
    _, member, administrator = (await door.get("/auth/users", owner["token"])).json()["data"]

    async def asked(user_id: str) -> httpx2.Response:
        return await post(door, f"/auth/users/{user_id}/password", authorization=bearer)

    secret = await asked(member["id"])
    assert secret.status_code == 201
    chosen = await post(door, "/auth/password", {"password": OTHER, "token": secret.json()["token"]})
    assert chosen.status_code == 200
    assert (await login(door, member["email"], OTHER)).status_code == 200
    assert code_of(await asked(administrator["id"])) == (403, "insufficient_permissions")
    for user_id in (stranger["user"]["id"], "usr_none"):
        assert code_of(await asked(user_id)) == (404, "not_found")


@each("how", ["switched off", "deleted", "deleted by themselves"])
async def test_what_a_user_made_to_let_others_in_ends_with_them_and_nothing_of_others_does(
    door: Door, how: str
) -> None:
    owner = await registered(door)
    account_id, people = owner["user"]["account_id"], (await door.desk()).people
    token = await door.person(account_id, role="owner")
    listed = (await door.get("/auth/users", token)).json()["data"]
    other = next(one for one in listed if one["id"] != owner["user"]["id"])

    async def secrets_by(bearer: str, reset_id: str) -> list[str]:
        authorization = f"Bearer {bearer}"
        invitation = await post(door, "/auth/invitations", authorization=authorization)
        reset = await post(door, f"/auth/users/{reset_id}/password", authorization=authorization)
        return [invitation.json()["token"], reset.json()["token"]]

    async def works(secret: str) -> bool:
        path, named = "/auth/register", {"email": email()}
        if secret.startswith("gw_reset"):
            path, named = "/auth/password", {}
        response = await post(door, path, {"password": OTHER, "token": secret} | named)
        door.http.cookies.clear()
        return response.status_code in (200, 201)

    ending = await secrets_by(owner["token"], other["id"])
    staying = [
        (await secrets_by(token, owner["user"]["id"]))[0],
        (await people.invite(None, account_id=account_id)).raw,
    ]
    if how == "switched off":
        await people.set_active(owner["user"]["id"], is_active=False)
    elif how == "deleted":
        await people.delete(owner["user"]["id"])
    else:
        await door.http.delete("/auth/me", headers={"authorization": f"Bearer {owner['token']}"})
    assert [await works(secret) for secret in ending] == [False, False]
    assert [await works(secret) for secret in staying] == [True, True]


async def test_nobody_comes_into_an_account_that_its_last_user_has_left(door: Door) -> None:
    owner = await registered(door)
    people, address = (await door.desk()).people, email()
    bearer = {"authorization": f"Bearer {owner['token']}"}
    by_owner = (await post(door, "/auth/invitations", {}, **bearer)).json()["token"]
    by_operator = await people.invite(address, account_id=owner["user"]["account_id"])
    elsewhere = await people.invite(address)
    await door.http.delete("/auth/me", headers=bearer)
    for secret in (by_owner, by_operator.raw):
        body = {"email": address, "password": PASSWORD, "token": secret}
        assert code_of(await post(door, "/auth/register", body)) == (400, "invalid_value")
    body = {"email": address, "password": PASSWORD, "token": elsewhere.raw}
    assert (await post(door, "/auth/register", body)).status_code == 201
    door.http.cookies.clear()


async def test_who_was_switched_off_while_they_asked_makes_neither_an_invitation_nor_a_key(door: Door) -> None:
    body = await registered(door)
    user_id, account_id = body["user"]["id"], body["user"]["account_id"]
    people = (await door.desk()).people
    authorization = f"Bearer {body['token']}"
    assert (await door.get("/auth/me", body["token"])).status_code == 200
    await people.set_active(user_id, is_active=False)
    with pytest.raises(GatewayError) as refused:
        await door.gateway.sign_in.people.invite(None, account_id=account_id, made_by=user_id)
    assert refused.value.code == "expired_session"
    assert code_of(await post(door, "/auth/keys", {}, authorization=authorization)) == (401, "expired_session")
    assert await door.rows("SELECT COUNT(*) FROM keys WHERE account_id = ?", account_id) == [(0,)]


async def test_an_invitation_takes_the_place_of_no_other_account_s_and_of_none_of_the_operator_s(door: Door) -> None:
    address, people = email(), (await door.desk()).people
    ann, bob = await registered(door), await registered(door)
    theirs = [await people.invite(address), await people.invite(address, account_id=ann["user"]["account_id"])]

    async def invited(owner: dict[str, Any]) -> str:
        response = await post(door, "/auth/invitations", {"email": address}, authorization=f"Bearer {owner['token']}")
        return str(response.json()["token"])

    former = [await invited(owner) for owner in (ann, bob)]
    latter = [await invited(owner) for owner in (ann, bob)]
    told = [await people.email_of_secret(raw) for raw in (*former, *latter, *(one.raw for one in theirs))]
    assert told == [None, None, address, address, address, address]
    again = await people.invite(address)
    told = [await people.email_of_secret(raw) for raw in (theirs[0].raw, again.raw, theirs[1].raw, *latter)]
    assert told == [None, address, address, address, address]


async def test_only_so_many_invitations_to_an_account_are_open_at_once(door: Door) -> None:
    token = (await registered(door))["token"]
    for _ in range(100):
        assert (await post(door, "/auth/invitations", authorization=f"Bearer {token}")).status_code == 201
    assert code_of(await post(door, "/auth/invitations", authorization=f"Bearer {token}")) == (409, "conflict")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.gateways
async def test_the_secret_of_the_first_administrator_is_shown_to_a_terminal_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with open_door(tmp_path_factory.mktemp("terminal")) as door:
        cheap(door)
        assert await first_secret(door.gateway, io.StringIO()) is None
        secret = await first_secret(door.gateway, Terminal())
        assert secret is not None
        greeting = _greeting(door.gateway, door.url, "", secret)
        link = next(line.strip() for line in greeting.splitlines() if "/console/register?token=" in line)
        page = await door.http.get(link)
        token = re.findall(r'name="token" type="text" value="([^"]+)"', page.text)[0]
        made = await post(door, "/auth/register", {"token": token, "email": email(), "password": PASSWORD})
        assert (made.status_code, made.json()["user"]["administrator"]) == (201, True)
        assert await first_secret(door.gateway, Terminal()) is None
        assert "/register" not in _greeting(door.gateway, door.url, "")
        owner = f"Bearer {made.json()['token']}"
        door.http.cookies.clear()
        closed = await post(door, "/auth/invitations", authorization=owner)
        assert code_of(closed) == (403, "registration_closed"), "registration is not set: the operator alone invites"


async def test_a_sign_out_ends_what_runs_for_the_session_and_its_mcp_session(door: Door) -> None:
    body = await registered(door)
    ended: list[str] = []
    door.gateway.known_sessions.on_close(lambda session_id, error: ended.append(f"{session_id} {error.code}"))
    initialize: dict[str, Any] = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    opened = await door.mcp("initialize", body["token"], **initialize)
    assert opened.status_code == 200
    caller = await door.gateway.authenticator.identify(body["token"])
    held = len(door.mcp_door.sessions)
    await post(door, "/auth/logout", authorization=f"Bearer {body['token']}")
    assert ended == [f"{body['session_id']} expired_session"]
    assert caller.validity.ended_by == "expired_session"
    assert len(door.mcp_door.sessions) == held - 1


async def test_what_runs_for_a_session_ends_when_its_time_is_over_and_not_while_it_is_used(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, body = door.gateway.known_sessions, await registered(door)
    ended: list[str] = []
    known.on_close(lambda session_id, error: ended.append(f"{session_id} {error.code}"))
    caller = await door.gateway.authenticator.identify(body["token"])
    idle_ms, longest_ms, _ = door.gateway.sign_in.sessions.lifetimes
    began_ms = now_ms()
    for passed_ms, is_seen in ((idle_ms - DAY_MS // 24, True), (idle_ms + 1000, False), (longest_ms + 1000, True)):
        monkeypatch.setattr(known, "_now_ms", lambda at_ms=began_ms + passed_ms: at_ms)
        if is_seen:
            await store_of(door.gateway).write(NoteSeen(body["session_id"], began_ms + passed_ms))
        await known.end_expired()
        assert caller.validity.ended_by == ("expired_session" if passed_ms > longest_ms else None)
    assert ended.count(f"{body['session_id']} expired_session") == 1
    assert body["session_id"] not in known._shown


async def test_sessions_are_looked_at_again_after_an_outage_of_the_database(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known, has_looked = door.gateway.known_sessions, asyncio.Event()
    outages = iter([DatabaseError("locked")])

    async def end_expired() -> None:
        if (outage := next(outages, None)) is not None:
            raise outage
        has_looked.set()

    monkeypatch.setattr("mcp_gateway.core.identity.sessions._WATCH_INTERVAL_S", 0)
    monkeypatch.setattr(known, "end_expired", end_expired)
    watching = asyncio.create_task(known.watch())
    await has_looked.wait()
    watching.cancel()
    assert "sessions could not be read: locked" in caplog.text
    door.errors.clear()


async def test_no_session_outlives_a_password_that_is_changed_while_it_is_compared(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in = door.gateway.sign_in
    email, old = "racing@example.com", "the password of old"
    person = await sign_in.people.create(email, password_hash=await sign_in._passwords.hashed(old))
    is_right = sign_in._passwords.is_right

    async def changed_meanwhile(password: str, known: str | None) -> bool:
        was_right = await is_right(password, known)
        await sign_in.people.set_password(person.id, await sign_in._passwords.hashed("another password"))
        return was_right

    monkeypatch.setattr(sign_in._passwords, "is_right", changed_meanwhile)
    with pytest.raises(GatewayError, match="invalid_credentials"):
        await sign_in.sign_in(email, old, agent="tests", address="127.0.0.1")
    assert await sign_in.sessions.of(person.id) == []


async def test_two_sign_ins_at_once_that_both_renew_an_outdated_hash_are_both_let_in(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in = door.gateway.sign_in
    email, password = "twice@example.com", "the password of both"
    outdated = await Passwords(time_cost=1, memory_kib=16).hashed(password)
    person = await sign_in.people.create(email, password_hash=outdated)
    is_right, both_compared = sign_in._passwords.is_right, asyncio.Barrier(2)

    async def compared_together(password: str, known: str | None) -> bool:
        was_right = await is_right(password, known)
        if known == outdated:
            await both_compared.wait()
        return was_right

    monkeypatch.setattr(sign_in._passwords, "is_right", compared_together)
    opened, renewed = sign_in.open_session, asyncio.Event()

    async def second_waits(*args: Any, **named: Any) -> SignedIn:
        if args[1] == "second":
            await renewed.wait()
        return await opened(*args, **named)

    monkeypatch.setattr(sign_in, "open_session", second_waits)
    second = asyncio.create_task(sign_in.sign_in(email, password, agent="second", address="127.0.0.1"))
    await sign_in.sign_in(email, password, agent="first", address="127.0.0.1")
    renewed.set()
    await second
    assert {one.agent for one in await sign_in.sessions.of(person.id)} == {"first", "second"}
