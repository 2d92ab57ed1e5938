"""A small JSON value that is valid against a JSON Schema, always the same one.

Knows types, enum, const, local $ref, allOf, anyOf, oneOf, and the bounds of numbers, strings, arrays and objects. Does
not solve `pattern`, `not`, `if`, `contains`, `uniqueItems` or `multipleOf` for fractions that binary cannot hold. What
it reads and makes is bounded, since a small schema can ask for a value without end.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, floor, inf, isfinite
from typing import Any

from mcp_gateway.core.text import shown

_OPTIONAL_DEPTH = 4
"""From this depth on only what is required is made, so that recursive schemas end."""
_MAX_DEPTH = 40
_MAX_TEXT_CHARS = 10_000

_FORMATS = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

_KIND_BY_KEYWORD = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
}


class SchemaError(Exception):
    """No value can be made: the schema is malformed, unsatisfiable, or too large."""


@dataclass(slots=True)
class Allotment:
    """What may still be made: values, and characters of names and texts; and how many keywords may be read for it."""

    values: int = 200
    keywords: int = 10_000
    chars: int = 20_000

    def take(self, *, values: int = 0, keywords: int = 0, chars: int = 0) -> None:
        """Raises SchemaError once too much was taken."""
        self.values -= values
        self.keywords -= keywords
        self.chars -= chars
        if min(self.values, self.keywords, self.chars) < 0:
            raise SchemaError("schema too large")


def instance_of(schema: Any, budget: Allotment | None = None) -> Any:
    """A value valid against `schema` (JSON Schema 2020-12, the part named above). Raises SchemaError."""
    try:
        return _Maker(schema, budget or Allotment()).value(schema, 0)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError) as error:
        raise SchemaError("malformed schema") from error


class _Maker:
    def __init__(self, root: Any, budget: Allotment) -> None:
        self._root = root
        self._budget = budget
        self._kinds: dict[str, Callable[[dict[str, Any], int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": lambda schema, _: self._given(_string(schema)),
            "integer": lambda schema, _: _number(schema, is_whole=True),
            "number": lambda schema, _: _number(schema, is_whole=False),
            "boolean": lambda _, __: True,
            "null": lambda _, __: None,
        }

    def value(self, schema: Any, depth: int) -> Any:
        self._budget.take(values=1)
        if depth > _MAX_DEPTH:
            raise SchemaError("schema too large")
        if schema is False:
            raise SchemaError("no value is valid")
        schema = {} if schema is True else self._resolved(schema, depth)
        if "const" in schema:
            return self._given(schema["const"])
        if "enum" in schema:
            return self._given(schema["enum"][0])
        kind = _kind(schema)
        if kind not in self._kinds:
            raise SchemaError(f'Unsupported type "{shown(kind)}"')
        return self._kinds[kind](schema, depth)

    def _given(self, value: Any) -> Any:
        """A value that the schema has in it, which may be of any size, and asked for many times."""
        self._budget.take(chars=len(json.dumps(value)))
        return value

    def _resolved(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        """The schema without references and alternatives: the first alternative is taken, or null where it is deep."""
        for _ in range(_MAX_DEPTH):
            self._budget.take(keywords=len(schema))
            if "$ref" in schema:
                schema = self._merged(_without(schema, "$ref"), self._referenced(schema["$ref"]))
            elif "allOf" in schema:
                parts, schema = schema["allOf"], _without(schema, "allOf")
                for part in parts:
                    schema = self._merged(schema, part)
            elif alternatives := schema.get("anyOf") or schema.get("oneOf"):
                self._budget.take(keywords=len(alternatives))
                has_null = depth >= _OPTIONAL_DEPTH and {"type": "null"} in alternatives
                chosen = {"type": "null"} if has_null else alternatives[0]
                schema = self._merged(_without(schema, "anyOf", "oneOf"), chosen)
            else:
                return schema
        raise SchemaError("schema too large")

    def _merged(self, schema: dict[str, Any], other: Any) -> dict[str, Any]:
        """Both schemas as one: properties and required names of both, else the keywords of `other` win."""
        if other is True:
            return schema
        if other is False:
            raise SchemaError("no value is valid")
        self._budget.take(keywords=len(schema) + len(other))
        merged = {**schema, **other}
        if "properties" in schema and "properties" in other:
            self._budget.take(keywords=len(schema["properties"]) + len(other["properties"]))
            merged["properties"] = {**schema["properties"], **other["properties"]}
        if "required" in schema and "required" in other:
            self._budget.take(keywords=len(schema["required"]) + len(other["required"]))
            merged["required"] = [*schema["required"], *other["required"]]
        return merged

    def _referenced(self, pointer: str) -> Any:
        if not pointer.startswith("#"):
            raise SchemaError("only local references are supported")
        self._budget.take(keywords=pointer.count("/"))
        found = self._root
        for step in pointer.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            found = found[int(step)] if isinstance(found, list) else found[step]
        return found

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        self._budget.take(keywords=len(properties) + len(required))
        required = dict.fromkeys(required)
        names = [*properties, *(name for name in required if name not in properties)]
        if depth >= _OPTIONAL_DEPTH:
            names = [name for name in names if name in required]
        others = schema.get("additionalProperties", True)
        return {name: self._member(name, properties.get(name, others), depth) for name in names}

    def _member(self, name: str, schema: Any, depth: int) -> Any:
        self._budget.take(chars=len(name))
        return self.value(schema, depth + 1)

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = schema.get("prefixItems", [])
        wanted = max(len(first), 0 if depth >= _OPTIONAL_DEPTH or "items" not in schema else 1)
        size = max(schema.get("minItems", 0), min(wanted, schema.get("maxItems", inf)))
        others = schema.get("items", True)
        return [self.value(first[n] if n < len(first) else others, depth + 1) for n in range(size)]


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return str(kind[0])
    return str(kind or next((_KIND_BY_KEYWORD[key] for key in schema if key in _KIND_BY_KEYWORD), "string"))


def _without(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in keys}


def _string(schema: dict[str, Any]) -> str:
    text = _FORMATS.get(schema.get("format", ""), "demo")
    least, most = schema.get("minLength", 0), schema.get("maxLength", inf)
    if least > min(most, _MAX_TEXT_CHARS):
        raise SchemaError("no string fits")
    text = text.ljust(least, "o")
    return text if len(text) <= most else text[:most]


def _number(schema: dict[str, Any], *, is_whole: bool) -> float:
    for candidate in _candidates(schema):
        number = int(candidate) if candidate == floor(candidate) else candidate
        if (isinstance(number, int) or not is_whole) and _is_within(number, schema):
            return number
    raise SchemaError("no number fits")


def _candidates(schema: dict[str, Any]) -> Iterator[float]:
    """Plain numbers first, then those at and just inside the bounds, then the multiples nearest to them."""
    low = max(schema.get("minimum", -inf), schema.get("exclusiveMinimum", -inf))
    high = min(schema.get("maximum", inf), schema.get("exclusiveMaximum", inf))
    yield from (1, 0)
    bounds = [bound for bound in (low, high) if isfinite(bound)]
    for bound in bounds:
        yield from (bound, ceil(bound), floor(bound), floor(bound) + 1, ceil(bound) - 1)
    yield from ((low + high) / 2,) if bounds == [low, high] else ()
    if step := schema.get("multipleOf"):
        for bound in (*bounds, 0):
            yield from ((floor(bound / step) + offset) * step for offset in (1, 0, -1))


def _is_within(number: float, schema: dict[str, Any]) -> bool:
    step = schema.get("multipleOf")
    return (
        schema.get("minimum", -inf) <= number <= schema.get("maximum", inf)
        and schema.get("exclusiveMinimum", -inf) < number < schema.get("exclusiveMaximum", inf)
        and (not step or number % step == 0)
    )
