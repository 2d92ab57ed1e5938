"""The tool embeddings: what it answers and costs, how it fails, and when it is listed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from mcp_gateway.core.caller import Allowance
from mcp_gateway.core.catalog import Catalog
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.upstream.demo import DemoBackend
from mcp_gateway.core.upstream.demo.backend import DemoResponse
from mcp_gateway.core.upstream.demo.vectors import embedding
from mcp_gateway.tools.embeddings import Embeddings
from tests.cases import each
from tests.doors.mcp_host import Host, call, initialize, lent, open_host
from tests.doors.test_mcp_catalog import ERAS, drop, listening_session, request
from tests.doors.test_mcp_lifetimes import next_message
from tests.doors.test_mcp_transports import MODERN, modern
from tests.origins import Fixed
from tests.patience import becomes

pytestmark = [pytest.mark.gateways, pytest.mark.asyncio(loop_scope="module")]
EMBED: dict[str, Any] = {
    "id": "shop/embed",
    "backend_model": "demo/echo",
    "context_window": 4096,
    "task": "embed",
    "pricing": {"prompt": "0.0000003"},
}
MODELS = (EMBED, {"id": "demo/paced", "features": ("tools",)})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    async with open_host(tmp_path_factory.mktemp("embeddings"), models=MODELS) as host:
        yield host


@pytest.fixture
def host(shared_host: Host) -> Iterator[Host]:
    with lent(shared_host) as host:
        yield host


@pytest_asyncio.fixture(loop_scope="module")
async def own_host(tmp_path: Path) -> AsyncIterator[Host]:
    """One whose catalog the test may change."""
    async with open_host(tmp_path, models=MODELS) as host:
        yield host


async def funded(host: Host) -> str:
    async with open_desk(host.gateway.settings) as desk:
        account = await desk.accounts.create("test")
        await desk.ledger.credit(account.id, 10**9, account.id)
    return account.id


def embed(texts: Any = "hello", **arguments: Any) -> dict[str, Any]:
    return call("embeddings", {"model": "shop/embed", "input": texts, **arguments})


async def called(host: Host, message: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """The result of a call, which fits the tool's own schema."""
    result: dict[str, Any] = (await host.post(message, headers)).json()["result"]
    schema = Embeddings.definition.output_schema
    assert schema is not None
    facts = result["structuredContent"]
    Draft202012Validator(schema).validate(facts | {"embeddings": facts.get("embeddings", [])[:3]})
    assert facts.keys() <= schema["properties"].keys()
    return result


async def told(host: Host, message: dict[str, Any]) -> dict[str, Any]:
    """The facts of a call by a key with money."""
    result = await called(host, message, host.key("k", account_id=await funded(host)))
    assert not result["isError"], result
    facts: dict[str, Any] = result["structuredContent"]
    return facts


def vector_of(text: str, dimensions: int = 16) -> list[float]:
    vector: list[float] = embedding(0, text, dimensions, as_base64=False)["embedding"]
    return vector


async def names_listed(host: Host, version: str = "2025-06-18") -> list[str]:
    answer = await host.post(request("tools/list"), {"MCP-Protocol-Version": version})
    return [tool["name"] for tool in answer.json()["result"]["tools"]]


# What it answers


async def test_a_vector_comes_for_each_text_with_the_bill_in_data_and_the_counts_in_words(host: Host) -> None:
    account_id = await funded(host)
    result = await called(host, embed(["hello", "you there"]), host.key("k", account_id=account_id))
    facts = result["structuredContent"]
    assert facts["embeddings"] == [vector_of("hello"), vector_of("you there")]
    tokens = facts["usage"]["prompt_tokens"]
    assert (facts["dimensions"], facts["model"], facts["usage"]["total_tokens"]) == (16, "shop/embed", tokens)
    text = result["content"][0]["text"]
    assert text == f"2 embeddings of 16 dimensions from shop/embed; {tokens} tokens, {facts['cost_usd']} USD."
    assert len(result["content"]) == 1


async def test_token_ids_are_taken_as_over_http_and_are_one_prompt_however_many(host: Host) -> None:
    one, two = await told(host, embed([5] * 200)), await told(host, embed([[5, 6], [7]]))
    assert [len(facts["embeddings"]) for facts in (one, two)] == [1, 2]
    assert [facts["usage"]["prompt_tokens"] for facts in (one, two)] == [200, 3]


