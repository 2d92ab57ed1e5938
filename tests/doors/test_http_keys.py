"""Keys over HTTP: a caller's own account's, limits lowered only, the raw key shown once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.own_limits import DEFAULT, OwnLimits
from tests.cases import each
from tests.patience import becomes
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMITS = ("requests_per_minute", "requests_per_day", "tokens_per_minute", "in_flight")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("keys"), limits={"keys_per_account": 3}) as door:
        yield door
        await door.nothing_is_left()


async def create(door: Door, key: str | None, **fields: Any) -> httpx2.Response:
    return await door.http.post("/v1/keys", json=fields, headers=bearer(key))


async def change(door: Door, key: str, key_id: str, **fields: Any) -> httpx2.Response:
    return await door.http.patch(f"/v1/keys/{key_id}", json=fields, headers=bearer(key))


async def own_id(door: Door, key: str) -> str:
    """The id of the only key of its account."""
    (row,) = (await door.get("/v1/keys", key)).json()["data"]
    key_id: str = row["id"]
    return key_id


async def test_a_new_key_is_shown_once_and_works_at_once(door: Door) -> None:
    key = await door.key()
    made = await create(door, key, name="for ci")
    assert made.status_code == 201
    raw = made.json()["key"]
    assert raw.startswith("gw_live_")
    listed = await door.get("/v1/keys", raw)
    assert listed.status_code == 200
    assert raw not in listed.text
    row = listed.json()["data"][0]
    assert (row["name"], row["test"], row["revoked_at"]) == ("for ci", False, None)
    assert raw.startswith(row["prefix"])
    assert len(row["prefix"]) < 20
    assert {name: made.json()[name] for name in row} == row
    assert (await door.get(f"/v1/keys/{row['id']}", key)).json() == row


async def test_a_caller_sees_and_changes_only_its_own_account_s_keys(door: Door) -> None:
    mine, other = await door.key(), await door.key()
    other_id = await own_id(door, other)
    for response in (
        await door.get(f"/v1/keys/{other_id}", mine),
        await change(door, mine, other_id, name="stolen"),
        await door.http.delete(f"/v1/keys/{other_id}", headers=bearer(mine)),
        await door.get("/v1/keys/key_unknown", mine),
    ):
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
    assert (await door.get(f"/v1/keys/{other_id}", other)).json()["name"] == ""


async def test_keys_are_listed_page_by_page_the_newest_first(door: Door) -> None:
    key = await door.key()
    for name in ("a", "b"):
        await create(door, key, name=name)
    names, cursor = [], ""
    for _ in range(2):
        page = (await door.get(f"/v1/keys?limit=2{cursor}", key)).json()
        names.append([row["name"] for row in page["data"]])
        cursor = f"&cursor={page['next_cursor']}"
    assert names == [["b", "a"], [""]]
    assert page["next_cursor"] is None


async def test_live_and_revoked_keys_are_listed_apart_on_request(door: Door) -> None:
    key = await door.key()
    made = (await create(door, key, name="lost")).json()
    await door.http.delete(f"/v1/keys/{made['id']}", headers=bearer(key))
    listed = {
        state: [row["name"] for row in (await door.get(f"/v1/keys?state={state}", key)).json()["data"]]
        for state in ("live", "revoked")
    }
    assert listed == {"live": [""], "revoked": ["lost"]}


@each(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=1001", "limit"), ("cursor=x", "cursor"), ("cursor=cmVxXzE", "cursor"),
     ("state=lost", "state"), ("since=1", "since")],
)  # fmt: skip
async def test_a_bad_query_for_keys_is_400(door: Door, query: str, param: str) -> None:
    refused = await door.get(f"/v1/keys?{query}", await door.key())
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)


async def test_a_guest_has_no_keys(door: Door) -> None:
    for response in (await door.get("/v1/keys"), await create(door, None, name="x")):
        assert (response.status_code, error_of(response)["code"]) == (401, "missing_credentials")


async def test_a_revoked_key_is_401_at_once_and_says_that_it_was_revoked(door: Door) -> None:
    key = await door.key()
    raw = (await create(door, key)).json()["key"]
    key_id = next(
        row["id"] for row in (await door.get("/v1/keys", key)).json()["data"] if raw.startswith(row["prefix"])
    )
    for _ in range(2):
        revoked = await door.http.delete(f"/v1/keys/{key_id}", headers=bearer(key))
        assert revoked.json()["revoked_at"] is not None
    response = await door.chat(raw, model="demo/echo")
    assert (response.status_code, error_of(response)["code"]) == (401, "revoked_api_key")
    assert len((await door.get("/v1/keys", key)).json()["data"]) == 2


@each("name", LIMITS)
async def test_of_changes_at_once_none_lifts_what_another_has_lowered(door: Door, name: str) -> None:
    key = await door.key(limits=OwnLimits(1000, 1000, 1_000_000, 1000))
    key_id = await own_id(door, key)
    asked = (700, 300, 500, 200, 600, 400)
    answers = await asyncio.gather(*(change(door, key, key_id, **{name: limit}) for limit in asked))
    assert (await door.get(f"/v1/keys/{key_id}", key)).json()[name] == min(asked)
    refusals = [error_of(answer) for answer in answers if answer.status_code != 200]
    assert all((error["code"], error["param"]) == ("insufficient_permissions", name) for error in refusals)


async def test_limits_are_lowered_and_never_lifted(door: Door) -> None:
    key = await door.key(limits=OwnLimits(10, 100, 1000, 4))
    key_id = await own_id(door, key)
    lowered = await change(door, key, key_id, requests_per_minute=9, in_flight=1)
    assert [lowered.json()[name] for name in LIMITS] == [9, 100, 1000, 1]
    for name, value in (("requests_per_minute", 10), ("requests_per_day", 101), ("in_flight", 2)):
        refused = await change(door, key, key_id, **{name: value})
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
        assert error_of(refused)["param"] == name
        refused = await create(door, key, **{name: value})
        assert refused.status_code == 403
    assert (await door.get("/v1/limits", key)).json()["in_flight"] == {"limit": 1, "running": 0}


async def test_a_new_key_has_the_limits_of_the_one_that_made_it(door: Door) -> None:
    key = await door.key(limits=OwnLimits(10, DEFAULT, None, 4))
    made = (await create(door, key, in_flight=2)).json()
    assert [made[name] for name in LIMITS] == [10, 1000, None, 2]


async def test_an_unlimited_key_can_be_given_a_limit_but_none_that_no_database_holds(door: Door) -> None:
    key = await door.key()
    key_id = await own_id(door, key)
    for huge in (2**63, 2**64 - 1, 2**70):
        refused = await change(door, key, key_id, requests_per_minute=huge)
        assert (refused.status_code, error_of(refused)["param"]) == (400, "requests_per_minute")
    assert (await change(door, key, key_id, requests_per_minute=10**9)).json()["requests_per_minute"] == 10**9


async def test_a_test_key_is_for_inference_alone(door: Door) -> None:
    key = await door.key()
    made = (await create(door, key, test=True)).json()
    assert made["key"].startswith("gw_test_")
    assert (made["test"], made["scopes"]) == (True, ["inference"])
    refused = await create(door, key, test=True, scopes=["inference", "read"])
    assert (refused.status_code, error_of(refused)["param"]) == (400, "scopes")
    for response in (await door.get("/v1/keys", made["key"]), await create(door, made["key"], test=True)):
        assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_scope")


async def test_a_new_key_has_the_scopes_of_its_maker_or_fewer(door: Door) -> None:
    everything = await door.key()
    mine = (await create(door, everything, scopes=["manage", "inference"])).json()
    assert mine["scopes"] == ["inference", "manage"]
    for fields, scopes in (({}, ["inference", "manage"]), ({"scopes": ["inference"]}, ["inference"])):
        made = (await create(door, mine["key"], **fields)).json()
        assert (made["scopes"], made["made_by"]) == (scopes, mine["id"])
        await door.http.delete(f"/v1/keys/{made['id']}", headers=bearer(everything))


@pytest.mark.parametrize("fields", [{"scopes": ["manage", "inference"]}, {"scopes": ["read"]}, {"test": True}])
async def test_a_scope_that_the_maker_does_not_have_is_403_and_named(door: Door, fields: dict[str, Any]) -> None:
    refused = await create(door, await door.key(scopes=["manage"]), **fields)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_scope")
    assert fields.get("scopes", ["inference"])[-1] in error_of(refused)["message"]


@each(
    ("fields", "code", "param"),
    [
        ({"scopes": []}, "invalid_type", "scopes"),
        ({"scopes": ["admin"]}, "invalid_value", "scopes"),
        ({"scopes": ["read"] * 9}, "invalid_type", "scopes"),
        ({"scopes": "read"}, "invalid_type", "scopes"),
        ({"scopes": [1]}, "invalid_value", "scopes"),
        ({"expires_at": True}, "invalid_type", "expires_at"),
        ({"expires_at": 1.5}, "invalid_type", "expires_at"),
        ({"expires_at": []}, "invalid_type", "expires_at"),
        ({"expires_at": -1}, "invalid_value", "expires_at"),
        ({"expires_at": 0}, "invalid_value", "expires_at"),
        ({"expires_at": 1_700_000_000}, "invalid_value", "expires_at"),
        ({"expires_at": "2020-01-01"}, "invalid_value", "expires_at"),
        ({"expires_at": "soon"}, "invalid_value", "expires_at"),
        ({"expires_at": ""}, "invalid_value", "expires_at"),
        ({"expires_at": 260_000_000_000}, "invalid_value", "expires_at"),
        ({"expires_at": 10**15}, "invalid_value", "expires_at"),
        ({"expires_at": "9" * 5000}, "invalid_value", "expires_at"),
        ({"made_by": "key_x"}, "unsupported_parameter", "made_by"),
    ],
)
async def test_scopes_and_ends_that_are_none_are_400(door: Door, fields: dict[str, Any], code: str, param: str) -> None:
    refused = await create(door, await door.key(), **fields)
    assert (refused.status_code, error_of(refused)["code"], error_of(refused)["param"]) == (400, code, param)


@each("written", [4_000_000_000, "4000000000", "2096-10-02T07:06:40Z", "2096-10-02T09:06:40+02:00"])
async def test_an_end_is_unix_seconds_or_iso_8601(door: Door, written: int | str) -> None:
    made = (await create(door, await door.key(), expires_at=written)).json()
    assert made["expires_at"] == 4_000_000_000


async def test_a_key_ends_no_later_than_the_one_that_made_it(door: Door) -> None:
    maker = (await create(door, await door.key(), expires_at=4_000_000_000)).json()["key"]
    refused = await create(door, maker, expires_at=4_000_000_001)
    assert (refused.status_code, error_of(refused)["param"]) == (403, "expires_at")
    assert (await create(door, maker)).json()["expires_at"] == 4_000_000_000


async def test_a_key_is_revoked_with_those_it_made_on_request(door: Door) -> None:
    key = await door.key()
    made = (await create(door, key)).json()
    child = (await create(door, made["key"])).json()
    for path, count in (("?with_made=true", 1), ("?with_made=true", 0)):
        revoked = (await door.http.delete(f"/v1/keys/{made['id']}{path}", headers=bearer(key))).json()
        assert revoked["revoked_at"] is not None
        assert revoked["made_revoked"] == count
    for raw in (made["key"], child["key"]):
        assert error_of(await door.get("/v1/keys", raw))["code"] == "revoked_api_key"
    assert (await door.get("/v1/keys", key)).status_code == 200


@pytest.mark.parametrize("query", ["", "?with_made=false"])
async def test_a_key_is_revoked_without_those_it_made_otherwise(door: Door, query: str) -> None:
    key = await door.key()
    made = (await create(door, key)).json()
    child = (await create(door, made["key"])).json()
    revoked = (await door.http.delete(f"/v1/keys/{made['id']}{query}", headers=bearer(key))).json()
    assert "made_revoked" not in revoked
    assert (await door.get("/v1/keys", child["key"])).status_code == 200


async def test_what_else_is_asked_of_a_revocation_is_400(door: Door) -> None:
    key = await door.key()
    for query, param in (("with_made=perhaps", "with_made"), ("with=made", "with")):
        refused = await door.http.delete(f"/v1/keys/{await own_id(door, key)}?{query}", headers=bearer(key))
        assert (refused.status_code, error_of(refused)["param"]) == (400, param)
    assert (await door.get("/v1/keys", key)).status_code == 200


async def test_an_account_has_so_many_live_keys_and_no_more(door: Door) -> None:
    key = await door.key()
    made = [await create(door, key) for _ in range(3)]
    assert [response.status_code for response in made] == [201, 201, 409]
    assert error_of(made[2])["code"] == "conflict"
    await door.http.delete(f"/v1/keys/{made[0].json()['id']}", headers=bearer(key))
    assert (await create(door, key)).status_code == 201


@each(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b'{"nmae":"x"}', "unsupported_parameter", "nmae"),
        (b"{" + b",".join(b'"%d":1' % number for number in range(1001)) + b"}", "unsupported_parameter", None),
        (b'{"name":5}', "invalid_type", "name"),
        (b'{"name":"%b"}' % (b"x" * 201), "invalid_type", "name"),
        (b'{"in_flight":0}', "invalid_type", "in_flight"),
        (b'{"in_flight":"3"}', "invalid_type", "in_flight"),
        (b'{"in_flight":true}', "invalid_type", "in_flight"),
        (b'{"requests_per_day":1.5}', "invalid_type", "requests_per_day"),
    ],
)
async def test_a_bad_key_body_is_refused_in_the_one_shape(
    door: Door, body: bytes, code: str, param: str | None
) -> None:
    key = await door.key()
    key_id = await own_id(door, key)
    created = await door.post(body, key, "/v1/keys")
    headers = bearer(key) | {"content-type": "application/json"}
    changed = await door.http.patch(f"/v1/keys/{key_id}", content=body, headers=headers)
    for response in (created, changed):
        assert response.status_code == 400
        assert (error_of(response)["code"], error_of(response)["param"]) == (code, param)
        assert "xxxxx" not in error_of(response)["message"]


@each(
    ("body", "told"),
    [
        ({"name": 5}, "`name` must be text."),
        ({"name": "x" * 201}, "`name` must have at most 200 characters."),
        ({"in_flight": "3"}, "`in_flight` must be a whole number."),
        ({"in_flight": 0}, "`in_flight` must be greater than or equal to 1."),
        ({"requests_per_minute": 2**53}, "`requests_per_minute` must be less than or equal to 9007199254740991."),
        ({"test": "yes"}, "`test` must be true or false."),
        ({"scopes": "read"}, "`scopes` must be a list."),
        ({"scopes": ["admin"]}, "`scopes` must be 'inference', 'read', 'billing' or 'manage'."),
    ],
)
async def test_a_value_that_cannot_be_is_told_what_it_must_be(door: Door, body: dict[str, Any], told: str) -> None:
    response = await door.post(orjson.dumps(body), await door.key(), "/v1/keys")
    assert error_of(response)["message"] == told


async def test_both_prefixes_know_the_same_keys(door: Door) -> None:
    key = await door.key()
    one, other = await door.get("/v1/keys", key), await door.get("/api/v1/inference/keys", key)
    assert one.json() == other.json()


async def test_what_the_command_line_changes_is_noticed_within_a_second(door: Door) -> None:
    raw = (await (await door.desk()).keys.create(await door.account()))[1]
    assert (await door.get("/v1/keys", raw)).status_code == 200
    await (await door.desk()).keys.revoke((await door.get("/v1/keys", raw)).json()["data"][0]["id"])
    await noticed(door, raw, 401)


async def noticed(door: Door, key: str, status: int) -> None:
    """Poll until the other connection's change is seen; in a second, with room for a busy machine."""
    await becomes(lambda: door.get("/v1/keys", key), lambda answer: answer.status_code == status)


