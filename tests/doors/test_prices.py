"""What a price can say, at the door: caches, fees, images, long prompts are quoted, held, billed, told and recorded."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.money import format_usd
from tests.captured import captured
from tests.replaying import DONE, Answer, ReplayingBackend, chunk, events, whole
from tests.serving import WORST, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL: dict[str, Any] = {
    "id": "whole/tiny",
    "backend_model": "tiny",
    "context_window": 2048,
    "input_modalities": ["text", "image"],
    "pricing": {
        "per_million": True, "prompt": "1", "completion": "3", "cached_prompt": "0.1", "cache_write": "1.25",
        "request": "0.00001", "image": "0.002",
        "tiers": [{"above_prompt_tokens": 1000, "prompt": "2", "completion": "6", "cached_prompt": "0.5"}],
    },
}  # fmt: skip
REQUEST_NANO, IMAGE_NANO = 10_000, 2_000_000
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@dataclass
class Priced:
    door: Door
    backend: ReplayingBackend

    async def ask(self, credit_nano: int, answer: Answer, **fields: Any) -> tuple[httpx2.Response, str, str]:
        """A new account's answer, with its id and its key."""
        account_id = await self.door.account(format_usd(credit_nano))
        key = await self.door.key(account_id)
        self.backend.answer_with(answer)
        answered = await self.door.chat(key, model=MODEL["id"], **fields)
        await self.door.nothing_is_left()
        return answered, account_id, key

    async def cost_nano(self, answer: Answer, **fields: Any) -> int:
        """What such an answer costs: told, recorded and taken from the wallet."""
        credit_nano = 10**9
        answered, account_id, key = await self.ask(credit_nano, answer, **fields)
        assert answered.status_code == 200, answered.text
        row = (await self.door.get(f"/v1/requests/{answered.headers['x-request-id']}", key)).json()
        billed_nano = credit_nano - await self.door.balance_nano(account_id)
        assert row["cost_usd"] == format_usd(billed_nano)
        if not fields.get("stream"):
            assert answered.headers["x-cost-usd"] == format_usd(billed_nano)
        return billed_nano


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def priced(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Priced]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("prices"), vllm_urls=[backend.url], models=[MODEL], enable_vision=True, wallet=WORST
        ) as door,
    ):
        yield Priced(door, backend)


def used(prompt: int, completion: int, *, is_stream: bool = False, **details: int | None) -> Answer:
    usage = {
        "prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion,
        "prompt_tokens_details": details or None,
    }  # fmt: skip
    if is_stream:
        last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": []}
        told = b"data: " + orjson.dumps(last | {"usage": usage}) + b"\n\n"
        return events(chunk("", prompt, 0), chunk("x", prompt, completion, "stop"), told, DONE)
    return whole(orjson.dumps(orjson.loads(captured("100_chat").body) | {"usage": usage}))


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "completion", "details", "nano"),
    [
        (100, 10, {}, 100_000 + 30_000),
        (100, 10, {"cached_tokens": 0}, 100_000 + 30_000),
        (100, 10, {"cached_tokens": 40}, 60_000 + 4_000 + 30_000),
        (100, 10, {"cached_tokens": 100}, 10_000 + 30_000),
        (100, 10, {"cached_tokens": 40, "cache_write_tokens": 20}, 40_000 + 4_000 + 25_000 + 30_000),
        (1000, 10, {}, 1_000_000 + 30_000),
        (1001, 10, {}, 2_002_000 + 60_000),
        (1001, 10, {"cached_tokens": 1000}, 2_000 + 500_000 + 60_000),
    ],
)
async def test_an_answer_is_billed_by_what_a_cache_had_and_by_the_length_of_its_prompt(
    priced: Priced, prompt: int, completion: int, details: dict[str, int], nano: int, is_stream: bool
) -> None:
    answer = used(prompt, completion, is_stream=is_stream, **details)
    long = [{"role": "user", "content": "x" * 2048}]
    assert await priced.cost_nano(answer, messages=long, stream=is_stream) == nano + REQUEST_NANO