async def test_what_is_told_is_what_is_recorded_and_billed(host: Host) -> None:
    account_id = await funded(host)
    facts = (await called(host, embed(), host.key("k", account_id=account_id)))["structuredContent"]
    record = await host.gateway.history.get(account_id, facts["request_id"])
    nano = facts["usage"]["prompt_tokens"] * 300
    assert (record.cost_nano, record.prompt_tokens) == (nano, facts["usage"]["prompt_tokens"])
    assert (record.door, record.surface) == ("mcp", "embeddings")
    assert facts["cost_usd"] == f"{nano / 10**9:.9f}".rstrip("0")
    assert (await host.gateway.ledger.balance(account_id)).spendable_nano == 10**9 - nano


@each(
    ("texts", "read"),
    [
        ("hello", ["hello"]), (["hello"], ["hello"]), (json.dumps(["a", "b"]), ["a", "b"]), ('["a", "', ['["a", "']),
        ("[1, 2, 3]", ["[1, 2, 3]"]), ("null", ["null"]), ("5", ["5"]), ("{}", ["{}"]),
        (["a", "", "b"], ["a", "", "b"]), (["[1]", "2"], ["[1]", "2"]), ('["a", 1]', ['["a", 1]']),
    ],
)  # fmt: skip
async def test_texts_are_taken_as_hosts_send_them_and_none_for_anything_else(
    host: Host, texts: Any, read: list[str]
) -> None:
    assert (await told(host, embed(texts)))["embeddings"] == [vector_of(text) for text in read]


@each(
    ("more", "dimensions"),
    [({"dimensions": 4}, 4), ({"dimensions": "8"}, 8), ({"dimensions": 2.0}, 2), ({"dimensions": None}, 16),
     ({"encoding_format": "base64"}, 16), ({"stream": True}, 16)],
)  # fmt: skip
async def test_vectors_are_numbers_of_the_length_that_was_asked_for(
    host: Host, more: dict[str, Any], dimensions: int
) -> None:
    facts = await told(host, embed(**more))
    assert facts["embeddings"] == [vector_of("hello", dimensions)]
    assert facts["dimensions"] == dimensions
    assert "ignored_parameters" not in facts


async def test_names_of_a_hosts_own_are_told_as_ignored(host: Host) -> None:
    assert (await told(host, embed(task_progress="x", priority=1)))["ignored_parameters"] == [
        "task_progress",
        "priority",
    ]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "missing_parameter"), ({"input": []}, "missing_parameter"), ({"input": ""}, "missing_parameter"),
    ({"input": "[]"}, "missing_parameter"),
    ({"model": None}, "missing_parameter"), ({"input": 5}, "invalid_type"), ({"input": ["a", 5]}, "invalid_type"),
    ({"input": {"text": "a"}}, "invalid_type"), ({"input": [{"text": "a"}]}, "invalid_type"),
    ({"dimensions": 0}, "invalid_value"), ({"dimensions": "many"}, "invalid_type"),
    ({"dimension": 4}, "unsupported_parameter"), ({"inputs": "a"}, "unsupported_parameter"),
    ({"input": ["a"] * 129}, "invalid_value"), ({"input": json.dumps(["a"] * 129)}, "invalid_value"),
    ({"dimensions": 10**6}, "invalid_value"), ({"model": "nope"}, "model_not_found"),
    ({"dimensions": 99}, "invalid_value"), ({"model": "auto"}, "invalid_value"),
]  # fmt: skip


@each(("arguments", "code"), REFUSED)
async def test_what_cannot_be_is_refused_in_words_and_costs_nothing(
    host: Host, arguments: dict[str, Any], code: str
) -> None:
    account_id = await funded(host)
    message = call("embeddings", {"model": "shop/embed", "input": "hello"} | arguments)
    result = await called(host, message, host.key("k", account_id=account_id))
    assert result["isError"]
    assert result["structuredContent"]["code"] == code
    assert result["content"] == [{"type": "text", "text": result["structuredContent"]["message"]}]
    assert (await host.gateway.ledger.balance(account_id)).spendable_nano == 10**9


@each("inputs", [["a"] * 129, ["a"] * 2049, [[1]] * 129, [[1, 2]] * 2049, json.dumps(["a"] * 2049)])
async def test_the_number_that_is_told_of_too_many_texts_is_the_one_of_a_call(host: Host, inputs: Any) -> None:
    result = await called(host, embed(inputs), host.key("k", account_id=await funded(host)))
    assert result["structuredContent"]["message"].startswith("`input` may have at most 128 texts, not ")


