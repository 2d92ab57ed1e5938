"""One slice of output after the other is held for a stream, by a real ledger: never less than what has come costs."""

from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.running_hold import RunningHold
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.prices import Price, Rates, Tier
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.surfaces.usage import Usage
from tests.cases import each
from tests.clocks import MsClock
from tests.databases import open_store

PROMPT, LIMIT = 100, 32_000
PLAIN = Price(1000, 2000)
PRICES = [
    PLAIN,
    Price(301_007, 703_001),
    Price(1000, 2000, request_pico=5_000_000, image_pico=700_001),
    Price(1000, 2000, cached_pico=100, cache_write_pico=1250, margin=333),
    Price(1000, 2000, tiers=(Tier(90, Rates(2000, 6000, 500)), Tier(200, Rates(1, 1)))),
]
TINY = Price(0, 7)
"""A nano-USD pays for many of its tokens."""
SLICES = [512, 1537, 3586, 7683, 15_876, 24_069, LIMIT]
"""What is covered by the first slice of 512 tokens, and with each behind it, of twice as many up to 8192."""
IMAGES = 2


class Stage:
    """Accounts with exactly so much, and requests of theirs that hold a prompt and a first slice."""

    def __init__(self, ledger: Ledger, account_id: str) -> None:
        self.ledger = ledger
        self.account_id = account_id
        self._requests = 0

    async def begun(
        self, credit_nano: int, price: Price = PLAIN, *, prompt: int = PROMPT, limit: int = LIMIT, useful: int = 1
    ) -> RunningHold:
        """A request's, with a wallet that has so much free; what earlier ones held is free, too."""
        ledger = self.ledger
        if self._requests:
            ledger.release(f"req_{self._requests}")
        self._requests += 1
        free_nano = await self.free_nano()
        if credit_nano != free_nano:
            await ledger.adjust(self.account_id, credit_nano - free_nano, f"for {self._requests}")
        running = RunningHold(ledger, price, IMAGES, prompt, limit)
        least_nano, most_nano = running.least_nano(useful), running.first_nano
        running.begin(await ledger.hold(f"req_{self._requests}", self.account_id, least_nano, most_nano))
        return running

    async def free_nano(self) -> int:
        return (await self.ledger.balance(self.account_id)).spendable_nano

    async def held_nano(self) -> int:
        return (await self.ledger.balance(self.account_id)).held_nano


@pytest.fixture
async def stage(ledger: Ledger, account: str) -> AsyncIterator[Stage]:
    yield Stage(ledger, account)
    assert await ledger.check() == []


def is_covered(running: RunningHold, price: Price, tokens: int) -> bool:
    """Whether it tells so many as covered, or as many more or less as the rounding of a cost may hide."""
    hidden = 1000 // max(1, price.most_rates(running.prompt_tokens).completion_pico) + 1
    return tokens - hidden <= running.output_tokens <= tokens + hidden


def most_nano(price: Price, prompt_tokens: int, output_tokens: int) -> int:
    return price.most_nano(prompt_tokens, output_tokens, IMAGES)


# Before the backend is asked


@each(("limit", "first_tokens"), [(32_000, 512), (513, 512), (512, 512), (511, 511), (1, 1)])
@each("price", [*PRICES, TINY])
async def test_at_first_the_prompt_and_a_slice_are_held(
    stage: Stage, price: Price, limit: int, first_tokens: int
) -> None:
    running = await stage.begun(10**12, price, limit=limit)
    assert await stage.held_nano() == most_nano(price, PROMPT, first_tokens)
    assert is_covered(running, price, first_tokens)


@each(("useful", "limit", "least_tokens"), [(16, 32_000, 16), (16, 16, 16), (16, 3, 3), (1, 32_000, 1)])
@each("price", [*PRICES, TINY])
async def test_less_than_a_useful_answer_is_not_begun(
    stage: Stage, price: Price, useful: int, limit: int, least_tokens: int
) -> None:
    least_nano = most_nano(price, PROMPT, least_tokens)
    running = await stage.begun(least_nano, price, limit=limit, useful=useful)
    assert await stage.free_nano() == 0
    assert is_covered(running, price, least_tokens)
    with pytest.raises(GatewayError, match="insufficient_balance"):
        await stage.begun(least_nano - 1, price, limit=limit, useful=useful)


# As the answer comes


@each("price", PRICES)
async def test_slices_are_twice_as_large_each_time_up_to_the_largest_and_the_limit(stage: Stage, price: Price) -> None:
    running = await stage.begun(10**12, price)
    for covered, following in pairwise(SLICES):
        for output_tokens, held_for in ((covered - 1, covered), (covered, covered), (covered + 1, following)):
            assert await running.covers(Usage(PROMPT, output_tokens))
            assert await stage.held_nano() == most_nano(price, PROMPT, held_for)
    assert await running.covers(Usage(PROMPT, LIMIT))
    assert running.ended_by is None


@each(("came", "covered"), [(512, 512), (513, 1537), (5000, 6024), (31_500, 32_000), (40_000, 40_000)])
async def test_what_comes_at_once_is_covered_with_a_slice_behind_it(stage: Stage, came: int, covered: int) -> None:
    running = await stage.begun(10**12)
    assert await running.covers(Usage(PROMPT, came))
    assert await stage.held_nano() == most_nano(PLAIN, PROMPT, covered)


