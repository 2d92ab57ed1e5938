"""A tool's arguments as hosts and models send them, read by the tool's schema.

They send JSON as text, numbers as text, empty values for what they leave out, and names of their own: what is plain is
taken, a misspelt name is refused with the right one. Arguments that are right already are only looked at.
"""

import re
from collections.abc import Awaitable, Callable, Container, Mapping
from itertools import islice
from typing import Any

import orjson

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import JsonBounds, parse_exactly
from mcp_gateway.core.json_fields import whole_number
from mcp_gateway.core.text import SHOWN_CHARS, nearest, shown

Schema = Mapping[str, Any]
"""JSON Schema as hosts take it, but that `type` may list what else is taken after what hosts are told."""
Parse = Callable[[str], Awaitable[Any]]
"""The value of a JSON text, within bounds. Raises ValueError, or GatewayError for one that exceeds them."""

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_TOLD = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}
_BEGIN = {"array": "[", "object": "{"}
_NOTHING = frozenset({"", "null", "none"})
"""How texts say that nothing is given."""
_BOOLEANS: dict[Any, bool] = {"true": True, "false": False, "1": True, "0": False, 1: True, 0: False}
_MAX_NUMBER_CHARS = 64
_ALIKE = 0.75
_MAX_COMPARED = 64
"""Names that no argument has, each of which is compared with those that there are: some hosts send all they know."""
_BETWEEN_WORDS = re.compile(r"[\s_-]+")


def parser_for(bounds: JsonBounds, caller: Caller) -> Parse:
    """One that holds JSON within JSON to the same bounds as a body of the caller's."""

    async def parse(text: str) -> Any:
        raw = text.encode()
        await bounds.check(raw, caller)
        return parse_exactly(raw)

    return parse


class SchemaNode:
    """A node of a schema, taken apart once."""

    def __init__(self, schema: Schema) -> None:
        kinds = schema["type"]
        self.kinds: list[str] = kinds if isinstance(kinds, list) else [kinds]
        self.types = {kind for name in self.kinds for kind in _TYPES[name]}
        self.enum: list[str] = schema.get("enum", [])
        self.low, self.high = schema.get("minimum"), schema.get("maximum")
        self.items = SchemaNode(schema["items"]) if "items" in schema else None
        self.required: list[str] = schema.get("required", [])
        self.properties = {name: SchemaNode(part) for name, part in schema.get("properties", {}).items()}
        self.structured = [(name, part) for name, part in self.properties.items() if part.types & {list, dict}]
        self._begins = tuple(_BEGIN[kind] for kind in self.kinds if kind in _BEGIN)

    def looks_like(self, text: Any) -> bool:
        """Whether a text may hold one of the lists or objects that are wanted."""
        return isinstance(text, str) and text.lstrip().startswith(self._begins)


