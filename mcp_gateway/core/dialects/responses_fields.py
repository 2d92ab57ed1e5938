"""THE tables of what a Responses request may carry: each field, tool, item and part, and what becomes of it.

Read from OpenAI's SDK 3.3 and vLLM 0.32 (`ResponsesRequest`). Knows names and sizes; knows no caller.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mcp_gateway.core.dialects.sifting import FieldUse, LeftOut, as_they_are, check_constraint, unsupported
from mcp_gateway.core.dialects.vllm_fields import TEMPLATE_KWARGS, check_structured_outputs
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_fields import checked, kind_of
from mcp_gateway.core.text import shown

_PASSED, _PRICED, _BOUNDED, _STRIPPED, _REFUSED = FieldUse

OPENAI_FIELDS: dict[str, FieldUse] = {
    "background": _BOUNDED,
    "context_management": _STRIPPED,
    "conversation": _REFUSED,
    "include": _PASSED,
    "input": _PRICED,
    "instructions": _PRICED,
    "max_output_tokens": _PRICED,
    "max_tool_calls": _PASSED,
    "metadata": _PASSED,
    "model": _PRICED,
    "moderation": _STRIPPED,
    "parallel_tool_calls": _PASSED,
    "previous_response_id": _REFUSED,
    "prompt": _REFUSED,
    "prompt_cache_key": _STRIPPED,
    "prompt_cache_options": _STRIPPED,
    "prompt_cache_retention": _STRIPPED,
    "reasoning": _PASSED,
    "safety_identifier": _STRIPPED,
    "service_tier": _STRIPPED,
    "store": _BOUNDED,
    "stream": _PASSED,
    "stream_options": _BOUNDED,
    "temperature": _PASSED,
    "text": _BOUNDED,
    "tool_choice": _PASSED,
    "tools": _BOUNDED,
    "top_logprobs": _PASSED,
    "top_p": _PASSED,
    "truncation": _PASSED,
    "user": _PASSED,
}
VLLM_FIELDS: dict[str, FieldUse] = OPENAI_FIELDS | {
    "cache_salt": _STRIPPED,
    "chat_template": _STRIPPED,
    "chat_template_kwargs": _BOUNDED,
    "ec_transfer_params": _STRIPPED,
    "enable_response_messages": _STRIPPED,
    "frequency_penalty": _PASSED,
    "ignore_eos": _PASSED,
    "include_stop_str_in_output": _PASSED,
    "kv_transfer_params": _STRIPPED,
    "logit_bias": _PASSED,
    "media_io_kwargs": _STRIPPED,
    "mm_processor_kwargs": _STRIPPED,
    "presence_penalty": _PASSED,
    "previous_input_messages": _STRIPPED,
    "priority": _STRIPPED,
    "repetition_penalty": _PASSED,
    "request_id": _STRIPPED,
    "seed": _PASSED,
    "session_id": _STRIPPED,
    "skip_special_tokens": _PASSED,
    "stop": _PASSED,
    "structured_outputs": _BOUNDED,
    "top_k": _PASSED,
    "vllm_xargs": _STRIPPED,
    "watermarking": _PASSED,
}
OWN_TOOLS = frozenset({"function", "custom"})
"""Tools that the caller runs itself. All others a server would run, for a price that nobody told, or reach out with."""
_NO_TOOLS = ("auto", "none")
_CALL = frozenset({"call_id", "id", "name", "namespace", "status", "type"})
_CALL_OUTPUT = frozenset({"call_id", "id", "output", "status", "type"})
ITEM_KEYS: dict[str, frozenset[str]] = {
    "custom_tool_call": _CALL | {"input"},
    "custom_tool_call_output": _CALL_OUTPUT,
    "function_call": _CALL | {"arguments"},
    "function_call_output": _CALL_OUTPUT,
    "message": frozenset({"content", "id", "phase", "role", "status", "type"}),
    "reasoning": frozenset({"content", "encrypted_content", "id", "status", "summary", "type"}),
}
"""By the item's type. Others stand for what a server would run or has kept."""
_TEXT = frozenset({"text", "type"})
PART_KEYS: dict[str, frozenset[str]] = {
    "input_image": frozenset({"detail", "image_url", "type"}),
    "input_text": _TEXT,
    "output_text": _TEXT | {"annotations", "logprobs"},
    "reasoning_text": _TEXT,
    "refusal": frozenset({"refusal", "type"}),
    "summary_text": _TEXT,
    "text": _TEXT,
}
"""By the part's type. Others name a file, or could make a backend fetch any address, as other keys could."""
_PART_LISTS = ("content", "output", "summary")


