"""The catalog as resources, prompts and completions, and who hears when it changes."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import orjson
import pytest
import pytest_asyncio
from mcp import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp.types import (
    INVALID_PARAMS,
    BlobResourceContents,
    PromptReference,
    ResourceTemplateReference,
    TextResourceContents,
)
from pydantic import AnyUrl

from mcp_gateway.core.caller import GUEST, GUEST_ACCOUNT_ID, Caller
from mcp_gateway.core.catalog import Catalog
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.upstream.demo import DemoBackend
from mcp_gateway.core.upstream.transport import ConnectFailed
from mcp_gateway.tools.resources import Resources
from tests.cases import each
from tests.doors.mcp_host import (
    JSON,
    Host,
    http_client,
    initialize,
    lent,
    open_host,
    text_in,
)
from tests.doors.test_mcp_lifetimes import next_message, sse_session
from tests.doors.test_mcp_transports import HANDSHAKE_VERSIONS, MODERN, error_of, modern
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRICED = {
    "id": "shop/echo",
    "backend_model": "demo/echo",
    "name": "Shop Echo",
    "context_window": 4096,
    "pricing": {"prompt": "0.0000003", "completion": "0.0000007"},
}
MODELS = (PRICED, {"id": "demo/echo"})
ERAS = [("http", "legacy"), ("http", MODERN), ("sse", "legacy"), ("sse", "auto")]
CATALOG = "models://catalog"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    async with open_host(tmp_path_factory.mktemp("catalog"), models=MODELS) as host:
        yield host


@pytest.fixture
def host(shared_host: Host) -> Iterator[Host]:
    """One whose catalog no test changes."""
    with lent(shared_host) as host:
        yield host


@pytest_asyncio.fixture(loop_scope="module")
async def own_host(tmp_path: Path) -> AsyncIterator[Host]:
    """One whose catalog the test may change."""
    async with open_host(tmp_path, models=MODELS) as host:
        yield host


def request(method: str, request_id: int = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def drop(host: Host, model_id: str) -> None:
    """Take a model out of the catalog in force."""
    current = host.gateway.published.current
    host.gateway.published.replace(Catalog(model for model in current.values() if model.id != model_id))


# Resources


@each(("transport", "mode"), ERAS)
async def test_the_catalog_and_each_model_can_be_read_over_each_transport_in_each_era(
    host: Host, transport: str, mode: str
) -> None:
    async with host.client(transport, mode) as client:
        listed = [resource.uri for resource in (await client.list_resources()).resources]
        assert listed == [CATALOG, "models://shop/echo", "models://demo/echo"]
        templates = (await client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == ["models://{id}"]
        [content] = (await client.read_resource(CATALOG)).contents
        assert [model["id"] for model in orjson.loads(read_text(content))["models"]] == ["shop/echo", "demo/echo"]
        [content] = (await client.read_resource("models://shop/echo")).contents
        model = orjson.loads(read_text(content))
        assert (model["context_window"], model["input_usd_per_million_tokens"]) == (4096, "0.3")
        assert content.mime_type == "application/json"


def read_text(content: TextResourceContents | BlobResourceContents) -> str:
    assert isinstance(content, TextResourceContents)
    return content.text


def id_at(host: Host, uri: str) -> str:
    """The id of the model that is read at a URI, which the answer repeats."""
    [content] = (
        Resources(host.gateway.published, host.gateway.pool).read(uri, Caller(GUEST_ACCOUNT_ID, GUEST, ())).contents
    )
    assert content.uri == uri
    model_id: str = orjson.loads(read_text(content))["id"]
    return model_id


ODD_IDS = [
    "qwen3:8b", "org/qwen3:8b-instruct", "sql-lora[1]", "http://x/y", "名前", "名/前", "catalog", "Catalog", "catalog/",
    "/models/llama", "what?x=1", "model#1", "a%2Fb", "a/b", "100%", "%63atalog", "a+b", "user:pw@host", "a\\b", "{id}",
    "a/../b", "a/./b", "..", ".", "a/..", "a//b", "~!$&'()*,;=", "10.0.0.1", "[::1]", "x:99999",
]  # fmt: skip
"""Names that servers serve models by; each would be another URI, or none, if it were written as it is."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def odd_host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    async with open_host(tmp_path_factory.mktemp("odd"), models=tuple({"id": id} for id in ODD_IDS)) as host:
        yield host


