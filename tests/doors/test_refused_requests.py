"""Requests that a limit refuses are in the log with their reason: the first of a minute, with how many followed it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.caller import Allowance, Caller, KeyHolder, Quota
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.inference import refused_requests
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.inference.passage import PassageOrder
from mcp_gateway.core.prices import FREE as FREE_OF_CHARGE
from mcp_gateway.core.upstream.provider import Provider
from tests.captured import captured
from tests.databases import outside
from tests.loop_clock import pass_time
from tests.patience import eventually
from tests.replaying import ReplayingBackend, held, replayed, unary
from tests.serving import FREE, PRICED, Clock, Door, bearer, chat_body, error_of, fresh_guest, open_door
from tests.surfaces import SPOKEN, Spoken, answers

pytestmark = pytest.mark.asyncio(loop_scope="module")
_BODY = orjson.dumps(chat_body())
ONE_A_MINUTE = OwnLimits(1, None, None, None)


class Stage:
    """An account at a served gateway, in a minute that nobody has used anything of."""

    def __init__(self, door: Door, backend: ReplayingBackend, account_id: str) -> None:
        self.door = door
        self.backend = backend
        self.account_id = account_id

    async def key(self, minute: int | None = None, **limits: int | None) -> str:
        most = {"requests_per_day": None, "tokens_per_minute": None, "in_flight": None} | limits
        return await self.door.key(self.account_id, limits=OwnLimits(minute, **most))

    async def listed(self, **query: str | int) -> list[dict[str, Any]]:
        """What its owner is told, the newest first."""
        await self.door.rows("SELECT 1")  # once all is written
        token = await self.door.person(self.account_id)
        answer = await self.door.http.get("/v1/requests", params={"limit": 100, **query}, headers=bearer(token))
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    async def caller_of_the_latest(self) -> Caller:
        """As whom the core knows who asked last, with one request a minute."""
        key_id = (await self.listed())[0]["key"]
        return Caller(self.account_id, KeyHolder(key_id), (Quota("key", key_id, Allowance(1, None, None, None)),))

    async def refused(self) -> list[tuple[str, str, int]]:
        """Of each that was refused: as what it was asked, why, and how many followed."""
        rows = await self.listed(status=429)
        return [(row["surface"], row["error_code"], row["further_refusals"]) for row in rows]

    def end_the_minute(self) -> None:
        self.door.clock.now_s += 60
        self.door.gateway.inference.refused.write()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("refused"),
            vllm_urls=[backend.url],
            models=[FREE, PRICED],
            guests={"requests_per_minute": 1},
            limits={"listing_requests_per_minute": 100},
            wallet={"hold_wait_s": 0},
        ) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def stage(served: tuple[Door, ReplayingBackend]) -> AsyncIterator[Stage]:
    door, backend = served
    door.clock.now_s = door.clock.now_s // 60 * 60 + 60
    backend.answer_with()
    yield Stage(door, backend, await door.account("1"))
    await door.nothing_is_left()


def code_of(response: httpx2.Response) -> str:
    assert response.status_code == 429
    code: str = error_of(response)["code"]
    return code


@pytest.mark.parametrize("spoken", [one for one in SPOKEN if one.path != "/v1/mcp"], ids=repr)
async def test_the_first_that_a_limit_refuses_is_in_the_log_whatever_was_asked(stage: Stage, spoken: Spoken) -> None:
    key = await stage.key(1)
    stage.backend.answer_with(answers(spoken))
    assert spoken.refusal_of(await spoken.ask(stage.door, key)) is None
    refused = await spoken.ask(stage.door, key)
    assert refused.status_code == 429
    row, asked = await stage.listed()
    assert row["id"] == refused.headers["x-request-id"]
    assert (row["status"], row["error_code"], row["model"]) == (429, "requests_per_minute", None)
    assert (row["cost_usd"], row["further_refusals"]) == ("0.00", 0)
    assert [row[name] for name in ("door", "surface", "key")] == [asked[name] for name in ("door", "surface", "key")]
    assert (asked["status"], asked["further_refusals"]) == (200, 0)


@pytest.mark.parametrize(("tool", "surface"), [("chat_completion", "chat"), ("embeddings", "embeddings")])
async def test_a_tool_that_asks_a_model_is_in_it_too(stage: Stage, tool: str, surface: str) -> None:
    key = await stage.key(1)
    assert (await stage.door.chat(key)).status_code == 200
    answer = await stage.door.call(tool, key, model="free/tiny")
    told = answer.json()["result"]["structuredContent"]
    assert told["code"] == "requests_per_minute"
    row = (await stage.listed(status=429))[0]
    assert (row["id"], row["door"], row["surface"]) == (told["request_id"], "mcp", surface)


async def test_so_is_what_would_be_passed_on_to_a_provider_unread(stage: Stage) -> None:
    assert (await stage.door.chat(await stage.key(1))).status_code == 200
    caller, inference = await stage.caller_of_the_latest(), stage.door.gateway.inference
    order = PassageOrder("req_passed_on", "mine", cast(Provider, None), FREE_OF_CHARGE)
    with pytest.raises(GatewayError, match="requests_per_minute"):
        inference.check(caller, order)
    with pytest.raises(GatewayError, match="requests_per_minute"):
        await inference.pass_on(caller, order)
    (row,) = await stage.listed(status=429)
    assert (row["id"], row["client_request_id"], row["surface"]) == ("req_passed_on", "mine", "proxy")


async def test_each_kind_of_limit_is_told_by_its_name(stage: Stage) -> None:
    door, is_released = stage.door, asyncio.Event()
    daily, few = await stage.key(requests_per_day=1), await stage.key(in_flight=1)
    worded = await stage.key(tokens_per_minute=1000)
    stage.backend.answer_with(unary(), held(is_released, unary()), held(is_released, unary(7, 5)))
    assert (await door.chat(daily)).status_code == 200
    running = [asyncio.create_task(door.chat(few)), asyncio.create_task(door.chat(worded, max_tokens=600))]
    await stage.backend.chats_asked(3)
    asked = [await door.chat(daily), await door.chat(few), await door.chat(worded, max_tokens=600)]
    is_released.set()
    await asyncio.gather(*running)
    told = ["requests_per_day", "in_flight", "tokens_per_minute"]
    assert [code_of(one) for one in asked] == told
    assert [code for _, code, _ in await stage.refused()] == told[::-1]


async def test_so_is_what_is_refused_for_held_money_or_by_a_busy_backend(stage: Stage) -> None:
    door, key = stage.door, await stage.key()
    ledger = door.gateway.ledger
    await ledger.hold("req_that_runs", stage.account_id, 10**9, 10**9)
    assert code_of(await door.chat(key, model="priced/tiny")) == "balance_held"
    ledger.release("req_that_runs")
    stage.backend.answer_with(*[replayed(captured("863_queue_full"))] * 9)
    assert code_of(await door.chat(key)) == "backend_busy"
    assert [code for _, code, _ in await stage.refused()] == ["backend_busy", "balance_held"]


async def test_a_thousand_refusals_are_one_row_and_change_no_sum_but_that_of_requests(stage: Stage) -> None:
    key, other = await stage.key(1), await stage.key()
    assert (await stage.door.chat(key, model="priced/tiny")).status_code == 200
    before = (await stage.door.get("/v1/usage", other)).json()["totals"]
    caller = await stage.caller_of_the_latest()
    first = await stage.door.chat(key)
    for number in range(998):
        with pytest.raises(GatewayError, match="requests_per_minute"):
            await stage.door.gateway.inference.admit(caller, Call(f"req_{number}", "http", "chat"))
    assert (await stage.door.chat(key)).status_code == 429
    assert await stage.refused() == [("chat", "requests_per_minute", 0)]
    stage.end_the_minute()
    (row,) = await stage.listed(status=429)
    assert (row["id"], row["further_refusals"]) == (first.headers["x-request-id"], 999)
    assert (await stage.door.chat(other)).status_code == 200
    after = (await stage.door.get("/v1/usage", other)).json()["totals"]
    assert after["requests"] == before["requests"] + 2  # this one, and the one that was told
    assert after["cost_usd"] == before["cost_usd"]
    by_status = (await stage.door.get("/v1/usage?group_by=status", other)).json()["data"]
    assert {one["status"]: one["requests"] for one in by_status} == {200: 2, 429: 1}


async def test_however_often_one_is_sent_again_under_a_key_of_its_own_nothing_more_is_written(stage: Stage) -> None:
    key = await stage.key(2)
    sent = [await stage.door.post(_BODY, key, idempotency_key="mine") for _ in range(5)]
    assert [one.status_code for one in sent] == [200, 200, 429, 429, 429]
    first_id = sent[0].headers["x-request-id"]
    assert [row["repeat_of"] for row in await stage.listed()] == [None, first_id, None]
    sql = "SELECT COUNT(*) FROM request_repeats WHERE account_id = ?"
    assert await stage.door.rows(sql, stage.account_id) == [(1,)]


async def test_each_minute_and_reason_has_a_row_of_its_own(stage: Stage) -> None:
    key = await stage.key(2, requests_per_day=3)
    for _ in range(4):
        await stage.door.chat(key)
    stage.door.clock.now_s += 60
    for _ in range(3):
        await stage.door.chat(key)
    assert await stage.refused() == [("chat", "requests_per_day", 0), ("chat", "requests_per_minute", 1)]
    stage.end_the_minute()
    assert await stage.refused() == [("chat", "requests_per_day", 1), ("chat", "requests_per_minute", 1)]


async def test_an_account_of_many_keys_has_so_many_rows_a_minute_and_no_more(stage: Stage) -> None:
    await (await stage.door.desk()).accounts.change(stage.account_id, limits=asdict(ONE_A_MINUTE))
    await stage.door.gateway.known_keys.catch_up()
    keys = [await stage.key() for _ in range(refused_requests._MOST_OF_AN_ACCOUNT + 3)]
    statuses = [(await stage.door.chat(key)).status_code for key in (keys[0], *keys)]
    assert statuses == [200] + [429] * len(keys)
    assert len(await stage.refused()) == refused_requests._MOST_OF_AN_ACCOUNT
    neighbour = Stage(stage.door, stage.backend, await stage.door.account())
    key = await neighbour.key(1)
    for _ in range(2):
        await stage.door.chat(key)
    assert len(await neighbour.refused()) == 1


async def test_all_guests_are_one(stage: Stage) -> None:
    door, codes = stage.door, []
    sql = "SELECT COUNT(*) FROM requests WHERE account_id = 'acc_guest' AND error_code = 'guest'"
    [(before,)] = await door.rows(sql)
    for _ in range(2):
        address = fresh_guest()
        asked = [await door.http.post("/v1/chat/completions", json=chat_body(), headers=address) for _ in range(2)]
        codes += [one.status_code for one in asked]
    assert codes == [200, 429] * 2
    assert await door.rows(sql) == [(before + 1,)]


async def test_who_shows_no_good_key_is_nobody_and_listings_are_no_requests(stage: Stage) -> None:
    key = await stage.key()
    [(before,)] = await stage.door.rows("SELECT COUNT(*) FROM requests")
    assert (await stage.door.chat(f"{key[:-4]}none")).status_code == 401
    statuses = {(await stage.door.get("/v1/models", key)).status_code for _ in range(101)}
    assert statuses == {200, 429}
    assert await stage.door.rows("SELECT COUNT(*) FROM requests") == [(before,)]


async def test_it_is_attributed_as_any_whose_body_was_not_read(stage: Stage) -> None:
    key = await stage.key(1)
    manager = await stage.door.person(stage.account_id)
    answer = await stage.door.http.put("/v1/attribution", json={"enabled": True}, headers=bearer(manager))
    assert answer.status_code == 200, answer.text
    await stage.door.gateway.known_keys.catch_up()
    for _ in range(2):
        await stage.door.post(b"{}", key, x_openwebui_user_id="ann")
    tools = await stage.door.call("chat_completion", key, model="free/tiny")
    assert tools.json()["result"]["structuredContent"]["code"] == "requests_per_minute"
    (row,) = await stage.listed(status=429)
    assert row["user"] == "ann"


async def test_the_console_shows_it_with_its_reason(stage: Stage) -> None:
    key, token = await stage.key(1), await stage.door.person(stage.account_id)
    for _ in range(4):
        await stage.door.chat(key)
    stage.end_the_minute()
    (row,) = await stage.listed(status=429)
    page = (await stage.door.http.get("/console/requests?least_status=400", headers=bearer(token))).text
    assert "requests_per_minute" in page
    assert "2 more" in page
    page = (await stage.door.http.get(f"/console/requests/{row['id']}", headers=bearer(token))).text
    assert "2 more until the minute was over" in page
    assert "Wait for retry_after_s seconds" in page


async def test_how_many_followed_is_written_soon_after_their_minute(stage: Stage) -> None:
    key = await stage.key(1)
    for _ in range(3):
        await stage.door.chat(key)
    assert await stage.refused() == [("chat", "requests_per_minute", 0)]
    stage.door.clock.now_s += 60
    pass_time(refused_requests.INTERVAL_S)
    await eventually(lambda: not stage.door.gateway.inference.refused._first)
    assert await stage.refused() == [("chat", "requests_per_minute", 1)]


async def test_an_end_writes_them_and_a_start_counts_none_as_admitted(tmp_path: Path) -> None:
    clock = Clock()
    async with ReplayingBackend() as backend:
        settings: dict[str, Any] = {"vllm_urls": [backend.url], "models": [FREE]}
        async with open_door(tmp_path, clock, **settings) as door:
            key = await door.key(limits=OwnLimits(1, 3, None, None))
            for _ in range(2):
                clock.now_s += 60
                assert [(await door.chat(key)).status_code for _ in range(4)] == [200, 429, 429, 429]
        with outside(door.gateway.settings) as another:
            assert another.rows("SELECT further FROM refused_requests") == [(2,), (2,)]
        clock.now_s += 60
        async with open_door(tmp_path, clock, **settings) as door:
            assert (await door.get("/v1/limits", key)).json()["requests_per_day"] == {"limit": 3, "remaining": 1}
