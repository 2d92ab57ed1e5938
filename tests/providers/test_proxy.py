"""/proxy/{provider}/{path}, of what the gateway reads: a provider's own path takes the way of the gateway's own, and is
refused where that would change anything; who may ask, and what may be asked.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.cases import each
from tests.core.test_proxy_paths import HOSTILE
from tests.providers.anthropic_double import Anthropic
from tests.providers.doubles import PROMPT, Double, Generic, Mistral, OpenAi, serving
from tests.providers.kinds import KINDS
from tests.providers.surface_doubles import WITH_COMPLETIONS, WITH_EMBEDDINGS
from tests.providers.test_contract import (
    ENVIRON,
    MODEL,
    TOOLS,
    chunks_of,
    cost_of,
    received_nothing_of_the_caller,
    tells_nothing_of_the_operator,
)
from tests.serving import MESSAGES, Door, error_of, open_door

pytestmark = [pytest.mark.providers, pytest.mark.asyncio(loop_scope="module")]

CHAT_PATHS = {
    "Cohere": "/compatibility/v1/chat/completions",
    "Groq": "/openai/v1/chat/completions",
    "Google": "/v1beta/openai/chat/completions",
}


async def let_proxy(door: Door, account_id: str, *, is_let: bool = True) -> None:
    """As the command line does it, beside the server, which looks for changes then."""
    await (await door.desk()).accounts.change(account_id, may_proxy=is_let)
    await door.gateway.known_keys.catch_up()


async def proxying_key(door: Door, credit: str = "10", **more: Any) -> str:
    """The key of a new account that may ask providers by their own paths."""
    account_id = await door.account(credit)
    key = await door.key(account_id, **more)
    await let_proxy(door, account_id)
    return key


@asynccontextmanager
async def asked_by_path(
    manner: Generic, data_dir: Path, settings: dict[str, Any] | None = None, **provider: Any
) -> AsyncIterator[tuple[Door, Double, str]]:
    """A gateway that lets a double be asked by its own paths, the double, and a key of an account that may."""
    async with AsyncExitStack() as stack:
        double = await stack.enter_async_context(serving(manner))
        entry = double.settings(**{"proxy": True} | provider)
        sold = MODEL | {"provider": manner.kind, "aliases": ["short"], "input_modalities": ["text", "image"]}
        given: dict[str, Any] = {"providers": [entry], "models": [sold]} | (settings or {})
        door = await stack.enter_async_context(open_door(data_dir, environ=ENVIRON, **given))
        yield door, double, await proxying_key(door)
        await door.nothing_is_left()


Asking = tuple[Door, Double, str]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def asking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asking]:
    """The same, shared by tests that ask a little each."""
    async with asked_by_path(OpenAi(), tmp_path_factory.mktemp("proxy"), {"allowed_hosts": ["*"]}) as opened:
        yield opened


def chat(**fields: Any) -> bytes:
    return orjson.dumps({"model": "m-1", "messages": MESSAGES} | fields)


def path_of(manner: Generic) -> str:
    return f"/proxy/{manner.kind}" + CHAT_PATHS.get(type(manner).__name__, "/v1/chat/completions")


OF_CHATS = [kind() for kind in KINDS if kind.kind != "anthropic"]


@pytest.mark.parametrize("manner", OF_CHATS, ids=lambda manner: type(manner).__name__)
async def test_a_chat_by_the_provider_s_own_path_is_read_held_and_billed_as_any_other(
    manner: Generic, tmp_path: Path
) -> None:
    async with asked_by_path(manner, tmp_path) as (door, double, key):
        path = path_of(manner)
        whole = await door.post(chat(), key, path)
        assert whole.status_code == 200, whole.text
        assert whole.json()["model"] == "m-1"
        streamed = await door.post(chat(stream=True, stream_options={"include_usage": True}, tools=TOOLS), key, path)
        assert chunks_of(streamed.content)[-1]["usage"]["total_tokens"] > 0
        for response in (whole, streamed):
            tells_nothing_of_the_operator(response)
            record = await door.record(response)
            assert (record["model"], record["backend"]) == ("sold/model", manner.kind)
            assert (record["cost_nano"], record["http_status"]) == (cost_of(manner), 200)
        received_nothing_of_the_caller(double, key)
        assert [asked.body["model"] for asked in double.asked] == ["m-1", "m-1"]


@each("model", ["m-1", "sold/model", "short", "openai/m-1"])
async def test_a_model_is_called_as_the_provider_or_the_catalog_does(model: str, asking: Asking) -> None:
    door, double, key = asking
    response = await door.post(chat(model=model), key, "/proxy/openai/v1/chat/completions")
    assert (response.status_code, response.json()["model"]) == (200, model)
    assert double.asked[-1].body["model"] == "m-1"


async def test_what_would_be_left_out_or_changed_is_refused_and_named_and_costs_nothing(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://images.test/a.png"}}
    async with asked_by_path(OpenAi(), tmp_path, {"enable_vision": True, "fetch_images": True}) as (door, double, key):
        for fields, param in (
            ({"store": True}, "store"),
            ({"service_tier": "flex"}, "service_tier"),
            ({"prompt_cache_key": "k"}, "prompt_cache_key"),
            ({"metadata": {"a": "b"}}, "metadata"),
            ({"top_k": 5}, "top_k"),
            ({"repetition_penalty": 1.1}, "repetition_penalty"),
            ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
            ({"enable_thinking": False}, "enable_thinking"),
            ({"reasoning": {}}, "reasoning"),
            ({"prompt_logprobs": False}, "prompt_logprobs"),
            ({"models": ["m-1"]}, "models"),
            ({"gateway": {"max_cost_usd": "1"}}, "gateway"),
            ({"messages": [{"role": "user", "content": "Hi", "extra": 1}]}, "messages"),
            ({"tools": [{"type": "web_search"}]}, "tools[0]"),
            ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x.test"}]}, None),
            ({"messages": [{"role": "user", "content": [image]}]}, "messages"),
            ({"messages": [{"role": "user", "content": "long" * 300_000}], "top_k": 5}, "top_k"),
        ):
            response = await door.post(chat(**fields), key, "/proxy/openai/v1/chat/completions")
            assert response.status_code == 400, (fields, response.text)
            assert param is None or error_of(response)["param"] == param, fields
        assert double.asked == []
        assert await door.balance_nano((await door.rows("SELECT id FROM accounts WHERE name = 'test'"))[0][0]) == 10**10


async def test_what_asks_for_nothing_or_for_what_is_sent_anyway_is_not_changed(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "store": False, "service_tier": "default", "max_tokens": 5, "n": 1, "temperature": 0.5, "user": "u",
        "stop": ["x"], "seed": 0, "tools": TOOLS, "tool_choice": "auto", "logprobs": False, "metadata": {},
        "response_format": {"type": "json_object"}, "reasoning_effort": "low", "verbosity": "low",
        "parallel_tool_calls": True,
    }  # fmt: skip
    async with asked_by_path(OpenAi(), tmp_path) as (door, double, key):
        response = await door.post(chat(**fields), key, "/proxy/openai/v1/chat/completions")
        assert response.status_code == 200, response.text
        assert "x-ignored-parameters" not in response.headers
        sent = double.asked[0].body
        assert {name: sent.get(name) for name in fields.keys() - {"max_tokens", "metadata"}} == {
            name: value for name, value in fields.items() if name not in ("max_tokens", "metadata")
        }


@each(
    ("message", "is_taken"),
    [
        (
            {"role": "assistant", "content": "Hi", "refusal": None, "parsed": None, "annotations": [], "audio": None},
            True,
        ),
        ({"role": "assistant", "content": [{"type": "text", "text": "Hi", "annotations": None}]}, True),
        ({"role": "assistant", "content": "Hi", "parsed": {"a": None}}, False),
        ({"role": "assistant", "content": [{"type": "text", "text": "Hi", "annotations": [1]}]}, False),
        ({"role": "assistant", "content": "Hi", "annotations": [{}]}, False),
        ({"role": "assistant", "content": "Hi", "weight": 0}, False),
        ({"role": "assistant", "content": "Hi", "audio": {}}, False),
        ({"role": "assistant", "content": "Hi", "prefix": False}, False),
    ],
)
async def test_what_says_nothing_in_a_message_may_be_left_out(
    message: dict[str, Any], is_taken: bool, asking: Asking
) -> None:
    door, _, key = asking
    body = chat(messages=[*MESSAGES, message, *MESSAGES])
    response = await door.post(body, key, "/proxy/openai/v1/chat/completions")
    assert response.status_code == (200 if is_taken else 400), response.text


async def test_a_temperature_that_would_be_lowered_is_refused(tmp_path: Path) -> None:
    async with asked_by_path(Generic(), tmp_path, clamp={"temperature": [0, 1]}) as (door, _, key):
        path = "/proxy/openai/v1/chat/completions"
        assert (await door.post(chat(temperature=1.0), key, path)).status_code == 200
        refused = await door.post(chat(temperature=1.5), key, path)
        assert (refused.status_code, error_of(refused)["param"]) == (400, "temperature")
        own = await door.post(chat(temperature=1.5, model="openai/m-1"), key)
        assert own.status_code == 200  # the gateway's own path lowers it


@each(
    ("query", "status"),
    [
        ("?beta=true", 200),
        ("?key=mine", 200),
        ("?api-key=mine&beta=true", 200),
        ("?provider=groq", 400),
        ("?alt=sse", 400),
    ],
)
async def test_a_query_is_refused_where_it_may_mean_something(query: str, status: int, asking: Asking) -> None:
    door, double, key = asking
    double.asked.clear()
    response = await door.post(chat(), key, f"/proxy/openai/v1/chat/completions{query}")
    assert (response.status_code, len(double.asked)) == (status, status == 200)
    assert double.asked == [] or double.asked[0].path == "/v1/chat/completions"


async def test_who_may_not_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    async with asked_by_path(Generic(), tmp_path) as (door, double, key):
        account_id = await door.account("1")
        path, other = "/proxy/openai/v1/chat/completions", await door.key(account_id)
        test_key = (await door.gateway.keys.create(account_id, limits=OwnLimits(), is_test=True))[1]
        reading = await door.key(account_id, scopes=frozenset({"read"}))
        for shown, status, code in (
            (None, 401, "missing_credentials"),
            ("gw_live_" + "x" * 43, 401, "invalid_api_key"),
            (other, 403, "insufficient_permissions"),
            (test_key, 403, "insufficient_permissions"),
            (reading, 403, "insufficient_scope"),
        ):
            refused = await door.post(chat(), shown, path)
            assert (refused.status_code, error_of(refused)["code"]) == (status, code)
        await let_proxy(door, account_id)
        assert (await door.post(chat(), other, path)).status_code == 200
        assert (await door.post(chat(), test_key, path)).status_code == 403
        await let_proxy(door, account_id, is_let=False)
        assert (await door.post(chat(), other, path)).status_code == 403
        assert len(double.asked) == 1
        assert (await door.post(chat(), key, "/proxy/vllm/v1/chat/completions")).status_code == 404


async def test_it_is_off_unless_the_provider_says_so(tmp_path: Path) -> None:
    async with asked_by_path(Generic(), tmp_path, proxy=False) as (door, double, key):
        for method in ("GET", "POST", "DELETE"):
            response = await door.http.request(
                method, "/proxy/openai/v1/models", headers={"authorization": f"Bearer {key}"}
            )
            assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")
        assert double.asked == []


async def test_one_provider_that_is_asked_so_lets_no_other_be(tmp_path: Path) -> None:
    async with serving(Generic()) as other:
        more = {"providers": [other.settings("closed")]}
        async with serving(Generic()) as double:
            entries = [double.settings(proxy=True), *more["providers"]]
            models = [MODEL | {"provider": "openai"}, MODEL | {"id": "closed/m", "provider": "closed"}]
            async with open_door(tmp_path, environ=ENVIRON, providers=entries, models=models) as door:
                key = await proxying_key(door)
                refused = await door.post(chat(), key, "/proxy/closed/v1/chat/completions")
                assert (refused.status_code, error_of(refused)["code"]) == (404, "unknown_url")
                assert error_of(refused)["message"].endswith("to be asked so: openai.")
                assert other.asked == double.asked == []


async def test_a_hostile_path_reaches_nobody(tmp_path: Path) -> None:
    """As it stands on the wire: a client would put it right."""
    async with asked_by_path(Generic(), tmp_path) as (door, double, key):
        for raw_path in HOSTILE:
            for method in (b"GET", b"POST"):
                head = b"%b %b HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %b\r\nconnection: close\r\n"
                answer = await door.raw(head % (method, raw_path, key.encode()) + b"content-length: 0\r\n\r\n")
                assert int(answer.split(b" ")[1]) in (400, 404), (raw_path, answer)
        assert double.asked == []


@each("host", [b"evil.test", b"api.openai.com", b"127.0.0.1:1", b"metadata.google.internal"])
async def test_the_host_that_a_caller_names_is_nobody_s_address(host: bytes, asking: Asking) -> None:
    door, double, key = asking
    body = chat()
    for target in (b"/proxy/openai/v1/chat/completions", b"http://%b/proxy/openai/v1/chat/completions" % host):
        lines = (
            b"POST %b HTTP/1.1" % target, b"host: %b" % host, b"x-forwarded-host: %b" % host,
            b"authorization: Bearer %b" % key.encode(), b"content-type: application/json", b"connection: close",
            b"content-length: %d" % len(body), b"", body,
        )  # fmt: skip
        assert (await door.raw(b"\r\n".join(lines))).startswith(b"HTTP/1.1 200 ")
    assert {asked.headers["host"] for asked in double.asked} == {double.url.removeprefix("http://")}
    received_nothing_of_the_caller(double, key)


async def test_the_provider_s_want_of_money_is_no_402_and_its_refusals_are_cleaned(tmp_path: Path) -> None:
    async with asked_by_path(OpenAi(), tmp_path) as (door, double, key):
        double.refusal = double.manner.money
        refused = await door.post(chat(), key, "/proxy/openai/v1/chat/completions")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "model_unavailable")
        tells_nothing_of_the_operator(refused)


async def test_limits_and_the_wallet_bound_it(tmp_path: Path) -> None:
    async with asked_by_path(Generic(), tmp_path) as (door, double, _):
        path = "/proxy/openai/v1/chat/completions"
        slow = await proxying_key(door, limits=OwnLimits(1, None, None, None))
        assert [(await door.post(chat(), slow, path)).status_code for _ in range(2)] == [200, 429]
        poor = await proxying_key(door, credit="0")
        refused = await door.post(chat(), poor, path)
        assert (refused.status_code, error_of(refused)["code"]) == (402, "insufficient_balance")
        assert len(double.asked) == 1


async def test_a_refusal_has_the_shape_of_its_client(tmp_path: Path) -> None:
    async with asked_by_path(Generic(), tmp_path) as (door, _, key):
        refused = await door.post(b"{}", key, "/proxy/openai/v1/files", anthropic_version="2023-06-01")
        assert refused.json()["type"] == "error"
        assert refused.json()["error"]["type"] == "not_found_error"
        plain = await door.post(b"{}", key, "/proxy/openai/v1/files")
        assert error_of(plain)["code"] == "unsupported_endpoint"


async def test_a_model_that_is_not_sold_there_is_not_found(tmp_path: Path) -> None:
    async with asked_by_path(Generic(), tmp_path) as (door, double, key):
        refused = await door.post(chat(model="gpt-unsold"), key, "/proxy/openai/v1/chat/completions")
        assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
        bound = await proxying_key(door, models=("other/model",))
        assert (await door.post(chat(), bound, "/proxy/openai/v1/chat/completions")).status_code == 404
        assert double.asked == []


def message(**fields: Any) -> bytes:
    return orjson.dumps({"model": "m-1", "max_tokens": 100, "messages": MESSAGES} | fields)


async def test_messages_to_anthropic_by_its_own_path_pass_as_they_are(tmp_path: Path) -> None:
    async with asked_by_path(Anthropic(), tmp_path) as (door, double, key):
        fields: dict[str, Any] = {
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "tools": [{"name": "weather", "input_schema": {"type": "object", "properties": {}}}],
            "thinking": {"type": "enabled", "budget_tokens": 50}, "top_k": 5,
        }  # fmt: skip
        path = "/proxy/anthropic/v1/messages"
        told = {"anthropic_version": "2023-06-01", "anthropic_beta": "interleaved-thinking-2025-05-14,odd-2030-01-01"}
        for stream in (False, True):
            response = await door.post(message(stream=stream, **fields), key, f"{path}?beta=true", **told)
            assert response.status_code == 200, response.text
            sent = double.asked[-1]
            assert {name: sent.body[name] for name in fields} == fields
            assert sent.headers["anthropic-beta"] == "interleaved-thinking-2025-05-14"
            assert (await door.record(response))["cost_nano"] > 0
        assert "odd-2030-01-01" in response.headers["x-ignored-parameters"]
        refused = await door.post(message(service_tier="auto"), key, path, **told)
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
        assert "service_tier" in refused.json()["error"]["message"]


async def test_a_prompt_is_counted_by_the_provider_that_is_asked_and_counts_as_a_query(tmp_path: Path) -> None:
    settings = {"limits": {"listing_requests_per_minute": 3}}
    async with asked_by_path(Anthropic(), tmp_path, settings) as (door, double, key):
        for path in (
            "/proxy/anthropic/v1/messages/count_tokens",
            "/proxy/anthropic/v1/messages/count_tokens?beta=true",
            "/v1/messages/count_tokens?provider=anthropic",
        ):
            counted = await door.post(message(), key, path)
            assert counted.json() == {"input_tokens": PROMPT}
        assert [asked.path for asked in double.asked] == ["/v1/messages/count_tokens"] * 3
        refused = await door.post(message(), key, "/proxy/anthropic/v1/messages/count_tokens")
        assert refused.status_code == 429
        assert await door.rows("SELECT id FROM requests") == []


WITH_ALL = OpenAi(embeddings=WITH_EMBEDDINGS[OpenAi](), completions=WITH_COMPLETIONS[OpenAi]())
MANY_IDS = list(range(100_000_000, 100_002_000))


async def test_embeddings_and_completions_pass_as_they_are_token_ids_too(tmp_path: Path) -> None:
    async with asked_by_path(WITH_ALL, tmp_path) as (door, double, key):
        for path, fields in (
            ("/proxy/openai/v1/embeddings", {"input": ["a", "b"], "encoding_format": "float", "dimensions": 2}),
            ("/proxy/openai/v1/embeddings", {"input": MANY_IDS}),
            ("/proxy/openai/v1/completions", {"prompt": "Hello", "max_tokens": 5, "temperature": 0.5, "stop": ["x"]}),
            ("/proxy/openai/v1/completions", {"prompt": MANY_IDS, "max_tokens": 5}),
        ):
            response = await door.post(orjson.dumps({"model": "m-1"} | fields), key, path)
            assert response.status_code == 200, response.text
            assert {name: double.asked[-1].body[name] for name in fields} == fields
        for path, fields, param in (
            ("/proxy/openai/v1/embeddings", {"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
            ("/proxy/openai/v1/completions", {"prompt": MANY_IDS, "top_k": 5}, "top_k"),
        ):
            refused = await door.post(orjson.dumps({"model": "m-1"} | fields), key, path)
            assert (refused.status_code, error_of(refused)["param"]) == (400, param)


async def test_a_provider_s_list_has_what_is_sold_of_it(tmp_path: Path) -> None:
    async with asked_by_path(OpenAi(), tmp_path, {"limits": {"listing_requests_per_minute": 2}}) as (door, double, key):
        listed = await door.get("/proxy/openai/v1/models?limit=1000", key)
        assert [(one["id"], one["served_by"]) for one in listed.json()["data"]] == [("sold/model", "openai")]
        assert listed.headers["cache-control"] == "private"
        as_anthropic = await door.get("/proxy/openai/v1/models", key, anthropic_version="2023-06-01")
        assert [one["id"] for one in as_anthropic.json()["data"]] == ["sold/model", "short"]
        assert (await door.get("/proxy/openai/v1/models", key)).status_code == 429
        assert (await door.post(b"{}", key, "/proxy/openai/v1/models")).status_code == 404
        assert double.asked == []


async def test_a_field_is_called_as_the_provider_does(tmp_path: Path) -> None:
    manner = Mistral(embeddings=WITH_EMBEDDINGS[Mistral]())
    async with asked_by_path(manner, tmp_path) as (door, double, key):
        for path, fields, other in (
            ("/proxy/mistral/v1/chat/completions", {"messages": MESSAGES, "random_seed": 7}, {"seed": 7}),
            ("/proxy/mistral/v1/embeddings", {"input": ["a"], "output_dimension": 2}, {"dimensions": 2}),
        ):
            response = await door.post(orjson.dumps({"model": "m-1"} | fields), key, path)
            assert response.status_code == 200, response.text
            assert {name: double.asked[-1].body[name] for name in fields} == fields
            refused = await door.post(orjson.dumps({"model": "m-1"} | fields | other), key, path)
            assert (refused.status_code, error_of(refused)["param"]) == (400, *other)