async def test_every_listed_uri_is_one_that_no_clients_parser_changes_and_reads_the_model_listed_there(
    odd_host: Host,
) -> None:
    listed = (await odd_host.post(request("resources/list"))).json()["result"]["resources"]
    uris = {resource["uri"]: resource["name"] for resource in listed}
    assert len(uris) == len(listed) == len(ODD_IDS) + 1
    assert uris.pop(CATALOG) == "catalog"
    for uri, name in uris.items():
        assert str(AnyUrl(uri)) == uri  # what the Python SDK 1.x makes of it
        assert id_at(odd_host, uri) == name


def as_listed(id: str) -> str:
    return quote(id)


def as_expanded(id: str) -> str:
    """By RFC 6570."""
    return quote(id, safe="")


def as_expanded_in_javascript(id: str) -> str:
    """By encodeURIComponent."""
    return quote(id, safe="!'()*")


def in_small_hex(id: str) -> str:
    return re.sub("%..", lambda digits: digits[0].lower(), quote(id, safe=""))


@pytest.mark.parametrize("write", [as_listed, as_expanded, as_expanded_in_javascript, in_small_hex])
async def test_a_model_is_found_however_its_id_is_encoded(odd_host: Host, write: Callable[[str], str]) -> None:
    for id in ODD_IDS:
        for scheme in ("models://", "MODELS://"):
            if id != "catalog":
                assert id_at(odd_host, scheme + write(id)) == id


@pytest.mark.parametrize(
    "id", ["qwen3:8b", "sql-lora[1]", "http://x/y", "名前", "what?x=1", "model#1", "100%", "a/../b"]
)
async def test_a_model_is_found_by_its_id_as_it_is(odd_host: Host, id: str) -> None:
    assert id_at(odd_host, f"models://{id}") == id


async def test_an_id_is_decoded_once(odd_host: Host) -> None:
    assert id_at(odd_host, "models://a%2Fb") == "a/b"
    assert id_at(odd_host, "models://a%252Fb") == "a%2Fb"
    with pytest.raises(GatewayError, match="not_found"):
        id_at(odd_host, "models://qwen3%253A8b")


async def test_a_model_is_found_by_its_id_as_the_template_expands_it(host: Host) -> None:
    answer = (await host.post(request("resources/read", uri="models://shop%2Fecho"))).json()["result"]
    assert orjson.loads(answer["contents"][0]["text"])["id"] == "shop/echo"
    assert answer["contents"][0]["uri"] == "models://shop%2Fecho"


@each("uri", ["models://nope", "models://", "file:///etc/passwd", "shop/echo"])
async def test_a_resource_that_there_is_not_is_a_protocol_error_of_the_revision(host: Host, uri: str) -> None:
    legacy = error_of(await host.post(request("resources/read", uri=uri)))
    message, headers = modern(request("resources/read", uri=uri))
    answer = error_of(await host.post(message, headers | {"Mcp-Name": uri}))
    assert (legacy["code"], answer["code"]) == (-32002, INVALID_PARAMS)
    assert legacy["data"] == answer["data"] == {"uri": uri}


@each(
    ("method", "scope"),
    [
        ("tools/list", "private"),
        ("resources/list", "private"),
        ("resources/templates/list", "public"),
        ("prompts/list", "public"),
    ],
)
async def test_lists_are_the_same_each_time_may_be_kept_and_have_one_page(host: Host, method: str, scope: str) -> None:
    first, second = [(await host.post(*modern(request(method)))).content for _ in range(2)]
    assert first == second
    result = orjson.loads(first)["result"]
    assert (result["ttlMs"] > 0, result["cacheScope"]) == (True, scope)
    assert error_of(await host.post(request(method, cursor="2")))["code"] == INVALID_PARAMS


@pytest.mark.parametrize("uri", ["models://catalog", "models://demo/echo"])
async def test_what_is_read_of_models_is_kept_for_its_reader_alone(host: Host, uri: str) -> None:
    """Its prices are those that the caller pays."""
    message, headers = modern(request("resources/read", uri=uri))
    result = (await host.post(message, headers | {"Mcp-Name": uri})).json()["result"]
    assert (result["ttlMs"] > 0, result["cacheScope"]) == (True, "private")


@each("version", HANDSHAKE_VERSIONS)
async def test_titles_are_absent_where_a_revision_has_none(host: Host, version: str) -> None:
    for method, name in (("resources/list", "resources"), ("prompts/list", "prompts")):
        answer = await host.post(request(method), {"MCP-Protocol-Version": version})
        assert ("title" in answer.json()["result"][name][0]) == (version >= "2025-06-18")


