"""The console's page of the account: sessions, password, theme, users and invitations, and the end of a user."""

import re
from collections.abc import AsyncIterator
from html import unescape
from itertools import count
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.caller import Role
from mcp_gateway.core.identity.passwords import Passwords
from tests.serving import Door, bearer, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
ACCOUNT = "/console/account"
PASSWORD = "a quiet river in May"
_numbers = count(1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("account"), users={"registration": "open"}) as door:
        door.gateway.sign_in._passwords.close()
        door.gateway.sign_in._passwords = Passwords(time_cost=1, memory_kib=8)
        yield door
        await door.nothing_is_left()


async def registered(door: Door) -> tuple[str, str]:
    """The address of a new owner, and a token of theirs."""
    email = f"owner{next(_numbers)}@example.com"
    signed = await door.gateway.sign_in.register(
        email, PASSWORD, secret=None, counted_as="127.0.0.1", agent="<b>Firefox</b>", address="127.0.0.1"
    )
    return email, signed.token


async def another(door: Door, email: str) -> str:
    signed = await door.gateway.sign_in.sign_in(email, PASSWORD, agent="elsewhere", address="198.51.100.7")
    return signed.token


async def send(door: Door, path: str, token: str, **fields: str) -> httpx2.Response:
    return await door.http.post(ACCOUNT + path, data=fields, headers=bearer(token))


async def test_the_page_tells_who_somebody_is_and_where_they_are_signed_in(door: Door) -> None:
    email, token = await registered(door)
    page = (await door.get(ACCOUNT, token)).text
    for told in (email, "owner", "&lt;b&gt;Firefox&lt;/b&gt;", "this one"):
        assert told in page
    assert "<b>Firefox" not in page
    assert (await door.get(ACCOUNT)).headers["location"].startswith("/console/sign-in?next=")


async def test_a_session_that_is_ended_is_out_at_its_next_request(door: Door) -> None:
    email, token = await registered(door)
    others = [await another(door, email) for _ in range(2)]
    page = (await door.get(ACCOUNT, token)).text
    ends = re.findall(r"/console/account(/sessions/\w+/end)", page)
    assert len(ends) == 2
    assert (await send(door, ends[0], token)).headers["location"] == f"{ACCOUNT}?saved=1"
    assert sorted([(await door.get(ACCOUNT, other)).status_code for other in others]) == [200, 303]
    _, stranger = await registered(door)
    assert (await send(door, ends[1], stranger)).status_code == 404
    assert (await send(door, "/sessions/end-others", token)).status_code == 303
    assert [(await door.get(ACCOUNT, other)).status_code for other in others] == [303, 303]
    assert (await door.get(f"{ACCOUNT}?saved=1", token)).status_code == 200


async def test_a_password_is_changed_by_the_one_so_far(door: Door) -> None:
    email, token = await registered(door)
    wrong = await send(door, "/password", token, current_password="not that one", password="another river in June")
    assert wrong.status_code == 401
    assert "another river" not in wrong.text
    assert "<h1>Account</h1>" in wrong.text
    short = await send(door, "/password", token, current_password=PASSWORD, password="short")
    assert (short.status_code, 'id="password-error"' in short.text) == (400, True)
    done = await send(door, "/password", token, current_password=PASSWORD, password="another river in June")
    assert done.headers["location"] == f"{ACCOUNT}?saved=1"
    await door.gateway.sign_in.sign_in(email, "another river in June", agent="tests", address="127.0.0.1")


async def test_a_theme_is_in_the_page_that_is_sent(door: Door) -> None:
    _, token = await registered(door)
    for theme, kept in (("dark", "gw_theme=dark"), ("", "gw_theme="), ("<script>", "gw_theme=")):
        answer = await send(door, "/theme", token, theme=theme)
        assert answer.headers["set-cookie"].partition(";")[0] == kept
    page = await door.get(ACCOUNT, token, cookie="gw_theme=dark")
    assert 'data-theme="dark"' in page.text


async def test_an_owner_invites_by_a_link_that_is_told_once(door: Door) -> None:
    _, token = await registered(door)
    email = f"colleague{next(_numbers)}@example.com"
    made = await send(door, "/invitations", token, email=email, role="viewer")
    (link,) = re.findall(r"http://gateway\.test(/console/register\?token=[\w%.-]+)", unescape(made.text))
    secret = link.partition("=")[2]
    assert f'value="{secret}"' in (await door.get(link)).text
    assert secret not in (await door.get(ACCOUNT, token)).text
    answer = await door.http.post(
        "/console/register",
        data={"email": email, "password": PASSWORD, "token": secret},
        headers={"sec-fetch-site": "same-origin"},
    )
    assert answer.headers["location"] == "/console/keys"
    page = (await door.get(ACCOUNT, token)).text
    assert email in page
    (path,) = re.findall(r"/console/account(/users/\w+/password)", page)
    assert "/console/password?token=" in (await send(door, path, token)).text
    refused = await send(door, "/invitations", token, email="no address", role="member")
    assert (refused.status_code, 'id="email-error"' in refused.text) == (400, True)


@pytest.mark.parametrize("role", ["member", "viewer"])
async def test_whoever_is_no_owner_sees_no_users_and_invites_nobody(door: Door, role: Role) -> None:
    account = await door.account()
    owner, token = await door.person(account), await door.person(account, role=role)
    page = (await door.get(ACCOUNT, token)).text
    assert "Users of the account" not in page
    assert "Switch it" not in page
    assert (await send(door, "/invitations", token, role="owner")).status_code == 403
    assert (await send(door, "/attribution", token, enabled="true")).status_code == 403
    assert "Users of the account" in (await door.get(ACCOUNT, owner)).text


async def test_attribution_is_switched_by_an_owner(door: Door) -> None:
    _, token = await registered(door)
    for enabled in ("true", "false"):
        await send(door, "/attribution", token, enabled=enabled)
        told = (await door.get("/v1/attribution", token)).json()
        assert told["enabled"] == (enabled == "true")
        assert ("Switch it off" in (await door.get(ACCOUNT, token)).text) == told["enabled"]


async def test_a_user_is_deleted_once_they_have_typed_who_they_are(door: Door) -> None:
    email, token = await registered(door)
    refused = await send(door, "/delete", token, confirmation="somebody@example.com")
    assert (refused.status_code, 'id="confirmation-error"' in refused.text) == (400, True)
    assert (await door.get(ACCOUNT, token)).status_code == 200
    done = await send(door, "/delete", token, confirmation=email)
    assert done.headers["location"] == "/console/sign-in"
    assert (await door.get(ACCOUNT, token)).status_code == 303


@pytest.mark.gateways
async def test_where_an_issuer_alone_signs_people_in_there_are_no_passwords(tmp_path: Path) -> None:
    oidc = {"issuer": "http://127.0.0.1:9", "client_id": "gateway", "only": True}
    async with open_door(tmp_path, oidc=oidc, public_url="http://127.0.0.1:9") as door:
        token = await door.person()
        page = (await door.get(ACCOUNT, token)).text
        assert "password" not in page.lower()
        assert (await send(door, "/invitations", token)).status_code == 404
