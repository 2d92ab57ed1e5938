"""The gateway's own authorization server: clients, consent, codes and tokens, and what attackers would make of them."""

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import sha256
from html import unescape
from itertools import count
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.config import Settings
from mcp_gateway.core.identity.oauth.grants import CODE_MS
from mcp_gateway.core.identity.passwords import Passwords
from mcp_gateway.core.ids import now_ms
from tests.doors.test_console import PASSWORD, Reader
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = "https://gateway.example/llm"
RESOURCE = f"{PUBLIC}/v1/mcp"
BACK = "https://app.example/callback"
DOCUMENT = "https://client.example/oauth/metadata.json"
VERIFIER = "v" * 43
CHALLENGE = urlsafe_b64encode(sha256(VERIFIER.encode()).digest()).decode().rstrip("=")
LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
_numbers = count(1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    oauth = {"enabled": True, "registrations_per_minute": 1000, "documents_per_minute": 1000, "max_unused_clients": 500}
    async with open_door(
        tmp_path_factory.mktemp("oauth"), public_url=PUBLIC, oauth=oauth, users={"registration": "open"}
    ) as door:
        door.gateway.sign_in._passwords.close()
        door.gateway.sign_in._passwords = Passwords(time_cost=1, memory_kib=8)
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def reader(door: Door) -> Reader:
    return await new_reader(door)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client_id(door: Door) -> str:
    return str((await registered(door))["client_id"])


async def new_reader(door: Door) -> Reader:
    reader = Reader(door, f"person{next(_numbers)}@example.com")
    here = {"counted_as": "127.0.0.1", "agent": "tests", "address": "127.0.0.1"}
    signed = await door.gateway.sign_in.register(reader.email, PASSWORD, secret=None, **here)
    reader.cookie = f"__Host-gw_console={signed.cookie}"
    return reader


async def registered(door: Door, **told: Any) -> dict[str, Any]:
    answer = await door.http.post("/oauth/register", json={"redirect_uris": [BACK], "client_name": "An App"} | told)
    assert answer.status_code == 201, answer.text
    client: dict[str, Any] = answer.json()
    return client


def asking_for(client_id: str, /, **changes: str | None) -> dict[str, str]:
    asked: dict[str, str | None] = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": BACK,
        "state": "a state",
        "scope": "inference",
        "resource": RESOURCE,
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **changes,
    }
    return {name: value for name, value in asked.items() if value is not None}


async def begun(door: Door, client_id: str, /, **changes: str | None) -> httpx2.Response:
    return await door.http.get(f"/oauth/authorize?{urlencode(asking_for(client_id, **changes))}")


async def decided(
    reader: Reader,
    client_id: str,
    decision: str = "allow",
    chosen: Mapping[str, str] | None = None,
    changes: Mapping[str, str | None] | None = None,
) -> httpx2.Response:
    choices = {"expires_in_days": "30", "budget_usd": "", "models": ""} | dict(chosen or {})
    fields = {"decision": decision, **choices, **asking_for(client_id, **(changes or {}))}
    return await reader.door.http.post("/console/authorize", data=fields, headers=reader._headers({}))


def led_to(answer: httpx2.Response) -> dict[str, str]:
    """What the browser takes back to the client."""
    address = answer.headers.get("location") or answer.headers["refresh"].removeprefix("0; url=")
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}


async def code_of(reader: Reader, client_id: str, **changes: str | None) -> str:
    answer = await decided(reader, client_id, changes=changes)
    assert answer.status_code == 200, answer.text
    return led_to(answer)["code"]


async def redeemed(door: Door, client_id: str, code: str, /, **changes: str | None) -> httpx2.Response:
    sent: dict[str, str | None] = {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": code,
        "redirect_uri": BACK,
        "code_verifier": VERIFIER,
        "resource": RESOURCE,
        **changes,
    }
    return await door.http.post("/oauth/token", data={name: one for name, one in sent.items() if one is not None})


async def refreshed(door: Door, client_id: str, refresh_token: str, **more: str) -> httpx2.Response:
    sent = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token} | more
    return await door.http.post("/oauth/token", data=sent)


