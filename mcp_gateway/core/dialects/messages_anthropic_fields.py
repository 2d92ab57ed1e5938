"""THE table of what a message to a provider may carry that has Anthropic's API itself. Knows no caller.

Left out is what changes the price (tiers, speed, regions, other models), names a person, or runs at the provider; what
is left goes with the features that the header `anthropic-beta` names, since one without the other is refused there.
"""

from mcp_gateway.core.dialects.message_fields import BETAS, MessageFields, MessageTable
from mcp_gateway.core.dialects.messages_vllm_fields import ANTHROPIC_FIELDS, BLOCK_KEYS, TOOL_KEYS
from mcp_gateway.core.dialects.sifting import FieldUse
from mcp_gateway.core.provider_settings import Preset

FIELDS = ANTHROPIC_FIELDS | {
    BETAS: FieldUse.BOUNDED,
    "cache_control": FieldUse.BOUNDED,
    "context_management": FieldUse.BOUNDED,
}
_BLOCK_KEYS = BLOCK_KEYS | {
    kind: frozenset({"cache_control", "type", *keys})
    for kind, keys in {
        "document": {"citations", "context", "source", "title"},
        "mid_conv_system": {"content"},
    }.items()
}
_TOOL_KEYS = TOOL_KEYS | {
    "allowed_callers", "display_height_px", "display_number", "display_width_px", "eager_input_streaming",
    "enable_zoom", "input_examples", "max_characters",
}  # fmt: skip
_TOOL_TYPES = ("bash_20", "computer_20", "memory_20", "text_editor_20")
"""Of Anthropic's own, those that the client runs, each with the year of its version: `bash_code_execution_...` and the
like run at Anthropic's.
"""


def messages_to(row: Preset) -> MessageFields:
    """The table for a provider, with what its row passes besides."""
    table = MessageTable(
        FIELDS,
        _BLOCK_KEYS,
        _TOOL_KEYS,
        tool_types=_TOOL_TYPES,
        betas=row.betas,
        has_attribution=True,
        lowers_ttl=row.longest_cache == "5m",
    )
    return MessageFields(table, (name for name in row.pass_fields if FIELDS.get(name) is not FieldUse.BOUNDED))
