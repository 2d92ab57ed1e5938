"""THE table of what a message to vLLM may carry: each field, block and key, and what becomes of it.

Read from vLLM 0.32 and 0.33 (`AnthropicMessagesRequest`), which ignores what it does not know. Knows no caller.
"""

from collections.abc import Iterable
from typing import Any

from mcp_gateway.core.dialects.sifting import FieldUse, LeftOut, as_they_are, check_constraint
from mcp_gateway.core.dialects.vllm_fields import TEMPLATE_KWARGS
from mcp_gateway.core.errors import GatewayError

_PASSED, _PRICED, _BOUNDED, _STRIPPED, _REFUSED = FieldUse

FIELDS: dict[str, FieldUse] = {
    # Anthropic's
    "cache_control": _PASSED,
    "container": _REFUSED,
    "context_management": _STRIPPED,
    "fallbacks": _STRIPPED,
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
    # vLLM's own
    "cache_salt": _STRIPPED,
    "chat_template_kwargs": _BOUNDED,
    "kv_transfer_params": _STRIPPED,
}
_MESSAGE_KEYS = frozenset({"content", "role"})
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
_TOOL_KEYS = frozenset({"cache_control", "defer_loading", "description", "input_schema", "name", "strict", "type"})
_OUTPUT_KEYS = frozenset({"effort", "format"})
_OWN_TOOL = (None, "custom")
_ATTRIBUTION = "x-anthropic-billing-header"
"""How Claude Code begins its system prompt: with what differs between sessions, so that no prefix would be cached."""


class MessageFields:
    """The table with what the operator passes besides."""

    def __init__(self, pass_fields: Iterable[str] = (), pass_template_kwargs: Iterable[str] = ()) -> None:
        self._passed = as_they_are(FIELDS, pass_fields)
        self._template_kwargs = TEMPLATE_KWARGS | frozenset(pass_template_kwargs)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a message's body only what the table passes; the names that were removed, without repetition.

        The body has been read by its surface. Raises GatewayError for what may not be left out in silence.
        """
        left_out = LeftOut(FIELDS)
        for name in [name for name in body if name not in self._passed]:
            use = FIELDS.get(name)
            if use is FieldUse.BOUNDED and body[name] is not None:
                self._bound(body, name, left_out)
            elif use is not FieldUse.BOUNDED:
                left_out.drop(body, name, name, name, is_refused=use is FieldUse.REFUSED)
        for number, message in enumerate(body["messages"]):
            left_out.keep_only(message, _MESSAGE_KEYS, "messages[]", f"messages[{number}]")
            _sift_blocks(message["content"], "messages[].content[]", f"messages[{number}].content", left_out)
            if message["role"] == "system":
                _remove_attribution(message, "content")
        return left_out.names

    def _bound(self, body: dict[str, Any], name: str, left_out: LeftOut) -> None:
        value = body[name]
        match name:
            case "chat_template_kwargs":
                left_out.keep_only(value, self._template_kwargs, name, name)
            case "output_config":
                left_out.keep_only(value, _OUTPUT_KEYS, name, name)
                check_constraint("json", value, name)
            case "system":
                _sift_blocks(value, "system[]", name, left_out)
                _remove_attribution(body, name)
            case "tools":
                _sift_tools(body, left_out)


def _sift_blocks(content: Any, name: str, where: str, left_out: LeftOut) -> None:
    if not isinstance(content, list):
        return
    for index, block in enumerate(content):
        place = f"{where}[{index}]"
        known = BLOCK_KEYS.get(block["type"])
        if known is None:
            kinds = ", ".join(BLOCK_KEYS)
            problem = f"`{place}` must be a block of one of these types: {kinds}; others are not served here."
            raise GatewayError("unsupported_parameter", problem, param=place)
        left_out.keep_only(block, known, name, place)
        if block["type"] == "tool_result":
            _sift_blocks(block.get("content"), f"{name}.content[]", f"{place}.content", left_out)


def _sift_tools(body: dict[str, Any], left_out: LeftOut) -> None:
    """Tools that run at Anthropic's would never answer; vLLM refuses an empty list."""
    if not body["tools"]:
        del body["tools"]
        return
    for index, tool in enumerate(body["tools"]):
        place = f"tools[{index}]"
        if isinstance(tool, dict) and tool.get("type") not in _OWN_TOOL:
            problem = f"`{place}`: a tool that does not run at the client is not served here; leave it out."
            raise GatewayError("unsupported_parameter", problem, param=place)
        left_out.keep_only(tool, _TOOL_KEYS, "tools[]", place)


def _remove_attribution(holder: dict[str, Any], name: str) -> None:
    """Take the line out of a text or of blocks, and with it what is empty then."""
    value = holder[name]
    if isinstance(value, str):
        holder[name] = _without_attribution(value)
    elif isinstance(value, list):
        for block in value:
            if isinstance(block.get("text"), str):
                block["text"] = _without_attribution(block["text"])
        holder[name] = [block for block in value if block.get("text") != ""]
    if not holder[name] and name == "system":
        del holder[name]


def _without_attribution(text: str) -> str:
    if not text.lstrip().lower().startswith(_ATTRIBUTION):
        return text
    return text.lstrip().partition("\n")[2].lstrip("\r\n")
