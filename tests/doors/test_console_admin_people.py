"""The console's pages of all users and all keys: found, changed, and their secrets shown once, by administrators."""

import re
from collections.abc import AsyncIterator
from html import unescape

import pytest
import pytest_asyncio

from mcp_gateway.core.ids import new_id
from tests.cases import each
from tests.doors.test_console_admin import ACCOUNTS, AUDIT, HOSTILE, Administration
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
USERS = "/console/admin/users"
KEYS = "/console/admin/keys"
PASSWORD = "a quiet river in May"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("people"), users={"registration": "invite"}) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module")
async def admin(door: Door) -> Administration:
    return Administration(door, await door.person(is_administrator=True), await door.account())


async def person_in(admin: Administration, account_id: str | None = None) -> tuple[str, str]:
    """The id of a new user, and a token of theirs."""
    token = await admin.door.person(account_id or admin.account_id)
    return (await admin.door.gateway.authenticator.identify(token)).user.user_id, token


async def noted(admin: Administration, subject: str) -> list[str]:
    """What the log has of one as this administrator's, the newest first."""
    me = (await admin.door.get("/v1/auth/me", admin.token)).json()["id"]
    told = await admin.door.get(f"/v1/admin/audit?subject={subject}&by={me}", admin.token)
    return [entry["action"] for entry in told.json()["data"]]


def secret_in(page: str) -> str:
    (url,) = re.findall(r'<code id="link">([^<]+)</code>', page)
    return unescape(url).partition("?token=")[2]


async def test_users_are_found_by_address_and_account_and_read_page_by_page(admin: Administration) -> None:
    ids = [(await person_in(admin))[0] for _ in range(2)]
    page = (await admin.get(f"{USERS}?account_id={admin.account_id}&email=")).text
    assert set(re.findall(rf'href="{USERS}/(usr_\w+)"', page)) == {*ids}
    email = (await admin.door.get(f"/v1/admin/users/{ids[0]}", admin.token)).json()["email"]
    assert re.findall(rf'href="{USERS}/(usr_\w+)"', (await admin.get(f"{USERS}?email={email}")).text) == [ids[0]]
    first = (await admin.get(f"{USERS}?account_id={admin.account_id}&limit=1")).text
    (older,) = re.findall(r'href="(\?[^"]+)" rel="next"', first)
    second = (await admin.get(USERS + unescape(older))).text
    assert ids[0] in second
    assert ids[1] not in second
    assert "There is no such user." in (await admin.get(f"{USERS}?account_id=acc_nobody")).text
    wrong = await admin.door.http.get(
        f"{USERS}?email=nobody", headers={"authorization": f"Bearer {admin.token}", "x-part": "1"}
    )
    assert (wrong.status_code, wrong.text.count("<h1>"), "`email`" in wrong.text) == (200, 0, True)
    assert (await admin.get(f"{USERS}?cursor=nonsense")).status_code == 400


async def test_a_user_is_changed_disabled_and_signed_out_as_the_log_has_it(admin: Administration) -> None:
    await person_in(admin)
    user_id, token = await person_in(admin)
    here = f"{USERS}/{user_id}"
    assert (await admin.send(here, role="viewer", administrator="true")).headers["location"] == f"{here}?changed=1"
    assert "Done; it counts" in (await admin.get(f"{here}?changed=1")).text
    assert (await admin.door.get("/v1/admin/config", token)).status_code == 200
    assert (await admin.send(here, role="member", administrator="false")).status_code == 303
    ended = await admin.send(f"{here}/end-sessions")
    assert "1 session was ended" in (await admin.get(ended.headers["location"])).text
    assert error_of(await admin.door.get("/v1/limits", token))["code"] == "expired_session"
    assert (await admin.send(here, active="false")).status_code == 303
    assert "disabled" in (await admin.get(here)).text
    assert (await admin.send(here, active="true")).status_code == 303
    told = (await admin.door.get(f"/v1/admin/users/{user_id}", admin.token)).json()
    assert (told["role"], told["administrator"], told["active"]) == ("member", False, True)
    assert await noted(admin, user_id) == [
        "user.enable", "user.disable", "user.sign_out", "user.change", "user.change",
    ]  # fmt: skip
    refused = await admin.send(here, role="chief")
    assert (refused.status_code, "`role`" in refused.text) == (400, True)


