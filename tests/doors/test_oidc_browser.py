"""People who sign in with a browser at the issuer: the way there and back, and what comes back that is not theirs."""

import logging
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.caller import User
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.oidc.browser_sign_in import CALLBACK, FLOW_MS, START, SignInFlow
from mcp_gateway.core.identity.oidc.oidc import Oidc
from mcp_gateway.core.ids import now_ms
from tests.cases import each
from tests.fake_issuer import CLIENT_ID, CLIENT_SECRET, FakeIssuer
from tests.logged import lines_logged
from tests.patience import PATIENCE_S
from tests.serving import BASE_URL, NO_TLS, Door, error_of, fresh_guest, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

COOKIE, FLOW_COOKIE = "__Host-gw_console", "__Host-gw_sign_in"
CLIENT: dict[str, Any] = {"client_id": CLIENT_ID, "client_secret_env": "OIDC_SECRET"}
ENVIRON = {"OIDC_SECRET": CLIENT_SECRET}
OPENED_BY_LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
NOT_HERE = "This sign-in is not under way in this browser: it was begun elsewhere, or is over."


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served() -> AsyncIterator[FakeIssuer]:
    async with FakeIssuer(redirects={BASE_URL + CALLBACK}).serving() as served:
        yield served


@pytest.fixture
def fake(served: FakeIssuer) -> Iterator[FakeIssuer]:
    """As it was before, when a test has ended."""
    before = dict(served.person)
    yield served
    served.told, served.id_claims, served.granted, served.refusal, served.is_absent = {}, {}, None, None, False
    served.person = before


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory, served: FakeIssuer) -> AsyncIterator[Door]:
    oidc = {"issuer": served.url, "creates_users": True} | CLIENT
    folder = tmp_path_factory.mktemp("browser")
    async with open_door(folder, public_url=BASE_URL, oidc=oidc, environ=ENVIRON) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def strict(tmp_path_factory: pytest.TempPathFactory, served: FakeIssuer) -> AsyncIterator[Door]:
    """Nobody has a password or comes from a blocked country, the issuer gives roles, and the gateway has no secret."""
    folder = tmp_path_factory.mktemp("strict")
    roles = {"role_claim": "roles", "owners": ["owner"], "viewers": ["viewer"]}
    oidc = {"issuer": served.url, "creates_users": True, "only": True, "client_id": "public", "name": "Example Inc."}
    policy = {"blocked_countries": ["KP"], "country_header": "CF-IPCountry"}
    served.clients["public"] = {"redirect_uris": [BASE_URL + CALLBACK]}
    async with open_door(folder, public_url=BASE_URL, oidc=oidc | roles, policy=policy) as door:
        yield door
        await door.nothing_is_left()


@dataclass(frozen=True)
class Back:
    """A browser that is about to come back: its cookie, and what it brings."""

    flow: str
    brought: Mapping[str, str]

    def __or__(self, other: Mapping[str, str | None]) -> "Back":
        """With something else, or without what is None."""
        changed = {**self.brought, **other}
        return Back(self.flow, {name: value for name, value in changed.items() if value is not None})


async def led_back(door: Door, then: str | None = None) -> Back:
    """Begin, and sign in at the issuer."""
    query = "" if then is None else "?" + urlencode({"next": then})
    began = await door.http.get(START + query, headers=fresh_guest())
    assert began.status_code == 303, began.text
    flow = cookies_of(began)[FLOW_COOKIE]
    async with httpx2.AsyncClient(verify=NO_TLS, trust_env=False, timeout=PATIENCE_S) as http:
        answer = await http.get(began.headers["location"])
    assert answer.status_code == 302, answer.text
    return Back(flow, dict(parse_qsl(urlsplit(answer.headers["location"]).query)))


async def bring(door: Door, back: Back, **headers: str) -> httpx2.Response:
    sent = fresh_guest() | {"cookie": f"{FLOW_COOKIE}={back.flow}"} | OPENED_BY_LINK | headers
    return await door.http.get(f"{CALLBACK}?{urlencode(back.brought)}", headers=sent)


