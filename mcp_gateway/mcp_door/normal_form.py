"""What clients send otherwise than the specification has it, brought into its form where it is plain what they mean.

The SDK refuses all of this. The arguments of tools are not looked at: what those mean stands in each tool's schema.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mcp.types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, LOG_LEVEL_META_KEY

from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.mcp_door.jsonrpc import Message

_LEVELS = {"trace": "debug", "warn": "warning", "err": "error", "fatal": "critical"}
"""Names of other logs for the levels of this one."""


def in_normal_form(message: Message) -> Message:
    """The message as the specification has it, as far as that is plain."""
    bring = _BY_METHOD.get(message.method or "")
    if message.params is None or (bring is None and "_meta" not in message.params):
        return message
    params = dict(message.params)
    if isinstance(meta := params.get("_meta"), dict):
        params["_meta"] = _meta(meta)
    if bring is not None:
        bring(params)
    return replace(message, params=params)


def _meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(meta)
    if made.get("progressToken", "") is None:
        del made["progressToken"]
    for key, form in ((CLIENT_INFO_META_KEY, _info), (CLIENT_CAPABILITIES_META_KEY, _capabilities)):
        if key in made:
            made[key] = form(made[key])
    if LOG_LEVEL_META_KEY in made:
        made[LOG_LEVEL_META_KEY] = _level(made[LOG_LEVEL_META_KEY])
    return made


def _initialize(params: dict[str, Any]) -> None:
    params["clientInfo"] = _info(params.get("clientInfo"))
    params["capabilities"] = _capabilities(params.get("capabilities"))


def _get_prompt(params: dict[str, Any]) -> None:
    params["arguments"] = as_texts(params.get("arguments"))


def _complete(params: dict[str, Any]) -> None:
    if isinstance(argument := params.get("argument"), dict):
        value = argument.get("value")
        params["argument"] = argument | {"value": "" if value is None else _text(value)}
    if isinstance(context := params.get("context"), dict):
        params["context"] = context | {"arguments": as_texts(context.get("arguments"))}


def _set_level(params: dict[str, Any]) -> None:
    params["level"] = _level(params.get("level"))


_BY_METHOD: dict[str, Callable[[dict[str, Any]], None]] = {
    "initialize": _initialize,
    "prompts/get": _get_prompt,
    "completion/complete": _complete,
    "logging/setLevel": _set_level,
}


def _info(info: Any) -> Any:
    """Of a client that does not say it, name or version are empty."""
    if info is not None and not isinstance(info, dict):
        return info
    return {"name": "", "version": ""} | as_texts(info)


def _capabilities(capabilities: Any) -> Any:
    """A capability may be said by `true`; an empty list is how PHP writes an empty object."""
    if not capabilities:
        return {}
    if not isinstance(capabilities, dict):
        return capabilities
    said = {name: value for name, value in capabilities.items() if value is not None and value is not False}
    return {name: {} if value is True or value == [] else value for name, value in said.items()}


def _level(level: Any) -> Any:
    if not isinstance(level, str):
        return level
    return _LEVELS.get(level.lower(), level.lower())


def as_texts(values: Any) -> Any:
    """Arguments that are texts, without those that are null."""
    if not values:
        return {}
    if not isinstance(values, dict):
        return values
    return {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: Any) -> Any:
    """Numbers and switches as JSON writes them, a list of texts with commas; anything else is left, to be refused."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | float):
        return dump_json(value).decode()
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value