async def tokens_of(door: Door, reader: Reader, client_id: str, **changes: str | None) -> dict[str, Any]:
    code = await code_of(reader, client_id, **changes)
    told_again = {name: one for name, one in changes.items() if name in ("redirect_uri", "resource")}
    answer = await redeemed(door, client_id, code, **told_again)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def asked_at(door: Door, path: str, token: str) -> httpx2.Response:
    headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}
    return await door.http.post(path, json=LIST_TOOLS, headers=headers)


async def is_let_in(door: Door, token: str) -> bool:
    """Whether it is taken at the MCP door, which may refuse what is asked there for reasons of its own."""
    return (await asked_at(door, "/v1/mcp", token)).status_code != 401


async def key_of(reader: Reader) -> str:
    """The id of the newest of the reader's keys."""
    return str(re.findall(r"/console/keys/(key_\w+)", (await reader.get("/console/keys")).text)[0])


def error_in(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


class Later:
    """Moves the clocks that grants and tokens go by."""

    def __init__(self, door: Door) -> None:
        self._gateway = door.gateway

    def __call__(self, by_ms: int) -> None:
        def later() -> int:
            return now_ms() + by_ms

        assert self._gateway.oauth is not None
        self._gateway.oauth._now_ms = later
        self._gateway.known_keys._now_ms = later


@pytest.fixture
def pass_time(door: Door) -> Any:
    later = Later(door)
    yield later
    later(0)


# Settings


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "needs public_url"),
        ({"public_url": "http://gateway.example"}, "needs public_url, in https or on this machine"),
        ({"public_url": PUBLIC, "oidc": {"issuer": "https://id.example"}}, "without oidc.issuer"),
    ],
)
async def test_it_is_refused_where_clients_could_be_misled(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Settings.model_validate(settings | {"oauth": {"enabled": True}})
    Settings.model_validate({"public_url": "http://127.0.0.1:8080", "oauth": {"enabled": True}})


# Where everything is


async def test_clients_are_told_where_to_go_by_the_refusal_and_the_documents(door: Door) -> None:
    refused = await door.http.post("/v1/mcp", json=LIST_TOOLS)
    assert refused.status_code == 401
    (metadata_url,) = re.findall(r'resource_metadata="([^"]+)"', refused.headers["www-authenticate"])
    assert 'scope="inference"' in refused.headers["www-authenticate"]
    resource = (await door.http.get(urlsplit(metadata_url).path)).json()
    assert (resource["resource"], resource["authorization_servers"]) == (RESOURCE, [PUBLIC])
    assert resource["scopes_supported"] == ["inference"]
    for path in ("/.well-known/oauth-authorization-server/llm", "/.well-known/oauth-authorization-server"):
        answer = await door.http.get(path)
        told = answer.json()
        assert answer.headers["access-control-allow-origin"] == "*"
        assert told["issuer"] == PUBLIC
        assert told["authorization_endpoint"] == f"{PUBLIC}/oauth/authorize"
        assert told["code_challenge_methods_supported"] == ["S256"]
        assert told["authorization_response_iss_parameter_supported"] is True
        assert told["client_id_metadata_document_supported"] is True
    for path in ("/.well-known/openid-configuration", "/.well-known/openid-configuration/llm"):
        assert (await door.http.get(path)).status_code == 404
    assert (await door.http.post("/v1/mcp/guest", json=LIST_TOOLS)).status_code != 401


# The way of a person


async def test_a_client_is_let_in_by_a_person_for_what_they_chose_and_asks_at_the_mcp_door_alone(
    door: Door, client_id: str
) -> None:
    reader = await new_reader(door)
    answer = await begun(door, client_id)
    assert answer.status_code == 303
    page = await reader.get(answer.headers["location"])
    assert '<h1 class="asks">app.example</h1>' in page.text
    assert "An App" in page.text
    chosen = {"expires_in_days": "7", "budget_usd": "2.50", "budget_window": "day", "models": "demo/echo"}
    allowed = await decided(reader, client_id, chosen=chosen)
    told = led_to(allowed)
    assert (told["state"], told["iss"]) == ("a state", PUBLIC)
    assert allowed.headers["cache-control"] == "no-store"
    answer = await redeemed(door, client_id, told["code"])
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert (tokens["token_type"], tokens["expires_in"], tokens["scope"]) == ("Bearer", 3600, "inference")
    assert await is_let_in(door, tokens["access_token"])
    key = (await door.http.get(f"/v1/keys/{await key_of(reader)}", headers=reader._headers({}))).json()
    assert (key["name"], key["scopes"], key["models"], key["prefix"]) == (
        "An App",
        ["inference"],
        ["demo/echo"],
        "gwo_",
    )
    assert key["grant"] == {"client_id": client_id, "client_name": "An App", "host": "app.example"}
    assert (key["budgets"][0]["amount_usd"], key["budgets"][0]["window"]) == ("2.50", "day")
    assert key["expires_at"] == pytest.approx((now_ms() + 7 * DAY_MS) // 1000, abs=60)
    listed, one = (await reader.get("/console/keys")).text, (await reader.get(f"/console/keys/{key['id']}")).text
    for text in (listed, one):
        assert "app.example" in text
        assert tokens["access_token"] not in text
    assert "Rotate" not in one
    assert (await reader.get("/console/connect")).text.count("gwo_") == 0
    for path in ("/v1/chat/completions", "/v1/mcp/guest", "/v1/mcp/tools", "/v1/keys", "/console/keys", "/v1/models"):
        refused = await asked_at(door, path, tokens["access_token"])
        assert refused.status_code in (401, 303), path  # a page leads to where people sign in
    assert (await asked_at(door, "/api/v1/inference/mcp", tokens["access_token"])).status_code == 401


async def test_usage_of_a_client_counts_as_its_key_s(door: Door, reader: Reader, client_id: str) -> None:
    tokens = await tokens_of(door, reader, client_id)
    headers = {"authorization": f"Bearer {tokens['access_token']}", "accept": "application/json, text/event-stream"}
    opened = {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
    }  # fmt: skip
    began = await door.http.post(
        "/v1/mcp", json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": opened}, headers=headers
    )
    session = {"mcp-session-id": began.headers["mcp-session-id"]}
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await door.http.post("/v1/mcp", json=note, headers=headers | session)
    again = (await refreshed(door, client_id, tokens["refresh_token"])).json()  # a session goes on with another token
    headers["authorization"] = f"Bearer {again['access_token']}"
    ask = {
        "name": "chat_completion",
        "arguments": {"model": "demo/echo", "messages": [{"role": "user", "content": "x"}]},
    }
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": ask}
    answer = await door.http.post("/v1/mcp", json=call, headers=headers | session)
    assert '"isError":false' in answer.text or "isError" not in answer.text, answer.text
    key_id = await key_of(reader)
    requests = (await door.http.get(f"/v1/requests?key={key_id}", headers=reader._headers({}))).json()["data"]
    assert [one["key"] for one in requests] == [key_id]
    await door.http.request("DELETE", "/v1/mcp", headers=headers | session)


async def test_who_is_not_signed_in_signs_in_and_comes_back_to_the_question(door: Door, client_id: str) -> None:
    location = (await begun(door, client_id)).headers["location"]
    answer = await door.http.get(location)
    assert answer.status_code == 303
    sign_in = urlsplit(answer.headers["location"])
    assert (sign_in.path, parse_qs(sign_in.query)["next"]) == ("/console/sign-in", [location])


async def test_a_person_may_deny_and_a_viewer_may_not_allow(door: Door, reader: Reader, client_id: str) -> None:
    told = led_to(await decided(reader, client_id, "deny"))
    assert (told["error"], told["state"], told["iss"]) == ("access_denied", "a state", PUBLIC)
    people = door.gateway.sign_in.people
    viewer = await new_reader(door)
    (person,) = await people.page(before_id=None, limit=2, account_id=None, email=viewer.email)
    owner = await people.create(
        f"owner{next(_numbers)}@example.com", password_hash=None, account_id=person.account_id, role="owner",
        is_administrator=False,
    )  # fmt: skip
    assert owner.role == "owner"
    await people.change(person.id, role="viewer", is_administrator=None)
    await door.gateway.known_keys.catch_up()
    assert (await decided(viewer, client_id)).status_code == 403


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        ({"expires_in_days": ""}, "expires_in_days"),
        ({"expires_in_days": "0"}, "expires_in_days"),
        ({"expires_in_days": "366"}, "expires_in_days"),
        ({"budget_usd": "much"}, "budget_usd"),
        ({"models": "no/such"}, "models"),
    ],
)
async def test_a_choice_that_cannot_be_is_told_and_nothing_is_let_in(
    reader: Reader, client_id: str, chosen: dict[str, str], field: str
) -> None:
    answer = await decided(reader, client_id, chosen=chosen)
    assert answer.status_code in (400, 404), answer.text
    assert "refresh" not in answer.headers
    assert field.partition("_")[0] in answer.text