async def test_the_last_owner_goes_only_once_that_is_said(admin: Administration) -> None:
    account_id = await admin.door.account()
    user_id, token = await person_in(admin, account_id)
    await admin.door.person(account_id, role="member")
    made = (await admin.door.http.post("/v1/keys", json={}, headers={"authorization": f"Bearer {token}"})).json()
    here = f"{USERS}/{user_id}"
    assert 'name="even_last"' not in (await admin.get(here)).text
    for path, fields in ((here, {"role": "viewer"}), (here, {"active": "false"}), (f"{here}/delete", {})):
        refused = await admin.send(path, **fields)
        assert (refused.status_code, "Nobody else who may sign in owns" in refused.text) == (409, True)
        assert refused.text.count('name="even_last"') == 3
    assert (await admin.send(f"{here}/delete", even_last="true")).headers["location"] == USERS
    assert (await admin.get(here)).status_code == 404
    assert error_of(await admin.door.get("/v1/limits", made["key"]))["code"] == "revoked_api_key"
    assert await noted(admin, user_id) == ["user.delete"]


async def test_links_that_let_somebody_in_are_shown_once(admin: Administration) -> None:
    http, email = admin.door.http, f"{new_id('user')}@example.com"
    made = await admin.send(USERS, email=email, account_id=admin.account_id, role="member", administrator="false")
    assert (made.status_code, made.headers["cache-control"]) == (200, "no-store")
    raw = secret_in(made.text)
    assert raw.startswith("gw_reset_")
    (user_id,) = re.findall(rf'href="{USERS}/(usr_\w+)"', made.text)
    assert raw not in (await admin.get(f"{USERS}/{user_id}")).text
    chosen = await http.post("/v1/auth/password", json={"token": raw, "password": PASSWORD})
    assert chosen.status_code == 200, chosen.text
    again = await admin.send(f"{USERS}/{user_id}/password")
    assert secret_in(again.text) not in ("", raw)
    fields = {"invited.account_id": admin.account_id, "invited.role": "viewer", "invited.email": ""}
    invited = await admin.send(f"{USERS}/invitations", **fields)
    body = {"token": secret_in(invited.text), "email": f"{new_id('user')}@example.com", "password": PASSWORD}
    registered = (await http.post("/v1/auth/register", json=body)).json()["user"]
    http.cookies.clear()
    assert (registered["account_id"], registered["role"]) == (admin.account_id, "viewer")
    assert await noted(admin, user_id) == ["user.link.password", "user.link.password", "user.create"]
    assert await noted(admin, admin.account_id) == ["user.link.invitation"]


async def test_what_is_wrong_with_a_user_or_an_invitation_is_told_at_its_field(admin: Administration) -> None:
    for path, fields, field in (
        (USERS, {"email": HOSTILE}, "email"),
        (f"{USERS}/invitations", {"invited.email": HOSTILE}, "invited.email"),
    ):
        refused = await admin.send(path, **fields)
        assert (refused.status_code, f'id="{field}-error"' in refused.text) == (400, True), refused.text
        assert HOSTILE not in refused.text
    for path, begin in ((USERS, ""), (f"{USERS}/invitations", "invited.")):
        ownerless = await admin.send(path, **{f"{begin}email": "ann@example.com", f"{begin}role": "viewer"})
        assert (ownerless.status_code, "needs an owner" in ownerless.text) == (400, True)
    refused = await admin.send(USERS, email="ann@example.com", account_id="acc_none")
    assert (refused.status_code, "acc_none" in refused.text) == (404, True)


