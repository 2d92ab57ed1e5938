"""An answer that is nothing generated, such as embeddings: its usage, which counts the prompt, and its model's name.

It is searched and not parsed where it is long: vectors are most of it.
"""

from typing import Any

import orjson

from mcp_gateway.core.surfaces.credible import not_understood
from mcp_gateway.core.surfaces.error_shapes import error_in
from mcp_gateway.core.surfaces.onward import FIRST_MODEL
from mcp_gateway.core.surfaces.surface import Body, Whole
from mcp_gateway.core.surfaces.usage import Usage, end_of_member, is_as_told, read_usage
from mcp_gateway.core.surfaces.whole_answer import PARSED_BYTES, first_match, usage_key_at, with_model

_NOTHING_MADE = {"completion_tokens": 0}
"""What a usage need not say."""


async def read_input_answer(body: Body, public_model: str, member: str) -> Whole:
    """Read an answer whose list is `member`, which from now on bears the public name of its model.

    Raises GatewayError `backend_error` for what is none.
    """
    if len(body) <= PARSED_BYTES:
        _check(body, member)
    elif not body.startswith(b"{"):
        raise not_understood()
    at = await usage_key_at(body)
    value = None if at is None else _value_at(body, at)
    usage = usage_in(value)
    is_exact = usage is not None and value is not None and is_as_told(_NOTHING_MADE | value, usage)
    return Whole(with_model(body, await first_match(FIRST_MODEL, body), public_model), None, usage, is_exact)


def usage_in(value: Any) -> Usage | None:
    """The usage, which need not say that nothing was generated."""
    return read_usage({**value, "completion_tokens": value.get("completion_tokens") or 0}) if value else None


async def no_text(_body: Body) -> int:
    """Nothing in it was generated."""
    return 0


def _check(body: Body, member: str) -> None:
    try:
        answer = orjson.loads(body)
        is_answer = isinstance(answer[member], list) and error_in(answer) is None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        is_answer = False
    if not is_answer:
        raise not_understood()


def _value_at(body: Body, at: int) -> dict[str, Any] | None:
    try:
        value = orjson.loads(b"{%b}" % bytes(body[at : end_of_member(body, at)]))["usage"]
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
