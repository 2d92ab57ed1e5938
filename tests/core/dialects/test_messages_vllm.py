"""What vLLM is sent of a message, and what is made of its answers in one piece."""

from copy import deepcopy
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.messages_vllm import MessagesToVllm
from mcp_gateway.core.dialects.messages_vllm_fields import FIELDS, messages_to_vllm
from mcp_gateway.core.dialects.sifting import MAX_SCHEMA_BYTES, FieldUse
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.messages import COUNTED_MESSAGES, MESSAGES
from mcp_gateway.core.surfaces.surface import Ask, Terms
from mcp_gateway.core.surfaces.usage import Usage
from tests.captured import captured
from tests.cases import each

TO_VLLM = MessagesToVllm(messages_to_vllm())
HELLO = [{"role": "user", "content": "hello"}]
LINE = "x-anthropic-billing-header: cc_version=2.1.332; cch=a1b2c"
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def ask(**fields: Any) -> Ask:
    body = deepcopy({"model": "public/tiny", "max_tokens": 100, "messages": HELLO} | fields)
    return MESSAGES.read(body, len(orjson.dumps(body)))


AS_ASKED = Terms(100, 100)


def sent(terms: Terms = AS_ASKED, **fields: Any) -> dict[str, Any]:
    asked = ask(**fields)
    TO_VLLM.sift(asked.body)
    body: dict[str, Any] = orjson.loads(TO_VLLM.body(asked, terms, "tiny", "acc_1", is_stream=asked.is_stream))
    return body


def ignored(**fields: Any) -> tuple[str, ...]:
    return TO_VLLM.sift(ask(**fields).body)


def refusal(**fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        TO_VLLM.sift(ask(**fields).body)
    return refused.value


def test_a_body_is_renamed_bounded_and_kept_apart_from_other_accounts() -> None:
    body = sent(Terms(7, 50), stream=True, temperature=0)
    assert (body["model"], body["max_tokens"], body["stream"], body["temperature"]) == ("tiny", 7, True, 0)
    assert body["cache_salt"]
    assert "acc_1" not in body["cache_salt"]
    assert sent(Terms(None, 50))["max_tokens"] == 50


@each("name", sorted(FIELDS))
def test_each_field_of_the_table_is_passed_left_out_and_told_or_refused(name: str) -> None:
    value: Any = {"model": "m", "messages": HELLO, "max_tokens": 5, "top_k": 4, "stream": True}.get(name, {"a": 1})
    value = [{"name": "t", "input_schema": {}}] if name == "tools" else "text" if name == "system" else value
    match FIELDS[name]:
        case FieldUse.PASSED | FieldUse.PRICED | FieldUse.BOUNDED:
            assert name in sent(**{name: value})
            assert [told for told in ignored(**{name: value}) if told == name] == []
        case FieldUse.STRIPPED:
            assert name == "cache_salt" or name not in sent(**{name: value})
            assert ignored(**{name: value}) == (name,)
        case FieldUse.REFUSED:
            assert refusal(**{name: value}).code == "unsupported_parameter"


def test_unknown_fields_are_left_out_and_told_unless_they_name_what_is_elsewhere() -> None:
    assert ignored(invented={"a": 1}, other=2) == ("invented", "other")
    assert "invented" not in sent(invented=1)
    assert refusal(image_url="http://10.0.0.1/").code == "unsupported_parameter"


@each("system", [
    LINE, f"{LINE}\n", f"  {LINE}", [{"type": "text", "text": LINE}], LINE.upper(), "", [],
])  # fmt: skip
def test_the_attribution_line_is_removed_and_an_empty_prompt_with_it(system: Any) -> None:
    assert "system" not in sent(system=system)


@each("system", [f"{LINE}\nBe brief.", f"{LINE}\r\n\r\nBe brief.", "Be brief."])
def test_what_follows_the_attribution_line_stays(system: str) -> None:
    assert sent(system=system)["system"] == "Be brief."
    blocks = [{"type": "text", "text": LINE}, {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
    assert sent(system=blocks)["system"] == [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    ]
    later = [*HELLO, {"role": "system", "content": system}]
    assert sent(messages=later)["messages"][1]["content"] == "Be brief."


def test_a_line_that_quotes_it_stays() -> None:
    assert sent(system=f"Never write {LINE}")["system"] == f"Never write {LINE}"
    said = [{"role": "user", "content": LINE}]
    assert sent(messages=said)["messages"] == said


@each("content", [
    [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
    [{"type": "thinking", "thinking": "a", "signature": "b"}, {"type": "redacted_thinking", "data": "x"}],
    [{"type": "tool_use", "id": "t", "name": "n", "input": {"url": "http://a", "deep": [1]}}],
    [{"type": "tool_result", "tool_use_id": "t", "content": "done", "is_error": False}],
    [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "a"}, IMAGE]}],
    [IMAGE],
])  # fmt: skip
def test_blocks_that_vllm_knows_pass_as_they_are(content: list[Any]) -> None:
    said = [{"role": "user", "content": content}]
    assert sent(messages=said)["messages"] == said
    assert ignored(messages=said) == ()


@each("kind", ["document", "server_tool_use", "web_search_tool_result", "image_url", "container_upload", ""])
@pytest.mark.parametrize("is_inner", [False, True])
def test_other_blocks_are_refused_wherever_they_stand(kind: str, is_inner: bool) -> None:
    block: dict[str, Any] = {"type": kind, "source": {"type": "url", "url": "http://10.0.0.1/"}}
    block = {"type": "tool_result", "tool_use_id": "t", "content": [block]} if is_inner else block
    assert refusal(messages=[{"role": "user", "content": [block]}]).code == "unsupported_parameter"


def test_keys_of_blocks_that_are_unknown_are_left_out_and_told() -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "a", "odd": 1}], "name": "x"}]
    assert ignored(messages=said) == ("messages[].name", "messages[].content[].odd")


