"""In which headers a key is taken, and what becomes of whatever else is sent beside it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cases import each
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_KEYS = (
    "Bearer", "", "Basic dXNlcjpwYXNz", "Digest username=x", "Bearer EMPTY", "Bearer sk-1234",
    "Bearer gw_live_" + "A" * 43, "Token x", "undefined", "Bearer \u00e9",
)  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("credentials")) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(door: Door) -> str:
    return await door.key()


async def test_a_key_is_taken_from_each_header_that_clients_have_for_it_and_any_case_of_the_scheme(
    door: Door,
    key: str,
) -> None:
    headers = ("x-api-key", "api-key", "X-Goog-Api-Key")
    for sent in ({"authorization": f"bearer {key}"}, {"authorization": f"BEARER  {key}"}, *({h: key} for h in headers)):
        assert (await door.http.get("/v1/keys", headers=sent)).status_code == 200


@pytest.mark.parametrize("name", ["x-api-key", "api-key", "x-goog-api-key"])
@each("authorization", NO_KEYS)
async def test_what_is_no_key_is_passed_over_beside_a_good_one(
    door: Door, key: str, name: str, authorization: str
) -> None:
    headers = [(b"authorization", authorization.encode()), (name.encode(), key.encode())]
    for lines in (headers, headers[::-1]):
        assert (await door.http.get("/v1/keys", headers=lines)).status_code == 200


async def test_the_key_counts_in_whichever_line_or_header_it_stands(
    door: Door,
    key: str,
) -> None:
    good, basic = (b"authorization", f"Bearer {key}".encode()), (b"authorization", b"Basic dXNlcjpwYXNz")
    for lines in ([basic, good], [good, basic], [(b"x-api-key", b"nope"), good], [(b"api-key", b""), good]):
        assert (await door.http.get("/v1/keys", headers=lines)).status_code == 200


async def test_of_several_bad_keys_the_one_that_was_ours_says_why(
    door: Door,
    key: str,
) -> None:
    raw = await door.key()
    ended = await door.gateway.known_keys.look_up(raw)
    await door.gateway.keys.revoke(ended.id)
    for headers in (
        {"authorization": "Bearer EMPTY", "x-api-key": raw},
        {"authorization": f"Bearer {raw}", "api-key": "x"},
    ):
        response = await door.http.get("/v1/keys", headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (401, "revoked_api_key")


async def test_of_a_thousand_keys_in_one_request_few_are_looked_up(
    door: Door,
    key: str,
) -> None:
    junk = [(b"x-api-key", b"gw_live_%043d" % number) for number in range(1000)]
    response = await door.http.get("/v1/keys", headers=[*junk, (b"api-key", key.encode())])
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