async def signed_in(door: Door, then: str | None = None) -> str:
    """The session's cookie."""
    response = await bring(door, await led_back(door, then))
    assert response.status_code == 303, response.text
    return cookies_of(response)[COOKIE]


async def me(door: Door, session: str, **headers: str) -> httpx2.Response:
    return await door.http.get("/auth/me", headers={"cookie": f"{COOKIE}={session}"} | headers)


async def refusal(door: Door, back: Back) -> tuple[int, str, str]:
    """The status, the code and the first sentence of why somebody is not let in."""
    response = await bring(door, back)
    error = error_of(response)
    assert COOKIE not in cookies_of(response)
    return response.status_code, error["code"], error["message"].partition(" Begin again at ")[0]


def cookies_of(response: httpx2.Response) -> dict[str, str]:
    found = [one.partition(";")[0].partition("=") for one in response.headers.get_list("set-cookie")]
    return {name: value for name, _, value in found}


def oidc_of(door: Door) -> Oidc:
    assert door.gateway.oidc is not None
    return door.gateway.oidc


def errors_of(door: Door, other: Door) -> list[str]:
    """What has been logged, which both of them hear and forget now."""
    lines = list(door.errors)
    door.errors.clear()
    other.errors.clear()
    return lines


def failed(why: str) -> tuple[int, str, str]:
    return 400, "sign_in_failed", why


# There and back


async def test_a_browser_is_led_to_the_issuer_and_keeps_what_it_needs_for_the_way_back(
    door: Door, fake: FakeIssuer
) -> None:
    began = await door.http.get(START, headers=fresh_guest())
    location = began.headers["location"]
    asked = dict(parse_qsl(urlsplit(location).query))
    assert (began.status_code, began.json()) == (303, {"location": location})
    assert location.startswith(f"{fake.url}/authorize?")
    assert asked.keys() == {
        "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
        "code_challenge_method",
    }  # fmt: skip
    assert asked["redirect_uri"] == BASE_URL + CALLBACK
    (cookie,) = began.headers.get_list("set-cookie")
    assert cookie.endswith("; Max-Age=600; Path=/; HttpOnly; SameSite=Lax; Secure")
    assert began.headers["cache-control"] == "no-store"
    told = [asked[name] for name in ("state", "nonce", "code_challenge")]
    assert len({*told}) == 3
    assert not any(one in cookie for one in told)


async def test_whoever_comes_back_is_signed_in_as_by_a_password(door: Door, fake: FakeIssuer) -> None:
    fake.person = {"sub": "ada", "email": "Ada@example.com", "email_verified": True}
    response = await bring(door, await led_back(door, "/auth/sessions?x=1"))
    assert (response.status_code, response.headers["location"]) == (303, f"{BASE_URL}/auth/sessions?x=1")
    set_cookies = response.headers.get_list("set-cookie")
    assert [cookie.partition("=")[0] for cookie in set_cookies] == [COOKIE, FLOW_COOKIE]
    assert "; Max-Age=0;" in set_cookies[1]
    session = cookies_of(response)[COOKIE]
    told = (await me(door, session)).json()
    assert (told["email"], told["role"], told["signed_in_by"]) == ("ada@example.com", "owner", "issuer")
    headers = {"cookie": f"{COOKIE}={session}"}
    listed = (await door.http.get("/auth/sessions", headers=headers)).json()["data"]
    assert [(one["current"], one["signed_in_by"]) for one in listed] == [(True, "issuer")]
    token = (await door.http.post("/auth/refresh", headers=headers)).json()["token"]
    assert (await door.chat(token, model="demo/echo")).status_code == 200
    assert (await door.http.post("/auth/logout", headers=headers)).status_code == 200
    assert (await me(door, session)).status_code == 401


async def test_each_sign_in_is_a_session_of_its_own_of_the_same_user(door: Door, fake: FakeIssuer) -> None:
    fake.person = {"sub": "bob"}
    first, second = [(await me(door, await signed_in(door))).json() for _ in range(2)]
    assert first["id"] == second["id"]
    assert first["session_id"] != second["session_id"]


