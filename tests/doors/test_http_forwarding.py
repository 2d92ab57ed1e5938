"""What a backend is sent for a chat, and what of its answer's head comes back."""

import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.dialects.sifting import FieldUse
from mcp_gateway.core.dialects.vllm_fields import FIELDS
from tests.cases import each
from tests.replaying import Asked, ReplayingBackend, whole
from tests.serving import MESSAGES, Door, bearer, chat_body, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = {"id": "public/name", "backend_model": "org/tiny", "context_window": 2048, "max_output_tokens": 512}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend, str]]:
    async with (
        ReplayingBackend("org/tiny") as backend,
        open_door(
            tmp_path_factory.mktemp("forwarding"),
            vllm_urls=[backend.url],
            vllm_api_key="backend-secret",
            models=[MODEL],
            guests={"max_tokens": 64},
        ) as door,
    ):
        yield door, backend, await door.key()
        await door.nothing_is_left()


@pytest.mark.parametrize("length", [1000, 60_000, 70_000, 300_000, 3_000_000])
async def test_an_answer_of_any_length_comes_whole_with_the_public_name(
    served: tuple[Door, ReplayingBackend, str], length: int
) -> None:
    door, backend, key = served
    choice = {"index": 0, "message": {"role": "assistant", "content": "é\\" * length}, "finish_reason": "stop"}
    answer = {
        "id": "c",
        "model": "org/tiny",
        "choices": [choice],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    backend.answer_with(whole(orjson.dumps(answer)))
    response = await door.chat(key, model="public/name")
    assert orjson.loads(response.content) == answer | {"model": "public/name"}
    assert int(response.headers["content-length"]) == len(response.content)
    record = await door.record(response)
    assert (record["prompt_tokens"], record["completion_tokens"], record["finish_reason"]) == (3, 2, "stop")


async def sent_for(served: tuple[Door, ReplayingBackend, str], **fields: Any) -> dict[str, Any]:
    """The body that the backend receives for a chat with these fields."""
    door, backend, key = served
    backend.answer_with()
    response = await door.chat(key, **{"model": "public/name"} | fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = backend.chats[0].json
    return body


async def test_the_model_goes_out_under_the_backend_s_name_and_all_else_as_it_came(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    fields = {
        "max_tokens": 7,
        "temperature": 0.25,
        "seed": 2**62,
        "stop": ["\n", "é"],
        "logit_bias": {"5": -1.5},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_object"},
        "metadata": {"nobody": ["knows", None, {"this": True}]},
        "chat_template_kwargs": {"enable_thinking": False},
    }
    sent = await sent_for(served, **fields)
    assert sent.pop("cache_salt")
    assert sent == {"model": "org/tiny", "messages": MESSAGES} | fields


@each(
    "name", sorted(name for name, use in FIELDS.items() if use is FieldUse.STRIPPED and not name.startswith("guided_"))
)
async def test_a_field_that_reaches_past_its_tenant_does_not_go_out_and_is_named(
    served: tuple[Door, ReplayingBackend, str], name: str
) -> None:
    door, backend, key = served
    backend.answer_with()
    response = await door.chat(key, model="public/name", **{name: "mine"})
    assert response.headers["x-ignored-parameters"] == name
    assert backend.chats[0].json.get(name) != "mine"


async def test_what_is_in_no_table_is_dropped_and_named_and_a_stream_says_so_too(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    door, backend, key = served
    backend.answer_with()
    fields = {"unheard_of": {"deep": 1}, "a,b\r\né": 2, "lora_name": "x", "nothing": None}
    message = {"role": "user", "content": "x", "uuid": "theirs", "name": "n"}
    response = await door.chat(key, model="public/name", messages=[message] * 2, **fields)
    told = r"unheard_of, a\x2cb\r\n\xe9, lora_name, messages[].uuid"
    assert response.headers["x-ignored-parameters"] == told
    assert backend.chats[0].json.keys() == {"model", "messages", "cache_salt"} | (
        {"max_tokens"} & backend.chats[0].json.keys()
    )
    assert backend.chats[0].json["messages"] == [{"role": "user", "content": "x", "name": "n"}] * 2
    backend.answer_with()
    streamed = await door.chat(key, model="public/name", stream=True, unheard_of=1)
    assert streamed.headers["x-ignored-parameters"] == "unheard_of"
    assert "x-ignored-parameters" not in (await door.chat(key, model="public/name")).headers


async def test_of_many_unknown_names_some_are_told(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, _, key = served
    response = await door.chat(key, model="public/name", **{f"x{n}" * 50: n for n in range(30)})
    told = response.headers["x-ignored-parameters"].split(", ")
    assert len(told) == 21
    assert told[-1] == "and 10 more"
    assert len(response.headers["x-ignored-parameters"]) < 4096


async def test_an_integer_beyond_64_bits_goes_out_as_it_came(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, backend, key = served
    backend.answer_with()
    messages = orjson.dumps(MESSAGES)
    raw = b'{"model":"public/name","messages":%b,"seed":%d,"max_tokens":%d}' % (messages, 2**70, 2**70)
    assert (await door.post(raw, key)).status_code == 200
    assert b'"seed":1180591620717411303424' in backend.chats[0].body


@each("number", [2**63, 2**64, -(2**64), 2**70, 10**30])
@each("is_text", [False, True])
async def test_integers_of_an_mcp_call_keep_every_digit(
    served: tuple[Door, ReplayingBackend, str], number: int, is_text: bool
) -> None:
    door, backend, key = served
    backend.answer_with()
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"minimum": number}}}}}
    arguments = chat_body(model="public/name", seed=number, tools=[tool])
    given = json.dumps(arguments) if is_text else arguments
    params = {"name": "chat_completion", "arguments": given, "_meta": {"progressToken": number}}
    call = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
    headers = {"mcp-protocol-version": "2025-06-18", "accept": "application/json, text/event-stream"}
    answer = await door.post(json.dumps(call).encode(), key, "/v1/mcp", **headers)
    assert b'"id":%d' % number in answer.content
    assert b'"isError":true' not in answer.content
    assert b'"seed":%d' % number in backend.chats[0].body
    assert b'"minimum":%d' % number in backend.chats[0].body
    assert backend.chats[0].json["max_tokens"] == 512


async def test_usage_is_asked_for_in_every_frame_of_a_stream_and_not_otherwise(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    asked = {"include_usage": True, "continuous_usage_stats": True}
    assert (await sent_for(served, stream=True))["stream_options"] == asked
    options = {"include_usage": False, "continuous_usage_stats": False, "include_obfuscation": True}
    assert (await sent_for(served, stream=True, stream_options=options))["stream_options"] == options | asked
    assert "stream_options" not in await sent_for(served)


async def test_without_max_tokens_the_model_s_most_is_sent(served: tuple[Door, ReplayingBackend, str]) -> None:
    assert (await sent_for(served))["max_tokens"] == 512
    assert (await sent_for(served, max_tokens=None))["max_tokens"] == 512


async def test_every_field_that_governs_length_is_capped(served: tuple[Door, ReplayingBackend, str]) -> None:
    huge = {"max_tokens": 10**9, "max_completion_tokens": 2**63, "min_tokens": 10**12}
    sent = await sent_for(served, **huge)
    assert {name: sent[name] for name in huge} == dict.fromkeys(huge, 512)
    sent = await sent_for(served, max_completion_tokens=600, min_tokens=3)
    assert (sent["max_completion_tokens"], sent["min_tokens"]) == (512, 3)
    assert sent.get("max_tokens", 512) == 512


async def test_a_lowered_max_tokens_is_told_in_a_header_and_an_absent_one_is_not(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    door, _, key = served
    lowered = await door.chat(key, model="public/name", max_tokens=513)
    assert lowered.headers["x-max-tokens-clamped"] == "512"
    for fields in ({"max_tokens": 512}, {}):
        assert "x-max-tokens-clamped" not in (await door.chat(key, model="public/name", **fields)).headers


async def test_a_guest_s_length_is_capped_lower(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, backend, _ = served
    backend.answer_with()
    response = await door.chat(model="public/name", max_completion_tokens=100, min_tokens=90)
    sent = backend.chats[0].json
    assert (sent["max_completion_tokens"], sent["min_tokens"]) == (64, 64)
    assert response.headers["x-max-tokens-clamped"] == "64"


@pytest.mark.parametrize(
    ("old", "new"),
    [("guided_json", "json"), ("guided_regex", "regex"), ("guided_choice", "choice"), ("guided_grammar", "grammar")],
)
async def test_guided_fields_that_vllm_now_ignores_are_translated(
    served: tuple[Door, ReplayingBackend, str], old: str, new: str
) -> None:
    sent = await sent_for(served, **{old: ["a", "b"]})
    assert old not in sent
    assert sent["structured_outputs"] == {new: ["a", "b"]}


async def test_accounts_have_cache_salts_of_their_own(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, backend, key = served
    account_id = await door.account()
    keys = [key, await door.key(account_id), await door.key(account_id)]
    backend.answer_with()
    for one_key in keys:
        await door.chat(one_key, model="public/name")
    one, other, same = [asked.json["cache_salt"] for asked in backend.chats]
    assert one != other == same
    assert account_id not in other


async def heads(served: tuple[Door, ReplayingBackend, str], **headers: str) -> tuple[Asked, Any]:
    door, backend, key = served
    backend.answer_with()
    body = orjson.dumps(chat_body(model="public/name"))
    return_headers = bearer(key) | {"content-type": "application/json"} | headers
    response = await door.http.post("/v1/chat/completions", content=body, headers=return_headers)
    assert response.status_code == 200
    return backend.chats[0], response


async def test_only_traces_pass_from_a_client_s_headers_to_a_backend(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    refused = {
        "x-vllm-priority": "-9", "x-session-id": "s", "x-data-parallel-rank": "1", "cookie": "c=1",
        "x-request-id": "mine", "x-forwarded-for": "192.0.2.1", "openai-organization": "o", "accept-encoding": "gzip",
    }  # fmt: skip
    asked, response = await heads(served, **trace, **refused)
    expected = {"host", "content-length", "content-type", "authorization", "x-request-id", *trace}
    assert set(asked.headers) - {"connection"} == expected
    assert {name: asked.headers[name] for name in trace} == trace
    assert asked.headers["authorization"] == "Bearer backend-secret"
    assert asked.headers["x-request-id"] == response.headers["x-request-id"]


async def test_a_trace_of_another_form_is_dropped_without_a_word(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    asked, _ = await heads(served, traceparent="x" * 3000, tracestate="a=b")
    assert not {"traceparent", "tracestate"} & set(asked.headers)


async def test_a_request_id_is_ours_and_the_client_s_own_is_echoed_and_recorded_beside_it(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    door, _, _ = served
    _, first = await heads(served, **{"x-request-id": "mine"})
    _, second = await heads(served, **{"x-client-request-id": "mine", "x-request-id": "other"})
    assert first.headers["x-client-request-id"] == second.headers["x-client-request-id"] == "mine"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert (await door.record(first))["client_request_id"] == "mine"


@pytest.mark.parametrize("client_id", ["x" * 129, "with space", "tab\tbed", ""])
async def test_a_client_s_id_that_is_long_or_not_visible_ascii_is_not_taken(
    served: tuple[Door, ReplayingBackend, str], client_id: str
) -> None:
    _, response = await heads(served, **{"x-client-request-id": client_id})
    assert "x-client-request-id" not in response.headers


async def test_nothing_of_the_backend_s_head_comes_back(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, backend, key = served
    backend.answer_with(whole(b'{"error":"Unauthorized"}', 401))
    refused = await door.chat(key, model="public/name")
    _, served_well = await heads(served)
    for response in (refused, served_well):
        assert not {"server", "vary", "www-authenticate", "set-cookie"} & set(response.headers)