async def test_the_question_can_be_neither_framed_nor_answered_by_another_site(
    door: Door, reader: Reader, client_id: str
) -> None:
    page = await reader.get(f"/console/authorize?{urlencode(asking_for(client_id))}")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    for site in ("cross-site", "same-site"):
        fields = {"decision": "allow", "expires_in_days": "30", **asking_for(client_id)}
        headers = reader._headers({"sec-fetch-site": site})
        forged = await door.http.post("/console/authorize", data=fields, headers=headers)
        assert forged.status_code == 403
    framed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    shown = await reader.get(f"/console/authorize?{urlencode(asking_for(client_id))}", **framed)
    assert shown.status_code == 303  # to the sign-in: the cookie is not taken


async def test_a_hostile_name_is_one_short_line_of_text(door: Door, reader: Reader) -> None:
    name = "<script>alert(1)</script>\n\u202egnp.exe\u0000" + "x" * 500
    client = await registered(door, client_name=name)
    assert client["client_name"].startswith("<script>alert(1)</script> gnp.exe x")
    assert len(client["client_name"]) <= 60
    page = (await reader.get(f"/console/authorize?{urlencode(asking_for(client['client_id']))}")).text
    assert "<script>alert" not in page
    assert client["client_name"] in unescape(page)
    nameless = await registered(door, client_name="\u200b \n")
    assert nameless["client_name"] == "app.example"


