"""What every tool is: a definition, and a call that returns a result on the wire's terms. Knows no transport."""

import difflib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mcp import types

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.request import whole_number
from mcp_gateway.core.text import SHOWN_CHARS, shown

Report = Callable[[float, str], Awaitable[None]]
"""Tells the caller how far a call is (a number that only grows) and a line to show."""

Result = dict[str, Any]
"""A `CallToolResult` as it goes over the wire; what a revision lacks is left out there."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """Who calls, under which id it is recorded and billed, and how to report; `report` is None where nobody listens."""

    caller: Caller
    request_id: str
    client_request_id: str | None
    report: Report | None
    context: RequestContext | None = None


class Tool(Protocol):
    """A tool for keys with its `scope`; calling it raises GatewayError for whatever its caller is to be told."""

    scope: KeyScope
    definition: types.Tool

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result: ...


ERROR_PROPERTIES: dict[str, Any] = {
    "type": {"type": "string", "description": "On failure: the kind of error."},
    "code": {"type": "string", "description": "On failure: the exact error."},
    "message": {"type": "string", "description": "On failure: what went wrong and what to do."},
    "retry_after_s": {"type": ["integer", "null"], "description": "On failure: seconds to wait before another try."},
    "topup_url": {"type": "string", "description": "On failure for lack of money: where the account is topped up."},
}


def output_schema(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """The schema of a tool's results, failures included: TypeScript clients check those against it too."""
    return {
        "type": "object",
        "properties": properties | ERROR_PROPERTIES,
        "anyOf": [{"required": required}, {"required": ["type", "code", "message"]}],
    }


def result(text: str, structured: dict[str, Any], *, is_error: bool = False) -> Result:
    """A result that says the same as text for a reader and as data."""
    content = [{"type": "text", "text": text}]
    return {"content": content, "structuredContent": structured, "isError": is_error, "resultType": "complete"}


def error_result(error: GatewayError, *, further_advice: str = "") -> Result:
    """A failure that a model can act on: what happened, and what to do next."""
    advice = error.row.advice
    if error.retry_after_s is not None:
        advice = advice.replace("retry_after_s seconds", f"{error.retry_after_s} seconds")
    message = f"{error.message} {advice} {further_advice}".rstrip()
    told = {"type": error.row.type, "code": error.code, "message": message, "retry_after_s": error.retry_after_s}
    if (url := error.details.get("topup_url")) is not None:
        told["topup_url"] = url
    return result(message, told, is_error=True)


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "string": (str, "a string"),
    "integer": (int, "a whole number"),
    "number": ((int, float), "a number"),
    "boolean": (bool, "true or false"),
    "array": (list, "a list"),
    "object": (dict, "an object"),
}


def checked_arguments(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that were given (null is not given), each of the kind and within the bounds that its schema names.

    Looks no deeper than the arguments themselves. Raises GatewayError in words that a model can act on.
    """
    properties = schema["properties"]
    given = {name: value for name, value in arguments.items() if value is not None}
    for name, value in given.items():
        if name not in properties:
            raise _unknown_argument(name, properties)
        if properties[name].get("type") == "integer":
            given[name] = whole_number(value)
        _check(name, given[name], properties[name])
    for name in schema.get("required", ()):
        if name not in given:
            raise GatewayError("missing_parameter", f"`{name}` is missing.", param=name)
    return given


def _unknown_argument(name: str, known: Mapping[str, Any]) -> GatewayError:
    close = difflib.get_close_matches(name[:SHOWN_CHARS], known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(known)}."
    return GatewayError("unsupported_parameter", f"There is no argument `{shown(name)}`; {hint}", param=shown(name))


def _check(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    kinds = schema.get("type", ())
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is_of(value, kind) for kind in kinds):
        wanted = " or ".join(_KINDS[kind][1] for kind in kinds)
        raise GatewayError("invalid_type", f"`{name}` must be {wanted}.", param=name)
    if "enum" in schema and value not in schema["enum"]:
        raise GatewayError("invalid_value", f"`{name}` must be one of {', '.join(schema['enum'])}.", param=name)
    low, high = schema.get("minimum"), schema.get("maximum")
    if isinstance(value, int | float) and not (low is None or value >= low):
        raise GatewayError("invalid_value", f"`{name}` must be at least {low}.", param=name)
    if isinstance(value, int | float) and not (high is None or value <= high):
        raise GatewayError("invalid_value", f"`{name}` must be at most {high}.", param=name)


def _is_of(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind][0]) and (kind == "boolean" or not isinstance(value, bool))
