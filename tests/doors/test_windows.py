"""Windows that settings and backends tell, and what a chat template adds: what is refused, held and warned of."""

from itertools import product
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.money import format_usd
from tests.replaying import Asked, ReplayingBackend, events, stream, unary
from tests.serving import FREE, MESSAGES, PRICED, WORST, Door, chat_body, error_of, open_door

pytestmark = pytest.mark.gateways
WINDOW = 400


def narrow() -> dict[str, Any]:
    return PRICED | {"context_window": WINDOW}


def unconfigured() -> dict[str, Any]:
    return {name: value for name, value in PRICED.items() if name != "context_window"}


COUNTS = [
    (10, 10_000, 200, 0),
    (1000, WINDOW + 1, 400, 1),
    (1000, 10**14, 400, 1),
    (1000, WINDOW, 200, 1),
    (1000, None, 200, 1),
    (1000, -1, 200, 1),
]
"""Characters of a prompt, the tokens that a backend counts; the status, and how often it is asked for a count."""


async def ask_each_count(door: Door, *backends: ReplayingBackend) -> None:
    key = await door.key(credit="1")
    for (chars, counted, status, questions), is_stream in product(COUNTS, (False, True)):
        for backend in backends:
            backend.prompt_tokens = counted
            backend.answer_with()
        messages = [{"role": "user", "content": "x" * chars}]
        answer = await door.chat(key, model=PRICED["id"], messages=messages, max_tokens=16, stream=is_stream)
        assert answer.status_code == status
        if status == 400:
            assert error_of(answer)["code"] == "context_length_exceeded"
        assert sum(len(backend.counted) for backend in backends) == questions
        assert sum(len(backend.chats) for backend in backends) == (status == 200)
        await door.nothing_is_left()


async def test_a_prompt_that_may_exceed_the_configured_window_is_counted_and_refused_if_it_does(tmp_path: Path) -> None:
    async with (
        ReplayingBackend(max_model_len=4096) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[narrow()]) as door,
    ):
        await ask_each_count(door, backend)


@pytest.mark.parametrize("is_wide_first", [True, False])
async def test_where_backends_disagree_the_narrowest_window_is_kept_whoever_would_serve(
    tmp_path: Path, is_wide_first: bool
) -> None:
    """Otherwise it would depend on the route whether a prompt is refused."""
    async with ReplayingBackend(max_model_len=WINDOW) as narrow, ReplayingBackend(max_model_len=4096) as wide:
        urls = [backend.url for backend in ((wide, narrow) if is_wide_first else (narrow, wide))]
        async with open_door(tmp_path, vllm_urls=urls, models=[unconfigured()]) as door:
            assert (await door.get("/v1/models")).json()["data"][0]["context_window"] == WINDOW
            await ask_each_count(door, narrow, wide)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_each_backend_is_believed_up_to_its_own_window_or_the_configured_one(
    tmp_path: Path, is_stream: bool
) -> None:
    async with (
        ReplayingBackend(max_model_len=WINDOW) as narrow,
        ReplayingBackend(max_model_len=4096) as wide,
        open_door(tmp_path, vllm_urls=[narrow.url, wide.url], models=[unconfigured()]) as door,
    ):
        for answering, other, is_believed in ((narrow, 1, False), (wide, 0, True)):
            answering.answer_with(events(*stream(3000, 16)) if is_stream else unary(3000, 16))
            door.gateway.pool.backends[other].lost("elsewhere")
            account = await door.account("1")
            answer = await door.chat(await door.key(account), model=PRICED["id"], max_tokens=16, stream=is_stream)
            assert answer.status_code == 200
            spent_nano = 10**9 - await door.balance_nano(account)
            assert (spent_nano == 3000 * 300 + 16 * 700) == is_believed
            await door.gateway.pool.discover()


@pytest.mark.parametrize(("counted", "status"), [(WINDOW + 1, 400), (WINDOW, 200), (None, 200)])
async def test_a_count_bounds_no_image_so_that_one_is_held_for_and_billed_beyond_the_configured_window(
    tmp_path: Path, counted: int | None, status: int
) -> None:
    seeing = narrow() | {"input_modalities": ["text", "image"]}
    async with (
        ReplayingBackend(max_model_len=4096) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[seeing], enable_vision=True) as door,
    ):
        backend.prompt_tokens = counted
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        body = chat_body(model=PRICED["id"], messages=[{"role": "user", "content": [image]}], max_tokens=16)
        account = await door.account(format_usd(4096 * 300 + 16 * 700))
        backend.answer_with(unary(4000, 16))
        answer = await door.chat(await door.key(account), **body)
        assert answer.status_code == status
        assert await door.balance_nano(account) == (96 * 300 if status == 200 else 4096 * 300 + 16 * 700)
        poor = await door.chat(await door.key(credit=format_usd(4095 * 300)), **body)
        assert poor.status_code == (402 if status == 200 else 400)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_backend_that_drops_the_model_meanwhile_is_believed_up_to_the_window_that_it_told(
    tmp_path: Path, is_stream: bool
) -> None:
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[unconfigured()]) as door,
    ):

        async def drop_and_lie(asked: Asked) -> None:
            backend.models = ("another",)
            await door.gateway.pool.discover()
            await (events(*stream(10_000, 16)) if is_stream else unary(10_000, 16))(asked)

        account = await door.account("1")
        key = await door.key(account)
        backend.answer_with(drop_and_lie)
        assert (await door.chat(key, model=PRICED["id"], max_tokens=16, stream=is_stream)).status_code == 200
        assert 10**9 - await door.balance_nano(account) < 2048 * 300


