"""The shapes in which servers tell an error, in a body or amid a stream. What it means, the dialect says."""

from collections.abc import Callable
from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import parse_json
from mcp_gateway.core.surfaces.surface import Failure

MAX_REFUSAL_BYTES = 64 * 1024
"""Of a body whose status is not 200: what follows is not read. The status tells the rest."""
SEARCHED_CHARS = 2000
"""Of a refusal's text, which can quote all that the caller sent."""
_STATUS_DIGITS = 3
_ERRORS = range(400, 600)
_MAX_FAULTS, _MAX_DEPTH = 3, 12
_NAMES = ("detail", "message", "msg")
"""Keys of an object that is nothing but an error: FastAPI's, those of vLLM before 0.10 and of proxies."""


def error_in(told: Any) -> dict[str, Any] | None:
    """The error object that parsed JSON tells: known by its meaning, in whatever shape; None where it tells none.

    `{"error": {…}}`, `{"error": "text"}`, `{"object": "error", …}`, `{"type": "error", …}`, also beside choices and in
    one of them; and, without choices, `{"detail": …}` or `{"message": …}`.
    """
    if not isinstance(told, dict):
        return None
    if error := told.get("error"):
        return _as_object(error)
    if told.get("object") == "error" or told.get("type") == "error":
        return told
    if "choices" in told:
        return _error_of_choice(told["choices"])
    if "error" in told:
        return {}
    found = [name for name in _NAMES if name in told]
    return _as_object(told[found[0]], beside=told) if found else None


def _error_of_choice(choices: Any) -> dict[str, Any] | None:
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and (error := choice.get("error")):
            return _as_object(error)
    return None


def _as_object(value: Any, beside: dict[str, Any] | None = None) -> dict[str, Any]:
    if isinstance(value, dict):
        inner = value.get("error")  # an event named error, of what was one already
        return inner if isinstance(inner, dict) else value
    return {**(beside or {}), "message": _words_of(value) if isinstance(value, list) else value}


def _words_of(faults: list[Any]) -> str:
    """What a list of texts or of FastAPI's faults says, the first few."""
    return "; ".join(filter(None, map(_words_of_fault, faults[:_MAX_FAULTS])))


def _words_of_fault(fault: Any) -> str:
    text = fault.get("msg") if isinstance(fault, dict) else fault
    if not isinstance(text, str):
        return ""
    path = fault.get("loc") if isinstance(fault, dict) else None
    parts = path[:_MAX_DEPTH] if isinstance(path, list) else []
    place = ".".join(str(part) for part in parts if isinstance(part, str | int) and part != "body")
    return f"`{place}`: {text}" if place else text


def error_alone(tail: bytes, find: Callable[[Any], dict[str, Any] | None] = error_in) -> dict[str, Any] | None:
    """The error that a body of JSON tells in place of a stream, `tail` being all of it; None where that is none."""
    if not tail.lstrip().startswith((b"{", b"[")):
        return None
    try:
        return find(parse_json(tail))
    except (orjson.JSONDecodeError, GatewayError):  # its nesting
        return None


def failure_in(error: dict[str, Any]) -> Failure:
    """What an error object tells, as far as it does; the status is 500 where it names none."""
    return failure_of(_status_in(error), error)


def failure_of(status: int, error: dict[str, Any]) -> Failure:
    """The same where the status is known."""
    param = error.get("param")
    return Failure(
        status,
        _text_of(error.get("message")),
        _text_of(error.get("type")),
        _text_of(param) if isinstance(param, str) else None,
    )


def _text_of(value: Any) -> str:
    """Cut: an expression that takes its time over a caller's own words would let that caller stop everything."""
    try:
        return str(value or "")[:SEARCHED_CHARS]
    except RecursionError:  # lists in lists
        return ""


def _status_in(error: dict[str, Any]) -> int:
    """The HTTP status that an error object names; 500 where it names none."""
    for name in ("code", "status"):
        code = error.get(name)
        if isinstance(code, str) and len(code) == _STATUS_DIGITS and code.isdecimal():
            code = int(code)
        if isinstance(code, int) and code in _ERRORS:
            return code
    return 500
