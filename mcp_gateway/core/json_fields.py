"""The fields of a JSON object that somebody sent, strictly typed; what is wrong is told in words of what to change.

Strict because vLLM is not: it takes "yes" for true, prefers `max_completion_tokens`, and falls back to a default model.
"""

import re
from collections.abc import Collection, Sized
from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import half_character, parse_exactly, told_of_half

_BOM = b"\xef\xbb\xbf"
_WHOLE_TEXT = re.compile(r"-?[0-9]{1,18}")
_WANTED = {str: "a string", list: "a list", dict: "an object", bool: "true or false", int: "a whole number"}


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """A request body that must be a JSON object. Raises GatewayError `invalid_json` or `invalid_type`."""
    try:
        body = parse_exactly(raw.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        if (place := half_character(raw, error)) is not None:
            raise GatewayError("invalid_json", told_of_half(place)) from None
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        problem = "The request body is empty; send a JSON object." if not raw else f"The body is not JSON ({where})."
        raise GatewayError("invalid_json", problem) from None
    if not isinstance(body, dict):
        raise GatewayError("invalid_type", f"The body must be a JSON object, not {kind_of(body)}.")
    return body


def whole_number(value: Any) -> Any:
    """A whole number that was written as a decimal or as text, as an integer; any other value as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE_TEXT.fullmatch(value):
        return int(value)
    return value


def make_whole(body: dict[str, Any], names: Collection[str]) -> None:
    """Have the fields of these names be integers where they tell one in another form."""
    for name in body.keys() & names:
        body[name] = whole_number(body[name])


def required(body: dict[str, Any], name: str, kind: type, description: str) -> Any:
    """The field of that type. Raises GatewayError `missing_parameter` where it is absent or empty, `invalid_type`."""
    value = body.get(name)
    if value is None or value == "" or value == []:
        raise GatewayError("missing_parameter", f"`{name}` is missing or empty: give {description}.", param=name)
    return checked(value, kind, name)


def optional(body: dict[str, Any], name: str, kind: type, prefix: str = "") -> Any:
    """The field of that type, or None. Raises GatewayError `invalid_type`."""
    value = body.get(name)
    return None if value is None else checked(value, kind, prefix + name)


def at_least(body: dict[str, Any], name: str, least: int) -> int | None:
    """The integer field, or None. Raises GatewayError `invalid_type` or `invalid_value`."""
    value: int | None = body.get(name)
    if value is not None and checked(value, int, name) < least:
        raise GatewayError("invalid_value", f"`{name}` must be at least {least}, not {value}.", param=name)
    return value


def at_most(values: Sized, most: int, name: str) -> None:
    """Raises GatewayError `invalid_value` for a list of more."""
    if len(values) > most:
        raise GatewayError("invalid_value", f"`{name}` may have at most {most} entries, not {len(values)}.", param=name)


def checked(value: Any, kind: type, name: str) -> Any:
    """The value, if it is of that type. Raises GatewayError `invalid_type`."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise GatewayError("invalid_type", f"`{name}` must be {_WANTED[kind]}, not {kind_of(value)}.", param=name)
    return value


def unserved(param: str) -> GatewayError:
    """Refuses a field that nothing here carries out."""
    return GatewayError("unsupported_parameter", f"`{param}` is not served here; leave it out.", param=param)


def kind_of(value: Any) -> str:
    """The type of a JSON value, in words."""
    names = {str: "a string", list: "a list", dict: "an object", bool: "a boolean", int: "a number", float: "a decimal"}
    return names.get(type(value), "null")
