"""THE table of what a chat to a provider may carry, and how the row of a provider changes a body.

Passed are OpenAI's own fields and what a row names beside them; never a field of another server. Knows no caller.
"""

from typing import Any

from mcp_gateway.core.dialects.openai_chunks import REASONING
from mcp_gateway.core.dialects.row_rules import RowRules
from mcp_gateway.core.dialects.sifting import FieldUse, LeftOut, as_they_are, unsupported
from mcp_gateway.core.dialects.vllm_fields import sift_part
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import Preset

_PASSED, _PRICED, _BOUNDED, _STRIPPED, _REFUSED = FieldUse

FIELDS: dict[str, FieldUse] = {
    "audio": _REFUSED,
    "frequency_penalty": _PASSED,
    "function_call": _PASSED,
    "functions": _PASSED,
    "logit_bias": _PASSED,
    "logprobs": _PASSED,
    "max_completion_tokens": _PRICED,
    "max_tokens": _PRICED,
    "messages": _PRICED,
    "metadata": _STRIPPED,  # it is there for what is stored
    "modalities": _BOUNDED,
    "model": _PRICED,
    "n": _PRICED,
    "parallel_tool_calls": _PASSED,
    "prediction": _STRIPPED,  # what is not used of it is billed as output
    "presence_penalty": _PASSED,
    "prompt_cache_key": _STRIPPED,  # the caches there are of one account, whose callers know nothing of each other
    "reasoning_effort": _PASSED,
    "response_format": _BOUNDED,
    "safety_identifier": _STRIPPED,
    "seed": _PASSED,
    "service_tier": _STRIPPED,  # it changes the price
    "stop": _PASSED,
    "store": _STRIPPED,
    "stream": _PASSED,
    "stream_options": _PASSED,
    "temperature": _PASSED,
    "tool_choice": _BOUNDED,
    "tools": _BOUNDED,
    "top_logprobs": _PASSED,
    "top_p": _PASSED,
    "user": _PASSED,
    "verbosity": _STRIPPED,
    "web_search_options": _REFUSED,
}
_MESSAGE_KEYS = frozenset({"content", "function_call", "name", "refusal", "role", "tool_call_id", "tool_calls"})
_CALL_KEYS = frozenset({"custom", "extra_content", "function", "id", "index", "type"})
_TOOL_KINDS = ("function", "custom")
"""Others run at the provider, which bills them beside the tokens."""
_FORMATS = ("text", "json_object")


class ProviderFields:
    """The table for one provider."""

    def __init__(self, row: Preset, *, keeps_cache_control: bool = False) -> None:
        """`keeps_cache_control` is whether the marks of prompt caches stay, which OpenAI's API does not have."""
        self._row = row
        self._keeps_cache_control = keeps_cache_control
        self._passed = as_they_are(FIELDS, (*row.pass_fields, *row.rename.values()))
        self._message_keys = _MESSAGE_KEYS | frozenset(row.replay)
        self._thought_key = next((name for name in row.replay if name in REASONING), None)
        """By which name it wants to have its reasoning again."""
        self._rules = RowRules(row.refuse, row.drop, row.rename, row.clamp, row.set)

    def sift(self, body: dict[str, Any]) -> tuple[str, ...]:
        """Leave of a chat's body only what this provider takes; the names that were removed.

        Raises GatewayError for what may not be left out in silence.
        """
        left_out = LeftOut(FIELDS)
        for name in [name for name in body if name not in self._passed]:
            use = FIELDS.get(name)
            if use is not FieldUse.BOUNDED:
                left_out.drop(body, name, name, name, is_refused=use is FieldUse.REFUSED)
        _check_bounded(body)
        self._rules.check(body)
        _check_schema(body, self._row.schema_form)
        for number, message in enumerate(body["messages"]):
            self._sift_message(message, number, left_out)
        self._rules.leave_out(body, left_out)
        return left_out.names

    def written(self, body: dict[str, Any]) -> dict[str, Any]:
        """A sifted body in this provider's words; the one that is given stays as it is."""
        row, body = self._row, self._rules.written(body)
        if row.content == "string":
            body["messages"] = [_with_text(message) for message in body["messages"]]
        if row.schema_form in ("object", "bare") and isinstance(body.get("response_format"), dict):
            body["response_format"] = _schema_as(row.schema_form, body["response_format"])
        return body

    def _sift_message(self, message: dict[str, Any], number: int, left_out: LeftOut) -> None:
        where = f"messages[{number}]"
        if self._thought_key is not None:
            _name_thought(message, self._thought_key)
        if not message.keys() <= self._message_keys:
            left_out.keep_only(message, self._message_keys, "messages[]", where)
        content, calls = message.get("content"), message.get("tool_calls")
        for index, part in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(part, str):
                sift_part(part, f"{where}.content[{index}]", left_out)
                if not self._keeps_cache_control:
                    part.pop("cache_control", None)
        for index, call in enumerate(calls if isinstance(calls, list) else ()):
            left_out.keep_only(call, _CALL_KEYS, "messages[].tool_calls[]", f"{where}.tool_calls[{index}]")


def _name_thought(message: dict[str, Any], key: str) -> None:
    """Callers send reasoning back by the name that they were told it by, which may be another's."""
    for name in REASONING:
        if name != key and name in message:
            thought = message.pop(name)
            message[key] = message.get(key) or thought


def _check_bounded(body: dict[str, Any]) -> None:
    if body.get("modalities") not in (None, [], ["text"]):
        raise GatewayError("unsupported_parameter", "Answers are text alone.", param="modalities")
    body.pop("modalities", None)
    tools = body.get("tools")
    if not tools:
        body.pop("tools", None)
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if not isinstance(tool, dict) or tool.get("type") not in _TOOL_KINDS:
            where = f"tools[{index}]"
            raise GatewayError("unsupported_parameter", f"`{where}` must be of type function.", param=where)
    if not body.get("tools") and body.get("tool_choice") in ("auto", "none"):
        del body["tool_choice"]


def _check_schema(body: dict[str, Any], form: str) -> None:
    wanted = body.get("response_format")
    if form == "none" and isinstance(wanted, dict) and wanted.get("type") not in _FORMATS:
        raise unsupported("response_format")


def _schema_as(form: str, wanted: dict[str, Any]) -> dict[str, Any]:
    told = wanted.get("json_schema")
    if wanted.get("type") != "json_schema" or not isinstance(told, dict):
        return wanted
    schema = told.get("schema", {})
    if form == "object":
        return {"type": "json_object", "schema": schema}
    return {"type": "json_schema", "json_schema": schema}


def _with_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message with one text for its parts, unless one of them is something else."""
    content = message.get("content")
    if content is None:
        return message | {"content": ""}
    if not isinstance(content, list):
        return message
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    return message | {"content": "\n".join(texts)} if all(isinstance(text, str) for text in texts) else message
