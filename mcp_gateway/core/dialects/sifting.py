"""What becomes of what a caller sent: a body is sifted by a dialect's table, and what was left out is told by name.

Knows no field of any surface.
"""

import re
from collections.abc import Container, Iterable, Mapping
from enum import Enum, auto
from typing import Any

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.json_fields import unserved
from mcp_gateway.core.text import shown


class FieldUse(Enum):
    """What becomes of a name: it is passed on, removed and told, or refused."""

    PASSED = auto()
    PRICED = auto()
    """Passed on; a hold or a limit is reckoned from it."""
    BOUNDED = auto()
    """Passed on within the bounds of its dialect."""
    STRIPPED = auto()
    """It reaches past its tenant's own answer, costs without being counted, or does nothing."""
    REFUSED = auto()
    """What it asks for would be missing from the answer, or it names what is not the caller's."""


_NOT_THE_CALLER_S = re.compile(
    r"(?:.*_)?(?:urls?|uris?|paths?|files?|file_ids?|file_data|input_audio|(?:image|audio|video)_embeds)"
    r"|conversation|previous_response_id|vector_store_ids?"
)
"""An unknown name that says an address, a file, or data kept elsewhere."""
MAX_REGEX_BYTES = 8 * 1024
MAX_GRAMMAR_BYTES = 64 * 1024
MAX_SCHEMA_BYTES = 256 * 1024
"""Of one regex, grammar or schema that an answer must follow: a backend compiles it before it answers anybody."""
_MAX_BYTES = {
    "regex": MAX_REGEX_BYTES, "whitespace_pattern": MAX_REGEX_BYTES, "grammar": MAX_GRAMMAR_BYTES,
}  # fmt: skip
_MAX_IGNORED, _MAX_TOLD, _MAX_NAME_CHARS = 1000, 20, 64
"""Of removed names: those kept of one request, those told, and what is told of one."""


def first_names(names: tuple[str, ...]) -> list[str]:
    """As many of the removed names as a caller is told of."""
    more = len(names) - _MAX_TOLD
    return list(names) if more <= 0 else [*names[:_MAX_TOLD], f"and {more} more"]


def as_they_are(table: Mapping[str, FieldUse], pass_fields: Iterable[str] = ()) -> frozenset[str]:
    """The names that are passed on without a look: the table's, and those that the operator passes besides."""
    passed = (name for name, use in table.items() if use in (FieldUse.PASSED, FieldUse.PRICED))
    return frozenset((*passed, *pass_fields))


class LeftOut:
    """What is removed of one body; `table` has the names that its dialect knows."""

    __slots__ = ("_names", "_table")

    def __init__(self, table: Container[str]) -> None:
        self._table = table
        self._names: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that was removed and held anything, without repetition."""
        return tuple(dict.fromkeys(self._names.values())) if self._names else ()

    def keep_only(self, value: Any, known: frozenset[str], name: str, where: str) -> None:
        """Drop all other keys of an object; what is none is left for the backend to refuse."""
        if isinstance(value, dict):
            for key in [key for key in value if key not in known]:
                self.drop(value, key, f"{name}.{key}", f"{where}.{key}")

    def drop(self, value: dict[str, Any], key: str, name: str, where: str, *, is_refused: bool = False) -> None:
        """Remove a key and note its name, unless it holds nothing. Raises GatewayError `unsupported_parameter`."""
        dropped = value.pop(key)
        if dropped is None or dropped == []:
            return
        if is_refused or (key not in self._table and _NOT_THE_CALLER_S.fullmatch(key)):
            raise unsupported(where)
        self.note(name)

    def note(self, name: str) -> None:
        """Note a name of what was removed, which may be thousands of times."""
        if name not in self._names and len(self._names) < _MAX_IGNORED:
            self._names[name] = _visible(name)


def _visible(name: str) -> str:
    """A caller's name as it may stand in a list in a header."""
    return shown(name, _MAX_NAME_CHARS).encode("ascii", "backslashreplace").decode().replace(",", "\\x2c")


def unsupported(where: str) -> GatewayError:
    return unserved(shown(where))


def check_constraint(kind: str, value: Any, param: str) -> None:
    most_bytes = _MAX_BYTES.get(kind, MAX_SCHEMA_BYTES)
    size_bytes = len(value.encode("utf-8", "replace")) if isinstance(value, str) else len(dump_json(value))
    if size_bytes > most_bytes:
        problem = f"`{param}`: a {shown(kind)} may have at most {most_bytes} bytes, not {size_bytes}."
        raise GatewayError("invalid_value", problem, param=param)
