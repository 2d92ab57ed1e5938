"""POST /feedback: who may say how good an answer was, of which requests, and what comes of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.record import RoutingFacts
from mcp_gateway.core.routing.classifier.classifier import PromptReading
from tests.cases import each
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
READING = PromptReading("code", 1.0, "simple", 0.1)
MODEL = "priced/tiny"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    limits = {"keys_per_account": 9, "listing_requests_per_minute": 1_000_000}
    async with open_door(tmp_path_factory.mktemp("feedback"), limits=limits) as door:
        yield door
        await door.nothing_is_left()


async def request(door: Door, account_id: str, *, is_routed: bool = True, **fields: Any) -> str:
    """One of an account that has ended."""
    routing = RoutingFacts("code", "simple", 0.9) if is_routed else None
    record = recorded(now_ms(), **{"account_id": account_id, "routing": routing, "model": MODEL} | fields)
    await write_records(store_of(door.gateway), record)
    return record.id


async def feedback(door: Door, key: str | None, request_id: Any, score: Any, prefix: str = "/v1") -> httpx2.Response:
    body = {"request_id": request_id, "score": score}
    return await door.http.post(f"{prefix}/feedback", json=body, headers=bearer(key))


async def counted(door: Door, account_id: str) -> list[tuple[Any, ...]]:
    return await door.rows("SELECT model, task, score, trials FROM outcomes WHERE account_id = ?", account_id)


@each("prefix", ["/v1", "/api/v1/inference"])
async def test_a_score_is_counted_and_told_with_its_request(door: Door, prefix: str) -> None:
    account = await door.account()
    key, request_id = await door.key(account), await request(door, account)
    answer = await feedback(door, key, request_id, 0.25, prefix)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"object": "feedback", "request_id": request_id, "score": 0.25, "counted": True}
    assert await counted(door, account) == [(MODEL, "code", 250_000, 1)]
    told = (await door.get(f"/v1/requests/{request_id}", key)).json()["routing"]
    assert told == {"task": "code", "complexity": "simple", "confidence": 0.9, "score": 0.25}


async def test_a_later_score_takes_the_place_of_an_earlier_one(door: Door) -> None:
    account = await door.account()
    key, request_id = await door.key(account), await request(door, account)
    for score in (1, 0.5, 0.5, 0):
        assert (await feedback(door, key, request_id, score)).json()["counted"] is True
        assert await counted(door, account) == [(MODEL, "code", score * 1_000_000, 1)]


async def test_thirty_scores_move_the_account_s_own_table(door: Door) -> None:
    account = await door.account()
    key, table_of = await door.key(account), door.gateway.outcomes.table_of
    for _ in range(30):
        assert table_of(account, None).expected(READING)[MODEL].outcomes == 0
        await feedback(door, key, await request(door, account), 1)
    assert table_of(account, None).expected(READING)[MODEL].outcomes == 30
    assert table_of("acc_other", None).expected(READING)[MODEL].outcomes == 0


@each("form", ["{}", "chatcmpl-{}", "msg_{}", "{}-2", "chatcmpl-{}-10"])
async def test_a_request_is_meant_by_the_id_of_its_answer_or_of_a_further_round_too(door: Door, form: str) -> None:
    account = await door.account()
    key, request_id = await door.key(account), await request(door, account)
    for number in ("2", "10"):
        await request(door, account, id=f"{request_id}-{number}")
    answer = await feedback(door, key, form.format(request_id), 1)
    assert answer.json()["request_id"] == request_id
    assert await counted(door, account) == [(MODEL, "code", 1_000_000, 1)]


async def test_a_request_that_named_its_model_cannot_be_judged(door: Door) -> None:
    account = await door.account()
    refused = await feedback(door, await door.key(account), await request(door, account, is_routed=False), 1)
    assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_value")
    assert error_of(refused)["param"] == "request_id"


async def test_nobody_else_s_request_can_be_judged(door: Door) -> None:
    account, other = await door.account(), await door.account()
    request_id = await request(door, account)
    for named in (request_id, "req_0123456789ab", "req_", "nothing"):
        refused = await feedback(door, await door.key(other), named, 1)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "not_found")
    assert await counted(door, account) == await counted(door, other) == []


async def test_a_minted_key_judges_what_it_sees(door: Door) -> None:
    account = await door.account("10")
    top, raw = await door.gateway.keys.create(account)
    body = {"budgets": [{"amount_usd": "1", "window": "day"}]}
    made = (await door.http.post("/v1/keys", json=body, headers=bearer(raw))).json()
    of_top = await request(door, account, key_id=top.id)
    of_made = await request(door, account, key_id=made["id"])
    assert (await feedback(door, made["key"], of_top, 1)).status_code == 404
    assert (await feedback(door, made["key"], of_made, 1)).json()["counted"] is True
    assert (await feedback(door, raw, of_made, 0)).json()["counted"] is True


async def test_what_a_test_key_says_is_taken_and_not_counted(door: Door) -> None:
    account = await door.account()
    key, raw = await door.gateway.keys.create(account, is_test=True)
    live, of_test = await request(door, account), await request(door, account, key_id=key.id)
    for judge, request_id, told in (
        (raw, of_test, 0.5), (raw, live, None), (await door.key(account), of_test, 0.5),
    ):  # fmt: skip
        answer = await feedback(door, judge, request_id, 0.5)
        assert (answer.status_code, answer.json()["counted"]) == (200, False)
        record = (await door.get(f"/v1/requests/{request_id}", await door.key(account))).json()
        assert record["routing"]["score"] == told
    assert await counted(door, account) == []


async def test_guests_and_keys_without_the_scope_judge_nothing(door: Door) -> None:
    request_id = await request(door, "acc_guest", key_id=None)
    for key, status in ((None, 401), (await door.key(scopes={"read"}), 403)):
        assert (await feedback(door, key, request_id, 1)).status_code == status


@each("score", [True, False, "1", None, [], {}, -0.000001, 1.000001, 10**30, -1])
async def test_what_is_no_score_is_refused(door: Door, score: Any) -> None:
    account = await door.account()
    refused = await feedback(door, await door.key(account), await request(door, account), score)
    assert (refused.status_code, error_of(refused)["param"]) == (400, "score")
    assert await counted(door, account) == []


@each("body", [
    b'{"request_id": "req_0", "score": NaN}', b'{"request_id": "req_0", "score": Infinity}', b'{"score": 1}',
    b'{"request_id": "req_0", "score": 1e999}', b'{"request_id": "req_0"}', b'{"request_id": 5, "score": 1}',
    b'{"request_id": "", "score": 1}', b'{"request_id": "req_0", "score": 1, "comment": "good"}', b"[]", b"",
])  # fmt: skip
async def test_what_is_no_feedback_is_refused(door: Door, body: bytes) -> None:
    refused = await door.post(body, await door.key(), "/v1/feedback")
    assert (refused.status_code, error_of(refused)["type"]) == (400, "invalid_request")


async def test_where_no_feedback_is_kept_that_is_said(tmp_path: Path) -> None:
    async with open_door(tmp_path, routing={"feedback": "off"}) as door:
        account = await door.account()
        refused = await feedback(door, await door.key(account), await request(door, account), 1)
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
        assert await door.rows("SELECT score FROM routed_requests") == [(None,)]