# Who asks


async def test_money_and_limits_are_refused_as_of_a_chat(host: Host) -> None:
    poor = (await called(host, embed(), host.key("poor")))["structuredContent"]
    assert (poor["code"], "top it up" in poor["message"]) == ("insufficient_balance", True)
    key = host.key("hasty", Allowance(1, None, None, None), await funded(host))
    assert not (await called(host, embed(), key))["isError"]
    hasty = (await called(host, embed(), key))["structuredContent"]
    assert hasty["code"] == "requests_per_minute"
    assert f"Wait for {hasty['retry_after_s']} seconds" in hasty["message"]


async def test_a_test_key_is_answered_by_the_demo_and_a_guest_where_the_model_is_open_to_guests(
    host: Host,
) -> None:
    free = (await called(host, embed(), host.key("trial", is_test=True)))["structuredContent"]
    assert (free["embeddings"], free["cost_usd"]) == ([vector_of("hello")], "0.00")
    assert (await called(host, embed(), {}))["structuredContent"]["code"] == "guests_not_allowed"


async def test_a_model_for_chats_is_none_for_embeddings_nor_the_other_way(host: Host) -> None:
    key = host.key("k", account_id=await funded(host))
    result = await host.post(call("chat_completion", {"model": "shop/embed", "messages": [{"role": "user"}]}), key)
    assert result.json()["result"]["structuredContent"]["code"] == "invalid_value"


# Each transport and revision


@pytest.mark.parametrize(("transport", "mode"), ERAS)
async def test_it_is_called_over_each_transport_in_each_era(host: Host, transport: str, mode: str) -> None:
    async with host.client(transport, mode, host.key("k", account_id=await funded(host))) as client:
        assert "embeddings" in [tool.name for tool in (await client.list_tools()).tools]
        answer = await client.call_tool("embeddings", {"model": "shop/embed", "input": ["hello"]})
    assert answer.structured_content["embeddings"] == [vector_of("hello")]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26"])
async def test_revisions_without_structured_results_are_told_the_vectors_as_text(host: Host, version: str) -> None:
    key = host.key("k", account_id=await funded(host))
    answer = (await host.post(embed(), key | {"MCP-Protocol-Version": version})).json()["result"]
    assert "structuredContent" not in answer
    assert orjson.loads(answer["content"][1]["text"])["embeddings"] == [vector_of("hello")]