@each("tool", [
    {"type": "web_search_20260318", "name": "web_search"}, {"type": "bash_20250124", "name": "bash"},
    {"type": "computer_20251124", "name": "computer", "input_schema": {}},
])  # fmt: skip
def test_tools_that_do_not_run_at_the_client_are_refused(tool: dict[str, Any]) -> None:
    assert refusal(tools=[tool]).param == "tools[0]"


def test_own_tools_pass_and_an_empty_list_of_them_is_none() -> None:
    tool = {
        "name": "t",
        "input_schema": {},
        "strict": True,
        "defer_loading": True,
        "cache_control": {},
        "type": "custom",
    }
    assert sent(tools=[tool])["tools"] == [tool]
    assert "tools" not in sent(tools=[])


def test_a_schema_that_is_too_large_is_refused() -> None:
    schema = {"format": {"type": "json_schema", "schema": {"enum": ["x" * MAX_SCHEMA_BYTES]}}}
    assert refusal(output_config=schema).code == "invalid_value"
    assert sent(output_config={"effort": "high", "odd": 1})["output_config"] == {"effort": "high"}


def test_a_prompt_is_counted_by_what_it_is_made_of() -> None:
    asked = ask(system="s", tools=[{"name": "t", "input_schema": {}}], temperature=1, stream=True)
    counting = TO_VLLM.counting(asked, "tiny")
    assert counting.path == "/v1/messages/count_tokens"
    assert orjson.loads(counting.body).keys() == {"model", "messages", "system", "tools"}


