"""Each refusal of each provider, by itself and before a candidate that answers: only a caller's fault is a caller's."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from tests.logged import lines_logged
from tests.providers.doubles import Cloudflare, Double, Generic, Refusal, serving
from tests.providers.kinds import KINDS
from tests.providers.refusals import TOLD, Told
from tests.providers.surface_doubles import CloudflareEmbeddings
from tests.providers.test_contract import ENVIRON, MODEL, OF_THE_OPERATOR, door_to, tells_nothing_of_the_operator
from tests.serving import Door, error_of, open_door

pytestmark = [pytest.mark.providers, pytest.mark.asyncio(loop_scope="module")]
Served = tuple[Door, dict[str, Double], str]
EACH = [
    pytest.param(kind.__name__, told, id=f"{kind.__name__}-{told.refusal.status}-{number}")
    for kind, all_told in TOLD.items()
    for number, told in enumerate(all_told)
]
each_refusal = pytest.mark.parametrize(("kind", "told"), EACH)


async def test_each_provider_has_refusals_of_its_own() -> None:
    assert TOLD.keys() == {*KINDS}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A gateway that sells a model of each provider: by itself, and with a second that answers where it does not."""
    async with AsyncExitStack() as stack:
        doubles = {kind.__name__: await stack.enter_async_context(serving(kind())) for kind in KINDS}
        doubles["spare"] = await stack.enter_async_context(serving(Generic()))
        settings: dict[str, Any] = {
            "providers": [double.settings(name, kind=double.manner.kind) for name, double in doubles.items()],
            "models": [
                MODEL
                | {"id": f"{use}/{name}", "candidates": [{"provider": one, "backend_model": "m-1"} for one in asked]}
                for name in doubles
                for use, asked in (("alone", [name]), ("first", [name, "spare"]))
                if name != "spare"
            ],
            "upstream": {"retry_share": 1},
        }
        folder = tmp_path_factory.mktemp("refusals")
        door = await stack.enter_async_context(open_door(folder, environ=ENVIRON, **settings))
        yield door, doubles, await door.key(credit="10")
        await door.nothing_is_left()


def settle(served: Served, kind: str) -> None:
    """As if the provider had refused nothing."""
    door, doubles, _ = served
    doubles[kind].refusal = None
    provider = door.gateway.pool.providers[kind]
    provider.models.rests.clear()
    provider.breaker.reset()


async def refused(served: Served, kind: str, use: str, told: Refusal, *, is_stream: bool) -> httpx2.Response:
    """What a chat comes to while a provider says this; afterwards it is asked as if nothing had been."""
    door, doubles, key = served
    doubles[kind].refusal = told
    with lines_logged() as lines:
        response = await door.chat(key, model=f"{use}/{kind}", max_tokens=100, stream=is_stream)
    settle(served, kind)
    tells_nothing_of_the_operator(response)
    assert not any(name in line for name in OF_THE_OPERATOR for line in lines)
    return response


@each_refusal
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_refusal_is_told_by_what_it_means(served: Served, kind: str, told: Told, is_stream: bool) -> None:
    response = await refused(served, kind, "alone", told.refusal, is_stream=is_stream)
    assert (response.status_code, error_of(response)["code"]) == told.meaning[:2], response.text
    if told.wait_s:
        assert response.headers["retry-after"] == str(told.wait_s)
    assert (await served[0].record(response))["cost_nano"] == 0


TYPES = {
    400: "invalid_request_error", 413: "request_too_large", 429: "overloaded_error", 502: "api_error",
    503: "overloaded_error",
}  # fmt: skip