@each("name", ["\x1b[2J", "two\nlines", "tab\tbed", "\x7f", "\x85", "a\u202egnp", "a\u2066b", "\u2028", "\u200f"])
async def test_a_name_that_is_no_line_of_text_is_refused(name: str, door: Door) -> None:
    key = await door.key()
    key_id = await own_id(door, key)
    for refused in (await create(door, key, name=name), await change(door, key, key_id, name=name)):
        error = error_of(refused)
        assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_value", "name")
    assert [row["name"] for row in (await door.get("/v1/keys", key)).json()["data"]] == [""]


async def test_a_name_that_is_refused_does_not_use_up_its_idempotency_key(door: Door) -> None:
    key = await door.key()
    again = bearer(key) | {"idempotency-key": "once"}
    assert (await door.http.post("/v1/keys", json={"name": "\n"}, headers=again)).status_code == 400
    assert (await door.http.post("/v1/keys", json={"name": "n"}, headers=again)).status_code == 201


async def test_names_of_others_are_echoed_short(door: Door) -> None:
    key = await door.key()
    long = "x" * 5000
    for answer in (
        await create(door, key, **{long: 1}),
        await door.get(f"/v1/keys/{long}", key),
        await door.get(f"/v1/requests?{long}=1", key),
        await door.get(f"/v1/requests/{long}", key),
        await door.get(f"/v1/models/{long}", key),
        await door.get(f"/{long}", key),
        await door.chat(key, model=long),
    ):
        error = error_of(answer)
        assert 100 <= len(error["message"]) < 300  # what else is said names the parameters that there are
        assert len(error["param"] or "") < 110
