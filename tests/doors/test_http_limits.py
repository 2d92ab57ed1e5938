"""Limits as a client meets them: what is enforced, what the headers say, and that the two agree."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.databases import outside
from tests.replaying import ReplayingBackend, events, held, stream, unary, whole
from tests.serving import FREE, PRICED, UNLIMITED, Clock, Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
Served = tuple[Door, ReplayingBackend]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("limits"),
            vllm_urls=[backend.url],
            models=[FREE, PRICED],
            guests={
                "requests_per_minute": 3,
                "requests_per_minute_per_48": 5,
                "in_flight": 3,
                "in_flight_per_address": 2,
            },
            limits={"listing_requests_per_minute": 4},
        ) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served) -> AsyncIterator[Served]:
    """A minute that nobody has used anything of."""
    door, backend = _served
    door.clock.now_s = door.clock.now_s // 60 * 60 + 60
    backend.answer_with()
    yield door, backend
    await door.nothing_is_left()


def limited(
    minute: int | None = None, day: int | None = None, tokens: int | None = None, in_flight: int | None = None
) -> OwnLimits:
    return OwnLimits(minute, day, tokens, in_flight)


def told(response: httpx2.Response) -> tuple[int, ...]:
    """Limit, remaining and reset, after a check that both spellings say the same."""
    headers = response.headers
    names = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
    assert [headers[name] for name in names] == [headers[f"{name}-requests"] for name in names]
    return tuple(int(headers[name]) for name in names)


def tokens_told(response: httpx2.Response) -> tuple[int, int]:
    headers = response.headers
    return int(headers["x-ratelimit-limit-tokens"]), int(headers["x-ratelimit-remaining-tokens"])


async def test_requests_a_minute_are_counted_down_in_the_headers_and_then_refused(served: Served) -> None:
    door, backend = served
    key = await door.key(limits=limited(minute=3))
    end_s = int(door.clock.now_s) + 60
    door.clock.now_s += 18.5
    for remaining in (2, 1, 0):
        response = await door.chat(key, stream=remaining == 1)
        assert told(response) == (3, remaining, end_s)
    refused = await door.chat(key)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "requests_per_minute")
    assert error_of(refused)["type"] == "rate_limited"
    assert error_of(refused)["limits_url"] == "http://gateway.test/v1/limits"
    assert told(refused) == (3, 0, end_s)
    assert refused.headers["retry-after"] == "42"
    assert "x-should-retry" not in refused.headers
    assert len(backend.chats) == 3
    door.clock.now_s += 42
    assert told(await door.chat(key)) == (3, 2, end_s + 60)


async def test_a_failed_and_a_refused_request_count_too(served: Served) -> None:
    door, backend = served
    key = await door.key(limits=limited(minute=5))
    backend.answer_with(whole(b"{}", 500))
    statuses = [(await door.chat(key)).status_code, (await door.post(b"{", key)).status_code]
    response = await door.chat(key, model="nope")
    assert (*statuses, response.status_code) == (502, 400, 404)
    assert told(response)[:2] == (5, 2)


async def test_listing_has_a_limit_of_its_own_and_shows_the_one_of_inference(served: Served) -> None:
    door, _ = served
    key = await door.key(limits=limited(minute=2))
    for path in ("/v1/models", "/v1/models/free/tiny", "/v1/limits", "/v1/keys"):
        response = await door.get(path, key)
        assert (response.status_code, told(response)[:2]) == (200, (2, 2))
    refused = await door.get("/v1/models", key)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "requests_per_minute")
    assert refused.headers["retry-after"] == "60"
    assert told(await door.chat(key))[:2] == (2, 1)


async def test_the_daily_limit_says_not_to_retry_and_ends_at_midnight_utc(served: Served) -> None:
    door, _ = served
    key = await door.key(limits=limited(day=2))
    for _ in range(2):
        assert (await door.chat(key)).status_code == 200
    refused = await door.chat(key)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "requests_per_day")
    assert refused.headers["x-should-retry"] == "false"
    midnight_s = (int(door.clock.now_s) // 86_400 + 1) * 86_400
    assert told(refused) == (2, 0, midnight_s)
    assert int(refused.headers["retry-after"]) == midnight_s - door.clock.now_s
    door.clock.now_s = midnight_s
    assert (await door.chat(key)).status_code == 200


@pytest.mark.parametrize("lost", ["hourly_usage", "admitted_requests"])
async def test_daily_counts_survive_a_restart_by_the_log_and_by_what_was_admitted(tmp_path: Path, lost: str) -> None:
    clock = Clock()
    async with ReplayingBackend() as backend:
        async with open_door(tmp_path, clock, vllm_urls=[backend.url], models=[FREE]) as door:
            key = await door.key(limits=limited(day=3))
            for fields in ({}, {"n": 0}):
                await door.chat(key, **fields)
        with outside(door.gateway.settings) as another:
            assert another.rows(f"DELETE FROM {lost} RETURNING 1")
        async with open_door(tmp_path, clock, vllm_urls=[backend.url], models=[FREE]) as door:
            assert (await door.get("/v1/limits", key)).json()["requests_per_day"] == {"limit": 3, "remaining": 1}
            assert (await door.chat(key)).status_code == 200
            assert (await door.chat(key)).status_code == 429


async def test_tokens_a_minute_are_reserved_by_an_estimate_and_trued_up_by_the_answer(served: Served) -> None:
    door, backend = served
    key = await door.key(limits=limited(tokens=1000))
    is_released = asyncio.Event()
    backend.answer_with(held(is_released, unary(7, 5)))
    running = asyncio.create_task(door.chat(key, max_tokens=600))
    await backend.chats_asked(1)
    limit, remaining = tokens_told(await door.get("/v1/limits", key))
    assert limit == 1000
    assert 300 < remaining < 400
    refused = await door.chat(key, max_tokens=600)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "tokens_per_minute")
    assert int(refused.headers["retry-after"]) == 60
    is_released.set()
    await running
    assert tokens_told(await door.get("/v1/limits", key)) == (1000, 988)
    assert (await door.chat(key, max_tokens=600)).status_code == 200


@pytest.mark.parametrize("answer", [whole(b"{}", 500), whole(b"{}", 400)])
async def test_a_failed_request_gives_its_tokens_back(served: Served, answer: object) -> None:
    door, backend = served
    key = await door.key(limits=limited(tokens=1000))
    backend.answer_with(answer)  # type: ignore[arg-type]
    assert (await door.chat(key, max_tokens=600)).status_code in (400, 502)
    await door.nothing_is_left()
    assert tokens_told(await door.get("/v1/limits", key)) == (1000, 1000)


async def test_a_stream_is_trued_up_too(served: Served) -> None:
    door, backend = served
    key = await door.key(limits=limited(tokens=1000))
    backend.answer_with(events(*stream(30, 4)))
    await door.chat(key, stream=True, max_tokens=600)
    assert tokens_told(await door.get("/v1/limits", key)) == (1000, 966)


async def test_a_request_above_the_whole_token_limit_is_400_since_waiting_does_not_help(served: Served) -> None:
    door, backend = served
    key = await door.key(limits=limited(tokens=1000))
    response = await door.chat(key, max_tokens=1001)
    assert (response.status_code, error_of(response)["param"]) == (400, "max_tokens")
    assert "1000" in error_of(response)["message"]
    assert backend.chats == []
    assert tokens_told(response) == (1000, 1000)


async def test_a_request_without_max_tokens_is_estimated_below_the_model_s_most(served: Served) -> None:
    door, _ = served
    assert (await door.chat(await door.key(limits=limited(tokens=1500)))).status_code == 200


async def test_in_flight_counts_every_open_answer_until_its_last_byte(served: Served) -> None:
    door, backend = served
    key = await door.key(limits=limited(in_flight=2))
    is_released = asyncio.Event()
    backend.answer_with(*[held(is_released, answer) for answer in (unary(), events(*stream()))])
    running = [asyncio.create_task(door.chat(key, stream=is_stream)) for is_stream in (False, True)]
    await backend.chats_asked(2)
    refused = await door.chat(key)
    assert (refused.status_code, error_of(refused)["code"]) == (429, "in_flight")
    assert refused.headers["retry-after"] == "1"
    is_released.set()
    await asyncio.gather(*running)
    assert (await door.chat(key)).status_code == 200


# All keys of an account


async def account_with(door: Door, limits: OwnLimits, *keys: OwnLimits) -> list[str]:
    """Keys of one new account that has these limits."""
    account_id = await door.account()
    await (await door.desk()).accounts.change(account_id, limits=asdict(limits))
    return [await door.key(account_id, limits=key) for key in keys]


@pytest.mark.parametrize("is_test", [False, True])
async def test_minted_keys_have_what_their_account_has_and_no_more(served: Served, is_test: bool) -> None:
    door, _ = served
    account_id = await door.account()
    await (await door.desk()).accounts.change(account_id, limits=asdict(limited(minute=5)))
    first = await door.key(account_id)
    made = [(await door.http.post("/v1/keys", json={"test": is_test}, headers=bearer(first))).json() for _ in range(3)]
    responses = [await door.chat(key["key"]) for _ in range(3) for key in made]
    assert [response.status_code for response in responses] == [200] * 5 + [429] * 4
    assert [told(response)[:2] for response in responses[:5]] == [(5, left) for left in (4, 3, 2, 1, 0)]
    refused = error_of(responses[5])
    assert refused["code"] == "requests_per_minute"
    assert "of your account" in refused["message"]
    assert (await door.chat(first)).status_code == 429


async def test_a_limited_key_shares_its_limit_with_the_keys_that_it_makes(served: Served) -> None:
    door, _ = served
    _, low = await account_with(door, OwnLimits(), UNLIMITED, limited(minute=3))
    made = [(await door.http.post("/v1/keys", json={}, headers=bearer(low))).json()["key"] for _ in range(2)]
    made.append((await door.http.post("/v1/keys", json={}, headers=bearer(made[0]))).json()["key"])
    responses = [await door.chat(key) for key in (*made, low, *made)]
    assert [response.status_code for response in responses] == [200] * 3 + [429] * 4
    assert [told(response)[:2] for response in responses] == [(3, left) for left in (2, 1, 0, 0, 0, 0, 0)]
    assert "of the key that made this one" in error_of(responses[4])["message"]
    page = (await door.get("/v1/limits", made[2])).json()
    assert page["requests_per_minute"] == {"limit": 3, "remaining": 2}
    assert [maker["requests_per_minute"]["remaining"] for maker in page["makers"]] == [0]
    assert page["account"]["requests_per_minute"] == {"limit": None, "remaining": None}


async def test_revoking_and_making_keys_gains_nothing(served: Served) -> None:
    door, _ = served
    (keeper,) = await account_with(door, limited(minute=3, day=3), UNLIMITED)
    statuses = []
    for _ in range(4):
        made = (await door.http.post("/v1/keys", json={}, headers=bearer(keeper))).json()
        statuses.append((await door.chat(made["key"])).status_code)
        door.clock.now_s += 60  # a minute has as many listings
        await door.http.delete(f"/v1/keys/{made['id']}", headers=bearer(keeper))
    assert statuses == [200, 200, 200, 429]


async def test_limits_that_the_operator_sets_are_noticed_by_a_running_server(served: Served) -> None:
    door, _ = served
    account_id = await door.account()
    key = await door.key(account_id)
    assert "x-ratelimit-limit" not in (await door.chat(key)).headers
    await (await door.desk()).accounts.change(account_id, limits=asdict(limited(minute=2)))
    await door.gateway.known_keys.catch_up()
    assert told(await door.chat(key))[:2] == (2, 0)
    assert (await door.chat(key)).status_code == 429


async def test_the_nearer_of_key_and_account_is_told(served: Served) -> None:
    door, _ = served
    first, second = await account_with(door, limited(minute=4, tokens=900), limited(minute=3, tokens=1000), UNLIMITED)
    assert told(await door.get("/v1/limits", first))[:2] == (3, 3)
    assert told(await door.chat(second, max_tokens=9))[:2] == (4, 3)
    assert told(await door.get("/v1/limits", first))[:2] == (3, 3)
    response = await door.chat(second, max_tokens=9)
    assert (told(response)[:2], tokens_told(response)) == ((4, 2), (900, 872))
    response = await door.get("/v1/limits", first)
    assert (told(response)[:2], tokens_told(response)) == ((4, 2), (900, 872))


async def test_a_day_that_leaves_less_than_the_minute_is_told_with_its_own_reset(served: Served) -> None:
    door, _ = served
    key = await door.key(limits=limited(minute=5, day=2))
    midnight_s = (int(door.clock.now_s) // 86_400 + 1) * 86_400
    for remaining in (1, 0):
        assert told(await door.chat(key)) == (2, remaining, midnight_s)
    refused = await door.chat(key)
    assert told(refused) == (2, 0, midnight_s)
    assert int(refused.headers["retry-after"]) == midnight_s - door.clock.now_s


async def test_the_limits_page_shows_key_and_account(served: Served) -> None:
    door, _ = served
    first, second = await account_with(door, limited(10, 20, 2000, 30), limited(5, 7, 1000, 2), UNLIMITED)
    for key in (first, second):
        await door.chat(key, max_tokens=9)
    page = (await door.get("/v1/limits", first)).json()
    assert page["requests_per_minute"] == {"limit": 5, "remaining": 4}
    assert page["account"] == {
        "requests_per_minute": {"limit": 10, "remaining": 8},
        "requests_per_day": {"limit": 20, "remaining": 18},
        "tokens_per_minute": {"limit": 2000, "remaining": 1972},
        "in_flight": {"limit": 30, "running": 0},
    }
    page = (await door.get("/v1/limits", second)).json()
    assert page["requests_per_minute"] == {"limit": None, "remaining": None}
    assert page["account"]["requests_per_minute"] == {"limit": 10, "remaining": 8}


async def test_an_account_s_places_in_flight_and_tokens_are_shared_by_its_keys(served: Served) -> None:
    door, backend = served
    first, second = await account_with(door, limited(in_flight=1, tokens=1000), UNLIMITED, UNLIMITED)
    is_released = asyncio.Event()
    backend.answer_with(held(is_released, unary(7, 5)))
    running = asyncio.create_task(door.chat(first, max_tokens=600))
    await backend.chats_asked(1)
    refused = error_of(await door.chat(second))
    assert refused["code"] == "in_flight"
    assert "of your account" in refused["message"]
    is_released.set()
    await running
    assert tokens_told(await door.get("/v1/limits", second)) == (1000, 988)
    refused = error_of(await door.chat(second, max_tokens=1001))
    assert refused["param"] == "max_tokens"
    assert "of your account" in refused["message"]


async def test_listings_are_the_account_s_whichever_keys_it_sends(served: Served) -> None:
    door, _ = served
    first, second = await account_with(door, OwnLimits(), UNLIMITED, UNLIMITED)
    for key in (first, second, first, second):
        assert (await door.get("/v1/models", key)).status_code == 200
    for key in (first, second):
        assert error_of(await door.get("/v1/models", key))["code"] == "requests_per_minute"


async def test_what_an_account_has_used_today_survives_a_restart_and_its_keys(tmp_path: Path) -> None:
    clock = Clock()
    settings = {"limits": {"requests_per_day": 3}}
    async with open_door(tmp_path, clock, **settings) as door:
        account_id = await door.account()
        for _ in range(2):
            key = await door.key(account_id, limits=OwnLimits())
            await door.chat(key, model="demo/echo")
            (live,) = await door.gateway.keys.page(account_id, before_id=None, limit=9, state="live")
            await door.gateway.keys.revoke(live.id)
        other = await door.key(None, limits=limited(day=2))
        made = (await door.http.post("/v1/keys", json={}, headers=bearer(other))).json()["key"]
        await door.chat(made, model="demo/echo")
    async with open_door(tmp_path, clock, **settings) as door:
        assert told(await door.get("/v1/limits", other))[:2] == (2, 1)
        key = await door.key(account_id, limits=OwnLimits())
        assert told(await door.get("/v1/limits", key))[:2] == (3, 1)
        assert [(await door.chat(key, model="demo/echo")).status_code for _ in range(2)] == [200, 429]


async def test_over_mcp_and_over_http_it_is_one_account(served: Served) -> None:
    door, _ = served
    first, second, third = await account_with(door, limited(minute=2), UNLIMITED, UNLIMITED, limited(minute=9))
    ask = {"model": "free/tiny", "messages": [{"role": "user", "content": "x"}]}

    async def called(key: str, tool: str, **arguments: Any) -> dict[str, Any]:
        result: dict[str, Any] = (await door.call(tool, key, **arguments)).json()["result"]
        return result

    assert not (await called(first, "chat_completion", **ask))["isError"]
    assert (await door.chat(second)).status_code == 200
    refused = (await called(third, "chat_completion", **ask))["structuredContent"]
    assert refused["code"] == "requests_per_minute"
    assert "of your account" in refused["message"]
    limits = (await called(third, "get_balance"))["structuredContent"]["limits"]
    assert (limits["requests_per_minute"], limits["requests_left_this_minute"]) == (2, 0)


# Guests


async def as_guest(door: Door, address: str, **fields: object) -> httpx2.Response:
    body = {"model": "free/tiny", "messages": [{"role": "user", "content": "x"}]} | fields
    return await door.http.post("/v1/chat/completions", json=body, headers={"x-forwarded-for": address})


async def test_guests_are_counted_by_address_and_the_right_most_untrusted_one_counts(served: Served) -> None:
    door, _ = served
    for remaining in (2, 1, 0):
        response = await as_guest(door, f"203.0.113.{remaining}, 192.0.2.7")
        assert told(response)[:2] == (3, remaining)
    refused = await as_guest(door, "203.0.113.9, 192.0.2.7, 127.0.0.1")
    assert (refused.status_code, error_of(refused)["code"]) == (429, "guest")
    assert refused.headers["retry-after"] == "60"
    assert "key" in error_of(refused)["message"]
    assert (await as_guest(door, "192.0.2.7, 192.0.2.8")).status_code == 200


async def test_guests_of_one_ipv6_network_are_one(served: Served) -> None:
    door, _ = served
    for host in ("1", "ffff:1:2", "a"):
        assert (await as_guest(door, f"2001:db8:0:1::{host}")).status_code == 200
    assert (await as_guest(door, "2001:db8:0:1::b")).status_code == 429
    assert (await as_guest(door, "2001:db8:0:2::1")).status_code == 200


async def test_guests_of_one_ipv6_site_have_more_together_than_one_of_them(served: Served) -> None:
    door, _ = served
    for network in range(5):
        assert (await as_guest(door, f"2001:db8:0:{network}::1")).status_code == 200
    refused = await as_guest(door, "2001:db8:0:5::1")
    assert (refused.status_code, error_of(refused)["code"]) == (429, "guest")
    assert "/48" in error_of(refused)["message"]
    assert told(refused)[:2] == (5, 0)
    assert (await as_guest(door, "2001:db8:1::1")).status_code == 200
    page = (await door.http.get("/v1/limits", headers={"x-forwarded-for": "2001:db8:0:9::1"})).json()
    assert page["requests_per_minute"] == {"limit": 3, "remaining": 3}
    assert page["site"]["requests_per_minute"] == {"limit": 5, "remaining": 0}


async def test_a_guest_behind_a_tunnel_is_the_guest_with_the_ipv4_address(served: Served) -> None:
    door, _ = served
    addresses = ("192.0.2.1", "2002:c000:201::7", "2002:c000:201:9::7")
    assert [told(await as_guest(door, address))[1] for address in addresses] == [2, 1, 0]


async def test_guests_have_few_places_in_flight_each_and_together(served: Served) -> None:
    door, backend = served
    is_released = asyncio.Event()
    backend.answer_with(*[held(is_released, unary())] * 3)
    addresses = ("192.0.2.10", "192.0.2.10", "192.0.2.11")
    running = [asyncio.create_task(as_guest(door, address)) for address in addresses]
    await backend.chats_asked(3)
    for address in ("192.0.2.10", "192.0.2.12"):
        refused = await as_guest(door, address)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "guest")
        assert refused.headers["retry-after"] == "1"
    assert (await door.chat(await door.key())).status_code == 200
    is_released.set()
    assert [response.status_code for response in await asyncio.gather(*running)] == [200] * 3


async def test_a_guest_may_use_only_models_that_are_open_to_guests_and_one_choice(served: Served) -> None:
    door, _ = served
    refused = await as_guest(door, "192.0.2.20", model="priced/tiny")
    assert (refused.status_code, error_of(refused)["code"]) == (403, "guests_not_allowed")
    refused = await as_guest(door, "192.0.2.20", n=2)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "n")


async def test_where_guests_are_switched_off_a_missing_key_is_401_but_a_model_s_health_needs_none(
    tmp_path: Path,
) -> None:
    async with open_door(tmp_path, guests={"enabled": False}) as door:
        for path in ("/v1/limits", "/v1/keys", "/v1/nope"):
            response = await door.get(path)
            assert (response.status_code, error_of(response)["code"]) == (401, "missing_credentials")
            assert "www-authenticate" in response.headers
        assert (await door.get("/v1/models/demo/echo/health")).json()["status"] == "ready"
        assert (await door.get("/v1/models/nope/health")).status_code == 404
        assert (await door.get("/v1/keys/health")).status_code == 401
        assert (await door.get("/health")).status_code == 200


async def test_an_untrusted_peer_s_forwarded_address_is_not_believed(tmp_path: Path) -> None:
    async with open_door(tmp_path, trusted_proxies=[], guests={"requests_per_minute": 1}) as door:
        assert (await as_guest(door, "192.0.2.1", model="demo/echo")).status_code == 200
        assert (await as_guest(door, "192.0.2.2", model="demo/echo")).status_code == 429


async def test_the_limits_page_agrees_with_the_headers(served: Served) -> None:
    door, _ = served
    key = await door.key(limits=limited(5, 7, 1000, 2))
    await door.chat(key, max_tokens=9)
    response = await door.get("/v1/limits", key)
    page = response.json()
    assert page["requests_per_minute"] == {"limit": 5, "remaining": 4}
    assert page["requests_per_day"] == {"limit": 7, "remaining": 6}
    assert page["tokens_per_minute"] == {"limit": 1000, "remaining": 986}
    assert page["in_flight"] == {"limit": 2, "running": 0}
    assert page["account"]["requests_per_minute"] == {"limit": 60, "remaining": 59}
    assert told(response) == (5, 4, page["resets_at"])
    assert tokens_told(response) == (1000, 986)
    assert int(response.headers["x-ratelimit-reset-tokens"]) == page["resets_at"]
