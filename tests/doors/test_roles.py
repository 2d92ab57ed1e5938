"""Every operation as everybody: who is let in, and what the others are told."""

import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import httpx2
import pytest
import pytest_asyncio

from http_api.operations import Access, AnyOperation
from mcp_gateway.core.caller import ROLE_SCOPES, KeyScope
from mcp_gateway.core.errors import TABLE, Code
from tests.cases import each
from tests.doors.event_sessions import event_session, send
from tests.serving import Door, bearer, fresh_guest, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEPT_OUT: set[Code] = {
    "missing_credentials", "insufficient_scope", "insufficient_permissions", "invalid_api_key", "expired_session",
    "revoked_api_key", "account_deactivated",
}  # fmt: skip
ENDING = {"logout", "delete_me", "end_session", "end_other_sessions"}
"""Of whoever asks, who is another one then."""
FOR_OWNERS = {"list_users", "invite", "let_choose_password"}
ASKED_OF_ONE = {"generation", "current_key", "metrics"}
"""Of a request, or of a key: which is not there, or not shown."""
OVER_MCP = {"/mcp/sse", "/mcp/sse/", "/mcp/messages", "/mcp/messages/", "/mcp/tools"}
"""Walked by methods below; tools of servers are told where the settings say so."""
OF_ONE = re.compile(r"\{(key|session|user|request)_id\}")
NO_SCOPES: frozenset[KeyScope] = frozenset()


class Things(NamedTuple):
    """What the first account has."""

    account_id: str
    key_id: str
    session_id: str
    user_id: str


class Who(NamedTuple):
    """Somebody, by the credential that they show."""

    shown: Callable[[Door, Things], Awaitable[str | None]]
    scopes: frozenset[KeyScope] = NO_SCOPES
    is_person: bool = False
    is_owner: bool = False
    is_administrator: bool = False
    is_refused: bool = False
    """Whether the credential is no good."""


async def nobody(door: Door, things: Things) -> None:
    return None


async def _expired(door: Door, things: Things) -> str:
    tokens = door.gateway.sign_in.tokens
    now_ms = tokens._now_ms
    tokens._now_ms = lambda: now_ms() - 2 * tokens.lifetime_ms
    try:
        return await door.person(things.account_id)
    finally:
        tokens._now_ms = now_ms


async def _signed_out(door: Door, things: Things) -> str:
    token = await door.person(things.account_id)
    caller = await door.gateway.authenticator.identify(token)
    await door.gateway.sign_in.sign_out(caller.user)
    return token


async def _foreign(door: Door, things: Things) -> str:
    head = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "kid": "abc", "typ": "at+jwt"}).encode())
    return f"{head.decode().rstrip('=')}.e30.c2lnbmVk"


async def _disabled(door: Door, things: Things) -> str:
    token = await door.person(things.account_id)
    caller = await door.gateway.authenticator.identify(token)
    await door.gateway.sign_in.people.set_active(caller.user.user_id, is_active=False)
    await door.gateway.known_keys.catch_up()
    return token


EVERYBODY: dict[str, Who] = {
    "a guest": Who(nobody),
    "a key": Who(lambda door, things: door.key(things.account_id), ROLE_SCOPES["owner"]),
    "a key that reads": Who(lambda door, things: door.key(things.account_id, scopes={"read"}), frozenset({"read"})),
    "an owner": Who(lambda door, things: door.person(things.account_id), ROLE_SCOPES["owner"], True, True),
    "a member": Who(lambda door, things: door.person(things.account_id, role="member"), ROLE_SCOPES["member"], True),
    "a viewer": Who(lambda door, things: door.person(things.account_id, role="viewer"), ROLE_SCOPES["viewer"], True),
    "another's owner": Who(lambda door, things: door.person(), ROLE_SCOPES["owner"], True, True),
    "an administrator who views": Who(
        lambda door, things: door.person(things.account_id, role="viewer", is_administrator=True),
        ROLE_SCOPES["viewer"],
        is_person=True,
        is_administrator=True,
    ),
    "an expired token": Who(_expired, is_refused=True),
    "a token that was signed out": Who(_signed_out, is_refused=True),
    "somebody else's token": Who(_foreign, is_refused=True),
    "a user who is disabled": Who(_disabled, is_refused=True),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("roles"), users={"registration": "open"}) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def things(door: Door) -> Things:
    account_id = await door.account()
    caller = await door.gateway.authenticator.identify(await door.person(account_id))
    key, _ = await door.gateway.keys.create(account_id)
    return Things(account_id, key.id, caller.user.session_id, caller.user.user_id)


def expected(row: AnyOperation, who: Who) -> set[Code]:
    """The codes of which one keeps this caller out; none where they are let in."""
    if row.access in (Access.OPEN, Access.SIGNED):
        return set()
    if who.is_refused:
        return {"expired_session", "invalid_api_key"}
    is_guest = who.shown is nobody
    if row.access is Access.ADMINISTRATOR and not who.is_administrator:
        return {"missing_credentials"} if is_guest else {"insufficient_permissions"}
    if row.access is Access.PERSON:
        if not who.is_person:
            return {"missing_credentials"} if is_guest else {"insufficient_permissions"}
        return set() if who.is_owner or row.name not in FOR_OWNERS else {"insufficient_permissions"}
    if is_guest:
        return set() if row.access in (Access.PUBLIC, Access.ANYONE) else {"missing_credentials"}
    return {"insufficient_scope"} if row.scope is not None and row.scope not in who.scopes else set()