async def test_keys_are_found_by_id_beginning_account_and_state(admin: Administration) -> None:
    keys = admin.door.gateway.keys
    mine, raw = await keys.create(admin.account_id, name=HOSTILE)
    other, _ = await keys.create(await admin.door.account(), name="another's")
    for query, found in (
        (f"account_id={admin.account_id}&key_id=&prefix=&state=", {mine.id}),
        (f"key_id={other.id}", {other.id}),
        (f"prefix={raw[:12]}&account_id={admin.account_id}", {mine.id}),
        (f"account_id={admin.account_id}&state=revoked", set()),
    ):
        page = (await admin.get(f"{KEYS}?{query}")).text
        assert set(re.findall(rf'href="{KEYS}/(key_\w+)"', page)) == found, query
        assert HOSTILE not in page
    first = (await admin.get(f"{KEYS}?limit=1")).text
    (older,) = re.findall(r'href="(\?[^"]+)" rel="next"', first)
    assert (await admin.get(KEYS + unescape(older))).status_code == 200
    whole = await admin.get(f"{KEYS}?prefix={raw}")
    assert (whole.status_code, raw in whole.text) == (400, False)


async def test_a_key_is_made_changed_rotated_and_revoked_for_another_account(admin: Administration) -> None:
    blank = (await admin.get(f"{KEYS}/new?account_id={admin.account_id}")).text
    assert f'value="{admin.account_id}"' in blank
    fields = {"account_id": admin.account_id, "name": HOSTILE, "requests_per_minute": "none", "once": new_id("form")}
    made, again = [await admin.send(KEYS, **fields) for _ in range(2)]
    (raw,) = re.findall(r'<code id="raw-key">(gw_live_[^<]+)</code>', made.text)
    (key_id,) = set(re.findall(rf'href="{KEYS}/(key_\w+)"', made.text))
    assert (again.status_code, "gw_live_" in again.text, f"{KEYS}/{key_id}" in again.text) == (200, False, True)
    here = f"{KEYS}/{key_id}"
    page = (await admin.get(here)).text
    assert (raw in page, HOSTILE in page, f"{ACCOUNTS}/{admin.account_id}" in page) == (False, False, True)
    assert re.search(r'name="requests_per_minute"[^>]* value="none"', page)
    changed = await admin.send(
        here, name="nightly", requests_per_minute="30", requests_per_day="default", tokens_per_minute="default"
    )
    assert changed.headers["location"] == f"{here}?changed=1"
    told = (await admin.door.get(f"/v1/admin/keys/{key_id}", admin.token)).json()
    assert (told["name"], told["limits"]["requests_per_minute"]) == ("nightly", 30)
    refused = await admin.send(here, requests_per_minute="some")
    assert (refused.status_code, 'id="requests_per_minute-error"' in refused.text) == (400, True)
    for path in (KEYS, "/console/keys"):  # where no field has it, it is told above the form
        refused = await admin.send(path, account_id=admin.account_id, test="true", scopes="read")
        assert (refused.status_code, 'role="alert"' in refused.text) == (400, True)
    turned = await admin.send(f"{here}/rotate", expires_old_in_s="0", once=new_id("form"))
    (new,) = re.findall(r'<code id="raw-key">(gw_live_[^<]+)</code>', turned.text)
    assert (await admin.door.get("/v1/limits", new)).status_code == 200
    assert error_of(await admin.door.get("/v1/limits", raw))["code"] == "revoked_api_key"
    assert (await admin.send(f"{here}/revoke")).headers["location"] == f"{here}?changed=1"
    assert error_of(await admin.door.get("/v1/limits", new))["code"] == "revoked_api_key"
    assert await noted(admin, key_id) == ["key.revoke", "key.rotate", "key.change", "key.create"]
    audit = (await admin.get(f"{AUDIT}?subject={key_id}")).text
    assert (raw in audit, new in audit, HOSTILE in audit) == (False, False, False)


@each(
    ("method", "path"),
    [
        ("GET", f"{USERS}/usr_none"),
        ("POST", f"{USERS}/usr_none"),
        ("POST", f"{USERS}/usr_none/delete"),
        ("POST", f"{USERS}/usr_none/end-sessions"),
        ("POST", f"{USERS}/usr_none/password"),
        ("GET", f"{KEYS}/key_none"),
        ("POST", f"{KEYS}/key_none"),
        ("POST", f"{KEYS}/key_none/revoke"),
    ],
)
async def test_who_and_what_there_is_not_is_not_there(admin: Administration, method: str, path: str) -> None:
    answer = await (admin.get(path) if method == "GET" else admin.send(path))
    assert (answer.status_code, "There is no" in answer.text) == (404, True)
