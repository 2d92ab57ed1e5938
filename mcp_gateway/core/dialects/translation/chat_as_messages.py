"""What OpenAI's clients ask, as Anthropic's ask it: the fields of a chat's request.

The body has been sifted; what a field needs is checked here. Knows no provider but by its row.
"""

from typing import Any

from mcp_gateway.core.dialects.sifting import unsupported
from mcp_gateway.core.dialects.translation.chat_in_blocks import conversation_of
from mcp_gateway.core.dialects.translation.shapes import named, object_in, odd
from mcp_gateway.core.dialects.translation.words import EFFORTS, TOOL_CHOICES, nearest_effort
from mcp_gateway.core.provider_settings import Preset

_ALIKE = ("temperature", "top_p")
_TOOL_CHOICES = {chat: message for message, chat in TOOL_CHOICES.items()}
_OBJECT = {"type": "object"}


class ChatAsMessages:
    """For the provider of one row."""

    def __init__(self, row: Preset) -> None:
        self._efforts = row.efforts
        self._same = frozenset((*_ALIKE, *row.pass_fields))
        """Fields that both call alike, and those of Anthropic's that a chat may have as well."""

    def message_of(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body of a message, without a limit of its answer. What nobody changes it shares with what is given.

        Raises GatewayError (400) for what cannot be said as one.
        """
        said = conversation_of(body["messages"])
        message = {name: value for name, value in body.items() if name in self._same and value is not None}
        message["messages"] = said.turns
        if said.system:
            message["system"] = said.system
        if stop := body.get("stop"):
            message["stop_sequences"] = _stops(stop)
        message |= _tools(body, said.called) | self._thinking(body)
        if (schema := _schema(object_in(body, "response_format"))) is not None:
            output = {"format": {"type": "json_schema", "schema": schema}}
            message["output_config"] = object_in(message, "output_config") | output
        return message

    def _thinking(self, body: dict[str, Any]) -> dict[str, Any]:
        """A model thinks as much as it is asked to by either name."""
        effort = body.get("reasoning_effort")
        if effort is None or body.get("thinking") is not None:
            return {}
        if effort not in EFFORTS:
            raise odd("reasoning_effort", f"must be one of {', '.join(EFFORTS)}")
        if effort == "none":
            return {"thinking": {"type": "disabled"}}
        output = object_in(body, "output_config") | {"effort": nearest_effort(effort, self._efforts)}
        return {"thinking": {"type": "adaptive"}, "output_config": output}


def _stops(stop: Any) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise odd("stop", "must be a string or a list of strings")
    if not all(one.strip() for one in stops):
        raise unsupported("stop")  # white space alone
    return stops


def _tools(body: dict[str, Any], called: list[str]) -> dict[str, Any]:
    """What was called has to be there, even where nothing may be called any more."""
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.get("tools") or ())]
    choice = _choice(body.get("tool_choice"))
    if not tools:
        named_before = [{"name": name, "input_schema": _OBJECT} for name in called]
        return {"tools": named_before, "tool_choice": {"type": "none"}} if named_before else {}
    if body.get("parallel_tool_calls") is False and choice != {"type": "none"}:
        choice = (choice or {"type": "auto"}) | {"disable_parallel_tool_use": True}
    return {"tools": tools} | ({"tool_choice": choice} if choice else {})


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    function = tool.get("function")
    if tool["type"] != "function" or not isinstance(function, dict):
        raise unsupported(place)
    schema = object_in(function, "parameters")
    told = {"name": named(function, "name", f"{place}.function"), "input_schema": _OBJECT | schema}
    told |= {name: function[name] for name in ("description", "strict") if function.get(name)}
    mark = tool.get("cache_control")
    return told if mark is None else told | {"cache_control": mark}


def _choice(choice: Any) -> dict[str, Any]:
    if choice is None:
        return {}
    if isinstance(choice, str) and choice in _TOOL_CHOICES:
        return {"type": _TOOL_CHOICES[choice]}
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = object_in(choice, "function")
        return {"type": "tool", "name": named(function, "name", "tool_choice.function")}
    raise unsupported("tool_choice")


def _schema(wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that an answer has to follow; an object of any kind cannot be asked for."""
    kind = wanted.get("type")
    if kind in (None, "text"):
        return None
    schema = object_in(wanted, "json_schema").get("schema")
    if kind != "json_schema" or not isinstance(schema, dict):
        raise unsupported("response_format")
    return schema
