"""People as the operator has them over HTTP: made, invited, changed, kept out and deleted; and administrators' keys."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, Role
from mcp_gateway.core.ids import new_id
from tests.cases import each
from tests.doors.operating import Operating
from tests.serving import FREE, Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
PASSWORD = "a quiet river in May"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("users"), models=[FREE], users={"registration": "invite"}) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def admin(door: Door) -> Operating:
    return Operating(door, await door.admin_key())


async def post(door: Door, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    door.http.cookies.clear()
    answer = await door.http.post(path, json=body, headers=bearer(None) | headers)
    door.http.cookies.clear()
    return answer


def address() -> str:
    return f"{new_id('user')}@example.com"


async def person_in(door: Door, account_id: str, role: Role = "owner", **rights: bool) -> tuple[str, str]:
    """The id of a new user, and a token of theirs."""
    token = await door.person(account_id, role=role, **rights)
    return (await door.gateway.authenticator.identify(token)).user.user_id, token


async def test_a_user_is_made_with_a_secret_by_which_they_choose_a_password(door: Door, admin: Operating) -> None:
    email = address()
    answer = await admin.ask("POST", "users", {"email": email.upper()})
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    made = answer.json()
    secret, ends_at = made.pop("token"), made.pop("token_expires_at")
    assert ends_at > made["created_at"]
    assert await admin.done("GET", f"users/{made['id']}") == made
    assert (made["email"], made["role"], made["active"], made["has_password"]) == (email, "owner", True, False)
    chosen = await post(door, "/v1/auth/password", {"token": secret, "password": PASSWORD})
    assert chosen.status_code == 200, chosen.text
    assert (await post(door, "/v1/auth/login", {"email": email, "password": PASSWORD})).status_code == 200
    actions = [entry["action"] for entry in await admin.noted(made["id"])]
    assert actions == ["user.link.password", "user.create"]
    assert email not in (await admin.ask("GET", "audit")).text
    again = await admin.done("POST", f"users/{made['id']}/password")
    assert again["token"].startswith("gw_reset_")
    assert await admin.refused("POST", "users", {"email": email}) == "conflict"


async def test_nobody_comes_into_the_guests_account(door: Door, admin: Operating) -> None:
    """Whose owner would read what all guests ask for, and pay into an account that can own nothing."""
    email = address()
    for path, body in (("users", {"email": email}), ("invitations", {}), ("invitations", {"email": email})):
        assert await admin.refused("POST", path, body | {"account_id": GUEST_ACCOUNT_ID}) == "conflict"
    assert (await admin.done("GET", f"users?account_id={GUEST_ACCOUNT_ID}"))["data"] == []
    assert (await admin.done("GET", f"users?email={email}"))["data"] == []


async def test_users_are_listed_page_by_page(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    ids = [(await person_in(door, account_id))[0] for _ in range(3)]
    page = await admin.done("GET", f"users?account_id={account_id}&limit=2")
    rest = await admin.done("GET", f"users?account_id={account_id}&cursor={page['next_cursor']}")
    assert sorted(one["id"] for one in (*page["data"], *rest["data"])) == sorted(ids)
    email = page["data"][0]["email"]
    (found,) = (await admin.done("GET", f"users?email={email}"))["data"]
    assert found == page["data"][0]
    assert await admin.refused("GET", "users?email=nobody") == "invalid_value email"


async def test_whom_it_invites_registers_as_what_the_invitation_says(door: Door, admin: Operating) -> None:
    account_id, email = await door.account(), address()
    invitation = await admin.done(
        "POST", "invitations", {"email": email, "account_id": account_id, "role": "viewer", "administrator": True}
    )
    registered = await post(
        door, "/v1/auth/register", {"token": invitation["token"], "email": email, "password": PASSWORD}
    )
    user = registered.json()["user"]
    assert (user["account_id"], user["role"], user["administrator"]) == (account_id, "viewer", True)
    for unknown in ("acc_none", ""):
        assert await admin.refused("POST", "invitations", {"account_id": unknown}) == "not_found"
    assert (await admin.done("POST", "invitations", {}))["token"].startswith("gw_invite_")


async def test_a_session_has_another_role_from_the_next_request_on(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    await person_in(door, account_id)
    user_id, token = await person_in(door, account_id)
    assert (await door.get("/v1/keys", token)).status_code == 200
    assert error_of(await door.get("/v1/admin/config", token))["code"] == "insufficient_permissions"
    told = await admin.done("PATCH", f"users/{user_id}", {"role": "viewer", "administrator": True})
    assert (told["role"], told["administrator"]) == ("viewer", True)
    assert error_of(await door.get("/v1/keys", token))["code"] == "insufficient_scope"
    assert (await door.get("/v1/admin/config", token)).status_code == 200
    assert (await admin.noted(user_id))[0] == {
        "action": "user.change",
        "before": {"role": "owner", "administrator": False},
        "after": {"role": "viewer", "administrator": True},
    }
    await admin.done("PATCH", f"users/{user_id}", {"administrator": False, "even_last": True})
    assert error_of(await door.get("/v1/admin/config", token))["code"] == "insufficient_permissions"


async def test_the_command_changes_the_same_and_notes_the_same(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    await person_in(door, account_id)
    (ours, _), (theirs, _) = [await person_in(door, account_id) for _ in range(2)]
    for body, words in (
        ({"role": "member"}, ["change", "--role", "member"]),
        ({"administrator": True}, ["change", "--administrator"]),
        ({"administrator": False, "even_last": True}, ["change", "--no-administrator", "--even-last"]),
        ({"active": False}, ["disable"]),
        ({"active": True}, ["disable", "--undo"]),
    ):
        told = await admin.done("PATCH", f"users/{ours}", body)
        by_command = await admin.command("users", words[0], theirs, *words[1:])
        assert {name: told[name] for name in ("role", "administrator", "active")} == {
            name: by_command[name] for name in ("role", "administrator", "active")
        }
        assert (await admin.noted(ours))[0] == (await admin.noted(theirs))[0]


async def test_the_last_owner_and_the_last_administrator_go_only_where_that_is_said(
    door: Door, admin: Operating
) -> None:
    account_id = await door.account()
    owner, _ = await person_in(door, account_id)
    assert await admin.refused("PATCH", f"users/{owner}", {"role": "member"}) == "conflict even_last"
    await person_in(door, account_id, "member")
    for method, path, body in (
        ("PATCH", f"users/{owner}", {"active": False}),
        ("DELETE", f"users/{owner}", None),
        ("PATCH", f"users/{owner}", {"role": "viewer"}),
    ):
        assert await admin.refused(method, path, body) == "conflict even_last"
    other, _ = await person_in(door, account_id)
    await admin.done("PATCH", f"users/{other}", {"active": False})
    assert await admin.refused("PATCH", f"users/{owner}", {"role": "viewer"}) == "conflict even_last"
    assert (await admin.done("PATCH", f"users/{owner}", {"role": "viewer", "even_last": True}))["role"] == "viewer"
    for (administrator,) in await door.rows("SELECT id FROM users WHERE is_administrator"):
        await admin.done("PATCH", f"users/{administrator}", {"administrator": False, "even_last": True})
    chief, token = await person_in(door, account_id, is_administrator=True)
    by_chief = Operating(door, token)
    for method, body in (("PATCH", {"administrator": False}), ("PATCH", {"active": False}), ("DELETE", None)):
        assert await by_chief.refused(method, f"users/{chief}", body) == "conflict even_last"
    await person_in(door, account_id, is_administrator=True)
    await by_chief.done("DELETE", f"users/{chief}?even_last=true")
    assert await admin.refused("GET", f"users/{chief}") == "not_found"
    assert error_of(await by_chief.ask("GET", "config"))["code"] == "expired_session"


async def test_what_a_former_administrator_or_owner_made_lets_nobody_in(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    await person_in(door, account_id)
    await person_in(door, account_id, is_administrator=True)
    for change, is_administrator, path in (
        ({"administrator": False}, True, "/v1/admin/invitations"),
        ({"role": "member"}, False, "/v1/auth/invitations"),
    ):
        user_id, token = await person_in(door, account_id, is_administrator=is_administrator)
        made = await post(door, path, {"role": "owner"}, authorization=f"Bearer {token}")
        assert made.status_code == 201, made.text
        await admin.done("PATCH", f"users/{user_id}", change)
        tried = {"token": made.json()["token"], "email": address(), "password": PASSWORD}
        assert error_of(await post(door, "/v1/auth/register", tried))["param"] == "token"


async def test_a_user_is_signed_out_everywhere_and_may_come_back(door: Door, admin: Operating) -> None:
    user_id, token = await person_in(door, await door.account())
    made = (await door.http.post("/v1/keys", json={}, headers=bearer(token))).json()
    person = await door.gateway.sign_in.people.get(user_id)
    further = (await door.gateway.sign_in.open_session(person, "tests", "127.0.0.1")).token
    for ended in (2, 0):
        assert await admin.done("DELETE", f"users/{user_id}/sessions") == {"ended": ended}
    for shown in (token, further):
        assert error_of(await door.get("/v1/limits", shown))["code"] == "expired_session"
    assert (await door.get("/v1/limits", made["key"])).status_code == 200
    assert await admin.noted(user_id) == [{"action": "user.sign_out", "before": None, "after": {"sessions_ended": 2}}]
    again = (await door.gateway.sign_in.open_session(person, "tests", "127.0.0.1")).token
    assert (await door.get("/v1/limits", again)).status_code == 200


async def test_a_user_is_deleted_with_keys_and_sessions(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    user_id, token = await person_in(door, account_id)
    made = (await door.http.post("/v1/keys", json={}, headers=bearer(token))).json()
    assert (await door.get("/v1/limits", made["key"])).status_code == 200
    assert await admin.done("DELETE", f"users/{user_id}") == {"id": user_id, "deleted": True}
    assert error_of(await door.get("/v1/limits", made["key"]))["code"] == "revoked_api_key"
    assert error_of(await door.get("/v1/limits", token))["code"] == "expired_session"


@each(
    ("method", "path", "body", "refusal"),
    [
        ("POST", "users", {"email": "nobody"}, "invalid_value email"),
        ("POST", "users", {"email": "a@example.com", "account_id": "acc_none"}, "not_found"),
        ("POST", "users", {"email": "a@example.com", "role": "chief"}, "invalid_value role"),
        ("POST", "users", {"email": "a@example.com", "password": PASSWORD}, "unsupported_parameter password"),
        ("GET", "users/usr_none", None, "not_found"),
        ("PATCH", "users/usr_none", {"active": False}, "not_found"),
        ("PATCH", "users/usr_none", {"role": "member"}, "not_found"),
        ("DELETE", "users/usr_none", None, "not_found"),
        ("POST", "users/usr_none/password", None, "not_found"),
        ("DELETE", "users/usr_none/sessions", None, "not_found"),
        ("DELETE", "admins/adm_none", None, "not_found"),
    ],
)
async def test_what_cannot_be_is_refused(
    admin: Operating, method: str, path: str, body: dict[str, Any] | None, refusal: str
) -> None:
    assert await admin.refused(method, path, body) == refusal


async def test_switching_off_stands_alone(door: Door, admin: Operating) -> None:
    user_id, _ = await person_in(door, await door.account())
    body = {"active": False, "role": "member"}
    assert await admin.refused("PATCH", f"users/{user_id}", body) == "invalid_value active"


async def test_administrators_keys_are_listed_and_revoked(door: Door, admin: Operating) -> None:
    made = await admin.command("admins", "create", "to be revoked")
    raw = made.pop("key")
    listed = (await admin.done("GET", "admins"))["data"]
    assert {"object": "admin_key"} | made in listed
    assert raw not in str(listed)
    assert (await door.get("/v1/admin/config", raw)).status_code == 200
    told = await admin.done("DELETE", f"admins/{made['id']}")
    assert told["state"] == "revoked"
    assert error_of(await door.get("/v1/admin/config", raw))["code"] == "revoked_api_key"
    assert [entry["action"] for entry in await admin.noted(made["id"])] == ["admin_key.revoke", "admin_key.create"]


async def test_who_is_invited_is_told_no_more_often_than_where_they_register(tmp_path: Any) -> None:
    async with open_door(tmp_path, users={"registration": "open"}) as door:
        token = await door.person()
        codes = []
        for _ in range(21):
            answer = await door.http.post("/auth/invitations", json={}, headers=bearer(token))
            codes.append(answer.status_code)
        assert codes == [201] * 20 + [429]
        assert error_of(answer)["code"] == "too_many_sign_ins"


async def test_an_owner_rotates_what_the_operator_raised_and_a_member_and_a_key_do_not(door: Door) -> None:
    account_id = await door.account()
    key, _ = await door.gateway.keys.create(account_id, mcp_servers=["work"], may_mint_over_mcp=True)
    path, body = f"/v1/keys/{key.id}/rotate", {"expires_old_in_s": 0}
    for shown in (await door.person(account_id, role="member"), await door.key(account_id)):
        refused = await door.http.post(path, json=body, headers=bearer(shown))
        assert error_of(refused)["code"] == "insufficient_permissions"
    rotated = await door.http.post(path, json=body, headers=bearer(await door.person(account_id)))
    assert rotated.status_code == 200, rotated.text
    assert (rotated.json()["mcp_servers"], rotated.json()["mint_over_mcp"]) == (["work"], True)


async def test_a_member_reads_the_webhook_and_does_not_set_it(door: Door) -> None:
    account_id = await door.account()
    member, owner = await door.person(account_id, role="member"), await door.person(account_id)
    assert (await door.get("/v1/webhook", member)).status_code == 200
    body = {"url": "https://hooks.example.com/"}
    assert error_of(await door.http.put("/v1/webhook", json=body, headers=bearer(member)))["code"] == (
        "insufficient_scope"
    )
    assert (await door.http.put("/v1/webhook", json=body, headers=bearer(owner))).status_code == 200
