"""Tokens of an issuer over HTTP and MCP: whom they let in, as what, for how long, and whom not."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.config import ConfigError, Settings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import open_gateway
from tests.cases import each
from tests.fake_issuer import FakeIssuer, elliptic_pair
from tests.logged import lines_logged
from tests.replaying import ReplayingBackend
from tests.serving import BASE_URL, MESSAGES, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

OURS = f"{BASE_URL}/v1"
HEADERS = ("authorization", "x-api-key")


@contextlib.asynccontextmanager
async def opened(
    folder: Path, fake: FakeIssuer, settings: dict[str, Any] | None = None, **oidc: Any
) -> AsyncIterator[Door]:
    """A gateway that the issuer lets people into."""
    chosen = {"creates_users": True} | oidc | {"issuer": fake.url}
    async with open_door(folder, public_url=BASE_URL, oidc=chosen, **(settings or {})) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fake() -> AsyncIterator[FakeIssuer]:
    async with FakeIssuer().serving() as fake:
        yield fake


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory, fake: FakeIssuer) -> AsyncIterator[Door]:
    """Everybody comes in, and those of one tenant share an account."""
    async with opened(tmp_path_factory.mktemp("oidc"), fake, account_claim="tenant") as door:
        yield door


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def by_role(tmp_path_factory: pytest.TempPathFactory, fake: FakeIssuer) -> AsyncIterator[Door]:
    """Who comes in, and as what, the issuer says."""
    roles: dict[str, Any] = {
        "owners": ["gw-owner"],
        "members": ["gw-user"],
        "viewers": ["gw-viewer"],
        "administrators": ["gw-admin"],
    }
    folder = tmp_path_factory.mktemp("roles")
    claims: dict[str, Any] = {"role_claim": "realm_access.roles", "account_claim": "tenant"}
    async with opened(folder, fake, link_by_email=True, **claims, **roles) as door:
        yield door


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def by_email(tmp_path_factory: pytest.TempPathFactory, fake: FakeIssuer) -> AsyncIterator[Door]:
    """Nobody comes in but users whom the operator has made."""
    async with opened(tmp_path_factory.mktemp("email"), fake, creates_users=False, link_by_email=True) as door:
        yield door


async def me(door: Door, token: str) -> dict[str, Any]:
    response = await door.get("/auth/me", token)
    assert response.status_code == 200, response.text
    told: dict[str, Any] = response.json()
    return told


async def refusal(door: Door, token: str, path: str = "/v1/keys") -> tuple[int, str]:
    response = await door.get(path, token)
    return response.status_code, error_of(response)["code"]


async def test_a_token_is_taken_wherever_a_key_is(door: Door, fake: FakeIssuer) -> None:
    token = fake.token(OURS, sub="everywhere")
    for header in HEADERS:
        value = f"Bearer {token}" if header == "authorization" else token
        assert (await door.http.get("/v1/keys", headers={header: value})).status_code == 200
    assert (await door.chat(token, model="demo/echo")).status_code == 200
    called = await door.call("get_balance", token)
    assert called.json()["result"]["structuredContent"]["balance_usd"] == "0.00"
    assert (await door.http.get(f"/v1/keys?access_token={token}")).status_code in (400, 401)


async def test_whoever_comes_first_has_a_user_and_an_account_and_keeps_them(door: Door, fake: FakeIssuer) -> None:
    first = await me(door, fake.token(OURS, sub="bea", email="Bea@Example.com", email_verified=True))
    again = await me(door, fake.token(f"{BASE_URL}/v1/mcp", sub="bea"))
    assert first == again
    assert (first["email"], first["role"], first["administrator"]) == ("bea@example.com", "owner", False)
    assert "session_id" not in first
    other = await me(door, fake.token(OURS, sub="carl"))
    assert (other["email"], other["account_id"] == first["account_id"]) == (None, False)


@each("claims", [
    {"email": "dora@example.com"}, {"email": "dora@example.com", "email_verified": "true"},
    {"email": "no address", "email_verified": True}, {"email": 5, "email_verified": True},
    {"email": "\uff44ora@example.com", "email_verified": True},
])  # fmt: skip
async def test_an_address_that_is_not_verified_or_none_is_passed_over(
    door: Door, fake: FakeIssuer, claims: dict[str, Any]
) -> None:
    assert (await me(door, fake.token(OURS, sub=f"dora {claims}", **claims)))["email"] is None


async def test_an_address_of_another_user_is_not_taken(door: Door, fake: FakeIssuer) -> None:
    await door.gateway.sign_in.people.create("taken@example.com", password_hash=None)
    token = fake.token(OURS, sub="thief", email="taken@example.com", email_verified=True)
    assert await refusal(door, token) == (403, "registration_closed")


async def test_two_requests_at_once_make_one_user(door: Door, fake: FakeIssuer) -> None:
    tokens = [fake.token(OURS, sub="twice") for _ in range(4)] * 3
    told = await asyncio.gather(*(me(door, token) for token in tokens))
    assert len({(one["id"], one["account_id"]) for one in told}) == 1
    assert await door.rows("SELECT count(*) FROM identities WHERE subject = 'twice'") == [(1,)]


async def test_those_of_one_tenant_share_an_account_and_move_with_their_claim(door: Door, fake: FakeIssuer) -> None:
    ann = await me(door, fake.token(OURS, sub="t1", tenant="acme"))
    ben = await me(door, fake.token(OURS, sub="t2", tenant=["acme"]))
    assert (ann["role"], ben["role"]) == ("owner", "member")
    assert ann["account_id"] == ben["account_id"]
    assert await door.rows("SELECT name FROM accounts WHERE id = ?", ann["account_id"]) == [("acme",)]
    old = fake.token(OURS, sub="t2", tenant="acme")
    await me(door, old)
    moved = await me(door, fake.token(OURS, sub="t2", tenant="other"))
    assert (moved["id"], moved["role"]) == (ben["id"], "owner")
    assert moved["account_id"] != ben["account_id"]
    await door.gateway.known_keys.catch_up()
    assert (await me(door, old))["account_id"] == moved["account_id"]
    for without in ({}, {"tenant": ["a", "b"]}, {"tenant": ""}, {"tenant": 7}):
        assert (await me(door, fake.token(OURS, sub="t2", **without)))["account_id"] == moved["account_id"]


async def test_an_older_token_changes_nothing_that_a_newer_one_has_changed(door: Door, fake: FakeIssuer) -> None:
    now_s = int(time.time())
    first = await me(door, fake.token(OURS, sub="o", tenant="left", iat=now_s - 30))
    unshown = fake.token(OURS, sub="o", tenant="left", iat=now_s - 20)
    moved = await me(door, fake.token(OURS, sub="o", tenant="entered", iat=now_s - 10))
    assert (await me(door, unshown))["account_id"] == moved["account_id"] != first["account_id"]
    back = await me(door, fake.token(OURS, sub="o", tenant="left", iat=now_s - 10))
    assert back["account_id"] == first["account_id"]


async def test_who_moves_to_another_account_lets_nobody_into_the_one_that_they_left(
    door: Door, fake: FakeIssuer
) -> None:
    people = door.gateway.sign_in.people
    user = await me(door, fake.token(OURS, sub="inviting", tenant="before"))
    invited = await people.invite(None, account_id=user["account_id"], role="owner", made_by=user["id"])
    assert await people.email_of_secret(invited.raw) == ""
    await me(door, fake.token(OURS, sub="inviting", tenant="after"))
    assert await people.email_of_secret(invited.raw) is None


async def test_an_owner_makes_no_password_for_somebody_who_comes_by_the_issuer(door: Door, fake: FakeIssuer) -> None:
    owner, named = fake.token(OURS, sub="w1", tenant="words"), {"email": "w2@example.com", "email_verified": True}
    await me(door, owner)
    colleague = await me(door, fake.token(OURS, sub="w2", tenant="words", **named))
    refused = await door.http.post(f"/auth/users/{colleague['id']}/password", headers={"x-api-key": owner})
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")


async def test_a_claimed_account_outlives_its_last_user(door: Door, fake: FakeIssuer) -> None:
    first = await me(door, fake.token(OURS, sub="u1", tenant="lasting"))
    assert (await door.http.delete("/auth/me", headers={"x-api-key": fake.token(OURS, sub="u1")})).status_code == 200
    second = await me(door, fake.token(OURS, sub="u2", tenant="lasting"))
    assert (second["account_id"], second["role"]) == (first["account_id"], "member")


async def test_a_token_has_those_of_its_scopes_that_its_role_has(door: Door, fake: FakeIssuer) -> None:
    await me(door, fake.token(OURS, sub="s", tenant="scopes"))
    member = {"sub": "s2", "tenant": "scopes"}
    everything = fake.token(OURS, **member, scope="openid inference read billing manage")
    assert (await door.chat(everything, model="demo/echo")).status_code == 200
    assert await refusal(door, everything, "/v1/billing/auto-topup") == (403, "insufficient_scope")
    for claims in ({"scope": "openid read"}, {"scp": ["read", 5]}, {"scp": "read"}):
        token = fake.token(OURS, **member, **claims)
        assert (await door.get("/v1/usage", token)).status_code == 200
        refused = await door.chat(token, model="demo/echo")
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_scope")
        assert "This token does not have" in error_of(refused)["message"]
        called = await door.call("chat_completion", token, messages=[{"role": "user", "content": "x"}])
        assert called.status_code == 403
        assert 'scope="inference read"' in called.headers["www-authenticate"]
    elsewhere = fake.token(OURS, **member, scope="openid email")
    assert (await door.chat(elsewhere, model="demo/echo")).status_code == 200


@each("scope", ["inference", "inference read billing manage"])
async def test_a_token_that_names_scopes_is_nobody_who_may_delete_their_user(
    door: Door, fake: FakeIssuer, scope: str
) -> None:
    token = fake.token(OURS, sub="part", scope=scope)
    for method, path in (("DELETE", "/auth/me"), ("GET", "/auth/me"), ("DELETE", "/auth/sessions")):
        response = await door.http.request(method, path, headers={"x-api-key": token})
        assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_permissions")
    await me(door, fake.token(OURS, sub="part"))


async def test_an_owner_s_token_that_names_scopes_takes_the_secret_of_no_key_that_may_more(
    door: Door, fake: FakeIssuer
) -> None:
    whole, narrow = fake.token(OURS, sub="keys"), fake.token(OURS, sub="keys", scope="manage")
    made = await door.post(b"{}", whole, "/v1/keys")
    at_once, rotate = b'{"expires_old_in_s": 0}', f"/v1/keys/{made.json()['id']}/rotate"
    refused = await door.post(at_once, narrow, rotate)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
    assert (await door.post(at_once, whole, rotate)).status_code == 200


async def test_a_program_s_token_ends_no_session_and_makes_none(door: Door, fake: FakeIssuer) -> None:
    token = {"x-api-key": fake.token(OURS, sub="none")}
    assert (await door.http.post("/auth/refresh", headers=token)).status_code == 403
    assert (await door.http.post("/auth/logout", headers=token)).status_code == 404
    assert (await door.http.get("/auth/sessions", headers=token)).json()["data"] == []


async def test_who_is_switched_off_or_deleted_is_refused_at_once(door: Door, fake: FakeIssuer) -> None:
    token, people = fake.token(OURS, sub="gone"), door.gateway.sign_in.people
    user = await me(door, token)
    await people.set_active(user["id"], is_active=False)
    await door.gateway.known_keys.catch_up()
    for shown in (token, fake.token(OURS, sub="gone")):
        assert await refusal(door, shown) == (403, "account_deactivated")
    await people.set_active(user["id"], is_active=True)
    await door.gateway.known_keys.catch_up()
    assert (await me(door, token))["id"] == user["id"]
    assert (await door.http.delete("/auth/me", headers={"x-api-key": token})).status_code == 200
    assert await refusal(door, token) == (401, "expired_session")
    assert await door.rows("SELECT * FROM identities WHERE subject = 'gone'") == []
    later = fake.token(OURS, sub="gone", iat=int(time.time()) + 2)
    assert (await me(door, later))["id"] != user["id"]


async def test_an_account_that_is_switched_off_lets_nobody_in(door: Door, fake: FakeIssuer) -> None:
    user = await me(door, fake.token(OURS, sub="off"))
    await (await door.desk()).accounts.change(user["account_id"], is_active=False)
    await door.gateway.known_keys.catch_up()
    assert await refusal(door, fake.token(OURS, sub="off")) == (403, "account_deactivated")


async def test_what_runs_for_somebody_ends_with_them(door: Door, fake: FakeIssuer) -> None:
    """An MCP session goes on with a further token of the same user, and ends once they are switched off."""
    first, second = fake.token(OURS, sub="mcp"), fake.token(OURS, sub="mcp")
    user = await me(door, first)
    initialized = await door.mcp(
        "initialize", first, protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t", "version": "1"}
    )
    session = {"mcp-session-id": initialized.headers["mcp-session-id"]}
    ping = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode()
    accept = {"accept": "application/json, text/event-stream"}
    assert (await door.post(ping, second, "/v1/mcp", **session, **accept)).status_code == 200
    await door.gateway.sign_in.people.set_active(user["id"], is_active=False)
    await door.gateway.known_keys.catch_up()
    assert (await door.post(ping, second, "/v1/mcp", **session, **accept)).status_code == 403
    await door.gateway.sign_in.people.set_active(user["id"], is_active=True)
    await door.gateway.known_keys.catch_up()
    again = await door.post(ping, second, "/v1/mcp", **session, **accept)
    assert again.status_code == (200 if door.is_replica else 404)  # an id that any replica serves is its user's


async def test_a_bad_token_is_401_and_a_foreign_one_beside_a_key_is_passed_over(door: Door, fake: FakeIssuer) -> None:
    foreign = elliptic_pair().sign(fake.claims(aud=OURS))
    assert await refusal(door, foreign) == (401, "invalid_api_key")
    expired = fake.token(OURS, sub="late", exp=int(time.time()) - 100)
    assert await refusal(door, expired) == (401, "expired_session")
    assert await refusal(door, fake.token("https://elsewhere.test")) == (401, "invalid_api_key")
    for rubbish in ("eyJ", "eyJhbGciOiJSUzI1NiJ9", "eyJhbGciOiJub25lIn0.e30.", "eyJ" + "x" * 20_000):
        assert await refusal(door, rubbish) == (401, "invalid_api_key")
    key = await door.key()
    beside = {"authorization": f"Bearer {key}", "x-api-key": foreign}
    assert (await door.http.get("/v1/keys", headers=beside)).status_code == 200
    own = await door.person()
    assert (await me(door, own))["session_id"]


async def test_two_tokens_of_different_accounts_are_401(door: Door, fake: FakeIssuer) -> None:
    both = {"authorization": f"Bearer {fake.token(OURS, sub='a1')}", "x-api-key": fake.token(OURS, sub="a2")}
    assert (await door.http.get("/v1/keys", headers=both)).status_code == 401


async def test_without_a_credential_a_client_is_told_who_gives_tokens(door: Door, fake: FakeIssuer) -> None:
    asked = await door.mcp("tools/list")
    assert asked.status_code == 401
    url = f"{BASE_URL}/.well-known/oauth-protected-resource/v1/mcp"
    assert f'resource_metadata="{url}"' in asked.headers["www-authenticate"]
    told = (await door.get("/.well-known/oauth-protected-resource/v1/mcp")).json()
    assert told["authorization_servers"] == [fake.url]


async def test_keys_of_the_issuer_that_are_withdrawn_end_tokens_that_were_good(door: Door, fake: FakeIssuer) -> None:
    old, token = fake.pair, fake.token(OURS, sub="withdrawn")
    await me(door, token)
    assert door.gateway.oidc is not None
    fake.rotate()
    await door.gateway.oidc.issuer.read()
    await me(door, fake.token(OURS, sub="withdrawn"))
    fake.withdraw(old)
    await door.gateway.oidc.issuer.read()
    assert await refusal(door, token) == (401, "invalid_api_key")


class TestRoles:
    async def test_the_issuer_says_what_somebody_may_at_each_new_token(self, by_role: Door, fake: FakeIssuer) -> None:
        def token(*roles: str) -> str:
            return fake.token(OURS, sub="r", tenant="acme", realm_access={"roles": ["offline_access", *roles]})

        assert await refusal(by_role, token()) == (403, "insufficient_permissions")
        first = token("gw-viewer")
        user = await me(by_role, first)
        assert (user["role"], user["scopes"], user["administrator"]) == ("viewer", ["read"], False)
        raised = await me(by_role, token("gw-user", "gw-owner", "gw-viewer", "gw-admin"))
        assert (raised["id"], raised["role"], raised["administrator"]) == (user["id"], "owner", True)
        await by_role.gateway.known_keys.catch_up()
        assert (await me(by_role, first))["role"] == "owner"
        assert (await by_role.get("/v1/admin/config", token("gw-owner", "gw-admin"))).status_code == 200
        lowered = await me(by_role, token("gw-user"))
        assert (lowered["role"], lowered["administrator"]) == ("member", False)
        await by_role.gateway.known_keys.catch_up()
        assert (await by_role.get("/v1/admin/config", first)).status_code == 403

    @each("claims", [{}, {"realm_access": None}, {"realm_access": ["gw-owner"]}, {"realm_access": {"roles": 5}}])
    async def test_who_has_no_role_is_not_let_in(self, by_role: Door, fake: FakeIssuer, claims: dict[str, Any]) -> None:
        assert await refusal(by_role, fake.token(OURS, sub="none", **claims)) == (403, "insufficient_permissions")

    async def test_a_claim_of_that_very_name_stands_before_a_path(self, by_role: Door, fake: FakeIssuer) -> None:
        token = fake.token(OURS, sub="flat", **{"realm_access.roles": "gw-user"})
        assert (await me(by_role, token))["role"] == "member"

    async def test_an_administrator_s_token_for_a_part_is_none(self, by_role: Door, fake: FakeIssuer) -> None:
        roles = {"realm_access": {"roles": ["gw-owner", "gw-admin"]}}
        token = fake.token(OURS, sub="chief", scope="inference read", **roles)
        assert await refusal(by_role, token, "/v1/admin/config") == (403, "insufficient_permissions")

    async def test_who_was_made_an_administrator_here_is_one_as_long_as_the_issuer_says_so(
        self, by_role: Door, fake: FakeIssuer
    ) -> None:
        people = by_role.gateway.sign_in.people
        known = await people.create("chief@example.com", password_hash=None, is_administrator=True)
        claims = {"sub": "linked", "email": "chief@example.com", "email_verified": True}
        told = await me(by_role, fake.token(OURS, **claims, realm_access={"roles": ["gw-viewer"]}))
        assert (told["id"], told["role"], told["administrator"]) == (known.id, "viewer", False)


class TestLinks:
    async def test_who_is_known_by_a_verified_address_comes_in_and_stays_the_same(
        self, by_email: Door, fake: FakeIssuer
    ) -> None:
        known = await by_email.gateway.sign_in.people.create(
            "ann@example.com", password_hash=None, account_id=await by_email.account(), role="member"
        )
        assert await refusal(by_email, fake.token(OURS, email="ann@example.com")) == (403, "registration_closed")
        verified = fake.token(OURS, email="ann@example.com", email_verified=True)
        told = await me(by_email, verified)
        assert (told["id"], told["role"], told["account_id"]) == (known.id, "member", known.account_id)
        assert (await me(by_email, fake.token(OURS, email="other@example.com")))["id"] == known.id
        listed = {one.id: one.has_issuer for one in await by_email.gateway.sign_in.people.list()}
        assert listed[known.id] is True

    async def test_an_address_that_is_given_to_another_does_not_give_the_user_away(
        self, by_email: Door, by_role: Door, fake: FakeIssuer
    ) -> None:
        await by_email.gateway.sign_in.people.create("given@example.com", password_hash=None)
        given: dict[str, Any] = {"email": "given@example.com", "email_verified": True}
        given |= {"realm_access": {"roles": ["gw-user"]}}
        for door in (by_email, by_role):  # a user who was there before, and one who was made
            await me(door, fake.token(OURS, sub="given1", **given))
            assert await refusal(door, fake.token(OURS, sub="given2", **given)) == (403, "registration_closed")

    async def test_whoever_had_taken_the_address_comes_in_as_that_user_no_more(
        self, by_email: Door, fake: FakeIssuer
    ) -> None:
        """Nobody has asked them whether it is theirs."""
        sign_in = by_email.gateway.sign_in
        taken = await sign_in.people.create("early@example.com", password_hash="not the owner's")
        session = await sign_in.open_session(taken, "tests", "127.0.0.1")
        secret = await sign_in.people.password_secret(taken.id)
        verified = {"email": "early@example.com", "email_verified": True}
        assert (await me(by_email, fake.token(OURS, sub="late", **verified)))["id"] == taken.id
        await by_email.gateway.known_keys.catch_up()
        assert await refusal(by_email, session.token) == (401, "expired_session")
        assert await sign_in.people.email_of_secret(secret.raw) is None
        assert await by_email.rows("SELECT password_hash FROM users WHERE id = ?", taken.id) == [(None,)]

    async def test_nobody_else_comes_in(self, by_email: Door, fake: FakeIssuer) -> None:
        token = fake.token(OURS, sub="stranger", email="stranger@example.com", email_verified=True)
        assert await refusal(by_email, token) == (403, "registration_closed")
        assert await by_email.rows("SELECT * FROM users WHERE email = 'stranger@example.com'") == []


@pytest.mark.gateways
async def test_from_a_blocked_country_nobody_comes_for_the_first_time(tmp_path: Path, fake: FakeIssuer) -> None:
    policy = {"blocked_countries": ["KP"], "country_header": "CF-IPCountry"}
    async with opened(tmp_path, fake, {"policy": policy}) as door:
        token = fake.token(OURS, sub="far")
        blocked = {"x-api-key": token, "cf-ipcountry": "KP"}
        refused = await door.http.get("/v1/keys", headers=blocked)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "unsupported_region")
        assert await door.rows("SELECT * FROM identities") == []
        await me(door, token)
        assert (await door.http.get("/v1/keys", headers=blocked)).status_code == 200


@pytest.mark.gateways
async def test_while_the_issuer_is_absent_the_gateway_starts_and_says_so(tmp_path: Path) -> None:
    async with FakeIssuer(is_absent=True).serving() as fake, opened(tmp_path, fake) as door:
        assert await refusal(door, fake.token(OURS)) == (503, "issuer_unavailable")
        key = await door.key()
        assert (await door.get("/v1/keys", key)).status_code == 200


@pytest.mark.gateways
async def test_a_backend_never_sees_the_token(tmp_path: Path, fake: FakeIssuer) -> None:
    model = {"id": "free/tiny", "backend_model": "tiny", "context_window": 2048, "free": True}
    async with ReplayingBackend("tiny") as backend:
        backend.answer_with()
        async with opened(tmp_path, fake, {"vllm_urls": [backend.url], "models": [model]}) as door:
            token = fake.token(OURS, sub="secretive")
            assert (await door.chat(token)).status_code == 200
            called = await door.call("chat_completion", token, messages=MESSAGES, model="free/tiny")
            assert called.json()["result"]["isError"] is False
        signature = token.rpartition(".")[2]
        assert len(backend.chats) == 2
        assert all(signature not in f"{asked.headers}{asked.json}" for asked in backend.chats)


@pytest.mark.gateways
async def test_a_token_must_say_what_it_is_where_that_is_asked_for(tmp_path: Path, fake: FakeIssuer) -> None:
    async with opened(tmp_path, fake, token_type="at+jwt") as door:
        assert (await door.get("/v1/keys", fake.token(OURS))).status_code == 200
        plain = fake.pair.sign(fake.claims(aud=OURS), typ="JWT")
        assert await refusal(door, plain) == (401, "invalid_api_key")


@pytest.mark.gateways
async def test_where_people_come_by_the_issuer_alone_nobody_has_a_password(tmp_path: Path, fake: FakeIssuer) -> None:
    async with opened(tmp_path, fake, only=True, client_id="gateway", name="Example Inc.") as door:
        credentials = {"email": "ann@example.com", "password": "a quiet river in May"}
        token = fake.token(OURS, sub="alone")
        user = await me(door, token)
        for path, body in (
            ("/auth/login", credentials),
            ("/auth/register", credentials),
            ("/auth/password", {"password": "x" * 20, "token": "gw_reset_x"}),
            ("/auth/password", {"password": "x" * 20, "current_password": "y" * 20}),
            ("/auth/invitations", {}),
            (f"/auth/users/{user['id']}/password", None),
        ):
            refused = await door.http.post(path, json=body, headers={"x-api-key": token})
            assert (refused.status_code, error_of(refused)["code"]) == (403, "sign_in_elsewhere"), path
            assert "Example Inc." in error_of(refused)["message"]
        operator = await door.admin_key()
        for path, body in (("/v1/admin/invitations", {}), (f"/v1/admin/users/{user['id']}/password", None)):
            refused = await door.http.post(path, json=body, headers={"x-api-key": operator})
            assert (refused.status_code, error_of(refused)["code"]) == (403, "sign_in_elsewhere"), path
        new = {"email": "ben@example.com"}
        made = await door.http.post("/v1/admin/users", json=new, headers={"x-api-key": operator})
        assert (made.status_code, "token" in made.json()) == (201, False)
        with pytest.raises(GatewayError, match="sign_in_elsewhere"):
            await door.gateway.sign_in.people.create("cat@example.com", password_hash="any")
        assert await door.gateway.sign_in.people.first_administrator_secret() is None


@pytest.mark.gateways
async def test_without_an_issuer_its_tokens_are_nobody_s(tmp_path: Path, fake: FakeIssuer) -> None:
    async with open_door(tmp_path, public_url=BASE_URL) as door:
        assert await refusal(door, fake.token(OURS)) == (401, "invalid_api_key")
        assert (await door.get("/.well-known/oauth-protected-resource/v1/mcp")).status_code == 404


@pytest.mark.gateways
async def test_an_issuer_that_lets_nobody_new_in_is_warned_of_at_start(tmp_path: Path, fake: FakeIssuer) -> None:
    with lines_logged(logging.WARNING) as lines:
        async with opened(tmp_path, fake, creates_users=False) as door:
            assert await refusal(door, fake.token(OURS)) == (403, "registration_closed")
    assert sum("oidc.issuer lets in only those who came before" in line for line in lines) == 1


@pytest.mark.gateways
async def test_a_secret_that_is_named_must_be_there(tmp_path: Path) -> None:
    for named in ({"client_secret_env": "NOT_SET"}, {"client_secret_file": str(tmp_path / "none")}):
        oidc = {"issuer": "https://id.example.com", "client_id": "g"} | named
        settings = Settings.model_validate({"data_dir": tmp_path, "public_url": BASE_URL, "oidc": oidc})
        with pytest.raises(ConfigError, match=r"\[oidc\] (NOT_SET is not set|client_secret_file cannot be read)"):
            async with open_gateway(settings, environ={}):
                pass