async def test_a_program_on_the_reader_s_computer_is_told_as_that_and_may_listen_at_any_port(
    door: Door, reader: Reader
) -> None:
    client = await registered(door, redirect_uris=["http://127.0.0.1:7777/back", "http://localhost/back"])
    back = "http://127.0.0.1:4321/back"
    page = await reader.get(f"/console/authorize?{urlencode(asking_for(client['client_id'], redirect_uri=back))}")
    assert "A program on this computer" in page.text
    tokens = await tokens_of(door, reader, client["client_id"], redirect_uri=back)
    assert await is_let_in(door, tokens["access_token"])
    for other in ("http://127.0.0.1:4321/other", "http://[::1]:4321/back", "https://127.0.0.1:4321/back"):
        assert (await begun(door, client["client_id"], redirect_uri=other)).status_code == 400


# What is wrong with a request


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": None},
        {"client_id": "client_unknown"},
        {"redirect_uri": None},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": f"{BACK}/"},
        {"redirect_uri": f"{BACK}?more=1"},
        {"redirect_uri": "https://app.example.evil.example/callback"},
        {"redirect_uri": "https://app.example@evil.example/callback"},
        {"redirect_uri": "javascript:alert(1)"},
        {"client_id": "https://client.example"},
        {"client_id": "https://client.example/a/../b"},
        {"client_id": "https://user@client.example/a"},
    ],
)
async def test_who_cannot_be_led_back_is_told_on_a_page(
    door: Door, client_id: str, changes: dict[str, str | None]
) -> None:
    answer = await begun(door, client_id, **changes)
    assert answer.status_code == 400, answer.text
    assert "location" not in answer.headers
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": None}, "unsupported_response_type"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "manage"}, "invalid_scope"),
        ({"resource": "https://gateway.example/llm"}, "invalid_target"),
        ({"resource": "https://gateway.example/llm/v1/MCP"}, "invalid_target"),
        ({"resource": "https://evil.example/v1/mcp"}, "invalid_target"),
        ({"request": "eyJ"}, "invalid_request"),
        ({"request_uri": "https://app.example/request"}, "invalid_request"),
    ],
)
async def test_a_client_is_told_what_is_wrong_where_it_asked_to_be(
    door: Door, reader: Reader, client_id: str, changes: dict[str, str | None], error: str
) -> None:
    answer = await begun(door, client_id, **changes)
    assert answer.headers["location"].startswith(f"{BACK}?")
    told = led_to(answer)
    assert (told["error"], told["state"], told["iss"]) == (error, "a state", PUBLIC)
    query = urlencode(asking_for(client_id, **changes))
    assert led_to(await reader.get(f"/console/authorize?{query}"))["error"] == error
    posted = await decided(reader, client_id, changes=changes)
    assert led_to(posted)["error"] == error


