"""A prompt, or what else is read by a model, in the forms that OpenAI has: text, texts, token ids, lists of those."""

from typing import Any

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_fields import at_most, kind_of
from mcp_gateway.core.surfaces.openings import opening_bytes
from mcp_gateway.core.surfaces.surface import PromptSize
from mcp_gateway.core.token_ids import MAX_IDS, MAX_TOKEN_ID, TokenIds, not_whole, out_of_range, too_many

_FORMS = "a string, a list of strings, a list of token ids, or a list of such lists"
_KINDS = (int, str, list)
"""Of the entries of a list."""
_READ_IDS = 1024


def read_prompts(body: dict[str, Any], name: str, most: int, size_bytes: int) -> PromptSize:
    """Read the field of that name, which may hold `most` prompts. Raises GatewayError (400).

    Of prompts that are cut by their backend nobody knows how many ids are left.
    """
    number, ids = _count(body.get(name), name, most)
    is_cut = body.get("truncate_prompt_tokens") is not None
    return PromptSize(size_bytes, number, number, None if is_cut else ids)


def _count(value: Any, name: str, most: int) -> tuple[int, int | None]:
    """How many there are, and how many token ids all have together; None where they are texts."""
    if value is None or value in ("", []):
        raise GatewayError("missing_parameter", f"`{name}` is missing or empty: give {_FORMS}.", param=name)
    if isinstance(value, str):
        return 1, None
    if isinstance(value, TokenIds):
        return value.prompts, value.ids
    if not isinstance(value, list):
        raise GatewayError("invalid_type", f"`{name}` must be {_FORMS}, not {kind_of(value)}.", param=name)
    kinds = set(map(type, value))
    if kinds == {int}:
        return 1, _bounded(check_ids(value, name), name)
    if kinds not in ({str}, {list}):
        raise _mixed(value, name)
    at_most(value, most, name)
    if kinds == {str}:
        return len(value), None
    ids = sum(check_ids(one, f"{name}[{index}]") for index, one in enumerate(value))
    return len(value), _bounded(ids, name)


def opening_of(value: Any) -> bytes:
    """The beginning of the first one, as bytes that another with the same beginning has too."""
    if isinstance(value, TokenIds):
        value = value.beginning(_READ_IDS)
    first = value[0] if isinstance(value, list) and isinstance(value[0], str | list) else value
    if isinstance(first, str):
        return opening_bytes(first)
    return repr(first[:_READ_IDS]).encode()


def check_ids(ids: list[Any], name: str) -> int:
    """How many there are in what must be a list of token ids. Raises GatewayError (400)."""
    if not ids:
        raise GatewayError("missing_parameter", f"`{name}` is empty: give token ids.", param=name)
    if set(map(type, ids)) != {int}:
        raise GatewayError("invalid_type", not_whole(name), param=name)
    if min(ids) < 0 or max(ids) > MAX_TOKEN_ID:
        raise GatewayError("invalid_value", out_of_range(name), param=name)
    return len(ids)


def _mixed(values: list[Any], name: str) -> GatewayError:
    """Says which entry is odd: one that none may be, or that is not as the first is."""
    first = type(values[0])
    at = next(index for index, one in enumerate(values) if type(one) not in _KINDS or type(one) is not first)
    problem = f"`{name}` must be {_FORMS}: `{name}[{at}]` is {kind_of(values[at])}."
    return GatewayError("invalid_type", problem, param=f"{name}[{at}]")


def _bounded(ids: int, name: str) -> int:
    if ids > MAX_IDS:
        raise GatewayError("invalid_value", too_many(name), param=name)
    return ids