class ResponsesFields:
    """One of the tables with what the operator passes besides."""

    def __init__(
        self,
        pass_template_kwargs: Iterable[str] = (),
        table: Mapping[str, FieldUse] = VLLM_FIELDS,
        pass_fields: Iterable[str] = (),
    ) -> None:
        self._table = table
        self._passed = as_they_are(table, pass_fields)
        self._template_kwargs = TEMPLATE_KWARGS | frozenset(pass_template_kwargs)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a body only what the table passes; the names that were removed, without repetition.

        Raises GatewayError for what may not be left out in silence: state, and what reaches beyond the request.
        """
        left_out = LeftOut(self._table)
        for name in [name for name in body if name not in self._passed]:
            self._sift_field(body, name, left_out)
        _sift_tool_choice(body)
        items = body["input"]
        for number, item in enumerate(items if isinstance(items, list) else ()):
            _sift_item(item, f"input[{number}]", left_out)
        return left_out.names

    def _sift_field(self, body: dict[str, Any], name: str, left_out: LeftOut) -> None:
        use, value = self._table.get(name), body[name]
        if use is not FieldUse.BOUNDED:
            left_out.drop(body, name, name, name, is_refused=use is FieldUse.REFUSED)
        elif value is None:
            del body[name]
        elif name == "chat_template_kwargs":
            left_out.keep_only(value, self._template_kwargs, name, name)
        elif name == "tools":
            _sift_tools(body, value, left_out)
        elif name == "structured_outputs":
            check_structured_outputs(body, value)
        elif name == "text":
            _check_text(value)
        else:
            _drop_state(body, name, value, left_out)


def _drop_state(body: dict[str, Any], name: str, value: Any, left_out: LeftOut) -> None:
    """`store`, `background` and `stream_options`: nothing is kept, nor answered later, nor padded."""
    del body[name]
    if name == "background" and value:
        raise unsupported(name)
    if name == "store" and value:
        left_out.note(name)


def _sift_tools(body: dict[str, Any], tools: list[Any], left_out: LeftOut) -> None:
    """Leave the caller's own; vLLM refuses an empty list."""
    kinds = [_kind_of(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    for kind in kinds:
        if kind not in OWN_TOOLS:
            left_out.note(f"tools.{kind}")
    body["tools"] = [tool for tool, kind in zip(tools, kinds, strict=True) if kind in OWN_TOOLS]
    if not body["tools"]:
        del body["tools"]


def _sift_tool_choice(body: dict[str, Any]) -> None:
    """Refuse one that asks for a tool that is not served; leave out one that has nothing to choose from."""
    choice = body.get("tool_choice")
    if choice is None:
        return
    if isinstance(choice, dict):
        _check_named(body, choice)
    elif not body.get("tools"):
        if choice not in _NO_TOOLS:
            problem = (
                "`tool_choice` asks for a tool, and of those there are none is served here: function and custom are."
            )
            raise GatewayError("unsupported_parameter", problem, param="tool_choice")
        del body["tool_choice"]


def _check_named(body: dict[str, Any], choice: dict[str, Any]) -> None:
    kind = _kind_of(choice, "tool_choice")
    if kind == "allowed_tools":
        _sift_allowed(body, choice)
    elif kind not in OWN_TOOLS:
        problem = f"`tool_choice` asks for {shown(kind)}, which is not served here; function and custom are."
        raise GatewayError("unsupported_parameter", problem, param="tool_choice")


def _sift_allowed(body: dict[str, Any], choice: dict[str, Any]) -> None:
    """Leave of the tools that may be chosen those that are served."""
    allowed = checked(choice.get("tools"), list, "tool_choice.tools")
    kinds = [_kind_of(tool, f"tool_choice.tools[{number}]") for number, tool in enumerate(allowed)]
    kept = [tool for tool, kind in zip(allowed, kinds, strict=True) if kind in OWN_TOOLS]
    if allowed and not kept:
        if choice.get("mode") == "required":
            problem = "`tool_choice` asks for tools that are not served here; function and custom are."
            raise GatewayError("unsupported_parameter", problem, param="tool_choice")
        body["tool_choice"] = "none" if body.get("tools") else None
    else:
        body["tool_choice"] = choice | {"tools": kept}
    if body["tool_choice"] is None:
        del body["tool_choice"]


def _kind_of(value: Any, where: str) -> str:
    kind: str = checked(checked(value, dict, where).get("type"), str, f"{where}.type")
    return kind


def _check_text(value: Any) -> None:
    if isinstance(value, dict) and isinstance(value.get("format"), dict):
        check_constraint("json", value["format"], "text.format")


def _sift_item(item: dict[str, Any], where: str, left_out: LeftOut) -> None:
    """Raises GatewayError for an item or part that names what is kept elsewhere, or that no model can be shown."""
    left_out.keep_only(item, _keys_of(item.get("type", "message"), ITEM_KEYS, where), "input[]", where)
    for name in _PART_LISTS:
        parts = item.get(name)
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            place = f"{where}.{name}[{index}]"
            left_out.keep_only(part, _keys_of(_kind_of(part, place), PART_KEYS, place), f"input[].{name}[]", place)


def _keys_of(kind: Any, known: dict[str, frozenset[str]], where: str) -> frozenset[str]:
    keys = known.get(kind) if isinstance(kind, str) else None
    if keys is None:
        told = shown(kind) if isinstance(kind, str) else kind_of(kind)
        problem = f"`{where}.type` must be one of {', '.join(sorted(known))}, not {told}."
        raise GatewayError("unsupported_parameter", problem, param=f"{where}.type")
    return keys