async def test_images_and_what_was_written_to_a_cache_are_recorded_with_the_request(priced: Priced) -> None:
    content = [{"type": "text", "text": "two"}, PICTURE, PICTURE]
    answered, account_id, key = await priced.ask(
        10**9, used(100, 10, cache_write_tokens=20), messages=[{"role": "user", "content": content}]
    )
    assert answered.status_code == 200, answered.text
    row = (await priced.door.get(f"/v1/requests/{answered.headers['x-request-id']}", key)).json()
    assert (row["images"], row["cache_write_tokens"], row["cached_tokens"]) == (2, 20, None)
    assert row["price_version"] == (
        "1000000/3000000/cached=100000/write=1250000>1000=2000000/6000000/cached=500000+request=10000000+image=2000000000"
    )
    nano = 80_000 + 25_000 + 30_000 + REQUEST_NANO + 2 * IMAGE_NANO
    assert await priced.door.balance_nano(account_id) == 10**9 - nano
    assert answered.json()["usage"]["prompt_tokens_details"] == {"cache_write_tokens": 20}


async def test_an_answer_that_nothing_was_used_for_pays_no_fee(priced: Priced) -> None:
    assert await priced.cost_nano(used(0, 0)) == 0


async def test_the_dearest_that_may_apply_is_held_for(priced: Priced) -> None:
    """The bytes of the prompt may be as many tokens, which its tier would make the dearer ones."""
    long = [{"role": "user", "content": "x" * 1990}]
    prompt = 2048
    worst_nano = prompt * 2_000 + 16 * 6_000 + REQUEST_NANO
    fields = {"messages": long, "max_tokens": 16}
    refused, account_id, _ = await priced.ask(worst_nano - 1, used(1, 1), **fields)
    assert refused.status_code == 402
    served, account_id, _ = await priced.ask(worst_nano, used(prompt, 16), **fields)
    assert served.status_code == 200
    assert await priced.door.balance_nano(account_id) == 0


async def test_a_wallet_that_affords_less_lowers_the_limit_by_the_dearest_rate(priced: Priced) -> None:
    long = [{"role": "user", "content": "x" * 1990}]
    credit_nano = 2048 * 2_000 + 20 * 6_000 + REQUEST_NANO + 5_999
    served, account_id, _ = await priced.ask(credit_nano, used(2048, 20), messages=long, max_tokens=100)
    assert served.headers["x-max-tokens-clamped"] == "20"
    assert await priced.door.balance_nano(account_id) == 5_999


async def test_both_doors_list_all_that_a_price_says(priced: Priced) -> None:
    (model,) = [row for row in (await priced.door.get("/v1/models")).json()["data"] if row["id"] == MODEL["id"]]
    assert model["pricing"] == {
        "prompt": "0.000001", "completion": "0.000003", "input_cache_read": "0.0000001",
        "input_cache_write": "0.00000125", "request": "0.00001", "image": "0.002",
        "tiers": [{
            "above_prompt_tokens": 1000, "prompt": "0.000002", "completion": "0.000006",
            "input_cache_read": "0.0000005",
        }],
    }  # fmt: skip
    told = (await priced.door.call("list_models")).json()["result"]
    (row,) = [row for row in told["structuredContent"]["models"] if row["id"] == MODEL["id"]]
    assert {name: value for name, value in row.items() if "usd" in name or name == "tiers"} == {
        "input_usd_per_million_tokens": "1", "output_usd_per_million_tokens": "3",
        "cached_input_usd_per_million_tokens": "0.1", "cache_write_usd_per_million_tokens": "1.25",
        "usd_per_request": "0.00001", "usd_per_image": "0.002",
        "tiers": [{
            "above_prompt_tokens": 1000, "input_usd_per_million_tokens": "2", "output_usd_per_million_tokens": "6",
            "cached_input_usd_per_million_tokens": "0.5",
        }],
    }  # fmt: skip
    (text,) = [line for line in told["content"][0]["text"].splitlines() if line.startswith(MODEL["id"])]
    assert "1 in, 3 out, 0.00001 a request, 0.002 an image, other rates above 1000 prompt tokens;" in text
