"""A part of the settings tree, as all of them are: frozen, and closed against unknown keys; and lists in it."""

from typing import Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A part of the tree: frozen, and closed against unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True, allow_inf_nan=False
    )


def _split_commas(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _read_list(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError('must be a list, such as ["one", "two"]')
    return value


def _read_list(text: str) -> Any:
    """A list in JSON; the text itself where it is none, since an IPv6 address begins with a bracket too."""
    try:
        return orjson.loads(text)
    except ValueError:
        return text


CommaSeparated = BeforeValidator(_split_commas)
"""A list that a variable may hold with commas, or as JSON."""
