"""Budgets at a served gateway: what a key may spend in a window, by every surface, and how keys are made with one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import httpx2
import openai
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.budgets import BUDGET_WINDOWS, Budget, BudgetGroup, BudgetWindow, EndBudget, MakeBudgets
from mcp_gateway.core.money import format_usd
from tests.cases import each
from tests.doors.test_growing_holds import AGENT, AGENTS, REAL_NANO, WORST_NANO, in_steps
from tests.patience import PATIENCE_S
from tests.replaying import Asked, ReplayingBackend, events, held
from tests.serving import FREE, MESSAGES, Door, bearer, error_of, open_door
from tests.stage import CREDIT_NANO, PRICED, Stage, cost_nano, staged
from tests.surfaces import CHAT_SPOKEN, SPOKEN, ChatTool, Messages, Spoken, answers, every_way

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]
Json = dict[str, Any]
Served = tuple[Door, ReplayingBackend]
ENOUGH_NANO = 10**8
"""For any request of these tests."""
GROWING = [one for one in SPOKEN if one.name in ("chat", "completions", "mcp tool")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    settings: Json = {
        "models": [PRICED | {"context_window": 100_000}, AGENT, FREE],
        "wallet": {"hold_wait_s": 0, "min_useful_tokens": 1},
        "limits": {"keys_per_account": 20},
    }
    async with (
        ReplayingBackend(max_model_len=100_000) as backend,
        open_door(tmp_path_factory.mktemp("budgets"), vllm_urls=[backend.url], **settings) as door,
    ):
        yield door, backend
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(served: Served) -> Stage:
    """An account with plenty, and a key of its own."""
    return await staged(*served, CREDIT_NANO)


async def bound(stage: Stage, amount_nano: int, window: BudgetWindow = "day", holder: str | None = None) -> str:
    """A new budget's id; of the stage's key where nobody else is named."""
    own = await key_id(stage) if holder is None else holder
    budget = Budget(new_id("bud"), stage.account_id, own, amount_nano, window)
    await stage.door.gateway.ledger._store.write(MakeBudgets((budget,)))
    return budget.id


async def key_id(stage: Stage) -> str:
    (row,) = (await stage.door.get("/v1/keys", stage.key)).json()["data"]
    return str(row["id"])


async def spend(stage: Stage, amount_nano: int, holder: str | None = None) -> None:
    """As a request of the key that ended."""
    holders = frozenset({await key_id(stage) if holder is None else holder})
    ledger = stage.door.gateway.ledger
    await ledger.settle(await ledger.hold(new_id("req"), stage.account_id, 1, amount_nano, holders), amount_nano, None)


async def budgets(stage: Stage, key: str | None = None) -> list[Json]:
    told: list[Json] = (await stage.door.get("/v1/limits", key or stage.key)).json()["budgets"]
    return told


def amounts(told: Mapping[str, str]) -> tuple[str, str, str]:
    return told["spent_usd"], told["held_usd"], told["left_usd"]


async def create(stage: Stage, key: str | None = None, *, once: str | None = None, **fields: Any) -> httpx2.Response:
    headers = bearer(key or stage.key) | ({} if once is None else {"idempotency-key": once})
    return await stage.door.http.post("/v1/keys", json=fields, headers=headers)


# Refusals, by every surface


@every_way
async def test_what_is_used_up_is_final_in_the_surface_s_own_words(
    stage: Stage, spoken: Spoken, is_stream: bool
) -> None:
    budget_id = await bound(stage, 1000)
    await spend(stage, 1000)
    answer = await stage.ask(spoken, is_stream=is_stream)
    assert spoken.refusal_of(answer) == spoken.word_for("budget_exhausted")
    error = told_by(spoken, answer)
    assert "the budget of 0.000001 USD for each day" in error["message"]
    if not isinstance(spoken, ChatTool):
        assert (answer.status_code, answer.headers["x-should-retry"]) == (402, "false")
        assert "retry-after" not in answer.headers
    if not isinstance(spoken, Messages):
        assert (error["type"], error["budget"]["id"]) == ("insufficient_balance", budget_id)
        now_s = stage.door.gateway.ledger._now_ms() // 1000
        assert error["starts_anew_at"] == error["budget"]["starts_anew_at"] > now_s
        assert amounts(error["budget"]) == ("0.000001", "0.00", "0.00")
    assert stage.backend.chats == []
    (record,) = await stage.records()
    assert (record["http_status"], record["error_code"], record["cost_nano"]) == (402, "budget_exhausted", 0)
    await stage.is_left_with(CREDIT_NANO - 1000)


@every_way
async def test_what_running_requests_hold_of_it_may_come_free(stage: Stage, spoken: Spoken, is_stream: bool) -> None:
    own, ledger = await key_id(stage), stage.door.gateway.ledger
    budget_id = await bound(stage, ENOUGH_NANO)
    running = await ledger.hold(new_id("req"), stage.account_id, 1, ENOUGH_NANO, frozenset({own}))
    stage.backend.answer_with(answers(spoken))
    answer = await stage.ask(spoken, is_stream=is_stream)
    ledger.release(running.request_id)
    assert spoken.refusal_of(answer) == spoken.word_for("balance_held")
    error = told_by(spoken, answer)
    assert "budget" in error["message"]
    if not isinstance(spoken, ChatTool):
        assert (answer.status_code, "x-should-retry" in answer.headers) == (429, False)
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    if not isinstance(spoken, Messages):
        assert (error["budget"]["id"], error["holding_requests"], error["held_usd"]) == (budget_id, 1, "0.10")
    assert stage.backend.chats == []
    assert (await stage.ask(spoken, is_stream=is_stream)).status_code == 200
    (told,) = await budgets(stage)
    spent_nano = sum(record["cost_nano"] for record in await stage.records())
    assert spent_nano
    assert amounts(told) == (format_usd(spent_nano), "0.00", format_usd(ENOUGH_NANO - spent_nano))


def told_by(spoken: Spoken, answer: httpx2.Response) -> Json:
    whole = answer.json()
    told: Json = whole["result"]["structuredContent"] if isinstance(spoken, ChatTool) else whole["error"]
    return told


async def test_one_for_good_starts_never_anew(stage: Stage) -> None:
    await bound(stage, 5, "total")
    error = error_of(await stage.ask())
    assert (error["code"], error["starts_anew_at"]) == ("budget_exhausted", None)
    assert "in all" in error["message"]


async def test_the_accounts_own_binds_all_of_its_keys_until_it_ends(stage: Stage) -> None:
    other = await stage.door.key(stage.account_id)
    budget_id = await bound(stage, 5, holder=stage.account_id)
    for key in (stage.key, other):
        assert error_of(await CHAT_SPOKEN.ask(stage.door, key))["budget"]["id"] == budget_id
    assert await stage.door.gateway.ledger._store.write(EndBudget(stage.account_id, budget_id, 1))
    stage.backend.answer_with(answers(CHAT_SPOKEN))
    assert (await stage.ask()).status_code == 200
    assert await budgets(stage) == []


async def test_a_free_model_and_a_guest_are_bound_by_none(stage: Stage) -> None:
    await bound(stage, 1)
    stage.backend.answer_with(answers(CHAT_SPOKEN))
    assert (await stage.door.chat(stage.key)).status_code == 200
    assert "budgets" not in (await stage.door.get("/v1/limits")).json()


async def test_openais_sdk_does_not_try_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await bound(stage, 5)
    tries: list[int] = []

    async def note(response: httpx2.Response) -> None:
        tries.append(response.status_code)

    monkeypatch.setattr(openai.AsyncOpenAI, "_calculate_retry_timeout", lambda *_: 0)
    async with httpx2.AsyncClient(event_hooks={"response": [note]}, timeout=PATIENCE_S) as http:
        client = openai.AsyncOpenAI(api_key=stage.key, base_url=f"{stage.door.url}/v1", max_retries=5, http_client=http)
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model=PRICED["id"], messages=cast(Any, MESSAGES), max_tokens=16)
    assert (tries, raised.value.code) == ([402], "budget_exhausted")


# As exact as the wallet


@each("way", [(CHAT_SPOKEN, True), (CHAT_SPOKEN, False), (SPOKEN[-1], False)])
@each("holder", ["key", "account"])
async def test_agents_are_all_served_at_once_by_a_cap_worth_three_worst_cases(
    served: Served, way: tuple[Spoken, bool], holder: str
) -> None:
    """And twenty times what a call costs, while the wallet is rich."""
    assert 20 * REAL_NANO == 3 * WORST_NANO
    (door, backend), (spoken, is_stream) = served, way
    stage = await staged(door, backend, 1000 * WORST_NANO)
    await bound(stage, 20 * REAL_NANO, holder=None if holder == "key" else stage.account_id)
    all_are_in, seen = asyncio.Event(), list[int]()

    def look() -> None:
        book = door.gateway.ledger._purses.of(stage.account_id).budgets
        (standing,) = book.standings(door.gateway.ledger._now_ms())
        seen.append(standing.budget.amount_nano - standing.spent_nano - standing.held_nano)

    async def watched(asked: Asked) -> None:
        asked.start_stream()
        for frame in in_steps(CHAT_SPOKEN, 800, 16, 60_000):
            look()
            asked.send_event(frame)
            await asyncio.sleep(0)
        asked.end_stream()

    backend.answer_with()
    backend.prompt_tokens = 60_000
    backend.standing = held(all_are_in, watched)
    try:
        body = {"model": AGENT["id"], "is_stream": is_stream, "max_tokens": 32_000}
        asked = [asyncio.ensure_future(stage.ask(spoken, **body)) for _ in range(AGENTS)]
        await backend.chats_asked(AGENTS)
        all_are_in.set()
        told = await asyncio.gather(*asked)
    finally:
        backend.standing, backend.prompt_tokens = None, 10
    assert [spoken.told(answer, is_stream=is_stream)[1] for answer in told] == [format_usd(REAL_NANO)] * AGENTS
    assert len(seen) > AGENTS * 800 // 16
    assert min(seen) >= 0
    billed = sum(record["cost_nano"] for record in await stage.records())
    assert billed == AGENTS * REAL_NANO
    (budget,) = await budgets(stage)
    assert amounts(budget) == (format_usd(billed), "0.00", format_usd(4 * REAL_NANO))
    await stage.is_left_with(1000 * WORST_NANO - billed)


@each("spoken", GROWING)
@each("is_stream", [False, True])
@each("tokens", [15, 511, 512, 513, 2047, 2048])
async def test_an_answer_ends_at_the_last_token_that_a_budget_pays(
    served: Served, spoken: Spoken, is_stream: bool, tokens: int
) -> None:
    if is_stream and not spoken.has_streams:
        return
    stage = await staged(*served, CREDIT_NANO)
    await bound(stage, cost_nano(10, tokens))
    stage.backend.answer_with(events(*spoken.stream(10, 4000)))
    answer = await stage.ask(spoken, is_stream=is_stream, max_tokens=4000)
    usage, cost_usd = spoken.told(answer, is_stream=is_stream)
    assert usage is not None
    assert (usage.completion_tokens, cost_usd) == (tokens, format_usd(cost_nano(10, tokens)))
    last = spoken.events(answer.content)[-1] if is_stream else spoken.answer(answer)
    is_tool = isinstance(spoken, ChatTool)
    assert last["ended_by" if is_tool else "gateway"] == ("budget" if is_tool else {"ended_by": "budget"})
    (record,) = await stage.records()
    assert (record["finish_reason"], record["http_status"]) == ("length", 200)
    request = (await stage.door.get(f"/v1/requests/{record['id']}", stage.key)).json()
    assert request["ended_by"] == "budget"
    (budget,) = await budgets(stage)
    assert amounts(budget) == (cost_usd, "0.00", "0.00")


async def test_the_wallet_ends_an_answer_where_both_have_no_more(served: Served) -> None:
    stage = await staged(*served, cost_nano(10, 20))
    await bound(stage, cost_nano(10, 20))
    stage.backend.answer_with(events(*CHAT_SPOKEN.stream(10, 100)))
    answer = CHAT_SPOKEN.answer(await stage.ask(max_tokens=4000))
    assert (answer["gateway"], answer["usage"]["completion_tokens"]) == ({"ended_by": "balance"}, 20)


async def test_what_cannot_be_cut_is_clamped(stage: Stage) -> None:
    await bound(stage, cost_nano(100, 200))
    stage.backend.answer_with(answers(CHAT_SPOKEN))
    answer = await stage.ask(max_tokens=4000, n=2)
    assert 0 < CHAT_SPOKEN.clamped_to(answer) < 4000
    assert stage.sent["max_tokens"] == CHAT_SPOKEN.clamped_to(answer)


# Keys that are made with budgets


async def test_a_key_is_made_with_budgets_and_tells_them(stage: Stage) -> None:
    asked = [{"amount_usd": f"0.00{number}", "window": window} for number, window in enumerate(BUDGET_WINDOWS, 1)]
    made = await create(stage, name="agent", budgets=asked)
    assert made.status_code == 201
    key = made.json()
    told = [{name: one[name] for name in ("amount_usd", "window")} for one in key["budgets"]]
    assert told == asked
    assert {amounts(one)[:2] for one in key["budgets"]} == {("0.00", "0.00")}
    assert [one["left_usd"] for one in key["budgets"]] == [one["amount_usd"] for one in asked]
    raw = key.pop("key")
    (row,) = [row for row in (await stage.door.get("/v1/keys", stage.key)).json()["data"] if row["id"] == key["id"]]
    assert row == key == (await stage.door.get(f"/v1/keys/{key['id']}", raw)).json()
    assert await budgets(stage, raw) == key["budgets"]
    assert await budgets(stage) == []
    revoked = await stage.door.http.delete(f"/v1/keys/{key['id']}", headers=bearer(raw))
    assert told_of(revoked.json()) == told_of(key)


def told_of(key: Json) -> list[Json]:
    told: list[Json] = key["budgets"]
    return told


async def test_what_a_key_makes_spends_of_its_budget_too(stage: Stage) -> None:
    maker = (await create(stage, budgets=[{"amount_usd": "0.01", "window": "day"}])).json()
    child = (await create(stage, maker["key"], budgets=[{"amount_usd": "5", "window": "week"}])).json()
    grandchild = (await create(stage, child["key"])).json()
    stage.backend.answer_with(*[answers(CHAT_SPOKEN, 10, 4)] * 3)
    for raw in (maker["key"], child["key"], grandchild["key"]):
        assert (await CHAT_SPOKEN.ask(stage.door, raw)).status_code == 200
    await stage.door.nothing_is_left()
    cost = cost_nano(10, 4)
    assert [one["spent_usd"] for one in await budgets(stage, maker["key"])] == [format_usd(3 * cost)]
    assert sorted(one["spent_usd"] for one in await budgets(stage, grandchild["key"])) == sorted(
        [format_usd(3 * cost), format_usd(2 * cost)]
    )
    await spend(stage, 10**7 - 3 * cost, maker["id"])
    for raw in (maker["key"], child["key"], grandchild["key"]):
        error = error_of(await CHAT_SPOKEN.ask(stage.door, raw))
        assert (error["code"], error["budget"]["id"]) == ("budget_exhausted", maker["budgets"][0]["id"])
    stage.backend.answer_with(answers(CHAT_SPOKEN))
    assert (await stage.ask()).status_code == 200


async def test_a_groups_budget_binds_its_keys_and_what_those_make_and_no_others(stage: Stage) -> None:
    keys, group = stage.door.gateway.keys, BudgetGroup(new_id("grp"), stage.account_id, "agents")
    budget = Budget(new_id("bud"), stage.account_id, group.id, 1000, "day")
    await stage.door.gateway.ledger._store.write(MakeBudgets((budget,), group))
    member, raw = await keys.create(stage.account_id, group="agents")
    made = (await create(stage, raw)).json()
    listed = {one["id"]: one for one in (await stage.door.get("/v1/keys", raw)).json()["data"]}
    of_group = [(budget.id, "agents")]
    told_by_key = {
        key: (one["group"], [(told["id"], told["group"]) for told in told_of(one)]) for key, one in listed.items()
    }
    assert told_by_key == {
        await key_id_of(stage, stage.key): (None, []), member.id: ("agents", of_group), made["id"]: (None, []),
    }  # fmt: skip
    assert (await stage.door.get(f"/v1/keys/{member.id}", raw)).json() == listed[member.id]
    await spend(stage, 1000, group.id)
    for key in (raw, made["key"]):
        (told,) = await budgets(stage, key)
        assert (told["group"], amounts(told)) == ("agents", ("0.000001", "0.00", "0.00"))
        error = error_of(await CHAT_SPOKEN.ask(stage.door, key))
        assert (error["code"], error["budget"]["group"]) == ("budget_exhausted", "agents")
    assert await budgets(stage) == []
    stage.backend.answer_with(answers(CHAT_SPOKEN))
    assert (await stage.ask()).status_code == 200
    await keys.change(await key_id_of(stage, stage.key), group="agents")
    assert error_of(await stage.ask())["code"] == "budget_exhausted"
    await keys.change(member.id, group="")
    stage.backend.answer_with(answers(CHAT_SPOKEN))
    assert (await CHAT_SPOKEN.ask(stage.door, made["key"])).status_code == 200


async def key_id_of(stage: Stage, raw: str) -> str:
    key = await stage.door.gateway.keys.find(digest_of(raw))
    assert key is not None
    return key.id


async def test_a_repeat_makes_no_second_and_tells_the_same(stage: Stage) -> None:
    asked = [{"amount_usd": "1", "window": "day"}]
    first, again = [await create(stage, once="once", budgets=asked) for _ in range(2)]
    assert first.status_code == again.status_code == 201
    assert told_of(first.json()) == told_of(again.json())
    rows = await stage.door.rows("SELECT count(*) FROM budgets WHERE account_id = ?", stage.account_id)
    assert rows == [(1,)]
    other = await create(stage, once="once", budgets=[{"amount_usd": "2", "window": "day"}])
    assert other.status_code == 422


BUDGET = {"amount_usd": "1", "window": "day"}
ODD_AMOUNTS = (
    "", "0", "0.00", "-1", "1e3", "1E-3", "+1", " 1", "1 ", "1,5", "NaN", "inf", "0x1", "1.0000000001", "1" * 20,
    "\u0663",
)  # fmt: skip
ODD_TYPES: tuple[Any, ...] = (1, 1.5, None, True, [], "1" * 41)
ODD: list[tuple[Any, str]] = [
    *(([BUDGET | {"amount_usd": amount}], "budgets.0.amount_usd") for amount in ODD_AMOUNTS),
    *(([{**BUDGET, "amount_usd": amount}], "budgets.0.amount_usd") for amount in ODD_TYPES),
    *(([BUDGET, BUDGET | {"window": window}], "budgets.1.window") for window in ("year", "Day", "", 5, None, ["day"])),
    ([{"amount_usd": "1"}], "budgets.0.window"),
    ([{"window": "day"}], "budgets.0.amount_usd"),
    ([BUDGET | {"surprise": 1}], "budgets.0.surprise"),
    ([BUDGET] * 9, "budgets"),
    ("5 USD/day", "budgets"),
    ([None], "budgets.0"),
    ([BUDGET, "5 USD/day"], "budgets.1"),
    ([[]], "budgets.0"),
    (BUDGET, "budgets"),
]


@each(("odd", "param"), ODD)
async def test_odd_budgets_are_refused_by_their_name_and_no_key_is_made(stage: Stage, odd: Any, param: str) -> None:
    refused = await create(stage, once="once", budgets=odd)
    error = error_of(refused)
    assert (refused.status_code, error["param"]) == (400, param)
    assert len(error["message"]) < 300
    await key_id(stage)


LEAST, MOST = BUDGET | {"amount_usd": "0.000000001"}, BUDGET | {"amount_usd": "9223372036.854775807"}


@each("given", [[BUDGET] * 8, [], None, [LEAST], [MOST]])
async def test_what_can_be_a_budget_is_taken(served: Served, given: Any) -> None:
    stage = await staged(*served)
    made = (await create(stage, budgets=given)).json()
    assert [one["amount_usd"] for one in made["budgets"]] == [usd(one["amount_usd"]) for one in given or ()]


def usd(amount: str) -> str:
    return amount if "." in amount else f"{amount}.00"


async def test_a_wide_budget_does_not_let_anybody_spend_more_than_the_wallet_has(served: Served) -> None:
    stage = await staged(*served, 5)
    made = (await create(stage, budgets=[MOST])).json()
    assert error_of(await CHAT_SPOKEN.ask(stage.door, made["key"]))["code"] == "insufficient_balance"


async def test_what_is_told_of_budgets_is_as_openapi_says(stage: Stage) -> None:
    from tests.doors.test_openapi import schema_of  # noqa: PLC0415

    made = await create(stage, budgets=[BUDGET, BUDGET | {"window": "total"}])
    document = (await stage.door.http.get("/openapi.json")).json()
    limits = (await stage.door.get("/v1/limits", made.json()["key"])).json()
    assert len(limits["budgets"]) == 2
    own = (await stage.door.get(f"/v1/keys/{made.json()['id']}", stage.key)).json()
    for path, method, status, told in (
        ("/v1/keys", "POST", 201, made.json()),
        ("/v1/limits", "GET", 200, limits),
        ("/v1/keys/{key_id}", "GET", 200, own),
    ):
        assert [*schema_of(document, path, method, status).iter_errors(told)] == []
    asked = document["components"]["schemas"]["NewBudget"]["properties"]
    assert asked["window"]["enum"] == list(BUDGET_WINDOWS)
    request = document["components"]["schemas"]["RequestObject"]["properties"]["ended_by"]
    assert "budget" in orjson.dumps(request).decode()
