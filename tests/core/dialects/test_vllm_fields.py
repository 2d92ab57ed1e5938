"""What the table lets through of a chat: fields, message keys, part keys, template names and constraints."""

from copy import deepcopy
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.sifting import (
    MAX_GRAMMAR_BYTES,
    MAX_REGEX_BYTES,
    MAX_SCHEMA_BYTES,
    FieldUse,
    first_names,
)
from mcp_gateway.core.dialects.vllm_fields import FIELDS, ChatFields
from mcp_gateway.core.errors import GatewayError
from tests.captured import captures
from tests.cases import each

VLLM_REQUEST_FIELDS = set(
    """
    add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt chat_template chat_template_kwargs
    continue_final_message documents ec_transfer_params echo frequency_penalty ignore_eos include_reasoning
    include_stop_str_in_output kv_transfer_params length_penalty logit_bias logprob_token_ids logprobs
    max_completion_tokens max_tokens media_io_kwargs messages min_p min_tokens mm_processor_kwargs model n
    parallel_tool_calls presence_penalty priority prompt_logprobs reasoning_effort repetition_detection
    repetition_penalty request_id response_format return_mm_kwargs return_prompt_text return_token_ids
    return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start seed session_id skip_special_tokens
    spaces_between_special_tokens stop stop_token_ids stream stream_interval stream_options structured_outputs
    temperature thinking_token_budget tool_choice tools top_k top_logprobs top_p truncate_prompt_tokens truncation_side
    use_beam_search user vllm_xargs watermarking
""".split()  # noqa: SIM905 - a list of so many words would be longer than this file
)
"""The properties of ChatCompletionRequest in vLLM 0.32 and 0.33, as its source declares them."""
PNG = "data:image/png;base64,AAAA"