def is_as(wanted: set[Code], response: httpx2.Response) -> bool:
    """Whether an answer is one of these refusals, or, with none of them, lets in; Anthropic's shape has no codes."""
    error = {} if response.is_success else response.json()["error"]
    if "code" not in error:
        return response.status_code in ({TABLE[code].status for code in wanted} or {*range(200, 300), 400, 404})
    return error["code"] in wanted if wanted else error["code"] not in KEPT_OUT


@pytest.mark.surfaces
@each("name", EVERYBODY)
async def test_each_operation_lets_in_whom_it_should_and_tells_the_others_why_not(
    door: Door, things: Things, name: str
) -> None:
    who = EVERYBODY[name]
    shown = await who.shown(door, things)
    nothing = things._replace(account_id="acc_none", key_id="key_none", user_id="usr_none")
    rows = [row for row in door.operations if row.method != "*" and row.path not in OVER_MCP]
    rows = [row for row in rows if not (who.is_administrator and row.path.endswith("/drain"))]
    for row in rows:
        is_changed = row.access is Access.ADMINISTRATOR and who.is_administrator and row.method != "GET"
        is_changed = is_changed or row.name == "revoke_key"
        if row.name in ENDING and who.is_person:
            shown, kept = await who.shown(door, things), shown
        path = row.prefixes[0] + row.path.replace("{model_id:path}", "demo/echo").format(
            **(nothing if is_changed else things)._asdict(), month="2026-01", request_id="req_1", budget_id="bud_none"
        )
        headers = fresh_guest() | ({} if shown is None else {"authorization": f"Bearer {shown}"})
        body = b"{}" if row.name == "invite" else None
        typed = {} if body is None else {"content-type": "application/json"}
        response = await door.http.request(row.method, path, headers=headers | typed, content=body)
        door.http.cookies.clear()
        if row.name in ENDING and who.is_person:
            shown = kept
        wanted = expected(row, who)
        assert is_as(wanted, response) or row.name == "metrics", (row.name, wanted, response.text)
        if not wanted and row.method == "GET" and row.name not in ASKED_OF_ONE and "{" not in row.path:
            assert response.status_code == 200, (row.name, response.text)


@each("name", EVERYBODY)
async def test_each_is_let_in_or_kept_out_over_mcp_as_over_http(door: Door, things: Things, name: str) -> None:
    who = EVERYBODY[name]
    shown = await who.shown(door, things)
    for method in ("tools/list", "resources/list", "ping"):
        response = await door.mcp(method, shown)
        assert response.status_code == (401 if who.is_refused else 200), (method, response.text)


@pytest.mark.surfaces
@each("name", EVERYBODY)
async def test_each_is_let_in_or_kept_out_of_sessions_of_events_and_of_those_of_others(
    door: Door, things: Things, name: str
) -> None:
    who = EVERYBODY[name]
    headers = bearer(await who.shown(door, things))
    rows = [row for row in door.operations if row.path in OVER_MCP - {"/mcp/tools"}]
    assert {row.method for row in rows if row.access is Access.ANYONE} == {"GET", "POST"}
    async with event_session(door, "/v1/mcp/sse", bearer(await door.key())) as theirs:
        query = theirs.messages.partition("?")[2]
        for method, path in ((row.method, prefix + row.path) for row in rows for prefix in row.prefixes):
            if method == "POST":
                sent = await send(door, f"{path}?{query}", headers, b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
                assert sent.status_code == (401 if who.is_refused else 404), (path, sent.text)
                continue
            async with event_session(door, path, headers) as own:
                assert own.status == (401 if who.is_refused else 200), path
                if not who.is_refused:
                    assert "result" in await own.ask("tools/list")
        assert "result" in await theirs.ask("ping")


@pytest.mark.surfaces
async def test_what_is_anothers_is_not_there(door: Door, things: Things) -> None:
    chat = await door.chat(await door.key(things.account_id), model="demo/echo")
    request_id = chat.headers["x-request-id"]
    token = await door.person()
    rows = [row for row in door.operations if row.access is not Access.ADMINISTRATOR and OF_ONE.search(row.path)]
    assert {row.path for row in rows} >= {"/keys/{key_id}", "/keys/{key_id}/rotate", "/requests/{request_id}"}
    bodies = {"change_key": b'{"name": "mine"}', "rotate_key": b'{"expires_old_in_s": 0}'}
    for row in rows:
        path = row.prefixes[-1] + row.path.format(**things._asdict(), request_id=request_id)
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        response = await door.http.request(row.method, path, headers=headers, content=bodies.get(row.name))
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), row.name
    key = await door.gateway.keys.get(things.key_id)
    assert (key.revoked_at_ms, key.name) == (None, "")