async def test_a_prompt_is_counted_once_for_all_that_asks_for_it(tmp_path: Path) -> None:
    async with (
        ReplayingBackend(max_model_len=4096) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[narrow()], wallet=WORST) as door,
    ):
        backend.prompt_tokens = 100
        messages = [{"role": "user", "content": "x" * 1000}]
        answer = await door.chat(await door.key(credit="0.0003"), model=PRICED["id"], messages=messages)
        assert answer.status_code == 200
        assert backend.chats[0].json["max_tokens"] == int(answer.headers["x-max-tokens-clamped"]) <= WINDOW - 100
        assert len(backend.counted) == 1


TEMPLATE = 700


@pytest.mark.parametrize("messages", [1, 5])
async def test_a_hold_is_made_for_the_template_as_the_backend_counts_it(tmp_path: Path, messages: int) -> None:
    """A wallet of exactly the hold pays for the whole answer."""
    async with ReplayingBackend(max_model_len=4096) as backend:
        backend.prompt_tokens = TEMPLATE
        async with open_door(tmp_path, vllm_urls=[backend.url], models=[unconfigured()], wallet=WORST) as door:
            assert [asked.json["model"] for asked in backend.templates] == ["tiny"]
            body = chat_body(model=PRICED["id"], messages=MESSAGES * messages, max_tokens=16)
            held_nano = (len(orjson.dumps(body)) + TEMPLATE) * 300 + 16 * 700
            for short_nano, status in ((0, 200), (1, 402)):
                account = await door.account(format_usd(held_nano - short_nano))
                backend.answer_with(unary(TEMPLATE + 5 * messages, 16))
                answer = await door.chat(await door.key(account), **body)
                assert answer.status_code == status
            assert answer.json()["error"]["code"] == "insufficient_balance"
            assert not backend.counted


async def test_the_template_is_asked_of_each_backend_once_where_a_hold_or_a_window_rests_on_it(tmp_path: Path) -> None:
    async with ReplayingBackend("tiny", "other") as one, ReplayingBackend("tiny", "found") as two:
        one.prompt_tokens, two.prompt_tokens = 20, 30
        models = [PRICED, FREE, {"id": "other", "free": True}]
        async with open_door(tmp_path, vllm_urls=[one.url, two.url], models=models) as door:
            for _ in range(3):
                await door.gateway.pool.discover()
                assert (await door.chat(await door.key(credit="1"), model=PRICED["id"])).status_code == 200
            assert sorted(asked.json["model"] for asked in one.templates) == ["tiny"]
            assert sorted(asked.json["model"] for asked in two.templates) == ["tiny"]
            assert door.gateway.published.current[PRICED["id"]].template_tokens == 30


async def test_where_a_backend_cannot_count_the_margin_of_the_settings_holds(tmp_path: Path) -> None:
    async with ReplayingBackend() as backend:
        backend.prompt_tokens = None
        settings: dict[str, Any] = {"models": [PRICED], "wallet": WORST | {"template_margin_tokens": 100}}
        async with open_door(tmp_path, vllm_urls=[backend.url], **settings) as door:
            body = chat_body(model=PRICED["id"], max_tokens=16)
            held_nano = (len(orjson.dumps(body)) + 2 * 100) * 300 + 16 * 700
            account = await door.account(format_usd(held_nano - 1))
            refused = await door.chat(await door.key(account), **body)
            assert (refused.status_code, error_of(refused)["code"]) == (402, "insufficient_balance")
            assert len(backend.templates) == 1


@pytest.mark.parametrize("listed", [WINDOW, WINDOW - 1])
async def test_nothing_is_counted_where_the_backend_knows_the_window_itself(tmp_path: Path, listed: int) -> None:
    async with (
        ReplayingBackend(max_model_len=listed) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[narrow()]) as door,
    ):
        messages = [{"role": "user", "content": "x" * 1000}]
        key = await door.key(credit="1")
        assert (await door.chat(key, model=PRICED["id"], messages=messages, max_tokens=16)).status_code == 200
        assert not backend.counted


async def test_a_window_below_the_backends_is_a_warning_once_and_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        ReplayingBackend(max_model_len=4096) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[narrow()]) as door,
    ):
        assert caplog.text.count("its backend's 4096") == 1
        backend.models = ("tiny", "another")
        await door.gateway.pool.discover()
        assert caplog.text.count("its backend's 4096") == 1
        backend.max_model_len = 8192
        await door.gateway.pool.discover()
        assert caplog.text.count("its backend's 8192") == 1


@pytest.mark.parametrize("is_priced", [True, False])
async def test_an_unknown_window_of_a_priced_model_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_priced: bool
) -> None:
    model = unconfigured()
    if not is_priced:
        del model["pricing"]
    async with (
        ReplayingBackend(max_model_len=0) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[model]),
    ):
        assert ("tell the window of priced/tiny" in caplog.text) == is_priced


async def test_an_answer_without_a_limit_is_believed_up_to_any_window_where_none_is_known(tmp_path: Path) -> None:
    async with (
        ReplayingBackend(max_model_len=0) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[unconfigured()]) as door,
    ):
        backend.answer_with(unary(9, 20_000))
        account = await door.account("1")
        assert (await door.chat(await door.key(account), model=PRICED["id"])).status_code == 200
        assert await door.balance_nano(account) == 10**9 - 9 * 300 - 20_000 * 700
