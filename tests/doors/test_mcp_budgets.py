"""Budgets handed down over MCP: who may, what a new key may, how it ends, and what get_balance tells of the tree."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.subscriptions import ToolsListChanged

from mcp_gateway.core.caller import KeyScope
from mcp_gateway.core.identity.keys import Key, digest_of
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.budgets import Budget, BudgetGroup, BudgetWindow, MakeBudgets
from mcp_gateway.mcp_door.sessions import Session
from tests.cases import each
from tests.doors.mcp_host import http_client
from tests.logged import lines_logged
from tests.patience import PATIENCE_S, eventually
from tests.replaying import ReplayingBackend
from tests.serving import FREE, Door, bearer, error_of, open_door
from tests.stage import PRICED, cost_nano
from tests.surfaces import CHAT_SPOKEN, answers

pytestmark = [pytest.mark.gateways, pytest.mark.asyncio(loop_scope="module")]
Json = dict[str, Any]
MINTING = {"create_budget", "end_budget"}
ASKED: Json = {"amount_usd": "1", "lifetime_s": 600}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("mcp-budgets"),
            vllm_urls=[backend.url],
            models=[PRICED, FREE],
            mcp={"max_budget_lifetime_s": 3600},
        ) as door,
    ):
        yield door, backend
        await door.nothing_is_left()


@pytest.fixture
def door(served: tuple[Door, ReplayingBackend]) -> Door:
    return served[0]


async def minter(door: Door, account_id: str | None = None, **rights: Any) -> str:
    """A key that may mint over MCP, raw."""
    return await door.key(account_id, may_mint_over_mcp=True, credit="5", **rights)


async def call(door: Door, tool: str, key: str | None, **arguments: Any) -> Json:
    """What a tool tells, once it has succeeded."""
    result: Json = (await door.call(tool, key, **arguments)).json()["result"]
    assert result["isError"] is False, result
    told: Json = result["structuredContent"]
    return told


async def refused(door: Door, tool: str, key: str | None, **arguments: Any) -> Json:
    result: Json = (await door.call(tool, key, **arguments)).json()["result"]
    assert result["isError"] is True, result
    error: Json = result["structuredContent"]
    assert error["message"] == result["content"][0]["text"]
    return error


async def create(door: Door, key: str, **arguments: Any) -> Json:
    return await call(door, "create_budget", key, **(ASKED | arguments))


async def listed(door: Door, key: str | None) -> set[str]:
    return {tool["name"] for tool in (await door.mcp("tools/list", key)).json()["result"]["tools"]}


async def found(door: Door, raw: str) -> Key:
    key = await door.gateway.keys.find(digest_of(raw))
    assert key is not None
    return key


async def mint_over_http(door: Door, key: str, **fields: Any) -> httpx2.Response:
    asked = {"budgets": [{"amount_usd": "1", "window": "day"}]} | fields
    return await door.http.post("/v1/keys", json=asked, headers=bearer(key))


async def code_of(door: Door, key: str) -> str | None:
    answer = await door.get("/v1/limits", key)
    return None if answer.status_code == 200 else str(error_of(answer)["code"])


# Who may


async def test_the_tools_are_for_keys_that_may_alone(door: Door) -> None:
    may = await minter(door)
    usual, scopes = await door.key(), list[KeyScope](["inference", "read", "billing"])
    without_scope, test_key = await door.key(scopes=scopes), await door.key(is_test=True)
    told = {
        usual: "insufficient_permissions",
        without_scope: "insufficient_scope",
        test_key: "insufficient_scope",
        None: "missing_credentials",
    }
    assert await listed(door, may) >= MINTING
    for key, code in told.items():
        assert not MINTING & await listed(door, key)
        assert (await refused(door, "create_budget", key, **ASKED))["code"] == code
        assert (await refused(door, "end_budget", key, key_id="key_1"))["code"] == code


async def test_the_right_is_no_right_without_the_scope_manage(door: Door) -> None:
    account_id = await door.account()
    usual = await door.key(account_id, scopes=["inference"])
    top = await minter(door, account_id)
    for fields in ({"scopes": ["inference"]}, {"test": True, "budgets": []}):
        error = error_of(await mint_over_http(door, top, mint_over_mcp=True, **fields))
        assert (error["code"], error["param"]) == ("invalid_value", "mint_over_mcp")
    with pytest.raises(Exception, match="invalid_value"):
        await door.gateway.keys.change((await found(door, usual)).id, may_mint_over_mcp=True)
    assert len(await door.gateway.keys.list(account_id)) == 2


async def test_a_key_gives_the_right_if_it_has_it_and_is_asked_to(door: Door) -> None:
    top, usual = await minter(door), await door.key()
    error = error_of(await mint_over_http(door, usual, mint_over_mcp=True))
    assert (error["code"], error["param"]) == ("insufficient_permissions", "mint_over_mcp")
    given, plain = [(await mint_over_http(door, top, **f)).json() for f in ({"mint_over_mcp": True}, {})]
    assert (given["mint_over_mcp"], plain["mint_over_mcp"]) == (True, False)
    assert await listed(door, given["key"]) >= MINTING
    assert not MINTING & await listed(door, plain["key"])


async def test_whoever_loses_the_right_loses_it_with_what_it_made(door: Door) -> None:
    top, other = await minter(door), await minter(door)
    child = (await mint_over_http(door, top, mint_over_mcp=True)).json()["key"]
    below = (await mint_over_http(door, child, mint_over_mcp=True)).json()["key"]
    keys = door.gateway.keys
    await keys.change((await found(door, child)).id, may_mint_over_mcp=False)
    assert [bool(MINTING & await listed(door, key)) for key in (top, child, below, other)] == [True, False, False, True]
    await keys.change((await found(door, below)).id, may_mint_over_mcp=True)
    await keys.change((await found(door, top)).id, may_mint_over_mcp=False)
    assert [bool(MINTING & await listed(door, key)) for key in (top, child, below, other)] == [False] * 3 + [True]


@each("transport", ["http", "sse"])
async def test_a_session_hears_of_a_right_that_its_key_is_given_or_loses(door: Door, transport: str) -> None:
    raw, heard = await door.key(), asyncio.Queue[str]()

    async def hear(message: Any) -> None:
        heard.put_nowait(message.method)

    async with client_of(door, raw, transport, "legacy", message_handler=hear) as client:
        own_id = (await found(door, raw)).id
        for may in (True, False):
            await eventually(lambda: any(one.stream is not None for one in sessions_of(door, own_id)))
            await change_right(door, raw, may=may)
            async with asyncio.timeout(PATIENCE_S):
                assert await heard.get() == "notifications/tools/list_changed"
            assert ({tool.name for tool in (await client.list_tools()).tools} >= MINTING) is may


async def test_a_listening_stream_hears_of_its_own_keys_rights_alone(door: Door) -> None:
    raw, other = await door.key(), await door.key()
    assert await listed(door, other)
    async with (
        client_of(door, raw) as client,
        client_of(door, other) as stranger,
        client.listen(tools_list_changed=True) as mine,
        stranger.listen(tools_list_changed=True) as theirs,
    ):
        await change_right(door, raw, may=True)
        async with asyncio.timeout(PATIENCE_S):
            assert isinstance(await anext(aiter(mine)), ToolsListChanged)
        assert {tool.name for tool in (await client.list_tools()).tools} >= MINTING
        await change_right(door, other, may=True)
        async with asyncio.timeout(PATIENCE_S):
            assert isinstance(await anext(aiter(theirs)), ToolsListChanged)
        await revoke(door, other)
        with pytest.raises(StopAsyncIteration):  # which heard of one change alone
            await anext(aiter(theirs))


async def change_right(door: Door, raw: str, *, may: bool) -> None:
    """As the command line does, beside the server, which then looks as every half second."""
    await (await door.desk()).keys.change((await found(door, raw)).id, may_mint_over_mcp=may)
    await door.gateway.known_keys.catch_up()


async def revoke(door: Door, raw: str) -> None:
    await door.gateway.keys.revoke((await found(door, raw)).id)


def sessions_of(door: Door, key_id: str) -> list[Session]:
    return [one for one in door.mcp_door._all_sessions() if one.owner[1] == key_id]


@contextlib.asynccontextmanager
async def client_of(
    door: Door, key: str, transport: str = "http", mode: str = "auto", **options: Any
) -> AsyncIterator[Client]:
    url, headers = f"{door.url}/v1/mcp", bearer(key)
    async with http_client(headers=headers) as http:
        target = streamable_http_client(url, http_client=http)
        if transport == "sse":
            target = sse_client(f"{url}/sse", headers=headers)
        async with Client(target, mode=mode, **options) as client:
            yield client


# What is made


@each("transport", ["http", "sse"])
@each("mode", ["legacy", "auto"])
async def test_the_sdk_client_makes_and_ends_one_over_each_transport_in_each_era(
    door: Door, transport: str, mode: str
) -> None:
    async with client_of(door, await minter(door), transport, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        hints = {name: tools[name].annotations for name in sorted(MINTING)}
        told_of = [
            (hint.read_only_hint, hint.destructive_hint, hint.idempotent_hint, hint.open_world_hint)
            for hint in hints.values()
            if hint is not None
        ]
        assert told_of == [(False, False, False, False), (False, True, True, False)]
        made = await client.call_tool("create_budget", ASKED)
        told = made.structured_content
        assert told is not None
        assert told["key"] in getattr(made.content[0], "text", "")
        assert await code_of(door, told["key"]) is None
        ended = await client.call_tool("end_budget", {"key_id": told["key_id"]})
        assert ended.is_error is False
        assert await code_of(door, told["key"]) == "revoked_api_key"


async def test_a_lease_is_set_aside_at_once_and_is_back_when_it_is_ended(door: Door) -> None:
    top = await minter(door)
    before = await call(door, "get_balance", top)
    made = await create(door, top, amount_usd="0.01", lifetime_s=3600, lease=True)
    assert (made["budget"]["lease"], made["budget"]["ends_at"]) == (True, made["expires_at"])
    assert (await call(door, "get_balance", top))["leased_usd"] == "0.01"
    error = await refused(door, "create_budget", top, amount_usd="1000", lifetime_s=3600, lease=True)
    assert error["code"] == "insufficient_balance"
    await call(door, "end_budget", top, key_id=made["key_id"])
    after = await call(door, "get_balance", top)
    assert (after["balance_usd"], after["leased_usd"]) == (before["balance_usd"], "0.00")


async def test_the_new_key_may_spend_its_amount_on_inference_and_nothing_else(
    served: tuple[Door, ReplayingBackend],
) -> None:
    door, backend = served
    top = await minter(door)
    made = await create(door, top, amount_usd="0.01", lifetime_s=3600, name="helper")
    assert made["budget"] == {
        "id": made["budget"]["id"], "amount_usd": "0.01", "window": "total", "spent_usd": "0.00", "held_usd": "0.00",
        "left_usd": "0.01", "lease": False,
    }  # fmt: skip
    assert 3500 < made["expires_at"] - now_ms() // 1000 <= 3600
    key = await found(door, made["key"])
    assert (key.id, key.name, set(key.scopes), key.is_minted) == (made["key_id"], "helper", {"inference"}, True)
    assert (key.made_by, key.may_mint_over_mcp) == ((await found(door, top)).id, False)
    assert error_of(await mint_over_http(door, made["key"]))["code"] == "insufficient_scope"
    assert error_of(await door.get("/v1/usage", made["key"]))["code"] == "insufficient_scope"
    assert not MINTING & await listed(door, made["key"])
    backend.answer_with(answers(CHAT_SPOKEN, 10, 4))
    assert (await CHAT_SPOKEN.ask(door, made["key"])).status_code == 200
    await spend(door, key.account_id, 10**7 - cost_nano(10, 4), key.id)
    assert error_of(await CHAT_SPOKEN.ask(door, made["key"]))["code"] == "budget_exhausted"


async def test_models_are_those_that_are_named_and_the_callers_may_use(door: Door) -> None:
    top = await minter(door)
    narrow = await minter(door, models=["free/tiny"])
    ways = [["free/tiny"], "free/tiny", '["free/tiny"]', " free/tiny , free/tiny"]
    for models in ways:
        made = await create(door, top, models=models)
        assert (await found(door, made["key"])).models == frozenset({"free/tiny"})
        assert made["models"] == ["free/tiny"]
    assert (await create(door, narrow))["models"] == ["free/tiny"]
    assert "models" not in await create(door, top)
    for key, models in ((narrow, [PRICED["id"]]), (top, ["no/such"]), (top, "free/tiny,no/such")):
        error = await refused(door, "create_budget", key, **ASKED, models=models)
        assert error["code"] == "model_not_found"


@each(
    ("arguments", "code"),
    [
        ({"amount_usd": None}, "missing_parameter"),
        ({"lifetime_s": None}, "missing_parameter"),
        ({"amount_usd": "0"}, "invalid_value"),
        ({"amount_usd": "-1"}, "invalid_value"),
        ({"amount_usd": "five"}, "invalid_value"),
        ({"amount_usd": "1e3"}, "invalid_value"),
        ({"amount_usd": 1e-7}, "invalid_value"),
        ({"amount_usd": "0.0000000001"}, "invalid_value"),
        ({"amount_usd": "99999999999999"}, "invalid_value"),
        ({"amount_usd": 123456789.123456789}, "invalid_type"),
        ({"amount_usd": True}, "invalid_type"),
        ({"amount_usd": ["1"]}, "invalid_type"),
        ({"lifetime_s": 0}, "invalid_value"),
        ({"lifetime_s": -60}, "invalid_value"),
        ({"lifetime_s": 1.5}, "invalid_type"),
        ({"lifetime_s": "soon"}, "invalid_type"),
        ({"lifetime_s": 3601}, "invalid_value"),
        ({"lifetime_s": 2**62}, "invalid_value"),
        ({"name": "n" * 201}, "invalid_value"),
        ({"name": "a\nb"}, "invalid_value"),
        ({"name": ["x"]}, "invalid_type"),
        ({"models": ["free/tiny"] * 101}, "invalid_value"),
        ({"models": [7]}, "invalid_type"),
        ({"models": {"a": 1}}, "invalid_type"),
        ({"idempotency_key": "k" * 256}, "invalid_value"),
        ({"idempotency_key": "k\r\n"}, "invalid_value"),
        ({"amount": "1"}, None),
        ({"lifetimes": 60}, "unsupported_parameter"),
    ],
)
async def test_what_is_no_budget_makes_no_key_and_is_told_in_words(
    door: Door, arguments: Json, code: str | None
) -> None:
    account_id = await door.account("5")
    top = await minter(door, account_id)
    if code is not None:
        error = await refused(door, "create_budget", top, **(ASKED | arguments))
        assert error["code"] == code
        assert "`" in error["message"]
    assert len(await door.gateway.keys.list(account_id)) == 1


@each("amount_usd", ["0.5", 0.5, " 0.50 "])
@each("lifetime_s", [60, "60", 60.0])
async def test_arguments_are_taken_as_hosts_send_them(door: Door, amount_usd: Any, lifetime_s: Any) -> None:
    made = await create(door, await minter(door), amount_usd=amount_usd, lifetime_s=lifetime_s)
    assert made["budget"]["amount_usd"] == "0.50"
    assert 0 < made["expires_at"] - now_ms() // 1000 <= 60


async def test_it_lives_no_longer_than_its_maker(door: Door) -> None:
    top = await minter(door, expires_at_ms=now_ms() + 300_000)
    error = await refused(door, "create_budget", top, **ASKED)
    assert (error["code"], "`lifetime_s`" in error["message"]) == ("insufficient_permissions", True)
    assert (await create(door, top, lifetime_s=200))["expires_at"] <= now_ms() // 1000 + 200


async def test_of_keys_in_a_line_eight_have_budgets_by_whichever_door(door: Door) -> None:
    raw = await minter(door)
    for _ in range(7):
        raw = (await mint_over_http(door, raw, mint_over_mcp=True)).json()["key"]
    last = (await mint_over_http(door, raw, mint_over_mcp=True)).json()["key"]
    await create(door, raw)
    assert (await refused(door, "create_budget", last, **ASKED))["code"] == "conflict"


async def test_it_counts_as_a_listing_and_among_minted_keys(tmp_path: Path) -> None:
    limits = {"listing_requests_per_minute": 4, "minted_keys_per_minute": 2}
    async with open_door(tmp_path, limits=limits) as door:
        top = await minter(door)
        for _ in range(2):
            await create(door, top)
        error = await refused(door, "create_budget", top, **ASKED)
        assert (error["code"], error["retry_after_s"] > 0) == ("requests_per_minute", True)
        await refused(door, "end_budget", top, key_id="key_1")
        assert "4 " in (await refused(door, "end_budget", top, key_id="key_1"))["message"]


# Again


async def test_a_repeated_call_makes_nothing_again_and_tells_no_key(door: Door) -> None:
    account_id = await door.account("5")
    top = await minter(door, account_id)
    first = await create(door, top, idempotency_key="one", models=["free/tiny"], name="n")
    again = await create(door, top, idempotency_key="one", models=["free/tiny"], name="n")
    assert again == {name: value for name, value in first.items() if name != "key"}
    text = (await door.call("create_budget", top, **ASKED, idempotency_key="one", models=["free/tiny"], name="n")).text
    assert "cannot be shown again" in text
    assert first["key"] not in text
    for other in ({"amount_usd": "2"}, {"lifetime_s": 60}, {"name": "m"}, {"models": None}):
        arguments = ASKED | {"idempotency_key": "one", "models": ["free/tiny"], "name": "n"} | other
        assert (await refused(door, "create_budget", top, **arguments))["code"] == "idempotency_mismatch"
    assert len(await door.gateway.keys.list(account_id)) == 2


async def test_calls_of_another_key_are_no_repetitions(door: Door) -> None:
    account_id = await door.account("5")
    made = [await create(door, await minter(door, account_id), idempotency_key="one") for _ in range(2)]
    assert made[0]["key_id"] != made[1]["key_id"]


async def test_of_calls_at_once_one_makes_it(door: Door) -> None:
    account_id = await door.account("5")
    top = await minter(door, account_id)
    results = await asyncio.gather(*[door.call("create_budget", top, **ASKED, idempotency_key="x") for _ in range(5)])
    told = [one.json()["result"]["structuredContent"] for one in results]
    assert len([one for one in told if "key" in one]) == 1
    assert all(one.get("code", "conflict") == "conflict" for one in told)
    assert len(await door.gateway.keys.list(account_id)) == 2


async def test_the_new_keys_text_stands_in_no_file_and_no_log_line(tmp_path: Path) -> None:
    with lines_logged(logging.DEBUG) as lines:
        async with open_door(tmp_path) as door:
            made = await create(door, await minter(door), idempotency_key="one")
            secret = made["key"].removeprefix("gw_live_")[4:]
            kept = await door.kept()
            assert secret.encode() not in kept
            assert made["key_id"].encode() in kept
    assert lines
    assert not any(secret in line for line in lines)


# The end


async def test_it_ends_what_it_made_and_no_others_and_so_does_its_maker(door: Door) -> None:
    account_id = await door.account("5")
    top, sibling = [await minter(door, account_id) for _ in range(2)]
    of_top, of_sibling = await create(door, top), await create(door, sibling)
    plain = (await mint_over_http(door, top, budgets=[])).json()
    below_of = (await mint_over_http(door, top, mint_over_mcp=True)).json()
    below = await create(door, below_of["key"])
    own_id = (await found(door, top)).id
    for key_id in (of_sibling["key_id"], own_id, plain["id"], below["key_id"], "key_1", of_top["budget"]["id"], "x\ny"):
        error = await refused(door, "end_budget", top, key_id=key_id)
        assert error["code"] == "not_found"
    ended = await call(door, "end_budget", top, key_id=of_top["key_id"])
    assert ended == {
        "key_id": of_top["key_id"], "made_ended": 0, "budgets": [of_top["budget"]],
    }  # fmt: skip
    assert await code_of(door, of_top["key"]) == "revoked_api_key"
    with_made = await call(door, "end_budget", top, key_id=f" {below_of['id']} ")
    assert with_made["made_ended"] == 1
    keys = (below_of["key"], below["key"], of_sibling["key"], plain["key"], top)
    assert [await code_of(door, key) for key in keys] == ["revoked_api_key"] * 2 + [None] * 3
    again = await call(door, "end_budget", top, key_id=of_top["key_id"])
    assert again == {"key_id": of_top["key_id"], "made_ended": 0, "budgets": []}
    held = {one.budget.holder for one in await door.gateway.ledger.budgets(account_id)}
    assert held == {of_sibling["key_id"]}


async def test_another_accounts_key_is_not_found(door: Door) -> None:
    made = await create(door, await minter(door))
    assert (await refused(door, "end_budget", await minter(door), key_id=made["key_id"]))["code"] == "not_found"
    assert await code_of(door, made["key"]) is None


# The tree


async def bound(
    door: Door, account_id: str, holder: str, window: BudgetWindow = "day", group: BudgetGroup | None = None
) -> str:
    budget = Budget(new_id("bud"), account_id, holder, 10**9, window)
    await door.gateway.ledger._store.write(MakeBudgets((budget,), group))
    return budget.id


async def spend(door: Door, account_id: str, amount_nano: int, *holders: str) -> None:
    ledger = door.gateway.ledger
    hold = await ledger.hold(new_id("req"), account_id, 1, amount_nano, frozenset(holders))
    await ledger.settle(hold, amount_nano, None)


async def test_the_balance_tells_the_callers_part_of_the_tree(door: Door) -> None:
    account_id = await door.account("5")
    group = BudgetGroup(new_id("grp"), account_id, "agents")
    of_group = await bound(door, account_id, group.id, group=group)
    top = await minter(door, account_id, group="agents")
    sibling = await minter(door, account_id)
    own_id = (await found(door, top)).id
    of_account, of_top = await bound(door, account_id, account_id), await bound(door, account_id, own_id, "total")
    first = await create(door, top, name="first")
    second = (await mint_over_http(door, top, mint_over_mcp=True, name="second")).json()
    below, beside = await create(door, second["key"]), await create(door, sibling)
    await spend(door, account_id, 10**8, own_id, first["key_id"])
    told = await call(door, "get_balance", top)
    assert {one["id"]: (one["whose"], one["left_usd"]) for one in told["budgets"]} == {
        of_group: ("group", "1.00"), of_account: ("account", "0.90"), of_top: ("key", "0.90"),
    }  # fmt: skip
    assert [one["left_usd"] for one in told["budgets"]] == ["0.90", "0.90", "1.00"]
    assert [(one["key_id"], one.get("name")) for one in told["made"]] == [
        (second["id"], "second"), (first["key_id"], "first"),
    ]  # fmt: skip
    assert [one["budgets"][0]["spent_usd"] for one in told["made"]] == ["0.00", "0.10"]
    of_child = await call(door, "get_balance", second["key"])
    assert {one["whose"] for one in of_child["budgets"]} == {"key", "maker", "group", "account"}
    assert [one["key_id"] for one in of_child["made"]] == [below["key_id"]]
    of_leaf = await call(door, "get_balance", below["key"])
    assert "made" not in of_leaf
    assert sorted(one["whose"] for one in of_leaf["budgets"]) == ["account", "group", "key", "maker", "maker"]
    for other in (of_child, of_leaf):
        assert first["key_id"] not in str(other)
        assert beside["key_id"] not in str(other)
    text = (await door.call("get_balance", top)).json()["result"]["content"][0]["text"]
    assert f"0.90 USD left of 1.00 USD in all ({of_top})" in text
    assert f"{first['key_id']} 'first'" in text


async def test_of_many_the_newest_are_told_and_a_count_of_the_rest(door: Door) -> None:
    account_id = await door.account("5")
    top = await minter(door, account_id)
    own_id = (await found(door, top)).id
    made = [await create(door, top, name=f"n{number}") for number in range(23)]
    for _ in range(21):
        await bound(door, account_id, own_id)
    told = await call(door, "get_balance", top)
    assert [one["key_id"] for one in told["made"]] == [one["key_id"] for one in reversed(made)][:20]
    assert (told["made_untold"], len(told["budgets"]), told["budgets_untold"]) == (3, 20, 1)
    await call(door, "end_budget", top, key_id=made[-1]["key_id"])
    told = await call(door, "get_balance", top)
    assert (told["made"][0]["key_id"], told["made_untold"]) == (made[-2]["key_id"], 2)
    assert len(orjson.dumps(told)) < 32_000


@each("key", ["usual", "test", "guest"])
async def test_who_has_no_budgets_is_told_of_none(door: Door, key: str) -> None:
    raw = None if key == "guest" else await door.key(is_test=key == "test")
    told = await call(door, "get_balance", raw)
    assert not {"budgets", "made", "budgets_untold", "made_untold"} & told.keys()
