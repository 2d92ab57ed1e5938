"""THE table of what a message may carry to a provider that is asked for a chat in its place. Knows no caller."""

from mcp_gateway.core.dialects.message_fields import MessageFields, MessageTable
from mcp_gateway.core.dialects.messages_vllm_fields import FIELDS as VLLM_FIELDS
from mcp_gateway.core.dialects.sifting import FieldUse
from mcp_gateway.core.provider_settings import Preset

FIELDS = VLLM_FIELDS | {
    "cache_control": FieldUse.STRIPPED,  # providers with OpenAI's API cache by themselves, or not
    "chat_template_kwargs": FieldUse.STRIPPED,
    "top_k": FieldUse.STRIPPED,  # unless a row passes it
}
BLOCK_KEYS: dict[str, frozenset[str]] = {
    kind: frozenset({"type", *keys})
    for kind, keys in {
        "document": {"context", "source", "title"},
        "image": {"source"},
        "mid_conv_system": {"content"},
        "redacted_thinking": {"data"},
        "text": {"text"},
        "thinking": {"signature", "thinking"},
        "tool_reference": {"tool_name"},
        "tool_result": {"content", "is_error", "tool_use_id"},
        "tool_use": {"caller", "id", "input", "name"},
    }.items()
}
TOOL_KEYS = frozenset({"description", "input_schema", "name", "type"})
"""Not `strict`, which OpenAI has for fewer schemas than Anthropic, nor `defer_loading`: all are offered at once."""


def messages_to_openai(row: Preset) -> MessageFields:
    """The table for a provider of this row."""
    return MessageFields(MessageTable(FIELDS, BLOCK_KEYS, TOOL_KEYS), row.pass_fields)