async def test_a_parameter_that_stands_twice_leads_nowhere(door: Door, client_id: str) -> None:
    query = f"{urlencode(asking_for(client_id))}&redirect_uri={BACK}"
    answer = await door.http.get(f"/oauth/authorize?{query}")
    assert (answer.status_code, "location" in answer.headers) == (400, False)


async def test_who_names_neither_scope_nor_address_gets_the_ones_that_there_are(
    door: Door, reader: Reader, client_id: str
) -> None:
    tokens = await tokens_of(door, reader, client_id, scope=None, resource=None, state=None)
    assert await is_let_in(door, tokens["access_token"])
    more = await tokens_of(door, reader, client_id, scope="inference offline_access", resource=f"{RESOURCE}/sse")
    assert more["scope"] == "inference"
    assert not await is_let_in(door, more["access_token"])
    assert (await asked_at(door, "/v1/mcp/messages", more["access_token"])).status_code != 401


# Codes


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"grant_type": None}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"client_id": None}, 401, "invalid_client"),
        ({"client_id": "client_unknown"}, 401, "invalid_client"),
        ({"client_secret": "none was given"}, 401, "invalid_client"),
        ({"code": None}, 400, "invalid_request"),
        ({"code": "gwc_unknown"}, 400, "invalid_grant"),
        ({"redirect_uri": None}, 400, "invalid_request"),
        ({"redirect_uri": "https://evil.example/callback"}, 400, "invalid_grant"),
        ({"code_verifier": None}, 400, "invalid_request"),
        ({"code_verifier": "w" * 43}, 400, "invalid_grant"),
        ({"code_verifier": CHALLENGE}, 400, "invalid_grant"),
        ({"code_verifier": "v"}, 400, "invalid_grant"),
        ({"resource": f"{RESOURCE}/sse"}, 400, "invalid_target"),
        ({"scope": "manage"}, 400, "invalid_scope"),
    ],
)
async def test_a_code_is_good_for_whoever_asked_as_they_asked_and_is_not_lost_by_others(
    door: Door, reader: Reader, client_id: str, changes: dict[str, str | None], status: int, error: str
) -> None:
    code = await code_of(reader, client_id)
    refused = await redeemed(door, client_id, code, **changes)
    assert error_in(refused) == (status, error), refused.text
    assert (await redeemed(door, client_id, code)).status_code == 200


async def test_a_code_is_no_other_client_s(door: Door, reader: Reader, client_id: str) -> None:
    other = (await registered(door))["client_id"]
    code = await code_of(reader, client_id)
    assert error_in(await redeemed(door, other, code)) == (400, "invalid_grant")
    assert (await redeemed(door, client_id, code)).status_code == 200


async def test_a_code_that_comes_twice_ends_what_came_of_it(door: Door, reader: Reader, client_id: str) -> None:
    code = await code_of(reader, client_id)
    tokens = (await redeemed(door, client_id, code)).json()
    assert await is_let_in(door, tokens["access_token"])
    assert error_in(await redeemed(door, client_id, code)) == (400, "invalid_grant")
    assert not await is_let_in(door, tokens["access_token"])
    assert error_in(await refreshed(door, client_id, tokens["refresh_token"])) == (400, "invalid_grant")