@each("fields", [
    {"max_tokens": None}, {"max_tokens": 0}, {"max_tokens": "many"}, {"messages": []}, {"messages": "hello"},
    {"messages": [{"content": "a"}]}, {"messages": ["a"]}, {"messages": [{"role": "user"}]}, {"model": ""},
    {"messages": [{"role": "user", "content": ["a"]}]}, {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, {"stream": "yes"}, {"system": 1},
    {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
    {"system": ["a"]}, {"tools": {}}, {"messages": [{"role": "user", "content": [{"type": "text"}] * 10_000}]},
])  # fmt: skip
def test_what_is_malformed_is_refused_before_anything_is_sent(fields: dict[str, Any]) -> None:
    with pytest.raises(GatewayError) as refused:
        ask(**fields)
    assert refused.value.status == 400


def test_a_count_needs_no_limit() -> None:
    body = {"model": "m", "messages": HELLO}
    assert COUNTED_MESSAGES.read(body, 10).output_limit is None


@each("source", [
    IMAGE["source"], {"type": "base64", "media_type": "image/PNG", "data": "AA\nAA"},
    {"type": "url", "url": "data:image/png;base64,AAAA"},
])  # fmt: skip
def test_images_are_looked_at_as_data(source: dict[str, Any]) -> None:
    asked = ask(messages=[{"role": "user", "content": [{"type": "image", "source": source}]}])
    assert asked.prompt.images == ("data:image/png;base64,AAAA",)


def test_an_image_s_bytes_are_no_text() -> None:
    long = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 9000}}
    for content in ([long], [{"type": "tool_result", "tool_use_id": "t", "content": [long]}]):
        assert ask(messages=[{"role": "user", "content": content}]).prompt.text_bytes < 300


@each("case", ["540_messages", "545_messages_system", "849_messages_reasoning"])
async def test_a_captured_answer_is_as_anthropic_writes_it(case: str) -> None:
    sent_body = orjson.loads(captured(case).body)
    whole = await TO_VLLM.read(captured(case).body, ask())
    body = orjson.loads(whole.body)
    assert body["id"] == sent_body["id"].replace("chatcmpl-", "msg_")
    assert (body["model"], body["stop_sequence"], body["content"]) == ("public/tiny", None, sent_body["content"])
    assert body["usage"] == {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0} | sent_body["usage"]
    assert whole.usage is not None
    told = sent_body["usage"]
    assert whole.usage.prompt_tokens == told["input_tokens"] + told.get("cache_read_input_tokens", 0)
    assert whole.is_usage_exact


async def test_a_usage_that_is_not_told_is_written_into_the_answer() -> None:
    body = captured("540_messages").body.replace(b',"usage":{"input_tokens":14,"output_tokens":6}', b"")
    whole = await TO_VLLM.read(body, ask())
    assert (whole.usage, whole.is_usage_exact) == (None, False)
    assert await TO_VLLM.text_bytes(whole.body) == len(b'ationher exist"11 \\')
    told = orjson.loads(await TO_VLLM.with_usage(whole.body, Usage(9, 8, 2)))["usage"]
    assert (told["input_tokens"], told["cache_read_input_tokens"], told["output_tokens"]) == (7, 2, 8)


async def test_an_answer_without_a_reason_for_its_end_broke_off() -> None:
    body = captured("540_messages").body.replace(b'"stop_reason":"max_tokens",', b"")
    assert (await TO_VLLM.read(body, ask())).finish_reason == "abort"


@each("body", [
    b"", b"{}", b"[]", b"null", b'{"type":"message"}', b'{"type":"message","content":["a"]}', b"{" * 300,
    b'{"type":"error","error":{"message":"no"}}', b'{"type":"message","content":{}}', b"<html>",
])  # fmt: skip
async def test_what_is_no_message_is_an_error(body: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        await TO_VLLM.read(body, ask())
    assert refused.value.code == "backend_error"


async def test_large_integers_of_a_tool_s_input_pass_exactly() -> None:
    tool = b'{"type":"tool_use","id":"t","name":"n","input":{"n":123456789012345678901234567890}}'
    body = captured("540_messages").body.replace(b'{"type":"text","text":"ationher exist\\"11 \\\\"}', tool)
    assert b"123456789012345678901234567890" in (await TO_VLLM.read(body, ask())).body
