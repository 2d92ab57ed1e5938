"""Images that a request names by their address, where a provider answers: it is sent what the gateway fetched."""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.core.upstream.misbehaving import MisbehavingServer
from tests.image_server import LOOPBACK, PNG, Names, Tls, certificate_in, image, port_of, url_at
from tests.providers.anthropic_double import Anthropic
from tests.providers.doubles import Double, Generic, Moonshot, Ollama, OpenAi, Refusal, serving
from tests.providers.surface_doubles import OpenAiResponses
from tests.providers.test_contract import ENVIRON, MODEL, PRICES
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.providers
BLOCKED = b"GIF89a blocked"
DATA = b64encode(PNG)
TEXT_NANO = -(-(35 * 500_000 + 12 * 1_500_000) // 1000)
SEEING = {"input_modalities": ["text", "image"], "max_output_tokens": 64, "pricing": PRICES | {"image": "0.002"}}


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return certificate_in(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def seeing(
    folder: Path, tls: Tls, manner: Generic | None = None
) -> AsyncIterator[tuple[Door, list[Double], MisbehavingServer]]:
    """A model that sees, of two providers, and a server of images."""
    blocklist = folder / "blocked"
    blocklist.write_text(sha256(BLOCKED).hexdigest())
    async with (
        MisbehavingServer(image(), ssl_context=tls[0]) as images,
        serving(manner or OpenAi(responses=OpenAiResponses())) as first,
        serving(Generic()) as second,
    ):
        candidates = [{"provider": name, "backend_model": "m-1"} for name in ("one", "two")]
        async with open_door(
            folder / "data",
            environ=ENVIRON,
            providers=[first.settings("one"), second.settings("two")],
            models=[MODEL | SEEING | {"candidates": candidates}],
            enable_vision=True,
            fetch_images=True,
            image_fetch={"ports": [443, port_of(images)]},
            image_blocklist_file=blocklist,
        ) as door:
            fetcher = door.gateway.inference.parts.image_fetcher
            assert fetcher is not None
            fetcher.resolve, fetcher.ssl_context = Names(), tls[1]
            fetcher.is_allowed = lambda address: address == LOOPBACK
            yield door, [first, second], images
            await door.nothing_is_left()


def chat_about(url: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    return {"model": "sold/model", "messages": [{"role": "user", "content": parts}]}


def response_about(url: str) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": url}]
    return {"model": "sold/model", "input": [{"role": "user", "content": parts}]}


async def test_a_provider_is_sent_the_data_and_no_address_at_the_price_of_an_image(tmp_path: Path, tls: Tls) -> None:
    async with seeing(tmp_path, tls) as (door, doubles, images):
        key = await door.key(credit="10")
        for path, body in (
            ("/v1/chat/completions", chat_about(url_at(images, "/cat.png"))),
            ("/v1/chat/completions", chat_about(url_at(images, "/cat.png")) | {"stream": True}),
            ("/v1/responses", response_about(url_at(images, "/cat.png"))),
        ):
            response = await door.post(orjson.dumps(body), key, path)
            assert response.status_code == 200, response.text
            sent = orjson.dumps(doubles[0].asked[-1].body)
            assert sent.count(b"data:image/png;base64," + DATA) == 1
            assert b"pictures.example" not in sent
            assert (await door.record(response))["cost_nano"] == TEXT_NANO + 2_000_000
        assert len(images.requests) == 3


@pytest.mark.parametrize("kind", [Ollama, Moonshot])
async def test_who_takes_no_address_of_an_image_is_sent_its_data(kind: type[Generic], tmp_path: Path, tls: Tls) -> None:
    async with seeing(tmp_path, tls, kind()) as (door, doubles, images):
        body = orjson.dumps(chat_about(url_at(images, "/cat.png")))
        response = await door.post(body, await door.key(credit="10"))
        assert response.status_code == 200, response.text
        assert DATA in orjson.dumps(doubles[0].asked[-1].body)
        assert doubles[1].asked == []


async def test_anthropic_is_sent_the_data_wherever_an_image_stands(tmp_path: Path, tls: Tls) -> None:
    async with seeing(tmp_path, tls, Anthropic()) as (door, doubles, images):
        key, url = await door.key(credit="10"), url_at(images, "/cat.png")
        block = {"type": "image", "source": {"type": "url", "url": url}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [block]}
        call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        message = {"model": "sold/model", "max_tokens": 64, "messages": [{"role": "user", "content": [block]}]}
        chat = chat_about(url)
        of_tool = [{"role": "assistant", "tool_calls": [call]}]
        of_tool.append({"role": "tool", "tool_call_id": "call_1", "content": chat["messages"][0]["content"]})
        for path, body in (
            ("/v1/messages", message),
            ("/v1/messages", message | {"messages": [{"role": "user", "content": [result]}]}),
            ("/v1/chat/completions", chat),
            ("/v1/chat/completions", chat | {"messages": of_tool}),
        ):
            response = await door.post(orjson.dumps(body), key, path)
            assert response.status_code == 200, response.text
            sent = orjson.dumps(doubles[0].asked[-1].body)
            assert sent.count(b'{"type":"base64","media_type":"image/png","data":"' + DATA) == 1
            assert b"pictures.example" not in sent
            assert (await door.record(response))["cost_nano"] == TEXT_NANO + 2_000_000


async def test_an_image_is_fetched_once_for_all_candidates(tmp_path: Path, tls: Tls) -> None:
    async with seeing(tmp_path, tls) as (door, doubles, images):
        doubles[0].refusal = Refusal(500, b"oops")
        response = await door.post(orjson.dumps(chat_about(url_at(images, "/cat.png"))), await door.key(credit="10"))
        assert response.status_code == 200, response.text
        bodies = [orjson.dumps(double.asked[0].body["messages"]) for double in doubles]
        assert bodies[0] == bodies[1]
        assert DATA in bodies[0]
        assert len(images.requests) == 1


async def test_an_image_that_is_blocked_or_cannot_be_had_is_refused_before_anybody_is_asked(
    tmp_path: Path, tls: Tls
) -> None:
    async with seeing(tmp_path, tls) as (door, doubles, images):
        account_id = await door.account("10")
        key = await door.key(account_id)
        for behaviour, status, code in (
            (image(BLOCKED, b"image/gif"), 403, "content_policy"),
            (image(b"<html>", b"text/html"), 400, "invalid_image_url"),
        ):
            images.behaviours[:] = [behaviour]
            refused = await door.post(orjson.dumps(chat_about(url_at(images, "/cat.gif"))), key)
            assert (refused.status_code, error_of(refused)["code"]) == (status, code)
        assert [double.asked for double in doubles] == [[], []]
        assert await door.balance_nano(account_id) == 10 * 10**9
