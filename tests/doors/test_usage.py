"""GET /usage and /requests: totals and single requests, of the caller's own account only."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, get_args

import pytest
import pytest_asyncio

from mcp_gateway.core.observe.history import Group
from mcp_gateway.core.record import Attribution, RequestRecord, RoutingFacts
from tests.cases import each
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.replaying import ReplayingBackend, held, unary, whole
from tests.serving import FREE, PRICED, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAY_S = 86_400
MIDNIGHT_S = 20_000 * DAY_S  # 2024-10-04


@dataclass
class Stage:
    door: Door
    backend: ReplayingBackend
    account: str
    key: str

    async def ask(self, path: str) -> Any:
        response = await self.door.get(path, self.key)
        assert response.status_code == 200, response.text
        return response.json()

    async def past(self, at_s: float, **fields: Any) -> RequestRecord:
        """A request of this account, written into the log."""
        record = recorded(int(at_s * 1000), **{"account_id": self.account} | fields)
        await write_records(store_of(self.door.gateway), record)
        return record


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    limits = {"listing_requests_per_minute": 1_000_000}
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("usage"), vllm_urls=[backend.url], models=[FREE, PRICED], limits=limits
        ) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def stage(served: tuple[Door, ReplayingBackend]) -> Stage:
    door, backend = served
    backend.answer_with()
    account = await door.account("1")
    return Stage(door, backend, account, await door.key(account))


async def test_every_fact_of_a_request_is_in_its_record(stage: Stage) -> None:
    answer = await stage.door.chat(stage.key, model="priced/tiny")
    row = await stage.ask(f"/v1/requests/{answer.headers['x-request-id']}")
    (key,) = await stage.door.gateway.keys.list(stage.account)
    assert row.pop("latency_ms") >= 0
    assert row.pop("created_at") > MIDNIGHT_S
    assert row.pop("time").endswith("Z")
    assert row == {
        "object": "request",
        "id": answer.headers["x-request-id"],
        "client_request_id": None,
        "door": "http",
        "surface": "chat",
        "key": key.id,
        "model": "priced/tiny",
        "backend": "vllm-1",
        "stream": False,
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "cached_tokens": None,
        "cache_write_tokens": None,
        "images": 0,
        "cost_usd": "0.0000058",
        "price_version": "300000/700000",
        "first_token_ms": None,
        "status": 200,
        "error_code": None,
        "finish_reason": "length",
        "ended_by": None,
        "repeat_of": None,
        "usage_missing": None,
        "parent_id": None,
        "routing": None,
        "failed_attempts": [],
        "further_refusals": 0,
        "user": None,
        "tags": [],
    }


async def test_a_request_that_named_no_model_tells_how_it_was_routed(stage: Stage) -> None:
    routed = await stage.past(MIDNIGHT_S + 1, routing=RoutingFacts("code", "simple", 0.875))
    named = await stage.past(MIDNIGHT_S + 2)
    told = {"task": "code", "complexity": "simple", "confidence": 0.875, "score": None}
    assert (await stage.ask(f"/v1/requests/{routed.id}"))["routing"] == told
    listed = (await stage.ask(f"/v1/requests?since={MIDNIGHT_S}&until={MIDNIGHT_S + 9}"))["data"]
    assert [(row["id"], row["routing"]) for row in listed] == [(named.id, None), (routed.id, told)]
    generation = (await stage.ask(f"/v1/generation?id={routed.id}"))["data"]
    assert (generation["router"], generation["routing"]) == ("auto", told)
    generation = (await stage.ask(f"/v1/generation?id={named.id}"))["data"]
    assert (generation["router"], generation["routing"]) == (None, None)


async def test_a_free_request_is_in_the_log_as_soon_as_its_answer_is_whole(stage: Stage) -> None:
    for _ in range(20):
        answer = await stage.door.chat(stage.key)
        assert (await stage.ask(f"/v1/requests/{answer.headers['x-request-id']}"))["cost_usd"] == "0.00"


async def test_a_failed_request_says_how_it_failed(stage: Stage) -> None:
    stage.backend.answer_with(whole(b"{}", 500))
    failed = await stage.door.chat(stage.key, model="priced/tiny", stream=True)
    row = await stage.ask(f"/v1/requests/{failed.headers['x-request-id']}")
    assert (row["status"], row["error_code"], row["cost_usd"]) == (502, "backend_error", "0.00")
    assert row["stream"] is True


async def test_times_are_unix_seconds_and_iso_with_milliseconds(stage: Stage) -> None:
    record = await stage.past(MIDNIGHT_S + 0.007)
    row = await stage.ask(f"/v1/requests/{record.id}")
    assert (row["created_at"], row["time"]) == (MIDNIGHT_S, "2024-10-04T00:00:00.007Z")


FILTERS = (
    ("", "cba"),
    ("model=free/tiny", "b"),
    ("key=key_1", "ca"),
    ("status=502", "c"),
    ("error_code=backend_died", "c"),
    ("door=mcp", "b"),
    ("door=http&key=key_1", "ca"),
    (f"since={MIDNIGHT_S}", "cb"),
    ("since=2024-10-04", "cb"),
    ("since=1788030595", ""),  # whose digits begin as those of a date
    (f"until={MIDNIGHT_S}", "a"),
    ("until=2024-10-04T02:00:00%2B02:00", "a"),
    ("since=2024-10-04T00:00:00Z&until=2024-10-04T00:00:10", "b"),
    ("model=none", ""),
)


async def test_the_log_is_filtered(stage: Stage) -> None:
    names = {
        (await stage.past(MIDNIGHT_S - 10)).id: "a",
        (await stage.past(MIDNIGHT_S, model="free/tiny", key_id="key_2", door="mcp")).id: "b",
        (await stage.past(MIDNIGHT_S + 10, http_status=502, error_code="backend_died")).id: "c",
    }
    paths = ("/v1/requests", "/api/v1/inference/requests", "/api/v1/inference/usage")
    for path, (query, found) in product(paths, FILTERS):
        page = await stage.ask(f"{path}?{query}")
        assert "".join(names[row["id"]] for row in page["data"]) == found, (path, query)
        assert page["next_cursor"] is None


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/requests", "/v1/requests/req_0", "/api/v1/inference/usage"])
async def test_guests_share_an_account_and_see_nothing_of_it(stage: Stage, path: str) -> None:
    response = await stage.door.get(path)
    assert response.status_code == 401
    assert error_of(response)["code"] == "missing_credentials"


async def test_another_accounts_requests_are_not_there(stage: Stage) -> None:
    other = await stage.past(MIDNIGHT_S, account_id="acc_other")
    response = await stage.door.get(f"/v1/requests/{other.id}", stage.key)
    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"
    assert (await stage.ask("/v1/requests"))["data"] == []
    assert (await stage.ask("/v1/usage?since=0"))["data"] == []


async def test_a_running_request_is_not_in_the_log_yet(stage: Stage) -> None:
    may_answer = asyncio.Event()
    stage.backend.answer_with(held(may_answer, unary()))
    chat = asyncio.ensure_future(stage.door.chat(stage.key))
    await stage.backend.chats_asked(1)
    assert (await stage.ask("/v1/requests"))["data"] == []
    may_answer.set()
    answer = await chat
    ended = await stage.ask(f"/v1/requests/{answer.headers['x-request-id']}")
    assert (await stage.ask("/v1/requests"))["data"] == [ended]


async def test_usage_is_totals_by_day_with_their_sum(stage: Stage) -> None:
    for at_s in (MIDNIGHT_S - 1, MIDNIGHT_S, MIDNIGHT_S + 1):
        await stage.past(at_s, cached_tokens=1)
    page = await stage.ask("/v1/usage?since=2024-10-01&until=2024-10-05")
    assert [(row["day"], row["requests"], row["cost_usd"]) for row in page["data"]] == [
        ("2024-10-04", 2, "0.0000116"),
        ("2024-10-03", 1, "0.0000058"),
    ]
    assert page["totals"] == {
        "requests": 3,
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "total_tokens": 42,
        "cached_tokens": 3,
        "cost_usd": "0.0000174",
    }
    assert (page["since"], page["until"]) == (MIDNIGHT_S - 3 * DAY_S, MIDNIGHT_S + DAY_S)


@each(
    ("since", "until", "days"),
    [
        ("2024-10-04", "2024-10-04", 1), ("20241004", "20241004", 1), ("20241004", "2024-10-04", 1),
        ("2024-10-04", "2024-10-05", 1), ("20241003", "20241005", 2), (str(MIDNIGHT_S), str(MIDNIGHT_S), 0),
        ("2024-10-04T00:00:00Z", "2024-10-04T00:00:00Z", 0), ("9999-12-31", "9999-12-31", 0),
    ],
)  # fmt: skip
async def test_a_date_until_itself_is_that_day(stage: Stage, since: str, until: str, days: int) -> None:
    page = await stage.ask(f"/v1/usage?since={since}&until={until}")
    assert page["until"] - page["since"] == days * DAY_S
    assert (await stage.door.get(f"/v1/requests?since={since}&until={until}", stage.key)).status_code == 200


async def test_eight_digits_are_a_date_where_they_can_be(stage: Stage) -> None:
    assert (await stage.ask("/v1/usage?since=20241004"))["since"] == MIDNIGHT_S
    assert (await stage.ask("/v1/usage?since=99999999"))["since"] == 99_999_999


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("model", ["priced/tiny", "free/tiny"]), ("key", ["key_2", "key_1"]), ("status", [404, 200]),
        ("hour", ["2024-10-04T13:00:00Z", "2024-10-04T00:00:00Z"]), ("month", ["2024-10"]),
    ],
)  # fmt: skip
async def test_usage_is_grouped_as_asked(stage: Stage, group: str, names: list[str | int]) -> None:
    await stage.past(MIDNIGHT_S, key_id="key_2")
    await stage.past(MIDNIGHT_S + 13 * 3600, model="free/tiny", http_status=404)
    page = await stage.ask(f"/v1/usage?since=2024-10-04&until=2024-10-05&group_by={group}")
    assert [row[group] for row in page["data"]] == names
    assert page["group_by"] == group
    assert page["totals"]["requests"] == 2


async def test_usage_by_two_things_tells_both_in_the_order_asked(stage: Stage) -> None:
    first: dict[Group, Any] = {
        "hour": "2024-10-31T23:00:00Z", "day": "2024-10-31", "month": "2024-10", "model": "priced/tiny", "key": "key_1",
        "surface": "chat", "status": 200, "task": "code", "user": "ann", "tag": "red",
    }  # fmt: skip
    second = first | {"hour": "2024-11-01T00:00:00Z", "day": "2024-11-01", "month": "2024-11", "key": None}
    midnight_s = MIDNIGHT_S + 28 * DAY_S
    attribution = Attribution("ann", ("red",))
    await stage.past(midnight_s - 1, routing=RoutingFacts("code", "simple", 0.9), attribution=attribution)
    await stage.past(midnight_s, key_id=None, model=None, surface="score", http_status=502)
    second |= {"model": None, "surface": "score", "status": 502, "task": None, "user": None, "tag": None}
    pairs: Iterable[tuple[Group, Group]] = permutations(get_args(Group), 2)
    for groups, end in product(pairs, ("2024-11-02", "2024-11-01T00:30:00Z")):
        page = await stage.ask(f"/v1/usage?since=2024-10-31&until={end}&group_by={','.join(groups)}")
        assert page["group_by"] == ",".join(groups)
        rows = [{name: row[name] for name in row if name in first} for row in page["data"]]
        expected = [{group: names[group] for group in groups} for names in (first, second)]
        assert rows in (expected, expected[::-1]), (groups, end)
        assert page["totals"]["requests"] == 2


async def test_a_failure_is_told_by_its_status_and_key(stage: Stage) -> None:
    stage.backend.answer_with(whole(b"{}", 500))
    await stage.door.chat(stage.key, model="priced/tiny")
    for _ in range(2):
        stage.backend.answer_with()
        await stage.door.chat(stage.key, model="priced/tiny")
    rows = (await stage.ask("/v1/usage?group_by=model,status"))["data"]
    assert [(row["model"], row["status"], row["requests"]) for row in rows] == [
        ("priced/tiny", 502, 1),
        ("priced/tiny", 200, 2),
    ]


async def test_usage_without_a_window_is_that_of_the_last_thirty_days(stage: Stage) -> None:
    await stage.past(MIDNIGHT_S)
    await stage.door.chat(stage.key, model="priced/tiny")
    page = await stage.ask("/v1/usage")
    assert page["totals"]["requests"] == 1
    assert 0 <= page["until"] - page["since"] - 30 * DAY_S <= 3600
    assert page["since"] % 3600 == 0


@each(
    ("path", "code", "param", "told"),
    [
        ("/v1/requests?modle=a", "unsupported_parameter", "modle", "did you mean `model`?"),
        ("/v1/requests?zzzzzz=a", "unsupported_parameter", "zzzzzz", "there are limit, cursor, model"),
        ("/v1/requests/req_1?limit=1", "unsupported_parameter", "limit", "there is none"),
        ("/v1/requests?status=200&status=502", "invalid_value", "status", "more than once"),
        ("/v1/requests?model=", "invalid_value", "model", "must not be empty"),
        ("/v1/requests?limit=0", "invalid_value", "limit", "greater than or equal to 1"),
        ("/v1/requests?limit=1001", "invalid_value", "limit", "less than or equal to 1000"),
        ("/v1/requests?limit=ten", "invalid_value", "limit", "must be a whole number"),
        ("/v1/requests?status=2000", "invalid_value", "status", "less than or equal to 599"),
        ("/v1/requests?door=window", "invalid_value", "door", "'http' or 'mcp'"),
        ("/v1/requests?surface=speech", "invalid_value", "surface", "'chat', 'completions', 'embeddings'"),
        ("/v1/requests?cursor=%21", "invalid_value", "cursor", "next_cursor"),
        ("/v1/requests?cursor=dHhuXzE", "invalid_value", "cursor", "next_cursor"),
        ("/v1/requests?cursor=%C3%BC", "invalid_value", "cursor", "next_cursor"),
        ("/v1/usage?since=yesterday", "invalid_value", "since", "Unix seconds"),
        ("/v1/usage?since=" + "9" * 30, "invalid_value", "since", "Unix seconds"),
        ("/v1/usage?since=" + "9" * 5000, "invalid_value", "since", "Unix seconds"),
        ("/v1/usage?since=-1", "invalid_value", "since", "Unix seconds"),
        ("/v1/usage?since=1900-01-01", "invalid_value", "since", "Unix seconds"),
        ("/v1/usage?since=20&until=10", "invalid_value", "since", "later"),
        ("/v1/usage?group_by=week", "invalid_value", "group_by", "'task', 'user' or 'tag', or two that differ"),
        ("/v1/usage?group_by=day,day", "invalid_value", "group_by", "or two that differ"),
        ("/v1/usage?group_by=day,model,key", "invalid_value", "group_by", "or two that differ"),
        ("/v1/usage?group_by=day,", "invalid_value", "group_by", "or two that differ"),
        ("/v1/usage?group_by=,", "invalid_value", "group_by", "or two that differ"),
        ("/v1/usage?group_by=day,%20model", "invalid_value", "group_by", "or two that differ"),
        ("/v1/usage?group_by=day&group_by=model", "invalid_value", "group_by", "more than once"),
        ("/v1/usage?group_by=", "invalid_value", "group_by", "must not be empty"),
        ("/v1/usage?cursor=dHhuXzE", "unsupported_parameter", "cursor", "there are since, until, group_by"),
    ],
)
async def test_a_query_that_cannot_be_is_told_what_to_change(
    stage: Stage, path: str, code: str, param: str, told: str
) -> None:
    response = await stage.door.get(path, stage.key)
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert told in error["message"]


async def test_asking_about_things_has_a_limit_of_its_own(tmp_path: Any) -> None:
    async with open_door(tmp_path, limits={"listing_requests_per_minute": 2}) as door:
        key = await door.key()
        paths = ["/v1/billing", "/v1/usage", "/v1/requests", "/v1/credits", "/v1/billing/transactions"]
        assert [(await door.get(path, key)).status_code for path in paths] == [200, 200, 429, 429, 429]


@pytest.mark.parametrize("number", [2**62, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("surface", ["chat", "score"])
async def test_no_row_that_stands_in_the_log_already_makes_a_sum_fail(stage: Stage, number: int, surface: str) -> None:
    counts = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano"), number)
    for _ in range(3):
        await stage.past(time.time(), surface=surface, **counts)
    for group in get_args(Group):
        totals = (await stage.ask(f"/v1/usage?group_by={group}"))["totals"]
        assert totals["requests"] == 3
        assert totals["total_tokens"] == (6 * 2**32 if number > 0 else 0)
    assert (await stage.ask("/v1/billing"))["usage"]["requests"] == 3
    assert len((await stage.ask("/v1/requests"))["data"]) == 3
