"""THE tables of what a request to vLLM may carry that has no messages: each field, and what becomes of it.

Read from vLLM 0.32 and 0.33 (`CompletionRequest`, `EmbeddingRequest`). Knows names and sizes; knows no caller.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mcp_gateway.core.dialects.sifting import FieldUse, LeftOut, as_they_are
from mcp_gateway.core.dialects.vllm_fields import CHECKS, FIELDS, STREAM_OPTIONS, translate_guided
from mcp_gateway.core.errors import GatewayError

_PASSED, _PRICED, _BOUNDED, _STRIPPED, _REFUSED = FieldUse
_OF_CHATS = frozenset({
    "add_generation_prompt", "audio", "chat_template", "chat_template_kwargs", "continue_final_message", "documents",
    "function_call", "functions", "include_reasoning", "logprob_token_ids", "max_completion_tokens",
    "media_io_kwargs", "messages", "mm_processor_kwargs", "modalities", "parallel_tool_calls", "prediction",
    "reasoning_effort", "return_mm_kwargs", "thinking_token_budget", "tool_choice", "tools", "top_logprobs",
    "verbosity", "web_search_options",
})  # fmt: skip
COMPLETION_FIELDS: dict[str, FieldUse] = {name: use for name, use in FIELDS.items() if name not in _OF_CHATS} | {
    "best_of": _PRICED,
    "echo": _BOUNDED,
    "prompt": _PRICED,
    "prompt_embeds": _REFUSED,
    "prompt_logprobs": _REFUSED,
    "suffix": _PASSED,
}
"""Log probabilities of a prompt are work that no price counts, and an echo would be billed as what was made."""
EMBEDDING_FIELDS: dict[str, FieldUse] = {
    "add_generation_prompt": _PASSED,
    "add_special_tokens": _PASSED,
    "cache_salt": _STRIPPED,
    "chat_template": _STRIPPED,
    "chat_template_kwargs": _STRIPPED,
    "continue_final_message": _PASSED,
    "dimensions": _PASSED,
    "embed_dtype": _STRIPPED,
    "encoding_format": _PASSED,
    "endianness": _STRIPPED,
    "input": _PRICED,
    "messages": _PRICED,
    "mm_processor_kwargs": _STRIPPED,
    "model": _PRICED,
    "normalize": _PASSED,
    "priority": _STRIPPED,
    "request_id": _STRIPPED,
    "stream": _STRIPPED,
    "truncate_prompt_tokens": _PASSED,
    "truncation_side": _PASSED,
    "use_activation": _PASSED,
    "user": _PASSED,
}
"""An answer is JSON with numbers as OpenAI has them, whatever forms vLLM has besides."""
_SCORING: dict[str, FieldUse] = {
    "cache_salt": _STRIPPED,
    "mm_processor_kwargs": _STRIPPED,
    "model": _PRICED,
    "priority": _STRIPPED,
    "request_id": _STRIPPED,
    "truncate_prompt_tokens": _PASSED,
    "truncation_side": _PASSED,
    "use_activation": _PASSED,
    "user": _PASSED,
}
RERANK_FIELDS = _SCORING | {"documents": _PRICED, "query": _PRICED, "top_n": _PASSED}
SCORE_FIELDS = _SCORING | {"text_1": _PRICED, "text_2": _PRICED}
"""vLLM has other pairs of names for the two sides, which may hold images: none but those that were read passes."""

_MESSAGE_KEYS = frozenset({"content", "name", "role"})
"""Of a conversation whose texts are read for their embedding."""


class FlatFields:
    """One of the tables with what the operator passes besides."""

    def __init__(self, table: Mapping[str, FieldUse], pass_fields: Iterable[str] = ()) -> None:
        self._table = table
        self._passed = as_they_are(table, pass_fields)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a body only what the table passes; the names that were removed.

        Raises GatewayError for what may not be left out in silence.
        """
        left_out = LeftOut(self._table)
        if unusual := body.keys() - self._passed:
            if "structured_outputs" in self._table:
                unusual -= translate_guided(body)
            for name in [name for name in body if name in unusual]:
                self._sift_field(body, name, left_out)
        for number, message in enumerate(body.get("messages") or ()):
            left_out.keep_only(message, _MESSAGE_KEYS, "messages[]", f"messages[{number}]")
        return left_out.names

    def _sift_field(self, body: dict[str, Any], name: str, left_out: LeftOut) -> None:
        use, value = self._table.get(name), body[name]
        if use is not _BOUNDED:
            left_out.drop(body, name, name, name, is_refused=use is _REFUSED)
        elif name == "stream_options":
            left_out.keep_only(value, STREAM_OPTIONS, name, name)
        elif value is not None:
            _CHECKS[name](body, value)


def _check_echo(body: dict[str, Any], value: Any) -> None:
    if value is not False:
        raise GatewayError("unsupported_parameter", "`echo` is not served here; leave it out.", param="echo")
    del body["echo"]


_CHECKS: dict[str, Callable[[dict[str, Any], Any], None]] = {**CHECKS, "echo": _check_echo}
