"""THE table of what a chat to vLLM may carry: each field, message key and content-part key, and what becomes of it.

Read from vLLM 0.32 and 0.33 (`ChatCompletionRequest` and `chat_utils`). Knows names and sizes; knows no caller.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mcp_gateway.core.dialects.sifting import FieldUse, LeftOut, as_they_are, check_constraint
from mcp_gateway.core.errors import GatewayError

_PASSED, _PRICED, _BOUNDED, _STRIPPED, _REFUSED = FieldUse

FIELDS: dict[str, FieldUse] = {
    # OpenAI's
    "audio": _REFUSED,
    "best_of": _STRIPPED,
    "frequency_penalty": _PASSED,
    "function_call": _STRIPPED,
    "functions": _STRIPPED,
    "logit_bias": _PASSED,
    "logprobs": _PASSED,
    "max_completion_tokens": _PRICED,
    "max_tokens": _PRICED,
    "messages": _PRICED,
    "metadata": _PASSED,
    "modalities": _BOUNDED,
    "model": _PRICED,
    "n": _PRICED,
    "parallel_tool_calls": _PASSED,
    "prediction": _STRIPPED,
    "presence_penalty": _PASSED,
    "prompt_cache_key": _STRIPPED,
    "reasoning_effort": _PASSED,
    "response_format": _BOUNDED,
    "safety_identifier": _STRIPPED,
    "seed": _PASSED,
    "service_tier": _STRIPPED,
    "stop": _PASSED,
    "store": _STRIPPED,
    "stream": _PASSED,
    "stream_options": _BOUNDED,
    "temperature": _PASSED,
    "tool_choice": _BOUNDED,
    "tools": _BOUNDED,
    "top_logprobs": _PASSED,
    "top_p": _PASSED,
    "user": _PASSED,
    "verbosity": _STRIPPED,
    "web_search_options": _REFUSED,
    # vLLM's own
    "add_generation_prompt": _PASSED,
    "add_special_tokens": _PASSED,
    "allowed_token_ids": _PASSED,
    "bad_words": _PASSED,
    "cache_salt": _STRIPPED,
    "chat_template": _STRIPPED,
    "chat_template_kwargs": _BOUNDED,
    "continue_final_message": _PASSED,
    "documents": _PRICED,
    "ec_transfer_params": _STRIPPED,
    "echo": _STRIPPED,
    "ignore_eos": _PASSED,
    "include_reasoning": _STRIPPED,  # makes tokens and no frames that count them
    "include_stop_str_in_output": _PASSED,
    "kv_transfer_params": _STRIPPED,
    "length_penalty": _PASSED,
    "logprob_token_ids": _BOUNDED,
    "media_io_kwargs": _STRIPPED,
    "min_p": _PASSED,
    "min_tokens": _PRICED,
    "mm_processor_kwargs": _STRIPPED,
    "priority": _STRIPPED,
    "prompt_logprobs": _STRIPPED,
    "repetition_detection": _PASSED,
    "repetition_penalty": _PASSED,
    "request_id": _STRIPPED,
    "return_mm_kwargs": _STRIPPED,
    "return_prompt_text": _STRIPPED,
    "return_token_ids": _STRIPPED,
    "return_token_offsets": _STRIPPED,
    "return_tokens_as_token_ids": _PASSED,
    "routed_experts_prompt_start": _STRIPPED,
    "session_id": _STRIPPED,
    "skip_special_tokens": _PASSED,
    "spaces_between_special_tokens": _PASSED,
    "stop_token_ids": _PASSED,
    "stream_interval": _STRIPPED,  # holds back the frames that count what is made
    "structured_outputs": _BOUNDED,
    "thinking_token_budget": _PASSED,
    "top_k": _PASSED,
    "truncate_prompt_tokens": _PASSED,
    "truncation_side": _PASSED,
    "use_beam_search": _STRIPPED,
    "vllm_xargs": _STRIPPED,
    "watermarking": _PASSED,
    # earlier versions'; of the guided ones `structured_outputs` is made
    "data_parallel_rank": _STRIPPED,
    "guided_choice": _STRIPPED,
    "guided_grammar": _STRIPPED,
    "guided_json": _STRIPPED,
    "guided_regex": _STRIPPED,
    "logits_processors": _STRIPPED,
}
MESSAGE_KEYS = frozenset({
    "cache_control", "content", "function_call", "name", "reasoning", "reasoning_content", "refusal", "role",
    "signature", "task", "thinking", "tool_call_id", "tool_calls", "tools",
})  # fmt: skip
_CALL_KEYS = frozenset({"extra_content", "function", "id", "index", "type"})
_TEXT_KEYS = frozenset({"cache_control", "text", "type"})
PART_KEYS: dict[str, frozenset[str]] = {
    "text": _TEXT_KEYS,
    "input_text": _TEXT_KEYS,
    "output_text": _TEXT_KEYS,
    "refusal": frozenset({"refusal", "type"}),
    "thinking": frozenset({"cache_control", "closed", "signature", "thinking", "type"}),
    "image_url": frozenset({"cache_control", "image_url", "type"}),
}
"""By the part's type. Others (audio_url, video_url, ...) could make a backend fetch any address."""
_ALIASES = {"input_text", "output_text"}
"""The types by which the Responses API calls a text."""
_IMAGE_KEYS = frozenset({"detail", "url"})
STREAM_OPTIONS = frozenset({"continuous_usage_stats", "include_obfuscation", "include_usage"})
TEMPLATE_KWARGS = frozenset({
    "add_vision_id", "clear_thinking", "date_string", "documents", "drop_thinking", "enable_thinking", "low_effort",
    "model_identity", "preserve_thinking", "reasoning_effort", "thinking", "thinking_budget", "thinking_mode",
    "tools_in_user_message", "truncate_history_thinking",
})  # fmt: skip
"""Names that chat templates read and that change the prompt of one request alone."""

