"""Keys that are of use from some networks alone, and what is said of keys: notes and tags."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.particulars import NO_PARTICULARS
from tests.cases import each
from tests.doors.mcp_host import PATHS
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
INSIDE, OUTSIDE = "203.0.113.7", "203.0.114.7"
OURS = ["203.0.113.0/24", "2001:db8::/32"]
UNSAID: dict[str, Any] = {"networks": None, "note": None, "tags": []}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    limits = {"keys_per_account": 1000, "keys_per_account_per_day": 1000}
    async with open_door(tmp_path_factory.mktemp("key_networks"), limits=limits) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(door: Door) -> str:
    return await door.key()


async def ask(
    door: Door, key: str, address: str | None = None, *, method: str = "POST", path: str = "/v1/keys", **fields: Any
) -> httpx2.Response:
    """Through a proxy that the door trusts, where an address is given."""
    forwarded = {} if address is None else {"x-forwarded-for": address}
    body = None if method in ("GET", "DELETE") else fields
    return await door.http.request(method, path, json=body, headers=bearer(key) | forwarded)


async def made(door: Door, key: str, address: str | None = None, **fields: Any) -> dict[str, Any]:
    answer = await ask(door, key, address, **fields)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def change(door: Door, key: str, key_id: str, address: str | None = None, **fields: Any) -> httpx2.Response:
    return await ask(door, key, address, method="PATCH", path=f"/v1/keys/{key_id}", **fields)


def said_in(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in UNSAID}


async def status(door: Door, key: str, address: str | None) -> int:
    return (await ask(door, key, address, method="GET", path="/v1/limits")).status_code


FROM = {
    INSIDE: True, OUTSIDE: False, f"::ffff:{INSIDE}": True, f"::ffff:{OUTSIDE}": False, "2001:db8:5::1": True,
    "2001:db9::1": False, f"{OUTSIDE}, {INSIDE}": True, f"{INSIDE}, {OUTSIDE}": False, f"{INSIDE}, 127.0.0.1": True,
    "[2001:db8::1]:443": True, f"{INSIDE}:80": True, "unknown": False, "": False,
}  # fmt: skip


@each("forwarded", FROM)
async def test_a_key_is_of_use_from_its_networks_alone(door: Door, key: str, forwarded: str) -> None:
    bound = await made(door, key, networks=OURS)
    answer = await ask(door, bound["key"], forwarded, method="GET", path="/v1/limits")
    if FROM[forwarded]:
        assert answer.status_code == 200
        return
    assert (answer.status_code, error_of(answer)["code"]) == (403, "ip_not_authorized")
    assert bound["key"] not in answer.text
    assert not any(network in answer.text for network in OURS)


@each("path", [*PATHS, "/v1/chat/completions", "/v1/messages", "/api/v1/inference/keys"])
async def test_neither_door_takes_a_key_from_elsewhere(door: Door, key: str, path: str) -> None:
    bound = await made(door, key, networks=["198.51.100.1"])
    answer = await ask(door, bound["key"], OUTSIDE, path=path)
    assert (answer.status_code, "may not be used from the address 203.0.114.7" in answer.text) == (403, True)


async def test_models_that_are_public_are_not_told_to_a_key_from_elsewhere(door: Door, key: str) -> None:
    bound = await made(door, key, networks=["198.51.100.1"])
    answer = await ask(door, bound["key"], OUTSIDE, method="GET", path="/v1/models")
    assert (answer.status_code, error_of(answer)["code"]) == (403, "ip_not_authorized")


async def test_a_header_of_a_stranger_moves_no_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with open_door(tmp_path_factory.mktemp("stranger"), trusted_proxies=[]) as door:
        bound = await made(door, await door.key(), networks=[INSIDE])
        assert await status(door, bound["key"], INSIDE) == 403
        local = await made(door, await door.key(), networks=["127.0.0.0/8"])
        assert await status(door, local["key"], OUTSIDE) == 200


async def test_what_is_refused_from_elsewhere_counts_nowhere_and_ends_nothing(door: Door, key: str) -> None:
    bound = await made(door, key, networks=OURS, requests_per_minute=1)
    for _ in range(3):
        assert await status(door, bound["key"], OUTSIDE) == 403
    answer = await ask(door, bound["key"], INSIDE, method="GET", path="/v1/limits")
    assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (200, "1")


async def test_another_credential_beside_it_does_not_take_a_key_elsewhere(door: Door, key: str) -> None:
    bound = await made(door, key, networks=OURS)
    for headers in (
        {"authorization": f"Bearer {bound['key']}", "x-api-key": key},
        {"authorization": "Basic eDp5", "x-api-key": bound["key"]},
        {"x-api-key": bound["key"]},
    ):
        answer = await door.http.get("/v1/limits", headers=headers | {"x-forwarded-for": OUTSIDE})
        assert (answer.status_code, error_of(answer)["code"]) == (403, "ip_not_authorized")
        assert (await door.http.get("/v1/limits", headers=headers | {"x-forwarded-for": INSIDE})).status_code == 200


async def test_a_change_binds_the_next_request_and_null_frees_it(door: Door, key: str) -> None:
    one = await made(door, key)
    assert await status(door, one["key"], OUTSIDE) == 200
    assert said_in((await change(door, key, one["id"], networks=[INSIDE])).json())["networks"] == [f"{INSIDE}/32"]
    assert await status(door, one["key"], OUTSIDE) == 403
    assert (await change(door, key, one["id"], name="x")).json()["networks"] == [f"{INSIDE}/32"]
    assert (await change(door, key, one["id"], networks=None)).json()["networks"] is None
    assert await status(door, one["key"], OUTSIDE) == 200


async def test_a_key_that_is_made_has_its_makers_networks_or_fewer(door: Door, key: str) -> None:
    maker = (await made(door, key, networks=OURS))["key"]
    assert (await made(door, maker, INSIDE))["networks"] == OURS
    fewer = await made(door, maker, INSIDE, networks=[INSIDE, "2001:db8:1::/48"], budgets=[])
    assert fewer["networks"] == [f"{INSIDE}/32", "2001:db8:1::/48"]
    for more in (["0.0.0.0/0"], ["203.0.112.0/23"], [INSIDE, OUTSIDE], ["::/0"]):
        answer = await ask(door, maker, INSIDE, networks=more)
        assert (answer.status_code, error_of(answer)["code"]) == (403, "insufficient_permissions")
        assert error_of(answer)["param"] == "networks"


async def test_no_key_frees_itself_nor_another_from_networks_that_bind_it(door: Door, key: str) -> None:
    maker = await made(door, key, networks=OURS)
    other = await made(door, key)
    for key_id in (maker["id"], other["id"]):
        for networks in (None, ["0.0.0.0/0"], [OUTSIDE]):
            answer = await change(door, maker["key"], key_id, INSIDE, networks=networks)
            assert (answer.status_code, error_of(answer)["param"]) == (403, "networks")
    narrowed = await change(door, maker["key"], maker["id"], INSIDE, networks=[INSIDE])
    assert narrowed.json()["networks"] == [f"{INSIDE}/32"]
    assert await status(door, maker["key"], "203.0.113.8") == 403


async def test_what_binds_a_maker_binds_what_it_made_at_once(door: Door, key: str) -> None:
    maker = await made(door, key)
    child = await made(door, maker["key"], networks=["203.0.0.0/16"])
    grandchild = await made(door, child["key"], INSIDE)
    assert await status(door, grandchild["key"], OUTSIDE) == 200
    await change(door, key, maker["id"], networks=["203.0.113.0/24"])
    assert [await status(door, one["key"], OUTSIDE) for one in (child, grandchild)] == [403, 403]
    assert [await status(door, one["key"], INSIDE) for one in (child, grandchild)] == [200, 200]
    freed = await change(door, key, child["id"], networks=None)
    assert freed.json()["networks"] == ["203.0.113.0/24"]
    beyond = await change(door, key, child["id"], networks=[OUTSIDE])
    assert (beyond.status_code, error_of(beyond)["param"]) == (403, "networks")


UNFIT: list[tuple[str, Any, str]] = [
    ("networks", [], "invalid_type"), ("networks", "10.0.0.0/8", "invalid_type"), ("networks", [5], "invalid_type"),
    ("networks", ["10.0.0.0/8"] * 33, "invalid_type"), ("networks", ["x"], "invalid_type"),
    ("networks", ["here"], "invalid_value"), ("networks", ["10.0.0.1/8"], "invalid_value"),
    ("networks", ["10.0.0.0/33"], "invalid_value"), ("networks", ["10.0.0.0/0.0.0.255"], "invalid_value"),
    ("note", 5, "invalid_type"), ("note", "x" * 1001, "invalid_type"), ("note", "a\nb", "invalid_value"),
    ("note", "\x1b[2J", "invalid_value"), ("tags", "x", "invalid_type"), ("tags", [""], "invalid_type"),
    ("tags", ["x" * 65], "invalid_type"), ("tags", [str(number) for number in range(9)], "invalid_type"),
    ("tags", [None], "invalid_type"), ("tags", [" "], "invalid_value"), ("tags", ["a\tb"], "invalid_value"),
]  # fmt: skip


@each(("field", "value", "code"), UNFIT)
async def test_what_cannot_be_is_400_and_names_the_field(
    door: Door, key: str, field: str, value: Any, code: str
) -> None:
    one = await made(door, key)
    for answer in (await ask(door, key, **{field: value}), await change(door, key, one["id"], **{field: value})):
        assert (answer.status_code, error_of(answer)["code"]) == (400, code)
        assert error_of(answer)["param"].split(".")[0] == field
    assert said_in((await door.get(f"/v1/keys/{one['id']}", key)).json()) == UNSAID


async def test_notes_and_tags_are_told_changed_and_cleared_one_by_one(door: Door, key: str) -> None:
    one = await made(door, key, note="for Ann", tags=["team a", " b ", "team a"])
    said = UNSAID | {"note": "for Ann", "tags": ["team a", "b"]}
    assert said_in(one) == said
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"note": "for Bob"}, {"note": "for Bob"}),
        ({"tags": []}, {"tags": []}),
        ({"tags": ["ü", "c,d"], "networks": OURS}, {"tags": ["ü", "c,d"], "networks": OURS}),
        ({"note": None}, {"note": None}),
        ({"note": "x", "tags": None}, {"note": "x", "tags": []}),
        ({"note": "", "networks": None}, {"note": None, "networks": None}),
    ]
    for fields, now in changes:
        said |= now
        assert said_in((await change(door, key, one["id"], **fields)).json()) == said
        assert said_in((await door.get(f"/v1/keys/{one['id']}", key)).json()) == said
        assert said_in((await door.get("/v1/keys?limit=1", key)).json()["data"][0]) == said


async def test_a_key_that_is_made_has_its_makers_tags_and_no_note_of_it(door: Door, key: str) -> None:
    maker = (await made(door, key, note="for Ann", tags=["a", "b"]))["key"]
    assert said_in(await made(door, maker)) == UNSAID | {"tags": ["a", "b"]}
    assert said_in(await made(door, maker, tags=["c"])) == UNSAID | {"tags": ["c"]}
    assert said_in(await made(door, maker, tags=[])) == UNSAID


async def test_an_answer_that_is_kept_tells_what_was_said(door: Door, key: str) -> None:
    headers = bearer(key) | {"idempotency-key": "once"}
    body = {"networks": [INSIDE], "note": "n", "tags": ["t"]}
    first, second = [await door.http.post("/v1/keys", json=body, headers=headers) for _ in range(2)]
    assert said_in(second.json()) == said_in(first.json())
    assert (second.headers["idempotent-replayed"], "key" in second.json()) == ("true", False)


async def test_another_accounts_key_is_404_whatever_is_to_be_said_of_it(door: Door, key: str) -> None:
    stranger = await door.key()
    one = await made(door, key)
    answer = await change(door, stranger, one["id"], networks=[INSIDE], note="mine")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


async def test_the_command_line_binds_a_key_of_a_running_server_and_frees_it(door: Door, key: str) -> None:
    one = await made(door, key)
    key_ring = (await door.desk()).keys
    found = await key_ring.get(one["id"])
    assert found.particulars == NO_PARTICULARS
    bound = (await door.gateway.keys.get((await made(door, key, networks=[INSIDE]))["id"])).particulars
    await key_ring.change(one["id"], particulars={"networks": bound.networks})
    await door.gateway.known_keys.catch_up()
    assert await status(door, one["key"], OUTSIDE) == 403
    await key_ring.change(one["id"], particulars={"networks": None})
    await door.gateway.known_keys.catch_up()
    assert await status(door, one["key"], OUTSIDE) == 200