@each("then", [
    (None, "/console/"), ("/x", "/x"), ("/console/keys?a=%2F#b", "/console/keys?a=%2F#b"),
    ("/a b\"<", "/a%20b%22%3C"), ("//evil.example", "/console/"), ("/\\evil.example", "/console/"),
    ("https://evil.example", "/console/"), ("@evil.example", "/console/"), ("/\t/evil.example", "/console/"),
    ("/" + 6000 * "x", "/console/"), ("/\u00e9", "/console/"),
])  # fmt: skip
async def test_a_sign_in_goes_on_only_to_a_path_of_the_gateway_s(
    door: Door, fake: FakeIssuer, then: tuple[str | None, str]
) -> None:
    wanted, path = then
    response = await bring(door, await led_back(door, wanted))
    assert response.headers["location"] == BASE_URL + path


async def test_a_path_that_somebody_has_written_into_the_cookie_leads_nowhere_else(
    door: Door, fake: FakeIssuer
) -> None:
    planted = SignInFlow.begin("@evil.example", now_ms())
    began = await led_back(door)
    fake.id_claims = {"nonce": planted.nonce}
    fake.codes[began.brought["code"]].asked["code_challenge"] = planted.challenge
    response = await bring(door, Back(planted.written, {**began.brought, "state": planted.state}))
    assert response.headers["location"] == f"{BASE_URL}/console/"


async def test_what_other_issuers_say_beside_it_is_passed_over(door: Door, fake: FakeIssuer) -> None:
    back = await led_back(door) | {"session_state": "x", "scope": "openid", "prompt": "none"}
    assert (await bring(door, back)).status_code == 303


async def test_a_session_of_a_person_who_follows_a_link_is_known_and_changes_nothing(
    door: Door, fake: FakeIssuer
) -> None:
    session = await signed_in(door)
    assert (await me(door, session, **OPENED_BY_LINK)).status_code == 200
    in_a_frame = OPENED_BY_LINK | {"sec-fetch-dest": "iframe"}
    by_a_script = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}
    for headers in (in_a_frame, by_a_script):
        assert (await me(door, session, **headers)).status_code == 401
    headers = {"cookie": f"{COOKIE}={session}"} | OPENED_BY_LINK
    refused = await door.http.post("/auth/logout", headers=headers)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "foreign_origin")
    assert (await door.http.get("/v1/keys", headers=headers)).status_code == 401


async def test_nothing_of_a_sign_in_is_logged(door: Door, fake: FakeIssuer) -> None:
    fake.person = {"sub": "quiet", "email": "quiet@example.com", "email_verified": True}
    with lines_logged(logging.DEBUG) as lines:
        back = await led_back(door)
        session = cookies_of(await bring(door, back))[COOKIE]
        await bring(door, back)
        await bring(door, back | {"error": "a password=secret", "code": None})
    written = "\n".join(lines)
    secrets = [back.flow, back.brought["state"], back.brought["code"], session, "quiet@", "secret"]
    assert not [one for one in secrets if one in written]


# What comes back that is not theirs


async def test_an_answer_is_good_once_and_in_the_browser_that_asked(door: Door, fake: FakeIssuer) -> None:
    back, other = await led_back(door), await led_back(door)
    for wrong in (Back("", back.brought), Back("a.b.c", back.brought), Back(other.flow, back.brought)):
        assert await refusal(door, wrong) == failed(NOT_HERE)
    for changed in ({"state": None}, {"state": "x"}, {"state": "\u00e9"}, {"state": other.brought["state"]}):
        assert await refusal(door, back | changed) == failed(NOT_HERE)
    assert await refusal(door, Back(f"{back.flow}AA", back.brought)) == failed(NOT_HERE)
    assert (await bring(door, back)).status_code == 303
    assert await refusal(door, back) == failed("The issuer takes its answer for used already, or for too old.")


async def test_an_answer_without_a_cookie_is_told_where_to_begin(door: Door, fake: FakeIssuer) -> None:
    refused = await door.http.get(f"{CALLBACK}?code=x&state=y", headers=fresh_guest())
    assert error_of(refused)["message"] == f"{NOT_HERE} Begin again at {BASE_URL}{START}."
    repeated = await door.http.get(f"{CALLBACK}?state=x&state=y", headers=fresh_guest())
    assert (repeated.status_code, error_of(repeated)["code"]) == (400, "invalid_value")