async def test_a_code_that_nobody_brings_is_over_and_so_is_its_grant(
    door: Door, reader: Reader, client_id: str, pass_time: Callable[[int], None]
) -> None:
    code = await code_of(reader, client_id)
    pass_time(CODE_MS + 1000)
    assert error_in(await redeemed(door, client_id, code)) == (400, "invalid_grant")


async def test_a_grant_that_was_revoked_before_its_code_came_is_none(
    door: Door, reader: Reader, client_id: str
) -> None:
    code = await code_of(reader, client_id)
    await reader.send(f"/console/keys/{await key_of(reader)}/revoke")
    assert error_in(await redeemed(door, client_id, code)) == (400, "invalid_grant")


# Tokens


async def test_a_refresh_token_is_good_once_and_ends_the_grant_the_second_time(
    door: Door, reader: Reader, client_id: str
) -> None:
    first = await tokens_of(door, reader, client_id)
    second = (await refreshed(door, client_id, first["refresh_token"], resource=RESOURCE, scope="inference")).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert await is_let_in(door, second["access_token"])
    assert await is_let_in(door, first["access_token"])
    assert error_in(await refreshed(door, client_id, first["refresh_token"])) == (400, "invalid_grant")
    assert not await is_let_in(door, second["access_token"])
    assert error_in(await refreshed(door, client_id, second["refresh_token"])) == (400, "invalid_grant")


async def test_a_refresh_token_is_for_its_client_its_address_and_nothing_more(
    door: Door, reader: Reader, client_id: str
) -> None:
    other = (await registered(door))["client_id"]
    tokens = await tokens_of(door, reader, client_id)
    refresh = tokens["refresh_token"]
    assert error_in(await refreshed(door, other, refresh)) == (400, "invalid_grant")
    assert error_in(await refreshed(door, client_id, refresh, resource=f"{RESOURCE}/")) == (400, "invalid_target")
    assert error_in(await refreshed(door, client_id, refresh, scope="manage")) == (400, "invalid_scope")
    assert error_in(await refreshed(door, client_id, "gwr_unknown")) == (400, "invalid_grant")
    assert error_in(await refreshed(door, client_id, f"gwr_{'x' * 65}")) == (400, "invalid_grant")
    assert error_in(await refreshed(door, client_id, tokens["access_token"])) == (400, "invalid_grant")
    assert (await refreshed(door, client_id, refresh)).status_code == 200
    for token in (refresh, "gwo_" + "x" * 43, "gwc_" + "x" * 43):
        assert not await is_let_in(door, token)


async def test_an_access_token_lives_an_hour_and_its_grant_until_its_end(
    door: Door, reader: Reader, client_id: str, pass_time: Callable[[int], None]
) -> None:
    tokens = await tokens_of(door, reader, client_id)
    assert await is_let_in(door, tokens["access_token"])
    pass_time(HOUR_MS + 1000)
    over = await asked_at(door, "/v1/mcp", tokens["access_token"])
    assert (over.status_code, over.json()["error"]["code"]) == (401, "expired_session")
    assert 'error="invalid_token"' in over.headers["www-authenticate"]
    again = (await refreshed(door, client_id, tokens["refresh_token"])).json()
    assert await is_let_in(door, again["access_token"])
    pass_time(30 * DAY_MS - 60_000)
    last = (await refreshed(door, client_id, again["refresh_token"])).json()
    assert last["expires_in"] <= 60
    pass_time(30 * DAY_MS + 1000)
    assert not await is_let_in(door, last["access_token"])
    assert error_in(await refreshed(door, client_id, last["refresh_token"])) == (400, "invalid_grant")


