"""THE table of what a chat to vLLM may carry: each field, message key and content-part key, and what becomes of it.

Read from vLLM 0.32 and 0.33 (`ChatCompletionRequest` and `chat_utils`). Knows names and sizes; knows no caller.
"""

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.text import shown


class Use(Enum):
    """What becomes of a name: it is passed on, removed and told, or refused."""

    PASSED = auto()
    PRICED = auto()
    """Passed on; a hold or a limit is reckoned from it."""
    BOUNDED = auto()
    """Passed on within the bounds of `_BOUNDS`."""
    STRIPPED = auto()
    """It reaches past its tenant's own answer, costs without being counted, or does nothing."""
    REFUSED = auto()
    """What it asks for would be missing from the answer, or it names what is not the caller's."""


_PASSED, _PRICED, _BOUNDED, _STRIPPED, _REFUSED = Use

FIELDS: dict[str, Use] = {
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
    "routing": _STRIPPED,
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
_STREAM_OPTIONS = frozenset({"continuous_usage_stats", "include_obfuscation", "include_usage"})
TEMPLATE_KWARGS = frozenset({
    "add_vision_id", "clear_thinking", "date_string", "documents", "drop_thinking", "enable_thinking", "low_effort",
    "model_identity", "preserve_thinking", "reasoning_effort", "thinking", "thinking_budget", "thinking_mode",
    "tools_in_user_message", "truncate_history_thinking",
})  # fmt: skip
"""Names that chat templates read and that change the prompt of one request alone."""

_NOT_THE_CALLER_S = re.compile(
    r"(?:.*_)?(?:urls?|uris?|paths?|files?|file_ids?|file_data|input_audio|(?:image|audio|video)_embeds)"
    r"|conversation|previous_response_id|vector_store_ids?"
)
"""An unknown name that says an address, a file, or data kept elsewhere."""
MAX_REGEX_BYTES = 8 * 1024
MAX_GRAMMAR_BYTES = 64 * 1024
MAX_SCHEMA_BYTES = 256 * 1024
"""Of one regex, grammar or schema that an answer must follow: a backend compiles it before it answers anybody."""
_MAX_LOGPROB_IDS = 128
_MAX_BYTES = {
    "regex": MAX_REGEX_BYTES, "whitespace_pattern": MAX_REGEX_BYTES, "grammar": MAX_GRAMMAR_BYTES,
}  # fmt: skip
_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
"""Names that vLLM dropped and would now ignore without a word, by what `structured_outputs` calls them."""
_MAX_IGNORED, _MAX_TOLD, _MAX_NAME_CHARS = 1000, 20, 64
"""Of removed names: those kept of one request, those told, and what is told of one."""
_AS_THEY_ARE = frozenset(name for name, use in FIELDS.items() if use in (Use.PASSED, Use.PRICED))


class ChatFields:
    """The table with what the operator passes besides."""

    def __init__(self, pass_fields: Iterable[str] = (), pass_template_kwargs: Iterable[str] = ()) -> None:
        self._passed = _AS_THEY_ARE | frozenset(pass_fields)
        self._template_kwargs = TEMPLATE_KWARGS | frozenset(pass_template_kwargs)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a chat's body only what the table passes; the names that were removed, without repetition.

        The body has been read by `read_chat_request`. Raises GatewayError for what may not be left out in silence.
        """
        ignored: dict[str, None] = {}
        if unusual := body.keys() - self._passed:
            if not unusual.isdisjoint(_GUIDED):
                unusual -= _translate_guided(body)
            for name in [name for name in body if name in unusual]:
                self._sift_field(body, name, ignored)
        for number, message in enumerate(body["messages"]):
            _sift_message(message, number, ignored)
        return tuple(ignored)

    def _sift_field(self, body: dict[str, Any], name: str, ignored: dict[str, None]) -> None:
        use, value = FIELDS.get(name), body[name]
        if use is Use.BOUNDED and value is not None:
            self._bound(body, name, ignored)
        elif use is not Use.BOUNDED:
            _drop(body, name, name, name, ignored, is_refused=use is Use.REFUSED)

    def _bound(self, body: dict[str, Any], name: str, ignored: dict[str, None]) -> None:
        value = body[name]
        if name == "chat_template_kwargs":
            _keep_only(value, self._template_kwargs, name, name, ignored)
        elif name == "stream_options":
            _keep_only(value, _STREAM_OPTIONS, name, name, ignored)
        else:
            _CHECKS[name](body, value)


def first_names(names: tuple[str, ...]) -> list[str]:
    """As many of the removed names as a caller is told of."""
    more = len(names) - _MAX_TOLD
    return list(names) if more <= 0 else [*names[:_MAX_TOLD], f"and {more} more"]


def _translate_guided(body: dict[str, Any]) -> set[str]:
    """Make `structured_outputs` of fields that vLLM would ignore, unless it is there; the names that are done with."""
    if body.get("structured_outputs") is not None:
        return set()
    guided = {old: body.pop(old) for old in _GUIDED if old in body}
    body["structured_outputs"] = {_GUIDED[old]: value for old, value in guided.items()}
    _check_structured_outputs(body, body["structured_outputs"])
    return set(guided)


def _sift_message(message: dict[str, Any], number: int, ignored: dict[str, None]) -> None:
    if not message.keys() <= MESSAGE_KEYS:
        _keep_only(message, MESSAGE_KEYS, "messages[]", f"messages[{number}]", ignored)
    content = message.get("content")
    if isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, str):
                _sift_part(part, f"messages[{number}].content[{index}]", ignored)
    if calls := message.get("tool_calls"):
        for index, call in enumerate(calls if isinstance(calls, list) else ()):
            _keep_only(call, _CALL_KEYS, "messages[].tool_calls[]", f"messages[{number}].tool_calls[{index}]", ignored)


def _sift_part(part: Any, where: str, ignored: dict[str, None]) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    known = PART_KEYS.get(kind) if isinstance(kind, str) else None
    if known is None:
        problem = f"`{where}` must be a part of type text or image_url; other kinds are not served here."
        raise GatewayError("unsupported_parameter", problem, param=where)
    if not part.keys() <= known:
        _keep_only(part, known, "messages[].content[]", where, ignored)
    if kind in _ALIASES:
        part["type"] = "text"
    elif kind == "image_url":
        _keep_only(part["image_url"], _IMAGE_KEYS, "messages[].content[].image_url", f"{where}.image_url", ignored)


def _keep_only(value: Any, known: frozenset[str], name: str, where: str, ignored: dict[str, None]) -> None:
    """Drop all other keys of an object; what is none is left for the backend to refuse."""
    if isinstance(value, dict):
        for key in [key for key in value if key not in known]:
            _drop(value, key, f"{name}.{key}", f"{where}.{key}", ignored)


def _drop(
    value: dict[str, Any], key: str, name: str, where: str, ignored: dict[str, None], *, is_refused: bool = False
) -> None:
    """Remove a key and note its name, unless it holds nothing. Raises GatewayError `unsupported_parameter`."""
    dropped = value.pop(key)
    if dropped is None or dropped == []:
        return
    if is_refused or (key not in FIELDS and _NOT_THE_CALLER_S.fullmatch(key)):
        raise _unsupported(where)
    if len(ignored) < _MAX_IGNORED:
        ignored[_visible(name)] = None


def _visible(name: str) -> str:
    """A caller's name as it may stand in a list in a header."""
    return shown(name, _MAX_NAME_CHARS).encode("ascii", "backslashreplace").decode().replace(",", "\\x2c")


def _unsupported(where: str) -> GatewayError:
    name = shown(where)
    return GatewayError("unsupported_parameter", f"`{name}` is not served here; leave it out.", param=name)


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
        _check_constraint("json", value, "response_format")


def _check_structured_outputs(_: dict[str, Any], value: Any) -> None:
    if isinstance(value, dict):
        for kind, constraint in value.items():
            _check_constraint(kind, constraint, "structured_outputs")


def _check_logprob_ids(_: dict[str, Any], value: Any) -> None:
    if isinstance(value, list) and len(value) > _MAX_LOGPROB_IDS:
        problem = f"`logprob_token_ids` may have at most {_MAX_LOGPROB_IDS} entries."
        raise GatewayError("invalid_value", problem, param="logprob_token_ids")


def _check_constraint(kind: str, value: Any, param: str) -> None:
    most_bytes = _MAX_BYTES.get(kind, MAX_SCHEMA_BYTES)
    size_bytes = len(value.encode("utf-8", "replace")) if isinstance(value, str) else len(dump_json(value))
    if size_bytes > most_bytes:
        problem = f"`{param}`: a {shown(kind)} may have at most {most_bytes} bytes, not {size_bytes}."
        raise GatewayError("invalid_value", problem, param=param)


_CHECKS = {
    "logprob_token_ids": _check_logprob_ids,
    "modalities": _check_modalities,
    "response_format": _check_response_format,
    "structured_outputs": _check_structured_outputs,
    "tool_choice": _check_tool_choice,
    "tools": _check_tools,
}
