"""Words for what is wrong in a configuration: where it stands, what is wrong, what to write instead.

Knows the faults that pydantic finds and the names of the settings, and not what they mean. Never shows a value, which
may be a secret.
"""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from mcp_gateway.core.text import nearest

KeyPath = tuple[str, ...]
"""Where a setting stands in the tree, such as `("limits", "in_flight")` or `("models", "pricing", "prompt")`."""
TABLES_IN_LISTS: tuple[KeyPath, ...] = (
    ("providers",), ("models",), ("models", "pricing", "tiers"), ("models", "candidates"), ("mcp_servers",),
)  # fmt: skip
"""Those that there may be several of."""

_NUMBER = "must be a number"
_WHOLE_NUMBER = "must be a whole number"
_TEXT = 'must be text in quotes, such as "text"'
_SWITCH = "must be true or false"
_WORDS = {
    "bool_parsing": _SWITCH,
    "bool_type": _SWITCH,
    "finite_number": "must be a finite number",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "int_from_float": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": _WHOLE_NUMBER,
    "dict_type": "must be a table of names and values, as gateway.example.toml shows",
    "int_type": _WHOLE_NUMBER,
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "missing": "is missing, and there is no default",
    "model_type": "must be a table of settings in square brackets, as gateway.example.toml shows",
    "path_type": _TEXT,
    "string_pattern_mismatch": "must not be empty or hold spaces or line ends",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_type": _TEXT,
    "value_error": "{error}",
}


def describe_fault(fault: ErrorDetails, known: Collection[KeyPath], variables: Mapping[KeyPath, str], file: str) -> str:
    """One line on a fault: its variable where `variables` says that one set it, else its place in the TOML `file`."""
    path = tuple(part for part in fault["loc"] if isinstance(part, str))
    place = _in_variable(variables[path], fault["loc"]) if path in variables else _in_file(file, fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: there is no such setting; {_where_else(path, known)}"
    words = _WORDS.get(fault["type"], "cannot be used; gateway.example.toml shows how to write it")
    return f"{place}: {words.format(**fault.get('ctx', {}))}"


def describe_unknown_variable(name: str, known: Collection[str]) -> str:
    """One line on a variable that is none of ours, with the nearest one that is."""
    for table, *inner in TABLES_IN_LISTS:
        if not inner and name.startswith(f"GATEWAY_{table.upper()}"):
            return f"{name}: {table.replace('_', ' ')} are written in the configuration file, as [[{table}]]"
    return f"{name}: there is no such setting; {_hint(name.upper(), known)}"


def _in_variable(name: str, loc: tuple[Any, ...]) -> str:
    return f"{name}, entry {loc[-1] + 1}" if isinstance(loc[-1], int) else name


def _in_file(file: str, loc: tuple[Any, ...]) -> str:
    """What is wrong with settings of the top together has the file alone for a place."""
    return f"{file}: {_in_toml(loc)}" if loc else file


def _in_toml(loc: tuple[Any, ...], parent: str = "") -> str:
    match loc:
        case (str(tables), int(index), *rest) if (tables,) in TABLES_IN_LISTS:
            inner = _in_toml(tuple(rest), f"{tables}.")
            return f"[[{tables}]] number {index + 1}" + (f": {inner}" if inner else "")
        case ("candidates", int(index), *rest):
            inner = _in_toml(tuple(rest), f"{parent}candidates.")
            return f"candidate {index + 1}" + (f": {inner}" if inner else "")
        case (str(table), str(tables), int(index), str(name)):
            return f"[[{parent}{table}.{tables}]] number {index + 1}: {name}"
        case (*outer, int(index)):
            return f"{_in_toml(tuple(outer), parent)}, entry {index + 1}"
        case (str(table), str(name)):
            return f"[{parent}{table}] {name}"
        case _:
            return ".".join(loc)


def _where_else(path: KeyPath, known: Collection[KeyPath]) -> str:
    *table, name = path
    homes = [_home(other[:-1]) for other in known if other[-1] == name]
    if homes:
        return f"{name} belongs {' or '.join(homes)}"
    inner = [other[len(table) :] for other in known if list(other[: len(table)]) == table]
    return _hint(name, {names[0] for names in inner if names})


def _home(table: KeyPath) -> str:
    if not table:
        return "at the top of the file, above the first [table]"
    name = ".".join(table)
    return f"in a [[{name}]] entry" if table in TABLES_IN_LISTS else f"in [{name}]"


def _hint(name: str, known: Collection[str]) -> str:
    near = nearest(name, sorted(known))
    return f"did you mean {near[0]}?" if near else "gateway.example.toml lists them all"