async def test_of_a_grant_that_is_refreshed_again_and_again_few_tokens_are_kept(
    door: Door, reader: Reader, client_id: str
) -> None:
    tokens = await tokens_of(door, reader, client_id)
    first = tokens["access_token"]
    for _ in range(5):
        tokens = (await refreshed(door, client_id, tokens["refresh_token"])).json()
    assert await is_let_in(door, tokens["access_token"])
    assert not await is_let_in(door, first)  # never shown before, so that nobody remembers it


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_a_client_ends_its_grant_by_either_token(door: Door, reader: Reader, client_id: str, kind: str) -> None:
    tokens = await tokens_of(door, reader, client_id)
    other = (await registered(door))["client_id"]
    assert await is_let_in(door, tokens["access_token"])
    sent = {"token": tokens[kind], "token_type_hint": kind}
    refused = await door.http.post("/oauth/revoke", data=sent | {"client_id": other})
    assert error_in(refused) == (400, "invalid_grant")
    assert await is_let_in(door, tokens["access_token"])
    answer = await door.http.post("/oauth/revoke", data=sent | {"client_id": client_id})
    assert (answer.status_code, answer.json()) == (200, {})
    assert not await is_let_in(door, tokens["access_token"])
    unknown = await door.http.post("/oauth/revoke", data={"token": "gwr_unknown", "client_id": client_id})
    assert unknown.status_code == 200


async def test_a_person_ends_a_grant_on_the_page_of_keys_at_once(door: Door, reader: Reader, client_id: str) -> None:
    tokens = await tokens_of(door, reader, client_id)
    assert await is_let_in(door, tokens["access_token"])
    key_id = await key_of(reader)
    rotated = await door.http.post(
        f"/v1/keys/{key_id}/rotate", json={"expires_old_in_s": 0}, headers=reader._headers({})
    )
    assert rotated.status_code == 409
    await reader.send(f"/console/keys/{key_id}/revoke")
    assert not await is_let_in(door, tokens["access_token"])
    assert error_in(await refreshed(door, client_id, tokens["refresh_token"])) == (400, "invalid_grant")


