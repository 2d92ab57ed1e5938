"""What a request must hold where it is translated, and how it is refused where it does not. Knows no field."""

from typing import Any

from mcp_gateway.core.errors import GatewayError


def object_in(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """An object that may be left out."""
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise GatewayError("invalid_type", f"`{name}` must be an object.", param=name)
    return value


def named(holder: dict[str, Any], name: str, place: str) -> str:
    """The text of that name."""
    value = holder.get(name)
    if not isinstance(value, str):
        raise odd(f"{place}.{name}", "must be a string")
    return value


def whole_number(holder: dict[str, Any], name: str, place: str) -> int:
    value = holder.get(name)
    if type(value) is not int:
        raise odd(f"{place}.{name}", "must be a whole number")
    return value


def odd(place: str, problem: str) -> GatewayError:
    return GatewayError("invalid_value", f"`{place}` {problem}.", param=place)


def misplaced(place: str, kind: str, role: str) -> GatewayError:
    return odd(place, f"is of type {kind}, which has no place in what the {role} says")
