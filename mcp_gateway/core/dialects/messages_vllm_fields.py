"""THE table of what a message to vLLM may carry: each field, block and key, and what becomes of it.

Read from vLLM 0.32 and 0.33 (`AnthropicMessagesRequest`), which ignores what it does not know. Knows no caller.
"""

from collections.abc import Iterable

from mcp_gateway.core.dialects.message_fields import MessageFields, MessageTable
from mcp_gateway.core.dialects.sifting import FieldUse
from mcp_gateway.core.dialects.vllm_fields import TEMPLATE_KWARGS

_PASSED, _PRICED, _BOUNDED, _STRIPPED, _REFUSED = FieldUse

ANTHROPIC_FIELDS: dict[str, FieldUse] = {
    "cache_control": _PASSED,
    "container": _REFUSED,
    "context_management": _STRIPPED,
    "fallbacks": _STRIPPED,  # models that have no price here
    "inference_geo": _STRIPPED,
    "max_tokens": _PRICED,
    "mcp_servers": _REFUSED,
    "messages": _PRICED,
    "metadata": _STRIPPED,  # which names a person, a device or a session
    "model": _PRICED,
    "output_config": _BOUNDED,
    "service_tier": _STRIPPED,
    "speed": _STRIPPED,
    "stop_sequences": _PASSED,
    "stream": _PASSED,
    "system": _BOUNDED,
    "temperature": _PASSED,
    "thinking": _PASSED,  # vLLM 0.33 does not read it yet; models think as they are set up to
    "tool_choice": _PASSED,
    "tools": _BOUNDED,
    "top_k": _PASSED,
    "top_p": _PASSED,
}
"""Anthropic's own, of which other tables say only in what they differ."""
FIELDS = ANTHROPIC_FIELDS | {
    "cache_salt": _STRIPPED,
    "chat_template_kwargs": _BOUNDED,
    "kv_transfer_params": _STRIPPED,
}
BLOCK_KEYS: dict[str, frozenset[str]] = {
    kind: frozenset({"cache_control", "type", *keys})
    for kind, keys in {
        "image": {"source"},
        "redacted_thinking": {"data"},
        "text": {"citations", "text"},
        "thinking": {"signature", "thinking"},
        "tool_reference": {"tool_name"},
        "tool_result": {"content", "is_error", "tool_use_id"},
        "tool_use": {"caller", "id", "input", "name"},
    }.items()
}
"""By the block's type. Others stand for what runs elsewhere, or would have to be fetched."""
TOOL_KEYS = frozenset({"cache_control", "defer_loading", "description", "input_schema", "name", "strict", "type"})


def messages_to_vllm(pass_fields: Iterable[str] = (), pass_template_kwargs: Iterable[str] = ()) -> MessageFields:
    """The table with what the operator passes besides."""
    kwargs = TEMPLATE_KWARGS | frozenset(pass_template_kwargs)
    return MessageFields(MessageTable(FIELDS, BLOCK_KEYS, TOOL_KEYS, template_kwargs=kwargs), pass_fields)