class Waiting(DemoBackend):
    """A backend that counts, and never comes to embed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.was_cancelled = asyncio.Event(), asyncio.Event()

    async def request(self, method: str, path: str, *about: Any, **more: Any) -> DemoResponse:
        if path != "/v1/embeddings":
            return await super().request(method, path, *about, **more)
        self.is_asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        raise AssertionError


async def test_progress_is_told_while_the_model_is_waited_for(host: Host) -> None:
    key = host.key("k", account_id=await funded(host))
    arguments = embed()["params"]["arguments"]
    answer = await host.post(call("embeddings", arguments, progressToken="p"), key)
    events = [orjson.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data")]
    assert events[0]["params"] == {"progressToken": "p", "progress": 0.0, "message": "Waiting for the model."}
    assert events[-1]["result"]["structuredContent"]["embeddings"] == [vector_of("hello")]


async def test_a_cancelled_call_leaves_its_backend_and_holds_nothing(host: Host) -> None:
    account_id = await funded(host)
    waiting = Waiting()
    host.gateway.pool.demo.origin = waiting
    session = await host.open_session(host.key("k", account_id=account_id))
    posting = asyncio.ensure_future(host.post(embed(), session))
    await waiting.is_asked.wait()
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    await host.post(cancelled, session)
    await waiting.was_cancelled.wait()
    await posting
    await becomes(lambda: host.gateway.ledger.balance(account_id), lambda balance: not balance.held_nano)


# What is long, or odd


def answer_of(vectors: list[Any], prompt_tokens: int = 5) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return orjson.dumps({"object": "list", "model": "tiny", "data": data, "usage": usage})


async def test_of_vectors_that_fit_in_no_message_the_first_are_told_and_how_to_have_the_others(host: Host) -> None:
    vector = [0.012345678901234567] * 4096
    host.gateway.pool.demo.origin = Fixed(answer_of([vector] * 64))
    result = await called(host, embed(["a"] * 64), host.key("k", account_id=await funded(host)))
    assert 900_000 < len(orjson.dumps(result)) < 1024 * 1024
    facts = result["structuredContent"]
    assert 1 < len(facts["embeddings"]) < 64
    assert set(map(len, facts["embeddings"])) == {4096}
    assert f"the first {len(facts['embeddings'])} of 64" in facts["note"]
    assert facts["note"] in result["content"][0]["text"]
    assert facts["usage"]["prompt_tokens"] == 5


@each(
    "vectors",
    [[], [["a"]], [[]], ["AAAA"], [[[0.5]]], [{"x": 1}], [[True]], [[None]], [[0.5] * 300_000]],
)
async def test_an_answer_that_no_message_can_tell_is_told_of_with_its_bill(host: Host, vectors: list[Any]) -> None:
    host.gateway.pool.demo.origin = Fixed(answer_of(vectors))
    result = await called(host, embed(), host.key("k", account_id=await funded(host)))
    facts = result["structuredContent"]
    assert not result["isError"]
    assert "HTTP API" in facts["note"] == result["content"][0]["text"]
    assert {"cost_usd", "usage", "model", "request_id"} <= facts.keys()
    assert "embeddings" not in facts


async def test_no_more_vectors_are_told_than_were_asked_for(host: Host) -> None:
    host.gateway.pool.demo.origin = Fixed(answer_of([[0.5], [0.25], [1.0]]))
    result = await called(host, embed(["a", "b"]), host.key("k", account_id=await funded(host)))
    assert result["structuredContent"]["embeddings"] == [[0.5], [0.25]]
    assert result["content"][0]["text"].startswith("2 embeddings of 1 dimensions")


async def test_numbers_that_were_written_shortly_do_not_make_a_message_too_long(host: Host) -> None:
    body = answer_of([[0.5]] * 100).replace(b"[0.5]", b"[" + b",".join([b"1e15"] * 1500) + b"]")
    host.gateway.pool.demo.origin = Fixed(body)
    result = await called(host, embed(["a"] * 100), host.key("k", account_id=await funded(host)))
    assert len(orjson.dumps(result)) < 1024 * 1024
    assert result["structuredContent"]["embeddings"][0] == [1e15] * 1500


# When it is listed


async def test_it_is_listed_only_while_the_catalog_has_a_model_for_it_and_listeners_hear_of_it(own_host: Host) -> None:
    models = own_host.gateway.published.current
    async with listening_session(own_host) as (_, lines):
        assert "embeddings" in await names_listed(own_host)
        drop(own_host, "shop/embed")
        heard = [(await next_message(lines))["method"] for _ in range(2)]
        assert heard == ["notifications/tools/list_changed", "notifications/resources/list_changed"]
        assert "embeddings" not in await names_listed(own_host)
        drop(own_host, "demo/paced")
        assert (await next_message(lines))["method"] == "notifications/resources/list_changed"
        own_host.gateway.published.replace(Catalog(models.values()))
        assert (await next_message(lines))["method"] == "notifications/tools/list_changed"
        assert "embeddings" in await names_listed(own_host)


async def test_who_listens_in_the_newest_revision_hears_of_the_tools_that_were_asked_about(own_host: Host) -> None:
    async with own_host.client("http", MODERN) as client, client.listen(tools_list_changed=True) as subscription:
        assert subscription.honored.tools_list_changed
        drop(own_host, "shop/embed")
        assert type(await anext(aiter(subscription))).__name__ == "ToolsListChanged"


async def test_a_call_of_it_where_no_model_embeds_says_so(own_host: Host) -> None:
    drop(own_host, "shop/embed")
    result = await called(own_host, embed(), own_host.key("k"))
    assert result["structuredContent"]["code"] == "model_not_found"


async def test_each_era_is_told_that_the_list_of_tools_may_change(host: Host) -> None:
    legacy = (await host.post(initialize("2025-11-25"))).json()["result"]["capabilities"]
    newest = (await host.post(*modern(request("server/discover")))).json()["result"]["capabilities"]
    assert legacy["tools"] == newest["tools"] == {"listChanged": True}


async def test_the_list_of_models_says_what_a_model_is_for_alone(host: Host) -> None:
    answer = await host.post(call("list_models", {}), host.key("k"))
    rows = answer.json()["result"]["structuredContent"]["models"]
    assert [row["features"] for row in rows] == [[], ["tools"], ["tools"]]
    assert {row["id"]: row.get("task") for row in rows} == {"shop/embed": "embed", "demo/paced": None, "auto": None}
