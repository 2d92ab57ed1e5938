"""What Anthropic's clients ask, as OpenAI's ask it: the fields of a message's request.

The body has been sifted; what a field needs is checked here. Knows no provider but by its row.
"""

from typing import Any

from mcp_gateway.core.dialects.translation.messages_in_turn import MessagesInTurn
from mcp_gateway.core.dialects.translation.shapes import named, object_in, odd, whole_number
from mcp_gateway.core.dialects.translation.words import EFFORTS, choice_of_tools, effort_of_tokens, nearest_effort
from mcp_gateway.core.provider_settings import Preset

_ALIKE = ("temperature", "top_p", "top_k")
_NO_PARAMETERS = {"type": "object", "properties": {}}


class MessagesAsChat:
    """For the provider of one row."""

    def __init__(self, row: Preset) -> None:
        self._efforts = row.efforts
        self._says_whether_to_think = "thinking" in row.pass_fields
        self._turns = MessagesInTurn(row.replay)

    def chat_of(self, body: dict[str, Any], *, has_effort: bool = True) -> dict[str, Any]:
        """The body of a chat, which shares with the one that is given only what nobody changes.

        Raises GatewayError (400) for what cannot be said as one.
        """
        chat = {name: body[name] for name in _ALIKE if name in body}
        chat["messages"] = [*self._turns.of(body.get("system"), body["messages"])]
        if stop := body.get("stop_sequences"):
            chat["stop"] = stop
        if tools := body.get("tools"):
            chat["tools"] = [_function(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
        if (choice := body.get("tool_choice")) is not None:
            chat |= _choice(choice, has_tools=bool(tools))
        if (wanted := object_in(body, "output_config").get("format")) is not None:
            chat["response_format"] = _response_format(wanted)
        return chat | self._thinking(body, has_effort=has_effort)

    def _thinking(self, body: dict[str, Any], *, has_effort: bool) -> dict[str, Any]:
        kind = object_in(body, "thinking").get("type")
        told: dict[str, Any] = {}
        if self._says_whether_to_think and kind in ("enabled", "disabled"):
            told["thinking"] = {"type": kind}
        if has_effort and (effort := self._effort(body, kind)) is not None:
            told["reasoning_effort"] = effort
        return told

    def _effort(self, body: dict[str, Any], kind: Any) -> str | None:
        """The nearest that the provider knows; None where it knows none, or is left to think as it likes."""
        if kind == "disabled":
            return "none" if "none" in self._efforts else None
        asked = object_in(body, "output_config").get("effort")
        if asked is None and kind == "enabled":
            asked = effort_of_tokens(whole_number(body["thinking"], "budget_tokens", "thinking"))
        if asked is None:
            return None
        if asked not in EFFORTS:
            raise odd("output_config.effort", f"must be one of {', '.join(EFFORTS)}")
        return nearest_effort(asked, self._efforts)


def _function(tool: Any, place: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise odd(place, "must be an object")
    function = {"name": named(tool, "name", place), "parameters": tool.get("input_schema") or _NO_PARAMETERS}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _choice(choice: Any, *, has_tools: bool) -> dict[str, Any]:
    """What OpenAI refuses where there are no tools is left out, unless one has to be called."""
    try:
        told = choice_of_tools(choice)
    except (LookupError, TypeError):
        raise odd("tool_choice", "must be of type auto, any, none, or tool with a `name`") from None
    if not has_tools and told in ("auto", "none"):
        return {}
    only_one = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}
    return {"tool_choice": told} | only_one


def _response_format(wanted: Any) -> dict[str, Any]:
    schema = wanted.get("schema") if isinstance(wanted, dict) else None
    if not isinstance(schema, dict) or wanted.get("type") != "json_schema":
        raise odd("output_config.format", "must be of type json_schema, with a `schema`")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
