"""A key that is given another secret: what stays, how long the old one is of use, and what ends with it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.caller import SCOPES
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import KeysPerAccount
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.identity.particulars import Particulars
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.budgets import Budget, MakeBudgets
from mcp_gateway.core.networks import networks_of
from tests.cases import each
from tests.databases import store_of
from tests.doors.mcp_host import PATHS
from tests.replaying import ReplayingBackend, in_two, silence, stream, unary
from tests.serving import FREE, PRICED, Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
Served = tuple[Door, ReplayingBackend]
HOUR_S = 3600


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    limits = {"keys_per_account": 1000, "keys_per_account_per_day": 1000}
    folder = tmp_path_factory.mktemp("rotation")
    async with (
        ReplayingBackend() as backend,
        open_door(folder, vllm_urls=[backend.url], models=[FREE, PRICED], limits=limits) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served) -> AsyncIterator[Served]:
    door, backend = _served
    backend.answer_with()
    clock, door.clock.now_s = door.gateway.known_keys._now_ms, 0
    door.gateway.known_keys._now_ms = lambda: clock() + int(door.clock.now_s * 1000)
    yield door, backend
    door.gateway.known_keys._now_ms = clock
    await door.nothing_is_left()
    assert door.gateway.inference.running == set()


async def new_key(door: Door, **rights: Any) -> tuple[str, str, str]:
    """An account, a key and its secret."""
    account_id = await door.account("1")
    key, raw = await door.gateway.keys.create(account_id, **rights)
    return account_id, key.id, raw


async def rotate(door: Door, by: str, key_id: str, expires_old_in_s: Any = 0, **headers: str) -> httpx2.Response:
    body = {"expires_old_in_s": expires_old_in_s}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await door.http.post(f"/v1/keys/{key_id}/rotate", json=body, headers=bearer(by) | named)


async def rotated(door: Door, by: str, key_id: str, expires_old_in_s: int = 0) -> dict[str, Any]:
    answer = await rotate(door, by, key_id, expires_old_in_s)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def code_of(door: Door, raw: str) -> str | None:
    """What a request with this secret is refused with."""
    answer = await door.get("/v1/limits", raw)
    return None if answer.status_code == 200 else str(error_of(answer)["code"])


async def pass_time(door: Door, seconds: float) -> None:
    """For whoever looks at keys."""
    door.clock.now_s += seconds
    door.gateway.known_keys.end_expired()


async def test_both_secrets_are_of_use_until_the_old_one_ends(served: Served) -> None:
    door, _ = served
    _, key_id, old = await new_key(door)
    told = await rotated(door, old, key_id, HOUR_S)
    new = told["key"]
    assert new != old
    assert new.startswith(told["prefix"])
    assert told["id"] == key_id
    assert abs(told["old_expires_at"] - now_ms() / 1000 - HOUR_S) < 600
    for _ in range(2):
        assert [await code_of(door, raw) for raw in (old, new)] == [None, None]
    assert (await door.get(f"/v1/keys/{key_id}", new)).json() == {k: v for k, v in told.items() if k != "key"}
    await pass_time(door, HOUR_S - 600)
    assert await code_of(door, old) is None
    await pass_time(door, 600)
    assert [await code_of(door, raw) for raw in (old, new)] == ["revoked_api_key", None]


async def test_with_zero_the_old_secrets_are_of_no_use_at_once(served: Served) -> None:
    door, _ = served
    _, key_id, first = await new_key(door)
    secrets = [first, (await rotated(door, first, key_id, HOUR_S))["key"]]
    told = await rotated(door, secrets[1], key_id)
    assert told["old_expires_at"] is None
    assert [await code_of(door, raw) for raw in (*secrets, told["key"])] == ["revoked_api_key", "revoked_api_key", None]


async def test_an_older_secret_ends_when_it_would_have_or_sooner_where_a_later_rotation_says_so(
    served: Served,
) -> None:
    door, _ = served
    _, key_id, first = await new_key(door)
    second = (await rotated(door, first, key_id, 1000))["key"]
    third = (await rotated(door, second, key_id, 10_000))["key"]
    await pass_time(door, 1000)
    assert [await code_of(door, raw) for raw in (first, second, third)] == ["revoked_api_key", None, None]
    fourth = (await rotated(door, third, key_id, 2000))["key"]
    await pass_time(door, 1000)
    codes = [await code_of(door, raw) for raw in (first, second, third, fourth)]
    assert codes == ["revoked_api_key"] * 3 + [None]


async def test_all_else_of_the_key_stays(served: Served) -> None:
    door, _ = served
    owner = await door.key(credit="1")
    body = {"name": "n", "tags": ["t"], "budgets": [{"amount_usd": "0.5", "window": "day"}], "requests_per_minute": 7}
    made = (await door.http.post("/v1/keys", json=body, headers=bearer(owner))).json()
    child = (await door.http.post("/v1/keys", json={}, headers=bearer(made["key"]))).json()
    told = await rotated(door, owner, made["id"])
    changed = {"prefix", "key"}
    assert {k: v for k, v in told.items() if k not in changed} == {k: v for k, v in made.items() if k not in changed}
    assert await code_of(door, child["key"]) is None
    listed = (await door.get("/v1/keys", told["key"])).json()["data"]
    assert {one["id"] for one in listed} == {made["id"], child["id"]}
    assert (await door.http.delete(f"/v1/keys/{made['id']}", headers=bearer(owner))).status_code == 200
    assert [await code_of(door, raw) for raw in (told["key"], child["key"])] == ["revoked_api_key"] * 2


async def test_limits_count_for_the_key_whichever_secret_is_shown(served: Served) -> None:
    door, backend = served
    owner = await door.key()
    made = (await door.http.post("/v1/keys", json={"requests_per_minute": 2}, headers=bearer(owner))).json()
    new = (await rotated(door, owner, made["id"], HOUR_S))["key"]
    backend.answer_with(unary(), unary())
    statuses = [(await door.chat(raw)).status_code for raw in (made["key"], new, made["key"], new)]
    assert statuses == [200, 200, 429, 429]


async def test_a_revocation_ends_both_secrets_at_once(served: Served) -> None:
    door, _ = served
    account_id, key_id, old = await new_key(door)
    new = (await rotated(door, old, key_id, HOUR_S))["key"]
    owner = await door.key(account_id)
    assert (await door.http.delete(f"/v1/keys/{key_id}", headers=bearer(owner))).status_code == 200
    assert [await code_of(door, raw) for raw in (old, new)] == ["revoked_api_key"] * 2
    again = await rotate(door, owner, key_id)
    assert (again.status_code, error_of(again)["code"]) == (409, "conflict")


async def test_an_end_of_the_key_itself_ends_both_and_is_told_as_such(served: Served) -> None:
    door, _ = served
    _, key_id, old = await new_key(door, expires_at_ms=now_ms() + 1_000_000)
    new = (await rotated(door, old, key_id, HOUR_S))["key"]
    await pass_time(door, 1000)
    assert [await code_of(door, raw) for raw in (old, new)] == ["expired_api_key"] * 2


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_runs_for_the_old_secret_ends_with_it_and_for_the_new_one_goes_on(
    served: Served, is_stream: bool
) -> None:
    door, backend = served
    _, key_id, old = await new_key(door)
    new = (await rotated(door, old, key_id, 6000))["key"]
    backend.answer_with(silence, in_two(stream()[:1], (is_released := asyncio.Event()), stream()[1:]))
    by_old = asyncio.ensure_future(door.chat(old, stream=is_stream))
    (first,) = await backend.chats_asked(1)
    by_new = asyncio.ensure_future(door.chat(new, stream=True))
    await backend.chats_asked(2)
    await pass_time(door, 6000)
    refused = await by_old
    assert (refused.status_code, error_of(refused)["code"]) == (401, "revoked_api_key")
    await first.gone()
    is_released.set()
    answer = await by_new
    assert answer.status_code == 200
    assert ("data: [DONE]" in answer.text, '"error"' in answer.text) == (True, False)


async def test_what_began_before_the_rotation_ends_with_the_secret_that_asked(served: Served) -> None:
    door, backend = served
    account_id, key_id, old = await new_key(door)
    owner = await door.key(account_id)
    backend.answer_with(silence)
    asking = asyncio.ensure_future(door.chat(old))
    await backend.chats_asked(1)
    await rotated(door, owner, key_id)
    answer = await asking
    assert (answer.status_code, error_of(answer)["code"]) == (401, "revoked_api_key")


async def test_mcp_sessions_that_the_old_secret_opened_end_with_it_and_others_go_on(served: Served) -> None:
    door, _ = served
    _, key_id, old = await new_key(door)
    new = (await rotated(door, old, key_id, 6000))["key"]
    params: dict[str, Any] = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "c", "version": "1"},
    }
    ids = [(await door.mcp("initialize", raw, **params)).headers["mcp-session-id"] for raw in (old, new)]

    async def statuses() -> list[int]:
        message = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
        common = bearer(new) | {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
        return [
            (await door.http.post(PATHS[0], json=message, headers=common | {"mcp-session-id": one})).status_code
            for one in ids
        ]

    assert await statuses() == [200, 200]
    await pass_time(door, 6000)
    # an id that any replica serves is its key's, which shows its new secret, and goes by that one from then on
    assert await statuses() == [200 if door.is_replica else 404, 200]


async def test_a_repetition_is_told_the_same_without_the_secret_and_rotates_nothing(served: Served) -> None:
    door, _ = served
    _, key_id, old = await new_key(door)
    first = await rotate(door, old, key_id, 60, idempotency_key="once")
    again = await rotate(door, old, key_id, 60, idempotency_key="once")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.json() == {k: v for k, v in first.json().items() if k != "key"}
    assert await code_of(door, first.json()["key"]) is None
    other = await rotate(door, old, key_id, 61, idempotency_key="once")
    assert (other.status_code, error_of(other)["code"]) == (422, "idempotency_mismatch")
    assert (await door.rows("SELECT COUNT(*) FROM replaced_secrets WHERE key_id = ?", key_id)) == [(1,)]


async def test_a_key_rotates_itself_and_others_only_with_the_scope_that_manages(served: Served) -> None:
    door, _ = served
    account_id, key_id, raw = await new_key(door, scopes=["inference"])
    _, other_id, _ = await new_key(door)
    sibling, _ = await door.gateway.keys.create(account_id)
    for unknown in (other_id, sibling.id, "key_none"):
        refused = await rotate(door, raw, unknown)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "not_found")
    assert await code_of(door, (await rotated(door, raw, key_id))["key"]) is None
    owner = await door.key(account_id)
    for unknown in (other_id, "key_none"):
        refused = await rotate(door, owner, unknown)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "not_found")
    assert (await rotate(door, owner, sibling.id)).status_code == 200
    guest = await door.http.post(f"/v1/keys/{key_id}/rotate", json={"expires_old_in_s": 0})
    assert (guest.status_code, error_of(guest)["code"]) == (401, "missing_credentials")


@each("expires_old_in_s", [-1, 2_592_001, 1.5, "0", None, True, 2**70])
async def test_a_time_that_cannot_be_rotates_nothing(served: Served, expires_old_in_s: Any) -> None:
    door, _ = served
    _, key_id, raw = await new_key(door)
    refused = await rotate(door, raw, key_id, expires_old_in_s)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "expires_old_in_s")
    assert await code_of(door, raw) is None


async def test_a_rotation_says_when_the_old_secret_ends(served: Served) -> None:
    door, _ = served
    _, key_id, raw = await new_key(door)
    for body, param in (({}, "expires_old_in_s"), ({"expires_old_in_s": 0, "name": "x"}, "name")):
        refused = await door.http.post(f"/v1/keys/{key_id}/rotate", json=body, headers=bearer(raw))
        assert (refused.status_code, error_of(refused)["param"]) == (400, param)


async def test_no_secret_stands_in_the_database(served: Served) -> None:
    door, _ = served
    _, key_id, old = await new_key(door)
    new = (await rotate(door, old, key_id, 60, idempotency_key="kept")).json()["key"]
    kept = await door.kept()
    assert key_id.encode() in kept
    assert not any(raw.encode() in kept for raw in (old, new))


async def test_the_command_line_rotates_a_key_of_a_running_server_and_a_restart_knows_both(served: Served) -> None:
    door, _ = served
    _, key_id, old = await new_key(door)
    assert await code_of(door, old) is None
    desk = await door.desk()
    _, new = await desk.keys.rotate(key_id, HOUR_S * 1000 * 24 * 365)
    await door.gateway.known_keys.catch_up()
    assert [await code_of(door, raw) for raw in (old, new)] == [None, None]
    _, newest = await desk.keys.rotate(key_id, 0)
    await door.gateway.known_keys.catch_up()
    assert [await code_of(door, raw) for raw in (old, new, newest)] == ["revoked_api_key", "revoked_api_key", None]


async def test_rotations_at_once_leave_one_secret_that_lasts(served: Served) -> None:
    door, _ = served
    account_id, key_id, old = await new_key(door)
    owner = await door.key(account_id)
    answers = await asyncio.gather(*(rotate(door, owner, key_id) for _ in range(5)))
    raws = [answer.json()["key"] for answer in answers]
    codes = [await code_of(door, raw) for raw in (old, *raws)]
    assert sorted(code is None for code in codes) == [False] * 5 + [True]


ALL: Any = {"scopes": list(SCOPES), "limits": OwnLimits(), "expires_at_ms": None}
LATER_MS = now_ms() + 10**9
HERE, WIDER = (networks_of([text]) for text in ("127.0.0.1", "127.0.0.0/8"))


@each(
    ("own", "other", "word"),
    [
        ({"scopes": ["inference", "read", "manage"]}, {}, "`billing`"),
        ({"scopes": ["manage"]}, {"scopes": ["read"]}, "`read`"),
        ({"models": [FREE["id"]]}, {}, "all models"),
        ({"models": [FREE["id"]]}, {"models": [FREE["id"], PRICED["id"]]}, PRICED["id"]),
        ({"models": [FREE["id"]]}, {"models": ["not/published"]}, "not/published"),
        ({"expires_at_ms": LATER_MS}, {}, "later end"),
        ({"expires_at_ms": LATER_MS}, {"expires_at_ms": LATER_MS + 1}, "later end"),
        ({"particulars": Particulars(HERE)}, {}, "networks"),
        ({"particulars": Particulars(HERE)}, {"particulars": Particulars(WIDER)}, "networks"),
        ({"limits": OwnLimits(requests_per_minute=9)}, {}, "`requests_per_minute`"),
        ({"limits": OwnLimits(requests_per_day=9)}, {"limits": OwnLimits(requests_per_day=10)}, "`requests_per_day`"),
        ({"limits": OwnLimits(in_flight=1)}, {"limits": OwnLimits(in_flight=None)}, "`in_flight`"),
        ({"limits": OwnLimits(tokens_per_minute=1)}, {"limits": OwnLimits(tokens_per_minute=2)}, "`tokens_per_minute`"),
        ({}, {"may_mint_over_mcp": True}, "mint over MCP"),
        ({}, {"mcp_servers": ["tools"]}, "'tools'"),
        ({"mcp_servers": ["tools"]}, {"mcp_servers": ["*"]}, "'*'"),
    ],
)
async def test_no_key_is_given_the_secret_of_one_that_may_more(
    served: Served, own: dict[str, Any], other: dict[str, Any], word: str
) -> None:
    """And whoever may as much rotates either."""
    door, _ = served
    account_id, _, raw = await new_key(door, **ALL | own)
    stronger, _ = await door.gateway.keys.create(account_id, **ALL | other)
    refused = await rotate(door, raw, stronger.id)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
    assert word in error_of(refused)["message"]
    assert (await door.rows("SELECT COUNT(*) FROM replaced_secrets WHERE key_id = ?", stronger.id)) == [(0,)]
    for equal in (own, other):
        by = await door.key(account_id, **ALL | equal | {"scopes": list(SCOPES)})
        like, _ = await door.gateway.keys.create(account_id, **ALL | equal)
        await rotated(door, by, like.id)


async def test_a_member_takes_no_key_that_pays_and_an_owner_does(served: Served) -> None:
    door, _ = served
    account_id, key_id, raw = await new_key(door)
    lesser, _ = await door.gateway.keys.create(account_id, scopes=["inference", "manage"])
    member, owner = await door.person(account_id, role="member"), await door.person(account_id)
    refused = await rotate(door, member, key_id)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
    assert await code_of(door, raw) is None
    for by, one in ((member, lesser.id), (owner, key_id)):
        await rotated(door, by, one)


async def test_a_key_with_a_budget_takes_no_key_without_it(served: Served) -> None:
    door, _ = served
    account_id, key_id, bound = await new_key(door)
    sibling, free = await door.gateway.keys.create(account_id)
    child = (await door.http.post("/v1/keys", json={}, headers=bearer(bound))).json()
    budget = Budget(new_id("bud"), account_id, key_id, 10**9, "day")
    await door.gateway.ledger._store.write(MakeBudgets((budget,)))
    refused = await rotate(door, bound, sibling.id)
    assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
    assert "budget" in error_of(refused)["message"]
    for by, one in ((bound, child["id"]), (bound, key_id), (free, sibling.id)):
        await rotated(door, by, one)


async def test_a_key_takes_what_it_made_whatever_its_limits_became(served: Served) -> None:
    """They share; but a right that the operator gave to what it made alone is not its own."""
    door, _ = served
    _, key_id, raw = await new_key(door)
    child = (await door.http.post("/v1/keys", json={}, headers=bearer(raw))).json()
    await door.gateway.keys.change(key_id, limits={"requests_per_day": 50})
    await rotated(door, raw, child["id"])
    await door.gateway.keys.change(child["id"], may_mint_over_mcp=True)
    assert (await rotate(door, raw, child["id"])).status_code == 403


@each("keeps_s", [(HOUR_S,) * 4, (HOUR_S, 60, 60, HOUR_S), (4000, 3000, 2000, 1000), (1000, 2000, 3000, 4000)])
async def test_two_replaced_secrets_are_of_use_and_older_ones_end_with_what_runs_for_them(
    served: Served, keeps_s: tuple[int, ...]
) -> None:
    """Whichever of them would have ended first."""
    door, backend = served
    _, key_id, raw = await new_key(door)
    secrets = [raw]
    backend.answer_with(silence)
    asking = asyncio.ensure_future(door.chat(raw))
    await backend.chats_asked(1)
    for keep_s in keeps_s:
        assert await code_of(door, secrets[-1]) is None
        secrets.append((await rotated(door, secrets[-1], key_id, keep_s))["key"])
    answer = await asking
    assert (answer.status_code, error_of(answer)["code"]) == (401, "revoked_api_key")
    codes = [await code_of(door, secret) for secret in secrets]
    assert codes == ["invalid_api_key", "revoked_api_key", None, None, None]
    assert len(await door.rows("SELECT 1 FROM replaced_secrets WHERE key_id = ?", key_id)) == 3


async def test_the_rows_of_a_key_do_not_grow_with_its_rotations(served: Served) -> None:
    door, _ = served
    _, key_id, raw = await new_key(door)
    for number in range(9):
        raw = (await rotated(door, raw, key_id, HOUR_S * (number % 2)))["key"]
    assert len(await door.rows("SELECT 1 FROM replaced_secrets WHERE key_id = ?", key_id)) <= 3


async def test_rotations_count_among_the_keys_that_an_account_makes(served: Served) -> None:
    """And those of minted keys among these, so that neither uses up what the other may."""
    door, _ = served
    limits = KeysPerAccount(live=100, a_day=5, minted_a_minute=3)
    ring = KeyRing(store_of(door.gateway), most=limits, new_id=new_id, now_ms=lambda: 10**12)
    account_id = await door.account()
    key, _ = await ring.create(account_id)
    minted, _ = await ring.create(account_id, made_by=key.id, has_budget=True)
    for one, most, code in ((key, 5, "requests_per_day"), (minted, 3, "requests_per_minute")):
        for _ in range(most - 1):
            await ring.rotate(one.id, 0)
        before = await door.rows("SELECT sha256 FROM keys WHERE id = ?", one.id)
        for more in (ring.rotate(one.id, 0), ring.create(account_id, made_by=key.id, has_budget=one.is_minted)):
            with pytest.raises(GatewayError) as refused:
                await more
            assert (refused.value.code, "rotations" in refused.value.message) == (code, True)
        assert await door.rows("SELECT sha256 FROM keys WHERE id = ?", one.id) == before
    tomorrow = KeyRing(store_of(door.gateway), most=limits, new_id=new_id, now_ms=lambda: 10**12 + DAY_MS)
    for one in (key, minted):
        await tomorrow.rotate(one.id, 0)
    assert await door.rows("SELECT rotations FROM key_rotations WHERE account_id = ?", account_id) == [(1,), (1,)]


async def test_a_replaced_secret_gets_no_other_whichever_way_it_asks(served: Served) -> None:
    """Not of its key, nor of one that this made, nor of a new one, by either door; all else it may do still."""
    door, _ = served
    owner = await door.key(may_mint_over_mcp=True, credit="1")
    key_id = (await door.get("/v1/keys", owner)).json()["data"][0]["id"]
    child = (await door.http.post("/v1/keys", json={}, headers=bearer(owner))).json()
    before = await door.rows("SELECT id, sha256 FROM keys WHERE id <> ? ORDER BY id", key_id)
    new = (await rotated(door, owner, key_id, HOUR_S))["key"]
    for refused in (
        await rotate(door, owner, key_id),
        await rotate(door, owner, child["id"], HOUR_S),
        await door.http.post("/v1/keys", json={}, headers=bearer(owner)),
    ):
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
        assert "replaced" in error_of(refused)["message"]
    over_mcp = await door.call("create_budget", owner, amount_usd="0.1", lifetime_s=60)
    assert "replaced" in over_mcp.text
    assert await door.rows("SELECT id, sha256 FROM keys WHERE id <> ? ORDER BY id", key_id) == before
    renamed = await door.http.patch(f"/v1/keys/{child['id']}", json={"name": "n"}, headers=bearer(owner))
    assert (renamed.status_code, await code_of(door, owner)) == (200, None)
    for one in (child["id"], key_id):
        assert (await rotate(door, new, one, HOUR_S)).status_code == 200