async def test_an_answer_names_its_issuer_where_that_says_so(door: Door, fake: FakeIssuer) -> None:
    foreign = failed("This answer is not from the issuer that lets people in here.")
    assert await refusal(door, await led_back(door) | {"iss": "https://evil.example"}) == foreign
    assert await refusal(door, await led_back(door) | {"iss": None}) == foreign
    fake.told = {"authorization_response_iss_parameter_supported": False}
    await oidc_of(door).issuer.read()
    assert await refusal(door, await led_back(door) | {"iss": "https://evil.example"}) == foreign
    assert (await bring(door, await led_back(door) | {"iss": None})).status_code == 303
    fake.told = {}
    await oidc_of(door).issuer.read()


async def test_a_person_who_takes_too_long_begins_again(
    door: Door, fake: FakeIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = await led_back(door)
    for moved_ms in (FLOW_MS, -60_000):
        monkeypatch.setattr(oidc_of(door).browser, "_now_ms", lambda moved_ms=moved_ms: now_ms() + moved_ms)
        assert await refusal(door, back) == failed("This sign-in took too long.")


@each("told", [
    ("access_denied", "The issuer did not let you in, or you refused."),
    ("login_required", "The issuer could not sign you in."),
])  # fmt: skip
async def test_who_is_refused_at_the_issuer_is_told_so(door: Door, fake: FakeIssuer, told: tuple[str, str]) -> None:
    fake.refusal, why = told
    assert await refusal(door, await led_back(door)) == failed(why)
    foreign = await led_back(door) | {"iss": "https://evil.example"}
    assert await refusal(door, foreign) == failed("This answer is not from the issuer that lets people in here.")


async def test_an_answer_without_a_code_or_with_another_lets_nobody_in(door: Door, fake: FakeIssuer) -> None:
    back = await led_back(door)
    assert await refusal(door, back | {"code": None}) == failed("The issuer's answer has no code.")
    used = failed("The issuer takes its answer for used already, or for too old.")
    assert await refusal(door, back | {"code": "other"}) == used


@each("claims", [
    ({"nonce": "other"}, "What the issuer says is meant for another sign-in."),
    ({"nonce": None}, "What the issuer says is meant for another sign-in."),
    ({"aud": ["gateway", "other"]}, "What the issuer says is meant for another sign-in."),
    ({"azp": "other"}, "What the issuer says is meant for another sign-in."),
    ({"aud": "other"}, "What the issuer says of you cannot be trusted."),
    ({"iss": "https://evil.example"}, "What the issuer says of you cannot be trusted."),
    ({"exp": 1}, "What the issuer says of you cannot be trusted."),
])  # fmt: skip
async def test_an_id_token_that_is_not_for_this_sign_in_lets_nobody_in(
    door: Door, fake: FakeIssuer, claims: tuple[dict[str, Any], str]
) -> None:
    fake.id_claims, why = claims
    assert await refusal(door, await led_back(door)) == failed(why)


async def test_an_id_token_for_several_names_the_one_that_asked(door: Door, fake: FakeIssuer) -> None:
    fake.id_claims = {"aud": [CLIENT_ID, "other"], "azp": CLIENT_ID}
    assert (await bring(door, await led_back(door))).status_code == 303


async def test_what_is_said_elsewhere_is_said_of_the_same_person(door: Door, fake: FakeIssuer) -> None:
    fake.told = {"sub": "eve"}
    assert await refusal(door, await led_back(door)) == failed("What the issuer says of you is about somebody else.")


@each("said", [
    ({"email": "id@example.com", "email_verified": True}, "id@example.com"),
    ({"email": "id@example.com"}, None),
    ({"email": "id@example.com", "email_verified": False}, None),
    ({"email_verified": False}, "info@example.com"),
])  # fmt: skip
async def test_an_address_is_verified_by_whoever_tells_it(
    strict: Door, fake: FakeIssuer, said: tuple[dict[str, Any], str | None]
) -> None:
    """Its role is told elsewhere alone, so that both are asked."""
    claims, email = said
    fake.person = {"sub": f"{claims}", "email": "info@example.com", "email_verified": True, "roles": ["owner"]}
    fake.id_claims = claims
    told = (await me(strict, await signed_in(strict))).json()
    assert told["email"] == email
    await strict.gateway.sign_in.people.delete(told["id"], even_last=True)


async def test_a_sign_in_by_a_new_key_is_good(door: Door, fake: FakeIssuer) -> None:
    fake.rotate()
    assert (await bring(door, await led_back(door))).status_code == 303


# An issuer that does not do its part


async def test_while_the_issuer_is_away_a_sign_in_waits_for_it(door: Door, fake: FakeIssuer) -> None:
    back = await led_back(door)
    fake.is_absent = True
    refused = await bring(door, back)
    assert (refused.status_code, error_of(refused)["code"]) == (503, "issuer_unavailable")
    fake.is_absent = False
    await signed_in(door)


@each("granted", [
    ((401, {"error": "invalid_client"}), "answers 401 invalid_client"),
    ((400, {"error": "not a word\n"}), "answers 400 an error"),
    ((200, {"access_token": "x"}), "gives no id_token"),
])  # fmt: skip
async def test_what_the_operator_has_to_mend_is_logged(
    door: Door, strict: Door, fake: FakeIssuer, granted: tuple[tuple[int, dict[str, Any]], str]
) -> None:
    fake.granted, why = granted
    refused = await bring(door, await led_back(door))
    assert (refused.status_code, error_of(refused)["code"]) == (503, "issuer_unavailable")
    (line,) = errors_of(door, strict)
    assert why in line


async def test_userinfo_that_cannot_be_read_lets_nobody_in(door: Door, fake: FakeIssuer) -> None:
    back = await led_back(door)
    fake.told = {"userinfo_endpoint": f"{fake.url}/nowhere"}
    await oidc_of(door).issuer.read()
    refused = await bring(door, back)
    assert (refused.status_code, error_of(refused)["code"]) == (503, "issuer_unavailable")
    fake.told = {}
    await oidc_of(door).issuer.read()


async def test_an_issuer_without_userinfo_says_what_it_says(door: Door, fake: FakeIssuer) -> None:
    fake.person, fake.told = {"sub": "terse"}, {"userinfo_endpoint": None}
    await oidc_of(door).issuer.read()
    assert (await me(door, await signed_in(door))).json()["email"] is None
    fake.told = {}
    await oidc_of(door).issuer.read()


async def test_an_issuer_that_has_no_place_for_browsers_is_told_of(door: Door, strict: Door, fake: FakeIssuer) -> None:
    back = await led_back(door)
    fake.told = {"authorization_endpoint": None, "token_endpoint": None}
    await oidc_of(door).issuer.read()
    refused = [await door.http.get(START, headers=fresh_guest()), await bring(door, back)]
    assert [error_of(one)["code"] for one in refused] == ["issuer_unavailable"] * 2
    missing = [re.findall("names no ([a-z_]+)", line) for line in errors_of(door, strict)]
    assert missing == [["authorization_endpoint"], ["token_endpoint"]]
    fake.told = {"authorization_endpoint": f"{fake.url}/authorize?tenant=1"}
    await oidc_of(door).issuer.read()
    began = await door.http.get(START, headers=fresh_guest())
    assert began.headers["location"].startswith(f"{fake.url}/authorize?tenant=1&response_type=code&")
    fake.told = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    await oidc_of(door).issuer.read()
    assert (await bring(door, await led_back(door))).status_code == 303
    fake.told = {}
    await oidc_of(door).issuer.read()


# Who is let in


async def test_who_is_switched_off_is_not_let_in(door: Door, fake: FakeIssuer) -> None:
    fake.person = {"sub": "off"}
    told = (await me(door, await signed_in(door))).json()
    await door.gateway.sign_in.people.set_active(told["id"], is_active=False, even_last=True)
    assert (await refusal(door, await led_back(door)))[:2] == (403, "account_deactivated")


async def test_what_somebody_may_is_what_the_issuer_says_at_each_sign_in(strict: Door, fake: FakeIssuer) -> None:
    fake.person = {"sub": "roles", "roles": ["owner"]}
    fake.id_claims = {"iat": now_ms() // 1000 - 30}
    assert (await me(strict, await signed_in(strict))).json()["role"] == "owner"
    fake.person, fake.id_claims = {"sub": "roles", "roles": ["viewer"]}, {}
    assert (await me(strict, await signed_in(strict))).json()["role"] == "viewer"
    fake.person = {"sub": "roles", "roles": []}
    assert (await refusal(strict, await led_back(strict)))[:2] == (403, "insufficient_permissions")


async def test_nobody_comes_for_the_first_time_from_a_country_that_is_blocked(strict: Door, fake: FakeIssuer) -> None:
    abroad = {"cf-ipcountry": "KP"}
    fake.person = {"sub": "far", "roles": ["owner"]}
    refused = await bring(strict, await led_back(strict), **abroad)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "unsupported_region")
    await signed_in(strict)
    assert (await bring(strict, await led_back(strict), **abroad)).status_code == 303


async def test_an_address_comes_back_as_often_as_it_may_sign_in(door: Door, fake: FakeIssuer) -> None:
    statuses = []
    for _ in range(21):
        response = await door.http.get(f"{CALLBACK}?state=x", headers={"x-forwarded-for": "192.0.2.9"})
        statuses.append(response.status_code)
    assert statuses == [400] * 20 + [429]
    assert error_of(response)["code"] == "too_many_sign_ins"
    assert (await door.http.get(START, headers={"x-forwarded-for": "192.0.2.9"})).status_code == 303


# Where it is told of


async def test_a_browser_that_is_refused_there_sees_a_page_that_says_what_to_do(
    door: Door, strict: Door, fake: FakeIssuer
) -> None:
    browser = {"accept": "text/html,*/*;q=0.8", **fresh_guest()}
    page = await door.http.get(f"{CALLBACK}?state=<script>", headers=browser)
    assert (page.status_code, page.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert "Begin the sign-in again." in page.text
    assert 'href="/console/sign-in"' in page.text
    assert "<script>" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (page.headers["cache-control"], page.headers["vary"]) == ("no-store", "Accept")
    fake.told = {"authorization_endpoint": None}
    await oidc_of(door).issuer.read()
    absent = await door.http.get(START, headers=browser)
    assert absent.status_code == 503
    assert re.search(r"Wait \d+ seconds, then sign in again\.", absent.text)
    assert len(errors_of(door, strict)) == 1
    fake.told = {}
    await oidc_of(door).issuer.read()
    told = await door.http.get(f"{CALLBACK}?state=x", headers={"accept": "application/json", **fresh_guest()})
    assert error_of(told)["code"] == "sign_in_failed"


async def test_the_welcome_and_the_console_lead_there(door: Door, strict: Door) -> None:
    for one in (door, strict):
        assert (await one.http.get("/")).json()["sign_in"] == START
        page = (await one.http.get("/console/sign-in?next=/console/keys")).text
        assert f'href="{START}?next=/console/keys"' in page
    assert 'type="password"' in (await door.http.get("/console/sign-in")).text
    page = (await strict.http.get("/console/sign-in")).text
    assert "Sign in with Example Inc." in page
    assert 'type="password"' not in page
    for path in ("/console/register", "/console/password"):
        assert (await strict.http.get(path)).status_code == 404


async def test_there_is_nothing_where_the_gateway_is_no_client(
    tmp_path_factory: pytest.TempPathFactory, served: FakeIssuer
) -> None:
    folder = tmp_path_factory.mktemp("programs")
    async with open_door(folder, public_url=BASE_URL, oidc={"issuer": served.url}) as door:
        for path in (START, CALLBACK):
            refused = await door.http.get(path)
            assert (refused.status_code, error_of(refused)["code"]) == (404, "unknown_url")
        assert "sign_in" not in (await door.http.get("/")).json()
        assert START not in (await door.http.get("/console/sign-in")).text


async def test_a_session_that_has_ended_began_in_no_way(door: Door) -> None:
    with pytest.raises(GatewayError, match="expired_session"):
        await door.gateway.sign_in.way_of(User("usr_x", "ses_x", "owner", False))