_MAX_LOGPROB_IDS = 128
_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
"""Names that vLLM dropped and would now ignore without a word, by what `structured_outputs` calls them."""


class ChatFields:
    """The table, or that of another request with a chat's messages, with what the operator passes besides."""

    def __init__(
        self,
        pass_fields: Iterable[str] = (),
        pass_template_kwargs: Iterable[str] = (),
        table: Mapping[str, FieldUse] = FIELDS,
    ) -> None:
        self._table = table
        self._passed = as_they_are(table, pass_fields)
        self._template_kwargs = TEMPLATE_KWARGS | frozenset(pass_template_kwargs)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a chat's body only what the table passes; the names that were removed, without repetition.

        The body has been read by its surface. Raises GatewayError for what may not be left out in silence.
        """
        left_out = LeftOut(self._table)
        if unusual := body.keys() - self._passed:
            if "structured_outputs" in self._table:
                unusual -= translate_guided(body)
            for name in [name for name in body if name in unusual]:
                self._sift_field(body, name, left_out)
        for number, message in enumerate(body["messages"]):
            _sift_message(message, number, left_out)
        return left_out.names

    def _sift_field(self, body: dict[str, Any], name: str, left_out: LeftOut) -> None:
        use, value = self._table.get(name), body[name]
        if use is FieldUse.BOUNDED and value is not None:
            self._bound(body, name, left_out)
        elif use is not FieldUse.BOUNDED:
            left_out.drop(body, name, name, name, is_refused=use is FieldUse.REFUSED)

    def _bound(self, body: dict[str, Any], name: str, left_out: LeftOut) -> None:
        value = body[name]
        if name == "chat_template_kwargs":
            left_out.keep_only(value, self._template_kwargs, name, name)
        elif name == "stream_options":
            left_out.keep_only(value, STREAM_OPTIONS, name, name)
        else:
            CHECKS[name](body, value)


def translate_guided(body: dict[str, Any]) -> set[str]:
    """Make `structured_outputs` of fields that vLLM would ignore, unless it is there; the names that are done with."""
    if body.keys().isdisjoint(_GUIDED) or body.get("structured_outputs") is not None:
        return set()
    guided = {old: body.pop(old) for old in _GUIDED if old in body}
    body["structured_outputs"] = {_GUIDED[old]: value for old, value in guided.items()}
    check_structured_outputs(body, body["structured_outputs"])
    return set(guided)


def _sift_message(message: dict[str, Any], number: int, left_out: LeftOut) -> None:
    if not message.keys() <= MESSAGE_KEYS:
        left_out.keep_only(message, MESSAGE_KEYS, "messages[]", f"messages[{number}]")
    content = message.get("content")
    if isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, str):
                sift_part(part, f"messages[{number}].content[{index}]", left_out)
    if calls := message.get("tool_calls"):
        for index, call in enumerate(calls if isinstance(calls, list) else ()):
            left_out.keep_only(call, _CALL_KEYS, "messages[].tool_calls[]", f"messages[{number}].tool_calls[{index}]")


def sift_part(part: Any, where: str, left_out: LeftOut) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    known = PART_KEYS.get(kind) if isinstance(kind, str) else None
    if known is None:
        problem = f"`{where}` must be a part of type text or image_url; other kinds are not served here."
        raise GatewayError("unsupported_parameter", problem, param=where)
    if not part.keys() <= known:
        left_out.keep_only(part, known, "messages[].content[]", where)
    if kind in _ALIASES:
        part["type"] = "text"
    elif kind == "image_url":
        left_out.keep_only(part["image_url"], _IMAGE_KEYS, "messages[].content[].image_url", f"{where}.image_url")


# What each bounded field may hold


def _check_modalities(body: dict[str, Any], value: Any) -> None:
    if value and value != ["text"]:
        raise GatewayError("unsupported_parameter", "Answers are text alone.", param="modalities")
    del body["modalities"]


def _check_tools(body: dict[str, Any], value: Any) -> None:
    """vLLM refuses an empty list."""
    if not value:
        del body["tools"]


def _check_tool_choice(body: dict[str, Any], value: Any) -> None:
    """vLLM refuses a choice of tools where there are none."""
    if not body.get("tools") and value in ("auto", "none"):
        del body["tool_choice"]


def _check_response_format(_: dict[str, Any], value: Any) -> None:
    if isinstance(value, dict) and len(value) > 1:
        check_constraint("json", value, "response_format")


def check_structured_outputs(_: dict[str, Any], value: Any) -> None:
    if isinstance(value, dict):
        for kind, constraint in value.items():
            check_constraint(kind, constraint, "structured_outputs")


def _check_logprob_ids(_: dict[str, Any], value: Any) -> None:
    if isinstance(value, list) and len(value) > _MAX_LOGPROB_IDS:
        problem = f"`logprob_token_ids` may have at most {_MAX_LOGPROB_IDS} entries."
        raise GatewayError("invalid_value", problem, param="logprob_token_ids")


CHECKS = {
    "logprob_token_ids": _check_logprob_ids,
    "modalities": _check_modalities,
    "response_format": _check_response_format,
    "structured_outputs": check_structured_outputs,
    "tool_choice": _check_tool_choice,
    "tools": _check_tools,
}