@each("price", [*PRICES, TINY])
@each("affordable", [1, 2, 511, 512, 513, 1536, 1537, 1538, 4000])
async def test_where_the_money_ends_all_is_covered_that_it_pays_for_and_not_a_token_more(
    stage: Stage, price: Price, affordable: int
) -> None:
    credit_nano = most_nano(price, PROMPT, affordable)
    running = await stage.begun(credit_nano, price)
    costs = [price.cost_nano(PROMPT, affordable + more, images=IMAGES) for more in range(1, 200)]
    pays_for = affordable + sum(cost <= credit_nano for cost in costs)
    for output_tokens in range(max(0, pays_for - 3), pays_for + 1):
        assert await running.covers(Usage(PROMPT, output_tokens))
    assert running.ended_by is None
    assert not await running.covers(Usage(PROMPT, pays_for + 1))
    assert running.ended_by == "balance"
    assert await stage.held_nano() == credit_nano


async def test_an_answer_that_costs_nothing_is_covered_whole_by_what_its_prompt_costs(stage: Stage) -> None:
    price = Price(1000, 0)
    running = await stage.begun(PROMPT, price)
    assert running.output_tokens == LIMIT
    for output_tokens in (0, 1, 513, LIMIT):
        assert await running.covers(Usage(PROMPT, output_tokens))
    assert await stage.held_nano() == PROMPT


async def test_what_comes_free_meanwhile_is_there_for_the_next_slice(stage: Stage) -> None:
    running = await stage.begun(most_nano(PLAIN, PROMPT, 512))
    await stage.ledger.credit(stage.account_id, 2000, "beside")
    beside = await stage.ledger.hold("req_beside", stage.account_id, 2000, 2000)
    assert not await running.covers(Usage(PROMPT, 513))
    stage.ledger.release(beside.request_id)
    assert await running.covers(Usage(PROMPT, 513))
    assert running.output_tokens == 512 + 1000


async def test_what_another_process_added_is_read_before_an_answer_is_cut(
    stage: Stage, database: Path, clock: MsClock
) -> None:
    running = await stage.begun(most_nano(PLAIN, PROMPT, 512))
    other = await open_store(database, now_ms=clock)
    await Ledger(other).credit(stage.account_id, 10**6, "from elsewhere")
    await other.close()
    assert await running.covers(Usage(PROMPT, 513))
    assert (running.output_tokens, running.ended_by) == (1537, None)


async def test_within_what_is_covered_nothing_is_asked_of_the_ledger(
    stage: Stage, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would be once for each frame."""
    running = await stage.begun(10**12)
    asked: list[int] = []
    resize = stage.ledger.resize

    async def counted(*arguments: object) -> bool:
        asked.append(1)
        return await resize(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stage.ledger, "resize", counted)
    for output_tokens in range(5000):
        assert await running.covers(Usage(PROMPT, output_tokens))
    assert len(asked) == sum(1 for covered in SLICES if covered < 5000)


# What the first frame tells of the prompt


@each("price", PRICES)
@each("told", [0, 1, 40, 90, 91, 99, 101, 150, 200, 201, 5000])
async def test_the_prompt_is_held_as_the_stream_tells_it_and_the_slice_beside_it(
    stage: Stage, price: Price, told: int
) -> None:
    running = await stage.begun(10**12, price)
    assert await running.covers(Usage(told, 0))
    assert await stage.held_nano() == most_nano(price, told, 512)
    assert running.prompt_tokens == told
    assert is_covered(running, price, 512)
    assert await running.covers(Usage(told, 513))
    assert await stage.held_nano() == most_nano(price, told, 1537)


@each(("told", "covered"), [(99, 512), (90, 517), (150, 487), (1000, 62), (1123, 0), (1124, 0)])
async def test_where_money_is_short_the_answer_has_what_the_prompt_leaves_or_takes(
    stage: Stage, told: int, covered: int
) -> None:
    credit_nano = most_nano(PLAIN, PROMPT, 512)
    running = await stage.begun(credit_nano)
    assert await running.covers(Usage(told, 0))
    assert running.ended_by is None
    for output_tokens in range(covered + 1):
        assert await running.covers(Usage(told, output_tokens))
    assert not await running.covers(Usage(told, covered + 1))
    assert await stage.held_nano() <= credit_nano


@each("price", PRICES[:2])
async def test_a_prompt_that_is_told_longer_than_its_account_can_pay_is_refused_and_nothing_is_held(
    stage: Stage, price: Price
) -> None:
    credit_nano = most_nano(price, PROMPT, 3)
    running = await stage.begun(credit_nano, price)
    longer = PROMPT + 100
    assert not await running.covers(Usage(longer, 1))
    refusal = running.refusal()
    assert (refusal.status, refusal.code) == (402, "insufficient_balance")
    assert f"may cost at least {format_usd(most_nano(price, longer, 1))} USD" in refusal.message
    assert refusal.details == {"balance_usd": format_usd(credit_nano), "held_usd": "0.00", "holding_requests": 0}
    assert running.ended_by is None
    assert await stage.ledger.balance(stage.account_id) == Balance(credit_nano)


async def test_it_is_told_to_come_again_where_other_requests_hold_what_it_lacks(stage: Stage) -> None:
    running = await stage.begun(most_nano(PLAIN, PROMPT, 3))
    await stage.ledger.credit(stage.account_id, 1000, "beside")
    await stage.ledger.hold("req_beside", stage.account_id, 1000, 1000)
    assert not await running.covers(Usage(PROMPT + 100, 0))
    refusal = running.refusal()
    assert (refusal.status, refusal.code, refusal.details["holding_requests"]) == (429, "balance_held", 1)
    assert await stage.held_nano() == 1000
