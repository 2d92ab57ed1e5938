"""The SDKs of OpenAI, Anthropic and Google as clients of providers behind the gateway, by another base URL alone."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import product
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.clients.installed import INSTALLED
from tests.clients.test_http_sdks import SDKS, Seen, made, ran, vendor
from tests.providers.anthropic_double import FRESH, Anthropic
from tests.providers.doubles import CACHED, OUTPUT, PROMPT, TEXT, Generic, OpenAi, serving
from tests.providers.google_native import PATHS, google_native, google_settings
from tests.providers.test_contract import ENVIRON, PRICES
from tests.providers.test_proxy import let_proxy
from tests.serving import Door, open_door

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

GOOGLE = "google_calls.py", INSTALLED / "google-sdk" / "bin" / "python"
FLAT_NANO = 10_000_000
SAID = "".join(TEXT)


class Base(NamedTuple):
    """Where an SDK is told that its API is, the model to ask there, and which tokens and call it is told."""

    path: str
    model: str
    tokens: tuple[int, int] = (PROMPT, OUTPUT)
    tool: str = "weather"


BASES = {
    "openai": [
        Base("/v1", "openai/m-1"),
        Base("/proxy/openai/v1", "m-1"),
    ],
    "anthropic": [
        Base("", "anthropic/m-1", (FRESH, OUTPUT), "get_weather"),
        Base("/proxy/anthropic", "m-1", (FRESH, OUTPUT), "get_weather"),
        Base("", "openai/m-1", (PROMPT - CACHED, OUTPUT)),
    ],
}
"""Of OpenAI's SDKs and of Anthropic's, whose words may go to a provider of chats."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    manners: dict[str, Generic] = {"openai": OpenAi(), "anthropic": Anthropic()}
    async with AsyncExitStack() as stack:
        doubles = {name: await stack.enter_async_context(serving(manner)) for name, manner in manners.items()}
        google = await stack.enter_async_context(google_native())
        prices = dict.fromkeys(PATHS, "0.01")
        providers = [
            *(double.settings(name, proxy=True) for name, double in doubles.items()),
            google_settings(google, proxy_prices=prices),
        ]
        models = [
            {"id": f"sold/{name}", "provider": name, "backend_model": "m-1", "context_window": 8000, "pricing": PRICES}
            for name in doubles
        ]
        folder = tmp_path_factory.mktemp("providers")
        yield await stack.enter_async_context(open_door(folder, environ=ENVIRON, providers=providers, models=models))


async def caller(door: Door) -> tuple[str, str]:
    """The account and the key of a caller that nobody was before."""
    account_id = await door.account("1")
    await let_proxy(door, account_id)
    return account_id, await door.key(account_id)


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_is_answered_by_a_provider_where_its_base_url_leads(door: Door, sdk: str) -> None:
    account_id, key = await caller(door)
    call = "chat" if vendor(sdk) == "openai" else "messages"
    table = list(product(BASES[vendor(sdk)], (False, True)))
    usual = {"call": call, "key": key, "text": "Hello", "images": [], "leaves": False, "retries": 0}
    calls: list[Seen] = [
        usual | {"url": door.url + base.path, "model": base.model, "stream": stream} for base, stream in table
    ]
    for (base, stream), seen in zip(table, await made(sdk, calls), strict=True):
        told = {"text": SAID, "tokens": list(base.tokens), "calls": [[base.tool, {"city": "Paris"}]]}
        assert seen == told, (base, stream)
    await door.nothing_is_left()
    rows = await door.rows("SELECT http_status, cost_nano FROM requests WHERE account_id = ?", account_id)
    assert len(rows) == 2 * len(table)  # the call of a tool, and the answer
    assert all(status == 200 and cost_nano > 0 for status, cost_nano in rows)


async def test_google_s_sdk_speaks_google_s_own_words_at_a_flat_price(door: Door) -> None:
    account_id, key = await caller(door)
    table = list(product(("chat", "tools", "count_tokens"), (False, True)))
    usual = {"url": f"{door.url}/proxy/google", "key": key, "model": "m-1", "text": "Hello"}
    told: dict[str, Seen] = {
        "chat": {"text": SAID, "tokens": [PROMPT, OUTPUT]},
        "tools": {
            "text": SAID, "tokens": [PROMPT, OUTPUT], "calls": [["get_weather", {"city": "Paris"}]],
        },
        "count_tokens": {"tokens": [PROMPT, 0]},
    }  # fmt: skip
    seen = await ran(*GOOGLE, [usual | {"call": call, "stream": stream} for call, stream in table])
    assert seen == [told[call] for call, _ in table]
    await door.nothing_is_left()
    rows = await door.rows("SELECT http_status, cost_nano FROM requests WHERE account_id = ?", account_id)
    assert rows == [(200, FLAT_NANO)] * (len(table) + 2)


async def test_google_s_sdk_knows_what_is_wrong_with_a_request(door: Door) -> None:
    _, key = await caller(door)
    usual = {"url": f"{door.url}/proxy/google", "call": "chat", "text": "Hello", "stream": False, "model": "m-1"}
    other = await door.key(await door.account("1"))
    assert await ran(*GOOGLE, [
        usual | {"key": key, "model": "no-such"},
        usual | {"key": "gw_live_wrong"},
        usual | {"key": other},
    ]) == [
        {"name": "ClientError", "status": 404},
        {"name": "ClientError", "status": 401},
        {"name": "ClientError", "status": 403},
    ]  # fmt: skip
