"""The wallet as its owner sees it: balance, transactions page by page, and the cost of each chat."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway.core.errors import GatewayError
from tests.cases import each
from tests.databases import outside, store_of
from tests.recorded import recorded, write_records
from tests.replaying import ReplayingBackend, contents
from tests.serving import FREE, PRICED, Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
USAGE = {"include_usage": True}


@dataclass
class Stage:
    door: Door
    backend: ReplayingBackend

    async def holder(self, credit_usd: str = "1") -> tuple[str, str]:
        """A new account and its key."""
        account = await self.door.account(credit_usd)
        return account, await self.door.key(account)

    async def ask(self, path: str, key: str) -> Any:
        response = await self.door.get(path, key)
        assert response.status_code == 200, response.text
        return response.json()

    async def pages(self, path: str, key: str, limits: list[int]) -> AsyncIterator[list[dict[str, Any]]]:
        """Page after page, each of the next limit, the last limit again and again."""
        cursor, number = None, 0
        while True:
            query = f"limit={limits[min(number, len(limits) - 1)]}" + (f"&cursor={cursor}" if cursor else "")
            page = await self.ask(f"{path}?{query}", key)
            yield page["data"]
            cursor, number = page["next_cursor"], number + 1
            if cursor is None:
                return


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    limits = {"listing_requests_per_minute": 1_000_000}
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("billing"), vllm_urls=[backend.url], models=[FREE, PRICED], limits=limits
        ) as door,
    ):
        yield Stage(door, backend)
        await door.nothing_is_left()


async def test_the_wallet_shows_what_can_be_spent_what_was_granted_and_what_was_used(stage: Stage) -> None:
    account, key = await stage.holder("2")
    ledger = (await stage.door.desk()).ledger
    await ledger.grant(account, 400_000_000, account)
    await ledger.grant(account, 100_000_000, f"{account} soon", expires_at_ms=4_000_000_000_000)
    await stage.door.chat(key, model="priced/tiny")
    wallet = await stage.ask("/v1/billing", key)
    until_s, since_s = wallet["usage"].pop("until"), wallet["usage"].pop("since")
    assert 0 <= until_s - since_s - 30 * 86_400 <= 3600
    assert since_s % 3600 == 0
    assert wallet == {
        "object": "wallet",
        "account_id": account,
        "currency": "USD",
        "balance_usd": "2.4999942",
        "granted_usd": "0.4999942",
        "held_usd": "0.00",
        "leased_usd": "0.00",
        "grants": [
            {"object": "grant", "left_usd": "0.0999942", "expires_at": 4_000_000_000},
            {"object": "grant", "left_usd": "0.40", "expires_at": None},
        ],
        "usage": {
            "requests": 1,
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "total_tokens": 14,
            "cached_tokens": 0,
            "cost_usd": "0.0000058",
        },
    }
    credits = await stage.ask("/api/v1/inference/credits", key)
    assert credits == {
        "object": "credits",
        **{name: wallet[name] for name in ("currency", "balance_usd", "granted_usd", "held_usd", "leased_usd")},
    }


async def test_what_a_running_request_holds_is_not_in_the_balance(stage: Stage) -> None:
    account, key = await stage.holder("2")
    hold = await stage.door.gateway.ledger.hold(f"req_{account}", account, 1, 300_000_000)
    wallet = await stage.ask("/v1/billing", key)
    assert (wallet["balance_usd"], wallet["held_usd"]) == ("1.70", "0.30")
    stage.door.gateway.ledger.release(hold.request_id)
    wallet = await stage.ask("/v1/billing", key)
    assert (wallet["balance_usd"], wallet["held_usd"]) == ("2.00", "0.00")


async def test_transactions_are_the_ledger_newest_first(stage: Stage) -> None:
    _, key = await stage.holder("2")
    answer = await stage.door.chat(key, model="priced/tiny", max_tokens=8)
    page = await stage.ask("/v1/billing/transactions", key)
    settle, credit = page["data"]
    assert page["next_cursor"] is None
    assert [row["kind"] for row in page["data"]] == ["settle", "credit"]
    assert credit["amount_usd"] == credit["balance_change_usd"] == "2.00"
    assert settle["amount_usd"] == settle["balance_change_usd"] == "-0.0000058"
    assert settle["held_change_usd"] == credit["held_change_usd"] == "0.00"
    assert settle["reference"] == answer.headers["x-request-id"]
    assert settle.keys() == {
        "object", "id", "created_at", "time", "kind", "reference",
        "amount_usd", "balance_change_usd", "granted_change_usd", "held_change_usd",
    }  # fmt: skip


async def test_holds_of_an_earlier_release_stay_readable_and_are_no_deposits_nor_deductions(stage: Stage) -> None:
    """It wrote a row as a request began and one as it ended, each with what was held."""
    account, key = await stage.holder("2")
    settled_and_voided = (
        ("hold", "req_old_1", -100, 100, 0), ("settle", "req_old_1", 40, -100, 60),
        ("hold", "req_old_2", -70, 70, 0), ("void", "req_old_2", 70, -70, 0),
    )  # fmt: skip
    with outside(stage.door.gateway.settings) as another:
        for entry in settled_and_voided:
            another.rows("INSERT INTO ledger_transactions VALUES (NULL, ?, ?, ?, ?, 0, ?, ?, 0, 0, 1)", account, *entry)
        another.rows("UPDATE wallets SET paid_nano = paid_nano - 60 WHERE account_id = ?", account)
    rows = (await stage.ask("/v1/billing/transactions", key))["data"]
    told = [(row["kind"], row["amount_usd"], row["balance_change_usd"], row["held_change_usd"]) for row in rows]
    assert told == [
        ("void", "0.00", "0.00000007", "-0.00000007"),
        ("hold", "0.00", "-0.00000007", "0.00000007"),
        ("settle", "-0.00000006", "0.00000004", "-0.0000001"),
        ("hold", "0.00", "-0.0000001", "0.0000001"),
        ("credit", "2.00", "2.00", "0.00"),
    ]
    moves = (await stage.ask("/v1/credits/transactions", key))["data"]
    assert [(row["kind"], row["amount_usd"]) for row in moves] == [("settle", "-0.00000006"), ("credit", "2.00")]
    assert (await stage.ask("/v1/billing", key))["balance_usd"] == "1.99999994"


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1/inference"])
async def test_credit_transactions_are_deposits_and_deductions_only(stage: Stage, prefix: str) -> None:
    _, key = await stage.holder("2")
    await stage.door.chat(key, model="priced/tiny")
    page = await stage.ask(f"{prefix}/credits/transactions", key)
    assert [(row["kind"], row["amount_usd"]) for row in page["data"]] == [("settle", "-0.0000058"), ("credit", "2.00")]


@pytest.mark.parametrize("path", ["/billing", "/billing/transactions", "/credits", "/credits/transactions"])
async def test_an_account_is_shown_to_the_holders_of_its_keys_only(stage: Stage, path: str) -> None:
    response = await stage.door.get(f"/v1{path}")
    assert response.status_code == 401
    assert error_of(response)["code"] == "missing_credentials"
    assert response.headers["www-authenticate"].startswith("Bearer")


PRIVATE = (
    "/billing", "/billing/transactions", "/credits", "/credits/transactions", "/usage", "/requests", "/requests/req_1",
    "/keys", "/keys/key_1",
)  # fmt: skip


@each("path", PRIVATE)
async def test_a_test_key_reads_nothing_of_its_account(stage: Stage, path: str) -> None:
    key = await stage.door.key(await stage.door.account("3"), is_test=True)
    for prefix in ("/v1", "/api/v1/inference"):
        response = await stage.door.get(prefix + path, key)
        assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_scope")
        assert (await stage.door.http.head(prefix + path, headers=bearer(key))).status_code == 403
    assert (await stage.door.get("/v1/limits", key)).status_code == 200


async def test_the_recent_usage_is_told_to_keys_that_may_read_as_well(stage: Stage) -> None:
    account = await stage.door.account("3")
    for scopes, has_usage in ((["inference"], False), (["inference", "read"], True)):
        told = await stage.ask("/v1/billing", await stage.door.key(account, scopes=scopes))
        assert (told["balance_usd"], "usage" in told) == ("3.00", has_usage)


async def test_a_cursor_of_another_list_is_refused(stage: Stage) -> None:
    account, key = await stage.holder()
    await write_records(
        store_of(stage.door.gateway), *(recorded(10_000 + number, account_id=account) for number in range(2))
    )
    cursor = (await stage.ask("/v1/requests?limit=1", key))["next_cursor"]
    response = await stage.door.get(f"/v1/billing/transactions?cursor={cursor}", key)
    assert (response.status_code, error_of(response)["param"]) == (400, "cursor")


async def move(stage: Stage, account: str, kind: str, number: int) -> None:
    """One more transaction, or a hold that leaves none."""
    ledger, reference = stage.door.gateway.ledger, f"{account}-{kind}-{number}"
    if kind == "credit":
        await ledger.credit(account, number + 1, reference)
    elif kind == "grant":
        await ledger.grant(account, number + 1, reference)
    else:
        try:
            hold = await ledger.hold(reference, account, 1, 5)
        except GatewayError:
            return
        if kind == "settle":
            await ledger.settle(hold, 3, None)
        else:
            ledger.release(reference)


KINDS = st.lists(st.sampled_from(["credit", "grant", "settle", "release"]), max_size=6)


@settings(max_examples=25)
@given(
    KINDS, st.lists(KINDS, min_size=1, max_size=4), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans()
)
async def test_paging_while_transactions_arrive_yields_each_that_was_there_exactly_once(
    stage: Stage, before: list[str], meanwhile: list[list[str]], limits: list[int], only_moves: bool
) -> None:
    account, key = await stage.holder()
    path = "/v1/credits/transactions" if only_moves else "/v1/billing/transactions"
    for number, kind in enumerate(before):
        await move(stage, account, kind, number)
    there = [row["id"] for row in (await stage.ask(f"{path}?limit=1000", key))["data"]]
    seen, arriving, number = [], iter(meanwhile), len(before)
    async for rows in stage.pages(path, key, limits):
        seen += [row["id"] for row in rows]
        for kind in next(arriving, []):
            await move(stage, account, kind, number)
            number += 1
    assert seen == there


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 99), max_size=8),
    st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
async def test_paging_while_requests_end_in_any_order_yields_each_that_was_there_exactly_once(
    stage: Stage, before: list[int], meanwhile: list[list[int]], limits: list[int]
) -> None:
    account, key = await stage.holder("0")
    store = store_of(stage.door.gateway)
    await write_records(store, *(recorded(at_ms, account_id=account) for at_ms in before))
    there = [row["id"] for row in (await stage.ask("/v1/requests?limit=1000", key))["data"]]
    seen, arriving = [], iter(meanwhile)
    async for rows in stage.pages("/v1/requests", key, limits):
        seen += [row["id"] for row in rows]
        await write_records(store, *(recorded(at_ms, account_id=account) for at_ms in next(arriving, [])))
    assert [request_id for request_id in seen if request_id in set(there)] == there
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen, reverse=True)


async def test_a_unary_answer_tells_its_cost_in_a_header(stage: Stage) -> None:
    _, key = await stage.holder()
    priced = await stage.door.chat(key, model="priced/tiny")
    free = await stage.door.chat(key)
    assert (priced.headers["x-cost-usd"], free.headers["x-cost-usd"]) == ("0.0000058", "0.00")
    row = await stage.ask(f"/v1/requests/{priced.headers['x-request-id']}", key)
    assert row["cost_usd"] == "0.0000058"


async def test_a_refusal_tells_no_cost(stage: Stage) -> None:
    _, key = await stage.holder("0")
    refused = await stage.door.chat(key, model="priced/tiny")
    assert refused.status_code == 402
    assert "x-cost-usd" not in refused.headers


@pytest.mark.parametrize("continuous", [False, True])
async def test_a_stream_that_asked_for_usage_ends_with_its_cost_once_that_is_settled(
    stage: Stage, continuous: bool
) -> None:
    account, key = await stage.holder()
    options = USAGE | {"continuous_usage_stats": continuous}
    answer = await stage.door.chat(key, model="priced/tiny", stream=True, stream_options=options)
    *chunks, last = contents([answer.content])
    assert last["choices"] == []
    assert last["usage"]["cost_usd"] == "0.0000058"
    assert last["usage"]["total_tokens"] == 14
    assert not any("cost_usd" in (chunk.get("usage") or {}) for chunk in chunks)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert await stage.door.balance_nano(account) == 10**9 - 5800


async def test_a_stream_that_did_not_ask_tells_no_cost_but_has_one(stage: Stage) -> None:
    _, key = await stage.holder()
    answer = await stage.door.chat(key, model="priced/tiny", stream=True)
    assert b"cost_usd" not in answer.content
    row = await stage.ask(f"/v1/requests/{answer.headers['x-request-id']}", key)
    assert (row["cost_usd"], row["stream"]) == ("0.0000058", True)
    assert row["first_token_ms"] is not None