# Clients


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"redirect_uris": None}, "invalid_client_metadata"),
        ({"redirect_uris": ["http://app.example/callback"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://10.0.0.1/callback"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://127.0.0.1.evil.example/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example/#fragment"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://user@app.example/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example\\@evil.example/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example:99999/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example/a b"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://app.example/\r\nset-cookie: x"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["app://callback"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
        ({"redirect_uris": [BACK] * 11}, "invalid_client_metadata"),
        ({"redirect_uris": [f"https://app.example/{'x' * 1000}"]}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata"),
        ({"grant_types": ["client_credentials"]}, "invalid_client_metadata"),
        ({"response_types": ["token"]}, "invalid_client_metadata"),
        ({"client_name": 5}, "invalid_client_metadata"),
    ],
)
async def test_a_client_that_cannot_be_registered_is_told_why(door: Door, told: dict[str, Any], error: str) -> None:
    answer = await door.http.post("/oauth/register", json={"redirect_uris": [BACK]} | told)
    assert error_in(answer) == (400, error), answer.text


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
async def test_a_client_with_a_secret_shows_it_as_it_said(door: Door, reader: Reader, method: str) -> None:
    client = await registered(door, token_endpoint_auth_method=method, software_id="passed over")
    client_id, secret = client["client_id"], client["client_secret"]
    code = await code_of(reader, client_id)
    assert error_in(await redeemed(door, client_id, code)) == (401, "invalid_client")
    wrong = await redeemed(door, client_id, code, client_secret="wrong")
    assert error_in(wrong) == (401, "invalid_client")
    sent = {
        "grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": VERIFIER,
    }  # fmt: skip
    if method == "client_secret_post":
        answer = await door.http.post("/oauth/token", data=sent | {"client_id": client_id, "client_secret": secret})
    else:
        for rubbish in ("!!!", b64encode(b"no colon").decode(), b64encode(f"{client_id}:wrong".encode()).decode()):
            headers = {"authorization": f"Basic {rubbish}"}
            assert error_in(await door.http.post("/oauth/token", data=sent, headers=headers)) == (401, "invalid_client")
        headers = {"authorization": f"Basic {b64encode(f'{client_id}:{secret}'.encode()).decode()}"}
        twice = await door.http.post("/oauth/token", data=sent | {"client_secret": secret}, headers=headers)
        assert error_in(twice) == (401, "invalid_client")
        answer = await door.http.post("/oauth/token", data=sent, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_a_client_that_nobody_lets_in_is_forgotten_after_a_day(
    door: Door, reader: Reader, client_id: str, pass_time: Callable[[int], None]
) -> None:
    unused = (await registered(door))["client_id"]
    await code_of(reader, client_id)
    pass_time(DAY_MS + 1000)
    assert (await begun(door, unused)).status_code == 400
    assert (await begun(door, client_id)).status_code == 303
    await registered(door)
    pass_time(0)
    assert (await begun(door, unused)).status_code == 400


@pytest.mark.gateways
async def test_registrations_and_documents_are_bounded_by_address_and_unused_clients_in_all(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    oauth = {"enabled": True, "registrations_per_minute": 3, "documents_per_minute": 1, "max_unused_clients": 2}
    async with open_door(tmp_path_factory.mktemp("bounded"), public_url=PUBLIC, oauth=oauth) as door:
        await registered(door)
        await registered(door)
        full = await door.http.post("/oauth/register", json={"redirect_uris": [BACK]})
        assert error_in(full) == (503, "temporarily_unavailable")
        flooded = await door.http.post("/oauth/register", json={"redirect_uris": [BACK]})
        assert error_in(flooded) == (429, "temporarily_unavailable")
        assert int(flooded.headers["retry-after"]) > 0
        server = door.gateway.oauth
        assert server is not None
        server.fetch = Documents(None)
        assert (await begun(door, DOCUMENT)).status_code == 400
        assert (await begun(door, DOCUMENT)).status_code == 429


# Documents of clients


class Documents:
    """What stands at addresses, in place of the network."""

    def __init__(self, told: Any) -> None:
        self.told = told
        self.asked = 0

    async def __call__(self, _url: str, _asked_by: str) -> bytes | None:
        self.asked += 1
        return self.told if self.told is None or isinstance(self.told, bytes) else orjson.dumps(self.told)


@pytest.fixture
def documents(door: Door) -> Any:
    server = door.gateway.oauth
    assert server is not None
    told = {"client_id": DOCUMENT, "client_name": "Its Own", "redirect_uris": [BACK]}
    fetch, server.fetch = server.fetch, (documents := Documents(told))
    server._documents.clear()
    yield documents
    server.fetch = fetch


async def test_a_client_is_who_its_document_says_at_the_address_that_is_its_id(
    door: Door, reader: Reader, documents: Documents
) -> None:
    tokens = await tokens_of(door, reader, DOCUMENT)
    assert documents.asked == 1
    assert await is_let_in(door, tokens["access_token"])
    assert (await refreshed(door, DOCUMENT, tokens["refresh_token"])).status_code == 200
    page = await reader.get(f"/console/authorize?{urlencode(asking_for(DOCUMENT))}")
    assert "Its Own" in page.text
    assert documents.asked == 1
    assert (await begun(door, DOCUMENT, redirect_uri="https://evil.example/")).status_code == 400


@pytest.mark.parametrize(
    "told",
    [
        None,
        b"no JSON",
        [],
        {"client_id": f"{DOCUMENT}/", "redirect_uris": [BACK]},
        {"client_id": DOCUMENT, "redirect_uris": []},
        {"client_id": DOCUMENT, "redirect_uris": BACK},
        {"client_id": DOCUMENT, "redirect_uris": ["http://evil.example/"]},
        {"client_id": DOCUMENT, "redirect_uris": [BACK], "client_secret": "x"},
        {"client_id": DOCUMENT, "redirect_uris": [BACK], "token_endpoint_auth_method": "private_key_jwt"},
    ],
)
async def test_a_document_that_does_not_describe_its_client_is_none(
    door: Door, documents: Documents, told: Any
) -> None:
    documents.told = told
    assert (await begun(door, DOCUMENT)).status_code == 400


async def test_few_documents_are_remembered_and_none_for_long(
    door: Door, documents: Documents, pass_time: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = door.gateway.oauth
    assert server is not None
    assert (await begun(door, DOCUMENT)).status_code == 303
    pass_time(11 * 60_000)
    assert (await begun(door, DOCUMENT)).status_code == 303
    assert documents.asked == 2
    monkeypatch.setattr("mcp_gateway.core.identity.oauth.server._MOST_DOCUMENTS", 1)
    other = "https://other.example/client"
    documents.told = {"client_id": other, "redirect_uris": [BACK]}
    assert (await begun(door, other)).status_code == 303
    assert list(server._documents) == [other]