async def test_the_server_says_what_it_can_in_each_era(host: Host) -> None:
    legacy = (await host.post(initialize("2025-11-25"))).json()["result"]["capabilities"]
    assert legacy["resources"] == {"subscribe": True, "listChanged": True}
    assert {"tools", "prompts", "completions", "logging"} <= legacy.keys()
    answer = (await host.post(*modern(request("server/discover")))).json()["result"]["capabilities"]
    assert answer["resources"] == {"subscribe": True, "listChanged": True}


async def test_reading_has_the_limit_of_listings(tmp_path: Path) -> None:
    async with open_host(tmp_path, limits={"listing_requests_per_minute": 1}) as host:
        assert "result" in (await host.post(request("resources/read", uri=CATALOG))).json()
        for message in (
            request("resources/read", uri=CATALOG),
            request("prompts/get", name="estimate_cost", arguments={"model": "demo/echo"}),
            request("completion/complete", ref={"type": "ref/resource", "uri": CATALOG}, argument=argument("id", "")),
        ):
            error = error_of(await host.post(message))
            assert error["data"]["code"] == "guest"
            assert 0 < error["data"]["retry_after_s"] <= 60


# Prompts


@each(("transport", "mode"), ERAS)
async def test_prompts_have_descriptions_and_can_be_had(host: Host, transport: str, mode: str) -> None:
    async with host.client(transport, mode) as client:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        assert list(prompts) == ["compare_models", "estimate_cost"]
        for prompt in prompts.values():
            assert prompt.description
            assert all(argument.description for argument in prompt.arguments or ())
        got = await client.get_prompt("estimate_cost", {"model": "shop/echo"})
        assert "shop/echo" in text_in(got.messages[0].content)


async def prompted(host: Host, name: str, **arguments: str) -> str:
    answer = await host.post(request("prompts/get", name=name, arguments=arguments))
    text: str = answer.json()["result"]["messages"][0]["content"]["text"]
    return text


async def test_an_estimate_is_what_the_prices_come_to(host: Host) -> None:
    text = await prompted(
        host, "estimate_cost", model="shop/echo", prompt_tokens="2,000", completion_tokens="1000", requests="10"
    )
    assert "one request costs 0.0013 USD" in text
    assert "all of them cost 0.013 USD" in text


async def test_zeros_before_a_number_mean_nothing_however_many(host: Host) -> None:
    text = await prompted(
        host, "estimate_cost", model="shop/echo", prompt_tokens="0" * 5000, requests="0" * 5000 + "10"
    )
    assert "send 10 request(s) of 0 prompt tokens" in text


async def test_a_comparison_names_the_models_with_their_prices_and_the_question(host: Host) -> None:
    text = await prompted(host, "compare_models", question="Why is the sky blue?", models="shop/echo, demo/echo")
    assert "shop/echo (0.3 USD for a million prompt tokens, 0.7" in text
    assert "demo/echo (free)" in text
    assert text.endswith("Why is the sky blue?")
    assert "list_models" in await prompted(host, "compare_models", question="Why?")


@each(
    ("name", "arguments", "words"),
    [
        ("nope", {}, "no prompt 'nope'"),
        ("compare_models", {}, "`question` is missing"),
        ("compare_models", {"question": "x", "models": "shop/eco"}, "shop/echo"),
        ("estimate_cost", {"model": "shop/echo", "prompt_tokens": "many"}, "`prompt_tokens` must be a whole number"),
        ("estimate_cost", {"model": "shop/echo", "requests": "9" * 5000}, "`requests` must be a whole number"),
        (
            "estimate_cost",
            {"model": "shop/echo", "requests": "0" * 20 + "9" * 4000},
            "`requests` must be a whole number",
        ),
        ("estimate_cost", {"model": "shop/echo", "requests": "0" * 5000 + "x"}, "`requests` must be a whole number"),
    ],
)
async def test_a_prompt_that_cannot_be_had_is_explained(
    host: Host, name: str, arguments: dict[str, str], words: str
) -> None:
    error = error_of(await host.post(request("prompts/get", name=name, arguments=arguments)))
    assert error["code"] == INVALID_PARAMS
    assert words in error["message"]


# Completion


