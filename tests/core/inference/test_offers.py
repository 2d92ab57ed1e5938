"""A model with several offers: each is asked by its own name, and whichever answers is billed at its own price."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from mcp_gateway.core.catalog import DEMO, VLLM, Catalog, Offer
from mcp_gateway.core.config import WalletSettings
from mcp_gateway.core.dialects.dialect import Targets
from mcp_gateway.core.dialects.vllm import Vllm
from mcp_gateway.core.prices import FREE, Price
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.completions import COMPLETIONS
from tests.core.test_chat import Stage, open_stage, read_frames, request
from tests.patience import eventually
from tests.quoting import quote_of
from tests.replaying import ReplayingBackend, events, held, stream, unary, whole
from tests.serving import PRICED

LARGE = Offer(VLLM, "large", Price(900_000, 300_000))
SMALL = Offer(VLLM, "small", Price(100_000, 700_000))
DEMO_ECHO = Offer(DEMO, "demo/echo", Price(1_000_000, 0))
BROKEN = whole(b"{}", 500)


@pytest.fixture
async def two_offers(tmp_path: Path) -> AsyncIterator[Stage]:
    """One backend that has the model by two names, of which the larger is asked first."""
    async with (
        ReplayingBackend("large", "small") as backend,
        open_stage(tmp_path, backend, models=[PRICED | {"backend_model": "large"}]) as stage,
    ):
        offer(stage, LARGE, SMALL)
        yield stage


def offer(stage: Stage, *offers: Offer) -> None:
    published = stage.gateway.published
    published.replace(Catalog([replace(published.current["priced/tiny"], offers=offers)]))


async def test_the_first_offer_is_asked_and_billed(two_offers: Stage) -> None:
    two_offers.backend.answer_with(unary(10, 4))
    with await two_offers.exchange() as exchange:
        await exchange.begin(request())
    assert [asked.json["model"] for asked in two_offers.backend.chats] == ["large"]
    await two_offers.is_accounted_for(10 * 900 + 4 * 300, None)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_what_the_next_offer_answers_is_asked_by_its_name_and_costs_its_price(
    two_offers: Stage, is_stream: bool
) -> None:
    two_offers.backend.answer_with(BROKEN, events(*stream(10, 4)) if is_stream else unary(10, 4))
    with await two_offers.exchange() as exchange:
        await exchange.begin(request(stream=is_stream))
        told = b"".join([frames async for frames in read_frames(exchange)]) if is_stream else exchange.body
    assert [asked.json["model"] for asked in two_offers.backend.chats] == ["large", "small"]
    assert b'"priced/tiny"' in told
    await two_offers.is_accounted_for(10 * 100 + 4 * 700, None)


async def test_an_offer_at_another_source_answers_where_the_first_cannot_be_asked(two_offers: Stage) -> None:
    offer(two_offers, replace(LARGE, name="gone"), DEMO_ECHO)
    with await two_offers.exchange() as exchange:
        await exchange.begin(request())
        answer = orjson.loads(exchange.body)
    assert answer["model"] == "priced/tiny"
    assert two_offers.backend.chats == []
    await two_offers.is_accounted_for(answer["usage"]["prompt_tokens"] * 1000, None)


async def test_the_hold_covers_whichever_offer_answers(two_offers: Stage) -> None:
    gate, ask = asyncio.Event(), request(max_tokens=10)
    two_offers.backend.answer_with(held(gate, unary(10, 4)))
    (model,) = two_offers.gateway.published.current.values()
    with await two_offers.exchange() as exchange:
        asking = asyncio.ensure_future(exchange.begin(ask))
        await eventually(lambda: two_offers.backend.chats)
        balance = await two_offers.gateway.ledger.balance(two_offers.caller.account_id)
        gate.set()
        await asking
    assert balance.held_nano == quote_of(model, Price(900_000, 700_000), ask, WalletSettings()).maximum_nano


def test_a_target_is_made_once_for_an_offer_a_surface_and_a_name() -> None:
    dialect = Vllm()
    targets = Targets({VLLM: dialect, DEMO: dialect})
    made = targets.at(LARGE, CHAT, "a")
    assert (made.backend_model, made.public_model, made.translation.path) == ("large", "a", "/v1/chat/completions")
    assert targets.at(replace(LARGE, price=FREE), CHAT, "a") is made
    others = [targets.at(LARGE, CHAT, "b"), targets.at(LARGE, COMPLETIONS, "a"), targets.at(SMALL, CHAT, "a")]
    assert all(other != made for other in others)


def test_not_more_targets_are_kept_than_there_are_names_in_use() -> None:
    targets = Targets({VLLM: Vllm()})
    first = targets.at(LARGE, CHAT, "0")
    for number in range(5000):
        targets.at(LARGE, CHAT, str(number))
    assert len(targets._made) < 5000
    assert targets.at(LARGE, CHAT, "0") == first
