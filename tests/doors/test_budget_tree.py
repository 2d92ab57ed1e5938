"""Two hundred at once on keys in a line of four, with leases and shared budgets: each key has its part and no more."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.money import format_usd
from tests.replaying import ReplayingBackend, held
from tests.serving import WORST, Door, bearer, error_of, open_door
from tests.stage import CREDIT_NANO, PRICED, Stage, cost_nano, staged
from tests.surfaces import CHAT_SPOKEN, answers

pytestmark = pytest.mark.gateways
COST_NANO = cost_nano(9, 3)
AFFORDS = 60
BUDGETS: dict[str, tuple[str, list[tuple[int, str, bool]]]] = {
    "a": ("top", [(24, "total", True), (40, "month", False)]),
    "aa": ("a", [(10, "total", True)]),
    "aaa": ("aa", [(5, "day", False)]),
    "aaaa": ("aaa", [(3, "total", True)]),
    "b": ("top", [(15, "total", False), (12, "week", False)]),
    "bb": ("b", [(6, "total", True)]),
}
"""By the key that made each: budgets that are worth so many requests, in which window, and whether it is a lease."""
RACERS = {"top": 60, "a": 40, "aa": 30, "aaa": 20, "aaaa": 15, "b": 20, "bb": 15}


class Tree:
    """An account that affords so many requests, and keys by their names."""

    def __init__(self, stage: Stage, worst_nano: int) -> None:
        self.stage = stage
        self.worst_nano = worst_nano
        self.keys = {"top": stage.key}
        self.ids: dict[str, str] = {}
        self.told: list[str] = []
        """What each answer said that it cost."""

    async def grow(self) -> None:
        for name, (maker, budgets) in BUDGETS.items():
            wanted = [
                {"amount_usd": format_usd(worth * self.worst_nano), "window": window, "lease": is_lease}
                for worth, window, is_lease in budgets
            ]
            asked = {"budgets": wanted, "expires_in_s": 600 - len(self.ids)}
            made = await self.stage.door.http.post("/v1/keys", json=asked, headers=bearer(self.keys[maker]))
            assert made.status_code == 201, made.text
            self.keys[name], self.ids[name] = made.json()["key"], made.json()["id"]

    async def race(self, refused: Callable[[], None], *between: Awaitable[object]) -> dict[str, Counter[str]]:
        """By key, how often it got which code; `200` for an answer. `between` is awaited beside them."""
        codes: dict[str, Counter[str]] = {name: Counter() for name in self.keys}

        async def ask(http: httpx2.AsyncClient, name: str) -> None:
            body, headers = orjson.dumps(CHAT_SPOKEN.body()), bearer(self.keys[name]) | CHAT_SPOKEN.sent_headers
            answer = await http.post(CHAT_SPOKEN.path, content=body, headers=headers)
            if answer.status_code == 200:
                self.told.append(CHAT_SPOKEN.cost_in(answer))
                codes[name]["200"] += 1
            else:
                codes[name][str(error_of(answer)["code"])] += 1
                refused()

        limits = httpx2.Limits(max_connections=sum(RACERS.values()))
        async with httpx2.AsyncClient(base_url=self.stage.door.url, timeout=60, limits=limits) as http:
            racers = [ask(http, name) for name, many in RACERS.items() for _ in range(many)]
            await asyncio.gather(*racers[::2], *racers[1::2], *between)
        return codes

    async def end(self, name: str) -> None:
        answer = await self.stage.door.http.delete(f"/v1/keys/{self.ids[name]}", headers=bearer(self.keys["top"]))
        assert answer.status_code == 200, answer.text

    async def told_is_recorded_is_billed(self) -> int:
        """Returns nano-USD."""
        records = [record["cost_nano"] for record in await self.stage.records() if record["http_status"] == 200]
        (billed,) = await self.stage.door.rows(
            "SELECT SUM(revenue_nano) FROM ledger_transactions WHERE account_id = ?", self.stage.account_id
        )
        assert Counter(map(format_usd, records)) == Counter(self.told)
        assert sum(records) == billed[0]
        return sum(records)


@pytest_asyncio.fixture
async def tree(tmp_path: Path) -> AsyncIterator[Tree]:
    settings: dict[str, Any] = {"models": [PRICED], "wallet": WORST | {"hold_wait_s": 0}}
    async with ReplayingBackend() as backend, open_door(tmp_path, vllm_urls=[backend.url], **settings) as door:
        rich = await staged(door, backend, CREDIT_NANO)
        worst_nano = await rich.worst_nano(CHAT_SPOKEN)
        backend.answer_with()
        tree = Tree(await rich.credited(AFFORDS * worst_nano), worst_nano)
        await tree.grow()
        yield tree


async def balance(door: Door, key: str) -> tuple[str, str, str]:
    told = (await door.get("/v1/billing", key)).json()
    return told["balance_usd"], told["held_usd"], told["leased_usd"]


async def test_two_hundred_at_once_get_what_their_key_may_spend_and_the_rest_returns(tree: Tree) -> None:
    stage, are_decided = tree.stage, asyncio.Event()
    refusals: list[None] = []

    def refused() -> None:
        refusals.append(None)
        if len(refusals) == sum(RACERS.values()) - AFFORDS:
            are_decided.set()

    stage.backend.standing = held(are_decided, answers(CHAT_SPOKEN, 9, 3))
    codes = await tree.race(refused)
    assert {code for of_key in codes.values() for code in of_key} == {"200", "balance_held"}
    served = {name: of_key["200"] for name, of_key in codes.items()}
    assert (served["aaaa"], served["bb"], served["a"]) == (3, 6, 14)
    assert (served["aa"] + served["aaa"], served["top"] + served["b"]) == (7, 30)
    assert max(served["aaa"] - 2, served["b"] - 6) <= 0
    billed_nano = await tree.told_is_recorded_is_billed()
    assert billed_nano == AFFORDS * COST_NANO
    for name in ("a", "b"):
        await tree.end(name)
    left_nano = AFFORDS * tree.worst_nano - billed_nano
    assert await balance(stage.door, stage.key) == (format_usd(left_nano), "0.00", "0.00")
    await stage.is_left_with(left_nano)


async def test_keys_that_end_under_load_give_back_exactly_what_was_not_billed(tree: Tree) -> None:
    stage = tree.stage
    stage.backend.standing = answers(CHAT_SPOKEN, 9, 3)
    ends = [tree.end("aaaa"), tree.end("bb"), tree.end("aa")]
    codes = await tree.race(lambda: None, *ends)
    allowed = {"200", "balance_held", "budget_exhausted", "insufficient_balance", "revoked_api_key"}
    assert {code for of_key in codes.values() for code in of_key} <= allowed
    assert sum(of_key["200"] for of_key in codes.values()) >= 1
    billed_nano = await tree.told_is_recorded_is_billed()
    for name in ("a", "b"):
        await tree.end(name)
    left_nano = AFFORDS * tree.worst_nano - billed_nano
    assert await balance(stage.door, stage.key) == (format_usd(left_nano), "0.00", "0.00")
    await stage.is_left_with(left_nano)
