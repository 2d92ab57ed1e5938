"""GET /key and GET /generation: what OpenRouter's clients ask of a key and of an answer, from limits and the log."""

import re
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.budgets import BudgetWindow, span_at
from mcp_gateway.core.observe.history import TotalsOfHours, TotalsOfRequests
from tests.cases import each
from tests.databases import reads_of, store_of
from tests.recorded import recorded, write_records
from tests.serving import FREE, PRICED, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAY_MS = 86_400_000
WINDOWS: dict[BudgetWindow, str] = {"day": "usage_daily", "week": "usage_weekly", "month": "usage_monthly"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    demo = {"backend_model": "demo/echo"}
    limits = {"listing_requests_per_minute": 1_000_000}
    folder = tmp_path_factory.mktemp("openrouter")
    async with open_door(folder, models=[FREE | demo, PRICED | demo], limits=limits) as opened:
        yield opened


async def key_told(door: Door, key: str, path: str = "/v1/key") -> dict[str, Any]:
    response = await door.get(path, key)
    assert response.status_code == 200, response.text
    (told,) = response.json().values()
    return dict(told)


async def told(door: Door, key: str, answer_id: str) -> dict[str, Any]:
    return await key_told(door, key, f"/v1/generation?id={answer_id}")


async def test_an_answer_is_found_by_its_own_id_and_by_its_requests(door: Door) -> None:
    key = await door.key(credit="1")
    answer = await door.chat(key, model="priced/tiny", max_tokens=9)
    record = await door.record(answer)
    generation = await told(door, key, answer.json()["id"])
    assert generation == await told(door, key, record["id"]) | {"id": answer.json()["id"]}
    assert (generation["request_id"], generation["model"]) == (record["id"], "priced/tiny")
    assert (generation["tokens_prompt"], generation["tokens_completion"]) == (
        record["prompt_tokens"],
        record["completion_tokens"],
    )
    assert generation["total_cost"] == generation["usage"] == record["cost_nano"] / 10**9 > 0
    assert (generation["finish_reason"], generation["streamed"], generation["cancelled"]) == ("length", False, False)
    assert (generation["provider_name"], generation["api_type"]) == ("vllm", "completions")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", generation["created_at"])


@each("wanted", [{"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, {"n": 2}])
async def test_a_stream_is_found_by_the_id_of_its_frames(wanted: dict[str, Any], door: Door) -> None:
    key = await door.key(credit="1")
    answer = await door.chat(key, model="priced/tiny", max_tokens=9, **wanted)
    (found,) = set(re.findall(r'"id":\s?"([^"]+)"', answer.text))
    generation = await told(door, key, found)
    assert generation["streamed"] is bool(wanted.get("stream"))
    assert generation["request_id"] == answer.headers["x-request-id"]


@each(
    ("path", "body", "api_type"),
    [
        ("/v1/completions", {"prompt": "a"}, "completions"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5}, "completions"),
        ("/v1/responses", {"input": "a"}, "completions"),
        ("/v1/embeddings", {"input": "a"}, "embeddings"),
    ],
)
async def test_an_answer_of_any_surface_is_found(path: str, body: dict[str, Any], api_type: str, door: Door) -> None:
    key = await door.key(credit="1")
    answer = await door.post(orjson.dumps({"model": "free/tiny"} | body), key, path)
    assert answer.status_code == 200, answer.text
    generation = await told(door, key, answer.json()["id"])
    assert (generation["api_type"], generation["request_id"]) == (api_type, answer.headers["x-request-id"])


async def test_a_request_with_tools_of_servers_is_told_with_all_its_rounds(door: Door) -> None:
    account = await door.account()
    rows = [
        recorded(now_ms(), account_id=account, prompt_tokens=10, completion_tokens=2, cost_nano=7, finish_reason="stop")
    ]
    first = rows[0].id
    for number in (2, 10):
        more = {"id": f"{first}-{number}", "prompt_tokens": number, "cost_nano": number, "latency_ms": 3}
        rows.append(recorded(now_ms(), account_id=account, **more))
    await write_records(store_of(door.gateway), *rows)
    key = await door.key(account)
    whole = await told(door, key, f"chatcmpl-{first}")
    assert (whole["tokens_prompt"], whole["total_cost"]) == (22, 19 / 10**9)
    one = await told(door, key, f"{first}-2")
    assert (one["tokens_prompt"], one["total_cost"]) == (2, 2 / 10**9)


async def test_nobody_elses_generation_is_found(door: Door) -> None:
    key, other = await door.key(credit="1"), await door.key(credit="1")
    answer = await door.chat(key, max_tokens=9)
    for asker, path, status in (
        (other, f"/v1/generation?id={answer.json()['id']}", 404),
        (key, "/v1/generation?id=req_00000000", 404),
        (key, "/v1/generation?id=gen-3bhGkxlo4XF", 400),
        (key, "/v1/generation?id=", 400),
        (key, "/v1/generation", 400),
        (None, f"/v1/generation?id={answer.json()['id']}", 401),
        (await door.key(scopes={"inference"}), f"/v1/generation?id={answer.json()['id']}", 403),
    ):
        assert (await door.get(path, asker)).status_code == status, path


async def test_a_key_is_told_what_it_has_spent_by_utc_days_weeks_and_months(door: Door) -> None:
    account = await door.account("1")
    key = await door.key(account, name="the key of mine")
    (own,) = await door.gateway.keys.list(account)
    now = now_ms()
    for ago_days, cost in ((0, 1_000_000), (40, 20_000_000), (400, 300_000_000)):
        row = recorded(now - ago_days * DAY_MS, account_id=account, key_id=own.id, cost_nano=cost)
        await write_records(store_of(door.gateway), row)
    await write_records(store_of(door.gateway), recorded(now, account_id=account, key_id="key_of_another", cost_nano=9))
    data = await key_told(door, key)
    assert data["usage"] == 0.321
    assert data["usage_daily"] == data["usage_weekly"] == data["usage_monthly"] == 0.001
    assert (data["label"], data["limit"], data["limit_remaining"], data["limit_reset"]) == (
        "the key of mine", None, None, None,
    )  # fmt: skip
    assert data["expires_at"] is None
    assert data["rate_limit"]["requests"] == -1


async def test_each_window_of_what_a_key_has_spent_begins_with_its_first_midnight_and_all_are_read_at_once(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await door.account("1")
    key = await door.key(account)
    (own,) = await door.gateway.keys.list(account)
    starts = {window: span_at(window, now_ms(), UTC).starts_at_ms for window in WINDOWS}
    costs = {
        at: 10**number for number, at in enumerate({start - before for start in starts.values() for before in (0, 1)})
    }
    rows = [recorded(at, account_id=account, key_id=own.id, cost_nano=cost) for at, cost in costs.items()]
    store = store_of(door.gateway)
    await write_records(store, *rows)
    asked = reads_of(store, monkeypatch)
    data = await key_told(door, key)
    assert len([one for one in asked if isinstance(one, TotalsOfHours | TotalsOfRequests)]) == 1
    for window, start in starts.items():
        assert round(data[WINDOWS[window]] * 10**9) == sum(cost for at, cost in costs.items() if at >= start), window
    assert round(data["usage"] * 10**9) == sum(costs.values())


async def test_a_limit_is_the_budget_that_leaves_the_least(door: Door) -> None:
    master = await door.key(credit="5")
    budgets = [{"amount_usd": "3", "window": "day"}, {"amount_usd": "0.02", "window": "month"}]
    body = orjson.dumps({"name": "child", "budgets": budgets, "requests_per_minute": 50})
    made = await door.post(body, master, "/v1/keys")
    assert made.status_code == 201, made.text
    child = made.json()["key"]
    before = await key_told(door, child)
    assert (before["limit"], before["limit_remaining"], before["limit_reset"]) == (0.02, 0.02, "monthly")
    assert (before["usage"], before["rate_limit"]["requests"]) == (0, 50)
    answer = await door.chat(child, model="priced/tiny", max_tokens=9)
    record = await door.record(answer)
    spent = record["cost_nano"]
    assert spent == (record["prompt_tokens"] * 300 + record["completion_tokens"] * 700)
    after = await key_told(door, child)
    assert after["effective_budget"] == after["budgets"][1]
    assert [(one["scope"], one["limit_usd"], one["reset_interval"]) for one in after["budgets"]] == [
        ("key_limit", 3, "daily"),
        ("key_limit", 0.02, "monthly"),
    ]
    assert [one["spend_usd"] for one in after["budgets"]] == [spent / 10**9] * 2
    assert all(one["resets_at"].endswith("Z") for one in after["budgets"])
    assert (after["limit_remaining"], after["usage"]) == ((20_000_000 - spent) / 10**9, spent / 10**9)
    assert (await key_told(door, master))["usage"] == spent / 10**9  # with what its keys have spent
    assert (await key_told(door, master))["limit"] is None


async def test_what_a_key_is_is_told(door: Door) -> None:
    ends = now_ms() + DAY_MS
    data = await key_told(door, await door.key(is_test=True, expires_at_ms=ends))
    assert data["is_free_tier"]
    assert data["label"].startswith("gw_test_")
    assert data["expires_at"].endswith("Z")
    assert data["free_model_daily_requests"] == {"limit": -1, "remaining": -1, "used": 0}
    limited = await door.key(limits=OwnLimits(None, 5, None, None))
    await door.chat(limited, max_tokens=2)
    assert (await key_told(door, limited))["free_model_daily_requests"] == {"limit": 5, "remaining": 4, "used": 1}
    keys_alone = await key_told(door, await door.key(scopes={"manage"}))
    assert keys_alone["is_management_key"]
    assert not (await key_told(door, await door.key(limits=OwnLimits(1, 1, 1, 1))))["is_management_key"]
    assert (await door.get("/v1/key")).status_code == 401