def sifted(*, fields: ChatFields | None = None, **body: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is left of a body, and the names told."""
    whole = deepcopy({"model": "m", "messages": [{"role": "user", "content": "x"}]} | body)
    ignored = (fields or ChatFields()).sift(whole)
    return {name: value for name, value in whole.items() if name in body}, ignored


def part_left(part: Any) -> Any:
    left, _ = sifted(messages=[{"role": "user", "content": [part]}])
    return left["messages"][0]["content"][0]


def refused(**body: Any) -> tuple[str, str | None]:
    with pytest.raises(GatewayError) as raised:
        sifted(**body)
    return raised.value.code, raised.value.param


def test_no_field_of_vllm_s_is_without_a_row() -> None:
    assert FIELDS.keys() >= VLLM_REQUEST_FIELDS


def test_what_vllm_was_sent_in_the_captures_has_a_row_unless_it_was_nonsense() -> None:
    sent = [orjson.loads(each.request_body) for each in captures() if each.is_chat and each.request_body[:1] == b"{"
            and each.is_request_whole and each.status == 200]  # fmt: skip
    named = {name for body in sent for name in body}
    assert len(named) > 50
    assert named - FIELDS.keys() <= {"foo", "bar"}


@each("name", sorted(name for name, use in FIELDS.items() if use in (FieldUse.PASSED, FieldUse.PRICED)))
def test_a_field_that_passes_passes_whatever_it_holds(name: str) -> None:
    value: Any = [{"role": "user", "content": ""}] if name == "messages" else {"any": ["thing", None]}
    assert sifted(**{name: value}) == ({name: value}, ())


@pytest.mark.parametrize("value", [{"deep": {"uuid": 1, "image_url": "x"}}, {"image_path": "/etc/passwd"}])
def test_schemas_and_metadata_are_content(value: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": value}}
    body: dict[str, Any] = {"tools": [tool],
            "response_format": {"type": "json_schema", "json_schema": {"schema": value}},
            "structured_outputs": {"json": value}, "metadata": value}  # fmt: skip
    assert sifted(**body) == (body, ())


@each("media", ["image_url", "audio_url", "video_url", "input_audio", "image_embeds", "file"])
@each(
    "part",
    [
        {"type": "text", "text": "x", "uuid": "u"},
        {"type": "refusal", "refusal": "x"},
        {"type": "thinking", "thinking": "x", "uuid": None},
        {"type": "output_text", "text": "x"},
    ],
)
def test_media_under_another_type_are_refused(part: dict[str, Any], media: str) -> None:
    message = {"role": "user", "content": ["a", part | {media: {"url": "http://192.0.2.1/"}}]}
    where = f"messages[1].content[1].{media}"
    assert refused(messages=[{"role": "user", "content": "x"}, message]) == ("unsupported_parameter", where)
    assert media not in part_left(part | {media: None})


@each(
    "part",
    [
        {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}},
        {"type": "refusal", "refusal": "x"},
        {"type": "thinking", "thinking": "x", "closed": True, "signature": "s"},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "image_url", "image_url": PNG},
        "plain",
    ],
)
def test_a_part_passes_with_the_keys_of_its_type_and_never_a_uuid(part: Any) -> None:
    assert part_left(part) == part
    if isinstance(part, dict):
        assert part_left(part | {"uuid": "theirs", "unheard": 1}) == part


def test_an_image_s_own_object_has_two_keys() -> None:
    image = {"url": PNG, "detail": "low"}
    part = {"type": "image_url", "image_url": image | {"uuid": "theirs", "path": None}}
    assert part_left(part) == {"type": "image_url", "image_url": image}


@pytest.mark.parametrize("kind", ["input_text", "output_text"])
def test_the_names_that_the_responses_api_has_for_text_are_text(kind: str) -> None:
    assert part_left({"type": kind, "text": "x", "annotations": []}) == {"type": "text", "text": "x"}


@each("kind", ["audio_url", "video_url", "input_audio", "file", "", None, 5, ["text"], "image_embeds"])
def test_parts_of_another_type_are_refused(kind: Any) -> None:
    content = [{"type": kind, "text": "x"}]
    assert refused(messages=[{"role": "user", "content": content}]) == (
        "unsupported_parameter",
        "messages[0].content[0]",
    )


def test_what_agents_send_back_of_an_answer_passes() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "index": 0,
            "extra_content": {"google": {"thought_signature": "s"}}}  # fmt: skip
    message = {"role": "assistant", "content": None, "name": "n", "reasoning": "r", "reasoning_content": "r",
               "thinking": "t", "signature": "s", "refusal": None, "tool_calls": [call],
               "cache_control": {"type": "ephemeral"}}  # fmt: skip
    assert sifted(messages=[message]) == ({"messages": [message]}, ())
    left, ignored = sifted(messages=[message | {"audio": {"id": "a"}, "annotations": [],
                                                "tool_calls": [call | {"uuid": 1}]}])  # fmt: skip
    assert left == {"messages": [message]}
    assert set(ignored) == {"messages[].audio", "messages[].tool_calls[].uuid"}


@each(
    ("name", "value"),
    [
        ("web_search_options", {}), ("audio", {"voice": "x"}), ("modalities", ["text", "audio"]),
        ("modalities", "image"),
        ("image_path", "/etc/passwd"), ("callback_url", "http://192.0.2.1/"), ("file_ids", ["file-1"]),
        ("previous_response_id", "resp_1"), ("files", ["x"]), ("mask_uri", "x"), ("conversation", "conv_1"),
    ],
)  # fmt: skip
def test_what_the_answer_would_lack_or_is_not_the_caller_s_is_refused(name: str, value: Any) -> None:
    assert refused(**{name: value}) == ("unsupported_parameter", name)
    assert sifted(**{name: None}) == (({name: None}, ()) if name == "modalities" else ({}, ()))


def test_text_is_the_one_modality_and_needs_no_field() -> None:
    assert sifted(modalities=["text"]) == ({}, ())


def test_of_template_kwargs_only_known_names_pass() -> None:
    known = {"enable_thinking": False, "thinking": True, "reasoning_effort": "low"}
    left, ignored = sifted(chat_template_kwargs=known | {"chat_template": "{{ 1 }}", "tools": [1]})
    assert left == {"chat_template_kwargs": known}
    assert ignored == ("chat_template_kwargs.chat_template", "chat_template_kwargs.tools")


def test_the_operator_passes_what_the_table_does_not() -> None:
    fields = ChatFields(["priority", "mine", "image_path"], ["persona"])
    body = {"priority": 1, "mine": 2, "image_path": "p", "chat_template_kwargs": {"persona": "x"}}
    assert sifted(fields=fields, **body, other=1) == (body, ("other",))


@each(
    ("field", "value", "most_bytes"),
    [
        ("structured_outputs", lambda size: {"regex": "a" * size}, MAX_REGEX_BYTES),
        ("structured_outputs", lambda size: {"regex": "é" * (size // 2) + "a" * (size % 2)}, MAX_REGEX_BYTES),
        ("structured_outputs", lambda size: {"grammar": "a" * size}, MAX_GRAMMAR_BYTES),
        ("structured_outputs", lambda size: {"json": "a" * size}, MAX_SCHEMA_BYTES),
        ("structured_outputs", lambda size: {"choice": ["a" * (size - 4)]}, MAX_SCHEMA_BYTES),
        ("structured_outputs", lambda size: {"structural_tag": "a" * size}, MAX_SCHEMA_BYTES),
        ("guided_regex", lambda size: "a" * size, MAX_REGEX_BYTES),
        ("response_format", lambda size: {"type": "json_schema", "x": "a" * (size - 29)}, MAX_SCHEMA_BYTES),
    ],
)
def test_what_a_backend_compiles_is_bounded_in_size(field: str, value: Any, most_bytes: int) -> None:
    sifted(**{field: value(most_bytes)})
    code, param = refused(**{field: value(most_bytes + 1)})
    assert code == "invalid_value"
    assert param in (field, "structured_outputs")


def test_guided_names_become_structured_outputs_unless_these_are_there() -> None:
    whole = {"model": "m", "messages": [], "guided_regex": "a", "guided_json": {}}
    assert ChatFields().sift(whole) == ()
    assert whole == {"model": "m", "messages": [], "structured_outputs": {"regex": "a", "json": {}}}
    left, ignored = sifted(structured_outputs={"choice": ["a"]}, guided_regex="a")
    assert (left, ignored) == ({"structured_outputs": {"choice": ["a"]}}, ("guided_regex",))


def test_no_tools_are_no_field() -> None:
    assert sifted(tools=[], tool_choice="auto") == ({}, ())
    assert sifted(tools=[], tool_choice="required") == ({"tool_choice": "required"}, ())


def test_names_are_kept_short_and_not_too_many_are_told() -> None:
    unknown: dict[str, Any] = {f"x{n:04}" * 1000: n for n in range(2000)}
    _, ignored = sifted(**unknown)
    assert len(ignored) == 1000
    assert max(map(len, ignored)) < 80
    assert first_names(ignored)[-1] == "and 980 more"