class Arguments:
    """A tool's arguments. Names in `also` are known to whoever reads what is taken, and no misspellings."""

    def __init__(self, schema: Schema, *, also: Container[str] = frozenset()) -> None:
        self.schema = _published(schema)
        self._wanted = SchemaNode(schema)
        self._also = also

    async def opened(self, arguments: Mapping[str, Any], parse: Parse) -> dict[str, Any]:
        """The arguments with lists and objects in place of texts that hold them as JSON, however deep the schema tells.

        A single object in place of a list becomes a list, and an empty text, list or object is left out. What is no
        such text stays as it is.
        """
        opened = dict(arguments)
        await _open_within([opened], self._wanted, parse)
        return opened

    def taken(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that were given, each of the kind and within the bounds that the schema names.

        Null, and an empty text, list or object, is not given. Names that the schema does not know are kept for their
        reader to judge, unless one is a misspelling. Looks no deeper than the arguments themselves. Raises GatewayError
        in words that a model can act on.
        """
        properties = self._wanted.properties
        if not arguments.keys() <= properties.keys():
            self._check_spelling(arguments)
        given = {}
        for name, value in arguments.items():
            kept = _taken(name, value, properties[name]) if name in properties else value
            if kept is not None:
                given[name] = kept
        for name in self._wanted.required:
            if name not in given:
                raise GatewayError("missing_parameter", f"`{name}` is missing.", param=name)
        return given

    def _check_spelling(self, arguments: Mapping[str, Any]) -> None:
        """Refuse a name that is nearly an argument's, with a value that would do for it: that would be lost.

        Others are hosts' own: n8n's `tool` is no misspelling of `tools`, since it is a text.
        """
        properties = self._wanted.properties
        strangers = (name for name in arguments if name not in properties and name not in self._also)
        known = {_letters(name): name for name in properties}
        for written in islice(strangers, _MAX_COMPARED):
            for close in nearest(_letters(written[:SHOWN_CHARS]), known, likeness=_ALIKE):
                if _would_do(arguments[written], properties[known[close]]):
                    text = f"There is no argument `{shown(written)}`; did you mean `{known[close]}`?"
                    raise GatewayError("unsupported_parameter", text, param=shown(written))


def _published(schema: Schema) -> dict[str, Any]:
    """The schema as hosts are told it: of several types the first, since they refuse more or cannot call the tool."""
    told = {name: _published(value) if isinstance(value, dict) else value for name, value in schema.items()}
    if isinstance(kinds := told.get("type"), list):
        told["type"] = kinds[0]
    return told


# Lists and objects


async def _open_within(objects: list[dict[str, Any]], wanted: SchemaNode, parse: Parse) -> None:
    """Open what stands as text in place of the lists and objects that these objects should have, and within those."""
    given = set().union(*objects)
    for name, part in wanted.structured:
        if name not in given or not (holders := _holders(objects, name)):
            continue
        if str in {type(one[name]) for one in holders}:
            is_all = str not in part.types
            await _open_texts([(one, name) for one in holders if is_all or part.looks_like(one[name])], parse)
        if part.items is None:
            await _open_within([one[name] for one in holders if isinstance(one[name], dict)], part, parse)
        elif dict in part.items.types:
            await _open_lists([_made_list(one, name) for one in holders], part.items, parse)


async def _open_lists(lists: list[list[Any]], items: SchemaNode, parse: Parse) -> None:
    if str in {type(one) for some in lists for one in some}:
        await _open_texts([(some, number) for some in lists for number in range(len(some))], parse)
    if items.structured:
        await _open_within([one for some in lists for one in some if isinstance(one, dict)], items, parse)


async def _open_texts(places: list[tuple[Any, Any]], parse: Parse) -> None:
    """Put what texts hold in their places, unless one of them holds no JSON; all are parsed, and bounded, as one.

    JSON within JSON is opened too.
    """
    for _ in range(2):
        places = [(container, key) for container, key in places if type(container[key]) is str]
        texts = [container[key] for container, key in places]
        if not texts:
            return
        try:
            values = await parse(f"[{','.join(texts)}]")
        except ValueError:
            return
        if len(values) == len(texts):
            for (container, key), value in zip(places, values, strict=True):
                container[key] = value


def _holders(objects: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The objects that have a part; one that is empty is taken out."""
    holders = []
    for one in objects:
        if value := one.get(name):
            holders.append(one)
        elif name in one and _is_empty(value):
            del one[name]
    return holders


def _made_list(holder: dict[str, Any], name: str) -> list[Any]:
    """The list that an object should have, of a single one where that stands there; empty for something else."""
    if isinstance(holder[name], dict):
        holder[name] = [holder[name]]
    return holder[name] if isinstance(holder[name], list) else []


# Each argument


def _is_empty(value: Any) -> bool:
    return value is None or (not value and isinstance(value, str | list | dict))


def _taken(name: str, value: Any, wanted: SchemaNode) -> Any:
    """An argument of the wanted kind; None for what is not given."""
    if _is_empty(value):
        return None
    if type(value) not in wanted.types or wanted.enum:
        value = _plainly_meant(value, wanted)
    elif isinstance(value, list) and wanted.items is not None and str in wanted.items.types and "" in value:
        value = [item for item in value if item != ""] or None
    if value is not None:
        _check(name, value, wanted)
    return value


def _plainly_meant(value: Any, wanted: SchemaNode) -> Any:
    """What a value of another kind means, where that is plain; None for nothing; else the value itself."""
    if isinstance(value, int | float) and bool in wanted.types:
        return _BOOLEANS.get(value, value)
    if not isinstance(value, str):
        return whole_number(value) if "integer" in wanted.kinds else value
    word = value.strip().lower()
    if wanted.enum:
        return word if word in wanted.enum else value
    if word in _NOTHING:
        return None if str not in wanted.types else value
    return _BOOLEANS.get(word, value) if bool in wanted.types else _number_in(word, value, wanted)


def _number_in(word: str, value: str, wanted: SchemaNode) -> Any:
    """The number that a text is, if a number is wanted."""
    if int not in wanted.types or len(word) > _MAX_NUMBER_CHARS:
        return value
    number = whole_number(word)
    if isinstance(number, str):
        try:
            number = parse_exactly(word.encode())
        except orjson.JSONDecodeError:
            return value
    return whole_number(number) if float not in wanted.types else number


def _check(name: str, value: Any, wanted: SchemaNode) -> None:
    if wanted.enum and value not in wanted.enum:
        raise GatewayError("invalid_value", f"`{name}` must be one of {', '.join(wanted.enum)}.", param=name)
    if type(value) not in wanted.types:
        kinds = " or ".join(_TOLD[kind] for kind in wanted.kinds)
        raise GatewayError("invalid_type", f"`{name}` must be {kinds}.", param=name)
    if wanted.low is not None and not value >= wanted.low:
        raise GatewayError("invalid_value", f"`{name}` must be at least {wanted.low}.", param=name)
    if wanted.high is not None and not value <= wanted.high:
        raise GatewayError("invalid_value", f"`{name}` must be at most {wanted.high}.", param=name)


# Names


def _letters(name: str) -> str:
    return _BETWEEN_WORDS.sub("", name).lower()


def _would_do(value: Any, wanted: SchemaNode) -> bool:
    """Whether a value may be meant for an argument: not null, nor a text that is nothing else where none is wanted."""
    if isinstance(value, str):
        return str in wanted.types or wanted.looks_like(value) or _plainly_meant(value, wanted) is not value
    return value is not None