def argument(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


@each(("transport", "mode"), ERAS)
async def test_model_ids_are_completed_for_prompts_and_resources(host: Host, transport: str, mode: str) -> None:
    async with host.client(transport, mode) as client:
        prompt = PromptReference(name="estimate_cost")
        completion = (await client.complete(prompt, argument("model", "sh"))).completion
        assert (completion.values, completion.total, completion.has_more) == (["shop/echo"], 1, False)
        resource = ResourceTemplateReference(uri="models://{id}")
        assert (await client.complete(resource, argument("id", "ECHO"))).completion.values == ["shop/echo", "demo/echo"]


@each(
    ("name", "typed", "values"),
    [
        ("models", "shop/echo,d", ["shop/echo,demo/echo"]),
        ("models", "", ["shop/echo", "demo/echo"]),
        ("question", "sh", []),
        ("models", "a" * 1900 + ",d", ["a" * 1900 + ",demo/echo"]),
        ("models", "a" * 2000 + ",d", []),
    ],
)
async def test_each_argument_is_completed_in_its_own_form(host: Host, name: str, typed: str, values: list[str]) -> None:
    ref = {"type": "ref/prompt", "name": "compare_models"}
    answer = await host.post(request("completion/complete", ref=ref, argument=argument(name, typed)))
    assert answer.json()["result"]["completion"]["values"] == values


async def test_ids_that_begin_with_what_was_typed_come_first_and_a_hundred_are_enough(tmp_path: Path) -> None:
    models = tuple({"id": f"{'b' if number % 2 else 'ab'}{number}"} for number in range(300))
    async with open_host(tmp_path, models=models) as host:
        ref = {"type": "ref/resource", "uri": "models://{id}"}
        answer = await host.post(request("completion/complete", ref=ref, argument=argument("id", "b")))
        completion = answer.json()["result"]["completion"]
        assert (len(completion["values"]), completion["total"], completion["hasMore"]) == (100, 300, True)
        assert all(value.startswith("b") for value in completion["values"])


@pytest.mark.parametrize("ref", [{"type": "ref/prompt", "name": "nope"}, {"type": "ref/resource", "uri": "x://y"}])
async def test_what_there_is_not_cannot_be_completed(host: Host, ref: dict[str, str]) -> None:
    answer = await host.post(request("completion/complete", ref=ref, argument=argument("model", "")))
    assert error_of(answer)["code"] == INVALID_PARAMS


# Subscriptions


@asynccontextmanager
async def listening_session(own_host: Host) -> AsyncIterator[tuple[dict[str, str], Any]]:
    """A session's headers, and the lines of its open stream."""
    session = await own_host.open_session()
    async with http_client() as http, http.stream(
        "GET", own_host.url, headers=session | {"Accept": "text/event-stream"}
    ) as stream:  # fmt: skip
        lines = stream.aiter_lines()
        assert await anext(lines) == ": open"
        yield session, lines


async def test_a_session_that_listens_hears_that_the_list_changed(own_host: Host) -> None:
    async with listening_session(own_host) as (_, lines):
        drop(own_host, "shop/echo")
        assert await next_message(lines) == {"jsonrpc": "2.0", "method": "notifications/resources/list_changed"}


async def test_a_subscribed_session_hears_of_its_resources_only(own_host: Host) -> None:
    async with listening_session(own_host) as (session, lines):
        for uri in ("models://shop%2Fecho", "models://demo/echo"):
            assert (await own_host.post(request("resources/subscribe", uri=uri), session)).json()["result"] == {}
        await own_host.post(request("resources/unsubscribe", uri="models://demo/echo"), session)
        drop(own_host, "demo/echo")
        told = [await next_message(lines)]
        drop(own_host, "shop/echo")
        told += [await next_message(lines) for _ in range(2)]
    methods = [message["method"].removeprefix("notifications/resources/") for message in told]
    assert methods == ["list_changed", "list_changed", "updated"]
    assert told[2]["params"] == {"uri": "models://shop%2Fecho"}


async def test_an_sse_session_hears_of_changes(own_host: Host) -> None:
    async with sse_session(own_host) as (lines, url):
        await own_host.post(initialize(), url=url)
        await own_host.post(request("resources/subscribe", uri=CATALOG), url=url)
        assert [(await next_message(lines))["id"] for _ in range(2)] == [0, 1]
        drop(own_host, "demo/echo")
        told = [(await next_message(lines))["method"] for _ in range(2)]
    assert told == ["notifications/resources/list_changed", "notifications/resources/updated"]


WRITTEN = [
    "models://shop%2fecho",
    "MODELS://shop/echo",
    "models://shop%2Fecho",
    "models://shop/echo",
    "models://%73hop/echo",
]


async def test_a_client_hears_of_a_resource_by_each_uri_that_it_wrote(own_host: Host) -> None:
    async with (
        listening_session(own_host) as (session, lines),
        own_host.client("http") as client,
        client.listen(resource_subscriptions=WRITTEN) as subscription,
    ):
        for uri in (*WRITTEN, "models://demo%2Fecho", "models://shop%252Fecho"):
            await own_host.post(request("resources/subscribe", uri=uri), session)
        drop(own_host, "shop/echo")
        told = [await next_message(lines) for _ in range(6)]
        assert [message["params"]["uri"] for message in told[1:]] == WRITTEN
        assert [await anext(subscription) for _ in WRITTEN] == [ResourceUpdated(uri) for uri in WRITTEN]


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_modern_client_listens_to_what_it_asked_for(own_host: Host, transport: str) -> None:
    async with own_host.client(transport, "auto") as client:
        async with client.listen(resources_list_changed=True, resource_subscriptions=[CATALOG]) as subscription:
            assert subscription.honored.resources_list_changed
            assert subscription.honored.tools_list_changed is None
            drop(own_host, "demo/echo")
            assert await anext(subscription) == ResourcesListChanged()
            assert await anext(subscription) == ResourceUpdated(CATALOG)
        await eventually(lambda: not len(own_host.door.subscriptions))


class Gone(DemoBackend):
    """A backend that stays down, whoever looks."""

    async def request(self, *wanted: Any, **options: Any) -> NoReturn:
        raise ConnectFailed("gone")


async def test_a_backend_that_goes_down_changes_the_catalog(own_host: Host) -> None:
    async with own_host.client("http") as client, client.listen(resource_subscriptions=[CATALOG]) as subscription:
        own_host.gateway.pool.demo.origin = Gone()
        own_host.gateway.pool.demo.lost("test")
        async with asyncio.timeout(PATIENCE_S):
            assert await anext(subscription) == ResourceUpdated(CATALOG)


async def test_a_listen_stream_ends_with_its_result_when_the_gateway_drains_or_its_key_is_revoked(
    own_host: Host,
) -> None:
    alice = own_host.key("alice")
    async with (
        own_host.client("http", headers=alice) as mine,
        own_host.client("http") as other,
        mine.listen(resources_list_changed=True) as first,
        other.listen(resources_list_changed=True) as last,
    ):
        own_host.door.close_key("alice")
        assert [event async for event in first] == []
        own_host.gateway.lifecycle.begin_draining()
        assert [event async for event in last] == []


async def test_listening_needs_a_client_that_reads_events(own_host: Host) -> None:
    message, headers = modern(request("subscriptions/listen", notifications={"resourcesListChanged": True}))
    assert (await own_host.post(message, headers | {"Accept": "application/json"})).status_code == 406


async def test_only_so_many_listen_at_once_and_one_that_leaves_makes_room(tmp_path: Path) -> None:
    async with (
        open_host(tmp_path, mcp={"max_sessions_per_guest_address": 1}) as host,
        host.client("http") as client,
    ):
        async with client.listen(resources_list_changed=True):
            with pytest.raises(MCPError, match="Too many"):
                await client.listen(resources_list_changed=True).__aenter__()
        await eventually(lambda: not len(host.door.subscriptions))
        async with client.listen(resources_list_changed=True):
            pass


def spelt(number: int) -> str:
    """One of the many URIs of a model, by the letters that are encoded."""
    letters = (f"%{ord(letter):x}" if number >> place & 1 else letter for place, letter in enumerate("demo/echo"))
    return f"models://{''.join(letters)}"


async def test_what_can_be_subscribed_to_is_bounded(own_host: Host) -> None:
    session = await own_host.open_session()
    async with http_client() as http:
        for number in range(65):
            message = request("resources/subscribe", uri=spelt(number))
            answer = await http.post(own_host.url, json=message, headers=JSON | session)
            assert ("result" in answer.json()) == (number < 64)
    long = request("resources/subscribe", uri="models://" + "x" * 1000)
    assert error_of(await own_host.post(long, await own_host.open_session()))["code"] == INVALID_PARAMS


async def test_a_subscription_needs_a_session(own_host: Host) -> None:
    assert "session" in error_of(await own_host.post(request("resources/subscribe", uri=CATALOG)))["message"]