@each_refusal
@pytest.mark.parametrize("use", ["alone", "first"])
async def test_a_message_meets_the_same_in_anthropics_words(served: Served, kind: str, told: Told, use: str) -> None:
    asked = {"max_tokens": 9, "messages": [{"role": "user", "content": "hello"}], "model": f"{use}/{kind}"}
    door, doubles, key = served
    for is_stream in (False, True):
        doubles[kind].refusal = told.refusal
        response = await door.post(orjson.dumps(asked | {"stream": is_stream}), key, "/v1/messages")
        settle(served, kind)
        tells_nothing_of_the_operator(response)
        if use == "first" and told.meaning.failed_as is not None:
            assert (response.status_code, (await door.record(response))["backend"]) == (200, "spare")
            continue
        assert (response.status_code, response.json()["error"]["type"]) == (
            told.meaning.status, TYPES[told.meaning.status],
        )  # fmt: skip


@each_refusal
@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_next_is_asked_unless_the_caller_is_at_fault(
    served: Served, kind: str, told: Told, is_stream: bool
) -> None:
    door, doubles, _ = served
    doubles["spare"].asked.clear()
    response = await refused(served, kind, "first", told.refusal, is_stream=is_stream)
    failed = await door.rows("SELECT backend, code FROM failed_attempts WHERE id = ?", response.headers["x-request-id"])
    if told.meaning.failed_as is None:
        assert (response.status_code, doubles["spare"].asked, failed) == (told.meaning.status, [], [])
        return
    assert (response.status_code, len(doubles["spare"].asked)) == (200, 1), response.text
    assert failed == [(kind, told.meaning.failed_as)]
    assert (await door.record(response))["backend"] == "spare"


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("is_torn", [False, True], ids=["ended", "torn"])
@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
async def test_the_next_is_asked_of_a_stream_that_breaks_off_before_it_begins_and_never_after(
    served: Served, kind: str, has_begun: bool, is_torn: bool
) -> None:
    """Comments, pings and what Anthropic says before its first block are no beginning."""
    door, doubles, key = served
    double = doubles[kind]
    events = double.manner.stream({"stream": True, "messages": []})
    first = b"Hel" if has_begun else b'"content_block_start"' if kind == "Anthropic" else b"data:"
    double.cut_after = next(at for at, event in enumerate(events) if first in event) + has_begun
    double.is_torn = is_torn
    doubles["spare"].asked.clear()
    response = await door.chat(key, model=f"first/{kind}", stream=True)
    double.cut_after, double.is_torn = None, False
    door.gateway.pool.providers[kind].breaker.reset()
    assert (len(doubles["spare"].asked), b"backend_died" in response.content) == (not has_begun, has_begun)
    assert response.content.count(b"[DONE]") == 1
    tells_nothing_of_the_operator(response)


EMPTY = [told for told in TOLD[Cloudflare] if told.refusal.status == HTTPStatus.OK]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "hello"},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]},
}


@pytest.mark.parametrize("told", EMPTY, ids=lambda told: told.meaning.failed_as)
@pytest.mark.parametrize("path", BODIES)
async def test_an_error_with_the_status_of_an_answer_means_the_same_of_other_surfaces(
    served: Served, told: Told, path: str
) -> None:
    door, doubles, key = served
    doubles["Cloudflare"].manner.others["embeddings"] = CloudflareEmbeddings()
    doubles["Cloudflare"].refusal = told.refusal
    for is_stream in (False,) if path == "/v1/embeddings" else (False, True):
        body = BODIES[path] | {"model": "alone/Cloudflare"} | ({"stream": True} if is_stream else {})
        response = await door.post(orjson.dumps(body), key, path)
        assert response.status_code == told.meaning.status, response.text
        provider = door.gateway.pool.providers["Cloudflare"]
        provider.models.rests.clear()
        provider.breaker.reset()
    doubles["Cloudflare"].refusal = None


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_empty_account_that_an_answer_tells_of_is_told_to_the_operator(
    is_stream: bool, tmp_path: Path
) -> None:
    async with door_to(Cloudflare(), tmp_path) as (door, double, key):
        double.refusal = EMPTY[0].refusal
        with lines_logged(logging.WARNING) as lines:
            await door.chat(key, model="sold/model", stream=is_stream)
        assert any("no money" in line for line in lines)
